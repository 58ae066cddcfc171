"""Why a node was not reached: what failed, and what to check, apart from each other."""

import errno
import socket
import ssl

from swarmlearning.errors import DecodeError, Refused, SwarmError

_FIREWALL = "check that the machine is up, and that no firewall is in between (ports 30303 and 30305 by default)"


def explain_failure(error: SwarmError, host: str) -> tuple[str, str]:
    """What failed, and what to check, of an error in reaching a node at `host`."""
    if isinstance(error, Refused):
        return str(error), "do what it says, or see the log of the node that refused"
    if isinstance(error, DecodeError):
        return f"it answered in a form that is not known here: {error}", "install the same release everywhere"
    for cause in _causes(error):
        match cause:
            case socket.gaierror():
                return (
                    f"the name {host} is not known here",
                    "check the name server or /etc/hosts, or use an IP address",
                )
            case ConnectionRefusedError():
                return _refused()
            case TimeoutError():
                return "no connection or no answer in time", _FIREWALL
            case ssl.SSLCertVerificationError():
                return f"its certificate does not hold: {cause.verify_message}", _advise_certificate(
                    cause.verify_message
                )
            case ssl.SSLError():
                text = f"the TLS handshake failed ({cause.reason or cause})"
                return text, "check that this is a swarm node's port, and that no proxy or firewall changes TLS"
            case OSError() if f"[Errno {errno.ECONNREFUSED}]" in str(cause):
                return _refused()  # asyncio's sum of several addresses' errors
            case ConnectionError():
                return "the connection broke", "check that this is a swarm node's port, and see the node's log"
            case OSError():
                return f"no connection ({cause.strerror or cause})", _FIREWALL
    return str(error), "see the logs of both nodes"


def _refused() -> tuple[str, str]:
    return (
        "the connection was refused: nothing listens there",
        "start the node there, or correct its address",
    )


def _advise_certificate(reason: str) -> str:
    if "expired" in reason:
        return "let its organisation renew it (`swarm cert renew`), or set the clock here if that is wrong"
    if "not yet valid" in reason:
        return "set the clock of this machine (NTP), or of the one that issued it"
    return "check that its CA is the one that its organisation is registered with, and --cacert (SWARM_ID_CACERT) here"


def _causes(error: BaseException) -> list[BaseException]:
    """What led to the error, the first cause first; aiohttp and asyncio wrap a few times, and their types say less."""
    found: list[BaseException] = []
    cause = error.__cause__ or error.__context__
    while cause is not None and len(found) < 8:
        found.insert(0, cause)
        cause = cause.__cause__ or cause.__context__
    return found
