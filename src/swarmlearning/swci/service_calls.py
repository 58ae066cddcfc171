"""Requests to the REST service: a command line there, lines back. Spec: docs/spec/swci-python.md, CI-60 and CI-66.

Each request has a connection of its own: none that was closed meanwhile is used, so that a command is never sent twice,
and threads need not wait for each other. Does not: know any command.
"""

import http.client
import secrets
import socket
import ssl
from typing import Final
from urllib.parse import quote

import msgspec

from swarmlearning.errors import ConfigurationError, DecodeError, Refused, SwarmError, Unreachable, VerificationError
from swarmlearning.swci.service_tls import Deadline, ServiceTls, VerifiedSocket
from swarmlearning.transport.tls import IdentityMismatch
from swarmlearning.transport.wire import CERTIFICATE, MAX_FAILURE_BYTES, decode_failure, one_line
from swarmlearning.types import Endpoint

CONNECT_S: Final = 10.0
"""How long the service may take to shake hands, seconds."""

MAX_ANSWER_BYTES: Final = 32 << 20
"""Largest answer that is read."""

ERROR: Final = "ERROR "
"""How the line begins that tells of a failure."""

_CHUNK: Final = 64 << 10
_OK: Final = 200
_HINT: Final = "is `swarm ci --web` running there, and is this its address?"
_CERTIFICATE_ALERTS: Final = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")
"""Parts of OpenSSL's names for alerts with which a server refuses a client's certificate."""


class _Answer(msgspec.Struct, frozen=True):
    """What `/exec` answers. Other fields may come with newer services."""

    content: list[str] = msgspec.field(name="CONTENT")


class _Problem(msgspec.Struct, frozen=True):
    """An answer other than 200 (RFC 9457), as far as it concerns us."""

    detail: str = ""
    code: str = ""


