"""What tasks left on this host, images and volumes, and whose tasks: so that none takes the place of another's.

A name (a task's outcome) belongs to the organisation whose task made it first. What no task made, such as an image that
an operator pulled, or a volume with private data, is no task's to replace. A swarm runs in the image that its
prerequisite made, not in whatever has that tag. Spec: docs/spec/swop.md, SW-13.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final, Literal

import msgspec

from swarmlearning.contracts.task_records import Task
from swarmlearning.errors import Broken, ConfigurationError, IdentityError, TaskFailed
from swarmlearning.identity.files import SECRET_MODE, write_file
from swarmlearning.types import NodeName, TaskName, TrustDomain

Kind = Literal["image", "volume"]

_FILE: Final = "outcomes.json"
_MAX_BYTES: Final = 16 << 20
_IMPLIED: Final = ("localhost/", "index.docker.io/", "docker.io/", "library/")
"""What engines put before a name that says no registry."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a task left, or was about to leave."""

    kind: Kind
    name: str
    owner: TrustDomain
    """Whose task made it."""
    task: TaskName
    hash: bytes
    """Of the task."""
    digest: str = ""
    """Of the image, as the manager gave it; empty of a volume, and of what was never finished."""


class Outcomes:
    """The outcomes on a host, in the agent's data directory; one process."""

    def __init__(self, data: Path, reserved: Iterable[str] = ()) -> None:
        """Read them; tags that are `reserved` no task may make, whether there is such an image or not.

        Raises:
            ConfigurationError: the file cannot be read: without it nobody knows what belongs to whom.
        """
        self._path = data / _FILE
        self._reserved = {_complete("image", tag) for tag in reserved if tag}
        try:
            size = self._path.stat().st_size
            if size > _MAX_BYTES:
                raise ConfigurationError(f"{self._path}: {size} bytes, expected at most {_MAX_BYTES}")
            read = msgspec.json.decode(self._path.read_bytes(), type=list[Outcome])
        except FileNotFoundError:
            read = []
        except (OSError, msgspec.MsgspecError, RecursionError) as error:
            raise ConfigurationError(
                f"{self._path}, which says whose images and volumes there are, cannot be read ({error}): restore it, "
                "or remove it and what tasks have made here"
            ) from error
        self._found = {(outcome.kind, outcome.name): outcome for outcome in read}

    def find(self, kind: Kind, name: str) -> Outcome | None:
        """What is known of a name."""
        return self._found.get((kind, _complete(kind, name)))

    def claim(self, kind: Kind, name: str, task: Task, *, there: bool) -> None:
        """Before a task makes something: see that the name is its organisation's, and keep it for that.

        Raises:
            TaskFailed: it is another's, or something has that name which no task made.
            Broken: the disk is full or damaged.
        """
        before, owner = self.find(kind, name), owner_of(task)
        if kind == "image" and _complete(kind, name) in self._reserved:
            raise TaskFailed(f"{name} is the image of the SLs themselves: choose another Outcome")
        if before is None:
            if there:
                raise TaskFailed(
                    f"this host has {_with_article(kind)} {name} that no task made, so that no task may replace it: "
                    "choose another Outcome, or have it removed there"
                )
            self._keep(Outcome(kind=kind, name=_complete(kind, name), owner=owner, task=task.name, hash=task.hash))
        elif before.owner != owner and (there or before.digest):
            raise TaskFailed(
                f"{kind} {name} was made here by {before.task}, a task of {before.owner}: choose another Outcome"
            )
        elif before.owner != owner:  # it never came to anything
            self._keep(msgspec.structs.replace(before, owner=owner, task=task.name, hash=task.hash))

    def made(self, kind: Kind, name: str, task: Task, digest: str = "") -> None:
        """A task has made it.

        Raises:
            Broken: the disk is full or damaged.
        """
        self._keep(
            Outcome(
                kind=kind,
                name=_complete(kind, name),
                owner=owner_of(task),
                task=task.name,
                hash=task.hash,
                digest=digest,
            )
        )

    def require_image(self, tag: str, prereq: Task, digest: str | None) -> str:
        """The digest of the image `tag`, which `prereq` made; `digest` is what has that tag now, None if nothing does.

        Raises:
            TaskFailed: it did not, or not this one.
        """
        found = self.find("image", tag)
        first = f"assign {prereq.name} first, which makes it"
        if digest is None:
            raise TaskFailed(f"the image {tag} is not on this host: {first}")
        if found is None or found.hash != prereq.hash or not found.digest:
            by = "no task" if found is None or not found.digest else f"the task {found.task}"
            raise TaskFailed(f"the image {tag} on this host was made by {by}, not by {prereq.name}: {first}")
        if found.digest != digest:
            raise TaskFailed(f"the image {tag} on this host is not the one that {prereq.name} made: {first} again")
        return digest

    def check_volumes(self, names: Iterable[str], task: Task, own: TrustDomain) -> None:
        """See that no volume which a task takes was filled by a third organisation's.

        Raises:
            TaskFailed: one was.
        """
        for name in names:
            found = self.find("volume", name)
            if found is not None and found.owner not in (own, owner_of(task)):
                raise TaskFailed(
                    f"the volume {name} was filled here by {found.task}, a task of {found.owner}; expected one of "
                    f"{owner_of(task)}"
                )

    def _keep(self, outcome: Outcome) -> None:
        self._found[outcome.kind, outcome.name] = outcome
        try:
            write_file(self._path, msgspec.json.encode(list(self._found.values())), mode=SECRET_MODE, force=True)
        except IdentityError as error:
            raise Broken(str(error)) from error


def owner_of(task: Task) -> TrustDomain:
    """Whose a task is, by the signature on the ledger."""
    return NodeName.parse(task.creator).domain


def _complete(kind: Kind, name: str) -> str:
    """A tag as engines complete it: `environment` is `docker.io/library/environment:latest`."""
    if kind == "volume":
        return name
    for registry in _IMPLIED:
        name = name.removeprefix(registry)
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def _with_article(kind: Kind) -> str:
    return "an image" if kind == "image" else "a volume"
