"""No validator's lag or loss keeps a transaction from being ordered (docs/spec/ledger-cometbft.md: B-28, B-29)."""

import asyncio
import contextvars
from pathlib import Path
from typing import Any

import pytest
from cometbft_support import needs_cometbft
from cometbft_swarm import LIMIT_S, CometSwarm
from test_cometbft_driver import Chained

from swarmlearning.ledger.cometbft import abci_pb2 as pb
from swarmlearning.ledger.cometbft.framing import read_frame
from swarmlearning.ledger.cometbft.server import AbciServer
from swarmlearning.types import Code

pytestmark = needs_cometbft

LAG_S = 0.15


def test_b28_a_transaction_made_for_the_newest_state_is_ordered_though_the_others_lag_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever submits is the only one to have committed the block that the transaction rests on."""
    slow: set[AbciServer] = set()
    here: contextvars.ContextVar[AbciServer] = contextvars.ContextVar("here")
    serve, read = AbciServer._serve_client, read_frame

    async def serve_client(self: AbciServer, *streams: Any) -> None:
        here.set(self)
        await serve(self, *streams)

    async def read_slowly(reader: asyncio.StreamReader) -> bytes | None:
        data = await read(reader)
        if data and here.get() in slow and pb.Request.FromString(data).HasField("finalize_block"):
            await asyncio.sleep(LAG_S)
        return data

    monkeypatch.setattr(AbciServer, "_serve_client", serve_client)
    monkeypatch.setattr("swarmlearning.ledger.cometbft.server.read_frame", read_slowly)

    async def work() -> None:
        # Emptying pools, the last resort, would hide what this is about.
        async with CometSwarm(4, tmp_path, make_app=Chained, offer_again_s=600.0) as swarm:
            slow.update(node.parts.server for node in swarm.nodes[1:])
            for i in range(8):
                _, result = await swarm.ledger(0).submit(b"n=%d" % i, timeout_s=LIMIT_S)
                assert result.code is Code.OK

    asyncio.run(work())


def test_b29_a_transaction_that_the_others_lost_is_sent_to_them_anew(tmp_path: Path) -> None:
    async def work() -> None:
        async with CometSwarm(2, tmp_path, offer_again_s=0.5) as swarm:
            answers = swarm.nodes[1].parts.driver._answers
            judge, lost = answers["check_tx"], set()

            def lose(request: Any) -> pb.Response:
                if request.tx in lost:
                    return judge(request)
                lost.add(request.tx)
                return pb.Response(check_tx=pb.ResponseCheckTx(code=Code.MALFORMED))

            answers["check_tx"] = lose
            # They propose in turn, so that one of two would wait for ever for the other, who has nothing to propose.
            for i in range(4):
                await swarm.ledger(0).submit(b"n=%d" % i, timeout_s=LIMIT_S)
            assert len(lost) == 4

    asyncio.run(work())
