"""Whether what a profile names is on this host, and whose identities its peers have. Looks at files, changes nothing.

Spec: docs/spec/swop-files.md, SW-24.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from swarmlearning.errors import ConfigurationError, IdentityError
from swarmlearning.identity.certificate import show_time
from swarmlearning.identity.source import PemSource
from swarmlearning.swop.policy_file import read_policy_file
from swarmlearning.swop.profile import IdentityPart, ManagerKind, PeerNode, Profile
from swarmlearning.tasks.faults import Faulty
from swarmlearning.types import NodeName, Role


class CheckedNode(msgspec.Struct, frozen=True, kw_only=True):
    """A peer, and whose identity it has."""

    node: PeerNode
    name: NodeName | None
    """By its certificate; None where it lies in a volume, or there is a problem with it."""


class ProfileCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What was found."""

    nodes: tuple[CheckedNode, ...]
    problems: tuple[str, ...]
    """What keeps peers from running, for people, a line each."""
    warnings: tuple[str, ...]
    """What people should know, those of the profile first."""


def check_profile(profile: Profile, at_ms: int) -> ProfileCheck:
    """Look at what a profile names, as of `at_ms`."""
    problems: list[str] = []
    warnings = list(profile.warnings)
    nodes = []
    for node in profile.nodes:
        nodes.append(CheckedNode(node=node, name=_find_name(node, at_ms, problems, warnings)))
        problems += _find_missing(node)
    problems += _find_shared(nodes)
    problems += _check_policy(profile, warnings)
    if profile.manager is ManagerKind.PROCESS:
        warnings += find_ignored(profile)
    return ProfileCheck(nodes=tuple(nodes), problems=tuple(problems), warnings=tuple(warnings))


def find_identity(node: PeerNode) -> PemSource | None:
    """Where the files of a peer's identity lie on this host; None if one of them lies in a volume."""
    paths: dict[IdentityPart, Path] = {}
    for attribute in node.identity:
        if attribute.kind == "VOLUME":
            return None
        paths[attribute.part] = Path(attribute.source, attribute.sub_path)
    return PemSource(
        paths[IdentityPart.CERT],
        paths[IdentityPart.KEY],
        paths.get(IdentityPart.CACERT),
        paths.get(IdentityPart.CAPATH),
    )


def _find_name(node: PeerNode, at_ms: int, problems: list[str], warnings: list[str]) -> NodeName | None:
    source = find_identity(node)
    if source is None:
        warnings.append(f"{_show(node)}: its identity lies in a volume, which was not looked at")
        return None
    try:
        credential = source.load(at_ms)
    except IdentityError as error:
        problems.append(f"{_show(node)}: {error}")
        return None
    name = credential.node
    if name.role is not Role.SL:
        problems.append(
            f"{_show(node)}: {source.cert} is the certificate of {name.short} with the role {name.role.value}; "
            f"expected the role sl; {_explain_issue(node, name)}"
        )
        return None
    if credential.not_after_ms - at_ms < 7 * 86_400_000:
        warnings.append(f"{_show(node)}: the certificate of {name.short} ends at {show_time(credential.not_after_ms)}")
    return name


def _find_shared(nodes: list[CheckedNode]) -> Iterator[str]:
    """Each SL is a member by its own name; the product's examples give all of a host one certificate."""
    first: dict[NodeName, PeerNode] = {}
    for checked in nodes:
        if checked.name is None:
            continue
        other = first.setdefault(checked.name, checked.node)
        if other is not checked.node:
            yield (
                f"{_show(checked.node)}: has the identity of {checked.name.short}, as node {other.idx} has; each SL "
                f"needs one of its own; {_explain_issue(checked.node, checked.name)}"
            )
    if len({(name.domain, name.network) for name in first}) > 1:
        yield f"peers of more than one organisation or network: {', '.join(sorted(name.short for name in first))}"


def _explain_issue(node: PeerNode, name: NodeName) -> str:
    called = node.sl_hostname if node.sl_hostname and node.sl_hostname != name.name else f"sl-{node.idx + 1}"
    return f"run: swarm cert issue --ca CA --network {name.network} --role sl --name {called} --out DIRECTORY"


def _find_missing(node: PeerNode) -> Iterator[str]:
    """Private data that is not there; files of identities are told as they are read."""
    data = node.private_data
    if data is None or data.kind == "VOLUME":
        return
    if not Path(data.source).is_dir():
        yield f"{_show(node)}: privatedata.src {data.source}: there is no such directory"
    elif not os.access(data.source, os.R_OK | os.X_OK):
        yield f"{_show(node)}: privatedata.src {data.source}: cannot be read by this user"


def find_ignored(profile: Profile) -> Iterator[str]:
    """What a profile says that is for containers alone, where peers are processes."""
    if profile.network is not None:
        yield "network: peers are processes, which have the host's"
    if profile.dns:
        yield "dns: peers are processes, which ask as the host does"
    for node in profile.nodes:
        named = {
            "slnetworkopts": node.sl_network_ip,
            "usrnetworkopts": node.program_network_ip,
            "sllabels": node.sl_labels,
            "usrlabels": node.program_labels,
        }
        fields = [name for name, value in named.items() if value]
        fields += [f"usrcontaineropts {option.name}" for option in node.program_options if option.name != "gpus"]
        if fields:
            yield f"{_show(node)}: {', '.join(fields)}: for containers, and peers are processes"


def _check_policy(profile: Profile, warnings: list[str]) -> list[str]:
    if profile.policy is None:
        return []
    try:
        policy = read_policy_file(Path(profile.policy))
    except ConfigurationError as error:
        return [str(error)]
    if isinstance(policy, Faulty):
        return list(policy.lines())
    warnings += [f"policy {profile.policy}: {text}" for text in policy.warnings]
    return []


def _show(node: PeerNode) -> str:
    return f"node {node.idx} (line {node.line})"
