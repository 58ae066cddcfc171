"""TLS contexts that end a handshake only with a peer whose identity was verified. Spec: docs/spec/transport.md.

OpenSSL checks the chain against the authorities of *all* organisations. That is not enough: a leaf counts only if its
*own* organisation issued it. `VerifiedObject` asks the `TrustStore` as the last step of the handshake itself, so that
there is no moment at which a connection is open and its peer unknown.

Does not: know HTTP, except the few bytes with which a server tells a refused client why.
"""

import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, Protocol, Self

from swarmlearning.clock import WallClock
from swarmlearning.errors import Broken, IdentityError, VerificationError
from swarmlearning.identity.source import Credential
from swarmlearning.identity.trust import TrustStore
from swarmlearning.identity.verify import read_not_after
from swarmlearning.transport.wire import CERTIFICATE, Failure, encode_failure
from swarmlearning.types import NodeId, NodeName

RECHECK_MS: Final = 1000
"""A connection's certificate is verified again after this many milliseconds of use, whatever else has changed."""

ACCEPTED: ContextVar[socket.socket | None] = ContextVar("ACCEPTED", default=None)
"""The socket that the running task has accepted: where a refused handshake says goodbye.

asyncio drops what OpenSSL has to say when a handshake fails; without this a client would see a bare reset.
"""

_LOG: Final = logging.getLogger("swarmlearning.transport")


class Source(Protocol):
    """Where a node's own certificate comes from."""

    def load(self, at_ms: int) -> Credential:
        """Return the credential, valid at `at_ms`.

        Raises:
            IdentityError: it is missing, expired or does not match.
        """
        ...

    def changed(self) -> bool:
        """Whether `load` would return something else than last time."""
        ...


Explain = Callable[[str], tuple[str, bytes]]
"""Content type and body of the response that tells a refused client why."""


def explain_refusal(reason: str) -> tuple[str, bytes]:
    """How clients of our own protocol are told why they are refused."""
    failure = Failure(kind="VerificationError", code=CERTIFICATE, message=reason)
    return "application/octet-stream", encode_failure(failure)


class IdentityMismatch(ssl.SSLCertVerificationError):
    """The peer is not whom it must be. OpenSSL was content, the trust store was not."""

    def __init__(self, message: str) -> None:
        super().__init__(1, message)


class Peer:
    """The verified other end of one connection."""

    def __init__(self, trust: TrustStore, clock: WallClock, leaf: bytes) -> None:
        self._trust = trust
        self._clock = clock
        self._leaf = leaf
        self._generation = trust.generation
        self._checked_ms = clock()
        self.name: Final[NodeName] = trust.verify(leaf)
        self.node: Final[NodeId] = self.name.id
        self._not_after_ms = read_not_after(leaf)

    def recheck(self) -> None:
        """Verify the certificate again if it may no longer hold: it expired, or the organisations changed.

        Raises:
            VerificationError: it does not hold any more; close the connection.
        """
        now = self._clock()
        recent = self._checked_ms <= now < min(self._checked_ms + RECHECK_MS, self._not_after_ms)
        if recent and self._generation == self._trust.generation:
            return
        generation = self._trust.generation
        self._trust.verify(self._leaf)
        self._generation, self._checked_ms = generation, now


class VerifiedObject(ssl.SSLObject):
    """A TLS connection whose handshake ends with the verification of the peer's identity."""

    peer: Peer
    """Set when the handshake is done."""

    credential_version: int
    """Which of our own credentials it uses."""

    def begin(self, tls: "Tls", expected: NodeId | None, outgoing: ssl.MemoryBIO) -> None:
        """Take what the handshake needs; `expected` is the server's identity, None on the server."""
        self._tls = tls
        self._expected = expected
        self._outgoing = outgoing
        self._socket = ACCEPTED.get() if expected is None else None
        self.credential_version = tls.version

    def do_handshake(self) -> None:
        """Shake hands, and verify the peer.

        Raises:
            IdentityMismatch: the peer is not whom it must be.
        """
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLSyscallError):
            raise
        except ssl.SSLError:
            self._say_goodbye()  # OpenSSL has left an alert
            raise
        try:
            self.peer = self._verify()
        except VerificationError as error:
            if self._expected is None:
                self._explain(str(error))
            raise IdentityMismatch(str(error)) from error

    def _verify(self) -> Peer:
        leaf = self.getpeercert(binary_form=True)
        if leaf is None:
            raise VerificationError("no certificate was shown")
        peer = self._tls.peer(leaf)
        if self._expected is not None and peer.node != self._expected:
            raise VerificationError(f"expected {self._expected}, got {peer.node}")
        return peer

    def _explain(self, reason: str) -> None:
        """Tell a refused client why. Nothing that it sent has been read."""
        kind, body = self._tls.explain(reason)
        head = f"HTTP/1.1 403 Forbidden\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        with contextlib.suppress(ssl.SSLError):
            self.write(head.encode("ascii") + b"Connection: close\r\n\r\n" + body)
        self._say_goodbye()

    def _say_goodbye(self) -> None:
        if self._socket is not None:
            # Best effort on a socket that does not block: a client that is gone needs no reason.
            with contextlib.suppress(OSError):
                self._socket.send(self._outgoing.read())


