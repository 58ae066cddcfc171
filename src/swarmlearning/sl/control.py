"""The local door between an ML program and its SL: messages over a Unix socket, parameters in files.

A frame is a 4-byte big-endian length and a msgpack message. The ML program sends one request and reads replies until
one that is not `Waiting`. Parameters never pass through the socket: both sides have files in the exchange directory
(`SWARM_EXCHANGE_DIR`, mode 0700, files 0600); messages name them by their plain file name. Spec: docs/spec/control.md.
"""

from typing import Final, Literal

from swarmlearning.contracts.records import Progress, Result, Settings
from swarmlearning.encoding import Record
from swarmlearning.errors import (
    Broken,
    ConfigurationError,
    ModelMismatch,
    NonFinite,
    Refused,
    SettingsMismatch,
    SwarmError,
    Unreachable,
    WaitExpired,
)
from swarmlearning.types import ContractName, NodeId

CONTROL_VERSION: Final = 2
"""Raised when a message changes so that an older other side would misunderstand it."""

MAX_CONTROL_BYTES: Final = 16 << 20
"""Largest control message, bytes (a manifest of 100,000 tensors fits)."""

FailureKind = Literal["configuration", "settings", "model", "nonfinite", "refused", "unreachable", "expired", "broken"]

FAILURES: Final[dict[FailureKind, type[SwarmError]]] = {
    "settings": SettingsMismatch,
    "model": ModelMismatch,
    "configuration": ConfigurationError,
    "nonfinite": NonFinite,
    "refused": Refused,
    "expired": WaitExpired,
    "unreachable": Unreachable,
    "broken": Broken,
}
"""Which error each kind stands for (C-7), on both sides; a class before the one that it derives from."""


class ControlMessage(Record, frozen=True, kw_only=True, tag=True):
    """Base of all control messages; the class name is the tag."""


# --- from the ML program ----------------------------------------------------------------------------------------


class Open(ControlMessage, frozen=True, kw_only=True):
    """Take part in a training. Answered by `Opened`, after any number of `Waiting`, or by `Failed`."""

    version: int
    program: str
    """Name of the script, for people."""
    contract: ContractName
    settings: Settings
    min_peers: int
    weight: int
    restored: bool
    manifest: bytes
    """Encoded `parameters.Manifest`."""
    file: str
    """Where this program writes its parameters: a plain file name in the exchange directory, preallocated."""
    share: bool = True
    """Whether what `Progress` says may go on the ledger; else it stays with the SL, which needs it for `resume`."""
    run: int = 0
    """C-17: the run that this program has taken part in before its SL was lost; 0: it begins."""
    adopted: int = -1
    """C-17: the round of the swarm model that its training started from, in that run; -1: none."""


class Sync(ControlMessage, frozen=True, kw_only=True):
    """The file holds fresh parameters: offer them in the next round. Answered by `Synced`, `Over` or `Failed`.

    The file must not change until the answer.
    """

    progress: Progress


class Finish(ControlMessage, frozen=True, kw_only=True):
    """Training is over here; the file holds the last local parameters. Answered by `Over` or `Failed`."""

    progress: Progress


class Drill(ControlMessage, frozen=True, kw_only=True):
    """Rehearsals only: let something go wrong in this contract. Answered by `Drilled` or `Failed`."""

    kind: Literal["none", "slow", "cut", "kill"]
    """Nothing (ends the drill before); serve slowly; hear and answer nothing of `peer`; play dead from when the next
    round merges until it is final."""
    peer: NodeId = NodeId("")
    """With `cut`: whom."""
    seconds: int = 0
    """It ends by itself after so long."""


class Leave(ControlMessage, frozen=True, kw_only=True):
    """The program gives up this training. Answered by `Over` with an empty file name, or `Failed`."""

    reason: str


# --- from the SL ------------------------------------------------------------------------------------------------


class Waiting(ControlMessage, frozen=True, kw_only=True):
    """Nothing is wrong; this is what is waited for."""

    text: str


class Opened(ControlMessage, frozen=True, kw_only=True):
    """Enrolled. If `file` is not empty it holds the newest final result, to be loaded before training."""

    node: NodeId
    run: int
    round: int
    """The round that the first `Sync` will go to."""
    peers: tuple[NodeId, ...]
    file: str
    newest: int = -1
    """The round of the result in `file`."""
    interval: int = 0
    """Batches until the next `Sync`, as agreed on now; 0: as the settings say."""
    position: Progress = Progress()
    """How far this peer's program had come, as its SL last heard of it in this run."""


class Synced(ControlMessage, frozen=True, kw_only=True):
    """A round is final. `file` holds its result; empty if the round was void and the program keeps its own."""

    round: int
    file: str
    sha256: bytes
    contributors: tuple[NodeId, ...]
    participants: tuple[NodeId, ...]
    next_interval: int
    """Batches until the next `Sync`."""
    bytes_received: int
    bytes_sent: int
    contributed: int = 0
    """To so many of the last `recent` rounds this peer contributed."""
    recent: int = 0
    mean_loss_micro: int | None = None
    """Of the model of the round before, over the peers that showed their figures with this round's check-ins."""
    mean_metric_micro: int | None = None
    timings_us: tuple[tuple[str, int], ...] = ()
    """Stages that this sync came to, and after how many microseconds from when it was asked for."""


class Drilled(ControlMessage, frozen=True, kw_only=True):
    """The drill is armed; what the one before did."""

    fired: int
    """How often the drill before held something back."""
    last: Result | None
    """The newest final result that it knows of."""


class Over(ControlMessage, frozen=True, kw_only=True):
    """All peers have finished. `file` holds the final swarm model; empty if there is none."""

    round: int
    file: str
    sha256: bytes
    contributors: tuple[NodeId, ...]
    reached: bool = False
    """The target of the training was reached (T-35)."""


class Failed(ControlMessage, frozen=True, kw_only=True):
    """The request failed; the message is one line for the user."""

    kind: FailureKind
    message: str


Request = Open | Sync | Finish | Leave | Drill
Reply = Waiting | Opened | Synced | Over | Failed | Drilled
