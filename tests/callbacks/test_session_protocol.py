"""`SwarmSession` against an SL that behaves, and one that does not. Rules: docs/spec/control.md."""

import logging
import os
import socket
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_sl import ME, OTHER, FakeSl, Figures, environ, failed
from kept_lines import Lines

from swarmlearning import errors
from swarmlearning.callbacks import SessionConfig, SwarmSession, wire
from swarmlearning.callbacks.exchange import ExchangeFile, check_directory, model_hash, read_result
from swarmlearning.callbacks.logs import WaitLog
from swarmlearning.contracts.records import Adaptive, Progress, Settings, Target
from swarmlearning.encoding import encode, sha256
from swarmlearning.errors import ConfigurationError
from swarmlearning.parameters.manifest import lay_out
from swarmlearning.sl.control import MAX_CONTROL_BYTES, Finish, Leave, Open, Opened, Over, Sync, Waiting
from swarmlearning.types import ContractName

CONFIG = SessionConfig(settings=Settings(sync_frequency=5), min_peers=2, connect_wait_s=0)


def model(value: float = 1.0) -> dict[str, Any]:
    return {"w": np.full((3, 2), value, np.float32), "n": np.array(4, np.int64)}


def test_a_whole_training_brings_arrays_both_ways(control: Path) -> None:
    """C-3, C-8, C-10, C-14."""
    with FakeSl(control, merge=lambda r, a: {"w": a["w"] + r + 1, "n": a["n"]}, interval=7) as sl:
        with SwarmSession(CONFIG, environ=environ(sl)) as session:
            assert session.open(model()) is None
            assert (session.node, session.peers) == (ME, (ME, OTHER))
            first = session.sync(model(2.0), Progress(batch=5))
            assert first.arrays is not None
            assert first.arrays["w"].tolist() == [[3.0, 3.0]] * 3
            assert first.arrays["n"].dtype == np.int64
            assert (first.round, first.next_interval, first.over) == (0, 7, False)
            assert (first.contributors, first.bytes_received, first.bytes_sent) == ((ME, OTHER), 7, 9)
            assert first.sha256 == model_hash(first.arrays) == sl.results[0].hex()
            final = session.finish(model(5.0))
        assert final.arrays is not None
        assert final.arrays["w"][0, 0] == 7.0
        assert final.sha256 == sl.results[1].hex()
        assert [type(request) for request in sl.requests] == [Open, Sync, Finish]
        assert sl.of(Sync)[0].progress.batch == 5
        opened: Open = sl.of(Open)[0]
        assert (opened.min_peers, opened.settings.sync_frequency, opened.weight) == (2, 5, 1)


def test_the_own_file_is_private_fully_allocated_and_gone_after_close(control: Path) -> None:
    """C-8, C-12."""
    manifest = lay_out({"w": np.zeros(100_000, np.float32)})
    with ExchangeFile(control, manifest) as file:
        status = (control / file.name).stat()
        assert status.st_mode & 0o777 == 0o600
        assert status.st_size == manifest.size
        assert status.st_blocks * 512 >= manifest.size
    assert list(control.iterdir()) == []
    with pytest.raises(errors.Closed):
        file.write({"w": np.zeros(100_000, np.float32)})


def test_the_own_file_is_gone_even_if_the_program_forgets_to_close(control: Path) -> None:
    """C-12."""
    file = ExchangeFile(control, lay_out(model()))
    assert len(list(control.iterdir())) == 1
    del file
    assert list(control.iterdir()) == []


def test_a_late_program_gets_the_newest_model(control: Path) -> None:
    """C-13."""
    with FakeSl(control, newest=model(9.0), first_round=4) as sl, SwarmSession(CONFIG, environ=environ(sl)) as session:
        newest = session.open(model())
        assert newest is not None
        assert newest["w"][0, 0] == 9.0
        assert session.sync(model()).round == 4


def test_a_void_round_brings_no_arrays(control: Path) -> None:
    """C-14."""
    with FakeSl(control, merge=lambda *_: None) as sl, SwarmSession(CONFIG, environ=environ(sl)) as session:
        session.open(model())
        result = session.sync(model())
        assert (result.arrays, result.sha256, result.over) == (None, "", False)


