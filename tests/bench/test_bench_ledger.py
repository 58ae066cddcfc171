"""`swarm bench ledger`: real SNs, and figures that fit each other; not how fast anything is."""

import asyncio
import os
import subprocess
import sys
import time
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from cometbft_support import needs_cometbft

from swarmlearning.bench.ledger import (
    EACH_CONTRACT,
    WARM_UP,
    Measured,
    _level,
    cpu_seconds,
    deal_peers,
    list_processes,
    rank_latencies,
)
from swarmlearning.cli.main import main, swarm
from swarmlearning.errors import WaitExpired
from swarmlearning.transport.api import Address
from swarmlearning.types import Endpoint, NodeId

KEYS = {"latency_ms", "throughput_tps", "start_seconds", "enrol_tps", "floor_ms", "ledger", "validators", "peers"}


@pytest.mark.e2e
def test_check_ins_are_measured_until_they_are_final_at_every_sn() -> None:
    arguments = ["bench", "ledger", "--validators", "2", "--transactions", "12", "--peers", "3", "--json"]
    ended = CliRunner().invoke(swarm, arguments, catch_exceptions=False)
    measured = msgspec.json.decode(ended.stdout, type=Measured)
    assert set(msgspec.json.decode(ended.stdout)) >= KEYS
    assert (measured.ledger, measured.validators, measured.peers, measured.transactions) == ("embedded", 2, 3, 12)
    assert len(measured.latency_by_sn_ms) == len(measured.sn_rss_mb) == 2
    medians = [some.median for some in measured.latency_by_sn_ms]
    assert 0 < min(medians) <= measured.latency_ms.median <= max(medians)
    assert measured.latency_ms.median <= measured.latency_ms.p99
    assert measured.throughput_tps > 0
    # One block each for the contract and every check-in that was sent alone; the others may have shared theirs.
    assert WARM_UP + 12 + 1 < measured.height <= 2 + 3 + 1 + 3 + 3 + WARM_UP + 24
    assert measured.record_bytes > 3 * 100


def test_peers_are_dealt_over_trainings_that_still_wait_for_one() -> None:
    assert deal_peers(1) == [1]
    assert deal_peers(EACH_CONTRACT) == [EACH_CONTRACT]
    assert deal_peers(EACH_CONTRACT + 1) == [128, 128]
    assert deal_peers(1000) == [250] * 4
    for peers in range(1, 1200, 37):
        assert sum(deal_peers(peers)) == peers
        assert max(deal_peers(peers)) <= EACH_CONTRACT


class LaggingSn:
    """An SN that has committed one block more each time it is asked, up to `top`."""

    def __init__(self, height: int, top: int) -> None:
        self.height, self.top, self.now = height, top, height
        self.address = Address(node=NodeId("spiffe://a/b/sn/c"), endpoint=Endpoint(host="h", port=1))

    async def status(self) -> "LaggingSn":
        self.now = min(self.top, self.now + 1)
        self.height = self.now
        return self


def test_what_one_sn_has_committed_all_have_before_anybody_builds_upon_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sns: list[Any] = [LaggingSn(7, 7), LaggingSn(3, 9), LaggingSn(0, 7)]
    asyncio.run(_level(sns))
    assert [sn.height >= 7 for sn in sns] == [True] * 3
    monkeypatch.setattr("swarmlearning.bench.ledger.LEVEL_S", 0.05)
    stuck: list[Any] = [LaggingSn(7, 7), LaggingSn(0, 2)]
    with pytest.raises(WaitExpired, match="is not at block 7 within"):
        asyncio.run(_level(stuck))


def test_99_of_100_are_not_above_the_99th() -> None:
    assert rank_latencies([float(value) for value in range(100, 0, -1)]).p99 == 99.0
    assert rank_latencies([1.0, 2.0, 9.0]).median == 2.0
    assert rank_latencies([1.0, 2.0, 9.0]).p99 == 9.0
    assert rank_latencies([7.0]).p99 == rank_latencies([7.0]).median == 7.0


def test_processor_time_is_that_of_the_process() -> None:
    before = cpu_seconds(os.getpid())
    limit = time.process_time() + 0.4
    while time.process_time() < limit:
        sum(range(100_000))
    assert 0.3 < cpu_seconds(os.getpid()) - before < 2.0
    assert cpu_seconds(2**22 + 1) == 0.0


def test_what_a_process_has_started_is_counted_with_it() -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as parent:
        try:
            limit = time.monotonic() + 20
            while len(list_processes(parent.pid)) < 2:
                assert time.monotonic() < limit, "the child is not found"
            assert list_processes(parent.pid)[0] == parent.pid
            assert set(list_processes(parent.pid)) < set(list_processes(os.getpid()))
        finally:
            assert parent.stdin is not None
            parent.stdin.write(b"\n")
            parent.stdin.close()
    assert list_processes(2**22 + 1) == [2**22 + 1]


@pytest.mark.e2e
@needs_cometbft
def test_validators_are_measured_likewise() -> None:
    arguments = ["bench", "ledger", "--ledger", "cometbft", "--validators", "4", "--transactions", "4", "--peers", "2"]
    ended = CliRunner().invoke(swarm, [*arguments, "--json"], catch_exceptions=False)
    measured = msgspec.json.decode(ended.stdout, type=Measured)
    assert (measured.ledger, measured.validators) == ("cometbft", 4)
    assert measured.latency_ms.median > 0
    assert min(measured.sn_rss_mb) > 80, "a validator's memory counts with its SN's"


@pytest.mark.parametrize(
    "arguments", [["--validators", "0"], ["--transactions", "0"], ["--peers", "0"], ["--ledger", "x"]]
)
def test_what_cannot_be_measured_is_refused_before_anything_starts(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "ledger", *arguments]) == 2
    assert f"Invalid value for '{arguments[0]}'" in capsys.readouterr().err