class _Rotating(ssl.SSLContext):
    """A context that stands for the newest one: authorities and certificates change while a server listens.

    asyncio asks a context for nothing but `wrap_bio`, once a connection.
    """

    def __new__(cls, tls: "Tls", expected: NodeId | None) -> Self:
        del tls
        return super().__new__(cls, ssl.PROTOCOL_TLS_SERVER if expected is None else ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, tls: "Tls", expected: NodeId | None) -> None:
        self._tls = tls
        self._expected = expected

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin a connection with the newest context."""
        del session  # a resumed session would skip the verification
        if server_side != (self._expected is None):
            raise Broken("a server's TLS context was used by a client, or the other way round")
        context = self._tls.context(server_side=server_side)
        made = context.wrap_bio(incoming, outgoing, server_side=server_side, server_hostname=server_hostname)
        if not isinstance(made, VerifiedObject):
            raise Broken(f"expected a verified TLS object, got {type(made).__name__}")
        made.begin(self._tls, self._expected, outgoing)
        return made


class Tls:
    """One node's side of TLS: its own credential, and whom it believes.

    Attributes:
        version: grows each time our own credential is replaced.
        explain: how a server tells a refused client why.
    """

    def __init__(self, trust: TrustStore, source: Source, clock: WallClock, explain: Explain = explain_refusal) -> None:
        """Load the credential.

        Raises:
            IdentityError: the credential is missing, expired or does not match.
        """
        self.version = 0
        self.explain = explain
        self._trust = trust
        self._source = source
        self._clock = clock
        self._credential = source.load(clock())
        self._contexts: dict[bool, tuple[tuple[int, int], ssl.SSLContext]] = {}
        self._clients: dict[NodeId, ssl.SSLContext] = {}
        self._server = _Rotating(self, None)
        self._complaint = ""
        self.context(server_side=True)

    @property
    def node(self) -> NodeName:
        """Who we are."""
        return self._credential.node

    def server(self) -> ssl.SSLContext:
        """The context to listen with; stays the newest for as long as it is used."""
        return self._server

    def client(self, expected: NodeId) -> ssl.SSLContext:
        """The context to reach `expected` with: no other identity gets past its handshake."""
        if expected not in self._clients:
            self._clients[expected] = _Rotating(self, expected)
        return self._clients[expected]

    def peer(self, leaf: bytes) -> Peer:
        """Verify a certificate that was shown in a handshake.

        Raises:
            VerificationError: it is not one that may be talked to.
        """
        return Peer(self._trust, self._clock, leaf)

    def refresh(self) -> None:
        """Take over a replaced credential. A bad one is reported once, and the old one kept: nothing stops working."""
        if not self._source.changed():
            return
        try:
            credential = self._source.load(self._clock())
            if credential.node != self.node:
                raise IdentityError(f"the new certificate names {credential.node.id}, this node is {self.node.id}")
            _build(server_side=True, credential=credential, issuers=self._trust.issuer_certificates())
        except IdentityError as error:
            self._complain(error)
            return
        self._complaint = ""
        self._credential = credential
        self.version += 1

    def context(self, *, server_side: bool) -> ssl.SSLContext:
        """The newest context of OpenSSL's; `server` and `client` are what others use."""
        self.refresh()
        built = (self._trust.generation, self.version)
        known = self._contexts.get(server_side)
        if known is None or known[0] != built:
            issuers = self._trust.issuer_certificates()
            try:
                made = _build(server_side=server_side, credential=self._credential, issuers=issuers)
            except IdentityError as error:
                # Our files were spoilt while the authorities changed. The trust store goes on to say who counts.
                if known is None:
                    raise
                self._complain(error)
                return known[1]
            known = self._contexts[server_side] = (built, made)
        return known[1]

    def _complain(self, error: IdentityError) -> None:
        if str(error) != self._complaint:
            self._complaint = str(error)
            _LOG.warning("our certificate was replaced but the old one stays in use: %s", error)


def peer_of(get_extra_info: Callable[[str], Any]) -> tuple[Peer, int]:
    """The verified peer of a transport, and the version of our credential that it was shown.

    Raises:
        Broken: the transport does not carry one of our TLS connections.
    """
    tls = get_extra_info("ssl_object")
    if not isinstance(tls, VerifiedObject):
        raise Broken("a connection without a verified peer")
    return tls.peer, tls.credential_version


def _build(*, server_side: bool, credential: Credential, issuers: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.sslobject_class = VerifiedObject
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    # The identity is the URI in the certificate, not a DNS name: VerifiedObject compares it.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    # An organisation may list an intermediate CA without its root.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if server_side:
        # A resumed session would not show its certificate again, so that one revoked since could come back.
        context.num_tickets = 0
    if issuers:
        context.load_verify_locations(cadata=issuers.decode("ascii"))
    try:
        context.load_cert_chain(credential.certificate_path, credential.key_path, password="")
    except (ssl.SSLError, OSError) as error:
        raise IdentityError(
            f"certificate {credential.certificate_path} and key {credential.key_path} cannot be used for TLS: {error}"
        ) from error
    return context
