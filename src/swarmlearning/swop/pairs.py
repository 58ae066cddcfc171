"""What a pair is to be run with: identity, image, and the environments, by task, profile and this host.

Pure but for reading the SL's certificate and asking for a route. Spec: docs/spec/swop.md, SW-7.
"""

import secrets
from pathlib import Path
from typing import Final

import msgspec

from swarmlearning.errors import ConfigurationError, IdentityError, InvalidName, VerificationError
from swarmlearning.identity.pem import read_certificates
from swarmlearning.identity.verify import read_node
from swarmlearning.swop.journal import shorten
from swarmlearning.swop.managers.boundary import Pair
from swarmlearning.swop.policy import Limits
from swarmlearning.swop.profile import Attribute, IdentityPart, PeerNode, Profile, Variables
from swarmlearning.tasks.bodies import RunSwarm
from swarmlearning.types import Endpoint, NodeId, Role, RunnerName, TaskName, TrustDomain

_LOOPBACK: Final = frozenset({"1", "true", "yes"})


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """What all pairs of an assignment have in common."""

    runner: RunnerName
    number: int
    task: TaskName
    body: RunSwarm
    places: tuple[str, ...]
    """Where its shared content led when it was decided."""
    image: str
    image_id: str
    sn: Endpoint
    host_ip: str
    network: bool
    """Whether programs may use the network."""
    sandboxed: bool
    limits: Limits
    data: str
    """The agent's data directory."""
    logs: str
    """Directory of the assignment's logs."""


def merge_variables(*layers: Variables) -> Variables:
    """SW-7: variables of which a later layer's count; what is None in the last that names it is not to be set."""
    merged: dict[str, str | None] = {}
    for layer in layers:
        merged.update(layer)
    return tuple(merged.items())


def is_loopback(variables: Variables) -> bool:
    """Whether a program with these variables trains alone."""
    return (dict(variables).get("SWARM_LOOPBACK") or "").strip().lower() in _LOOPBACK


def read_uid(node: PeerNode, own: TrustDomain, network: str, volumes: Path) -> NodeId:
    """The node id of a profile's SL, by its certificate.

    Args:
        node: of the profile.
        own: the agent's organisation.
        network: the agent's network.
        volumes: where this host has volumes as directories.

    Raises:
        ConfigurationError: there is no certificate, it cannot be read, or it is not that of an SL of ours.
    """
    found = [attribute for attribute in node.identity if attribute.part is IdentityPart.CERT]
    if not found:
        raise ConfigurationError(f"node {node.idx}: no CERT among the attributes of its identity; name one")
    path = place_of(found[0], volumes)
    try:
        name = read_node(read_certificates(path, "certificate")[0])
    except (IdentityError, VerificationError, InvalidName) as error:
        raise ConfigurationError(f"node {node.idx}: the identity of its SL cannot be read: {error}") from error
    if name.role is not Role.SL or name.domain != own or name.network != network:
        raise ConfigurationError(
            f"node {node.idx}: {path} names {name.id}; expected an {Role.SL.value} of {own} in the network {network}"
        )
    return name.id


def place_of(attribute: Attribute, volumes: Path) -> Path:
    """Where a part of an identity lies on this host."""
    source = Path(attribute.source) if attribute.kind == "BIND" else volumes / attribute.source
    return source / attribute.sub_path if attribute.sub_path else source


def make_pair(ground: Ground, profile: Profile, node: PeerNode, uid: NodeId) -> Pair:
    """A pair that has not been started, under an id that no other has."""
    pair_id = f"{shorten(profile.group, 16)}-{shorten(ground.task, 24)}-{node.idx}-{secrets.token_hex(5)}"
    return Pair(
        id=pair_id,
        label=f"{ground.runner} {ground.number} {ground.task}",
        uid=uid,
        node=node,
        group=profile.group,
        image=ground.image,
        image_id=ground.image_id,
        body=ground.body,
        places=ground.places,
        sn=ground.sn,
        host_ip=node.sl_host_ip or ground.host_ip,
        sl_environment=merge_variables(profile.environment, node.sl_environment),
        ml_environment=merge_variables(ground.body.environment, node.program_environment),
        network=profile.network,
        dns=profile.dns,
        online=ground.network,
        sandboxed=ground.sandboxed,
        limits=ground.limits,
        directory=str(Path(ground.data) / "pairs" / pair_id),
        sl_log=str(Path(ground.logs) / f"sl-{node.idx}.log"),
        ml_log=str(Path(ground.logs) / f"ml-{node.idx}.log"),
    )
