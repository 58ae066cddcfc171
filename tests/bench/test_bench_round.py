"""`swarm bench round`: real processes, and figures that fit each other."""

import msgspec
import pytest
from click.testing import CliRunner

from swarmlearning.bench.rounds import Measured
from swarmlearning.cli.main import main, swarm

KEYS = {"round_seconds", "phases", "floor_seconds", "ratio", "bytes_moved", "peak_rss_mb", "peers", "megabytes"}


@pytest.mark.e2e
@pytest.mark.parametrize(("topology", "shards"), [("leader", 1), ("sharded", 3)])
def test_a_round_is_measured_beside_the_floor(topology: str, shards: int) -> None:
    arguments = [
        "bench",
        "round",
        "--peers",
        "3",
        "--megabytes",
        "1",
        "--rounds",
        "2",
        "--topology",
        topology,
        "--json",
    ]
    ended = CliRunner().invoke(swarm, arguments, catch_exceptions=False)
    measured = msgspec.json.decode(ended.stdout, type=Measured)
    assert set(msgspec.json.decode(ended.stdout)) >= KEYS
    assert (measured.peers, measured.shards, measured.organisations) == (3, shards, 1)
    spread = measured.round_seconds
    assert 0 < spread.min <= spread.median <= spread.max
    assert measured.ratio == pytest.approx(spread.median / measured.floor_seconds)
    # One leader pulls the model from two and gives it to two; of three shards each travels twice both ways: the same.
    assert 4e6 <= measured.bytes_moved < 4.4e6
    assert sorted(measured.peak_rss_mb) == sorted([*(f"{k} {i}" for k in ("SL", "program") for i in range(3)), "SN 0"])
    # Phases are medians, so their sum is near the median round and no more.
    assert sum(measured.phases.values()) == pytest.approx(spread.median, rel=0.8)
    assert all(seconds >= 0 for seconds in measured.phases.values())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--peers", "1"], "--peers 1: expected 2 to 64"),
        (["--megabytes", "0"], "--megabytes 0.0: expected 0.0001 to 16384"),
        (["--rounds", "0"], "--rounds 0: expected 1 to 1000"),
        (["--organisations", "5"], "--organisations 5: expected 1 to 4"),
        (["--merge", "maen"], "did you mean 'mean'"),
        (["--merge", "fedavgm", "--wire", "int8"], "needs whole results"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_starts(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "round", *arguments]) != 0
    assert expected in capsys.readouterr().err
