"""What an institution lets others do on its host. Records only.

`policy_file` reads them, `deciding` applies them. Spec: docs/spec/swop.md; for people: docs/reference/policy.md.
"""

import enum
from typing import Final

import msgspec

from swarmlearning.contracts.task_records import Approval, Task, TaskType
from swarmlearning.tasks.bodies import Body
from swarmlearning.types import TrustDomain


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one program may use; None: no limit of ours."""

    memory: int | None = None
    """Bytes."""
    processes: int | None = None
    open_files: int | None = None
    cpus: float | None = None
    run_time_s: float | None = None
    """After that it is stopped, and has failed."""
    content: int = 4 << 30
    """Most bytes that a task may download, and as many that may come out of an archive."""
    log: int = 64 << 20
    """Most bytes of a log that are kept."""


class ShareLog(enum.StrEnum):
    """When the last lines of a failed program's log may go on the ledger, where every member reads them for good."""

    NEVER = "never"
    STARTUP = "startup"
    """If it failed before it took part in a round: then it has hardly read any data."""
    ALWAYS = "always"


class Hours(msgspec.Struct, frozen=True, kw_only=True):
    """When a rule holds, in local time."""

    days: tuple[int, ...]
    """0 is Monday."""
    begin: int
    """Minutes since midnight."""
    end: int
    """Minutes since midnight; before `begin`: the next day."""


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One reason to allow a task: all that it names holds.

    What it does not name it does not ask for, but for private data; and mounts and URLs, of which it allows none then,
    unless it names the task's hash.
    """

    name: str
    organisations: tuple[TrustDomain, ...] = ()
    """Whose task it is, by the signature on the ledger."""
    authors: tuple[str, ...] = ()
    """What the task says that its author is; nobody verifies that."""
    tasks: tuple[str, ...] = ()
    """Names, with `*` for any characters."""
    hashes: tuple[bytes, ...] = ()
    types: tuple[TaskType, ...] = ()
    images: tuple[str, ...] = ()
    """What it runs in, is built from, or pulls, with `*` for any characters but `/`."""
    entrypoints: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    """Directories and volumes, whose insides are allowed, too."""
    urls: tuple[str, ...] = ()
    """Beginnings of URLs: scheme, host, and path up to a `/`."""
    hours: tuple[Hours, ...] = ()
    private_data: bool = False
    """Whether it may read private data; else a person has to agree to a task that does."""
    network: bool = False
    """Whether its programs may use the network; without, they reach their SL alone."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """An institution's policy."""

    digest: bytes
    """SHA-256 of the file, 32 bytes."""
    rules: tuple[Rule, ...] = ()
    ask: bool = True
    """Whether a person is asked where no rule allows a task; else it is denied."""
    allow_unsandboxed: bool = False
    """Whether other organisations' programs may run on this host without a sandbox."""
    network: bool = False
    """Whether programs of tasks that a person approved may use the network."""
    share_log: ShareLog = ShareLog.STARTUP
    limits: Limits = Limits()
    warnings: tuple[str, ...] = ()


NO_POLICY: Final = Policy(digest=b"")
"""`policyuri: ~`: a person is asked each time."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a task would do on this host."""

    task: Task
    body: Body
    images: tuple[str, ...]
    """What it runs in and is built from: the outcome of its prerequisite, the FROM lines, or the name to pull."""
    mounts: tuple[str, ...] = ("./",)
    """What it would see of this host: directories, as paths without links, and volumes. What cannot be told begins with
    `./`, which no rule covers; so does what nobody looked for."""
    private_data: bool
    """Whether its programs would read private data of the profile, or keys."""
    exposed: tuple[str, ...] = ()
    """Of its mounts, as the task names them, those through which it would do so without saying so."""
    isolated: bool
    """Whether what runs here cannot reach the host but for what it is given."""
    own: TrustDomain
    """The agent's organisation."""
    approvals: tuple[Approval, ...]
    """Of all organisations; those of `own` count."""


class Verdict(enum.StrEnum):
    """Whether a task runs here."""

    ALLOW = "ALLOW"
    ASK = "ASK"
    DENY = "DENY"


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a task runs here, and why."""

    verdict: Verdict
    reason: str
    """For people, in a line: what allows it, what is missing, what forbids it; without the values of the policy."""
    approved_by: str = ""
    """For the ledger: the node that approved, or `policy <rule> <first 16 hex digits of the digest>`."""
    network: bool = False
    urls: tuple[str, ...] | None = None
    """What it may be redirected to in a download must be covered by these, too; None: whatever the task names."""
    limits: Limits = Limits()
