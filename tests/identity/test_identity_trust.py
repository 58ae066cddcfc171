"""Trust by organisation: docs/spec/identity.md, I-9 to I-13."""

import ssl

import pytest
from identity_forge import DAY_MS, NODE, NOW_MS, Forge

from swarmlearning.errors import VerificationError
from swarmlearning.identity.certificate import parse_certificate, twin_signature, with_signature
from swarmlearning.identity.trust import Trust, TrustStore
from swarmlearning.identity.verify import fingerprint
from swarmlearning.types import Role, TrustDomain

A, B = TrustDomain("a.example"), TrustDomain("b.example")
CA_A, CA_B = Forge(name="CA of a.example"), Forge(name="CA of b.example")
LEAF = CA_A.sign()
TRUST_A = Trust(issuers=(CA_A.der,), roles=(Role.SN, Role.SL))
TRUST_B = Trust(issuers=(CA_B.der,), roles=(Role.SL,))


def store(*, at_ms: int = NOW_MS, trust_a: Trust = TRUST_A) -> TrustStore:
    return TrustStore("heart", lambda: at_ms, {A: trust_a, B: TRUST_B})


def refused(trust: TrustStore, der: bytes) -> str:
    with pytest.raises(VerificationError) as caught:
        trust.verify(der)
    return str(caught.value)


def test_members_nodes_are_believed() -> None:
    assert store().verify(LEAF) == NODE
    assert store().verify(CA_B.sign(uris=["spiffe://b.example/heart/sl/x"])).domain == B


def test_i9_a_certificate_of_bs_ca_naming_as_node_is_refused() -> None:
    assert "issued by CN=CA of b.example, which is none" in refused(store(), CA_B.sign(uris=[NODE.id]))


def test_i9_bs_ca_under_the_name_of_as_ca_is_refused() -> None:
    impostor = Forge(name=CA_A.name)
    trust = TrustStore("heart", lambda: NOW_MS, {A: TRUST_A, B: Trust(issuers=(impostor.der,), roles=(Role.SN,))})
    assert "does not hold" in refused(trust, impostor.sign())


def test_i9_an_organisation_that_is_no_member_is_refused() -> None:
    ca = Forge(name="CA of c.example")
    message = refused(store(), ca.sign(uris=["spiffe://c.example/heart/sn/x"]))
    assert "c.example is not a member of the network heart" in message


def test_i9_a_certificate_without_a_name_is_refused() -> None:
    assert "got 0" in refused(store(), CA_A.sign(uris=[]))


def test_i5_time_is_asked_at_each_verification() -> None:
    assert "expired" in refused(store(at_ms=NOW_MS + 2 * DAY_MS), LEAF)


def test_i10_a_certificate_for_another_network_is_refused() -> None:
    message = refused(store(), CA_A.sign(uris=["spiffe://a.example/lung/sn/sn1"]))
    assert "a certificate for the network lung, this is heart" in message


def test_i11_a_role_that_the_organisation_does_not_hold_is_refused() -> None:
    message = refused(store(), CA_B.sign(uris=["spiffe://b.example/heart/sn/x"]))
    assert "b.example may not hold the role sn (it may hold: sl)" in message


def test_i12_a_revoked_certificate_is_refused_and_its_twin_too() -> None:
    trust = store(trust_a=Trust(issuers=(CA_A.der,), roles=(Role.SN,), revoked=(fingerprint(LEAF),)))
    assert "was revoked by a.example" in refused(trust, LEAF)
    signature = twin_signature(parse_certificate(LEAF).signature)
    assert signature is not None
    assert "was revoked by a.example" in refused(trust, with_signature(parse_certificate(LEAF), signature))
    assert trust.verify(CA_A.sign()) == NODE


def test_i12_another_organisations_revocation_does_not_count() -> None:
    hostile = Trust(issuers=(CA_B.der,), roles=(Role.SL,), revoked=(fingerprint(LEAF),))
    assert TrustStore("heart", lambda: NOW_MS, {A: TRUST_A, B: hostile}).verify(LEAF) == NODE


def test_i13_an_update_takes_effect_at_once_and_grows_the_generation() -> None:
    trust = store()
    before = trust.generation
    trust.update({A: TRUST_A, B: TRUST_B})
    assert trust.generation == before, "nothing changed: connections stay"
    trust.update({B: TRUST_B})
    assert trust.generation == before + 1
    assert "not a member" in refused(trust, LEAF)


def test_i13_an_update_with_a_malformed_issuer_changes_nothing() -> None:
    trust = store()
    with pytest.raises(VerificationError, match="may not issue"):
        trust.update({A: Trust(issuers=(LEAF,), roles=(Role.SN,))})
    assert trust.verify(LEAF) == NODE
    assert trust.generation == 0


def test_the_callers_mapping_can_change_without_effect() -> None:
    organisations = {A: TRUST_A}
    trust = TrustStore("heart", lambda: NOW_MS, organisations)
    organisations.clear()
    assert trust.verify(LEAF) == NODE


def test_openssl_reads_all_issuers() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_verify_locations(cadata=store().issuer_certificates().decode("ascii"))
    assert sorted(context.get_ca_certs(binary_form=True)) == sorted([CA_A.der, CA_B.der])
