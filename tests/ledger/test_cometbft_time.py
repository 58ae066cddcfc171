"""A block's time is about when it was made, also after a pause (docs/spec/ledger-cometbft.md: B-26)."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from cometbft_support import needs_cometbft
from cometbft_swarm import LIMIT_S, CometSwarm, VotingApplication

from swarmlearning.clock import system_clock
from swarmlearning.ledger.boundary import Applied, Header, Misbehaviour
from swarmlearning.ledger.cometbft import driver

pytestmark = needs_cometbft

PAUSE_S = 2.0


class Dating(VotingApplication):
    """Notes how old each block with transactions is when it is executed, milliseconds."""

    def __init__(self, path: Path | None = None) -> None:
        super().__init__(path)
        self.ages_ms: list[int] = []
        self.empty = 0

    def apply(self, header: Header, txs: Sequence[bytes], misbehaviour: Sequence[Misbehaviour] = ()) -> Applied:
        if txs:
            self.ages_ms.append(system_clock() - header.time_ms)
        else:
            self.empty += 1
        return super().apply(header, txs, misbehaviour)


def test_b26_a_transaction_after_a_pause_is_in_a_block_of_its_own_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "OLD_S", PAUSE_S / 2)

    async def work() -> None:
        async with CometSwarm(2, tmp_path, make_app=Dating) as swarm:
            app = swarm.nodes[0].app
            assert isinstance(app, Dating)
            await swarm.ledger(0).submit(b"a=1", timeout_s=LIMIT_S)
            # Waiting is what this is about: nothing happens in the network for so long.
            await asyncio.sleep(PAUSE_S)
            before = app.empty
            await swarm.ledger(1).submit(b"b=1", timeout_s=LIMIT_S)
            assert app.ages_ms[-1] < PAUSE_S * 900, app.ages_ms
            await swarm.settle()
            # One for the sake of the time, and the one that signs the state after the transaction.
            assert 1 <= app.empty - before <= 2

    asyncio.run(work())
