"""The peers of a profile: `slnodedef` and what is in it. Spec: docs/spec/swop-files.md."""

from collections.abc import Hashable, Iterator
from typing import Final

import yaml

from swarmlearning.contracts.task_records import MAX_UNITS
from swarmlearning.swop.profile import Attribute, IdentityPart, ManagerKind, Option, PeerNode, PrivateData
from swarmlearning.swop.values import ValueFields
from swarmlearning.tasks.faults import NULL, Fault, line_of, name_field, show_node, show_text
from swarmlearning.tasks.fields import read_text, tell
from swarmlearning.tasks.variables import read_pairs, read_variables
from swarmlearning.types import SL_PORT

MAX_IDX: Final = 9999
"""Largest idx of a node."""

_KNOWN: Final = (
    *("idx", "identity", "slhostname", "slhostip", "slport", "slfsservice", "privatedata"),
    *("slenvvars", "sllabels", "slnetworkopts", "usrhostname", "usrenvvars", "usrlabels", "usrnetworkopts"),
    "usrcontaineropts",
)

_NEEDED: Final = ({IdentityPart.KEY}, {IdentityPart.CERT}, {IdentityPart.CACERT, IdentityPart.CAPATH})
"""Of each of these an identity has one."""

_SPIFFE: Final = (
    "an identity from a SPIFFE agent arrives in a later release; name files with aType KEY, CERT, and CACERT or CAPATH "
    "instead, which `swarm cert issue` makes"
)


def read_nodes(items: list[tuple[str, yaml.Node]], directory: str, faults: list[Fault]) -> list[PeerNode]:
    """The nodes of a profile as they stand there; what is wrong is added to `faults`."""
    if len(items) > MAX_UNITS:
        path, node = items[MAX_UNITS]
        tell(faults, node, path, f"{len(items)} nodes; an agent has at most {MAX_UNITS}")
    return [_read_node(item, path, directory, faults) for path, item in items[:MAX_UNITS]]


def find_clashes(nodes: list[PeerNode], manager: ManagerKind | None) -> Iterator[Fault]:
    """Nodes that cannot run beside one another: the same idx, or SLs reached at the same place."""
    by_idx: dict[Hashable, PeerNode] = {}
    by_place: dict[Hashable, PeerNode] = {}
    for number, node in enumerate(nodes, 1):
        field = f"nodes[{number}].slnodedef"
        first = by_idx.setdefault(node.idx, node)
        if first is not node:
            text = f"{node.idx} again, first on line {first.line}; expected another number"
            yield Fault(line=node.line, field=f"{field}.idx", text=text)
        place, told = _find_place(node, manager)
        first = node if place is None else by_place.setdefault(place, node)
        if first is not node:
            text = f"its SL is reached at {told}, as that on line {first.line} is; give it another slport"
            yield Fault(line=node.line, field=field, text=text)


def _find_place(node: PeerNode, manager: ManagerKind | None) -> tuple[Hashable | None, str]:
    """Where others reach a node's SL as far as the profile tells, and for people."""
    if node.sl_fs_service is not None:
        return node.sl_fs_service.lower(), show_text(node.sl_fs_service)
    if node.sl_port == 0:
        return None, ""
    if node.sl_host_ip is not None:
        return (node.sl_host_ip.lower(), node.sl_port), f"{node.sl_host_ip} port {node.sl_port}"
    if manager is ManagerKind.PROCESS:
        return (None, node.sl_port), f"port {node.sl_port} of this host"
    return None, ""  # containers may have addresses of their own


def _read_node(item: yaml.Node, path: str, directory: str, faults: list[Fault]) -> PeerNode:
    outer = ValueFields(faults, item, path, ("slnodedef",))
    node = outer.find("slnodedef", required=True)
    if node is None:
        return PeerNode(idx=0, line=line_of(item), identity=())
    fields = ValueFields(faults, node, outer.path("slnodedef"), _KNOWN, directory=directory)
    service = fields.endpoint("slfsservice", SL_PORT)
    port = fields.number("slport", 0, 65535)
    return PeerNode(
        idx=fields.number("idx", 0, MAX_IDX, required=True) or 0,
        line=line_of(item),
        identity=_read_identity(fields, directory, faults),
        sl_hostname=fields.host("slhostname"),
        sl_host_ip=fields.host("slhostip"),
        sl_port=SL_PORT if port is None else port,
        sl_fs_service=None if service is None else str(service),
        private_data=_read_private_data(fields, directory, faults),
        sl_environment=read_variables(faults, fields.find("slenvvars"), fields.path("slenvvars")),
        sl_labels=_read_labels(fields, "sllabels", faults),
        sl_network_ip=_read_network(fields, "slnetworkopts", faults),
        program_hostname=fields.host("usrhostname"),
        program_environment=read_variables(faults, fields.find("usrenvvars"), fields.path("usrenvvars")),
        program_labels=_read_labels(fields, "usrlabels", faults),
        program_network_ip=_read_network(fields, "usrnetworkopts", faults),
        program_options=_read_options(fields, faults),
    )


