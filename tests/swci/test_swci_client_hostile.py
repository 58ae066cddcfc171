"""A service that lies, dribbles, floods or dies: one error of ours, in time."""

import json
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_service import FakeService, World, echo, made_world

from swarmlearning.errors import DecodeError, Refused, SwarmError, Unreachable
from swarmlearning.swci import service_calls


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with made_world(tmp_path) as made:
        yield made


def answering(world: World, data: bytes) -> FakeService:
    """A service that answers with these bytes, whatever they are, and hangs up."""

    def raw(tls: ssl.SSLSocket) -> None:
        tls.sendall(data)

    service = world.service(echo)
    service.raw = raw
    return service


def body(data: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 " + status + b"\r\nContent-Length: %d\r\n\r\n" % len(data) + data


NOT_OURS = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b'{"CONTENT": null}',
    b'{"CONTENT": "text"}',
    b'{"CONTENT": [1, 2]}',
    b'{"CONTENT": [["x"]]}',
    b'{"content": ["x"]}',
    b'{"CONTENT": ["x"]',
    b'{"CONTENT": ["\xff"]}',
    b"<html>not here</html>",
    b"[" * 1_000_000,
    b'{"a":' * 100_000,
]


@pytest.mark.parametrize("data", NOT_OURS, ids=range(len(NOT_OURS)))
def test_an_answer_of_another_form_is_refused(world: World, data: bytes) -> None:
    with pytest.raises(DecodeError, match="does not speak our protocol") as caught:
        world.swci(answering(world, body(data)), raiseErrors=True).pwd()
    assert len(str(caught.value)) < 1000
    assert len(str(caught.value).splitlines()) == 1


def test_what_a_newer_service_says_besides_is_ignored(world: World) -> None:
    data = body(b'{"CONTENT": ["x"], "more": {"a": 1}}')
    assert world.swci(answering(world, data)).pwd() == ["x"]


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x00" * 70_000,
    ],
    ids=["ssh", "no status", "many headers", "long header", "bad chunk", "zeros"],
)
def test_what_is_not_http_is_refused(world: World, data: bytes) -> None:
    with pytest.raises(SwarmError, match=r"does not speak our protocol|the connection broke") as caught:
        world.swci(answering(world, data), raiseErrors=True).pwd()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"CONTENT": ["half',
        b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"CONTENT": ["whole"]}',
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{"CONTENT": [',
    ],
    ids=["nothing", "head", "body", "a body that is said to be longer", "chunk"],
)
def test_ci60_an_answer_that_is_cut_off_is_none_and_nothing_is_sent_twice(world: World, data: bytes) -> None:
    service = answering(world, data)
    with pytest.raises(Unreachable, match="broke before CREATE CONTRACT k was answered; it may have been carried out"):
        world.swci(service, raiseErrors=True).execute("CREATE CONTRACT k")
    assert service.commands == ["CREATE CONTRACT k"]


def test_ci66_a_service_that_does_not_answer_is_given_up(world: World) -> None:
    service = world.service(echo)
    service.raw = service.stay_silent
    began_s = time.monotonic()
    with pytest.raises(Unreachable, match=r"no answer to PWD within 0\.4 s; it may have been carried out all the same"):
        world.swci(service, raiseErrors=True, timeoutInSec=0.4).pwd()
    assert time.monotonic() - began_s < 10


