"""A training that ends with an error leaves a model behind."""

import stat
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from fake_sl import FakeSl, environ, failed

from swarmlearning import errors
from swarmlearning.callbacks import SessionConfig, SwarmSession, saved
from swarmlearning.callbacks.saved import save_model, saved_name
from swarmlearning.contracts.records import Progress, Settings
from swarmlearning.sl.control import Finish, Open, Sync
from swarmlearning.types import ContractName

CONFIG = SessionConfig(
    settings=Settings(sync_frequency=5), min_peers=2, contract=ContractName("heart/a"), connect_wait_s=0
)
NAME = "heart_a-sl-1@cleveland.example-round1.npz"


def model(value: float = 1.0) -> dict[str, Any]:
    return {
        "dense/kernel": np.full((3, 2), value, np.float32),
        "file": np.array(4, np.int64),  # called like an argument of numpy.savez
        "half": np.array([1.5, -2.25], ml_dtypes.bfloat16),
    }


def end_with_error(control: Path, kind: type, **given: str) -> errors.SwarmError:
    """Train one round, then fail."""
    with FakeSl(control) as sl:
        session = SwarmSession(CONFIG, environ=environ(sl) | given)
        session.open(model())
        session.sync(model(), Progress(batch=0))
        sl._replies = {kind: failed("expired", "waited 7200 s; 1 of at least 2 peers have checked in")}
        with pytest.raises(errors.WaitExpired) as raised:
            (session.sync if kind is Sync else session.finish)(model(2.0), Progress(batch=5))
    return raised.value


@pytest.mark.parametrize("kind", [Sync, Finish])
def test_what_was_trained_is_saved_and_the_error_says_where(control: Path, tmp_path: Path, kind: type) -> None:
    error = end_with_error(control, kind)
    path = tmp_path / "swarm-saved" / NAME
    expected = f"waited 7200 s; 1 of at least 2 peers have checked in; the parameters as they stood are in {path}: "
    assert str(error) == expected + "numpy.load() gives them by tensor name"
    with np.load(path) as loaded:
        assert sorted(loaded) == ["dense/kernel", "file", "half"]
        assert np.array_equal(loaded["dense/kernel"], model(2.0)["dense/kernel"])
        assert (loaded["file"].dtype, loaded["file"].shape, int(loaded["file"])) == (np.int64, (), 4)
        assert loaded["half"].tolist() == [1.5, -2.25]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_the_directory_may_be_chosen(control: Path, tmp_path: Path) -> None:
    end_with_error(control, Sync, SWARM_SAVE_DIR=str(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b" / NAME).is_file()
    assert not (tmp_path / "swarm-saved").exists()


def test_a_failure_to_save_does_not_hide_the_error(control: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    error = end_with_error(control, Sync, SWARM_SAVE_DIR=str(tmp_path / "taken"))
    assert str(error).startswith("waited 7200 s; 1 of at least 2 peers have checked in; the parameters as they stood ")
    assert "could not be saved in" in str(error)
    assert "SWARM_SAVE_DIR" in str(error)


def test_the_code_of_a_refusal_survives(control: Path) -> None:
    with FakeSl(control, replies={Sync: failed("refused", "no")}) as sl:
        session = SwarmSession(CONFIG, environ=environ(sl))
        session.open(model())
        with pytest.raises(errors.Refused, match=r"^no; the parameters") as raised:
            session.sync(model())
    assert raised.value.code == "refused"


def test_what_was_never_trained_is_not_saved(control: Path, tmp_path: Path) -> None:
    with FakeSl(control, replies={Open: failed("expired", "nobody came")}) as sl:
        session = SwarmSession(CONFIG, environ=environ(sl))
        with pytest.raises(errors.WaitExpired, match=r"^nobody came$"):
            session.open(model())
    with FakeSl(control, replies={Sync: failed("expired", "nobody came")}) as sl:
        session = SwarmSession(CONFIG, environ=environ(sl))
        session.open(model())
        with pytest.raises(errors.WaitExpired, match=r"^nobody came$"):
            session.sync(model(), Progress(batch=0))
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_by_the_user_saves_nothing(control: Path, tmp_path: Path) -> None:
    with FakeSl(control) as sl:
        session = SwarmSession(CONFIG, environ=environ(sl))
        session.open(model())

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        session._connection.ask = interrupt  # type: ignore[union-attr, method-assign]  # as Ctrl-C does
        with pytest.raises(KeyboardInterrupt):
            session.sync(model())
    assert list(tmp_path.iterdir()) == []


def test_sums_of_rows_are_never_left_on_a_disk(control: Path, tmp_path: Path) -> None:
    with FakeSl(control, replies={Sync: failed("expired", "nobody came")}) as sl:
        session = SwarmSession(CONFIG, environ=environ(sl))
        with pytest.raises(errors.WaitExpired, match=r"^nobody came$"):
            session.agree_stats({"age": [40.0, 50.0]})
    assert list(tmp_path.iterdir()) == []


def test_names_are_plain_and_never_too_long() -> None:
    assert saved_name("a/../b", "../x y", 3) == "a_.._b-.._x_y-round3.npz"
    assert len(saved_name("c" * 128, "n" * 200, 10**9).encode()) < 255


def test_a_saved_model_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(model(1.0), tmp_path / "d", "m.npz")
    save_model(model(2.0), tmp_path / "d", "m.npz")

    def fail(file: Any, _: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saved, "write_npz", fail)
    with pytest.raises(OSError, match="No space"):
        save_model(model(3.0), tmp_path / "d", "m.npz")
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["m.npz"]
    with np.load(tmp_path / "d" / "m.npz") as loaded:
        assert loaded["dense/kernel"][0, 0] == 2.0
