"""Membership: organisations, registration of nodes, revocation. Spec: docs/spec/membership.md, M-1 to M-6.

Organisations come from the genesis; how members change them afterwards is in `governance`.
"""

import contextlib
from functools import lru_cache
from typing import Any, Final, TypeVar

from msgspec.structs import replace

from swarmlearning.contracts.context import Context, Rejected, State
from swarmlearning.contracts.limits import check_endpoint
from swarmlearning.contracts.messages import RegisterNode, RevokeCertificate, registration_bytes
from swarmlearning.contracts.records import MAX_HISTORY, BlockTime, Genesis, Node, Organisation, RoundSummary, Training
from swarmlearning.encoding import decode, encode, sha256
from swarmlearning.errors import VerificationError
from swarmlearning.identity.verify import fingerprints, is_revoked, verify_leaf, verify_proof
from swarmlearning.types import Code, ContractName, NodeId, NodeName, Role, TrustDomain

MAX_CERTIFICATE_BYTES: Final = 8192
MAX_REVOKED: Final = 1000
"""Most revoked certificates an organisation's record holds."""

MAX_NODES: Final = 1000
"""Most nodes that one organisation registers."""

DECODED: Final = 64
"""Records of the state that a process remembers as read."""

R = TypeVar("R")


# --- where things stand in the state --------------------------------------------------------------------------------


def organisation_key(domain: TrustDomain) -> str:
    """State key of an organisation."""
    return f"org/{domain}"


def node_key(node: NodeId) -> str:
    """State key of a registered node."""
    return f"node/{node}"


def signer_key(key: bytes) -> str:
    """State key that leads from a signing key to its node."""
    return f"key/{key.hex()}"


def training_key(name: ContractName) -> str:
    """State key of a training contract."""
    return f"training/{name}"


def history_key(name: ContractName, number: int) -> str:
    """State key of the summary of the `number`-th final round of a contract: T-37, a ring of `MAX_HISTORY` places."""
    return f"history/{number % MAX_HISTORY:04d}/{name}"


def load_history(state: State, training: Training, most: int = MAX_HISTORY) -> list[RoundSummary]:
    """The newest `most` summaries that are kept of a contract, the oldest first."""
    first = max(0, training.finals - min(most, MAX_HISTORY))
    keys = (history_key(training.name, number) for number in range(first, training.finals))
    found = (load_record(state, key, RoundSummary) for key in keys)
    return [summary for summary in found if summary is not None]


GENESIS_KEY: Final = "meta/genesis"
TIME_KEY: Final = "meta/time"


def load_record(state: State, key: str, kind: type[R]) -> R | None:
    """The record of type `kind` under `key`, or None."""
    data = state.get(key)
    if data is None:
        return None
    which: Any = kind  # a cache knows no type variables
    found: R = _decode(data, which)
    return found


@lru_cache(maxsize=DECODED)
def _decode(data: bytes, kind: Any) -> Any:  # noqa: ANN401  # as `kind` says
    """A record of the state. The same few are read for every message; they are frozen, so one copy does for all."""
    return decode(data, kind, limit=1 << 30)


def load_genesis(state: State) -> Genesis | None:
    """The genesis, or None before `init`."""
    return load_record(state, GENESIS_KEY, Genesis)


def load_time(state: State) -> BlockTime | None:
    """Block time of the last block, or None before `init`."""
    return load_record(state, TIME_KEY, BlockTime)


def load_organisation(state: State, domain: TrustDomain) -> Organisation | None:
    """An organisation, or None if it is no member."""
    return load_record(state, organisation_key(domain), Organisation)


def load_node(state: State, node: NodeId) -> Node | None:
    """A registered node, or None."""
    return load_record(state, node_key(node), Node)


def load_training(state: State, name: ContractName) -> Training | None:
    """A training contract, or None."""
    return load_record(state, training_key(name), Training)


