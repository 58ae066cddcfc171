"""Why a node was not reached: what failed, and what to check, apart from each other."""

import errno
import socket
import ssl

from swarmlearning.errors import DecodeError, SwarmError, Unreachable

_FIREWALL = "check that the machine is up, and that no firewall is in between (ports 30303 and 30305 by default)"


def explain_failure(error: SwarmError, host: str) -> tuple[str, str]:
    """What failed, and what to check, of an error in reaching a node at `host`."""
    causes = list(_causes(error))
    for cause in causes:
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
    if isinstance(error, DecodeError):
        return f"it answered in a form that is not known here: {error}", "install the same release everywhere"
    advice = "see the node's log" if isinstance(error, Unreachable) else "see what it says, and both nodes' logs"
    return str(error), advice


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
    """The error's causes, the first one last; aiohttp and asyncio wrap a few times."""
    found: list[BaseException] = []
    next_one: BaseException | None = error
    while next_one is not None and len(found) < 8:
        found.append(next_one)
        next_one = next_one.__cause__ or next_one.__context__
    return found
