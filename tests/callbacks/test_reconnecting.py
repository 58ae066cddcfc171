"""An SL that dies and comes back, seen from the program. Rules: docs/spec/control.md."""

import logging
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_sl import FakeSl, environ, failed
from kept_lines import Lines

from swarmlearning import errors
from swarmlearning.callbacks import SessionConfig, SwarmSession, launch, wire
from swarmlearning.callbacks.connection import Connection
from swarmlearning.callbacks.launch import Attach, Launch
from swarmlearning.contracts.records import Progress, Settings
from swarmlearning.encoding import encode
from swarmlearning.parameters.manifest import lay_out
from swarmlearning.sl.control import CONTROL_VERSION, Finish, Leave, Open, Sync, Synced
from swarmlearning.types import DEFAULT_CONTRACT, Endpoint

CONFIG = SessionConfig(settings=Settings(sync_frequency=5), min_peers=2, connect_wait_s=0)


def model(value: float = 1.0) -> dict[str, Any]:
    return {"w": np.full((3, 2), value, np.float32)}


def add_round(number: int, arrays: dict[str, Any]) -> dict[str, Any]:
    return {"w": arrays["w"] + number + 1}


class Time:
    """A clock that moves only while somebody sleeps."""

    def __init__(self, on_sleep: Callable[[int], None] = lambda _: None) -> None:
        self.now = 1000.0
        self.sleeps = 0
        self._on_sleep = on_sleep

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.sleeps += 1
        self._on_sleep(self.sleeps)


def connect(door: Attach | Launch, time: Time, wait_max_s: float = 7200) -> Connection:
    """An opened connection."""
    made = Connection(
        door, {}, logging.getLogger("SwarmCallback"), wait_max_s=wait_max_s, clock=time.clock, sleep=time.sleep
    )
    manifest = lay_out(model())
    made.connect(manifest, 0)
    made.write(model())
    request = Open(
        version=CONTROL_VERSION,
        program="test",
        contract=DEFAULT_CONTRACT,
        settings=CONFIG.settings,
        min_peers=2,
        weight=1,
        restored=False,
        manifest=encode(manifest),
        file="",
    )
    made.open(request)
    return made


def attach(control: Path) -> Attach:
    return Attach(socket=control / "sl.sock", exchange=control)


@pytest.mark.parametrize("kind", [Sync, Finish])
def test_an_sl_that_dies_in_the_middle_is_asked_again_where_it_was(control: Path, kind: type, lines: Lines) -> None:
    """C-17, C-12, C-6."""
    dies: dict[type, list[int]] = {Sync: [1]} if kind is Sync else {Finish: [0]}
    with FakeSl(control, merge=add_round, dies=dies) as sl:
        with SwarmSession(CONFIG, environ=environ(sl)) as session:
            session.open(model())
            session.sync(model(1.0))
            assert (session.run, session.adopted) == (1, 0)
            result = session.sync(model(5.0), Progress(batch=9))
            assert result.arrays is not None
            assert (result.round, result.arrays["w"][0, 0]) == (1, 7.0)
            final = session.finish(model(7.0))
        assert final.sha256 == sl.results[-1].hex()
        first, again = sl.of(Open)
        assert (first.run, first.adopted) == (0, -1)
        assert (again.run, again.adopted) == (1, 0 if kind is Sync else 1)
        assert (again.contract, again.settings, again.manifest) == (first.contract, first.settings, first.manifest)
        assert again.file != first.file
        assert len(sl.of(kind)) == (3 if kind is Sync else 2)
        if kind is Sync:
            assert sl.of(Sync)[1] == sl.of(Sync)[2]
        # Nothing is left behind but the socket and the SL's own results.
        assert not list(control.glob("ml-*"))
    assert any("went away" in text for text in lines.of(logging.WARNING))
    assert any("is back" in text for text in lines.of(logging.INFO))


def test_what_the_restarted_sl_reads_is_what_was_offered(control: Path) -> None:
    """C-17."""
    with FakeSl(control, dies={Sync: [0]}) as sl, SwarmSession(CONFIG, environ=environ(sl)) as session:
        session.open(model(1.0))
        session.sync(model(8.0))
        assert [offered["w"][0, 0] for offered in sl.offered] == [8.0]


