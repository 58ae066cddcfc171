"""Whom to believe: each organisation's authorities, roles and revocations, as the ledger has them now.

The one thing TLS asks after a handshake. Does not read the ledger; whoever follows it calls `update`.
Spec: docs/spec/identity.md, section Trust.
"""

from collections.abc import Mapping

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from swarmlearning.clock import WallClock
from swarmlearning.errors import VerificationError
from swarmlearning.identity.verify import is_revoked, read_node, verify_issuer, verify_leaf
from swarmlearning.types import NodeName, Role, TrustDomain


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """What the network believes of one organisation."""

    issuers: tuple[bytes, ...]
    """CA certificates (DER) that issue its leaf certificates directly."""
    roles: tuple[Role, ...]
    """Roles its nodes may hold."""
    revoked: tuple[bytes, ...] = ()
    """SHA-256 of revoked leaf certificates."""


class TrustStore:
    """The organisations of a network. Readers on other threads see the old or the new organisations, never a mix.

    `generation` grows whenever the organisations change: connections made before are to be judged again.
    """

    def __init__(self, network: str, clock: WallClock, organisations: Mapping[TrustDomain, Trust]) -> None:
        self.network = network
        self.generation = 0
        self._clock = clock
        self._organisations = dict(organisations)
        self._pem = _concatenate(self._organisations)

    def update(self, organisations: Mapping[TrustDomain, Trust]) -> None:
        """Replace all organisations by those the ledger has now; no change, no new generation.

        Raises:
            VerificationError: an issuer is not a CA certificate; the old organisations stay.
        """
        replacement = dict(organisations)
        if replacement == self._organisations:
            return
        self._pem = _concatenate(replacement)
        self._organisations = replacement
        self.generation += 1

    def verify(self, leaf_der: bytes) -> NodeName:
        """Verify a certificate shown in a handshake and return whom it names.

        Raises:
            VerificationError: it does not name a node of this network that may be talked to; the message says why.
        """
        # 1. The name that it claims says which organisation must have issued it: only *its* authorities are asked,
        #    so that one organisation's CA cannot name another's nodes (I-9).
        claimed = read_node(leaf_der)
        organisation = self._organisations.get(claimed.domain)
        if organisation is None:
            raise VerificationError(f"{claimed.id}: {claimed.domain} is not a member of the network {self.network}")
        # 2. The certificate is that organisation's, and valid now.
        node = verify_leaf(leaf_der, organisation.issuers, self._clock())
        # 3. It was issued for this network (I-10).
        if node.network != self.network:
            raise VerificationError(f"{node.id}: a certificate for the network {node.network}, this is {self.network}")
        # 4. The organisation may hold that role (I-11).
        if node.role not in organisation.roles:
            held = ", ".join(organisation.roles) or "none"
            raise VerificationError(f"{node.id}: {node.domain} may not hold the role {node.role} (it may hold: {held})")
        # 5. It was not revoked (I-12).
        if is_revoked(leaf_der, organisation.revoked):
            raise VerificationError(f"{node.id}: this certificate was revoked by {node.domain}")
        return node

    def issuer_certificates(self) -> bytes:
        """All authorities of all organisations, concatenated PEM in ASCII: what OpenSSL is given for the handshake."""
        return self._pem


def _concatenate(organisations: Mapping[TrustDomain, Trust]) -> bytes:
    issuers = sorted({der for trust in organisations.values() for der in trust.issuers})
    for der in issuers:
        verify_issuer(der)
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in issuers)
