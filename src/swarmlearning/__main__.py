"""`python -m swarmlearning` is the `swarm` command."""

import sys

from swarmlearning.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