@pytest.mark.parametrize("raw", [b"", b"\x00\x00", struct.pack(">I", 50) + b"\x82"])
def test_half_an_answer_is_none(control: Path, raw: bytes) -> None:
    """C-17."""

    class Once(FakeSl):
        def _serve(self, connection: Any) -> None:
            self._replies = {} if self.of(Sync) else {Sync: raw}
            super()._serve(connection)

    with Once(control) as sl, SwarmSession(CONFIG, environ=environ(sl)) as session:
        session.open(model())
        assert session.sync(model()).round == 0
        assert len(sl.of(Sync)) == 2


def test_an_sl_that_died_while_the_program_trained_is_noticed_at_the_next_request(control: Path) -> None:
    """C-17."""
    with FakeSl(control, merge=add_round) as sl:
        session = SwarmSession(CONFIG, environ=environ(sl))
        session.open(model())
        session.sync(model())
    with FakeSl(control, merge=add_round, first_round=4) as successor, session:
        successor._number = 4
        result = session.sync(model(3.0))
        assert (result.round, successor.of(Open)[0].adopted) == (4, 0)
        assert session.adopted == 4


def test_a_dead_sl_is_waited_for_with_a_word_every_ten_seconds(control: Path, lines: Lines) -> None:
    """C-17, C-5."""
    successor: list[FakeSl] = []

    def revive(sleeps: int) -> None:
        if sleeps == 50:
            successor.append(FakeSl(control, merge=add_round).__enter__())

    time = Time(revive)
    with FakeSl(control, dies={Sync: [0]}, stays_dead=True):
        link = connect(attach(control), time)
        try:
            reply = link.ask(Sync(progress=Progress()), model(2.0))
        finally:
            link.close()
            for sl in successor:
                sl.__exit__(None, None, None)
    assert isinstance(reply, Synced)
    assert [type(request) for request in successor[0].requests] == [Open, Sync]
    waits = [text for text in lines.of(logging.INFO) if text.startswith("Waiting")]
    assert waits
    assert f"for the SL at {control / 'sl.sock'} to come back; start `swarm sl` with --control {control}" in waits[0]


def test_an_sl_that_never_comes_back_ends_the_wait_at_its_limit(control: Path) -> None:
    """C-17."""
    time = Time()
    with FakeSl(control, dies={Sync: [0]}, stays_dead=True):
        link = connect(attach(control), time, wait_max_s=90)
        with pytest.raises(errors.WaitExpired, match=r"waited 90 s \(SWARM_MAX_WAIT\) .*sl\.sock to come back.*start"):
            link.ask(Sync(progress=Progress()), model())
        link.close()
    assert 90 <= time.now - 1000 < 100


def test_an_sl_that_dies_of_every_request_ends_the_wait_too(control: Path) -> None:
    """C-17: coming back is no progress if the answer never comes."""
    time = Time()
    with FakeSl(control, dies={Sync: range(1000)}) as sl:
        link = connect(attach(control), time, wait_max_s=60)
        with pytest.raises(errors.WaitExpired, match="waited 60 s"):
            link.ask(Sync(progress=Progress()), model())
        link.close()
        assert 5 < len(sl.of(Sync)) < 20  # with pauses, not in a frenzy


def test_an_sl_that_was_back_for_long_is_waited_for_anew(control: Path) -> None:
    """C-17."""
    time = Time()

    class SlowSl(FakeSl):
        """Dies after an hour of each of its first rounds."""

        def _take(self, *given: Any) -> dict[str, Any]:
            taken = super()._take(*given)
            if len(self.of(Sync)) < 4:
                time.now += 3600
                raise ConnectionError
            return taken

    with SlowSl(control):
        link = connect(attach(control), time, wait_max_s=60)
        assert isinstance(link.ask(Sync(progress=Progress()), model()), Synced)
        link.close()
    assert time.now >= 1000 + 3 * 3600


@pytest.mark.parametrize("kind", [Open, Sync])
def test_a_failure_is_an_answer_and_is_not_asked_again(control: Path, kind: type) -> None:
    """C-7, C-17."""
    time = Time()
    dies: dict[type, list[int]] = {Sync: [0]} if kind is Open else {}

    class Restarted(FakeSl):
        """Refuses once it was opened."""

        def _serve(self, connection: Any) -> None:
            if self.of(Open):
                self._replies = {kind: failed("unreachable", "the SN does not answer")}
            super()._serve(connection)

    refusal: dict[type, Any] = {Sync: failed("unreachable", "the SN does not answer")}
    replies = refusal if kind is Sync else {}
    with Restarted(control, dies=dies, replies=replies) as sl:
        link = connect(attach(control), time)
        with pytest.raises(errors.Unreachable, match=r"^the SN does not answer$"):
            link.ask(Sync(progress=Progress()), model())
        link.close()
        assert (len(sl.of(Open)), len(sl.of(Sync))) == ((2, 1) if kind is Open else (1, 1))
    assert time.sleeps == 0


