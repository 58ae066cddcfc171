"""Where an SN is, as people write it, and waiting until it is up. Spec: docs/spec/swci.md, CI-12 and CI-13."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

import msgspec

from swarmlearning.errors import ConfigurationError, Refused, SwarmError, Unreachable, WaitExpired
from swarmlearning.identity.source import PemSource
from swarmlearning.reports.status import make_printable
from swarmlearning.reports.view import show_seconds
from swarmlearning.sn.asking import open_sn
from swarmlearning.transport.wire import CERTIFICATE
from swarmlearning.types import SN_API_PORT, Endpoint, NodeId

TRY_S: Final = 5.0
"""How long a try may take, seconds."""

EVERY_S: Final = 5.0
"""How long after the beginning of a try the next one begins, seconds; at once, if that took longer."""

TRIES: Final = 360
"""How often is tried where nothing else is said: for half an hour."""

MAX_TRIES: Final = 1_000_000

REMIND_S: Final = 60.0
"""How often a reason that does not change is said again, seconds."""


class Reached(msgspec.Struct, frozen=True, kw_only=True):
    """An SN that answered."""

    sn: NodeId
    address: str
    version: str
    problem: str
    """What keeps it from following the ledger; empty while nothing does."""
    tries: int
    waited_ms: int


def at_host(host: str, port: int | None) -> Endpoint:
    """`<ip> [<port>]`; a host's name will do, and the port may stand behind a colon.

    Raises:
        InvalidName: it is none.
    """
    if port is None:
        return Endpoint.parse(host, SN_API_PORT)
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    return Endpoint(host=bare, port=port)


def at_service(service: str) -> Endpoint:
    """`<service>`: a name, behind which a proxy may stand, with or without a port.

    Raises:
        InvalidName: it is none.
    """
    return Endpoint.parse(service, SN_API_PORT)


async def wait_for_sn(source: PemSource, endpoint: Endpoint, tries: int, tell: Callable[[str], None]) -> Reached:
    """CI-13: try until the SN at an address answers, at most `tries` times.

    Raises:
        WaitExpired: it did not; the message says how often and how long what was tried, and why the last try failed.
        ConfigurationError: `tries` is out of range.
        ConfigurationError, IdentityError, VerificationError, Refused, DecodeError: what will not change by waiting.
    """
    if not 1 <= tries <= MAX_TRIES:
        raise ConfigurationError(f"{tries} retries; expected 1-{MAX_TRIES}")
    tell(f"WAITING FOR API SERVER {endpoint} - Maximum wait time is : {show_seconds(int(tries * EVERY_S))}")
    began_s = time.monotonic()
    reason, said_s = "", began_s
    for number in range(1, tries + 1):
        try_s = time.monotonic()
        try:
            # Not `reach`: its message has the time that was tried, and is another one each time.
            async with asyncio.timeout(TRY_S), open_sn(source, str(endpoint)) as (client, _):
                status = await client.status()
            return Reached(
                sn=status.node,
                address=str(endpoint),
                version=make_printable(status.version),
                problem=make_printable(status.problem),
                tries=number,
                waited_ms=round((time.monotonic() - began_s) * 1000),
            )
        except TimeoutError:
            found = f"{endpoint} did not answer within {TRY_S:g} s"
        except SwarmError as error:
            if is_final(error):
                raise
            found = str(error)
        now_s = time.monotonic()
        if found != reason or now_s - said_s >= REMIND_S:
            tell(f"not yet, {number} of {tries} tries: {found}")
            reason, said_s = found, now_s
        if number < tries:
            await asyncio.sleep(max(0.0, EVERY_S - (now_s - try_s)))
    count = "once" if tries == 1 else f"{tries} times"
    waited = show_seconds(round(time.monotonic() - began_s))
    raise WaitExpired(
        f"the API server {endpoint} did not come up: tried a TLS handshake and its status {count} in {waited}; "
        f"the last time: {reason}"
    )


def is_final(error: SwarmError) -> bool:
    """CI-13: whether waiting will not help: our own files, or who answered there, are wrong.

    An SN that starts is not there at first, or refuses what it cannot answer yet.
    """
    if isinstance(error, Refused):
        return error.code == CERTIFICATE
    return not isinstance(error, Unreachable)
