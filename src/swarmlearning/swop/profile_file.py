"""An agent's profile, in the product's YAML, as records. Spec: docs/spec/swop-files.md, SW-20 to SW-24.

Reads the file alone; whether what it names is there is looked at by `profile_check`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import yaml

from swarmlearning.errors import ConfigurationError
from swarmlearning.swop.placeholders import fill_placeholders
from swarmlearning.swop.profile import ManagerKind, Profile
from swarmlearning.swop.profile_nodes import find_clashes, read_nodes
from swarmlearning.swop.values import ValueFields, is_address, is_volume
from swarmlearning.tasks.documents import read_document
from swarmlearning.tasks.faults import Fault, Faulty, line_of, show_text
from swarmlearning.tasks.fields import read_text, tell
from swarmlearning.tasks.trees import MAX_FILE_BYTES
from swarmlearning.tasks.variables import read_variables
from swarmlearning.types import DEFAULT_RUNNER, SN_API_PORT, Endpoint, RunnerName, check_runner_name

_KNOWN: Final = (
    *("groupname", "taskrunner", "policyuri", "resourcemgr", "network", "apls", "apisrv", "envvars", "dns", "nodes"),
)

_GROUP: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")

MAX_RUNNERS: Final = 32
"""Most taskrunners that one agent listens to."""


def load_profile(path: Path, settings: Mapping[str, str] | None = None) -> Profile:
    """Read a profile's file.

    Args:
        path: the file; paths in it begin at its directory.
        settings: values of placeholders by name.

    Raises:
        ConfigurationError: it cannot be read, or has faults, all of which are told.
    """
    found = read_profile_file(path, settings)
    if isinstance(found, Faulty):
        raise ConfigurationError("; ".join(found.lines()))
    return found


def read_profile_file(path: Path, settings: Mapping[str, str] | None = None) -> Profile | Faulty:
    """What a profile's file says, or all that is wrong in it.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"profile {path}: cannot be read ({error.strerror}); check the path") from error
    return read_profile(data, str(path), settings or {}, directory=str(path.absolute().parent))


def read_profile(data: bytes, source: str, settings: Mapping[str, str], *, directory: str = "") -> Profile | Faulty:
    """What a profile says, or all that is wrong in it.

    Args:
        data: the file.
        source: what people call it.
        settings: values of placeholders by name.
        directory: where paths begin that do not begin at the root; empty: none may.
    """

    def read(root: yaml.Node, faults: list[Fault]) -> Profile | None:
        filled = fill_placeholders(root, settings, faults, without=frozenset({"apls"}))
        before = len(faults)
        unused = sorted(set(settings) - filled.used)
        warnings = [f"--set {name}: there is no <{name}> in the profile" for name in unused]
        profile = _read_fields(root, directory, faults, warnings)
        # A placeholder that is left is no path, no address and no name either: that is said once.
        faults[before:] = [fault for fault in faults[before:] if (fault.line, fault.field) not in filled.left]
        return profile

    return read_document(data, source, read, empty=f"the profile is empty; expected {', '.join(_KNOWN)}", repeats=True)


def _read_fields(root: yaml.Node, directory: str, faults: list[Fault], warnings: list[str]) -> Profile | None:
    fields = ValueFields(faults, root, "", _KNOWN, directory=directory)
    apls = fields.find("apls")
    if apls is not None:
        warnings.append(f"line {line_of(apls)}, apls: has no effect; there are no licences")
    manager = _read_manager(fields, faults)
    nodes = read_nodes(fields.items("nodes"), directory, faults)
    profile = Profile(
        group=_read_pattern(fields, "groupname", faults),
        runners=_read_runners(fields, faults),
        policy=fields.local_uri("policyuri"),
        manager=manager,
        network=_read_network(fields, faults),
        sn=_read_sn(fields, faults, warnings),
        environment=read_variables(faults, fields.find("envvars"), fields.path("envvars")),
        dns=_read_dns(fields, faults),
        nodes=tuple(sorted(nodes, key=lambda node: node.idx)),
        warnings=tuple(warnings),
    )
    if not faults:
        faults += find_clashes(nodes, manager)
    return None if faults else profile


