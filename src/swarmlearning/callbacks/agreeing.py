"""Two rounds by which sites agree on statistics (`stats`), over a session of their own."""

from typing import Final, Protocol

from swarmlearning.callbacks.exchange import Arrays
from swarmlearning.callbacks.results import FinalResult, SyncResult
from swarmlearning.callbacks.stats import AgreedStats, Columns
from swarmlearning.errors import Refused, Unreachable, WaitExpired
from swarmlearning.parameters.dtypes import Array
from swarmlearning.types import ContractName, NodeId

_VOID_ROUNDS: Final = 3
"""Void rounds after which agreeing gives up."""


class Rounds(Protocol):
    """What is needed of a `SwarmSession`."""

    def open(self, arrays: Arrays) -> dict[str, Array] | None:
        """Enrol."""
        ...

    def sync(self, arrays: Arrays) -> SyncResult:
        """One round."""
        ...

    def finish(self, arrays: Arrays) -> FinalResult:
        """The end."""
        ...


def agree(session: Rounds, contract: ContractName, columns: Columns) -> AgreedStats:
    """Merge this site's sums with the others' in two rounds of `contract`.

    Raises:
        Refused: the others have begun or ended without this site.
        Unreachable: sites were lost between the two rounds, or too few came (`WaitExpired`).
        SwarmError: what the session raises.
    """
    if session.open(columns.first()) is not None:
        raise Refused(
            f"the sites of contract {contract} have begun to agree on statistics without this one: start all sites "
            "again in a new run of the contract"
        )
    first, one = _merge_sums(session, contract, columns.first())
    second, two = _merge_sums(session, contract, columns.second(columns.means(first)))
    if one != two:
        raise Unreachable(
            f"statistics: {len(one)} sites took part in the first round and {len(two)} in the second: start all sites "
            "again in a new run of the contract"
        )
    session.finish(second)
    return columns.agreed(first, second, max(1, len(one)))


def _merge_sums(
    session: Rounds, contract: ContractName, tensors: Arrays
) -> tuple[dict[str, Array], tuple[NodeId, ...]]:
    for _ in range(_VOID_ROUNDS):
        result = session.sync(tensors)
        if result.over:
            raise Refused(
                f"the training of contract {contract} is over before this site took part: start all sites again in a "
                "new run of the contract"
            )
        if result.arrays is not None:
            return result.arrays, result.contributors
    raise WaitExpired(f"statistics: {_VOID_ROUNDS} rounds of {contract} closed without two sites in them")
