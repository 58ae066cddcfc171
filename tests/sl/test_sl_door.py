"""The local door, with a real Unix socket and programs that misbehave. Spec: docs/spec/control.md, C-1 to C-7."""

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from sl_world import CONTRACT, SETTINGS, address, desk_of, model, name, result, training

from swarmlearning.contracts.records import Progress, Training
from swarmlearning.encoding import decode, encode
from swarmlearning.errors import (
    AddressInUse,
    Broken,
    Closed,
    ConfigurationError,
    NonFinite,
    Refused,
    SettingsMismatch,
    SwarmError,
    Unreachable,
    WaitExpired,
)
from swarmlearning.sl import door as door_module
from swarmlearning.sl.control import (
    CONTROL_VERSION,
    MAX_CONTROL_BYTES,
    ControlMessage,
    Drill,
    Drilled,
    Failed,
    Finish,
    Leave,
    Open,
    Opened,
    Over,
    Reply,
    Sync,
    Synced,
    Waiting,
)
from swarmlearning.sl.door import Door, kind_of
from swarmlearning.sl.drills import prepare
from swarmlearning.sl.participation import Participation
from swarmlearning.sl.program import SyncOutcome
from swarmlearning.sl.results import OpenResult
from swarmlearning.sn.client import SnClient
from swarmlearning.transport.api import Address
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import ContractName, Endpoint, Role

OPEN = Open(
    version=CONTROL_VERSION,
    program="train.py",
    contract=CONTRACT,
    settings=SETTINGS,
    min_peers=2,
    weight=1,
    restored=False,
    manifest=b"",
    file="own",
)
SYNC = Sync(progress=Progress())
FINISH = Finish(progress=Progress())


class Scripted(Participation):
    """A participation whose answers the test gives."""

    def __init__(self, tmp: Path, record: Training) -> None:
        network = MemoryNetwork()
        manifest, own = model(16)
        desk = desk_of(0, tmp / "desk", network, manifest, record)
        sn = SnClient(desk.client, Address(node=name(0, Role.SN).id, endpoint=Endpoint(host="sn", port=1)))
        super().__init__(desk, sn, replace(OPEN), address(0).endpoint, own)
        self.answers: asyncio.Queue[SyncOutcome | SwarmError] = asyncio.Queue()
        self.open_error: SwarmError | None = None
        self.asked: list[str] = []
        self.finishing: asyncio.Task[SyncOutcome] | None = None
        self.left = asyncio.Event()
        self.reasons: list[str] = []

    async def open(self) -> tuple[int, OpenResult | None]:
        if self.open_error is not None:
            raise self.open_error
        return 0, None

    async def _answer(self, kind: str) -> SyncOutcome:
        self.asked.append(kind)
        try:
            answer = await self.answers.get()
        except asyncio.CancelledError:
            self.asked.append("cancelled")
            raise
        if isinstance(answer, SwarmError):
            raise answer
        if answer.kind == "over":
            self.ended.set()
        return answer

    async def sync(self, progress: Progress) -> SyncOutcome:
        return await self._answer("sync")

    async def finish(self, progress: Progress) -> SyncOutcome:
        return await self._answer("finish")

    async def part(self, reason: str) -> None:
        await self.leave(reason)

    async def leave(self, reason: str) -> None:
        self.reasons.append(reason)
        self.ended.set()
        self.left.set()


def outcome(kind: Any = "synced", round_: int = 0) -> SyncOutcome:
    return SyncOutcome(kind=kind, round=round_, result=result(round_), stored=None, next_interval=7)