class Service:
    """The REST service at an address."""

    def __init__(self, endpoint: Endpoint, tls: ServiceTls) -> None:
        self.endpoint = endpoint
        self.tls = tls

    def exec(self, command: str, limit_s: float, *, verbatim: bool = False) -> list[str]:
        """Have a command line carried out and return the lines that it gave.

        With `verbatim` the answer is somebody's text, whose lines may look like failures.

        Raises:
            Refused: it was not carried out; the message is the service's own.
            DecodeError: the answer is none.
            IdentityError: our own certificate cannot be used.
            Unreachable: no answer within `limit_s` seconds, or no connection within `CONNECT_S` of them.
            VerificationError: whoever is there is not the own organisation's command interface.
        """
        body = self._post(f"/exec?cmd={quote(command, safe='')}", b"", {}, limit_s, command)
        return self._lines(body, verbatim=verbatim)

    def upload(self, name: str, data: bytes, limit_s: float) -> str:
        """Put a task file into the session's directory, and return the service's own words about it.

        Raises:
            ConfigurationError: the name is no file's.
            Refused, DecodeError, IdentityError, Unreachable, VerificationError: see `exec`.
        """
        boundary, body = _multipart(name, data)
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        answer = self._post("/uploadTaskDef", body, headers, limit_s, f"upload of {name}")
        try:
            return "\n".join(self._lines(answer))
        except DecodeError:
            return "\n".join(_judge(answer.decode(errors="replace").splitlines()))

    def _lines(self, body: bytes, *, verbatim: bool = False) -> list[str]:
        try:
            answer = msgspec.json.decode(body, type=_Answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DecodeError(
                f'{self._where} does not speak our protocol: expected {{"CONTENT": [...]}} ({one_line(str(error))})'
            ) from error
        return _judge([line for text in answer.content for line in (text.splitlines() or [""])], verbatim=verbatim)

    @property
    def _where(self) -> str:
        return f"command interface {self.endpoint}"

    def _post(self, target: str, body: bytes, headers: dict[str, str], limit_s: float, what: str) -> bytes:
        """The body of the answer to one request."""
        deadline = Deadline(limit_s)
        connected = False
        try:
            request = _write_request(self.endpoint, target, body, headers)
            with self.tls.connect(self.endpoint, Deadline(min(CONNECT_S, limit_s))) as verified:
                connected, verified.deadline = True, deadline
                status, answer = _exchange(verified, request)
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise self._explain(error, what, limit_s, connected=connected) from error
        if status != _OK:
            raise self._refusal(status, answer)
        return answer

    def _refusal(self, status: int, body: bytes) -> SwarmError:
        """Why the service did not carry out a request, in its own words if it has any."""
        code, message = _read_failure(status, body)
        if code == CERTIFICATE:
            return Refused(f"{self._where} {_refused_certificate(message)}", code=code)
        return Refused(f"{self._where} refused: {message}", code=code)

    def _explain(self, error: Exception, what: str, limit_s: float, *, connected: bool) -> SwarmError:
        """The error of ours for one of the system's, OpenSSL's or `http.client`'s."""
        where, what = self._where, one_line(what[:80])
        reason = one_line(str(getattr(error, "reason", "") or getattr(error, "strerror", "") or error))
        match error:
            case IdentityMismatch():
                return VerificationError(f"{where} is not ours: {one_line(error.args[1])}")
            case ssl.SSLCertVerificationError():
                return VerificationError(
                    f"{where} did not prove who it is ({error.verify_message}); expected an operator of "
                    f"{self.tls.node.domain}, by an authority of clientCABundle (SWARM_ID_CACERT)"
                )
            case ssl.SSLError() if any(part in reason.upper() for part in _CERTIFICATE_ALERTS):
                return Refused(f"{where} {_refused_certificate(reason.lower())}", code=CERTIFICATE)
            case socket.gaierror():
                return Unreachable(f"{where}: the name {self.endpoint.host} is not known here; check the address")
            case UnicodeError():
                return ConfigurationError(f"{where}: {self.endpoint.host[:80]!r} is no host's name")
            case TimeoutError() if not connected and error.errno is None:  # ours; the system's have a number
                return Unreachable(f"{where}: no connection within {min(CONNECT_S, limit_s):g} s; {_HINT}")
            case ConnectionRefusedError() if not connected:
                return Unreachable(f"{where}: the connection was refused; {_HINT}")
            case ssl.SSLError() if not connected:
                return Unreachable(f"{where}: no TLS 1.3 there ({reason}); {_HINT}")
            case OSError() if not connected:
                return Unreachable(f"{where}: no connection ({reason}); {_HINT}")
            case TimeoutError():
                return Unreachable(
                    f"{where}: no answer to {what} within {limit_s:g} s; it may have been carried out all the same"
                )
            case http.client.RemoteDisconnected() | http.client.IncompleteRead() | OSError():
                return Unreachable(
                    f"{where}: the connection broke before {what} was answered; it may have been carried out all the "
                    "same"
                )
            case _:
                return DecodeError(f"{where} does not speak our protocol ({type(error).__name__}: {reason[:200]})")


def _write_request(endpoint: Endpoint, target: str, body: bytes, headers: dict[str, str]) -> bytes:
    fields = {
        "Host": str(endpoint),
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Connection": "close",
        "Content-Length": str(len(body)),
        **headers,
    }
    lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("ascii") + body


def _exchange(verified: VerifiedSocket, request: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to a request."""
    unsent: OSError | None = None
    try:
        verified.sendall(request)
    except TimeoutError:
        raise
    except OSError as error:
        unsent = error  # who refuses our certificate, or a long request, may have said why before it hung up
    try:
        with http.client.HTTPResponse(verified, method="POST") as response:
            response.begin()
            return response.status, _read_body(response)
    except OSError as error:
        raise (unsent if unsent is not None and not isinstance(error, ssl.SSLError) else error) from error


def _read_body(response: http.client.HTTPResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    while part := response.read(_CHUNK):
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise http.client.HTTPException(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    # As long as was announced; an end in the middle of the header looks as if nothing had been.
    if response.length or (response.length is None and not size):
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(parts)


def _judge(lines: list[str], *, verbatim: bool = False) -> list[str]:
    """CI-60: the lines of an answer, unless they say that there is none.

    Raises:
        Refused: the command was not carried out.
    """
    # What a command said before it failed comes first.
    said = [line for line in (*lines[-1:], *lines[:1]) if line.startswith(ERROR)]
    if said and not (verbatim and len(lines) > 1):
        raise Refused(one_line(said[0].removeprefix(ERROR)), code="command")
    return [line.rstrip() for line in lines]


def _read_failure(status: int, body: bytes) -> tuple[str, str]:
    """Code and text of an answer other than 200: a problem document, or what a node says that refuses a connection."""
    try:
        failure = decode_failure(body[: MAX_FAILURE_BYTES + 1])
    except DecodeError:
        pass
    else:
        return failure.code, one_line(failure.message)
    try:
        problem = msgspec.json.decode(body, type=_Problem)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        problem = _Problem()
    text = problem.detail or f"HTTP status {status} {http.client.responses.get(status, '')}".rstrip()
    return one_line(problem.code) or f"http-{status}", one_line(text)


def _refused_certificate(reason: str) -> str:
    return (
        f"refused our certificate ({reason}); check clientCert (SWARM_ID_CERT), its expiry, that its CA is known "
        "there, and that its role is operator"
    )


def _multipart(name: str, data: bytes) -> tuple[str, bytes]:
    """Boundary and body of a form with one file (RFC 7578)."""
    if not name.isprintable() or not name or '"' in name or "\\" in name:
        raise ConfigurationError(
            f"file name {name[:80]!r}: expected one without quotes, backslashes and control characters"
        )
    boundary = secrets.token_hex(16)  # no file can hold it by design
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return boundary, head.encode() + data + f"\r\n--{boundary}--\r\n".encode()
