"""What a task's body says, by its type. Spec: docs/spec/swci-tasks.md, CI-52; for people: docs/reference/tasks.md."""

import re
from typing import Final, Literal, assert_never

import msgspec
import yaml

from swarmlearning.contracts.task_records import TaskType
from swarmlearning.errors import ConfigurationError
from swarmlearning.tasks.documents import read_document
from swarmlearning.tasks.faults import NULL, Fault, Faulty, show_text
from swarmlearning.tasks.fields import Fields, read_text, tell
from swarmlearning.tasks.variables import read_variables

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """What a program's container sees of the host, or of a volume."""

    source: str
    """A directory of the host, or a volume."""
    target: str
    """Where the program sees it."""
    kind: Literal["BIND", "VOLUME"]


class RunSwarm(msgspec.Struct, frozen=True, kw_only=True):
    """RUN_SWARM: each agent starts its peers, pairs of SL and ML program."""

    command: str
    entrypoint: str
    working_dir: str
    environment: tuple[tuple[str, str | None], ...] = ()
    """Variables of the program, values as they were written; None: not to be set."""
    private_content: str | None = None
    """Where the program sees the private data that the agent's profile names."""
    shared_content: tuple[Mount, ...] = ()


class MakeUserContainer(msgspec.Struct, frozen=True, kw_only=True):
    """MAKE_USER_CONTAINER: each agent builds an image; its tag is the task's outcome."""

    build_context: str | None = None
    """The volume whose files the build sees."""
    build_type: Literal["INLINE"] = "INLINE"
    build_steps: tuple[str, ...]
    """Lines of a Dockerfile."""


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """A name and a password for a registry, readable by every member."""

    username: str
    password: str


class PullImage(msgspec.Struct, frozen=True, kw_only=True):
    """PULL_IMAGE: each agent pulls an image and tags it with the task's outcome."""

    registry: str
    """Registry and organisation."""
    repository: str
    tag: str
    auth: str | Credentials | None = None
    """A path to credentials on the agent's host, or credentials."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One step in making a volume's content."""

    operation: Literal["DOWNLOAD", "EXTRACT"]
    target: str
    """A URL, or a file."""
    out: str | None = None
    """Where it goes, in the volume."""
    sha256: str | None = None
    """What the file that is downloaded or unpacked has to have, as 64 lower-case hexadecimal digits."""


class MakeContent(msgspec.Struct, frozen=True, kw_only=True):
    """MAKE_SWARM_USER_CONTENT: each agent fills a volume, or one for each of its peers; its name is the outcome."""

    content_type: Literal["BUILDCONTENT", "SWARMCONTENT"]
    operations: tuple[Operation, ...]


Body = RunSwarm | MakeUserContainer | PullImage | MakeContent


def read_body(kind: TaskType, lines: tuple[str, ...], source: str) -> Body | Faulty:
    """What a body's lines say, or all that is wrong in them; `source` is what people call it."""
    data = "\n".join(lines).encode(errors="surrogatepass")
    return read_document(
        data, source, lambda root, faults: read_tree(kind, root, faults), empty="the body is empty", path="Body"
    )


def parse_body(kind: TaskType, lines: tuple[str, ...], source: str = "body") -> Body:
    """What a body's lines say.

    Raises:
        ConfigurationError: it is no body of that type; the message names line and field of every fault.
    """
    body = read_body(kind, lines, source)
    if isinstance(body, Faulty):
        raise ConfigurationError("; ".join(body.lines()))
    return body


def read_tree(kind: TaskType, node: yaml.Node, faults: list[Fault]) -> Body | None:
    """What a body's tree says; None if there are `faults`, those found here added."""
    match kind:
        case TaskType.RUN_SWARM:
            body: Body | None = _read_run(node, faults)
        case TaskType.MAKE_USER_CONTAINER:
            body = _read_container(node, faults)
        case TaskType.PULL_IMAGE:
            body = _read_pull(node, faults)
        case TaskType.MAKE_SWARM_USER_CONTENT:
            body = _read_content(node, faults)
        case TaskType.ROOT_TASK:
            tell(faults, node, "Body", f"{TaskType.ROOT_TASK.value} has no body")
            body = None
        case _:
            assert_never(kind)
    return None if faults else body