class Program:
    """The other side of the socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, request: ControlMessage) -> None:
        data = encode(request)
        await self.send_bytes(len(data).to_bytes(4, "big") + data)

    async def send_bytes(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self) -> Reply | None:
        """The next reply; None once the SL has closed."""
        try:
            length = int.from_bytes(await self.reader.readexactly(4), "big")
            data = await self.reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        reply: Reply = decode(data, Reply)  # type: ignore[arg-type]  # a union
        return reply

    async def ask(self, request: ControlMessage) -> Reply | None:
        """Send, and receive until something else than `Waiting` comes."""
        await self.send(request)
        while isinstance(reply := await self.receive(), Waiting):
            pass
        return reply

    def close(self) -> None:
        self.writer.close()


class House:
    """A door with a scripted participation behind it."""

    def __init__(self, tmp: Path, wait_max_s: float) -> None:
        self.participation = Scripted(tmp, training())
        self.begun: list[Open] = []
        self.refuse: SwarmError | None = None
        self.door = Door(tmp / "control", self._begin, wait_max_s=wait_max_s)

    async def _begin(self, request: Open) -> Participation:
        self.begun.append(request)
        if self.refuse is not None:
            raise self.refuse
        return self.participation

    async def connect(self) -> Program:
        reader, writer = await asyncio.open_unix_connection(self.door.path)
        return Program(reader, writer)

    async def enter(self) -> Program:
        """A program that is enrolled."""
        program = await self.connect()
        assert isinstance(await program.ask(OPEN), Opened)
        return program


async def until(condition: Callable[[], bool]) -> None:
    """Let the other side of a real socket come to the point; the caller has a time limit."""
    while not condition():  # noqa: ASYNC110  # nothing tells when a socket's other side has been seen
        await asyncio.sleep(0.005)


def run_door(tmp: Path, work: Callable[[House], Coroutine[Any, Any, None]], *, wait_max_s: float = 60.0) -> House:
    """Run `work` with an open door; whatever happened, the door still lets the next program in."""
    houses = []

    async def go() -> None:
        house = House(tmp, wait_max_s)
        houses.append(house)
        await house.door.start()
        async with asyncio.timeout(20):
            await work(house)
            house.participation.ended.clear()
            house.refuse, house.participation.open_error = None, None
            again = await house.enter()
            again.close()
            await house.participation.left.wait()
            await until(lambda: house.door.programs == 0)
        await house.door.stop()

    asyncio.run(go())
    return houses[0]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "WAITING_FIRST_S", 0.02)


def test_a_training_from_open_to_over(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        program = await house.connect()
        opened = await program.ask(OPEN)
        assert isinstance(opened, Opened)
        assert opened.peers == tuple(peer.node for peer in training().peers)
        house.participation.answers.put_nowait(outcome())
        synced = await program.ask(SYNC)
        assert isinstance(synced, Synced)
        assert synced.next_interval == 7
        house.participation.answers.put_nowait(outcome("over", 1))
        assert isinstance(await program.ask(FINISH), Over)
        assert await program.receive() is None
        program.close()

    house = run_door(tmp_path, work)
    assert house.participation.asked == ["sync", "finish"]
    assert house.participation.reasons == ["the program ended without finishing"]  # the one of the second visit


def test_c19_a_rehearsing_program_asks_for_drills_between_its_syncs(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        house.participation.desk.contract = ContractName("rehearsal/x")
        prepare(house.participation.desk)
        program = await house.enter()
        assert await program.ask(Drill(kind="slow", seconds=3)) == Drilled(fired=0, last=None)
        house.participation.answers.put_nowait(outcome())
        assert isinstance(await program.ask(SYNC), Synced)
        assert isinstance(await program.ask(Drill(kind="none")), Drilled)
        program.close()

    assert run_door(tmp_path, work).participation.asked == ["sync"]


def test_c19_a_drill_is_refused_in_a_training_and_ends_its_connection(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        program = await house.enter()
        failed = await program.ask(Drill(kind="kill", seconds=3))
        assert isinstance(failed, Failed)
        assert failed.kind == "refused"
        assert "rehearsal/" in failed.message
        assert await program.receive() is None
        program.close()

    assert run_door(tmp_path, work).participation.asked == []


def test_what_a_program_is_told_of_its_training(tmp_path: Path) -> None:
    """C-17, C-18: position and interval at the beginning; its share, the swarm's figures and the target later."""

    async def work(house: House) -> None:
        desk = house.participation.desk
        desk.journals.begin(CONTRACT, 1, OPEN)
        entry = desk.journals.get(CONTRACT, 1)
        assert entry is not None
        desk.journals.advance(entry, Progress(epoch=3, batch=30))
        desk.training = training(interval=12)
        program = await house.connect()
        opened = await program.ask(OPEN)
        assert isinstance(opened, Opened)
        assert (opened.interval, opened.newest, opened.file) == (12, -1, "")
        assert opened.position == Progress(epoch=3, batch=30)
        figures = replace(outcome(), contributed=4, recent=9, mean_loss_micro=5, mean_metric_micro=6)
        house.participation.answers.put_nowait(figures)
        synced = await program.ask(SYNC)
        assert isinstance(synced, Synced)
        assert (synced.contributed, synced.recent) == (4, 9)
        assert (synced.mean_loss_micro, synced.mean_metric_micro) == (5, 6)
        house.participation.answers.put_nowait(replace(outcome("over", 1), reached=True))
        over = await program.ask(SYNC)
        assert isinstance(over, Over)
        assert over.reached
        program.close()

    run_door(tmp_path, work)


