"""Finding out who listens at an address, by a handshake alone: nothing is sent, nothing is read.

An operator gives a node the address of its SN; the name that calls need comes from the SN's certificate, verified like
any other. What the caller does with a name that it did not expect is up to the caller.
"""

import asyncio
import contextlib
import os
import ssl

from swarmlearning.clock import WallClock, system_clock
from swarmlearning.errors import Unreachable, VerificationError
from swarmlearning.identity.trust import TrustStore
from swarmlearning.transport.tls import Source, Tls
from swarmlearning.types import Endpoint, NodeName


async def fetch_certificate(
    trust: TrustStore, source: Source, endpoint: Endpoint, *, timeout_s: float, clock: WallClock = system_clock
) -> bytes:
    """The certificate (DER) that whoever listens at `endpoint` shows: of a chain to an authority of `trust`.

    Whom it names, and whether that organisation's own authority issued it, is `trust.verify`'s to say.

    Raises:
        Unreachable: no connection, or no handshake within `timeout_s` seconds.
        VerificationError: the certificate is of none of these authorities, or not valid now.
        IdentityError: our own certificate is missing, expired or does not match.
    """
    writer = await _connect(trust, source, endpoint, timeout_s, clock)
    try:
        return writer.get_extra_info("ssl_object").getpeercert(binary_form=True) or b""
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def discover(
    trust: TrustStore, source: Source, endpoint: Endpoint, *, timeout_s: float, clock: WallClock = system_clock
) -> NodeName:
    """The verified identity of whoever listens at `endpoint`.

    Raises:
        Unreachable: no connection, or no handshake within `timeout_s` seconds.
        VerificationError: the certificate is none of a member's.
        IdentityError: our own certificate is missing, expired or does not match.
    """
    return trust.verify(await fetch_certificate(trust, source, endpoint, timeout_s=timeout_s, clock=clock))


async def _connect(
    trust: TrustStore, source: Source, endpoint: Endpoint, timeout_s: float, clock: WallClock
) -> asyncio.StreamWriter:
    context = Tls(trust, source, clock).context(server_side=False)
    context.sslobject_class = ssl.SSLObject  # verified by the caller, as no name is expected yet
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(endpoint.host, endpoint.port, ssl=context)
    except TimeoutError as error:
        raise Unreachable(
            f"{endpoint} did not shake hands within {timeout_s:g} s; is it a swarm node's port?"
        ) from error
    except ssl.SSLError as error:
        raise VerificationError(
            f"{endpoint}: whoever answers has no certificate of our organisation's CAs ({error.reason or error}); "
            "is it our own organisation's node, and are the CAs complete (SWARM_ID_CACERT)?"
        ) from error
    except OSError as error:
        raise Unreachable(f"{endpoint}: {_reason(error)}; is the node running, and the address right?") from error
    return writer


def _reason(error: OSError) -> str:
    # asyncio puts the address into the system's text, as a tuple; the number of an unknown name is of another table.
    number = error.errno or 0
    return os.strerror(number) if number > 0 else str(error.strerror or error)
