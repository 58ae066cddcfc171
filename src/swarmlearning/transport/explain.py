"""What went wrong with a request, in one line that says what to do. Spec: docs/spec/transport.md, section Errors."""

import errno
import socket
import ssl
from types import SimpleNamespace
from typing import Final

import aiohttp

from swarmlearning.errors import DecodeError, Refused, SwarmError, Unreachable, VerificationError
from swarmlearning.transport.api import Address
from swarmlearning.transport.http1 import NotHttp
from swarmlearning.transport.wire import CERTIFICATE, one_line

_CERTIFICATE_ALERTS: Final = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")
"""Parts of OpenSSL's names for alerts with which a server refuses a client's certificate."""


_REFUSED: Final = "the connection was refused; is it running, and is this its address?"


class Stage:
    """How far a request got; an error means something else at each stage."""

    def __init__(self) -> None:
        self.connecting = False
        """A new connection was needed, and is not there yet."""
        self.fresh = False
        """The connection was made for this request."""
        self.answered = False
        """The server has begun to answer."""

    @staticmethod
    async def on_connecting(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
        """Called by aiohttp before it connects."""
        del session, params
        context.trace_request_ctx.connecting = True

    @staticmethod
    async def on_connected(session: aiohttp.ClientSession, context: SimpleNamespace, params: object) -> None:
        """Called by aiohttp when it has connected."""
        del session, params
        context.trace_request_ctx.connecting = False
        context.trace_request_ctx.fresh = True


def explain(error: Exception, to: Address, what: str, limit_s: float, stage: Stage) -> SwarmError:
    """The error of ours for one of aiohttp's, OpenSSL's, the system's or `http1`'s."""
    where = f"{to.node} at {to.endpoint}"
    alert = _alert(error)
    match cause := _unwrap(error):
        case ssl.SSLCertVerificationError() if stage.connecting:
            return VerificationError(f"{where} did not prove who it is: {_reason(cause)}")
        case _ if alert and any(part in alert for part in _CERTIFICATE_ALERTS):
            return Refused(certificate_refused(to, alert.replace("_", " ").lower()), code=CERTIFICATE)
        case socket.gaierror() if stage.connecting:
            return Unreachable(f"{where}: the name {to.endpoint.host} is not known here; check the address")
        case ssl.SSLError() if stage.connecting:
            return Unreachable(f"{where}: no TLS 1.3 there ({_reason(cause)}); is it a swarm node's port?")
        case TimeoutError() if stage.connecting and cause.errno is None:  # ours; the system's have a number
            return Unreachable(
                f"{where}: no connection within {limit_s:g} s; check the address, and that no firewall is in between"
            )
        case OSError() if stage.connecting:
            return Unreachable(f"{where}: {_connection_error(cause)}")
        case TimeoutError():
            return Unreachable(f"{where}: no {what} within {limit_s:g} s")
        case aiohttp.ClientResponseError():
            return DecodeError(f"{where} does not speak our protocol ({one_line(cause.message)[:200]})")
        case NotHttp():
            return DecodeError(f"{where} does not speak our protocol ({one_line(str(cause))[:200]})")
        case _ if stage.fresh and not stage.answered:
            # A server that refuses a certificate may close before its reason arrives.
            return Unreachable(
                f"{where} closed a new connection without an answer; if it does so again, it refuses our "
                "certificate (its log says why), or it is about to stop"
            )
        case _:
            return Unreachable(f"{where}: the connection broke before the {what} was complete")


def certificate_refused(to: Address, reason: str) -> str:
    """The message for a server that does not accept our certificate."""
    return (
        f"{to.node} at {to.endpoint} refused our certificate ({reason}); check SWARM_ID_CERT, its expiry, "
        "and that its CA is known to the network"
    )


def _alert(error: BaseException | None) -> str:
    """OpenSSL's name of the alert that ended a connection, or ""."""
    for _ in range(8):  # causes of causes; aiohttp and asyncio wrap a few times
        if error is None:
            break
        reason = str(getattr(error, "reason", ""))  # only errors of OpenSSL's own making have one
        if isinstance(error, ssl.SSLError) and "ALERT_" in reason:
            return reason.partition("ALERT_")[2]
        error = error.__cause__ or error.__context__
    return ""


def _unwrap(error: Exception) -> Exception:
    """What aiohttp has wrapped: calls are made by it, streams are not."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return error.certificate_error
        case aiohttp.ClientConnectorError():
            return error.os_error
        case _:
            return error


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError) and hasattr(error, "verify_message"):
        return f"{error.verify_message}; is its CA known to the network?"
    return one_line(error.strerror or str(error))


def _connection_error(error: OSError) -> str:
    match error:
        case ConnectionRefusedError():
            return _REFUSED
        case ConnectionError():
            return "the connection broke during the handshake; is it a swarm node's port?"
        case _ if str(error).count(f"[Errno {errno.ECONNREFUSED}]") > 1:  # of several addresses, joined by asyncio
            return _REFUSED
        case _:
            return f"no connection ({one_line(error.strerror or str(error))})"
