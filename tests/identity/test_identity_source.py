"""Our own identity from PEM files, and the small CA that makes them: docs/spec/identity.md, I-16 to I-20."""

import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from identity_forge import DAY_MS, NODE, NOW_MS, Forge, new_key

from swarmlearning.errors import ConfigurationError, IdentityError, InvalidName
from swarmlearning.identity.authority import Authority, Issued, create_ca, issue_certificate, renew_certificate
from swarmlearning.identity.certificate import parse_certificate
from swarmlearning.identity.files import PUBLIC_MODE, SECRET_MODE, write_file
from swarmlearning.identity.pem import read_certificates, to_pem
from swarmlearning.identity.source import PemSource
from swarmlearning.identity.verify import verify_leaf, verify_proof
from swarmlearning.types import NodeName, Role, TrustDomain


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return create_ca(tmp_path / "ca", "a.example", at_ms=NOW_MS)


@pytest.fixture
def issued(authority: Authority, tmp_path: Path) -> Issued:
    return issue_certificate(authority, NODE, ["localhost", "::1"], tmp_path / "certs", at_ms=NOW_MS)


def source(issued: Issued) -> PemSource:
    return PemSource(issued.certificate, issued.key, issued.issuer, None)


def refused(pem: PemSource, at_ms: int = NOW_MS) -> str:
    with pytest.raises(IdentityError) as caught:
        pem.load(at_ms)
    return str(caught.value)


# --- I-17: own identity -----------------------------------------------------------------------------------------


def test_a_source_loads_what_the_authority_issued(issued: Issued, authority: Authority) -> None:
    credential = source(issued).load(NOW_MS)
    assert credential.node == NODE
    assert credential.issuers == (authority.certificate,)
    assert credential.not_after_ms == issued.not_after_ms == NOW_MS + 365 * DAY_MS
    verify_proof(credential.certificate_der, b"data", credential.sign_proof(b"data"))
    assert "PrivateKey" not in repr(credential)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(credential.certificate_path, credential.key_path)


def test_i17_a_key_that_does_not_match_the_certificate_is_refused(
    issued: Issued, authority: Authority, tmp_path: Path
) -> None:
    other = issue_certificate(authority, NODE, [], tmp_path / "other", at_ms=NOW_MS)
    pem = PemSource(issued.certificate, other.key, issued.issuer)
    assert "is not the key of certificate" in refused(pem)
    assert pem.changed(), "what did not load is tried again"


def test_i17_an_expired_own_certificate_is_refused_with_dates(issued: Issued) -> None:
    message = refused(source(issued), NOW_MS + 366 * DAY_MS)
    assert str(issued.certificate) in message
    assert "expired on 2028-01-15 08:00:00 UTC, it is 2028-01-16 08:00:00 UTC" in message


def test_i17_an_own_certificate_of_another_ca_is_refused(issued: Issued, tmp_path: Path) -> None:
    create_ca(tmp_path / "b", "b.example", at_ms=NOW_MS)
    pem = PemSource(issued.certificate, issued.key, tmp_path / "b" / "ca.cert.pem")
    assert "none of the 1 authorities of a.example" in refused(pem)


def test_i17_missing_files_are_named(issued: Issued, tmp_path: Path) -> None:
    gone = tmp_path / "gone.pem"
    for pem, what in (
        (PemSource(gone, issued.key, issued.issuer), "certificate"),
        (PemSource(issued.certificate, gone, issued.issuer), "key"),
        (PemSource(issued.certificate, issued.key, gone), "CA certificate"),
        (PemSource(issued.certificate, issued.key, None, gone), "CA directory"),
    ):
        assert refused(pem).startswith(f"{what} {gone}: cannot be read (No such file or directory)")


def test_i17_files_of_another_kind_are_named(issued: Issued, authority: Authority) -> None:
    assert "expected certificates in PEM form" in refused(PemSource(issued.key, issued.key, issued.issuer))
    assert "not an unencrypted private key" in refused(
        PemSource(issued.certificate, _private_copy(issued), issued.issuer)
    )
    write_file(issued.certificate, to_pem(authority.certificate), mode=PUBLIC_MODE, force=True)
    assert "is not a swarm identity" in refused(source(issued))


def _private_copy(issued: Issued) -> Path:
    path = issued.key.with_name("copy.pem")
    write_file(path, issued.certificate.read_bytes(), mode=SECRET_MODE)
    return path


def test_i17_with_capath_only_the_authority_that_issued_us_counts_as_ours(
    issued: Issued, authority: Authority, tmp_path: Path
) -> None:
    directory = tmp_path / "cas"
    directory.mkdir()
    for name, der in (("a", authority.certificate), ("b", Forge(name="CA of b.example").der)):
        write_file(directory / f"{name}.pem", to_pem(der), mode=PUBLIC_MODE)
    (directory / "README").write_text("not a certificate, and not read")
    pem = PemSource(issued.certificate, issued.key, None, directory)
    assert pem.load(NOW_MS).issuers == (authority.certificate,)
    (directory / "a.pem").unlink()
    assert "none of the 1 authorities" in refused(pem)
    (directory / "b.pem").unlink()
    assert "0 files ending in .pem" in refused(pem)


