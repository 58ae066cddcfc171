"""TLS from a program to the REST service of its own organisation, for code that does not run in an event loop.

OpenSSL checks the chain; then, as the last step of the handshake and before a byte of a request is sent, the
certificate must name an operator of the program's own organisation and network (spec: docs/spec/swci-python.md, CI-61).
There is no way to do without. Does not: know HTTP.
"""

import contextlib
import logging
import socket
import ssl
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from swarmlearning.clock import WallClock, system_clock
from swarmlearning.errors import Broken, IdentityError, VerificationError
from swarmlearning.identity.certificate import parse_certificate
from swarmlearning.identity.source import Credential, PemSource
from swarmlearning.identity.trust import Trust, TrustStore
from swarmlearning.identity.verify import read_node
from swarmlearning.transport.tls import IdentityMismatch
from swarmlearning.types import Endpoint, NodeName, Role

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_LOG: Final = logging.getLogger("swarmlearning.swci")


class Deadline:
    """When something has to be done; every wait for the network asks it for the time that is left."""

    def __init__(self, limit_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end_s = clock() + limit_s

    def left_s(self) -> float:
        """Seconds that are left.

        Raises:
            TimeoutError: none.
        """
        left_s = self._end_s - self._clock()
        if left_s <= 0:
            raise TimeoutError
        return left_s


class VerifiedSocket(ssl.SSLSocket):
    """A TLS connection whose handshake ends with the verification of the server, and whose waits have one end.

    Made by the contexts of this module only.
    """

    deadline: Deadline | None = None
    """When all that is sent and received must be done; a server that dribbles does not extend it."""
    verified = False
    """The handshake came to its end."""

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands, and verify the server.

        Raises:
            IdentityMismatch: the server is not whom it must be.
        """
        super().do_handshake(block)
        if not isinstance(self.context, _ServiceContext):
            raise Broken("a connection to the command interface without a verification of its own")
        try:
            self.context.verify(self.getpeercert(binary_form=True) or b"")
        except VerificationError as error:
            raise IdentityMismatch(str(error)) from error
        self.verified = True

    def recv_into(self, buffer: "WriteableBuffer", nbytes: int | None = None, flags: int = 0) -> int:
        """Receive; see `socket.recv_into`."""
        self._limit()
        return super().recv_into(buffer, nbytes, flags)

    def send(self, data: "ReadableBuffer", flags: int = 0) -> int:
        """Send; see `socket.send`."""
        self._limit()
        return super().send(data, flags)

    def _limit(self) -> None:
        if self.deadline is not None:
            self.settimeout(self.deadline.left_s())


class _ServiceContext(ssl.SSLContext):
    """A context whose sockets verify whom they reach."""

    verify: Callable[[bytes], NodeName]
    """Takes the server's certificate (DER); raises `VerificationError`."""


class ServiceTls:
    """A program's side of TLS: as whom it speaks, and to whom."""

    def __init__(self, source: PemSource, clock: WallClock = system_clock) -> None:
        """Load the identity.

        Raises:
            IdentityError: it is missing, expired or does not match.
        """
        self._source = source
        self._clock = clock
        self._complaint = ""
        self._load()

    @property
    def node(self) -> NodeName:
        """Who we are."""
        return self._node

    def connect(self, endpoint: Endpoint, deadline: Deadline) -> VerifiedSocket:
        """A connection to the service, verified; `deadline` is that of the handshake.

        Raises:
            OSError: nobody is reached, or no handshake comes about; `TimeoutError` at the deadline.
            IdentityMismatch: whoever is there is not the own organisation's operator.
        """
        self._refresh()
        raw = _dial(endpoint, deadline)
        try:
            raw.settimeout(deadline.left_s())
            made = self._context.wrap_socket(raw, server_hostname=endpoint.host)
        except BaseException:
            raw.close()
            raise
        if not isinstance(made, VerifiedSocket):
            made.close()
            raise Broken(f"expected a verified connection, got {type(made).__name__}")
        if not made.verified:
            # Python shakes no hands on a socket that was closed meanwhile, and would send in plain.
            made.close()
            raise ConnectionError("the connection broke before the handshake")
        return made

    def verify(self, leaf: bytes) -> NodeName:
        """CI-61: the service is an operator of our organisation and network, by its certificate (DER).

        Raises:
            VerificationError: it is not; the message says what it is.
        """
        claimed = read_node(leaf)
        wanted = (self._node.domain, self._node.network, Role.OPERATOR)
        if (claimed.domain, claimed.network, claimed.role) != wanted:
            raise VerificationError(
                f"expected an operator of {self._node.domain} in the network {self._node.network}, got {claimed.id}"
            )
        return self._trust.verify(leaf)

    def _refresh(self) -> None:
        """Take over replaced files. Bad ones are reported once, and the old identity kept."""
        if not self._source.changed():
            return
        try:
            self._load()
        except IdentityError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _LOG.warning("our certificate was replaced but the old one stays in use: %s", error)

    def _load(self) -> None:
        credential = self._source.load(self._clock())
        own = Trust(issuers=_own_issuers(credential), roles=(Role.OPERATOR,))
        try:
            trust = TrustStore(credential.node.network, self._clock, {credential.node.domain: own})
        except VerificationError as error:
            raise IdentityError(f"CA certificates: {error}") from error
        context = _build(credential, trust.issuer_certificates())
        context.verify = self.verify
        self._node, self._trust, self._context, self._complaint = credential.node, trust, context, ""


def _own_issuers(credential: Credential) -> tuple[bytes, ...]:
    """CI-62: the authorities that may name our operators: of a bundle, not those that say that they are others'."""
    own = f"spiffe://{credential.node.domain}"
    try:
        named = [(der, parse_certificate(der).uris) for der in credential.issuers]
    except VerificationError as error:
        raise IdentityError(f"CA certificates: {error}") from error
    kept = tuple(der for der, uris in named if own in uris or not any(uri.startswith("spiffe://") for uri in uris))
    if not kept:
        raise IdentityError(f"CA certificates: none is of {credential.node.domain}; name those of our own organisation")
    return kept


def _build(credential: Credential, issuers: bytes) -> _ServiceContext:
    context = _ServiceContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = VerifiedSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    # The identity is the URI in the certificate, not a DNS name: VerifiedSocket compares it.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    # An organisation may list an intermediate CA without its root.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=issuers.decode("ascii"))
    try:
        context.load_cert_chain(credential.certificate_path, credential.key_path, password="")
    except (ssl.SSLError, OSError) as error:
        raise IdentityError(
            f"certificate {credential.certificate_path} and key {credential.key_path} cannot be used for TLS: {error}"
        ) from error
    return context


def _dial(endpoint: Endpoint, deadline: Deadline) -> socket.socket:
    """A connection to the first of a name's addresses that answers."""
    failure: OSError = ConnectionError("the name has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM):
        raw = socket.socket(family, kind, protocol)
        try:
            raw.settimeout(deadline.left_s())
            raw.connect(address)
        except OSError as error:
            raw.close()
            failure = error
        except BaseException:
            raw.close()
            raise
        else:
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return raw
    raise failure
