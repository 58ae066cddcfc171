"""Who is a member and whose key signs: docs/spec/membership.md, M-1 to M-8, each with its attack."""

from typing import Any

import msgspec
import pytest
from chain_world import (
    DAY_MS,
    NETWORK,
    START_MS,
    Chain,
    authority,
    certificate,
    genesis_of,
    key_of,
    member,
    private,
    registration,
    sign_payload,
)

from swarmlearning.contracts import membership
from swarmlearning.contracts.messages import CreateContract, Payload, RevokeCertificate, registration_bytes
from swarmlearning.contracts.records import Genesis, Organisation
from swarmlearning.encoding import encode, sha256
from swarmlearning.errors import DecodeError, InvalidName
from swarmlearning.identity.verify import fingerprint
from swarmlearning.sn.application import SwarmApplication, decode_genesis
from swarmlearning.sn.state import Overlay, StateStore
from swarmlearning.types import Code, ContractName, Endpoint, NodeId, NodeName, Role, TrustDomain, Validator

replace = msgspec.structs.replace
SL, SN, OPERATOR = member(0), member(0, Role.SN), member(0, Role.OPERATOR)
OTHER = member(1)


def create(name: str) -> CreateContract:
    return CreateContract(contract=ContractName(name))


# --- M-1, M-2: registration -----------------------------------------------------------------------------------------


def test_m1_a_certificate_of_its_own_organisation_registers_a_node() -> None:
    chain = Chain()
    assert chain.do(SL, registration(SL)).code is Code.OK
    node = membership.load_node(Overlay(chain.app.store), SL.id)
    assert node is not None
    assert (node.key, node.registered_height) == (key_of(SL).public, 1)


def test_m1_another_organisations_authority_cannot_register_our_nodes() -> None:
    result = Chain().do(SL, registration(SL, certificate(SL, OTHER.domain)))
    assert result.code is Code.NOT_ALLOWED


def test_m1_an_organisation_that_is_no_member_registers_nobody() -> None:
    stranger = member(7)
    assert Chain().do(stranger, registration(stranger)).code is Code.NOT_ALLOWED


def test_m1_a_node_of_another_network_is_refused() -> None:
    foreign = NodeName(domain=SL.domain, network="other", role=Role.SL, name="sl0")
    assert Chain().do(foreign, registration(foreign)).code is Code.NETWORK


def test_m1_a_role_that_the_organisation_may_not_hold_is_refused() -> None:
    chain = Chain()
    key = membership.organisation_key(SL.domain)
    organisation = Organisation(domain=SL.domain, issuers=(authority(SL.domain),), roles=(Role.SN,))
    chain.app.store.commit(0, {key: encode(organisation)})
    assert chain.do(SL, registration(SL)).code is Code.NOT_ALLOWED


def test_m1_certificates_are_judged_by_block_time() -> None:
    chain = Chain()
    later = registration(SL, certificate(SL, SL.domain, from_ms=START_MS + DAY_MS, days=1))
    assert chain.do(SL, later).code is Code.NOT_ALLOWED
    assert chain.do(SL, later, step_ms=DAY_MS).code is Code.OK
    assert chain.do(SL, later, step_ms=2 * DAY_MS).code is Code.NOT_ALLOWED


def test_m1_a_certificate_of_another_node_does_not_register_this_one() -> None:
    neighbour = NodeName(domain=SL.domain, network=NETWORK, role=Role.SL, name="neighbour")
    message = registration(SL, certificate(neighbour, SL.domain))
    proof = private(f"tls {neighbour.id}").sign(registration_bytes(NETWORK, SL.id, key_of(SL).public))
    assert Chain().do(SL, replace(message, proof=proof)).code is Code.NOT_ALLOWED


@pytest.mark.parametrize("leaf", [b"", b"rubbish", b"0" * 8193])
def test_m1_rubbish_is_no_certificate(leaf: bytes) -> None:
    assert Chain().do(SL, registration(SL, leaf)).code in (Code.NOT_ALLOWED, Code.MALFORMED)


def test_m2_without_the_certificates_key_nobody_binds_a_signing_key() -> None:
    """Certificates are public: whoever saw one must not register a key of his own for it."""
    chain = Chain()
    stolen = registration(SL, salt="thief's")
    for proof in (b"", private("thief").sign(registration_bytes(NETWORK, SL.id, key_of(SL, "thief's").public))):
        result = chain.apply(chain.sign(SL, replace(stolen, proof=proof), salt="thief's"))[0]
        assert result.code is Code.NOT_ALLOWED


