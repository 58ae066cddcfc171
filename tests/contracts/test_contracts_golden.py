"""The bytes of transactions and the state they lead to, for ever: TX-10. Made by make_contracts_golden.py."""

import json
from typing import Any, get_args

from chain_world import START_MS
from make_contracts_golden import GOLDEN, vectors

from swarmlearning.contracts.messages import AnyMessage, Propose
from swarmlearning.contracts.proposals import AnyChange
from swarmlearning.contracts.transition import VERSION, open_tx
from swarmlearning.encoding import sha256
from swarmlearning.ledger.boundary import Header
from swarmlearning.sn.application import SwarmApplication
from swarmlearning.sn.state import StateStore
from swarmlearning.types import Code


def load() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(GOLDEN.read_text())
    return found


def test_tx10_this_release_makes_the_same_transactions_and_state_as_the_first() -> None:
    assert json.loads(json.dumps(vectors())) == load()


def test_tx10_the_recorded_transactions_still_open_and_cover_every_message() -> None:
    golden = load()
    assert golden["version"] == VERSION
    blocks = golden["blocks"] + golden["voting_blocks"]
    messages = [open_tx(bytes.fromhex(tx)).payload.message for block in blocks for tx in block["txs"]]
    assert {type(message) for message in messages} == set(get_args(AnyMessage))
    changes = {type(message.change) for message in messages if isinstance(message, Propose)}
    assert changes == set(get_args(AnyChange))


def test_tx10_the_recorded_blocks_alone_lead_to_the_recorded_state() -> None:
    golden = load()
    app = SwarmApplication(StateStore(None))
    assert app.init(bytes.fromhex(golden["genesis"])).hex() == golden["genesis_app_hash"]
    first = golden["blocks"][0]
    header = Header(
        height=1,
        time_ms=START_MS + 1000,
        previous_hash=sha256(bytes.fromhex(golden["genesis"])),
        proposer="spiffe://org0.example/heart/sn/sn0",
    )
    applied = app.apply(header, [bytes.fromhex(tx) for tx in first["txs"]])
    assert applied.app_hash.hex() == first["app_hash"]


def test_the_golden_story_is_carried_out() -> None:
    codes = [code for block in load()["blocks"] for code in block["codes"]]
    # The last to store comes when the round is final; a suspect, if the draw makes it speak, may not suspect itself.
    assert set(codes) <= {Code.OK, Code.NOT_ALLOWED, Code.STALE}
    assert codes.count(Code.OK) >= len(codes) - 2


def test_the_golden_decisions_are_made_and_an_empty_block_changes_nothing() -> None:
    blocks = load()["voting_blocks"]
    assert {code for block in blocks for code in block["codes"]} == {Code.OK}
    hashes = [block["app_hash"] for block in blocks]
    empty = [index for index, block in enumerate(blocks) if not block["txs"]]
    assert len(empty) == 2, "one with evidence, one with nothing"
    assert hashes[empty[0]] != hashes[empty[0] - 1]
    assert hashes[empty[1]] == hashes[empty[1] - 1]
