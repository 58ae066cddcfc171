"""What a session gives back."""

import msgspec

from swarmlearning.parameters.dtypes import Array
from swarmlearning.types import NodeId


class SyncResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a round brought."""

    arrays: dict[str, Array] | None
    """The merged parameters; None if the round was void and the program keeps its own."""
    round: int
    sha256: str
    """Of the canonical buffer, hex; empty if void or in loopback."""
    contributors: tuple[NodeId, ...]
    participants: tuple[NodeId, ...]
    next_interval: int
    """Batches until the next `sync`; 0 if the training is over."""
    over: bool
    """The training is over everywhere: these are the final parameters."""
    reached: bool = False
    """It is over because its target was reached."""
    bytes_received: int = 0
    bytes_sent: int = 0
    contributed: int = 0
    """To so many of the last `recent` rounds this peer contributed."""
    recent: int = 0
    mean_loss: float | None = None
    """Of the model of the round before, over the peers that showed theirs; None if nobody did."""
    mean_metric: float | None = None
    timings_ms: dict[str, float] = {}
    """What the SL did when, in milliseconds after it was asked: `offered`, `checked_in`, `closed`, `pulled`, `merged`
    (only by leaders), `agreed`, `stored`, `final`."""


class FinalResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a training ended with."""

    arrays: dict[str, Array] | None
    """The final swarm model; None if no round ever became final."""
    sha256: str
    """Of the canonical buffer, hex; empty if there is none or in loopback."""
    round: int
    reached: bool = False
    """The training is over because its target was reached."""
