"""Which messages come in waves, so that one block can hold them: docs/spec/ledger.md, L-3."""

from contracts_world import CONTRACT, World, name_of, node_of

from swarmlearning.contracts.messages import AnyMessage, CreateContract
from swarmlearning.contracts.waves import expects_more
from swarmlearning.types import ContractName, NodeId


def sent(*messages: tuple[int, AnyMessage]) -> list[tuple[NodeId, AnyMessage]]:
    return [(node_of(peer), message) for peer, message in messages]


def test_l3_check_ins_are_waited_for_until_all_who_are_expected_have_sent_theirs() -> None:
    world = World()
    world.enrol(0, 1, 2)
    world.check_in(0)
    second, third = (1, world.offer(1)), (2, world.offer(2))
    assert expects_more(world.state, sent(second))
    assert expects_more(world.state, sent(third, third))
    assert not expects_more(world.state, sent(second, third))


def test_l3_merge_commits_are_waited_for_until_every_shard_has_its_own() -> None:
    world = World(topology="sharded")
    round_ = world.merging(3)
    assert round_.shards == 3
    everyone = [(peer, world.commitment(shard)) for shard in range(3) for peer in world.charged(shard)]
    assert expects_more(world.state, sent(*everyone[:-1]))
    assert not expects_more(world.state, sent(*everyone))


def test_l3_the_commit_of_the_only_shard_waits_for_nothing() -> None:
    world = World(topology="leader")
    world.merging(3)
    assert not expects_more(world.state, sent((world.leader(), world.commitment(0))))


def test_l3_stores_are_waited_for_until_all_participants_have_sent_theirs() -> None:
    world = World()
    world.merging(4)
    world.commit_all()
    assert expects_more(world.state, sent(*((peer, world.storing()) for peer in (0, 1, 2))))
    assert not expects_more(world.state, sent(*((peer, world.storing()) for peer in (0, 1, 2, 3))))


def test_l3_nothing_else_is_held_back_nor_what_comes_with_it() -> None:
    world = World()
    world.enrol(0, 1, 2)
    offer = (1, world.offer(1))
    assert expects_more(world.state, sent(offer))
    for message in (world.finishing(), world.leaving(), world.here(), world.ticking(), world.enrolment()):
        assert not expects_more(world.state, sent(offer, (2, message)))
    assert not expects_more(world.state, [])


def test_l3_a_wave_of_one_contract_does_not_hold_back_a_whole_one_of_another() -> None:
    world = World()
    other = ContractName("other")
    assert world.send(name_of(0), CreateContract(contract=other)) is None
    world.enrol(0, 1)
    waiting = (0, world.offer(0))
    assert waiting[1].contract == CONTRACT
    stray = world.storing()
    assert not expects_more(world.state, sent(waiting, (1, stray), (1, world.offer(1))))
    assert not expects_more(World().state, sent((0, world.offer(0))))  # nobody has enrolled there