def test_m2_a_proof_binds_one_key_one_node_one_network() -> None:
    honest = registration(SL)
    chain = Chain()
    assert chain.apply(chain.sign(SL, honest, salt="thief's"))[0].code is Code.NOT_ALLOWED
    proof = private(f"tls {SL.id}").sign(registration_bytes("other", SL.id, key_of(SL).public))
    assert chain.do(SL, replace(honest, proof=proof)).code is Code.NOT_ALLOWED


def test_m2_a_signing_key_belongs_to_one_node() -> None:
    chain = Chain()
    chain.register(SL)
    key = key_of(SL)
    proof = private(f"tls {OTHER.id}").sign(registration_bytes(NETWORK, OTHER.id, key.public))
    message = replace(registration(OTHER), proof=proof)
    payload = encode(Payload(network=NETWORK, nonce=bytes(16), expires=50, message=message))
    assert chain.apply(sign_payload(key, payload))[0].code is Code.CONFLICT


def test_m2_a_new_key_replaces_the_old_one() -> None:
    chain = Chain()
    chain.register(SL)
    assert chain.do(SL, registration(SL, salt="new"), salt="new").code is Code.OK
    assert chain.do(SL, create("a")).code is Code.UNKNOWN_SIGNER
    assert chain.do(SL, create("a"), salt="new").code is Code.OK


def test_m3_a_node_with_another_key_or_certificate_than_it_registered_with_is_to_register_anew() -> None:
    """Else a node whose CA was replaced came back after its restart as silent as before."""
    chain = Chain()
    chain.register(SL)
    known = membership.load_node(Overlay(chain.app.store), SL.id)
    key, leaf = key_of(SL).public, certificate(SL, SL.domain)
    assert membership.is_registered(known, key, leaf)
    assert not membership.is_registered(known, key_of(SL, "new").public, leaf)
    assert not membership.is_registered(known, key, certificate(SL, SL.domain, serial=8))
    assert not membership.is_registered(None, key, leaf)


# --- M-3, M-4: standing and revocation ------------------------------------------------------------------------------


def test_m3_an_unregistered_key_signs_nothing() -> None:
    assert Chain().do(SL, create("a")).code is Code.UNKNOWN_SIGNER


def test_m3_a_revoked_certificate_silences_its_key_and_cannot_be_registered_again() -> None:
    chain = Chain()
    chain.register(SL, OPERATOR)
    leaf = certificate(SL, SL.domain)
    assert chain.do(OPERATOR, RevokeCertificate(fingerprint=fingerprint(leaf))).code is Code.OK
    assert chain.do(SL, create("a")).code is Code.NOT_ALLOWED
    assert chain.do(SL, registration(SL)).code is Code.NOT_ALLOWED
    renewed = registration(SL, certificate(SL, SL.domain, serial=8))
    assert chain.do(SL, renewed).code is Code.OK
    assert chain.do(SL, create("a")).code is Code.OK


def test_m3_an_organisation_that_is_gone_or_lost_a_role_is_silent() -> None:
    chain = Chain()
    chain.register(SL, OTHER)
    limited = Organisation(domain=OTHER.domain, issuers=(authority(OTHER.domain),), roles=(Role.SN,))
    changes: dict[str, bytes | None] = {
        membership.organisation_key(SL.domain): None,
        membership.organisation_key(OTHER.domain): encode(limited),
    }
    chain.app.store.commit(chain.height, changes)
    assert chain.do(SL, create("a")).code is Code.NOT_ALLOWED
    assert chain.do(OTHER, create("a")).code is Code.NOT_ALLOWED


def test_m4_only_sn_and_operator_revoke_and_only_for_their_own_organisation() -> None:
    chain = Chain()
    chain.register(SL, OTHER, SN)
    message = RevokeCertificate(fingerprint=fingerprint(certificate(OTHER, OTHER.domain)))
    assert chain.do(SL, message).code is Code.NOT_ALLOWED
    assert chain.do(SN, message).code is Code.OK
    # It stands in the list of the organisation that said so, and does nothing to the other's node.
    assert chain.do(OTHER, create("a")).code is Code.OK


@pytest.mark.parametrize("mark", [b"", b"x" * 31, b"x" * 33])
def test_m4_a_fingerprint_has_32_bytes(mark: bytes) -> None:
    chain = Chain()
    chain.register(SN)
    assert chain.do(SN, RevokeCertificate(fingerprint=mark)).code is Code.MALFORMED


