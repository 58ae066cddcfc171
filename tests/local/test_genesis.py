"""The founding file: what goes in comes out, and what cannot found a network is refused with one clear line."""

from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from swarmlearning.cli.main import main
from swarmlearning.cli.network import network as network_command
from swarmlearning.clock import system_clock
from swarmlearning.encoding import encode, sha256
from swarmlearning.errors import ConfigurationError, IdentityError, SwarmError, VerificationError
from swarmlearning.identity.authority import Authority, create_ca, issue_certificate
from swarmlearning.identity.pem import read_certificates
from swarmlearning.identity.signing import SigningKey
from swarmlearning.local.genesis import (
    create_genesis,
    genesis_fingerprint,
    load_genesis,
    parse_organisations,
    read_public_key,
    save_genesis,
)
from swarmlearning.types import NodeName, Role, TrustDomain

NOW = system_clock()
KEY = bytes(range(32))
A, B = TrustDomain("a.example"), TrustDomain("b.example")


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> dict[TrustDomain, Authority]:
    base = tmp_path_factory.mktemp("cas")
    return {domain: create_ca(base / domain, domain, at_ms=NOW) for domain in (A, B)}


def leaf(authority: Authority, tmp_path: Path, role: Role = Role.SN, network: str = "pilot") -> Path:
    node = NodeName(domain=authority.domain, network=network, role=role, name="one")
    return issue_certificate(authority, node, ("127.0.0.1",), tmp_path, at_ms=NOW).certificate


def found(authorities: dict[TrustDomain, Authority], certificate: Path, network: str = "pilot") -> bytes:
    genesis = create_genesis(
        network=network,
        organisations={domain: (authority.certificate,) for domain, authority in authorities.items()},
        sentinel_certificate=read_certificates(certificate, "certificate")[0],
        sentinel_key=KEY,
        now_ms=NOW,
    )
    return encode(genesis)


def test_what_is_saved_is_loaded_and_fingerprinted(authorities: dict[TrustDomain, Authority], tmp_path: Path) -> None:
    genesis = create_genesis(
        network="pilot",
        organisations={B: (authorities[B].certificate,), A: (authorities[A].certificate,)},
        sentinel_certificate=read_certificates(leaf(authorities[A], tmp_path), "certificate")[0],
        sentinel_key=KEY,
        now_ms=NOW,
    )
    path = tmp_path / "genesis.bin"
    save_genesis(path, genesis)
    assert load_genesis(path) == genesis
    assert genesis_fingerprint(genesis) == sha256(path.read_bytes())
    assert genesis.sentinel == "spiffe://a.example/pilot/sn/one"
    assert [organisation.domain for organisation in genesis.organisations] == [A, B]  # whatever the order given


def test_a_founding_file_is_not_overwritten_unasked(authorities: dict[TrustDomain, Authority], tmp_path: Path) -> None:
    path = tmp_path / "genesis.bin"
    path.write_bytes(b"another network")
    genesis = create_genesis(
        network="pilot",
        organisations={A: (authorities[A].certificate,)},
        sentinel_certificate=read_certificates(leaf(authorities[A], tmp_path), "certificate")[0],
        sentinel_key=KEY,
        now_ms=NOW,
    )
    with pytest.raises(IdentityError, match="exists"):
        save_genesis(path, genesis)
    assert path.read_bytes() == b"another network"


def test_the_sentinel_must_be_an_sn_of_a_founder_in_this_network(
    authorities: dict[TrustDomain, Authority], tmp_path: Path
) -> None:
    only_b = {B: authorities[B]}
    with pytest.raises(ConfigurationError, match=r"belongs to none of: b\.example"):
        found(only_b, leaf(authorities[A], tmp_path / "1"))
    with pytest.raises(ConfigurationError, match="role sl, expected sn"):
        found(authorities, leaf(authorities[A], tmp_path / "2", Role.SL))
    with pytest.raises(ConfigurationError, match="for the network 'other', expected 'pilot'"):
        found(authorities, leaf(authorities[A], tmp_path / "3", network="other"))


def test_one_organisations_ca_cannot_name_anothers_sentinel(
    authorities: dict[TrustDomain, Authority], tmp_path: Path
) -> None:
    impostor = create_ca(tmp_path / "ca", A, at_ms=NOW)  # claims the same trust domain, with another key
    with pytest.raises(VerificationError):
        found(authorities, leaf(impostor, tmp_path))


