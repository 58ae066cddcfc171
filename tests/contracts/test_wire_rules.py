"""Rounds in which encoded differences travel (docs/spec/training.md, T-50 and T-51)."""

import pytest
from contracts_world import CONTRACT, World, node_of, others, settings
from msgspec.structs import replace

from swarmlearning.contracts.messages import CreateContract
from swarmlearning.contracts.records import Phase
from swarmlearning.contracts.rounds import encoded_base
from swarmlearning.encoding import sha256
from swarmlearning.parameters.chunks import result_root
from swarmlearning.types import Code, ContractName


def begun(peers: int, **changes: object) -> World:
    """A training with a result, whose next round merges differences from it and has merged all shards."""
    world = World(wire="int8", **changes)
    world.enrol(*range(peers))
    world.play_round(range(peers))
    world.check_in(*range(peers))
    world.commit_all()
    return world


@pytest.mark.parametrize("start", ["draw", "merge"])
def test_t50_the_first_result_travels_in_full_and_the_next_ones_as_differences(start: str) -> None:
    world = World(wire="int8", start=start)
    world.enrol(0, 1, 2)
    assert encoded_base(world.training) == b""
    world.play_round([0, 1, 2])
    first = world.training.last
    assert first is not None
    assert (first.base, first.whole) == (b"", b"")
    assert encoded_base(world.training) == first.sha256
    world.check_in(0, 1, 2)
    assert encoded_base(world.training) == first.sha256
    world.finalise()
    second = world.training.last
    assert second is not None
    assert second.base == first.sha256
    assert second.whole == sha256(b"whole", result_root(second.roots))


def test_t50_with_float32_everything_travels_in_full() -> None:
    world = World()
    world.enrol(0, 1)
    for _ in range(2):
        world.play_round([0, 1])
        last = world.training.last
        assert last is not None
        assert (last.base, last.whole, encoded_base(world.training)) == (b"", b"", b"")


def test_t50_a_new_run_begins_in_full() -> None:
    world = begun(2)
    world.must(0, world.resetting())
    world.must(1, world.resetting())
    world.enrol(0, 1)
    assert encoded_base(world.training) == b""


@pytest.mark.parametrize("wire", ["bf16", "fp16", "int8"])
def test_t50_a_method_that_needs_the_history_takes_float32_only(wire: str) -> None:
    world = World(wire=wire, merge_method="fedavgm", needs="history")
    refused = world.refusal(0, world.enrolment())
    assert refused.code is Code.MALFORMED
    assert refused.log == f"setting wire = {wire}: fedavgm needs whole results; expected float32 with it"
    other = CreateContract(contract=ContractName(f"{CONTRACT}2"), settings=world.settings)
    assert world.say(0, other) is Code.MALFORMED
    world.settings = settings(merge_method="fedavgm", needs="history")
    world.enrol(0)


def test_t51_in_a_round_of_differences_who_stores_names_the_root_of_the_whole() -> None:
    world = begun(3)
    for whole in (b"", b"x" * 31, b"x" * 33):
        refused = world.refusal(0, replace(world.storing(), whole=whole))
        assert refused.code is Code.MALFORMED
        assert refused.log == f"round 1: root of the whole of {len(whole)} bytes, expected 32"
    world.store(0)
    assert world.say(0, world.storing()) is Code.OK
    assert world.say(0, replace(world.storing(), whole=b"x" * 32)) is Code.CONFLICT


def test_t51_in_a_round_in_full_nobody_names_one() -> None:
    world = World(wire="int8")
    world.merging(3)
    world.commit_all()
    assert world.say(0, replace(world.storing(), whole=b"x" * 32)) is Code.MALFORMED
    world.store(0, 1)
    assert world.training.last is not None


def test_t51_who_names_another_root_of_the_whole_does_not_hold_the_result() -> None:
    """A late peer that fetched the whole by that root would find nothing that verifies."""
    world = begun(3)
    world.must(0, replace(world.storing(), whole=b"x" * 32))
    honest = others(world, 0)
    world.store(*honest)
    last = world.training.last
    assert last is not None
    assert last.round == 1
    assert last.whole == sha256(b"whole", result_root(last.roots))
    assert last.holders == tuple(node_of(p) for p in honest)


def test_t51_where_no_root_of_the_whole_can_win_it_collects_again() -> None:
    world = begun(2)
    world.must(0, replace(world.storing(), whole=b"x" * 32))
    world.must(1, world.storing())
    assert world.is_at(Phase.COLLECTING)
    assert "different hashes" in world.round.setback
    assert world.round.number == 1