def test_m4_revocations_are_bounded_and_repeating_one_is_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "MAX_REVOKED", 2)
    chain = Chain()
    chain.register(SN)
    for mark in (b"a", b"a", b"b"):
        assert chain.do(SN, RevokeCertificate(fingerprint=sha256(mark))).code is Code.OK
    assert chain.do(SN, RevokeCertificate(fingerprint=sha256(b"c"))).code is Code.CONFLICT


# --- M-5 to M-8 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("via", ["x" * 50_000, SL.id, "spiffe://"])
def test_m5_a_relay_is_an_sn(via: str) -> None:
    assert Chain().do(SL, registration(SL, via=via)).code is Code.MALFORMED


def test_m6_an_organisation_cannot_fill_the_state_with_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "MAX_NODES", 2)
    chain = Chain()
    chain.register(SL, SN)
    assert chain.do(OPERATOR, registration(OPERATOR)).code is Code.CONFLICT
    assert chain.do(SL, registration(SL, salt="new"), salt="new").code is Code.OK
    assert chain.do(OTHER, registration(OTHER)).code is Code.OK


def test_m7_a_sound_genesis_is_read() -> None:
    assert decode_genesis(encode(genesis_of(3))) == genesis_of(3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "upgrade"),
        ({"organisations": ()}, "at least one organisation"),
        ({"organisations": genesis_of(1).organisations * 2}, "each once"),
        ({"organisations": (Organisation(domain=SL.domain, issuers=()),)}, "no CA"),
        ({"organisations": (Organisation(domain=SL.domain, issuers=(b"x",)),)}, "org0.example"),
        ({"organisations": (*genesis_of(1).organisations, Organisation(domain=TrustDomain("A B"), issuers=()))}, "A B"),
        ({"sentinel": SL.id}, "not an SN"),
        ({"sentinel": member(9, Role.SN).id}, "founding"),
        ({"sentinel": NodeId("rubbish")}, "rubbish"),
        ({"network": "other"}, "not an SN of"),
        ({"sentinel_key": b"short"}, "32 bytes"),
        ({"created_ms": -1}, "1970"),
    ],
)
def test_m7_a_genesis_that_cannot_work_is_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(DecodeError, match=says):
        decode_genesis(encode(genesis_of(1, **change)))


def voting(count: int, **change: object) -> Genesis:
    """A genesis of `count` organisations that vote, with something else about their validators."""
    there = Endpoint(host="127.0.0.1", port=26656)
    members = tuple(
        replace(o, validator=Validator(key=bytes([i]) * 32, peer=f"{i:040x}", endpoint=there))
        for i, o in enumerate(genesis_of(count).organisations)
    )
    fields = {"ledger": "cometbft", "sentinel": "", "sentinel_key": b"", "organisations": members}
    return genesis_of(count, **(fields | change))


def test_m8_a_genesis_with_validators_is_read_and_tells_who_votes() -> None:
    app = SwarmApplication(StateStore(None))
    genesis = voting(4)
    app.init(encode(genesis))
    assert app.validators() == {o.domain: o.validator for o in genesis.organisations}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sentinel": genesis_of(1).sentinel}, "no sentinel"),
        ({"organisations": genesis_of(2).organisations}, "has no validator"),
        (
            {"organisations": (voting(2).organisations[0], replace(voting(2).organisations[0], domain=OTHER.domain))},
            "same",
        ),
        (
            {"ledger": "embedded"} | {n: getattr(genesis_of(1), n) for n in ("sentinel", "sentinel_key")},
            "no validators",
        ),
    ],
)
def test_m8_validators_and_a_sentinel_exclude_each_other_and_nobody_votes_twice(
    change: dict[str, object], says: str
) -> None:
    with pytest.raises(DecodeError, match=says):
        decode_genesis(encode(voting(2, **change)))


@pytest.mark.parametrize(
    "change", [{"key": b"short"}, {"peer": "AB" * 20}, {"endpoint": Endpoint(host="h", port=1, via=SN.id)}]
)
def test_m8_a_malformed_validator_is_refused(change: dict[str, object]) -> None:
    fields: dict[str, Any] = {"key": bytes(32), "peer": "0" * 40, "endpoint": Endpoint(host="h", port=1)}
    with pytest.raises(InvalidName):
        Validator(**(fields | change))