@pytest.mark.parametrize("asked", [None, SYNC, FINISH])
def test_an_sl_that_stops_closes_and_leaves_for_nobody(
    tmp_path: Path, asked: ControlMessage | None, caplog: pytest.LogCaptureFixture
) -> None:
    """C-6, C-17: its programs see the end of the connection, and go on with the next process."""

    async def go() -> None:
        house = House(tmp_path, 60)
        await house.door.start()
        async with asyncio.timeout(20):
            program = await house.enter()
            if asked is not None:
                await program.send(asked)
                await until(lambda: house.participation.asked != [])
            await house.door.stop()
            while isinstance(reply := await program.receive(), Waiting):
                pass
            assert reply is None
            program.close()
        assert house.participation.reasons == []
        assert house.door.programs == 0

    asyncio.run(go())
    assert caplog.records == []


def test_the_socket_is_for_our_user_alone(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        assert house.door.path.stat().st_mode & 0o777 == 0o600
        assert house.door.path.parent.stat().st_mode & 0o777 == 0o700

    house = run_door(tmp_path, work)
    assert not house.door.path.exists()


GARBAGE = {
    "random bytes": os.urandom(64),
    "a web browser": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a length of 0": bytes(4),
    "a length above the limit": (MAX_CONTROL_BYTES + 1).to_bytes(4, "big"),
    "the largest length": b"\xff\xff\xff\xff",
    "a body that is no message": b"\x00\x00\x00\x03abc",
    "a message with something behind it": b"\x00\x00\x00\x02\x90\x90",
    "nothing": b"",
}


@pytest.mark.parametrize("what", GARBAGE)
@pytest.mark.parametrize("enrolled", [False, True])
def test_garbage_ends_the_connection_and_nothing_else(tmp_path: Path, what: str, enrolled: bool) -> None:
    """C-1."""

    async def work(house: House) -> None:
        program = await (house.enter() if enrolled else house.connect())
        await program.send_bytes(GARBAGE[what])
        program.writer.write_eof()
        assert await program.receive() is None
        program.close()

    house = run_door(tmp_path, work)
    assert len(house.participation.reasons) == (2 if enrolled else 1)


def test_a_huge_length_is_refused_before_its_body_is_read(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        program = await house.connect()
        await program.send_bytes((MAX_CONTROL_BYTES + 1).to_bytes(4, "big"))
        assert await program.receive() is None  # though not a byte of the body came
        program.close()

    run_door(tmp_path, work)


def test_another_version_is_told_what_to_do(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        program = await house.connect()
        failed = await program.ask(replace(OPEN, version=CONTROL_VERSION + 1))
        assert isinstance(failed, Failed)
        assert failed.kind == "configuration"
        assert "install the same release" in failed.message
        assert house.begun == []
        program.close()

    run_door(tmp_path, work)


def test_a_program_that_does_not_open_first_is_refused(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        program = await house.connect()
        failed = await program.ask(SYNC)
        assert isinstance(failed, Failed)
        assert "expected Open as the first request, got Sync" in failed.message
        program.close()

    run_door(tmp_path, work)


def test_a_second_open_ends_the_training(tmp_path: Path) -> None:
    """C-3: one connection carries one training."""

    async def work(house: House) -> None:
        program = await house.enter()
        failed = await program.ask(OPEN)
        assert isinstance(failed, Failed)
        assert "Open came twice" in failed.message
        assert house.participation.reasons == ["Open came twice; one connection carries one training"]
        program.close()

    run_door(tmp_path, work)


def test_a_request_before_the_last_was_answered_ends_the_training(tmp_path: Path) -> None:
    """C-4."""

    async def work(house: House) -> None:
        program = await house.enter()
        await program.send(SYNC)
        failed = await program.ask(SYNC)
        assert isinstance(failed, Failed)
        assert "before its last one was answered" in failed.message
        assert house.participation.asked == ["sync", "cancelled"]
        program.close()

    run_door(tmp_path, work)


@pytest.mark.parametrize(
    "error",
    [
        SettingsMismatch("grace_ms is 1 on the contract, 2 here"),
        Refused("no", code="not-allowed"),
        ConfigurationError("another program already takes part in heart through this SL"),
    ],
)
def test_an_open_that_fails_says_why(tmp_path: Path, error: SwarmError) -> None:
    async def work(house: House) -> None:
        program = await house.connect()
        house.participation.open_error = error
        failed = await program.ask(OPEN)
        assert failed == Failed(kind=kind_of(error), message=str(error))
        program.close()
        other = await house.connect()
        house.refuse = error
        assert await other.ask(OPEN) == failed
        other.close()

    run_door(tmp_path, work)


def test_what_is_waited_for_is_told_when_it_changes(tmp_path: Path) -> None:
    """C-5."""

    async def work(house: House) -> None:
        program = await house.enter()
        await program.send(SYNC)
        first = await program.receive()
        assert isinstance(first, Waiting)
        assert first.text.startswith("round 0: 0 of at least 2 peers have checked in")
        record = training(peers=training().peers[:1], version=2)
        house.participation.desk.training = record
        second = await program.receive()
        assert isinstance(second, Waiting)
        assert "1 of at least 2 peers have enrolled" in second.text
        house.participation.answers.put_nowait(outcome())
        assert isinstance(await program.receive(), Synced)
        program.close()

    run_door(tmp_path, work)


def test_a_wait_without_any_advance_expires(tmp_path: Path) -> None:
    """R-22, `--max-wait`: the program is told for whom it waited, and the peer leaves."""

    async def work(house: House) -> None:
        program = await house.enter()
        failed = await program.ask(SYNC)
        assert isinstance(failed, Failed)
        assert failed.kind == "expired"
        assert failed.message.startswith(
            "waited 0 s and no round ended (the limit is SWARM_MAX_WAIT): round 0: 0 of at least 2 peers"
        )
        assert house.participation.asked == ["sync", "cancelled"]
        assert house.participation.reasons == [failed.message]
        program.close()

    run_door(tmp_path, work, wait_max_s=0.1)


def test_a_wait_in_which_rounds_end_does_not_expire(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        program = await house.enter()
        await program.send(SYNC)
        for version in range(2, 12):
            house.participation.desk.training = training(version=version, finals=version)
            await asyncio.sleep(0.05)
        house.participation.answers.put_nowait(outcome())
        while isinstance(reply := await program.receive(), Waiting):
            pass
        assert isinstance(reply, Synced)
        program.close()

    run_door(tmp_path, work, wait_max_s=0.3)


async def killed(program: Program, *, unread: bool) -> None:
    """The program dies; with unread replies in its socket the SL sees a reset instead of an end."""
    if unread:
        transport = program.writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        transport.pause_reading()
        await asyncio.sleep(0.1)  # `Waiting` replies come and nobody reads them
    program.writer.transport.abort()


@pytest.mark.parametrize("unread", [False, True])
def test_a_program_that_dies_in_a_sync_has_left(tmp_path: Path, unread: bool) -> None:
    """C-6."""

    async def work(house: House) -> None:
        program = await house.enter()
        await program.send(SYNC)
        await killed(program, unread=unread)
        await house.participation.left.wait()
        house.participation.left.clear()

    house = run_door(tmp_path, work)
    assert house.participation.asked == ["sync", "cancelled"]
    assert house.participation.reasons[0] == "the program ended without finishing"


@pytest.mark.parametrize("unread", [False, True])
def test_the_sl_of_a_program_that_dies_in_finish_goes_on(tmp_path: Path, unread: bool) -> None:
    """C-6: a finished program may go; its SL stays until all have finished."""

    async def work(house: House) -> None:
        program = await house.enter()
        await program.send(FINISH)
        await until(lambda: house.participation.asked == ["finish"])
        await killed(program, unread=unread)
        await until(lambda: house.door.programs == 0)
        assert not house.participation.attended
        assert house.participation.asked == ["finish"]
        assert house.participation.reasons == []
        house.participation.answers.put_nowait(outcome("over"))
        await house.participation.ended.wait()

    run_door(tmp_path, work)


def test_a_polite_leave(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        program = await house.enter()
        assert await program.ask(Leave(reason="no more data")) == Over(round=-1, file="", sha256=b"", contributors=())
        assert house.participation.reasons == ["no more data"]
        program.close()

    run_door(tmp_path, work)


def test_a_failed_sync_ends_the_training(tmp_path: Path) -> None:
    async def work(house: House) -> None:
        program = await house.enter()
        house.participation.answers.put_nowait(NonFinite("tensor kernel holds NaN"))
        failed = await program.ask(SYNC)
        assert failed == Failed(kind="nonfinite", message="tensor kernel holds NaN")
        assert house.participation.reasons == ["tensor kernel holds NaN"]
        program.close()

    run_door(tmp_path, work)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (WaitExpired(""), "expired"),
        (Unreachable(""), "unreachable"),
        (Closed(""), "broken"),
        (Broken(""), "broken"),
        (ConfigurationError(""), "configuration"),
    ],
)
def test_every_error_has_its_kind(error: SwarmError, kind: str) -> None:
    """C-7."""
    assert kind_of(error) == kind


def start_and_stop(directory: Path) -> Coroutine[Any, Any, None]:
    async def begin(request: Open) -> Participation:
        raise Refused("nobody")

    async def go() -> None:
        door = Door(directory, begin, wait_max_s=1)
        await door.start()
        await door.stop()

    return go()


def test_the_socket_of_a_dead_sl_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(tmp_path / "sl.sock"))
    asyncio.run(start_and_stop(tmp_path))


def test_the_socket_of_a_living_sl_is_not(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(os.fspath(tmp_path / "sl.sock"))
        living.listen()
        with pytest.raises(AddressInUse, match="another SL already listens"):
            asyncio.run(start_and_stop(tmp_path))


def test_a_file_where_the_socket_should_be_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "sl.sock").write_text("precious")
    with pytest.raises(ConfigurationError, match="is not a socket"):
        asyncio.run(start_and_stop(tmp_path))
    assert (tmp_path / "sl.sock").read_text() == "precious"


def test_a_path_too_long_for_a_socket_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="at most 100 bytes"):
        asyncio.run(start_and_stop(tmp_path / ("x" * 120)))
