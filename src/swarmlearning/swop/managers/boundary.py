"""The door between the agent and whatever runs programs on its host: processes, Docker, Podman, one day Kubernetes.

A manager knows images, volumes and pairs of this agent. It does not know the ledger, decides nothing, and starts
nothing by itself. Whatever it started goes on when the agent ends, and is found again by the pair's `id`.
"""

import enum
from collections.abc import Callable
from typing import Protocol

import msgspec

from swarmlearning.swop.policy import Limits
from swarmlearning.swop.profile import ManagerKind, PeerNode, Variables
from swarmlearning.tasks.bodies import MakeUserContainer, PullImage, RunSwarm
from swarmlearning.types import Endpoint, NodeId

Tell = Callable[[str], None]
"""Is given a line whenever there is something new to say: a step, a download's progress."""


class Part(enum.StrEnum):
    """Half of a pair."""

    SL = "sl"
    ML = "ml"


class PartState(enum.StrEnum):
    """Where half of a pair stands."""

    ABSENT = "ABSENT"  # not started, or removed
    STARTING = "STARTING"  # an SL that is not ready for programs yet
    RUNNING = "RUNNING"
    EXITED = "EXITED"


class PartStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Half of a pair."""

    state: PartState = PartState.ABSENT
    exit_status: int | None = None
    """As a shell shows it (128 + n after signal n); None while it runs, or where it was lost."""
    detail: str = ""
    """Why it was lost, for people: the machine was restarted, out of memory."""


class PairStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A pair."""

    sl: PartStatus = PartStatus()
    ml: PartStatus = PartStatus()


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """A peer to be run: an SL, and an ML program that meets it. Kept in the agent's journal as JSON."""

    id: str
    """Of this pair alone on this host, for ever: letters, digits, `_`, `.`, `-`; at most 100. In names and labels."""
    label: str
    """`<taskrunner> <number> <task>`, for people."""
    uid: NodeId
    """The SL's, by its certificate."""
    node: PeerNode
    group: str
    """Of the profile."""
    image: str
    """Tag that the program runs in; empty: the prerequisite is ROOTTASK, it runs in the manager's default."""
    image_id: str
    """As `find_image` gave it: another one under the same tag is refused."""
    body: RunSwarm
    places: tuple[str, ...] | None = None
    """Where each of the body's shared content led when it was decided, without links: a program that changed a link
    since gets nothing else. None: nobody looked."""
    sn: Endpoint
    host_ip: str
    """Where the SL listens and is reached, unless the manager gives it an address of its own."""
    sl_environment: Variables
    """All of it but for what a manager adds."""
    ml_environment: Variables
    network: str | None
    """The container network, by the profile."""
    dns: tuple[str, ...]
    online: bool
    """Whether the program may use the network; else it reaches its SL alone."""
    sandboxed: bool
    """Whether the program must be kept apart from the host; a manager that cannot refuses to start it."""
    limits: Limits
    directory: str
    """For the manager's files of this pair; made and removed by it."""
    sl_log: str
    """File; what the SL prints is appended while it runs, at most `limits.log` bytes are kept."""
    ml_log: str


class ManagerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a manager is opened with (`managers.opening.open_manager`)."""

    data: str
    """The agent's data directory; a manager keeps its own things in a directory of its own within."""
    agent: NodeId
    group: str
    """Of the profile."""
    bases: tuple[tuple[str, str], ...] = ()
    """PROCESS: what a recipe may be built FROM, with `*`, and the Python of this host that stands for it."""
    sl_image: str = ""
    """Containers: the image of our own components."""
    secrets: tuple[str, ...] = ()
    """Containers: files and directories of this host of which no program is given anything: all peers' identities and
    the agent's own."""
    keep: bool = False
    """`SWOP_KEEP_CONTAINERS`: `remove` leaves everything in place, and says so."""


class Manager(Protocol):
    """What runs programs on this host.

    Every method raises `ConfigurationError` where the user's files or this host are at fault, `Unreachable` where the
    engine does not answer. A method that changes something may be called again after it was interrupted.
    """

    def describe(self) -> str:
        """What it is and what keeps programs apart from the host, for people and the ledger; at most 100 characters."""
        ...

    @property
    def kind(self) -> ManagerKind:
        """Which it is."""
        ...

    @property
    def isolates(self) -> bool:
        """Whether programs can be kept apart from the host; tried out when the manager was opened."""
        ...

    async def close(self) -> None:
        """Let go of the engine and of what copies logs. What was started goes on."""
        ...

    # --- images and volumes -----------------------------------------------------------------------------------------

    async def find_image(self, tag: str) -> str | None:
        """Digest of the image that has this tag; None if there is none."""
        ...

    async def is_foreign(self, tag: str) -> bool:
        """Whether an image has this tag that no agent made."""
        ...

    async def build_image(self, tag: str, body: MakeUserContainer, log: str, limits: Limits, tell: Tell) -> str:
        """Build an image, which then has `tag`, and return its digest; what the build prints is appended to `log`.

        Raises:
            TaskFailed: a step failed.
        """
        ...

    async def pull_image(self, tag: str, body: PullImage, log: str, tell: Tell) -> str:
        """Pull an image, which then has `tag`, and return its digest.

        Raises:
            TaskFailed: there is none, or it may not be pulled.
        """
        ...

    async def has_volume(self, name: str) -> bool:
        """Whether there is a volume that tasks or the profile call `name`."""
        ...

    async def fill_volume(self, name: str, content: str) -> None:
        """Replace the volume `name` by what is in the directory `content`, which may be moved."""
        ...

    # --- pairs ------------------------------------------------------------------------------------------------------

    async def start_sl(self, pair: Pair) -> None:
        """Start a pair's SL; nothing if it runs."""
        ...

    async def start_ml(self, pair: Pair) -> None:
        """Start a pair's program, whose SL is ready; nothing if it runs."""
        ...

    async def adopt(self, pair: Pair) -> None:
        """After the agent was restarted: go on copying the logs of what runs."""
        ...

    async def look(self, pair: Pair) -> PairStatus:
        """Where a pair stands; cheap, asked twice a second."""
        ...

    async def stop(self, pair: Pair, part: Part, grace_s: float) -> None:
        """Ask half of a pair to end, make it after `grace_s` seconds, and return when it has ended."""
        ...

    async def remove(self, pair: Pair) -> None:
        """Remove what is left of a stopped pair but for its logs: containers, channels, scratch."""
        ...

    async def find_pairs(self) -> tuple[str, ...]:
        """Ids of this agent's pairs of which there is anything on this host, also ones that it has forgotten."""
        ...

    async def remove_forgotten(self, pair_id: str) -> None:
        """Stop and remove a pair of which the id alone is known."""
        ...