def save_training(state: State, training: Training) -> Training:
    """Write a training contract's next version, and return it."""
    training = replace(training, version=training.version + 1)
    state.put(training_key(training.name), encode(training))
    return training


def load_signer(state: State, key: bytes) -> Node | None:
    """The node whose registered signing key is `key`, or None."""
    node = state.get(signer_key(key))
    return None if node is None else load_node(state, NodeId(node.decode()))


def count_up(state: State, what: str, domain: TrustDomain, most: int) -> None:
    """M-6: count one more thing that an organisation brought into the state for good.

    Raises:
        Rejected: it has brought in `most` already.
    """
    key = f"count/{what}/{domain}"
    before = state.get(key)
    count = 1 + (decode(before, int) if before is not None else 0)
    if count > most:
        raise Rejected(Code.CONFLICT, f"{domain} has {most} {what} on the ledger, the most there can be")
    state.put(key, encode(count))


def list_organisations(state: State) -> list[Organisation]:
    """All members, by trust domain."""
    found = (load_organisation(state, TrustDomain(key.removeprefix("org/"))) for key in state.keys("org/"))
    return [organisation for organisation in found if organisation is not None]


def is_registered(known: Node | None, key: bytes, certificate: bytes) -> bool:
    """Whether a node stands on the ledger with this signing key and this certificate (DER): else it registers anew.

    With an older certificate it would stand there until that one is revoked, or its authority replaced (M-3, M-12).

    Raises:
        VerificationError: the certificate cannot be read.
    """
    return known is not None and known.key == key and known.certificates == fingerprints(certificate)


# --- transitions ----------------------------------------------------------------------------------------------------


def require_signer(state: State, signer: bytes) -> Node:
    """M-3: a transaction is carried out only for a registered key of a member whose certificate stands.

    Raises:
        Rejected: the key is not registered, the organisation is no member, its role or certificate was withdrawn.
    """
    node = load_signer(state, signer)
    if node is None:
        raise Rejected(
            Code.UNKNOWN_SIGNER, f"signing key {signer.hex()[:16]}… is not registered; register the node first"
        )
    name = NodeName.parse(node.node)
    organisation = load_organisation(state, name.domain)
    if organisation is None:
        raise Rejected(Code.NOT_ALLOWED, f"{name.domain} is not a member of this network")
    if name.role not in organisation.roles:
        raise Rejected(Code.NOT_ALLOWED, f"{name.domain} may not hold the role {name.role.value}")
    if any(mark in organisation.revoked for mark in node.certificates):
        raise Rejected(Code.NOT_ALLOWED, f"the certificate of {name.short} is revoked; issue and register a new one")
    if node.issuer not in map(sha256, organisation.issuers):
        raise Rejected(
            Code.NOT_ALLOWED,
            f"{name.short} is registered with a certificate of an authority that is not {name.domain}'s any more; "
            "issue and register a new one",
        )
    return node


