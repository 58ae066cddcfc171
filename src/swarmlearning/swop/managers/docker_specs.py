"""The two containers of a pair, as an engine is told to make them. Pure.

Spec: docs/spec/swop-containers.md, SW-72 to SW-75.
"""

import ipaddress
import shlex
from typing import Final

import msgspec

from swarmlearning.encoding import sha256
from swarmlearning.errors import ConfigurationError
from swarmlearning.swop.managers.boundary import Pair
from swarmlearning.swop.managers.docker_mounts import (
    CHANNEL_TARGET,
    CONTROL,
    DATA,
    DATA_TARGET,
    READY,
    Json,
    identity_arguments,
    identity_mounts,
    volume_mount,
)
from swarmlearning.swop.managers.docker_options import read_options
from swarmlearning.swop.profile import Variables

HOME: Final = "/tmp"  # noqa: S108  # within the container, which is the program's alone
"""Whoever runs there need not be known to the image, and would have `/`, where frameworks cannot keep their caches."""

HOST_NETWORK: Final = "host"
NO_NETWORK: Final = "none"
OWN_NETWORK: Final = "default"
"""The engine's: a bridge, or what stands for it where Podman runs as a user."""

MIN_ENGINE_LOG: Final = 1 << 20


class World(msgspec.Struct, frozen=True, kw_only=True):
    """What the containers of this agent have in common."""

    user: str
    """`uid:gid` within containers."""
    podman: bool
    selinux: bool


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What a container is called and made of."""

    image: str
    """Its id, so that the tag cannot come to mean another one in between."""
    labels: dict[str, str]
    channel: str
    """The volume through which the halves meet."""


def sl_spec(pair: Pair, world: World, place: Place, data: str) -> Json:
    """The SL's container; `data` is the volume with what this SL keeps.

    Raises:
        ConfigurationError: the profile asks for what cannot be.
    """
    network = sl_network(pair)
    host: Json = _host_config(pair, world, place) | {
        "Mounts": [*identity_mounts(pair), volume_mount(data, DATA_TARGET), volume_mount(place.channel, CHANNEL_TARGET)]
    }
    spec: Json = {
        "Image": place.image,
        "Entrypoint": ["swarm", "sl"],
        "Cmd": _sl_arguments(pair, network),
        "Env": _environment(pair.sl_environment, {"HOME": HOME}),
        "Labels": place.labels,
        "User": world.user,
        "WorkingDir": "/",
        "HostConfig": host,
    }
    _name_host(spec, pair.node.sl_hostname, network)
    _join(spec, pair, network, pair.node.sl_network_ip)
    if network != HOST_NETWORK and _reached_at(pair) != pair.node.sl_network_ip:
        port = f"{pair.node.sl_port}/tcp"
        spec["ExposedPorts"] = {port: {}}
        host["PortBindings"] = {port: [{"HostPort": str(pair.node.sl_port)}]}
    return spec


def sl_network(pair: Pair) -> str:
    """The network of the SL.

    Raises:
        ConfigurationError: the SN cannot be reached from it.
    """
    addresses = (("the SN", pair.sn.host), ("the SL", _reached_at(pair)))
    here = next((f"{what} is at {host}" for what, host in addresses if _is_loopback(host)), None)
    if pair.network is None:
        # A container's loopback is its own: with such addresses only the host's network leads anywhere.
        return OWN_NETWORK if here is None else HOST_NETWORK
    if here is not None and pair.network != HOST_NETWORK:
        raise ConfigurationError(
            f"{here}, where nothing in the container network {pair.network!r} reaches it; expected an address of this "
            "host (apisrv, slhostip), or the network `host`"
        )
    return pair.network


def _reached_at(pair: Pair) -> str:
    """Where other SLs find this one: where the profile says, else at its own address in the container network."""
    return pair.host_ip if pair.node.sl_host_ip else (pair.node.sl_network_ip or pair.host_ip)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _sl_arguments(pair: Pair, network: str) -> list[str]:
    reached, port = _reached_at(pair), pair.node.sl_port
    words = ["--data", DATA, "--control", CONTROL, "--ready-file", READY, "--exit-when-done"]
    words += ["--sn", str(pair.sn), "--sl-fs-port", str(port), *identity_arguments(pair)]
    service = pair.node.sl_fs_service
    if network == HOST_NETWORK:
        words += ["--host-ip", reached]
    else:
        words += ["--host-ip", "0.0.0.0"]  # noqa: S104  # in a network of its own, whose port is published
        host = f"[{reached}]" if ":" in reached else reached
        service = service or f"{host}:{port}"
    return [*words, "--sl-fs-service", service] if service else words


def ml_spec(pair: Pair, world: World, place: Place, mounts: list[Json]) -> Json:
    """The program's container; `mounts` are what it sees of host and volumes.

    Raises:
        ConfigurationError: task or profile ask for what cannot be.
    """
    limits = pair.limits
    network = ml_network(pair)
    host = _host_config(pair, world, place) | {"Mounts": [*mounts, volume_mount(place.channel, CHANNEL_TARGET)]}
    if limits.memory is not None:
        host |= {"Memory": limits.memory, "MemorySwap": limits.memory}  # equal: no swap besides
    if limits.processes is not None:
        host["PidsLimit"] = limits.processes
    if limits.cpus is not None:
        host["NanoCpus"] = round(limits.cpus * 1_000_000_000)
    if limits.open_files is not None:
        host["Ulimits"] = [{"Name": "nofile", "Soft": limits.open_files, "Hard": limits.open_files}]
    added = read_options(pair.node.program_options, own=not pair.sandboxed, podman=world.podman)
    security = host["SecurityOpt"]
    assert isinstance(security, list)
    more = added.pop("SecurityOpt", [])
    assert isinstance(more, list)
    host |= added | {"SecurityOpt": [*security, *more]}
    spec: Json = {
        "Image": place.image,
        "Env": _environment(pair.ml_environment, {"HOME": HOME}, {"SWARM_SL": CONTROL, "SWARM_EXCHANGE_DIR": CONTROL}),
        "Labels": place.labels,
        "User": world.user,
        "HostConfig": host,
    }
    if pair.body.entrypoint:
        spec["Entrypoint"] = _words("Entrypoint", pair.body.entrypoint)
    if pair.body.command:
        spec["Cmd"] = _words("Command", pair.body.command)
    if pair.body.working_dir:
        spec["WorkingDir"] = pair.body.working_dir
    _name_host(spec, pair.node.program_hostname, network)
    _join(spec, pair, network, pair.node.program_network_ip)
    return spec


def ml_network(pair: Pair) -> str:
    """The program's network: none, unless the policy lets it have one, or the profile gives it an address."""
    if pair.online or pair.node.program_network_ip is not None:
        return pair.network or OWN_NETWORK
    return NO_NETWORK


