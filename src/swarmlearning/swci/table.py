"""The table of commands: parsing, help, completion, documentation and the REST API come from it. Holds nothing else."""

from typing import Final

from swarmlearning.swci.commands import files
from swarmlearning.swci.entries import Entry

COMMANDS: Final[tuple[Entry, ...]] = (*files.COMMANDS,)