def test_what_an_answer_says_of_the_swarm_reaches_the_program(control: Path) -> None:
    figures = Figures(contributed=(3,), recent=8, loss_micro=1_250_000, metric_micro=-500_000)
    position = Progress(epoch=3, batch=40)
    with FakeSl(control, figures=figures, position=position, interval_now=9, run=6, reached=True) as sl:
        session = SwarmSession(CONFIG, environ=environ(sl))
        assert (session.run, session.adopted, session.interval) == (0, -1, 5)
        session.open(model())
        assert (session.run, session.position, session.interval) == (6, position, 9)
        result = session.sync(model())
        assert (result.contributed, result.recent) == (3, 8)
        assert (result.mean_loss, result.mean_metric) == (1.25, -0.5)
        assert not result.reached
        assert session.finish(model()).reached
        assert session.finish(model()).reached


def test_a_program_may_keep_its_figures_from_the_ledger(control: Path) -> None:
    """C-18."""
    with FakeSl(control) as sl:
        for share in (True, False):
            config = SessionConfig(min_peers=2, share=share)
            with SwarmSession(config, environ=environ(sl)) as session:
                session.open(model())
        assert [request.share for request in sl.of(Open)] == [True, False]


def test_over_in_answer_to_a_sync_ends_the_training_without_a_finish(control: Path) -> None:
    """C-15."""
    with FakeSl(control, over_at=0) as sl, SwarmSession(CONFIG, environ=environ(sl)) as session:
        session.open(model())
        result = session.sync(model(3.0))
        assert result.over
        assert result.next_interval == 0
        assert session.finish(model(8.0)).sha256 == result.sha256 == sl.results[0].hex()
        assert sl.of(Finish) == []


def test_leaving_is_polite_and_closes(control: Path) -> None:
    with FakeSl(control) as sl:
        session = SwarmSession(CONFIG, environ=environ(sl))
        session.open(model())
        session.leave("had enough")
        assert sl.of(Leave)[0].reason == "had enough"
        with pytest.raises(errors.Closed):
            session.sync(model())


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("configuration", errors.ConfigurationError),
        ("settings", errors.SettingsMismatch),
        ("model", errors.ModelMismatch),
        ("nonfinite", errors.NonFinite),
        ("refused", errors.Refused),
        ("unreachable", errors.Unreachable),
        ("expired", errors.WaitExpired),
        ("broken", errors.Broken),
    ],
)
def test_failed_is_raised_as_its_error_and_closes(control: Path, kind: str, error: type[Exception]) -> None:
    """C-7."""
    with FakeSl(control, replies={Sync: failed(kind, "what happened")}) as sl:
        session = SwarmSession(CONFIG, environ=environ(sl))
        session.open(model())
        with pytest.raises(error, match=r"^what happened; the parameters as they stood are in ") as raised:
            session.sync(model())
        assert type(raised.value) is error
        with pytest.raises(errors.Closed):
            session.sync(model())
        assert [path.name for path in control.iterdir()] == ["sl.sock"]


def frame(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (frame(b"\xc1garbage"), "malformed|Reply|Union"),
        (frame(b""), "frame of 0 bytes"),
        (struct.pack(">I", MAX_CONTROL_BYTES + 1), f"frame of {MAX_CONTROL_BYTES + 1} bytes"),
        (b"\xff\xff\xff\xff", "frame of 4294967295 bytes"),
        (frame(encode(Leave(reason="x"))), "Leave"),
        (frame(encode({"type": "Waiting", "text": "x", "more": 1})), "unknown field"),
    ],
)
def test_garbage_from_the_sl_ends_the_connection(control: Path, raw: bytes, text: str) -> None:
    """C-1."""
    with FakeSl(control, replies={Open: raw}) as sl:
        session = SwarmSession(CONFIG, environ=environ(sl))
        with pytest.raises(errors.DecodeError, match=text):
            session.open(model())
        with pytest.raises(errors.Closed):
            session.sync(model())


@pytest.mark.parametrize("raw", [b"", b"\x00\x00", struct.pack(">I", 50) + b"\x82"])
def test_an_sl_that_hangs_up_at_the_opening_is_unreachable_and_says_what_to_do(control: Path, raw: bytes) -> None:
    """C-6. Later it is waited for: `test_reconnecting.py`."""
    with FakeSl(control, replies={Open: raw}) as sl, SwarmSession(CONFIG, environ=environ(sl)) as session:
        with pytest.raises(errors.Unreachable, match=r"closed the connection.*start it again"):
            session.open(model())
        assert len(sl.of(Open)) == 1


def test_a_reply_to_another_request_is_a_broken_sl(control: Path) -> None:
    """C-4."""
    reply = Opened(node=ME, run=1, round=0, peers=(), file="")
    with FakeSl(control, replies={Sync: reply}) as sl, SwarmSession(CONFIG, environ=environ(sl)) as session:
        session.open(model())
        with pytest.raises(errors.Broken, match="answered Sync with Opened"):
            session.sync(model())


