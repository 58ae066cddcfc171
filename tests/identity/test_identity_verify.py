"""Verification of a node's certificate: docs/spec/identity.md, I-1 to I-8, I-12 and I-15, each with its attack."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from identity_forge import DAY_MS, NODE, NOW_MS, Forge, content_of, critical, new_key, tagged

from swarmlearning.errors import InvalidName, VerificationError
from swarmlearning.identity.certificate import parse_certificate, twin_signature, with_signature
from swarmlearning.identity.verify import (
    MAX_ISSUERS,
    fingerprint,
    fingerprints,
    is_revoked,
    read_node,
    read_not_after,
    verify_issuer,
    verify_leaf,
    verify_proof,
)
from swarmlearning.types import NodeName, Role, TrustDomain

CA = Forge()
LABEL = st.from_regex(r"[a-z0-9]([a-z0-9_.-]{0,62}[a-z0-9])?", fullmatch=True)


def refused(der: bytes, issuers: list[bytes] | None = None, at_ms: int = NOW_MS) -> str:
    with pytest.raises(VerificationError) as caught:
        verify_leaf(der, [CA.der] if issuers is None else issuers, at_ms)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what is accepted -------------------------------------------------------------------------------------------


def test_a_leaf_issued_by_a_listed_authority_names_its_node() -> None:
    assert verify_leaf(CA.sign(), [CA.der], NOW_MS) == NODE


@pytest.mark.parametrize("key", [new_key(), ed25519.Ed25519PrivateKey.generate()])
def test_i4_leaf_keys_are_p256_or_ed25519(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> None:
    assert verify_leaf(CA.sign(key), [CA.der], NOW_MS) == NODE


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()])
def test_i4_authorities_may_use_p384_or_ed25519(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> None:
    ca = Forge(key=key)
    assert verify_leaf(ca.sign(), [ca.der], NOW_MS) == NODE


def test_i8_an_authority_and_its_successor_of_the_same_name_both_count() -> None:
    successor = Forge()
    for ca in (CA, successor):
        assert verify_leaf(ca.sign(), [CA.der, successor.der], NOW_MS) == NODE
        assert verify_leaf(ca.sign(), [successor.der, CA.der], NOW_MS) == NODE


def test_i8_a_broken_entry_among_the_issuers_does_not_hide_the_right_one() -> None:
    assert verify_leaf(CA.sign(), [b"rubbish", CA.der], NOW_MS) == NODE


# --- I-1, I-7: form ---------------------------------------------------------------------------------------------


@given(st.binary(max_size=600))
def test_i1_garbage_is_refused_and_raises_nothing_else(data: bytes) -> None:
    assert refused(data).startswith("certificate")


@given(st.data())
def test_i1_a_certificate_with_flipped_bits_is_refused_and_raises_nothing_else(data: st.DataObject) -> None:
    der = bytearray(LEAF)
    position = data.draw(st.integers(0, len(der) - 1))
    der[position] ^= data.draw(st.integers(1, 255))
    refused(bytes(der))


LEAF = CA.sign()


def test_i1_an_oversized_certificate_is_refused_unread() -> None:
    assert refused(b"\x30" * 20_000) == "certificate of 20000 bytes, at most 16384 are accepted"


def test_i1_trailing_bytes_are_refused() -> None:
    assert refused(LEAF + b"\x00").startswith("certificate cannot be read: ")


def test_i7_a_signature_with_counted_unused_bits_is_refused() -> None:
    # A signature that ends in a zero bit, rewritten as one with an unused bit.
    leaf = next(der for der in (CA.sign() for _ in range(200)) if not parse_certificate(der).signature[-1] & 1)
    signature = parse_certificate(leaf).signature
    assert verify_leaf(leaf, [CA.der], NOW_MS) == NODE
    position = len(leaf) - len(signature) - 1
    assert leaf[position] == 0
    guise = leaf[:position] + b"\x01" + signature
    assert x509.load_der_x509_certificate(guise).signature == signature, "the parser lets it pass; we must not"
    assert "canonical" in refused(guise)


def test_i7_parameters_added_to_the_outer_algorithm_are_refused() -> None:
    certificate = parse_certificate(LEAF)
    tail = LEAF[len(LEAF) - len(certificate.signature) - 3 :]
    assert tail[0] == 3
    algorithm = bytes.fromhex("300c06082a8648ce3d0403020500")  # with NULL
    message = refused(tagged(0x30, certificate.signed + algorithm + tail))
    assert "canonical" in message or "cannot be read" in message, "parsers differ here; the outcome may not"


def test_i7_an_outer_algorithm_that_the_signed_part_does_not_name_is_refused() -> None:
    signed = parse_certificate(LEAF).signed  # names SHA-256
    assert isinstance(CA.key, ec.EllipticCurvePrivateKey)
    signature = CA.key.sign(signed, ec.ECDSA(hashes.SHA384()))
    claim = bytes.fromhex("300a06082a8648ce3d040303")
    assert "canonical" in refused(tagged(0x30, signed + claim + tagged(3, b"\0" + signature)))


# --- I-2: the name ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uris", "says"),
    [
        ((), "got 0"),
        ((NODE.id, "spiffe://a.example/heart/sl/sl1"), "got 2"),
        ((NODE.id, NODE.id), "got 2"),
        (("https://a.example/heart/sn/sn1",), "not a swarm identity"),
        (("spiffe://a.example/heart/sn/sn1?x=1",), "not a swarm identity"),
        (("spiffe://a.example/heart/sn/sn1/more",), "not a swarm identity"),
        (("spiffe://a.example/heart/king/sn1",), "unknown role"),
        (("SPIFFE://a.example/heart/sn/sn1",), "not in canonical form"),
        (("spiffe://a.example/heart/sn/sn1#",), "not in canonical form"),
        (("spiffe://A.example/heart/sn/sn1",), "no capitals"),
        (("spiffe://a.example/heart/sn/sn%31",), "expected 1-64 characters"),
        (("spiffe://a.example:1/heart/sn/sn1",), "expected 1-64 characters"),
        (("spiffe://x@a.example/heart/sn/sn1",), "expected 1-64 characters"),
        (("spiffe://a.example/heart/sn/" + "n" * 600,), "at most 512"),
    ],
)
def test_i2_a_certificate_must_name_exactly_one_node_in_canonical_form(uris: tuple[str, ...], says: str) -> None:
    assert says in refused(CA.sign(uris=uris))


@given(LABEL, LABEL, st.sampled_from(Role), LABEL)
def test_i2_names_survive_the_way_to_a_uri_and_back(domain: str, network: str, role: Role, name: str) -> None:
    node = NodeName(domain=TrustDomain(domain), network=network, role=role, name=name)
    assert NodeName.parse(node.id) == node


@given(st.text(max_size=80) | st.from_regex(r"spiffe://[^ ]{0,20}/[^ ]{0,9}/(sn|sl)/[^ ]{0,9}", fullmatch=True))
def test_i2_a_uri_that_parses_is_the_only_uri_of_its_node(uri: str) -> None:
    try:
        node = NodeName.parse(uri)
    except InvalidName:
        return
    assert node.id == uri


# --- I-3 to I-6: kind, key, time, extensions --------------------------------------------------------------------


def test_i3_a_ca_certificate_used_as_a_leaf_is_refused() -> None:
    assert "it is a CA certificate" in refused(CA.sign(ca=True, usage="ca"))
    assert "it is a CA certificate" in refused(CA.sign(ca=True, usage="none"))


def test_i3_a_leaf_that_may_sign_certificates_is_refused() -> None:
    assert "it is a CA certificate" in refused(CA.sign(usage="ca"))


def test_i3_a_leaf_that_may_not_sign_handshakes_is_refused() -> None:
    assert "lacks digitalSignature" in refused(CA.sign(usage="neither"))


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (rsa.generate_private_key(65537, 2048), "RSA 2048"),
        (ec.generate_private_key(ec.SECP384R1()), "ECDSA P-384"),
        (ec.generate_private_key(ec.SECP256K1()), "ECDSA secp256k1"),
    ],
)
def test_i4_a_leaf_with_another_kind_of_key_is_refused(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, shown: str
) -> None:
    assert f"key {shown}, expected ECDSA P-256 or Ed25519" in refused(CA.sign(key))


def test_i4_an_rsa_authority_is_refused() -> None:
    ca = Forge(key=rsa.generate_private_key(65537, 2048))
    with pytest.raises(VerificationError, match="key RSA 2048"):
        verify_issuer(ca.der)
    assert "signature algorithm 1.2.840.113549.1.1.11" in refused(ca.sign(), [ca.der])


def test_i4_a_signature_over_a_short_hash_is_refused() -> None:
    assert "signature algorithm 1.2.840.10045.4.3.1" in refused(CA.sign(algorithm=hashes.SHA224()))


def test_i4_a_key_in_another_encoding_is_refused() -> None:
    key = new_key()
    plain = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    compressed = b"\x30\x39" + plain[2:23] + b"\x03\x22\x00" + point
    signed = parse_certificate(CA.sign(key)).signed
    # The same content with the compressed point, signed anew by the CA itself.
    assert plain in signed
    signed = tagged(0x30, content_of(signed).replace(plain, compressed))
    assert isinstance(CA.key, ec.EllipticCurvePrivateKey)
    signature = CA.key.sign(signed, ec.ECDSA(hashes.SHA256()))
    der = tagged(0x30, signed + bytes.fromhex("300a06082a8648ce3d040302") + tagged(3, b"\0" + signature))
    assert "uncompressed point" in refused(der)


def test_i5_an_expired_certificate_is_refused_with_both_dates() -> None:
    message = refused(LEAF, at_ms=NOW_MS + DAY_MS + 1000)
    assert "expired on 2027-01-16 08:00:00 UTC, it is 2027-01-16 08:00:01 UTC" in message


def test_i5_a_certificate_not_yet_valid_is_refused_with_both_dates() -> None:
    message = refused(LEAF, at_ms=NOW_MS - DAY_MS - 1)
    assert "not valid before 2027-01-14 08:00:00 UTC, it is 2027-01-14 07:59:59 UTC" in message


def test_i5_the_first_and_the_last_moment_count() -> None:
    for at_ms in (NOW_MS - DAY_MS, NOW_MS + DAY_MS):
        assert verify_leaf(LEAF, [CA.der], at_ms) == NODE
    assert read_not_after(LEAF) == NOW_MS + DAY_MS


@pytest.mark.parametrize("at_ms", [-1, 0, 2**62, -(2**62)])
def test_i5_an_absurd_time_is_refused_and_raises_nothing_else(at_ms: int) -> None:
    refused(LEAF, at_ms=at_ms)


def test_i5_a_valid_leaf_of_an_expired_authority_is_refused() -> None:
    ca = Forge(to_ms=NOW_MS - 1000)
    assert "CA certificate CN=CA of a.example: expired" in refused(ca.sign(), [ca.der])


def test_i5_a_valid_leaf_of_an_authority_not_yet_valid_is_refused() -> None:
    ca = Forge(from_ms=NOW_MS + 1000)
    assert "CA certificate CN=CA of a.example: not valid before" in refused(ca.sign(), [ca.der])


def test_i6_an_unknown_critical_extension_is_refused_in_leaf_and_authority() -> None:
    strange = critical("1.2.3.4")
    assert "critical extension 1.2.3.4" in refused(CA.sign(extra=[strange]))
    ca = Forge(extra=[strange])
    assert "critical extension 1.2.3.4" in refused(ca.sign(), [ca.der])


def test_i6_an_authority_under_name_constraints_is_refused() -> None:
    constraints = x509.NameConstraints([x509.UniformResourceIdentifier("b.example")], None)
    ca = Forge(extra=[x509.Extension(constraints.oid, True, constraints)])
    with pytest.raises(VerificationError, match=r"critical extension 2\.5\.29\.30"):
        verify_issuer(ca.der)


# --- I-8: who issued it -----------------------------------------------------------------------------------------


def test_i8_a_leaf_of_an_authority_that_is_not_listed_is_refused() -> None:
    message = refused(Forge(name="CA of b.example").sign())
    assert "issued by CN=CA of b.example, which is none of the 1 authorities of a.example" in message
    assert "none of the 0 authorities" in refused(LEAF, [])


def test_i8_a_leaf_of_a_false_authority_with_the_right_name_is_refused() -> None:
    assert "signature by CN=CA of a.example does not hold" in refused(Forge(name=CA.name).sign())


def test_i8_a_leaf_issued_through_an_intermediate_is_refused() -> None:
    intermediate = Forge(name="Intermediate of a.example")
    cross = CA.sign(intermediate.key, (), subject=intermediate.name, ca=True, usage="ca")
    leaf = intermediate.sign()
    assert "none of the 1 authorities" in refused(leaf)
    assert verify_leaf(leaf, [cross], NOW_MS) == NODE, "listed itself, it counts"


def test_i8_a_leaf_signed_by_another_leaf_is_refused() -> None:
    node = Forge(name="node", ca=False)
    assert "may not issue certificates" in refused(node.sign(), [node.der])


def test_i8_a_tampered_signature_is_refused() -> None:
    certificate = parse_certificate(LEAF)
    r, s = decode_dss_signature(certificate.signature)
    forged = with_signature(certificate, encode_dss_signature(r, s - 1))
    assert "does not hold" in refused(forged)


def test_i8_an_ed25519_authority_must_say_that_it_signs_with_ed25519() -> None:
    ca = Forge(key=ed25519.Ed25519PrivateKey.generate())
    ed = bytes.fromhex("06032b6570")
    signed = parse_certificate(ca.sign(ed25519.Ed25519PrivateKey.generate())).signed
    # The algorithm inside the signed part claims ECDSA; the signature is a good Ed25519 one over just that.
    claim = bytes.fromhex("300a06082a8648ce3d040302")
    signed = tagged(0x30, content_of(signed).replace(b"\x30\x05" + ed, claim, 1))
    assert isinstance(ca.key, ed25519.Ed25519PrivateKey)
    signature = ca.key.sign(signed)
    der = tagged(0x30, signed + claim + tagged(3, b"\0" + signature))
    assert "does not hold" in refused(der, [ca.der])


def test_i8_too_many_issuers_are_refused() -> None:
    assert "at most 16" in refused(LEAF, [CA.der] * (MAX_ISSUERS + 1))


# --- I-12: revocation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_i12_a_revoked_certificate_in_the_guise_of_its_twin_is_still_revoked(curve: ec.EllipticCurve) -> None:
    ca = Forge(key=ec.generate_private_key(curve))
    leaf = ca.sign()
    signature = twin_signature(parse_certificate(leaf).signature)
    assert signature is not None
    twin = with_signature(parse_certificate(leaf), signature)
    assert fingerprint(twin) != fingerprint(leaf)
    assert verify_leaf(twin, [ca.der], NOW_MS) == NODE, "nothing but revocation can stop it"
    assert is_revoked(leaf, [fingerprint(leaf)])
    assert is_revoked(twin, [fingerprint(leaf)])
    assert sorted(fingerprints(twin)) == sorted(fingerprints(leaf))


def test_i12_another_certificate_of_the_same_node_is_not_revoked_with_it() -> None:
    assert not is_revoked(CA.sign(), [fingerprint(LEAF)])
    assert not is_revoked(LEAF, [])


def test_i12_ed25519_signatures_have_no_twin() -> None:
    ca = Forge(key=ed25519.Ed25519PrivateKey.generate())
    leaf = ca.sign()
    assert fingerprints(leaf) == (fingerprint(leaf),)


# --- I-15: proofs -----------------------------------------------------------------------------------------------


def test_i15_a_proof_holds_for_its_data_and_its_certificate_only() -> None:
    key = new_key()
    der, signature = CA.sign(key), key.sign(b"data", ec.ECDSA(hashes.SHA256()))
    verify_proof(der, b"data", signature)
    for certificate, data, proof in ((der, b"date", signature), (LEAF, b"data", signature), (der, b"data", b"")):
        with pytest.raises(VerificationError, match="does not hold"):
            verify_proof(certificate, data, proof)


def test_i15_a_proof_by_an_ed25519_certificate_holds() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    verify_proof(CA.sign(key), b"data", key.sign(b"data"))
    with pytest.raises(VerificationError, match="does not hold"):
        verify_proof(CA.sign(key), b"data", key.sign(b"date"))


def test_i15_a_proof_by_an_rsa_certificate_is_refused() -> None:
    with pytest.raises(VerificationError, match="RSA 2048"):
        verify_proof(CA.sign(rsa.generate_private_key(65537, 2048)), b"data", b"x")


def test_reading_a_name_verifies_nothing() -> None:
    assert read_node(Forge(name="CA of b.example").sign()) == NODE