def test_a_contract_that_was_reset_meanwhile_is_told(control: Path) -> None:
    """C-17."""

    class Reset(FakeSl):
        def _serve(self, connection: Any) -> None:
            self._run_number = 1 + len(self.of(Open))
            super()._serve(connection)

    with Reset(control, dies={Sync: [0]}) as sl, SwarmSession(CONFIG, environ=environ(sl)) as session:
        session.open(model())
        with pytest.raises(errors.Refused, match=r"reset to run 2 .* trained in run 1: start it again"):
            session.sync(model())


def test_an_sl_that_is_not_there_at_first_is_an_error_within_the_connect_wait(control: Path) -> None:
    """C-6."""
    with FakeSl(control, dies={Open: [0]}) as sl:
        session = SwarmSession(CONFIG, environ=environ(sl))
        with pytest.raises(errors.Unreachable, match=r"closed the connection.*start it again") as raised:
            session.open(model())
        assert type(raised.value) is errors.Unreachable
        assert len(sl.of(Open)) == 1


def test_a_farewell_does_not_wait_for_an_sl_that_is_gone(control: Path) -> None:
    """C-17."""
    with FakeSl(control, dies={Leave: [0]}) as sl:
        session = SwarmSession(CONFIG, environ=environ(sl))
        session.open(model())
        with pytest.raises(errors.Unreachable, match="closed the connection"):
            session.leave("had enough")
        assert len(sl.of(Open)) == 1


def test_an_sl_that_is_stopped_ends_the_wait_at_its_limit(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C-5: silence does not last for ever either."""
    monkeypatch.setattr(wire, "SILENCE_S", 0.01)
    held: list[Any] = []

    class Stopped(FakeSl):
        def _take(self, *_: Any) -> Any:
            held.append(self._connection.recv(1) if self._connection else None)  # until the program hangs up
            raise ConnectionError

    with Stopped(control) as sl:
        session = SwarmSession(CONFIG, environ=environ(sl) | {"SWARM_MAX_WAIT": "0.05"})
        session.open(model())
        with pytest.raises(errors.WaitExpired, match=r"runs but has said nothing for .*SWARM_MAX_WAIT"):
            session.sync(model())
        assert len(sl.of(Open)) == 1


@pytest.mark.parametrize("text", ["soon", "-1", "0", "2d"])
def test_a_longest_wait_that_is_no_time_is_told_at_once(control: Path, text: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=f"SWARM_MAX_WAIT: duration '{text}': expected seconds"):
        SwarmSession(CONFIG, environ={"SWARM_SL": str(control), "SWARM_MAX_WAIT": text})


# --- an SL that the program started itself ----------------------------------------------------------------------


def test_an_sl_that_the_program_started_is_started_again(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C-17, C-16."""
    inner = control / "control"
    inner.mkdir(mode=0o700)
    door = Launch(sn=Endpoint(host="127.0.0.1", port=1), host="127.0.0.1", port=2, data=control)
    started: list[FakeSl] = []
    refusals = [0]

    class Process:
        """What `subprocess.Popen` gives: an SL in a thread of ours; every second one ends at once."""

        pid = 4711

        def __init__(self, *_: Any, **__: Any) -> None:
            refusals[0] += 1
            self._ends = refusals[0] % 2 == 0
            if not self._ends:
                dies: dict[type, list[int]] = {} if started else {Sync: [0]}
                started.append(FakeSl(inner, dies=dies, stays_dead=True).__enter__())

        def poll(self) -> int | None:
            return 4 if self._ends else None

    monkeypatch.setattr(subprocess, "Popen", Process)
    before = len(launch._started)
    time = Time()
    try:
        link = connect(door, time)
        reply = link.ask(Sync(progress=Progress()), model())
        link.close()
    finally:
        del launch._started[before:]
        for sl in started:
            sl.__exit__(None, None, None)
    assert isinstance(reply, Synced)
    assert (len(started), refusals[0], time.sleeps) == (2, 3, 1)
    assert [type(request) for request in started[1].requests] == [Open, Sync]
