"""The table of commands: parsing, help, completion, documentation and the REST API come from it. Holds nothing else."""

from typing import Final

from swarmlearning.swci.commands import contracts, files, ledger, membership, nodes
from swarmlearning.swci.entries import Entry

COMMANDS: Final[tuple[Entry, ...]] = (
    *contracts.COMMANDS,
    *nodes.COMMANDS,
    *membership.COMMANDS,
    *ledger.COMMANDS,
    *files.COMMANDS,
)