def _read_run(node: yaml.Node, faults: list[Fault]) -> RunSwarm:
    known = ("Command", "Entrypoint", "WorkingDir", "Envvars", "PrivateContent", "SharedContent")
    fields = Fields(faults, node, "Body", known)
    mounts = fields.items("SharedContent", required=False)
    return RunSwarm(
        command=fields.text("Command", one_line=False),
        entrypoint=fields.text("Entrypoint"),
        working_dir=fields.place("WorkingDir"),
        environment=read_variables(faults, fields.find("Envvars"), fields.path("Envvars")),
        private_content=fields.place("PrivateContent", required=False) or None,
        shared_content=tuple(_read_mount(item, path, faults) for path, item in mounts),
    )


def _read_mount(node: yaml.Node, path: str, faults: list[Fault]) -> Mount:
    fields = Fields(faults, node, path, ("Src", "Tgt", "MType"))
    volume = fields.choice("MType", ("BIND", "VOLUME")) == "VOLUME"
    return Mount(source=fields.text("Src"), target=fields.place("Tgt"), kind="VOLUME" if volume else "BIND")


def _read_container(node: yaml.Node, faults: list[Fault]) -> MakeUserContainer:
    fields = Fields(faults, node, "Body", ("BuildContext", "BuildType", "BuildSteps"))
    fields.choice("BuildType", ("INLINE",))
    return MakeUserContainer(
        build_context=fields.optional("BuildContext"),
        build_steps=tuple(_read_step(item, path, faults) for path, item in fields.items("BuildSteps")),
    )


def _read_step(node: yaml.Node, path: str, faults: list[Fault]) -> str:
    """A line of a Dockerfile, or several; the product's files separate steps by blank ones."""
    if isinstance(node, yaml.ScalarNode):
        return "" if node.tag == NULL else str(node.value)
    return read_text(faults, node, path)


def _read_pull(node: yaml.Node, faults: list[Fault]) -> PullImage:
    fields = Fields(faults, node, "Body", ("OrgAndReg", "RepoName", "Tag", "Auth"))
    auth: str | Credentials | None = None
    given = fields.find("Auth")
    if isinstance(given, yaml.MappingNode):
        inner = Fields(faults, given, fields.path("Auth"), ("Username", "Password"))
        password = inner.find("Password")
        auth = Credentials(
            username=inner.text("Username"), password=password.value if isinstance(password, yaml.ScalarNode) else ""
        )
        if password is not None and not isinstance(password, yaml.ScalarNode):
            tell(faults, password, inner.path("Password"), "expected text")
    elif given is not None:
        auth = fields.text("Auth")
    return PullImage(
        registry=fields.text("OrgAndReg"), repository=fields.text("RepoName"), tag=fields.text("Tag"), auth=auth
    )


def _read_content(node: yaml.Node, faults: list[Fault]) -> MakeContent:
    fields = Fields(faults, node, "Body", ("ContentType", "OpsList"))
    build = fields.choice("ContentType", ("BUILDCONTENT", "SWARMCONTENT")) == "BUILDCONTENT"
    return MakeContent(
        content_type="BUILDCONTENT" if build else "SWARMCONTENT",
        operations=tuple(_read_operation(item, path, faults) for path, item in fields.items("OpsList")),
    )


def _read_operation(node: yaml.Node, path: str, faults: list[Fault]) -> Operation:
    fields = Fields(faults, node, path, ("Operation", "Target", "Options"))
    download = fields.choice("Operation", ("DOWNLOAD", "EXTRACT")) == "DOWNLOAD"
    options = _read_options(fields, faults)
    return Operation(
        operation="DOWNLOAD" if download else "EXTRACT",
        target=fields.text("Target"),
        out=options.get("Out"),
        sha256=options.get("Sha256"),
    )


def _read_options(fields: Fields, faults: list[Fault]) -> dict[str, str]:
    """The options that are given, in a list of mappings or in a mapping."""
    node, path = fields.find("Options"), fields.path("Options")
    if node is None:
        return {}
    inner: list[tuple[str, yaml.Node]] = [(path, node)]
    if isinstance(node, yaml.SequenceNode):
        inner = [(f"{path}[{number}]", item) for number, item in enumerate(node.value, 1)]
    found: dict[str, str] = {}
    for where, item in inner:
        options = Fields(faults, item, where, ("Out", "Sha256"))
        for name in ("Out", "Sha256"):
            value = options.optional(name)
            if value is None:
                continue
            if name in found:
                tell(faults, item, path, f"the option {name} given more than once")
            if name == "Sha256":
                value = value.lower()
                if not _SHA256.fullmatch(value):
                    tell(faults, item, options.path(name), f"expected 64 hexadecimal digits, got {show_text(value)}")
            found[name] = value
    return found