def _words(field: str, text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigurationError(f"{field}: {str(error).lower()}: {text[:200]!r}; check its quotes") from error


def _host_config(pair: Pair, world: World, place: Place) -> Json:
    """What holds for both: no rights of root, an init that reaps, a bounded log, no restart behind the agent's back."""
    security = ["no-new-privileges"]
    if world.selinux:  # the same for both, or the one may not connect to the other's socket
        number = int.from_bytes(sha256(place.channel.encode())[:4], "big")
        first, second = number % 1024, number // 1024 % 1023
        second += second >= first
        security.append(f"label=level:s0:c{min(first, second)},c{max(first, second)}")
    size = max(pair.limits.log, MIN_ENGINE_LOG)
    return {
        "CapDrop": ["ALL"],
        "SecurityOpt": security,
        "Init": True,
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": "json-file", "Config": {"max-size": str(size), "max-file": "2"}},
    }


def _environment(given: Variables, default: dict[str, str], ours: dict[str, str] | None = None) -> list[str]:
    """`NAME=value`, ours last; what is not to be set is left out."""
    merged: dict[str, str | None] = {**default, **dict(given), **(ours or {})}
    return [f"{name}={value}" for name, value in merged.items() if value is not None]


def _name_host(spec: Json, name: str | None, network: str) -> None:
    if name and network != HOST_NETWORK:
        spec["Hostname"] = name


def _join(spec: Json, pair: Pair, network: str, address: str | None) -> None:
    """Join `network`, by the given address if there is one.

    Raises:
        ConfigurationError: an address is given, and no network in which it could be.
    """
    host = spec["HostConfig"]
    assert isinstance(host, dict)
    host["NetworkMode"] = network
    if pair.dns and network not in (HOST_NETWORK, NO_NETWORK):
        host["Dns"] = list(pair.dns)
    if address is None:
        return
    if network in (HOST_NETWORK, NO_NETWORK, OWN_NETWORK):
        raise ConfigurationError(
            f"the profile gives a container the address {address}; expected a container network that has it (network)"
        )
    kind = "IPv6Address" if ":" in address else "IPv4Address"
    spec["NetworkingConfig"] = {"EndpointsConfig": {network: {"IPAMConfig": {kind: address}}}}