def test_i17_a_source_notices_replaced_files(issued: Issued, authority: Authority) -> None:
    pem = source(issued)
    assert pem.changed()
    pem.load(NOW_MS)
    assert not pem.changed()
    renew_certificate(authority, issued.certificate, at_ms=NOW_MS + DAY_MS, new_key=True)
    assert pem.changed()
    assert pem.load(NOW_MS + DAY_MS).not_after_ms == NOW_MS + 366 * DAY_MS
    assert not pem.changed()
    issued.key.unlink()
    assert pem.changed()


def test_i17_what_the_environment_lacks_is_said_in_one_line(issued: Issued) -> None:
    with pytest.raises(IdentityError) as caught:
        PemSource.from_env({"SWARM_ID_CERT": "x", "SWARM_ID_CAPATH": ""})
    message = str(caught.value)
    assert "\n" not in message
    assert "SWARM_ID_KEY" in message
    assert "SWARM_ID_CACERT, SWARM_ID_CAPATH" in message
    assert "SWARM_ID_CERT)" not in message
    environ = {"SWARM_ID_CERT": str(issued.certificate), "SWARM_ID_KEY": str(issued.key)}
    environ["SWARM_ID_CACERT"] = str(issued.issuer)
    assert PemSource.from_env(environ).load(NOW_MS).node == NODE
    with pytest.raises(IdentityError, match="expected --cacert or --capath"):
        PemSource(issued.certificate, issued.key, None, None)


# --- I-18, I-19: what the small CA makes ------------------------------------------------------------------------


def test_i18_the_ca_certificate_has_the_profile(authority: Authority) -> None:
    certificate = x509.load_der_x509_certificate(authority.certificate)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, 0)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature
    facts = parse_certificate(authority.certificate)
    assert (facts.key_type, facts.uris) == ("ECDSA P-256", ("spiffe://a.example",))
    assert facts.not_before_ms == NOW_MS - 5 * 60_000
    assert facts.not_after_ms == NOW_MS + 3650 * DAY_MS


def test_i19_a_leaf_has_the_profile(issued: Issued, authority: Authority) -> None:
    certificate = x509.load_pem_x509_certificate(issued.certificate.read_bytes())
    extensions = certificate.extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
    ]
    assert extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    issuer = x509.load_der_x509_certificate(authority.certificate).extensions
    subject_key = issuer.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == subject_key
    facts = parse_certificate(read_certificates(issued.certificate, "certificate")[0])
    assert (facts.key_type, facts.uris, facts.hosts) == ("ECDSA P-256", (NODE.id,), ("localhost", "::1"))
    assert facts.not_before_ms == NOW_MS - 5 * 60_000


def test_i19_serial_numbers_do_not_repeat(authority: Authority) -> None:
    key = new_key().public_key()
    leaves = [authority.sign_leaf(NODE, key, [], NOW_MS) for _ in range(3)]
    assert len({x509.load_der_x509_certificate(der).serial_number for der in leaves}) == 3


def test_i19_a_leaf_never_outlives_its_ca(tmp_path: Path) -> None:
    ca = create_ca(tmp_path / "ca", "a.example", at_ms=NOW_MS, days=10)
    issued = issue_certificate(ca, NODE, [], tmp_path / "certs", at_ms=NOW_MS)
    assert issued.not_after_ms == NOW_MS + 10 * DAY_MS
    with pytest.raises(IdentityError, match=r"the CA of a\.example ended on 2027-01-25"):
        issue_certificate(ca, NODE, [], tmp_path / "late", at_ms=NOW_MS + 11 * DAY_MS)
    assert not (tmp_path / "late").exists()


def test_i19_an_authority_names_its_own_organisations_nodes_only(authority: Authority, tmp_path: Path) -> None:
    stranger = NodeName(domain=TrustDomain("b.example"), network="heart", role=Role.SN, name="x")
    with pytest.raises(IdentityError, match=r"the CA of a\.example cannot name nodes of b\.example"):
        issue_certificate(authority, stranger, [], tmp_path / "certs", at_ms=NOW_MS)


@pytest.mark.parametrize(
    "host", ["*.example", "a b", "host:30304", "", "http://x", "é.example", "a." * 130, "-x", "a..b"]
)
def test_i19_a_malformed_host_is_refused(authority: Authority, tmp_path: Path, host: str) -> None:
    with pytest.raises(InvalidName, match="expected a DNS name"):
        issue_certificate(authority, NODE, [host], tmp_path / "certs", at_ms=NOW_MS)


