"""What a task would do on this host, for whoever decides: images, directories, URLs, private data.

Follows links on this host, and looks at nothing else. Spec: docs/spec/swop-files.md, SW-29.
"""

import os
import re
import shlex
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from swarmlearning.contracts.task_records import Approval, Task, TaskType
from swarmlearning.swop.content.names import volume_names
from swarmlearning.swop.matching import is_within, normalise_path
from swarmlearning.swop.policy import Request
from swarmlearning.swop.profile import IdentityPart, PeerNode, Profile
from swarmlearning.swop.values import is_volume
from swarmlearning.tasks.bodies import Body, MakeContent, MakeUserContainer, PullImage, RunSwarm
from swarmlearning.types import TrustDomain

UNKNOWN: Final = "$?"
"""Stands for an image that only the build knows; no rule covers it."""

_CONTINUED: Final = re.compile(r"\\[ \t]*\Z")
_DIRECTIVE: Final = re.compile(r"#\s*(escape|syntax)\s*=\s*(\S*)", re.IGNORECASE)

_AMBIGUOUS: Final = re.compile(r"[^\S \t]|<<|\\\\[ \t]*\Z|\A\s*(//|\{)")
"""Blanks that not every builder takes for some; a text within the recipe, in which any line may stand; a line that ends
with two backslashes, which goes on for some; what may stand for `# syntax=`."""

_FROM_FLAG: Final = re.compile(r"(?:\A--|[,=])from=([^,]*)")

_URL: Final = re.compile(r"://|@|\$")
"""What may be no file: a URL, a place of `git`, or what only the build knows."""


def make_request(
    task: Task,
    body: Body,
    *,
    prerequisite: Task | None,
    profile: Profile | None,
    isolated: bool,
    own: TrustDomain,
    approvals: Iterable[Approval],
    hidden: tuple[str, ...] = (),
) -> Request:
    """What a task would do here.

    Args:
        task: as it is on the ledger.
        body: what its lines say.
        prerequisite: the task that it names as such; None: it has none that leaves an image.
        profile: of this agent; None: nobody knows, and whatever takes private data reads some.
        isolated: whether the manager keeps programs apart from the host (`Manager.isolates`).
        own: the agent's organisation.
        approvals: what organisations said of the task.
        hidden: directories that programs are to see no more than keys, such as the agent's own.
    """
    nodes = () if profile is None else profile.nodes
    filled = find_filled(body, task.outcome, profile)
    mounts = [*find_mounts(body), *filled]
    secret = [*_find_secrets(nodes), *map(os.path.realpath, hidden)]
    if filled:
        secret += [attribute.source for node in nodes for attribute in node.identity if attribute.kind == "VOLUME"]
    has_private = profile is None or any(node.private_data is not None for node in nodes)
    exposed = tuple(source for source, found in mounts if any(_overlap(found, other) for other in secret))
    private = isinstance(body, RunSwarm) and body.private_content is not None
    return Request(
        task=task,
        body=body,
        images=find_images(body, prerequisite),
        mounts=tuple(found for _, found in mounts),
        private_data=bool(exposed) or (private and has_private),
        exposed=exposed,
        isolated=isolated,
        own=own,
        approvals=tuple(approvals),
    )


# --- directories and volumes ----------------------------------------------------------------------------------------


def find_mounts(body: Body) -> list[tuple[str, str]]:
    """What a task sees of this host, as it says and as it is; what cannot be told begins with `./`."""
    if isinstance(body, RunSwarm):
        return [(mount.source, resolve_mount(mount.source, mount.kind)) for mount in body.shared_content]
    if isinstance(body, MakeUserContainer) and body.build_context is not None:
        return [(body.build_context, resolve_mount(body.build_context, "VOLUME"))]
    return []


def find_filled(body: Body, outcome: str, profile: Profile | None) -> list[tuple[str, str]]:
    """The volumes whose content a task replaces, as `find_mounts`; what was in them is gone then."""
    if not isinstance(body, MakeContent):
        return []
    if body.content_type != "BUILDCONTENT" and profile is None:
        return [(outcome, f"./{outcome}")]
    peers = [node.idx for node in profile.nodes] if profile is not None else []
    return [(name, resolve_mount(name, "VOLUME")) for name in volume_names(body, outcome, peers)]


def resolve_mount(source: str, kind: str) -> str:
    """A directory where its links lead, or a volume's name; `./` and the source where it is neither."""
    if kind == "VOLUME":
        return source if is_volume(source) else f"./{source}"
    path = normalise_path(source)
    return f"./{source}" if path is None else os.path.realpath(path)


