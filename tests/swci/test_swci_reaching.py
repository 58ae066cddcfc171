"""CREATE CONTEXT and WAIT FOR against a running swarm: addresses, what is tried, and what waiting cannot help."""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from swci_world import CONTEXT, B, Swarm, in_session, status_of, text_of

from swarmlearning.errors import (
    Broken,
    ConfigurationError,
    DecodeError,
    ExitCode,
    IdentityError,
    InvalidName,
    Refused,
    SwarmError,
    Unreachable,
    VerificationError,
    WaitExpired,
)
from swarmlearning.sn import asking
from swarmlearning.swci import reaching
from swarmlearning.swci.contexts import Book, FileContexts, IdentityPaths, MemoryContexts
from swarmlearning.swci.reaching import at_host, at_service, is_final, wait_for_sn
from swarmlearning.swci.running import run_line
from swarmlearning.swci.session import Collected, Session
from swarmlearning.swci.table import COMMANDS
from swarmlearning.types import Endpoint, Role


@pytest.fixture(scope="module")
def silent() -> Iterator[Endpoint]:
    """Somebody who accepts connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Endpoint(host="127.0.0.1", port=server.getsockname()[1])


@pytest.fixture
def closed() -> Endpoint:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return Endpoint(host="127.0.0.1", port=server.getsockname()[1])


@contextlib.asynccontextmanager
async def forwarding(port: int, to: Endpoint) -> AsyncIterator[None]:
    """What comes to `port` goes to another one, both ways."""

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
        sink.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward, back = await asyncio.open_connection(to.host, to.port)
        with contextlib.suppress(ConnectionError):
            await asyncio.gather(pump(reader, back), pump(onward, writer))

    async with await asyncio.start_server(join, "127.0.0.1", port):
        yield


# --- CI-12 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("10.0.0.1", None, "10.0.0.1:30304"),
        ("sn1", 30305, "sn1:30305"),
        ("10.0.0.1:7", None, "10.0.0.1:7"),
        ("::1", None, "[::1]:30304"),
        ("[::1]", 9, "[::1]:9"),
    ],
)
def test_ci12_an_ip_may_be_a_hosts_name_and_has_a_port(host: str, port: int | None, expected: str) -> None:
    assert str(at_host(host, port)) == expected


def test_ci12_a_service_may_have_a_port() -> None:
    assert str(at_service("api.sn.example")) == "api.sn.example:30304"
    assert str(at_service("api.sn.example:443")) == "api.sn.example:443"
    for wrong in ("api.sn.example:https", "a b", ""):
        with pytest.raises(InvalidName):
            at_service(wrong)
    with pytest.raises(InvalidName, match="port 70000: expected 1-65535"):
        at_host("sn1", 70000)


def test_ci12_a_context_is_kept_once_its_sn_has_told_its_status(swarm: Swarm, tmp_path: Path) -> None:
    kept = FileContexts(tmp_path / "contexts.json")
    where = swarm.sn()

    async def work(session: Session, _said: Collected) -> list[str]:
        session.contexts, session.keeps_identity = kept, True
        lines = [
            f"CREATE CONTEXT heart WITH IP {where.host} {where.port}",
            "SET CONTEXT ENV V 1",
            f"CREATE CONTEXT lung WITH SERVICE localhost:{where.port}",
            "LIST CONTEXTS",
            "GET CONTEXT INFO",
            "GET CONTEXT VERSION",
            "LIST CONTEXT ENV",
            "GET CONTEXT ENV heart V",
            "GET CONTEXT ENV W",
            f"CREATE CONTEXT heart WITH IP {where.host} {where.port}",
            "LIST CONTEXT ENV heart",
            "SWITCH CONTEXT lung",
            "DELETE CONTEXT heart",
            "GET CONTEXT INFO heart",
        ]
        return [text_of(await run_line(COMMANDS, session, line)) for line in lines]

    said = in_session(swarm, work)
    operator = swarm.identity()
    speaker = "IDENTITY : spiffe://a.example/local/operator/ci-operator"
    assert said[0] == f"API Server is UP!\n{speaker}\nCONTEXT CREATED : heart"
    assert said[2] == f"API Server is UP!\n{speaker}\nCONTEXT CREATED : lung"
    assert said[3] == "heart\nlung"
    assert said[4].splitlines() == [
        "CONTEXT : heart",
        f"API SERVER : {where}",
        "DEFAULT : yes",
        "IDENTITY : spiffe://a.example/local/operator/ci-operator",
        f"CERTIFICATE : {operator.cert}",
        "VARIABLES : 1",
    ]
    assert said[5] == "API SERVER VERSION : 0.1.0\nSWCI VERSION : 0.1.0"
    assert said[6:9] == ["V=1", "V=1", "ERROR context heart has no variable W; there are: V"]
    assert said[10] == "V=1", "one of that name is replaced, but keeps its variables"
    assert said[11] == "DEFAULT CONTEXT SET TO : lung"
    assert said[12] == "CONTEXT DELETED : heart"
    assert said[13] == "ERROR there is no context heart; there are: lung"
    assert kept.load().current == "lung"
    assert kept.load().contexts[0].identity == operator


def test_ci12_nobody_there_is_said_with_what_was_tried_and_for_how_long(swarm: Swarm, closed: Endpoint) -> None:
    (done,) = swarm.say(f"CREATE CONTEXT heart WITH IP {closed.host} {closed.port}")
    assert status_of(done) is ExitCode.UNREACHABLE
    tried = r"tried a TLS handshake for \d\.\d s of at most 10 s"
    assert re.match(rf"ERROR SN {closed} does not answer: {tried} \({closed}: Connection refused;", text_of(done))


def test_ci12_who_says_nothing_is_waited_for_until_the_limit(
    swarm: Swarm, silent: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "CONNECT_S", 0.2)
    (done,) = swarm.say(f"CREATE CONTEXT heart WITH IP {silent.host} {silent.port}")
    assert re.match(rf"ERROR SN {silent} does not answer: tried a TLS handshake for \d\.\d s", text_of(done))
    assert "did not shake hands within 0.2 s" in text_of(done)


def test_ci12_another_organisations_sn_is_no_context_of_ours(swarm: Swarm) -> None:
    where = swarm.sn(B)
    created, listed = swarm.say(f"CREATE CONTEXT heart WITH IP {where.host} {where.port}", "LIST CONTEXTS")
    assert status_of(created) is ExitCode.PEER
    assert "no certificate of our organisation's CAs" in text_of(created)
    assert text_of(listed) == CONTEXT


# --- CI-13 ----------------------------------------------------------------------------------------------------------


def test_ci13_waiting_ends_when_the_sn_comes_up(
    swarm: Swarm, closed: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaching, "EVERY_S", 0.05)

    async def main() -> list[str]:
        told: asyncio.Queue[str] = asyncio.Queue()
        source = swarm.identity().source()
        waiting = asyncio.create_task(wait_for_sn(source, closed, 100_000, told.put_nowait))
        said = [await told.get(), await told.get()]
        async with forwarding(closed.port, swarm.sn()):
            reached = await waiting
        assert reached.tries > 1
        assert reached.sn == "spiffe://a.example/local/sn/sn"
        assert reached.address == str(closed)
        return said

    waits_for, reason = asyncio.run(main())
    assert waits_for == f"WAITING FOR API SERVER {closed} - Maximum wait time is : 1 h 23 min"
    assert reason.startswith(f"not yet, 1 of 100000 tries: {closed}: Connection refused")


def test_ci13_by_default_it_is_half_an_hour(swarm: Swarm, closed: Endpoint) -> None:
    async def work(session: Session, _said: Collected) -> list[str]:
        told: asyncio.Queue[str] = asyncio.Queue()
        session.output = Collected(told.put_nowait)
        waiting = asyncio.create_task(run_line(COMMANDS, session, f"WAIT FOR IP {closed.host} {closed.port}"))
        said = [await told.get(), await told.get()]
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return said

    first, second = in_session(swarm, work)
    assert first == f"WAITING FOR API SERVER {closed} - Maximum wait time is : 30 min"
    assert second.startswith("not yet, 1 of 360 tries: ")


def test_ci13_when_the_tries_are_used_up_it_is_said_what_was_tried(
    swarm: Swarm, closed: Endpoint, silent: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaching, "EVERY_S", 0.05)
    done, none = swarm.say(f"WAIT FOR SERVICE {closed} 3", f"WAIT FOR SERVICE {closed} 0")
    monkeypatch.setattr(reaching, "TRY_S", 0.05)
    (slow,) = swarm.say(f"WAIT FOR IP {silent.host} {silent.port} 1")
    assert status_of(done) is ExitCode.UNREACHABLE
    tried = r"tried a TLS handshake and its status 3 times in \d s"
    assert re.match(
        rf"ERROR the API server {closed} did not come up: {tried}; the last time: {closed}: Connection refused",
        text_of(done),
    )
    assert re.search(rf" once in \d s; the last time: {silent} did not answer within 0\.05 s$", text_of(slow))
    assert text_of(none) == "ERROR 0 retries; expected 1-1000000"


def test_ci13_an_sn_of_another_organisation_ends_the_wait_at_once(swarm: Swarm) -> None:
    (done,) = swarm.say(f"WAIT FOR SERVICE {swarm.sn(B)}")
    assert status_of(done) is ExitCode.PEER


def test_ci13_an_identity_that_is_missing_ends_the_wait_at_once(swarm: Swarm) -> None:
    async def work(session: Session, said: Collected) -> str:
        session.identity = replace(swarm.identity(), cert="/nowhere.pem")
        session.contexts = MemoryContexts(Book())
        line = await run_line(COMMANDS, session, f"WAIT FOR SERVICE {swarm.sn()}")
        assert len(said.lines) == 1, "what it waits for, and no try"
        return text_of(line)

    assert in_session(swarm, work).startswith("ERROR certificate /nowhere.pem: cannot be read")


def test_ci13_a_wait_needs_no_context_but_an_identity(swarm: Swarm) -> None:
    async def work(session: Session, _said: Collected) -> list[str]:
        session.contexts = MemoryContexts(Book())
        with_identity = await run_line(COMMANDS, session, f"WAIT FOR SERVICE {swarm.sn()}")
        session.identity = IdentityPaths()
        without = await run_line(COMMANDS, session, f"WAIT FOR SERVICE {swarm.sn()}")
        return [text_of(with_identity), text_of(without)]

    with_identity, without = in_session(swarm, work)
    assert with_identity == "API Server is UP!"
    assert without.startswith("ERROR own identity: --cert (SWARM_ID_CERT)")


def test_ci13_a_reason_that_stays_the_same_is_said_once_a_minute(
    swarm: Swarm, closed: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaching, "EVERY_S", 0.0)

    async def work(session: Session, said: Collected) -> list[list[str]]:
        await run_line(COMMANDS, session, f"WAIT FOR SERVICE {closed} 5")
        once, said.lines = said.lines, []
        monkeypatch.setattr(reaching, "REMIND_S", 0.0)
        await run_line(COMMANDS, session, f"WAIT FOR SERVICE {closed} 5")
        return [once, said.lines]

    once, always = in_session(swarm, work)
    assert [line.split(":")[0] for line in once[1:]] == ["not yet, 1 of 5 tries"]
    assert [line.split(":")[0] for line in always[1:]] == [f"not yet, {number} of 5 tries" for number in range(1, 6)]


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (Unreachable("nobody listens"), False),
        (WaitExpired("no answer"), False),
        (Refused("not yet"), False),
        (Refused("your certificate is revoked", code="certificate"), True),
        (VerificationError("another organisation's"), True),
        (DecodeError("something else's port"), True),
        (IdentityError("expired"), True),
        (ConfigurationError("an SL's port"), True),
        (Broken("a bug"), True),
    ],
)
def test_ci13_what_waiting_cannot_help_ends_it(error: SwarmError, final: bool) -> None:
    assert is_final(error) == final


def test_ci8_an_identity_that_was_just_asked_for_counts_before_the_contexts_until_one_switches(
    swarm: Swarm, tmp_path: Path
) -> None:
    where = swarm.sn()
    as_operator = [*swarm.options(), "-c"]
    made = swarm.ci(*as_operator, f"CREATE CONTEXT heart WITH IP {where.host} {where.port}", config=tmp_path)
    assert made.returncode == ExitCode.OK, made.stderr
    as_sl = swarm.options(Role.SL)
    asked = swarm.ci(*as_sl, "-c", "CREATE CONTRACT of-an-sl", config=tmp_path)
    assert b"has the role sl; this needs the role operator" in asked.stderr
    switched = swarm.ci(*as_sl, "-c", "SWITCH CONTEXT heart", "-c", "GET CONTEXT INFO", config=tmp_path)
    assert b"IDENTITY : spiffe://a.example/local/operator/ci-operator" in switched.stdout


def test_an_empty_value_removes_a_variable(swarm: Swarm) -> None:
    said = [text_of(done) for done in swarm.say("SET CONTEXT ENV V 1", 'SET CONTEXT ENV V ""', "LIST CONTEXT ENV")]
    assert said == ["V=1", "V=", ""]
