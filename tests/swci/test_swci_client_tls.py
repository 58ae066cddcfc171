"""Whom `Swci` speaks to and as whom: every server that is not the own organisation's command interface is an attack."""

import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_service import DAY_MS, NETWORK, A, B, FakeService, Files, World, echo, made_world

from swarmlearning.clock import system_clock
from swarmlearning.errors import (
    ConfigurationError,
    IdentityError,
    Refused,
    SwarmError,
    Unreachable,
    VerificationError,
)
from swarmlearning.identity.authority import create_ca
from swarmlearning.swci import Swci, service_tls
from swarmlearning.swci.service_tls import Deadline
from swarmlearning.types import Role


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with made_world(tmp_path) as made:
        yield made


@pytest.fixture(autouse=True)
def no_identity_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CERT", "KEY", "CACERT", "CAPATH"):
        monkeypatch.delenv(f"SWARM_ID_{name}", raising=False)


def bundle(world: World, *paths: str) -> str:
    path = world.authorities.directory / "bundle.pem"
    path.write_bytes(b"".join(Path(one).read_bytes() for one in paths))
    return str(path)


def refused_before_a_byte_was_sent(service: FakeService, swci: Swci) -> str:
    """The error of a call to an impostor; the request must not have reached it."""
    with pytest.raises(VerificationError) as caught:
        swci.execute("CREATE CONTRACT secret")
    service.close()
    assert service.requests == []
    assert service.commands == []
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# --- the server -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [Role.SN, Role.SL, Role.SWOP, Role.AUDITOR])
def test_ci61_a_node_of_ours_in_another_role_is_no_command_interface(world: World, role: Role) -> None:
    service = world.service(echo, world.authorities.issue(role, name="one"))
    error = refused_before_a_byte_was_sent(service, world.swci(service, raiseErrors=True))
    assert error == (
        f"command interface 127.0.0.1:{service.port} is not ours: expected an operator of a.example in the network "
        f"net, got spiffe://a.example/net/{role.value}/one"
    )


def test_ci61_another_networks_operator_is_not_ours(world: World) -> None:
    service = world.service(echo, world.authorities.issue(network="other"))
    error = refused_before_a_byte_was_sent(service, world.swci(service, raiseErrors=True))
    assert "got spiffe://a.example/other/operator/ci" in error


def test_ci61_another_organisations_operator_is_not_ours_though_its_authority_is_in_the_bundle(world: World) -> None:
    theirs = world.authorities.issue(domain=B)
    service = world.service(echo, theirs)
    both = bundle(world, world.operator.ca, theirs.ca)
    refused_before_a_byte_was_sent(service, world.swci(service, raiseErrors=True, bundle=both))


def test_ci62_another_organisations_authority_in_the_bundle_cannot_name_our_operator(world: World) -> None:
    forged = world.authorities.issue(by=world.authorities.of[B])
    theirs = world.authorities.issue(domain=B)
    service = world.service(echo, forged)
    both = bundle(world, world.operator.ca, theirs.ca)
    refused_before_a_byte_was_sent(service, world.swci(service, raiseErrors=True, bundle=both))


def test_ci62_of_a_directory_of_authorities_only_ours_can_name_our_operator(world: World, tmp_path: Path) -> None:
    forged = world.authorities.issue(by=world.authorities.of[B])
    theirs = world.authorities.issue(domain=B)
    directory = tmp_path / "capath"
    directory.mkdir()
    shutil.copy(world.operator.ca, directory / "a.pem")
    shutil.copy(theirs.ca, directory / "b.pem")
    service, honest = world.service(echo, forged), world.service(echo)
    refused_before_a_byte_was_sent(service, world.swci(service, raiseErrors=True, bundle=directory))
    assert world.swci(honest, bundle=directory).pwd() == ["said PWD"]


def test_ci61_an_authority_that_nobody_knows_is_not_believed(world: World, tmp_path: Path) -> None:
    unknown = create_ca(tmp_path / "unknown", A, at_ms=system_clock())
    service = world.service(echo, world.authorities.issue(by=unknown))
    error = refused_before_a_byte_was_sent(service, world.swci(service, raiseErrors=True))
    assert "did not prove who it is" in error
    assert "expected an operator of a.example, by an authority of clientCABundle" in error


def test_ci61_an_expired_certificate_is_not_believed(world: World) -> None:
    old = world.authorities.issue(at_ms=system_clock() - 10 * DAY_MS, days=2)
    service = world.service(echo, old)
    error = refused_before_a_byte_was_sent(service, world.swci(service, raiseErrors=True))
    assert "certificate has expired" in error