def test_two_organisations_cannot_share_a_ca(authorities: dict[TrustDomain, Authority], tmp_path: Path) -> None:
    certificate = authorities[A].certificate
    with pytest.raises(ConfigurationError, match="each needs its own"):
        create_genesis(
            network="pilot",
            organisations={A: (certificate,), B: (certificate,)},
            sentinel_certificate=read_certificates(leaf(authorities[A], tmp_path), "certificate")[0],
            sentinel_key=KEY,
            now_ms=NOW,
        )


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"-----BEGIN CERTIFICATE-----"])
def test_what_is_no_founding_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "genesis.bin"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="is not a genesis"):
        load_genesis(path)


@pytest.mark.parametrize("entry", ["a.example", "=ca.pem", "a.example=", ""])
def test_organisations_are_domain_and_file(entry: str) -> None:
    with pytest.raises(ConfigurationError, match=r"expected DOMAIN=CA\.pem"):
        parse_organisations([entry])


def test_an_organisation_given_twice_has_both_cas(authorities: dict[TrustDomain, Authority], tmp_path: Path) -> None:
    create_ca(tmp_path / "old", A, at_ms=NOW)
    create_ca(tmp_path / "new", A, at_ms=NOW)
    entries = [f"{A}={tmp_path / which / 'ca.cert.pem'}" for which in ("old", "new")]
    assert len(set(parse_organisations(entries)[A])) == 2


def test_a_public_key_file_holds_an_ed25519_key(tmp_path: Path) -> None:
    key = SigningKey.create()
    pem = Ed25519PublicKey.from_public_bytes(key.public).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem)
    assert read_public_key(tmp_path / "key.pem") == key.public
    (tmp_path / "key.pem").write_bytes(pem.replace(b"PUBLIC", b"PUBLISHED"))
    with pytest.raises(IdentityError, match="not a PEM public key"):
        read_public_key(tmp_path / "key.pem")


def test_network_create_and_show_agree_on_the_fingerprint(
    authorities: dict[TrustDomain, Authority], tmp_path: Path
) -> None:
    (tmp_path / "a.pem").write_bytes((leaf(authorities[A], tmp_path).parent / f"{A}.ca.pem").read_bytes())
    out = tmp_path / "genesis.bin"
    arguments = ["create", "--name", "pilot", "--organisation", f"{A}={tmp_path / 'a.pem'}"]
    arguments += ["--sentinel-cert", str(tmp_path / "one.cert.pem"), "--sign-key", str(tmp_path / "sign.pem")]
    created = CliRunner().invoke(network_command, [*arguments, "--out", str(out)], catch_exceptions=False)
    fingerprint = sha256(out.read_bytes()).hex()
    assert created.output == f"{out}: fingerprint {fingerprint}\n"
    assert load_genesis(out).sentinel_key == SigningKey.load(tmp_path / "sign.pem").public
    shown = CliRunner().invoke(network_command, ["show", str(out)], catch_exceptions=False).output
    assert fingerprint in shown
    assert "a.example" in shown
    assert "spiffe://a.example/pilot/sn/one" in shown


def test_network_create_replaces_a_founding_file_only_with_force(
    authorities: dict[TrustDomain, Authority], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    certificate, out = leaf(authorities[A], tmp_path), tmp_path / "genesis.bin"
    out.write_bytes(b"another network")
    arguments = ["network", "create", "--name", "pilot", "--organisation", f"{A}={tmp_path / f'{A}.ca.pem'}"]
    arguments += ["--sentinel-cert", str(certificate), "--sign-key", str(tmp_path / "sign.pem"), "--out", str(out)]
    assert main(arguments) == 2
    assert f"{out} exists; choose another place, or overwrite it with --force" in capfd.readouterr().err
    assert out.read_bytes() == b"another network"
    assert main([*arguments, "--force"]) == 0
    assert load_genesis(out).network == "pilot"


def test_network_create_needs_exactly_one_key(tmp_path: Path, authorities: dict[TrustDomain, Authority]) -> None:
    certificate = leaf(authorities[A], tmp_path)
    arguments = ["create", "--name", "pilot", "--organisation", f"{A}={tmp_path / f'{A}.ca.pem'}"]
    arguments += ["--sentinel-cert", str(certificate), "--out", str(tmp_path / "genesis.bin")]
    for keys in ([], ["--sign-key", "k", "--sentinel-key-public", "p"]):
        result = CliRunner().invoke(network_command, [*arguments, *keys])
        assert isinstance(result.exception, SwarmError)
        assert "either --sentinel-key-public or --sign-key" in str(result.exception)
    assert not (tmp_path / "genesis.bin").exists()


def test_a_missing_founding_file_is_one_line_and_exit_2(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["network", "show", "/nowhere/genesis.bin"]) == 2
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert "/nowhere/genesis.bin" in error