def _read_identity(fields: ValueFields, directory: str, faults: list[Fault]) -> tuple[Attribute, ...]:
    before = len(faults)
    items = fields.items("identity")
    found = [_read_attribute(item, path, directory, faults) for path, item in items]
    if len(faults) > before or not items:
        return ()
    path = fields.path("identity")
    for kind in IdentityPart:
        if sum(attribute.part is kind for attribute in found) > 1:
            tell(faults, items[0][1], path, f"aType {kind.value} given more than once; expected it once")
    targets = [attribute.target for attribute in found]
    for target in sorted({target for target in targets if targets.count(target) > 1}):
        tell(faults, items[0][1], path, f"the tgt {show_text(target)} given more than once; expected one for each")
    for any_of in _NEEDED:
        if not any_of & {attribute.part for attribute in found}:
            missing = " or ".join(sorted(kind.value for kind in any_of))
            tell(faults, items[0][1], path, f"expected an attribute with aType {missing}, it is missing")
    return tuple(found)


def _read_attribute(item: yaml.Node, path: str, directory: str, faults: list[Fault]) -> Attribute:
    outer = ValueFields(faults, item, path, ("attribute",))
    node = outer.find("attribute", required=True)
    inner = outer.path("attribute")
    nothing = Attribute(part=IdentityPart.KEY, kind="BIND", source="", target="")
    if node is None:
        return nothing
    fields = ValueFields(
        faults, node, inner, ("aType", "mType", "src", "tgt", "subPath", "subpath"), directory=directory
    )
    part = fields.choice("aType", tuple(IdentityPart))
    if part == IdentityPart.SPIFFE_SOCKETPATH:
        tell(faults, node, fields.path("aType"), f"{part}: {_SPIFFE}")
        return nothing
    kind = fields.mount_kind("mType")
    paths = {fields.inside(key) for key in ("subPath", "subpath") if fields.find(key) is not None}
    if len(paths) > 1:
        tell(faults, node, fields.path("subpath"), "not the same as subPath; expected one of them")
    return Attribute(
        part=IdentityPart(part) if part else IdentityPart.KEY,
        kind=kind,
        source=fields.source("src", kind),
        target=fields.target("tgt"),
        sub_path=min(paths, default=""),
    )


def _read_private_data(fields: ValueFields, directory: str, faults: list[Fault]) -> PrivateData | None:
    node = fields.find("privatedata")
    if node is None:
        return None
    inner = ValueFields(faults, node, fields.path("privatedata"), ("src", "mType"), directory=directory)
    if isinstance(node, yaml.MappingNode) and inner.find("src") is None and inner.find("mType") is None:
        return None
    kind = inner.mount_kind("mType")
    return PrivateData(source=inner.source("src", kind), kind=kind)


def _read_labels(fields: ValueFields, key: str, faults: list[Fault]) -> tuple[tuple[str, str], ...]:
    """Labels: a mapping, a list of mappings, or a list of names without values."""
    node, path = fields.find(key), fields.path(key)
    bare = isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value)
    if bare and node is not None:
        names = [(read_text(faults, item, f"{path}[{number}]"), "") for number, item in enumerate(node.value, 1)]
        return tuple(dict(names).items())
    found: dict[str, str] = {}
    for where, name, value in read_pairs(faults, node, path):
        inner = name_field(where, name.value)
        if not name.value or not isinstance(value, yaml.ScalarNode):
            tell(faults, value, inner, f"expected a name and a text, got {show_node(value)}")
        elif name.value in found:
            tell(faults, name, inner, "given twice; expected it once")
        else:
            found[name.value] = "" if value.tag == NULL else value.value
    return tuple(found.items())


def _read_network(fields: ValueFields, key: str, faults: list[Fault]) -> str | None:
    """The one option that there is: a fixed address."""
    node, path = fields.find(key), fields.path(key)
    if node is None:
        return None
    inner: list[tuple[str, yaml.Node]] = [(path, node)]
    if isinstance(node, yaml.SequenceNode):
        inner = [(f"{path}[{number}]", item) for number, item in enumerate(node.value, 1)]
    found = [ValueFields(faults, item, where, ("ip",)).address("ip") for where, item in inner]
    if len(found) > 1:
        tell(faults, node, path, "the option ip given more than once; expected it once")
    return found[0] if found else None


def _read_options(fields: ValueFields, faults: list[Fault]) -> tuple[Option, ...]:
    """Options of a container; one that is a list stands once for each of its texts."""
    path = fields.path("usrcontaineropts")
    found = []
    for where, key, value in read_pairs(faults, fields.find("usrcontaineropts"), path):
        inner = name_field(where, key.value)
        values = [(inner, value)]
        if isinstance(value, yaml.SequenceNode):
            values = [(f"{inner}[{number}]", item) for number, item in enumerate(value.value, 1)]
        found += [Option(name=key.value, value=read_text(faults, item, at), line=line_of(key)) for at, item in values]
    return tuple(found)