def test_i19_limits_are_said(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(InvalidName, match="33 hosts, at most 32"):
        issue_certificate(authority, NODE, [f"h{i}" for i in range(33)], tmp_path, at_ms=NOW_MS)
    with pytest.raises(ConfigurationError, match="validity of 0 days"):
        issue_certificate(authority, NODE, [], tmp_path, at_ms=NOW_MS, days=0)
    with pytest.raises(InvalidName, match=r"organisation 'A\.example'"):
        create_ca(tmp_path / "x", "A.example", at_ms=NOW_MS)


# --- I-16: files of the CA --------------------------------------------------------------------------------------


def test_i16_keys_are_the_owners_alone(issued: Issued, tmp_path: Path) -> None:
    for path, mode in (
        (issued.key, 0o600),
        (tmp_path / "ca" / "ca.key.pem", 0o600),
        (tmp_path / "ca", 0o700),
    ):
        assert stat.S_IMODE(path.stat().st_mode) == mode, path


def test_i16_nothing_is_overwritten_unless_forced(issued: Issued, authority: Authority, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.pem")}
    with pytest.raises(IdentityError, match="exists"):
        create_ca(tmp_path / "ca", "a.example", at_ms=NOW_MS)
    with pytest.raises(IdentityError, match="exists"):
        issue_certificate(authority, NODE, [], tmp_path / "certs", at_ms=NOW_MS)
    issued.certificate.unlink()
    with pytest.raises(IdentityError, match=r"sn1\.key\.pem exists"):
        issue_certificate(authority, NODE, [], tmp_path / "certs", at_ms=NOW_MS)
    del before[issued.certificate]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.pem")} == before
    again = issue_certificate(authority, NODE, [], tmp_path / "certs", at_ms=NOW_MS, force=True)
    assert source(again).load(NOW_MS).node == NODE


def test_i16_another_ca_of_the_same_organisation_does_not_replace_the_first(issued: Issued, tmp_path: Path) -> None:
    other = create_ca(tmp_path / "ca2", "a.example", at_ms=NOW_MS)
    node = NodeName(domain=NODE.domain, network="heart", role=Role.SL, name="sl1")
    with pytest.raises(IdentityError, match=r"a\.example\.ca\.pem exists"):
        issue_certificate(other, node, [], tmp_path / "certs", at_ms=NOW_MS)
    assert source(issued).load(NOW_MS).node == NODE
    assert not (tmp_path / "certs" / "sl1.key.pem").exists()


def test_an_authority_is_the_same_after_loading(authority: Authority, tmp_path: Path) -> None:
    loaded = Authority.load(tmp_path / "ca")
    assert (loaded.domain, loaded.certificate) == (authority.domain, authority.certificate)
    issued = issue_certificate(loaded, NODE, [], tmp_path / "certs", at_ms=NOW_MS)
    assert source(issued).load(NOW_MS).node == NODE


def test_i18_a_damaged_authority_is_refused(tmp_path: Path, issued: Issued) -> None:
    ca = tmp_path / "ca"
    with pytest.raises(IdentityError, match=r"CA certificate .* cannot be read"):
        Authority.load(tmp_path)
    create_ca(tmp_path / "b", "b.example", at_ms=NOW_MS)
    key = (ca / "ca.key.pem").read_bytes()
    write_file(ca / "ca.key.pem", (tmp_path / "b" / "ca.key.pem").read_bytes(), mode=SECRET_MODE, force=True)
    with pytest.raises(IdentityError, match=r"is not the key of .*ca\.cert\.pem"):
        Authority.load(ca)
    write_file(ca / "ca.key.pem", key, mode=SECRET_MODE, force=True)
    (ca / "ca.key.pem").chmod(0o644)
    with pytest.raises(IdentityError, match="chmod 600"):
        Authority.load(ca)
    write_file(ca / "ca.cert.pem", issued.certificate.read_bytes(), mode=PUBLIC_MODE, force=True)
    with pytest.raises(IdentityError, match="may not issue certificates"):
        Authority.load(ca)


# --- I-20: renewal ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("new_key", [False, True])
def test_i20_renewal_keeps_names_and_unless_asked_the_key(issued: Issued, authority: Authority, new_key: bool) -> None:
    old = parse_certificate(read_certificates(issued.certificate, "certificate")[0])
    late = NOW_MS + 400 * DAY_MS  # long expired
    renewed = renew_certificate(authority, issued.certificate, at_ms=late, days=30, new_key=new_key)
    new = parse_certificate(read_certificates(issued.certificate, "certificate")[0])
    assert (new.uris, new.hosts, new.subject) == (old.uris, old.hosts, old.subject)
    assert (new.key_canonical == old.key_canonical) == (not new_key)
    assert new.not_after_ms == renewed.not_after_ms == late + 30 * DAY_MS
    assert source(issued).load(late).node == NODE
    assert verify_leaf(new.der, [authority.certificate], late) == NODE
    assert stat.S_IMODE(issued.key.stat().st_mode) == 0o600


def test_i20_a_certificate_of_another_ca_is_not_renewed(issued: Issued, tmp_path: Path) -> None:
    other = create_ca(tmp_path / "ca2", "a.example", at_ms=NOW_MS)
    before = issued.certificate.read_bytes()
    with pytest.raises(IdentityError, match=r"cannot be renewed by the CA of a\.example: .* does not hold"):
        renew_certificate(other, issued.certificate, at_ms=NOW_MS)
    assert issued.certificate.read_bytes() == before