def _read_pattern(fields: ValueFields, key: str, faults: list[Fault]) -> str:
    text = fields.text(key)
    node = fields.find(key)
    if node is not None and text and not _GROUP.fullmatch(text):
        expected = "expected 1-40 characters of A-Z a-z 0-9 . _ -, since it stands in names"
        tell(faults, node, fields.path(key), f"{expected}, got {show_text(text)}")
    return text


def _read_runners(fields: ValueFields, faults: list[Fault]) -> tuple[RunnerName, ...]:
    """One taskrunner, or a list of them."""
    node, path = fields.find("taskrunner"), fields.path("taskrunner")
    if not isinstance(node, yaml.SequenceNode):
        return (fields.name("taskrunner", check_runner_name, DEFAULT_RUNNER) or DEFAULT_RUNNER,)
    items = fields.items("taskrunner")
    if len(items) > MAX_RUNNERS:
        tell(faults, node, path, f"{len(items)} taskrunners; expected at most {MAX_RUNNERS}")
    found: list[RunnerName] = []
    for where, item in items[:MAX_RUNNERS]:
        text = read_text(faults, item, where)
        try:
            name = check_runner_name(text)
        except ConfigurationError as error:
            if text:
                tell(faults, item, where, str(error))
            continue
        if name in found:
            tell(faults, item, where, f"the taskrunner {show_text(name)} given twice; expected it once")
        found.append(name)
    return tuple(found)


def _read_manager(fields: ValueFields, faults: list[Fault]) -> ManagerKind | None:
    node = fields.find("resourcemgr")
    if node is None:
        return None
    inner = ValueFields(faults, node, fields.path("resourcemgr"), ("mgrtype", "accessinfo"))
    kind = inner.choice("mgrtype", tuple(ManagerKind)) if inner.find("mgrtype") is not None else ""
    access = inner.find("accessinfo")
    if access is not None:
        how = ValueFields(faults, access, inner.path("accessinfo"), ("accesstype",))
        if how.find("accesstype") is not None:
            how.choice("accesstype", ("FROMENV",))
    return ManagerKind(kind) if kind else None


def _read_network(fields: ValueFields, faults: list[Fault]) -> str | None:
    text, node = fields.optional("network"), fields.find("network")
    if node is None or not text or is_volume(text):  # names of networks and volumes are alike
        return text or None
    tell(faults, node, fields.path("network"), f"expected a container network's name, got {show_text(text)}")
    return None


def _read_sn(fields: ValueFields, faults: list[Fault], warnings: list[str]) -> Endpoint | None:
    node = fields.find("apisrv")
    if node is None:
        return None
    outer = ValueFields(faults, node, fields.path("apisrv"), ("locator",))
    locator = outer.find("locator")
    if locator is None:
        return None
    inner = ValueFields(faults, locator, outer.path("locator"), ("host", "port", "service"))
    host, port = inner.host("host"), inner.number("port", 1, 65535)
    service = inner.endpoint("service", SN_API_PORT)
    if service is not None:
        if host is not None:
            warnings.append(f"line {line_of(locator)}, {inner.path('host')}: has no effect, since there is a service")
        return service
    return None if host is None else Endpoint(host=host, port=port or SN_API_PORT)


def _read_dns(fields: ValueFields, faults: list[Fault]) -> tuple[str, ...]:
    """Addresses of DNS servers: a list, or one."""
    node, path = fields.find("dns"), fields.path("dns")
    if node is None:
        return ()
    items = [(path, node)]
    if isinstance(node, yaml.SequenceNode):
        items = [(f"{path}[{number}]", item) for number, item in enumerate(node.value, 1)]
    found = []
    for where, item in items:
        text = read_text(faults, item, where)
        if text and not is_address(text):
            tell(faults, item, where, f"expected an IP address, got {show_text(text)}")
        found.append(text)
    return tuple(found)
