"""A REST service for tests of `Swci`: real mutual TLS in a thread, answers as a test says; and who may speak to it."""

import contextlib
import datetime as dt
import email.parser
import email.policy
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from swarmlearning.clock import system_clock
from swarmlearning.identity.authority import Authority, create_ca, issue_certificate
from swarmlearning.swci.client import Swci
from swarmlearning.types import NodeName, Role, TrustDomain

A: Final = TrustDomain("a.example")
B: Final = TrustDomain("b.example")
NETWORK: Final = "net"
DAY_MS: Final = 86_400_000


class Files:
    """Where an identity lies."""

    def __init__(self, cert: Path, key: Path, ca: Path) -> None:
        self.cert, self.key, self.ca = str(cert), str(key), str(ca)


class Authorities:
    """Authorities of two organisations, and whatever certificates a test wants of them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.of = {
            domain: create_ca(directory / domain, domain, at_ms=system_clock() - 60 * DAY_MS) for domain in (A, B)
        }
        self._count = 0

    def issue(
        self,
        role: Role = Role.OPERATOR,
        domain: TrustDomain = A,
        *,
        network: str = NETWORK,
        name: str = "ci",
        by: Authority | None = None,
        at_ms: int = 0,
        days: int = 30,
    ) -> Files:
        """A certificate, by its organisation's authority or by one that would not ask whose it is."""
        self._count += 1
        authority = by or self.of[domain]
        unscrupulous = Authority(domain, authority.certificate, authority._key)
        node = NodeName(domain=domain, network=network, role=role, name=name)
        directory = self.directory / f"issued-{self._count}"
        made = issue_certificate(unscrupulous, node, (), directory, at_ms=at_ms or system_clock(), days=days)
        return Files(made.certificate, made.key, made.issuer)

    def issue_odd(self) -> Files:
        """An operator's certificate with an RSA key."""
        files = self.issue(name="odd")
        honest = x509.load_pem_x509_certificate(Path(files.cert).read_bytes())
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        names = honest.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        made = (
            x509.CertificateBuilder()
            .subject_name(honest.subject)
            .issuer_name(honest.issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(honest.not_valid_before_utc)
            .not_valid_after(honest.not_valid_after_utc)
            .add_extension(names, critical=False)
            .sign(self.of[A]._key, hashes.SHA256())
        )
        Path(files.cert).write_bytes(made.public_bytes(Encoding.PEM))
        Path(files.key).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return files

    def make_odd_authority(self) -> str:
        """A file with a CA certificate that has an RSA key and says nobody's name."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "odd")])
        now = dt.datetime.now(dt.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        path = self.directory / "odd.ca.pem"
        path.write_bytes(made.public_bytes(Encoding.PEM))
        return str(path)


Answer = Callable[[str], object]
"""A command line to its lines, or to whatever else `/exec` shall answer."""


class FakeService:
    """Serves `/exec` and `/uploadTaskDef` as the product's REST service does, and notes what it is asked."""

    def __init__(self, identity: Files, trusted: Sequence[str], answer: Answer) -> None:
        self.answer = answer
        self.raw: Callable[[ssl.SSLSocket], None] | None = None
        """Takes a connection over after a request was read, for answers that no server gives."""
        self.before_tls: Callable[[socket.socket], None] | None = None
        """Takes a connection over before the handshake."""
        self.status = 200
        self.commands: list[str] = []
        self.requests: list[bytes] = []
        self.uploads: list[tuple[str, bytes]] = []
        self.connections = 0
        self.callers: list[str] = []
        self.failures: list[str] = []
        self.ended = threading.Event()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.load_cert_chain(identity.cert, identity.key)
        for path in trusted:
            self._context.load_verify_locations(path)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def close(self) -> None:
        self.ended.set()
        # Closing a listener does not wake who accepts on it.
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        self._accepting.join(10)
        self._listener.close()
        for open_socket in self._sockets:
            with contextlib.suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def stay_silent(self, _connection: socket.socket) -> None:
        """For `raw` and `before_tls`."""
        self.ended.wait(60)

    def _accept(self) -> None:
        while True:
            raw, _ = self._listener.accept()
            if self.ended.is_set():
                raw.close()
                return
            self.connections += 1
            self._sockets.append(raw)
            thread = threading.Thread(target=self._serve, args=(raw,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, raw: socket.socket) -> None:
        try:
            if self.before_tls is not None:
                self.before_tls(raw)
                return
            with self._context.wrap_socket(raw, server_side=True) as tls:
                self._sockets.append(tls)
                certificate = tls.getpeercert() or {}
                names: Any = certificate.get("subjectAltName", ())
                self.callers += [value for kind, value in names if kind == "URI"]
                self._answer(tls)
        except OSError as error:
            self.failures.append(str(error))
        finally:
            raw.close()

    def _answer(self, tls: ssl.SSLSocket) -> None:
        with tls.makefile("rb") as file:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = file.readline(100_000)
                if not line:
                    return
                head += line
            first, *fields = head.decode().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
            body = file.read(int(headers.get("content-length", "0")))
        method, target, _ = first.split(" ")
        path, _, query = target.partition("?")
        assert method == "POST"
        with self._lock:
            self.requests.append(head + body)
        if path == "/exec":
            name, _, value = query.partition("=")
            assert name == "cmd"
            with self._lock:
                self.commands.append(unquote(value, errors="strict"))
            said: object = self.answer(self.commands[-1]) if self.raw is None else []
        else:
            assert path == "/uploadTaskDef"
            self.uploads.append(_read_form(headers["content-type"], body))
            said = self.answer("upload") if self.raw is None else []
        if self.raw is not None:
            self.raw(tls)
            return
        data = said if isinstance(said, bytes) else json.dumps({"CONTENT": said}).encode()
        tls.sendall(b"HTTP/1.1 %d Whatever\r\nContent-Length: %d\r\n\r\n" % (self.status, len(data)) + data)


def _read_form(content_type: str, body: bytes) -> tuple[str, bytes]:
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
        f"Content-Type: {content_type}\r\n\r\n".encode() + body
    )
    (part,) = message.iter_parts()
    assert part.get_param("name", header="content-disposition") == "file"
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return part.get_filename() or "", content


class World:
    """A service, and an operator who speaks to it."""

    def __init__(self, directory: Path) -> None:
        self.authorities = Authorities(directory)
        self.operator = self.authorities.issue(name="anna")
        self._open: list[FakeService] = []

    def service(self, answer: Answer, identity: Files | None = None) -> FakeService:
        made = FakeService(identity or self.authorities.issue(), (self.operator.ca,), answer)
        self._open.append(made)
        return made

    def swci(self, service: FakeService, **options: Any) -> Swci:
        me: Files = options.pop("identity", self.operator)
        bundle = options.pop("bundle", me.ca)
        return Swci("127.0.0.1", service.port, me.cert, me.key, bundle, **options)

    def close(self) -> None:
        for service in self._open:
            service.close()


@contextlib.contextmanager
def made_world(directory: Path) -> Iterator[World]:
    world = World(directory)
    try:
        yield world
    finally:
        world.close()


def echo(command: str) -> list[str]:
    return [f"said {command}"]
