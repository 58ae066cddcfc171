"""A validator that lies is outvoted, and the others go on (docs/spec/ledger-cometbft.md: B-25)."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cometbft_support import needs_cometbft
from cometbft_swarm import LIMIT_S, CometSwarm, VotingApplication

from swarmlearning.ledger.boundary import Header
from swarmlearning.ledger.cometbft import abci_pb2 as pb
from swarmlearning.types import Code

pytestmark = needs_cometbft

LIAR = 3
HONEST = (0, 1, 2)


class Strict(VotingApplication):
    """Accepts no block with a transaction that its `check` refuses."""

    def accept(self, header: Header, txs: Sequence[bytes]) -> str:
        bad = [tx for tx in txs if self.check(tx).code is not Code.OK]
        return f"block {header.height} holds {bad[0]!r}" if bad else super().accept(header, txs)


def corrupt(swarm: CometSwarm, call: str, lie: Callable[[pb.Request, pb.Response], pb.Response]) -> list[int]:
    """Have the liar's engine answer `call` otherwise; the heights at which it did are noted in the list returned."""
    answers = swarm.nodes[LIAR].parts.driver._answers
    honest, heights = answers[call], []

    def lying(message: Any) -> pb.Response:
        heights.append(message.height)
        return lie(pb.Request(**{call: message}), honest(message))

    answers[call] = lying
    return heights


def _has_lied(heights: list[int], _: int) -> bool:
    return bool(heights)


async def order(swarm: CometSwarm, start: int, until: Callable[[int], bool]) -> list[bytes]:
    """Have transactions ordered through the honest nodes in turn while `until(how many)` says no."""
    txs: list[bytes] = []
    while not until(len(txs)):
        tx = b"n=%d" % (start + len(txs))
        _, result = await swarm.ledger(len(txs) % 3).submit(tx, timeout_s=LIMIT_S)
        assert result.code is Code.OK
        txs.append(tx)
        assert len(txs) < 60, "the liar was never asked to propose"
    return txs


def test_b25_what_a_dishonest_validator_proposes_is_outvoted_and_the_others_go_on(tmp_path: Path) -> None:
    async def work() -> None:
        async with CometSwarm(4, tmp_path, make_app=Strict) as swarm:
            # Malformed, twice in a block, in a block before, too large.
            additions = ([b"nonsense"], [b"x=1", b"x=1"], [b"n=0"], [b"x=" + b"1" * (65 << 10)])
            expected = await order(swarm, 0, lambda count: count == 1)
            for added in additions:

                def lie(request: pb.Request, _: pb.Response, added: list[bytes] = added) -> pb.Response:
                    txs = [*request.prepare_proposal.txs, *added]
                    return pb.Response(prepare_proposal=pb.ResponsePrepareProposal(txs=txs))

                lied = corrupt(swarm, "prepare_proposal", lie)
                # It is its turn in one of four blocks.
                expected += await order(swarm, len(expected), partial(_has_lied, lied))
            await swarm.settle(*HONEST)
            for index in HONEST:
                assert swarm.log(index) == expected
                assert swarm.ledger(index).problem == ""

    asyncio.run(work())


def test_b25_who_refuses_every_block_or_computes_another_state_stops_nobody(tmp_path: Path) -> None:
    async def work() -> None:
        async with CometSwarm(4, tmp_path, make_app=Strict) as swarm:

            def refuse(_: pb.Request, __: pb.Response) -> pb.Response:
                return pb.Response(process_proposal=pb.ResponseProcessProposal(status=pb.VERDICT_REJECT))

            refused = corrupt(swarm, "process_proposal", refuse)
            expected = await order(swarm, 0, lambda count: count == 8 and bool(refused))

            def miscount(_: pb.Request, response: pb.Response) -> pb.Response:
                response.finalize_block.app_hash = bytes(32)
                return response

            wrong = corrupt(swarm, "finalize_block", miscount)
            expected += await order(swarm, 8, lambda count: count >= 8 and bool(wrong))
            await swarm.settle(*HONEST)
            for index in HONEST:
                assert swarm.log(index) == expected

    asyncio.run(work())
