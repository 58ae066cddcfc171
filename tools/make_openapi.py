"""Writes docs/reference/openapi.json from the table of commands, so that it cannot say something else.

Run `python tools/make_openapi.py`; a test compares what it would write with what is there.
"""

import sys
from pathlib import Path

from swarmlearning.encoding import to_json
from swarmlearning.swci.table import COMMANDS
from swarmlearning.swci.web.openapi import make_document

DOCUMENT = Path(__file__).parent.parent / "docs" / "reference" / "openapi.json"


def write_document() -> bytes:
    """The file's contents."""
    return to_json(make_document(COMMANDS)) + b"\n"


def main() -> None:
    """Write the file."""
    DOCUMENT.write_bytes(write_document())
    sys.stdout.write(f"{DOCUMENT}\n")


if __name__ == "__main__":
    main()
