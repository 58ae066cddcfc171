"""Exports and proofs from running networks of real `cometbft` processes (docs/spec/proofs.md, PF-12, PF-13)."""

import asyncio
from pathlib import Path

import pytest
from cometbft_support import needs_cometbft
from cometbft_swarm import LIMIT_S, CometSwarm, domain
from ledger_support import GENESIS, NETWORK

from swarmlearning.encoding import sha256
from swarmlearning.errors import VerificationError
from swarmlearning.ledger.cometbft.archive import CometArchive
from swarmlearning.ledger.cometbft.proofs import verify_proof
from swarmlearning.ledger.proofs import Anchor
from swarmlearning.types import Code, NodeId

pytestmark = [needs_cometbft, pytest.mark.e2e]


def anchor(swarm: CometSwarm) -> Anchor:
    return Anchor(
        network=NETWORK,
        genesis_hash=sha256(GENESIS),
        sentinel=NodeId(""),
        sentinel_key=b"",
        validators=tuple((name, swarm.members[name]) for name in sorted(swarm.members)),
    )


def archive(swarm: CometSwarm, index: int) -> CometArchive:
    return swarm.ledger(index)._archive()


def test_pf12_what_four_validators_ordered_is_exported_and_proven_also_after_one_left(tmp_path: Path) -> None:
    async def work() -> None:
        async with CometSwarm(4, tmp_path) as swarm:
            txs = [b"key%d=1" % number for number in range(6)]
            await asyncio.gather(
                *(swarm.ledger(k % 4).submit(tx, timeout_s=LIMIT_S) for k, tx in enumerate([*txs, b"!fails"]))
            )
            await swarm.ledger(0).submit(b"-%s=" % domain(3).encode(), timeout_s=LIMIT_S)
            # Two blocks later the set is smaller.
            await swarm.ledger(1).submit(b"later=1", timeout_s=LIMIT_S)
            await swarm.ledger(2).submit(b"latest=1", timeout_s=LIMIT_S)
            await swarm.settle(0, 1, 2)
            for index in (0, 2):
                archived, app = archive(swarm, index), swarm.nodes[index].app
                told = [await archived.stored(height) for height in range(1, archived.height + 1)]
                ordered = [tx for block in told if block is not None for tx in block.txs]
                assert sorted(ordered) == sorted(
                    [*txs, b"!fails", b"-%s=" % domain(3).encode(), b"later=1", b"latest=1"]
                )
                codes = {tx: r.code for b in told if b is not None for tx, r in zip(b.txs, b.results, strict=True)}
                assert codes.pop(b"!fails") is Code.CONFLICT
                assert set(codes.values()) == {Code.OK}
                for tx in ordered:
                    proof = await archived.prove_tx(sha256(tx))
                    assert proof is not None
                    proven = verify_proof(proof.body, anchor(swarm))
                    assert proven.txs == proof.txs == (tx,)
                    if tx in app.log:
                        assert (proven.height, tx) in app.state.log if app.state else False
                last = await archived.prove(archived.height)
                assert last is not None
                assert "of 3 validators" in verify_proof(last.body, anchor(swarm)).vouchers[0]
                with pytest.raises(VerificationError, match="is of network"):
                    verify_proof(last.body, Anchor(network="other", genesis_hash=bytes(32), sentinel=NodeId(""),
                                                   sentinel_key=b"", validators=anchor(swarm).validators))  # fmt: skip

    asyncio.run(asyncio.wait_for(work(), 100))