def test_ci61_a_certificate_that_only_openssl_accepts_is_not_believed(world: World) -> None:
    """Ours by chain and name, but of a form that no node of ours has: what nodes would refuse is refused here too."""
    odd = world.authorities.issue_odd()
    service = world.service(echo, odd)
    error = refused_before_a_byte_was_sent(service, world.swci(service, raiseErrors=True))
    assert "expected ECDSA P-256 or Ed25519" in error


def test_ci61_a_server_without_tls_gets_nothing(world: World) -> None:
    received: list[bytes] = []

    def plain(raw: socket.socket) -> None:
        received.append(raw.recv(65536))
        raw.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"CONTENT": []}')

    service = world.service(echo)
    service.before_tls = plain
    with pytest.raises(Unreachable, match=r"no TLS 1\.3 there"):
        world.swci(service, raiseErrors=True).pwd()
    service.close()
    assert b"POST" not in received[0]


def test_ci61_a_connection_that_broke_before_the_handshake_is_never_used(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python wraps it without a handshake, and what is sent through it then would be plain."""

    def broken(endpoint: object, deadline: Deadline) -> socket.socket:
        return socket.socket()

    service = world.service(echo)
    swci = world.swci(service, raiseErrors=True)
    monkeypatch.setattr(service_tls, "_dial", broken)
    with pytest.raises(Unreachable, match=r"no connection \(the connection broke before the handshake\)"):
        swci.pwd()


def test_ci61_older_tls_is_not_spoken(world: World) -> None:
    service = world.service(echo)
    service._context.minimum_version = ssl.TLSVersion.TLSv1_2
    service._context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(Unreachable, match=r"no TLS 1\.3 there"):
        world.swci(service, raiseErrors=True).pwd()


def test_ci61_the_address_may_be_any_name(world: World) -> None:
    service = world.service(echo)
    me = world.operator
    swci = Swci("localhost", service.port, me.cert, me.key, me.ca)
    assert swci.pwd() == ["said PWD"]


# --- ourselves ------------------------------------------------------------------------------------------------------


def test_without_an_identity_it_says_what_is_missing() -> None:
    with pytest.raises(IdentityError) as caught:
        Swci("127.0.0.1")
    assert str(caught.value) == (
        "Swci: clientCert (SWARM_ID_CERT), clientPKey (SWARM_ID_KEY), clientCABundle (SWARM_ID_CACERT, "
        "SWARM_ID_CAPATH) not given; name the PEM files of an operator of your organisation (make them with "
        "`swarm cert issue --role operator`)"
    )


def test_a_program_without_certificates_in_it_runs_with_those_of_the_environment(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs for the product often give none."""
    me = world.operator
    monkeypatch.setenv("SWARM_ID_CERT", me.cert)
    monkeypatch.setenv("SWARM_ID_KEY", me.key)
    monkeypatch.setenv("SWARM_ID_CACERT", me.ca)
    assert Swci("127.0.0.1", port=world.service(echo).port).pwd() == ["said PWD"]


def test_certificate_and_key_may_be_one_file(world: World, tmp_path: Path) -> None:
    me, service = world.operator, world.service(echo)
    for order in ((me.cert, me.key), (me.key, me.cert)):
        path = tmp_path / "both.pem"
        path.write_bytes(b"".join(Path(one).read_bytes() for one in order))
        path.chmod(0o600)
        swci = Swci("127.0.0.1", service.port, clientCert=path, clientCABundle=me.ca)
        assert swci.pwd() == ["said PWD"]


@pytest.mark.parametrize("missing", ["cert", "key", "ca"])
def test_a_missing_file_is_named(world: World, missing: str) -> None:
    me = world.operator
    setattr(me, missing, "/nowhere/x.pem")
    with pytest.raises(IdentityError, match=r"/nowhere/x\.pem: cannot be read \(No such file or directory\)"):
        Swci("127.0.0.1", 1, me.cert, me.key, me.ca)


def test_an_expired_certificate_of_ours_is_told_at_once_with_its_dates(world: World) -> None:
    me = world.authorities.issue(at_ms=system_clock() - 10 * DAY_MS, days=2)
    with pytest.raises(IdentityError, match=r"expired on .* renew it"):
        Swci("127.0.0.1", 1, me.cert, me.key, me.ca)


def test_a_bundle_of_other_organisations_alone_is_refused(world: World) -> None:
    theirs = world.authorities.issue(domain=B)
    with pytest.raises(IdentityError, match=r"none of the 1 authorities of a\.example"):
        Swci("127.0.0.1", 1, world.operator.cert, world.operator.key, theirs.ca)


def test_a_bundle_with_an_authority_of_no_form_that_we_use_is_refused_by_name(world: World) -> None:
    path = bundle(world, world.operator.ca, world.authorities.make_odd_authority())
    with pytest.raises(IdentityError, match=r"^CA certificates: CA certificate CN=odd: key RSA 2048, expected ECDSA"):
        Swci("127.0.0.1", 1, world.operator.cert, world.operator.key, path)


@pytest.mark.parametrize("port", [0, 70000, "30306", True, None])
def test_a_port_that_is_none_is_refused(world: World, port: object) -> None:
    me = world.operator
    with pytest.raises(ConfigurationError, match="port"):
        Swci("127.0.0.1", port, me.cert, me.key, me.ca)  # type: ignore[arg-type]  # what the test is about


def replace(target: Files, source: Files) -> None:
    """As a renewal does: new files in place of the old ones, whole."""
    for name in ("key", "cert"):
        copy = Path(getattr(source, name)).with_suffix(".copy")
        shutil.copy(getattr(source, name), copy)
        copy.replace(getattr(target, name))


def test_ci62_a_renewed_certificate_is_used_with_the_next_command(world: World) -> None:
    service = world.service(echo)
    swci = world.swci(service)
    assert swci.pwd() == ["said PWD"]
    replace(world.operator, world.authorities.issue(name="berta"))
    assert swci.pwd() == ["said PWD"]
    assert [caller.rpartition("/")[2] for caller in service.callers] == ["anna", "berta"]


def test_ci62_a_spoilt_certificate_is_reported_and_the_old_one_kept(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    service = world.service(echo)
    swci = world.swci(service)
    Path(world.operator.cert).write_text("spoilt")
    assert swci.pwd() == swci.pwd() == ["said PWD"]
    assert [record.message for record in caplog.records if "the old one stays in use" in record.message][1:] == []
    assert "the old one stays in use" in caplog.text


# --- refused by the server ------------------------------------------------------------------------------------------


def test_a_service_that_does_not_know_our_authority_says_so(world: World) -> None:
    mine = world.authorities.issue(domain=B, name="eve")
    service = FakeService(world.authorities.issue(domain=B), (world.operator.ca,), echo)
    try:
        with pytest.raises(SwarmError, match="refused our certificate") as caught:
            world.swci(service, identity=mine, raiseErrors=True).pwd()
        assert isinstance(caught.value, Refused)
        assert "that its role is operator" in str(caught.value)
    finally:
        service.close()


def test_a_reason_that_a_service_gives_for_refusing_us_is_told(world: World) -> None:
    """As nodes do it: an answer before any request, then the end of the connection."""
    from swarmlearning.transport.wire import CERTIFICATE, Failure, encode_failure

    def refuse(tls: ssl.SSLSocket) -> None:
        body = encode_failure(Failure(kind="VerificationError", code=CERTIFICATE, message="a.example may not hold it"))
        tls.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)

    service = world.service(echo)
    service.raw = refuse
    with pytest.raises(Refused, match=r"refused our certificate \(a\.example may not hold it\)") as caught:
        world.swci(service, raiseErrors=True).pwd()
    assert caught.value.code == CERTIFICATE


# --- nobody there ---------------------------------------------------------------------------------------------------


def test_a_service_that_is_not_there_is_told_with_its_address(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    me = world.operator
    swci = Swci("127.0.0.1", port, me.cert, me.key, me.ca)
    assert swci.pwd() == []
    assert swci.getErrors() == (
        f"ERROR command interface 127.0.0.1:{port}: the connection was refused; is `swarm ci --web` running there, "
        "and is this its address?"
    )


def test_a_name_that_nobody_knows_is_told(world: World) -> None:
    me = world.operator
    swci = Swci("no-such-host.invalid", 30306, me.cert, me.key, me.ca)
    assert swci.pwd() == []
    assert "the name no-such-host.invalid is not known here" in (swci.getErrors() or "")


@pytest.mark.parametrize("host", ["a..b", "x" * 70 + ".example", "hö\u00adst..example"])
def test_a_host_that_is_no_name_is_an_error_of_ours(world: World, host: str) -> None:
    me = world.operator
    with pytest.raises(SwarmError, match=r"no host's name|not known here"):
        Swci(host, 30306, me.cert, me.key, me.ca, raiseErrors=True).pwd()


def test_ci66_a_service_that_never_shakes_hands_is_given_up(world: World) -> None:
    service = world.service(echo)
    service.before_tls = service.stay_silent
    began_s = time.monotonic()
    with pytest.raises(Unreachable, match=r"no connection within 0\.3 s"):
        world.swci(service, raiseErrors=True, timeoutInSec=0.3).pwd()
    assert time.monotonic() - began_s < 10


def test_the_network_of_the_certificate_counts(world: World) -> None:
    assert NETWORK == "net"  # the operator's; a certificate of another network reaches that network's service
    elsewhere = world.authorities.issue(network="other", name="anna")
    service = world.service(echo, world.authorities.issue(network="other"))
    assert world.swci(service, identity=elsewhere).pwd() == ["said PWD"]
