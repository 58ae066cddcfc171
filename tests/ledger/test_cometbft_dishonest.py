"""A validator that lies is outvoted, and the others go on (docs/spec/ledger-cometbft.md: B-25)."""

import asyncio
import base64
import datetime as dt
import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cometbft_support import needs_cometbft
from cometbft_swarm import LIMIT_S, CometSwarm, VotingApplication
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ledger_support import NETWORK, START_MS

from swarmlearning.ledger.boundary import Applied, Header, Misbehaviour
from swarmlearning.ledger.cometbft import abci_pb2 as pb
from swarmlearning.ledger.cometbft.headers import PRECOMMIT, Commit, Instant, Parts, Vote, vote_bytes
from swarmlearning.ledger.cometbft.home import HOME
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


class Accusing(VotingApplication):
    """Notes what validators are accused of."""

    def __init__(self, path: Path | None = None) -> None:
        super().__init__(path)
        self.accused: list[tuple[int, Misbehaviour]] = []

    def apply(self, header: Header, txs: Sequence[bytes], misbehaviour: Sequence[Misbehaviour] = ()) -> Applied:
        self.accused += [(header.height, each) for each in misbehaviour]
        return super().apply(header, txs, misbehaviour)


def sign_vote(swarm: CometSwarm, height: int, block: bytes) -> dict[str, Any]:
    """The liar's precommit for any block of `height`, as CometBFT's RPC takes it."""
    home = swarm.nodes[LIAR].directory / HOME / "config" / "priv_validator_key.json"
    key = Ed25519PrivateKey.from_private_bytes(
        base64.b64decode(json.loads(home.read_bytes())["priv_key"]["value"])[:32]
    )
    address, time = swarm.nodes[LIAR].validator.address, Instant(seconds=START_MS // 1000, nanos=0)
    parts = Parts(total=1, hash=block)
    vote = Vote(address=address, time=time, signature=bytes(64))
    header: Any = SimpleNamespace(height=height, chain_id=NETWORK)  # all that a vote says of it
    signature = key.sign(vote_bytes(header, block, Commit(round=0, parts=parts, votes=()), vote))
    return {
        "type": PRECOMMIT,
        "height": str(height),
        "round": 0,
        "block_id": {"hash": block.hex().upper(), "parts": {"total": 1, "hash": block.hex().upper()}},
        "timestamp": dt.datetime.fromtimestamp(time.seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "validator_address": address.hex().upper(),
        "validator_index": 0,
        "signature": base64.b64encode(signature).decode(),
    }


def test_b13_who_votes_twice_at_one_height_is_found_out_and_the_application_hears_of_it(tmp_path: Path) -> None:
    async def work() -> None:
        async with CometSwarm(4, tmp_path, make_app=Accusing) as swarm:
            await order(swarm, 0, lambda count: count == 2)
            rpc = swarm.nodes[0].parts.rpc
            header = (await rpc.call("header", {"height": "2"}, dict[str, Any]))["header"]
            value = {
                "vote_a": sign_vote(swarm, 2, b"a" * 32),
                "vote_b": sign_vote(swarm, 2, b"b" * 32),
                "TotalVotingPower": "40",
                "ValidatorPower": "10",
                "Timestamp": header["time"],
            }
            evidence = {"type": "tendermint/DuplicateVoteEvidence", "value": value}
            await rpc.call("broadcast_evidence", {"evidence": evidence}, dict[str, Any])
            await order(swarm, 2, lambda count: count >= 4 and bool(swarm.nodes[1].app.accused))  # type: ignore[attr-defined]
            await swarm.settle(*HONEST)
            accused = [swarm.nodes[index].app.accused for index in HONEST]  # type: ignore[attr-defined]
            assert accused[0] == accused[1] == accused[2]
            [(_, found)] = accused[0]
            assert (found.kind, found.address, found.height) == (
                "duplicate_vote",
                swarm.nodes[LIAR].validator.address,
                2,
            )

    asyncio.run(work())
