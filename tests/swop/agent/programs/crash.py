"""Ends at once, with what a program should not have said."""

import os
import sys

print("\x1b[31mreads\x1b[0m the rows", flush=True)
print(f"no column 'age'; the token is {os.environ.get('TOKEN', 'not set')}", flush=True)
sys.exit(3)