def _find_secrets(nodes: tuple[PeerNode, ...]) -> Iterator[str]:
    for node in nodes:
        if node.private_data is not None:
            yield resolve_mount(node.private_data.source, node.private_data.kind)
        for attribute in node.identity:
            if attribute.part is IdentityPart.KEY:
                yield resolve_mount(attribute.source, attribute.kind)


def _overlap(one: str, other: str) -> bool:
    if one.startswith("/") and other.startswith("/"):
        return is_within(one, other) or is_within(other, one)
    return one == other


# --- images ---------------------------------------------------------------------------------------------------------


def find_images(body: Body, prerequisite: Task | None) -> tuple[str, ...]:
    """What a task runs in, is built from, or pulls, each once; `UNKNOWN` where it cannot be told."""
    match body:
        case RunSwarm():
            named = prerequisite is not None and prerequisite.kind is not TaskType.ROOT_TASK
            return (prerequisite.outcome,) if named and prerequisite is not None else ()
        case MakeUserContainer():
            return tuple(dict.fromkeys(_find_sources(body.build_steps)))
        case PullImage():
            return (name_image(body),)
        case MakeContent():
            return ()


def name_image(body: PullImage) -> str:
    """The whole name of an image that is pulled."""
    sign = "@" if body.tag.startswith("sha256:") else ":"
    return f"{body.registry.rstrip('/')}/{body.repository.strip('/')}{sign}{body.tag}"


def _find_sources(steps: tuple[str, ...]) -> Iterator[str]:
    """Images that a build takes anything from.

    Builders read recipes in different ways. Where they would not see the same instructions here, it cannot be told.
    """
    lines = split_lines(steps)
    for before, line in zip(["", *lines], lines, strict=False):
        directive = _DIRECTIVE.match(line.strip())
        if directive is not None and directive[1].lower() == "syntax":
            yield directive[2] or UNKNOWN
        elif directive is not None or _AMBIGUOUS.search(line) or (_CONTINUED.search(before) and not line.strip()):
            yield UNKNOWN
    names: set[str] = set()
    numbers: set[str] = set()
    for name, words in split_instructions(lines):
        flags = [word for word in words if word.startswith("--")]
        if name == "FROM":
            plain = [word for word in words if word not in flags]
            if not plain:
                yield UNKNOWN
            elif plain[0].lower() not in names:
                yield plain[0]
            numbers.add(str(len(numbers)))
            if len(plain) == 3:
                names.add(plain[2].lower())
        elif name in ("COPY", "RUN", "ADD"):
            taken = (found for flag in flags for found in _FROM_FLAG.findall(flag))
            yield from (found for found in taken if found.lower() not in names and found.lower() not in numbers)


def split_lines(steps: tuple[str, ...]) -> list[str]:
    """The lines of a recipe, of which several may stand in one entry."""
    return [line for step in steps for line in step.split("\n")]


def split_instructions(lines: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """The instructions of a recipe, in capital letters, and the words that follow them."""
    joined = ""
    for line in lines:
        if line.lstrip().startswith("#") or not line.strip():
            continue
        continued = _CONTINUED.search(line)
        joined += line[: continued.start()] if continued else line
        if continued is None:
            yield _split(joined)
            joined = ""
    if joined.strip():
        yield _split(joined)


def _split(line: str) -> tuple[str, list[str]]:
    name, *words = line.split()
    if name.upper() == "ONBUILD" and words:
        name, *words = words
    return name.upper(), words


# --- programs and downloads -----------------------------------------------------------------------------------------


def find_entrypoint(body: Body) -> str | None:
    """What is run, the first word of the entry point; None if nothing is, empty where it cannot be told."""
    if not isinstance(body, RunSwarm):
        return None
    try:
        words = shlex.split(body.entrypoint)
    except ValueError:
        return ""
    return words[0] if words else ""


def find_urls(body: Body) -> tuple[str, ...]:
    """What a task downloads by name; what a build's programs fetch cannot be told."""
    if isinstance(body, MakeContent):
        return tuple(step.target for step in body.operations if step.operation == "DOWNLOAD")
    if isinstance(body, MakeUserContainer):
        added = (words for name, words in split_instructions(split_lines(body.build_steps)) if name == "ADD")
        return tuple(word for words in added for word in _read_words(words) if _URL.search(word))
    return ()


def _read_words(words: list[str]) -> list[str]:
    """The words of an instruction, which may be a list in JSON."""
    if not words or not words[0].startswith("["):
        return words
    try:
        return msgspec.json.decode(" ".join(words), type=list[str])
    except msgspec.DecodeError:
        return [UNKNOWN]
