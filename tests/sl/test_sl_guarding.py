"""R-10: whom a round waits for is watched, and suspected after a lease of silence. On virtual time."""

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sim_loop import run_virtual
from sl_world import Kept, address, checked_in, committed, desk_of, merging, model, name, node, peer, training

from swarmlearning.contracts.messages import Message, Suspect, Tick
from swarmlearning.contracts.records import Holding, Phase, Training
from swarmlearning.encoding import decode, encode
from swarmlearning.errors import Refused
from swarmlearning.sl.chunkfile import BufferChunks
from swarmlearning.sl.desk import Desk
from swarmlearning.sl.exchange import (
    CALL_PROGRESS,
    STREAM_CHUNKS,
    Advance,
    ProgressRequest,
    Pull,
    Shard,
    merge_steps,
    send_frames,
)
from swarmlearning.sl.guarding import guard_shard, guard_store
from swarmlearning.sl.plan import GuardShard, GuardStore
from swarmlearning.sn.api import Submitted
from swarmlearning.transport.api import Caller
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import Code

LEASE = 1.0
"""Of the world's settings, seconds."""

MERGE = GuardShard(round=0, attempt=1, shard=0, suspect=node(1))
STORE = GuardStore(round=0, attempt=1, suspect=node(1))


class Watch:
    """Peer 0 watches peer 1, who answers as `steps` says: a number, an error, or None for no answer ever."""

    def __init__(self, tmp: Path, steps: Callable[[float, int], int | None], record: Training | None = None) -> None:
        self.network = MemoryNetwork()
        manifest, _ = model()
        round_ = merging(peers=3, leaders=(node(1),))
        standing = record or training(phase=Phase.MERGING, round_=round_, size=manifest.size)
        tmp.mkdir(exist_ok=True)
        self.desk: Desk = desk_of(0, tmp / "0", self.network, manifest, standing)
        self.told: list[Message] = []
        self.desk.submitter.require = self._require  # type: ignore[method-assign]  # what it tells the ledger
        self.desk.submitter.send = self._send  # type: ignore[method-assign]  # likewise, whatever comes of it
        self.ticks: list[float] = []
        """When it tried whether the ledger orders."""
        self.order_s: Callable[[float], float | None] = lambda _now: 0.0
        """How long ordering takes from a time on; None where our SN gives up after a lease."""
        self.steps = steps
        self.network.serve(name(1), address(1).endpoint, self)
        self.calls = {CALL_PROGRESS: self._progress}
        self.streams: dict[str, Any] = {}

    async def _require(self, message: Message) -> int:
        self.told.append(message)
        return 1

    async def _send(self, message: Message) -> Submitted:
        assert isinstance(message, Tick)
        self.ticks.append(asyncio.get_running_loop().time())
        took_s = self.order_s(self.ticks[-1])
        await asyncio.sleep(LEASE if took_s is None else took_s)
        if took_s is None:
            raise Refused("not committed here in time", code="WaitExpired")
        return Submitted(height=1, code=Code.TOO_EARLY, log="")

    async def _progress(self, caller: Caller, body: bytes) -> bytes:
        steps = self.steps(asyncio.get_running_loop().time(), decode(body, ProgressRequest).shard)
        if steps is None:
            await asyncio.sleep(1e6)
            raise AssertionError("nobody waits so long")
        if steps < 0:
            raise Refused("simulated", code="stale")
        return encode(Advance(steps=steps))

    def run(self, action: GuardShard | GuardStore = MERGE, limit_s: float = 100.0) -> tuple[float, Suspect | None]:
        """When it was suspected and how; (`limit_s`, None) if it was not by then."""

        async def main() -> tuple[float, Suspect | None]:
            guard = guard_shard(self.desk, action) if isinstance(action, GuardShard) else guard_store(self.desk, action)
            try:
                await asyncio.wait_for(guard, limit_s)
            except TimeoutError:
                return limit_s, None
            (told,) = self.told
            assert isinstance(told, Suspect)
            return asyncio.get_running_loop().time(), told

        return run_virtual(main())


WHOLE = merge_steps(Shard(size=model()[0].size, shards=1, shard=0), 3)


def test_a_leader_that_moves_is_left_alone_however_slow(tmp_path: Path) -> None:
    """One step a lease, less a little: the whole work takes as many leases as it has steps."""
    at, told = Watch(tmp_path, lambda now, _shard: int(now / (0.9 * LEASE))).run(limit_s=0.9 * LEASE * (WHOLE - 1))
    assert (at, told) == (0.9 * LEASE * (WHOLE - 1), None)


def test_a_leader_that_stands_still_is_suspected_after_a_lease(tmp_path: Path) -> None:
    at, told = Watch(tmp_path, lambda _now, _shard: 3).run()
    assert LEASE < at <= 1.5 * LEASE  # the first look, a quarter of a lease on, saw the three steps
    assert told is not None
    assert (told.leader, told.shard, told.gone) == (node(1), 0, False)