@pytest.mark.parametrize(
    "head", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
def test_ci66_a_service_that_dribbles_does_not_extend_the_limit(world: World, head: bytes) -> None:
    def dribble(tls: ssl.SSLSocket) -> None:
        tls.sendall(head)
        while not service.ended.wait(0.02):  # each far sooner than the limit
            tls.sendall(head if b"100" in head[:12] else b"H")

    service = world.service(echo)
    service.raw = dribble
    began_s = time.monotonic()
    with pytest.raises(SwarmError):
        world.swci(service, raiseErrors=True, timeoutInSec=0.5).pwd()
    assert 0.2 < time.monotonic() - began_s < 10


def test_ci66_a_command_that_waits_has_longer(world: World) -> None:
    def answer(command: str) -> list[str]:
        time.sleep(0.6)
        return [command]

    swci = world.swci(world.service(answer), timeoutInSec=0.4)
    assert swci.pwd() == []
    assert swci.execute("wait for taskrunner r") == ["wait for taskrunner r"]
    assert swci.sleep(1) == ["SLEEP 1"]
    assert swci.execute("PWD", timeoutInSec=20) == ["PWD"]
    assert swci.execute("WAIT FOR IP x", timeoutInSec=0.3) == []
    assert swci.execute("PWD", timeoutInSec=-1) == []
    assert "expected a number of seconds" in (swci.getErrors() or "")


@pytest.mark.parametrize("announced", [True, False])
def test_ci66_an_answer_that_is_too_large_is_not_read(
    world: World, monkeypatch: pytest.MonkeyPatch, *, announced: bool
) -> None:
    monkeypatch.setattr(service_calls, "MAX_ANSWER_BYTES", 200_000)
    sent = 0

    def flood(tls: ssl.SSLSocket) -> None:
        nonlocal sent
        tls.sendall(b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: 99999999999\r\n" if announced else b"") + b"\r\n")
        while not service.ended.is_set():
            sent += tls.send(b" " * 10_000)

    service = world.service(echo)
    service.raw = flood
    with pytest.raises(DecodeError, match="an answer of more than 200000 bytes"):
        world.swci(service, raiseErrors=True).pwd()
    service.close()
    assert sent < 50_000_000


def test_the_largest_answer_that_is_read_arrives_whole(world: World) -> None:
    lines = [f"{number:07} " + "x" * 90 for number in range(100_000)]
    assert world.swci(world.service(lambda _: lines)).listTasks() == lines


REFUSALS = [
    (b"429 Too Many", b'{"detail": "another command goes on", "code": "busy"}', "another command goes on", "busy"),
    (b"403 Forbidden", b'{"detail": "the role operator is needed", "code": "role"}', "the role operator", "role"),
    (b"500 Oops", b"<html>\x1b[31m</html>", "HTTP status 500 Internal Server Error", "http-500"),
    (b"404 No", b"", "HTTP status 404 Not Found", "http-404"),
    (b"302 Found", b"", "HTTP status 302 Found", "http-302"),
    (b"599 ?", b'{"detail": 7}', "HTTP status 599", "http-599"),
    (b"400 Bad", b'{"detail": "two\\nlines \\u001b[2J"}', "two lines", "http-400"),
]


@pytest.mark.parametrize(("status", "data", "text", "code"), REFUSALS)
def test_ci60_another_status_is_a_failure_with_its_reason(
    world: World, status: bytes, data: bytes, text: str, code: str
) -> None:
    with pytest.raises(Refused) as caught:
        world.swci(answering(world, body(data, status)), raiseErrors=True).pwd()
    assert text in str(caught.value)
    assert caught.value.code == code
    assert str(caught.value).isprintable()


def test_a_redirection_is_not_followed(world: World) -> None:
    other = world.service(echo)
    data = f"HTTP/1.1 307 Elsewhere\r\nLocation: https://127.0.0.1:{other.port}/exec\r\nContent-Length: 0\r\n\r\n"
    assert world.swci(answering(world, data.encode())).pwd() == []
    assert other.connections == 0


def test_what_a_failure_says_cannot_steer_a_terminal(world: World, caplog: pytest.LogCaptureFixture) -> None:
    data = body(json.dumps({"CONTENT": ["ERROR \x1b[2J\u202egone " + "x" * 10_000]}).encode())
    swci = world.swci(answering(world, data))
    assert swci.pwd() == []
    error = swci.getErrors() or ""
    assert error.isprintable()
    assert len(error) < 2100
    assert all(record.message.isprintable() for record in caplog.records)
    with pytest.raises(Refused) as caught:
        world.swci(answering(world, data), raiseErrors=True).pwd()
    assert str(caught.value).isprintable()