def test_a_result_with_another_hash_is_refused(control: Path) -> None:
    """C-10."""
    with FakeSl(control, tamper=True) as sl, SwarmSession(CONFIG, environ=environ(sl)) as session:
        session.open(model())
        with pytest.raises(errors.VerificationError, match="SHA-256"):
            session.sync(model())


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", "a\0b", "x" * 256])
def test_a_file_name_that_leaves_the_directory_is_refused(control: Path, name: str) -> None:
    """C-9."""
    reply = Over(round=0, file=name, sha256=bytes(32), contributors=())
    with FakeSl(control, replies={Sync: reply}) as sl, SwarmSession(CONFIG, environ=environ(sl)) as session:
        session.open(model())
        with pytest.raises(errors.DecodeError, match="plain file name"):
            session.sync(model())


def test_links_pipes_and_other_sizes_are_no_results(control: Path) -> None:
    """C-9, C-10."""
    manifest = lay_out({"w": np.zeros(16, np.float32)})
    (control / "real").write_bytes(bytes(manifest.size))
    (control / "link").symlink_to(control / "real")
    (control / "short").write_bytes(bytes(manifest.size - 1))
    (control / "empty").write_bytes(b"")
    os.mkfifo(control / "pipe")
    assert read_result(control, "real", manifest, sha256(bytes(manifest.size)))["w"].tolist() == [0.0] * 16
    for name in ("link", "short", "empty", "pipe", "absent"):
        with pytest.raises(errors.DecodeError, match=name):
            read_result(control, name, manifest, None)


def test_nan_is_named_with_its_tensor_and_never_offered(control: Path) -> None:
    """C-11."""
    with FakeSl(control) as sl:
        session = SwarmSession(CONFIG, environ=environ(sl))
        session.open(model())
        bad = model()
        bad["w"][1, 1] = np.nan
        with pytest.raises(errors.NonFinite, match=rf"{ME}: tensor 'w' holds NaN.*round 0"):
            session.sync(bad)
        with pytest.raises(errors.Closed):
            session.sync(model())
    assert sl.of(Sync) == []


def test_a_model_that_changed_its_shape_is_named(control: Path) -> None:
    with FakeSl(control) as sl, SwarmSession(CONFIG, environ=environ(sl)) as session:
        session.open(model())
        with pytest.raises(errors.ModelMismatch, match="'w'"):
            session.sync(model() | {"w": np.zeros((3, 3), np.float32)})


def test_waiting_is_shown_but_not_repeated_within_ten_seconds(control: Path, lines: Lines) -> None:
    """C-5."""
    waits = ["for hungary", "for hungary", "for va\x1b[2J", "for va\x1b[2J"]
    with FakeSl(control, waits=waits) as sl, SwarmSession(CONFIG, environ=environ(sl)) as session:
        session.open(model())
    assert lines.of(logging.INFO) == ["Waiting: for hungary", "Waiting: for va [2J"]


def test_a_repeated_wait_is_shown_again_after_ten_seconds(lines: Lines) -> None:
    """C-5."""
    now = [100.0]
    waits = WaitLog(logging.getLogger("SwarmCallback"), clock=lambda: now[0])
    for at in (100.0, 109.9, 110.0, 115.0, 120.1):
        now[0] = at
        waits.show("x")
    assert len(lines.records) == 3


