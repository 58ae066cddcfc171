"""Whether this machine's own ports are listened at, and by whom."""

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import Final

import msgspec

from swarmlearning.doctor.failures import explain_failure
from swarmlearning.doctor.findings import Finding, Topic, ok, problem, warning
from swarmlearning.doctor.members import Limit, show_member
from swarmlearning.errors import SwarmError, Unreachable, VerificationError
from swarmlearning.identity.trust import TrustStore
from swarmlearning.transport.discover import fetch_certificate
from swarmlearning.transport.tls import Source
from swarmlearning.types import Endpoint, Role, TrustDomain

_OTHER: Final = "stop what has the port (`ss -ltnp` shows it), or give the node another one"


class Port(msgspec.Struct, frozen=True, kw_only=True):
    """A port of this machine at which one of our nodes should listen."""

    label: str
    """Where we have it from, such as `--sl-fs-port`."""
    role: Role
    hosts: tuple[str, ...]
    """Own addresses to try, the likeliest first."""
    port: int


class Watch(msgspec.Struct, frozen=True, kw_only=True):
    """With what it is found out who listens."""

    trust: TrustStore
    source: Source
    domain: TrustDomain
    """Our organisation."""


async def is_own_address(host: str, timeout_s: float) -> bool:
    """Whether `host` is an address of this machine: only such a one can be bound. No packet is sent for it."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):  # UnicodeError: a name that no name server would take
        return False
    for family, kind, protocol, _, address in found:
        with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as probe:
            probe.bind(address)
            return True
    return False


async def check_host(host_ip: str, limit: Limit) -> list[Finding]:
    """Whether nodes can listen at --host-ip."""
    if await is_own_address(host_ip, limit.left()):
        return [ok(Topic.PORTS, f"--host-ip {host_ip}", "is an address of this machine")]
    advice = "give an address that `ip address` shows: nodes listen at it, and others reach them there"
    return [problem(Topic.PORTS, f"--host-ip {host_ip}", "is no address of this machine", advice)]


async def check_port(port: Port, watch: Watch | None, limit: Limit) -> Finding:
    """Whether a node of ours listens at a port. Without `watch` only whether anything does."""
    tried: list[str] = []
    for host in port.hosts:
        endpoint = Endpoint(host=host, port=port.port)
        try:
            if watch is None:
                await _connect(endpoint, limit.left())
                advice = "give --cert, --key and --cacert to have it asked who it is"
                return warning(Topic.PORTS, port.label, f"something listens at {endpoint}, who is not known", advice)
            leaf = await fetch_certificate(watch.trust, watch.source, endpoint, timeout_s=limit.left())
            return _judge_name(port, watch, endpoint, leaf)
        except Unreachable as error:
            what, _ = explain_failure(error, host)
            tried.append(f"{endpoint} ({what})")
        except SwarmError as error:
            what, _ = explain_failure(error, host)
            return problem(Topic.PORTS, port.label, f"what listens at {endpoint} is no node of ours: {what}", _OTHER)
    advice = f"start `swarm {port.role.value}` here, and see its log"
    if port.label.startswith("--"):
        advice += f"; or correct {port.label.split()[0]}, or say at which --host-ip"
    return problem(Topic.PORTS, port.label, f"no {port.role.value.upper()} listens at {', '.join(tried)}", advice)


def _judge_name(port: Port, watch: Watch, endpoint: Endpoint, leaf: bytes) -> Finding:
    try:
        name = watch.trust.verify(leaf)
    except VerificationError as error:
        return problem(Topic.PORTS, port.label, f"what listens at {endpoint} is no node of ours: {error}", _OTHER)
    if name.domain != watch.domain or name.role is not port.role:
        expected = f"an {port.role.value.upper()} of {watch.domain}"
        return problem(
            Topic.PORTS, port.label, f"{show_member(name)} listens at {endpoint}, expected {expected}", _OTHER
        )
    return ok(Topic.PORTS, port.label, f"{show_member(name)} listens at {endpoint}")


async def _connect(endpoint: Endpoint, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    except OSError as error:  # TimeoutError is one
        raise Unreachable(f"{endpoint}: {error.strerror or error}") from error
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def check_ports(ports: Sequence[Port], watch: Watch | None, limit: Limit) -> list[Finding]:
    """All ports, at once."""
    return list(await asyncio.gather(*(check_port(port, watch, limit) for port in ports)))
