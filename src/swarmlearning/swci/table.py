"""The table of commands: parsing, help, completion, documentation and the REST API come from it. Holds nothing else."""

from typing import Final

from swarmlearning.swci.commands import (
    approvals,
    contexts,
    contracts,
    files,
    ledger,
    membership,
    nodes,
    runner_progress,
    runners,
    session,
    tasks,
)
from swarmlearning.swci.entries import Entry

COMMANDS: Final[tuple[Entry, ...]] = (
    *contexts.COMMANDS,
    *contracts.COMMANDS,
    *tasks.COMMANDS,
    *approvals.COMMANDS,
    *runners.COMMANDS,
    *runner_progress.COMMANDS,
    *nodes.COMMANDS,
    *membership.COMMANDS,
    *ledger.COMMANDS,
    *files.COMMANDS,
    *session.COMMANDS,
)