def test_a_silent_sl_is_said_to_be_silent(control: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """C-5."""
    monkeypatch.setattr(wire, "SILENCE_S", 0.01)
    ours, theirs = socket.socketpair()
    channel = wire.ControlChannel(ours, control / "sl.sock")
    told: list[str] = []

    def silent(text: str) -> None:
        told.append(text)
        if len(told) == 2:
            theirs.sendall(frame(encode(Waiting(text="done"))))

    assert channel.receive(silent) == Waiting(text="done")
    assert "has said nothing for" in told[0]
    channel.close()
    theirs.close()


def test_a_socket_of_another_user_gets_nothing(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C-2."""
    with FakeSl(control) as sl:
        session = SwarmSession(CONFIG, environ=environ(sl))
        real = os.geteuid()
        if real == 0:
            monkeypatch.setattr(wire, "_UCRED", _Ucred(real + 1))
        else:
            monkeypatch.setattr(os, "geteuid", lambda: real + 1)
        with pytest.raises(errors.VerificationError, match="runs as user"):
            session.open(model())
        assert sl.requests == []


class _Ucred:
    """Says that another user listens; root cannot be made another user by patching our own id only."""

    size = 12

    def __init__(self, uid: int) -> None:
        self.uid = uid

    def unpack(self, _: bytes) -> tuple[int, int, int]:
        return 1, self.uid, 1


def test_no_sl_at_the_path_is_unreachable(control: Path) -> None:
    with pytest.raises(errors.Unreachable, match="no SL listens at"):
        SwarmSession(CONFIG, environ={"SWARM_SL": str(control)}).open(model())


def test_an_exchange_directory_that_others_may_write_to_is_refused(control: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with FakeSl(control) as sl:
        session = SwarmSession(CONFIG, environ=environ(sl) | {"SWARM_EXCHANGE_DIR": str(tmp_path)})
        with pytest.raises(errors.ConfigurationError, match="open to other users"):
            session.open(model())
    with pytest.raises(errors.ConfigurationError, match="No such file"):
        check_directory(control / "absent")


def test_sessions_are_opened_once_and_first() -> None:
    session = SwarmSession(CONFIG, environ={"SWARM_LOOPBACK": "true"})
    with pytest.raises(errors.Closed, match="not open yet"):
        session.sync(model())
    session.open(model())
    with pytest.raises(errors.Closed, match="opened before"):
        session.open(model())


def test_a_model_without_parameters_is_refused(control: Path) -> None:
    with FakeSl(control) as sl, pytest.raises(errors.ConfigurationError, match="no parameters"):
        SwarmSession(CONFIG, environ=environ(sl)).open({})


@pytest.mark.parametrize("value", ["TRUE", "true", "1", "Yes"])
def test_loopback_gives_back_what_it_got_and_needs_no_swarm(value: str) -> None:
    session = SwarmSession(CONFIG, environ={"SWARM_LOOPBACK": value})
    assert session.open(model()) is None
    result = session.sync(model(2.0))
    assert result.arrays is not None
    assert result.arrays["w"][0, 0] == 2.0
    assert (result.next_interval, result.over) == (5, False)
    final = session.finish(model(3.0))
    assert final.arrays is not None
    assert (final.arrays["w"][0, 0], final.sha256) == (3.0, "")


def test_the_contract_name_is_checked() -> None:
    config = SessionConfig(min_peers=1, contract=ContractName("no spaces"))
    with pytest.raises(errors.InvalidName):
        SwarmSession(config, environ={"SWARM_LOOPBACK": "1"})


# --- mistakes that are told at once -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"min_peers": "three"}, "min_peers"),
        ({"min_peers": 0}, "min_peers = 0: expected 1 to 256"),
        ({"weight": 1.5}, "weight"),
        ({"weight": 0}, "weight = 0"),
        ({"settings": Settings(sync_frequency=0)}, "Settings: sync_frequency = 0: expected 1"),
        ({"settings": Settings(sync_frequency=1, lease_ms=0)}, "lease_ms = 0"),
        ({"settings": Settings(sync_frequency=1, target=Target(loss_micro=0.1))}, "loss_micro"),  # type: ignore[arg-type]
        ({"settings": Settings(sync_frequency=1, target=Target())}, "target: expected a loss or a metric"),
        ({"settings": Settings(sync_frequency=1, adaptive=Adaptive(shortest=50, longest=40))}, "adaptive.shortest"),
    ],
)
def test_a_configuration_that_no_swarm_takes_is_refused_when_the_session_is_made(
    changes: dict[str, Any], said: str
) -> None:
    """Once the SL hung up on a wrong type, and the user was told to start it again."""
    fields: dict[str, Any] = {"min_peers": 2, **changes}
    with pytest.raises(ConfigurationError, match=said):
        SwarmSession(SessionConfig(**fields), environ={"SWARM_LOOPBACK": "TRUE"})


def test_what_is_no_model_is_refused() -> None:
    session = SwarmSession(SessionConfig(min_peers=2), environ={"SWARM_LOOPBACK": "TRUE"})
    with pytest.raises(ConfigurationError, match="expected a dict of arrays by name, got NoneType"):
        session.open(None)  # type: ignore[arg-type]  # the mistake


def test_what_is_no_progress_is_refused_and_nothing_is_lost() -> None:
    session = SwarmSession(SessionConfig(min_peers=2), environ={"SWARM_LOOPBACK": "TRUE"})
    weights: dict[str, Any] = {"w": np.zeros(3, np.float32)}
    session.open(weights)
    with pytest.raises(ConfigurationError, match="got dict"):
        session.sync(weights, {"epoch": 1})  # type: ignore[arg-type]  # the mistake
    with pytest.raises(ConfigurationError, match="epoch"):
        session.sync(weights, Progress(epoch=1.5))  # type: ignore[arg-type]  # the mistake
    assert session.finish(weights).arrays is not None
