"""The table of commands: parsing, help, completion, documentation and the REST API come from it. Holds nothing else."""

from typing import Final

from swarmlearning.swci.commands import contexts, files, session
from swarmlearning.swci.entries import Entry

COMMANDS: Final[tuple[Entry, ...]] = (
    *contexts.COMMANDS,
    *files.COMMANDS,
    *session.COMMANDS,
)
