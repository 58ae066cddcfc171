"""A newcomer takes the state from the others instead of executing all blocks (ledger-cometbft.md: B-31 to B-33)."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from cometbft_support import needs_cometbft
from cometbft_swarm import LIMIT_S, CometSwarm, VotingApplication, domain, eventually
from ledger_support import Died, KvState

from swarmlearning.encoding import decode, encode, sha256
from swarmlearning.errors import Broken
from swarmlearning.ledger.boundary import Snapshot, Verdict
from swarmlearning.ledger.cometbft.home import StateSync

pytestmark = needs_cometbft

EVERY = 4
PIECE = 64


class Keeping(VotingApplication):
    """Keeps its state after every fourth block."""

    def __init__(self, path: Path | None = None) -> None:
        super().__init__(path)
        self.kept: dict[int, KvState] = {}

    def commit(self) -> None:
        super().commit()
        if self.state is not None and self.state.height % EVERY == 0:
            self.kept[self.state.height] = self.state


class KvSnapshots:
    """Gives the states that an application has kept, in small chunks, and takes another node's."""

    spoilt: bytes = b""
    """What every node but the first gives instead of its chunk 1, once."""

    def __init__(self, app: VotingApplication) -> None:
        assert isinstance(app, Keeping)
        self._app = app
        self._incoming: dict[int, bytes] = {}
        self._wanted: tuple[Snapshot, bytes] | None = None
        self.answers: list[str] = []

    def _chunks(self, height: int) -> list[bytes]:
        data = encode(self._app.kept[height])
        return [data[at : at + PIECE] for at in range(0, len(data), PIECE)]

    def available(self) -> Sequence[Snapshot]:
        return [
            Snapshot(
                height=height,
                format=1,
                chunks=len(self._chunks(height)),
                hash=sha256(encode(self._app.kept[height])),
                metadata=encode([sha256(chunk) for chunk in self._chunks(height)]),
            )
            for height in sorted(self._app.kept, reverse=True)
        ]

    def load(self, height: int, format_: int, chunk: int) -> bytes | None:
        assert format_ == 1
        if chunk == 1 and self.spoilt:
            spoilt, KvSnapshots.spoilt = self.spoilt, b""
            return spoilt
        return self._chunks(height)[chunk] if height in self._app.kept else None

    def offer(self, snapshot: Snapshot, app_hash: bytes) -> Verdict:
        self._incoming, self._wanted = {}, (snapshot, app_hash)
        return Verdict(answer="accept")

    def apply(self, chunk: int, data: bytes) -> Verdict:
        verdict = self._take(chunk, data)
        self.answers.append(verdict.answer)
        return verdict

    def _take(self, chunk: int, data: bytes) -> Verdict:
        assert self._wanted is not None
        snapshot, app_hash = self._wanted
        if sha256(data) != decode(snapshot.metadata, list[bytes])[chunk]:
            return Verdict(answer="retry", reason="it is not the chunk of the metadata")
        self._incoming[chunk] = data
        if len(self._incoming) == snapshot.chunks:
            state = decode(b"".join(self._incoming[i] for i in range(snapshot.chunks)), KvState, limit=1 << 30)
            if (state.height, state.app_hash) != (snapshot.height, app_hash):
                return Verdict(answer="reject", reason="another state")
            self._app.state = state
            self._app._save()
        return Verdict(answer="accept")


class Fragile(KvSnapshots):
    """The first newcomer dies when it has put the state in place, and before its child knows of it."""

    dead = False

    def apply(self, chunk: int, data: bytes) -> Verdict:
        verdict = super().apply(chunk, data)
        assert self._wanted is not None
        if not Fragile.dead and len(self._incoming) == self._wanted[0].chunks:
            Fragile.dead = True
            raise Died("the state is in place")
        return verdict


async def admit(swarm: CometSwarm, index: int) -> None:
    member = swarm.nodes[index].validator
    tx = f"+{domain(index)}={member.key.hex()} {member.peer} {member.endpoint}".encode()
    await swarm.ledger(0).submit(tx, timeout_s=LIMIT_S)


@pytest.mark.parametrize(
    ("spoilt", "trusted"),
    [(b"", 1), (b"no such chunk", 2)],
    ids=["from a block that is years old", "a chunk is spoilt"],
)
def test_b32_a_newcomer_restores_a_verified_snapshot_and_goes_on_from_there(
    tmp_path: Path, spoilt: bytes, trusted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first block has the time of the genesis; the second one is of now."""
    monkeypatch.setattr(KvSnapshots, "spoilt", spoilt)

    async def work() -> None:
        async with CometSwarm(3, tmp_path, more=1, make_app=Keeping, make_snapshots=KvSnapshots) as swarm:
            await admit(swarm, 3)
            for i in range(12):
                await swarm.ledger(i % 3).submit(b"n=%d" % i, timeout_s=LIMIT_S)
            await swarm.settle(0, 1, 2)
            rpcs = [swarm.nodes[i].parts._where.rpc for i in (0, 1)]
            newcomer = swarm.nodes[3]
            newcomer.changes["state_sync"] = StateSync(
                servers=tuple(rpcs), height=trusted, block_hash=await swarm.ledger(0).block_hash(trusted)
            )
            await newcomer.start()
            await swarm.until(3, swarm.ledger(0).height)
            calls = newcomer.recorder.lives[-1]
            assert "offer_snapshot" in calls
            assert "init_chain" not in calls
            assert calls.count("finalize_block") < 2 * EVERY
            assert swarm.log(3) == swarm.log(0)
            assert newcomer.app.info().app_hash == swarm.nodes[0].app.info().app_hash
            # It votes, and comes back as any other.
            await swarm.kill(2)
            await swarm.ledger(3).submit(b"after=1", timeout_s=LIMIT_S)
            await swarm.kill(3)
            await swarm.start(2)
            await swarm.start(3)
            await swarm.ledger(3).submit(b"again=1", timeout_s=LIMIT_S)
            await eventually(lambda: swarm.log(3)[-1] == b"again=1", "it goes on")

    asyncio.run(work())


def test_b33_a_newcomer_that_dies_when_it_has_restored_before_its_child_knows_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fragile, "dead", False)

    async def work() -> None:
        async with CometSwarm(1, tmp_path, more=1, make_app=Keeping, make_snapshots=Fragile) as swarm:
            for i in range(12):
                await swarm.ledger(0).submit(b"n=%d" % i, timeout_s=LIMIT_S)
            newcomer = swarm.nodes[1]
            rpc = swarm.nodes[0].parts._where.rpc
            newcomer.changes["state_sync"] = StateSync(
                servers=(rpc, rpc), height=2, block_hash=await swarm.ledger(0).block_hash(2)
            )
            await admit(swarm, 1)
            await newcomer.start()
            assert newcomer.task is not None
            with pytest.raises(Broken, match="Died"):
                await asyncio.wait_for(newcomer.task, LIMIT_S)
            await newcomer.kill()
            assert newcomer.app.info().height > 0
            await newcomer.start()
            await swarm.ledger(0).submit(b"more=1", timeout_s=LIMIT_S)
            await eventually(lambda: swarm.log(1)[-1] == b"more=1", "it restores once more, and goes on")
            assert swarm.log(1) == swarm.log(0)

    asyncio.run(work())