def check_registration(state: State, context: Context, message: RegisterNode, signer: bytes, network: str) -> Node:
    """M-1, M-2, M-5: a signing key is bound to a node by a certificate of its own organisation and that one's key.

    Raises:
        Rejected: the certificate does not verify, names another node, is revoked, or the proof does not hold.
    """
    name = context.name
    if len(message.certificate) > MAX_CERTIFICATE_BYTES:
        raise Rejected(
            Code.MALFORMED, f"certificate of {len(message.certificate)} bytes, at most {MAX_CERTIFICATE_BYTES}"
        )
    if message.endpoint is not None:
        check_endpoint(message.endpoint)
    organisation = load_organisation(state, name.domain)
    if organisation is None:
        raise Rejected(Code.NOT_ALLOWED, f"{name.domain} is not a member of network {network}")
    if name.network != network:
        raise Rejected(Code.NETWORK, f"{message.node} belongs to network {name.network}, this one is {network}")
    try:
        certified, issuer = _verify_issued(message.certificate, organisation.issuers, context.time_ms)
        verify_proof(message.certificate, registration_bytes(network, message.node, signer), message.proof)
    except VerificationError as error:
        raise Rejected(Code.NOT_ALLOWED, f"registration of {name.short}: {error}") from error
    if certified.id != message.node:
        raise Rejected(Code.NOT_ALLOWED, f"the certificate is {certified.id}'s, the registration names {message.node}")
    if name.role not in organisation.roles:
        raise Rejected(Code.NOT_ALLOWED, f"{name.domain} may not hold the role {name.role.value}")
    if is_revoked(message.certificate, organisation.revoked):
        raise Rejected(Code.NOT_ALLOWED, f"the certificate of {name.short} is revoked; issue a new one")
    holder = load_signer(state, signer)
    if holder is not None and holder.node != message.node:
        raise Rejected(Code.CONFLICT, f"this signing key is already registered by {holder.node}")
    return Node(
        node=message.node,
        key=signer,
        certificates=tuple(fingerprints(message.certificate)),
        issuer=sha256(issuer),
        endpoint=message.endpoint,
        registered_height=context.height,
    )


def _verify_issued(certificate: bytes, issuers: tuple[bytes, ...], at_ms: int) -> tuple[NodeName, bytes]:
    """Whom a certificate names, and which of the issuers issued it."""
    node = verify_leaf(certificate, issuers, at_ms)
    for issuer in issuers[:-1]:
        with contextlib.suppress(VerificationError):
            verify_leaf(certificate, (issuer,), at_ms)
            return node, issuer
    return node, issuers[-1]


def register_node(state: State, context: Context, message: RegisterNode, signer: bytes, network: str) -> None:
    """M-1, M-2, M-6: write a registration down.

    Raises:
        Rejected: see `check_registration`; or the organisation has as many nodes as it may have.
    """
    record = check_registration(state, context, message, signer, network)
    before = load_node(state, message.node)
    if before is None:
        count_up(state, "nodes", context.name.domain, MAX_NODES)
    elif before.key != signer:
        state.delete(signer_key(before.key))
    state.put(node_key(message.node), encode(record))
    state.put(signer_key(signer), message.node.encode())


def revoke_certificate(state: State, context: Context, message: RevokeCertificate) -> None:
    """M-4: an organisation revokes a certificate of its own, alone.

    Raises:
        Rejected: malformed fingerprint, too many, or not sent by an SN or operator.
    """
    require_role(context, Role.SN, Role.OPERATOR)
    organisation = load_organisation(state, context.name.domain)
    if organisation is None or len(message.fingerprint) != 32:
        raise Rejected(Code.MALFORMED, f"fingerprint of {len(message.fingerprint)} bytes, expected 32")
    save_organisation(state, add_revocation(organisation, message.fingerprint, MAX_REVOKED))


def add_revocation(organisation: Organisation, fingerprint: bytes, most: int) -> Organisation:
    """M-4, M-12: the organisation with one more revoked certificate.

    Raises:
        Rejected: it has `most` already.
    """
    if fingerprint in organisation.revoked:
        return organisation
    if len(organisation.revoked) >= most:
        raise Rejected(Code.CONFLICT, f"{organisation.domain} has {most} revoked certificates; replace its CA")
    return replace(organisation, revoked=tuple(sorted((*organisation.revoked, fingerprint))))


def save_organisation(state: State, organisation: Organisation) -> None:
    """Write a member's record."""
    state.put(organisation_key(organisation.domain), encode(organisation))


def require_role(context: Context, *roles: Role) -> None:
    """Refuse a sender that has none of `roles`.

    Raises:
        Rejected: it has another role.
    """
    if context.name.role not in roles:
        wanted = " or ".join(role.value for role in roles)
        raise Rejected(Code.NOT_ALLOWED, f"{context.name.short} has the role {context.name.role.value}, needs {wanted}")
