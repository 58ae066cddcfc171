"""Only CometBFT's legal order of calls drives the application (docs/spec/ledger-cometbft.md, section 2)."""

import random
from collections.abc import Iterator

import pytest

from swarmlearning.errors import Broken
from swarmlearning.ledger.cometbft.order import CallOrder


def legal_lives(seed: int) -> Iterator[tuple[int, list[tuple[str, int]]]]:
    """Lives drawn from the grammar of `abci++_comet_expected_behavior.md`, each with the height that it begins at."""
    rng = random.Random(seed)
    for _ in range(50):
        start = rng.choice([0, 0, 7])
        calls: list[tuple[str, int]] = [("info", 0)]
        if start == 0:
            calls.append(("init_chain", 0))
        for height in range(start + 1, start + 1 + rng.randrange(6)):
            for _ in range(rng.randrange(3)):  # rounds; none when it catches up
                calls += [("verify_vote_extension", height)] * rng.randrange(2)
                if rng.random() < 0.5:
                    calls.append(("prepare_proposal", height))
                if rng.random() < 0.8:
                    calls.append(("process_proposal", height))
                    if rng.random() < 0.5:
                        calls.append(("extend_vote", height))
            calls += [("finalize_block", height), ("commit", height)]
            if rng.random() < 0.3:
                calls.append(("info", 0))  # for somebody who asks over RPC
        yield start, calls


def follow(order: CallOrder, calls: list[tuple[str, int]]) -> None:
    for call, height in calls:
        match call:
            case "info":
                order.info()
            case "init_chain":
                order.init_chain()
            case "finalize_block":
                order.finalize(height)
            case "commit":
                order.commit()
            case _:
                order.decide(call, height)


@pytest.mark.parametrize("seed", range(5))
def test_b4_every_life_that_the_grammar_makes_is_legal(seed: int) -> None:
    for start, calls in legal_lives(seed):
        order = CallOrder(start)
        follow(order, calls)
        assert order.height == start + sum(call == "commit" for call, _ in calls)


INIT = [("info", 0), ("init_chain", 0)]
BLOCK = [("finalize_block", 1), ("commit", 1)]


@pytest.mark.parametrize(
    ("start", "calls"),
    [
        (0, [("init_chain", 0)]),
        (0, [("finalize_block", 1)]),
        (0, [("info", 0), ("finalize_block", 1)]),
        (0, [("info", 0), ("prepare_proposal", 1)]),
        (0, [*INIT, ("init_chain", 0)]),
        (0, [*INIT, *BLOCK, ("init_chain", 0)]),
        (0, [*INIT, ("commit", 1)]),
        (0, [*INIT, *BLOCK, ("commit", 1)]),
        (0, [*INIT, ("finalize_block", 2)]),
        (0, [*INIT, ("finalize_block", 1), ("finalize_block", 1)]),
        (0, [*INIT, ("finalize_block", 1), ("process_proposal", 2)]),
        (0, [*INIT, ("finalize_block", 1), ("prepare_proposal", 1)]),
        (0, [*INIT, *BLOCK, ("process_proposal", 1)]),
        (0, [*INIT, *BLOCK, ("finalize_block", 1)]),
        (7, [("info", 0), ("init_chain", 0)]),
        (7, [("info", 0), ("finalize_block", 7)]),
        (7, [("info", 0), ("finalize_block", 9)]),
        (7, [("finalize_block", 8)]),
        (7, [("info", 0), ("commit", 8)]),
    ],
)
def test_b5_an_illegal_order_is_refused_at_the_call_that_breaks_it(start: int, calls: list[tuple[str, int]]) -> None:
    order = CallOrder(start)
    follow(order, calls[:-1])
    with pytest.raises(Broken, match="no such order is legal"):
        follow(order, calls[-1:])


def test_an_executed_block_must_be_committed_before_anything_else_though_questions_may_be_asked() -> None:
    order = CallOrder(0)
    follow(order, [*INIT, ("finalize_block", 1), ("info", 0)])
    order.commit()
    assert order.height == 1