@pytest.mark.parametrize("answer", [None, "closed"])
def test_a_leader_that_does_not_answer_is_gone_after_a_lease(tmp_path: Path, answer: str | None) -> None:
    """A dead process refuses connections; a stopped one or a cut line says nothing at all."""
    watch = Watch(tmp_path, lambda _now, _shard: None)
    if answer is not None:
        watch.network.stop(name(1))
    at, told = watch.run()
    assert LEASE <= at <= 1.3 * LEASE
    assert told is not None
    assert told.gone


def test_a_leader_that_dies_at_work_is_gone_a_lease_after_its_last_advance(tmp_path: Path) -> None:
    at, told = Watch(tmp_path, lambda now, _shard: int(2 * now / LEASE) if now < 3.3 * LEASE else None).run()
    assert 4.0 * LEASE <= at <= 4.7 * LEASE
    assert told is not None
    assert told.gone


def test_a_leader_that_refuses_to_tell_is_suspected_but_not_gone(tmp_path: Path) -> None:
    _, told = Watch(tmp_path, lambda _now, _shard: -1).run()
    assert told is not None
    assert not told.gone


def test_made_up_progress_runs_out(tmp_path: Path) -> None:
    """More steps than the whole work has count for nothing."""
    at, told = Watch(tmp_path, lambda now, _shard: int(1e6 * now)).run()
    assert at <= 1.3 * LEASE
    assert told is not None
    at, told = Watch(tmp_path / "slowly", lambda now, _shard: int(4 * now / LEASE)).run(limit_s=1_000.0)
    assert told is not None
    assert at < (WHOLE / 4 + 2) * LEASE


def test_the_sl_has_its_own_patience_if_its_operator_says_so(tmp_path: Path) -> None:
    watch = Watch(tmp_path, lambda _now, _shard: 0)
    watch.desk.lease_ms = 5_000
    at, _ = watch.run()
    assert at >= 5.0


def test_a_participant_that_does_not_store_is_suspected_of_that(tmp_path: Path) -> None:
    manifest, _ = model()
    held = Holding(node=node(0), sha256=bytes(32))
    round_ = merging(peers=3, merged=(b"m" * 32,), holdings=(held,))
    record = training(phase=Phase.MERGING, round_=round_, size=manifest.size)
    shards: list[int] = []

    def steps(now: float, shard: int) -> int:
        shards.append(shard)
        return 1

    _, told = Watch(tmp_path, steps, record).run(STORE)
    assert told is not None
    assert (told.shard, told.leader) == (-1, node(1))
    assert set(shards) == {-1}


def test_nobody_is_suspected_while_the_ledger_orders_nothing(tmp_path: Path) -> None:
    """R-10: a leader that has merged everything cannot say so then. It gets a lease more when the ledger is back."""
    watch = Watch(tmp_path, lambda _now, _shard: WHOLE)
    back = 7.3 * LEASE
    watch.order_s = lambda now: 0.0 if now >= back else max(0.0, back - now) if back - now < LEASE else None
    at, told = watch.run()
    assert told is not None
    assert not told.gone
    assert back + LEASE <= at <= back + 1.5 * LEASE


def test_a_ledger_that_is_always_slow_costs_one_lease_more(tmp_path: Path) -> None:
    """R-10: and not one more each time, or a dead leader would never be relieved."""
    watch = Watch(tmp_path, lambda _now, _shard: None)
    watch.order_s = lambda _now: 0.9 * LEASE
    at, told = watch.run()
    assert told is not None
    assert told.gone
    assert at <= 4.2 * LEASE
    assert len(watch.ticks) == 2


def test_what_is_pulled_once_more_is_no_progress(tmp_path: Path) -> None:
    """R-10: a pull that breaks off and begins anew counts each frame once, the leaves too."""
    manifest, buffer = model()
    promise = committed(buffer)
    shard = Shard(size=manifest.size, shards=1, shard=0)
    network = MemoryNetwork()
    pull = Pull(manifest, shard, promise.root, Kept(memoryview(bytearray(manifest.size))), salted=True)
    seen: list[int] = []

    class Server:
        def __init__(self) -> None:
            self.calls: dict[str, Any] = {}
            self.streams = {STREAM_CHUNKS: self._serve}

        async def _serve(self, caller: Caller, body: bytes) -> Any:
            for frame in itertools.islice(send_frames(shard, promise.leaves, BufferChunks(buffer), 0, promise_salt), 2):
                yield frame

    def promise_salt(index: int) -> bytes:
        from sl_world import SECRET

        from swarmlearning.parameters.chunks import salt

        return salt(SECRET, index)

    network.serve(name(1), address(1).endpoint, Server())

    async def main() -> None:
        for _ in range(2):
            pull.done = 0  # as if all had been lost but the count
            with pytest.raises(Exception, match="served 4 of 5"):
                await pull.run(
                    network.client(name(0)),
                    address(1),
                    STREAM_CHUNKS,
                    ProgressRequest(contract=training().name, run=1, round=0, shard=0),
                    idle_s=1.0,
                    step=lambda _: seen.append(pull.steps),
                )

    run_virtual(main())
    assert max(seen) == 2
    assert checked_in(0)
    assert peer(0)
