"""Draws by hash: everyone computes the same, nobody needs to be asked. Spec: docs/spec/training.md, T-40, T-41.

A proposer can bias a draw by choosing the block, so nothing that needs unbiased chance rests on one.
"""

from collections.abc import Sequence
from typing import Final

from swarmlearning.contracts.distances import count_pairs
from swarmlearning.contracts.records import Round, Training
from swarmlearning.encoding import sha256
from swarmlearning.types import NodeId

SHARD_MIN_BYTES: Final = 2 << 20
"""`topology=auto`: models smaller than this are merged by one leader, larger ones in shards.

Measured (docs/benchmarks.md): of 1 MB one leader is faster, of 4 MB four are."""

SHARD_MIN_PEERS: Final = 3
"""`topology=auto`: with fewer contributors one leader merges."""

MAX_SHARDS: Final = 16
"""Most shards of a round."""


def draw_seed(training: Training, round_: Round, attempt: int, previous_hash: bytes) -> bytes:
    """T-40: seed of the draws of one attempt, 32 bytes."""
    commitments = b"".join(sorted(c.commitment for c in round_.checkins))
    where = f"{training.name}\x00{training.run}\x00{round_.number}\x00{attempt}\x00".encode()
    return sha256(previous_hash, where, commitments)


def draw_order(seed: bytes, nodes: Sequence[NodeId]) -> list[NodeId]:
    """`nodes` in the order of SHA-256(seed, node): a permutation that depends on nothing else."""
    return sorted(nodes, key=lambda node: sha256(seed, node.encode()))


MAX_DISTANCES: Final = 16_384
"""Most distances of a round, over all its shards: so many pairs of contributors, measured in each shard, keep the
record small (128 KiB)."""


def count_shards(topology: str, size: int, participants: int, contributors: int, *, measured: bool = False) -> int:
    """T-41: into how many shards a round's parameters are dealt: a constant of size and numbers.

    Args:
        topology: as the settings have it.
        size: of the model, bytes.
        participants: of the round.
        contributors: of the round.
        measured: whether the contributors' distances are measured in each shard.
    """
    if contributors < 2 or topology == "leader":
        return 1
    if topology == "auto" and (size < SHARD_MIN_BYTES or participants < SHARD_MIN_PEERS):
        return 1
    chunks = max(1, -(-size // 65536))
    most = max(1, MAX_DISTANCES // count_pairs(contributors)) if measured else MAX_SHARDS
    return min(participants, MAX_SHARDS, chunks, most)
