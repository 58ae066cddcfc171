"""A training contract before and between rounds: docs/spec/training.md, T-1 to T-11, T-15, T-16."""

import msgspec
import pytest
from contracts_world import BIG, CONTRACT, HOME, World, name_of, node_of, settings

from swarmlearning.contracts.limits import MAX_OPTIONS
from swarmlearning.contracts.membership import training_key
from swarmlearning.contracts.messages import AnyMessage, CreateContract, Enrol
from swarmlearning.contracts.records import (
    MAX_MEASURED_PEERS,
    MAX_PEERS,
    Manifested,
    PeerState,
    Phase,
    Progress,
    Settings,
)
from swarmlearning.contracts.rounds import required_peers
from swarmlearning.contracts.transition import MAX_CONTRACTS
from swarmlearning.encoding import decode, encode
from swarmlearning.errors import DecodeError
from swarmlearning.types import Code, ContractName, Endpoint, Role, TrustDomain

replace = msgspec.structs.replace


def state_of(world: World, peer: int) -> PeerState:
    return next(p.state for p in world.training.peers if p.node == node_of(peer))


# --- T-1 to T-4: creation and reset ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a" * 129, "-a", "a b", "a\n", "ä"])
def test_t1_a_contract_has_a_plain_name(name: str) -> None:
    assert World().say(0, CreateContract(contract=ContractName(name))) is Code.MALFORMED


def test_t1_a_contract_is_created_once() -> None:
    assert World().say(1, CreateContract(contract=CONTRACT)) is Code.CONFLICT


@pytest.mark.parametrize("domains", [["x" * 65], ["UPPER"], [""], [f"o{i}" for i in range(MAX_PEERS + 1)]])
def test_t1_organisations_of_a_contract_are_few_and_well_named(domains: list[str]) -> None:
    message = CreateContract(contract=ContractName("c"), organisations=tuple(map(TrustDomain, domains)))
    assert World().say(0, message) is Code.MALFORMED


def test_t1_an_organisation_cannot_fill_the_state_with_contracts() -> None:
    world = World()
    for i in range(MAX_CONTRACTS - 1):
        world.must(0, CreateContract(contract=ContractName(f"c{i}")))
    assert world.say(0, CreateContract(contract=ContractName("last"))) is Code.CONFLICT
    world.must(1, CreateContract(contract=ContractName("anothers")))


@pytest.mark.parametrize("role", [Role.SWOP, Role.AUDITOR])
def test_t1_only_sl_sn_and_operators_create(role: Role) -> None:
    rejected = World().send(name_of(0, role), CreateContract(contract=ContractName("c")))
    assert rejected is not None
    assert rejected.code is Code.NOT_ALLOWED


@pytest.mark.parametrize(
    "change",
    [
        {"sync_frequency": 0},
        {"sync_frequency": -1},
        {"witnesses": 3},
        {"witnesses": -2},
        {"grace_ms": -1},
        {"lease_ms": 99},
        {"round_max_ms": 999},
        {"round_max_ms": 1 << 62},
        {"merge_method": ""},
        {"merge_method": "m" * 65},
        {"merge_method": "mean\x1b[2J"},
        {"merge_method": "mëan"},
        {"merge_options": (("Trim", 1),)},
        {"merge_options": (("", 1),)},
        {"merge_options": (("trim\n", 1),)},
        {"merge_options": (("t" * 33, 1),)},
        {"merge_options": (("trim", (1 << 62) + 1),)},
        {"merge_options": (("trim", 1), ("trim", 2))},
        {"merge_options": (("trim", 1), ("faulty", 2))},
        {"merge_options": tuple((f"o{i}", 1) for i in range(MAX_OPTIONS + 1))},
        {"method_source": "s" * 201},
        {"method_source": "acme 1.0\x1b[2J"},
    ],
)
def test_t2_settings_beyond_their_limits_are_refused_at_creation_and_enrolment(change: dict[str, object]) -> None:
    bad = settings(**change)
    world = World()
    assert world.say(0, CreateContract(contract=ContractName("c"), settings=bad)) is Code.MALFORMED
    rejected = world.refusal(0, replace(world.enrolment(), settings=bad))
    assert rejected.code is Code.MALFORMED
    assert next(iter(change)) in rejected.log
    assert rejected.log.isprintable()


@pytest.mark.parametrize("change", [{"needs": "everything"}, {"wire": "int4"}, {"merge_options": ((1, 1),)}])
def test_t2_what_a_method_needs_and_how_floats_travel_is_one_of_few_words(change: dict[str, object]) -> None:
    message = CreateContract(contract=ContractName("c"), settings=settings(**change))
    with pytest.raises(DecodeError):
        decode(encode(message), CreateContract)


def test_t2_options_and_source_of_a_method_are_agreed_on_like_all_settings() -> None:
    good = {"merge_options": (("faulty", 1_000_000), ("trim", -(1 << 62))), "method_source": "acme 1.2.0 sha256:00"}
    world = World(**good)
    world.enrol(0)
    for name, other in (("merge_options", ()), ("method_source", "acme 1.2.1"), ("needs", "history"), ("wire", "bf16")):
        rejected = world.refusal(1, replace(world.enrolment(), settings=settings(**{**good, name: other})))
        assert rejected.code is Code.CONFLICT
        assert rejected.log.startswith(f"settings: {name} is ")


@pytest.mark.parametrize(
    ("method", "asked", "wanted"),
    [("mean", -1, 0), ("fedavgm", -1, 0), ("krum", -1, 1), ("acme", -1, 1), ("mean", 2, 2), ("krum", 0, 0)],
)
def test_t2_each_method_but_the_mean_has_a_witness_where_nobody_says_otherwise(
    method: str, asked: int, wanted: int
) -> None:
    world = World(merge_method=method, witnesses=asked)
    world.merging(4)
    assert [len(nodes) for nodes in world.round.witnesses] == [wanted]


def test_t3_the_creators_organisation_resets_alone_only_while_fewer_than_two_train() -> None:
    world = World()
    assert world.say(1, world.resetting()) is Code.NOT_ALLOWED
    world.enrol(1)
    world.must(0, world.resetting())
    assert (world.training.run, world.training.peers) == (2, ())
    world.enrol(1, 2)
    assert world.say(0, world.resetting()) is Code.NOT_ALLOWED


def test_t3_a_majority_of_the_enrolled_resets_a_running_training() -> None:
    world = World()
    world.enrol(0, 1, 2, 3)
    for voter in (0, 1, 1, 0):
        world.must(voter, world.resetting())
    assert world.training.run == 1
    world.must(2, world.resetting())
    assert world.training.run == 2


def test_t3_who_cannot_reset_is_told_how_many_votes_it_takes_and_whose_are_missing() -> None:
    world = World()
    world.enrol(1, 2, 3)
    world.must(2, world.resetting())
    assert str(world.refusal(0, world.resetting())) == (
        "study is collecting: a majority of its enrolled peers resets it, each as its SL: 1 of the 2 votes that it "
        "needs are there; not yet asked for by sl1@org1.example, sl3@org3.example"
    )
    world.enrol(4, 5, 6, 7, 8)
    many = str(world.refusal(0, world.resetting()))
    assert "1 of the 5 votes that it needs are there" in many
    assert many.endswith("sl4@org4.example, sl5@org5.example, sl6@org6.example and 2 more")


def test_t3_votes_of_those_who_left_do_not_count() -> None:
    world = World()
    world.enrol(0, 1, 2, 3)
    world.must(0, world.resetting())
    world.must(0, world.leaving())
    world.must(1, world.resetting())
    assert world.training.run == 1


def test_t3_after_completion_the_enrolled_may_reset_too() -> None:
    world = World()
    world.enrol(1, 2)
    world.play_round([1, 2])
    world.complete([1, 2])
    world.must(1, world.resetting())
    assert world.is_at(Phase.COMPLETED)
    voted = world.fork()
    voted.must(2, voted.resetting())
    assert voted.is_at(Phase.UNINITIALIZED)
    world.must(0, world.resetting())
    assert world.is_at(Phase.UNINITIALIZED)


def test_t3_a_reset_forgets_everything_but_settings_given_at_creation() -> None:
    world = World()
    world.enrol(1)
    world.must(0, world.resetting())
    assert world.training.settings is None
    fixed = ContractName("fixed")
    world.must(0, CreateContract(contract=fixed, settings=settings(witnesses=1)))
    message = replace(world.enrolment(), contract=fixed, run=1)
    assert world.say(1, message) is Code.CONFLICT
    world.must(0, replace(world.resetting(), contract=fixed, run=1))
    assert world.say(1, replace(message, run=2)) is Code.CONFLICT
    assert world.say(1, replace(message, run=2, settings=settings(witnesses=1))) is Code.OK


def test_t4_messages_of_another_run_are_refused_and_change_nothing() -> None:
    world = World()
    world.enrol(1)
    old: list[AnyMessage] = [world.enrolment(), world.offer(1), world.ticking()]
    old += [world.finishing(), world.leaving(), world.resetting()]
    world.must(0, world.resetting())
    world.enrol(1, 2)
    before = world.training
    for message in old:
        assert world.say(1, message) is Code.STALE
    assert world.training == before


def test_t4_messages_of_another_round_or_attempt_are_refused() -> None:
    world = World()
    world.merging(3)
    leader, other = world.leader(), (world.leader() + 1) % 3
    messages = [
        (leader, world.commitment(0)),
        (leader, world.report(0, other)),
        (other, world.suspicion(0, node_of(leader))),
        (other, world.ticking()),
        (other, world.storing()),
    ]
    before = world.training
    for sender, message in messages:
        for change in ({"round": 1}, {"attempt": 0}, {"attempt": 2}, {"round": -1}, {"run": 2}):
            assert world.say(sender, replace(message, **change)) is Code.STALE  # type: ignore[arg-type]
    assert world.training == before


def test_t4_a_contract_that_does_not_exist_is_named_briefly() -> None:
    rejected = World().refusal(0, replace(World().enrolment(), contract=ContractName("x" * 60_000)))
    assert rejected.code is Code.NOT_FOUND
    assert len(rejected.log) <= 1000


# --- T-5 to T-9: enrolment ------------------------------------------------------------------------------------------


def test_t5_only_named_organisations_enrol() -> None:
    world = World()
    closed = ContractName("closed")
    world.must(0, CreateContract(contract=closed, organisations=(name_of(1).domain,)))
    message = replace(world.enrolment(), contract=closed)
    assert world.say(2, message) is Code.NOT_ALLOWED
    assert world.say(1, message) is Code.OK


@pytest.mark.parametrize("role", [Role.SN, Role.OPERATOR, Role.SWOP, Role.AUDITOR])
def test_t5_only_sl_nodes_enrol(role: Role) -> None:
    world = World()
    rejected = world.send(name_of(1, role), world.enrolment())
    assert rejected is not None
    assert rejected.code is Code.NOT_ALLOWED


def test_t5_nobody_enrols_in_a_completed_run() -> None:
    world = World()
    world.enrol(0, 1)
    world.play_round([0, 1])
    world.complete([0, 1])
    assert world.say(2, world.enrolment()) is Code.CONFLICT


@pytest.mark.parametrize(
    "change",
    [
        {"min_peers": 0},
        {"min_peers": -5},
        {"min_peers": MAX_PEERS + 1},
        {"weight": 0},
        {"weight": 1_000_001},
        {"manifest": Manifested(hash=b"short", size=1)},
        {"manifest": Manifested(hash=bytes(32), size=-1)},
        {"manifest": Manifested(hash=bytes(32), size=1 << 41)},
        {"endpoint": Endpoint(host="h", port=1, via="x" * 50_000)},
        {"endpoint": Endpoint(host="h", port=1, via=node_of(1))},
        {"endpoint": Endpoint(host="h\x7f", port=1)},
        {"endpoint": Endpoint(host="höst", port=1)},
    ],
)
def test_t6_an_enrolment_stays_within_limits(change: dict[str, object]) -> None:
    world = World()
    assert world.say(1, replace(world.enrolment(), **change)) is Code.MALFORMED


def test_t6_an_endpoint_may_name_an_sn_as_relay() -> None:
    world = World()
    via = Endpoint(host="h", port=1, via=name_of(0, Role.SN).id)
    assert world.say(1, replace(world.enrolment(), endpoint=via)) is Code.OK


def test_t6_there_are_at_most_so_many_peers() -> None:
    world = World()
    world.enrol(0)
    full = tuple(replace(world.training.peers[0], node=node_of(i)) for i in range(MAX_PEERS))
    world.state.put(training_key(CONTRACT), encode(replace(world.training, peers=full)))
    assert world.say(MAX_PEERS, world.enrolment()) is Code.CONFLICT
    assert world.say(1, world.enrolment()) is Code.OK


def test_t6_fewer_where_their_distances_are_measured() -> None:
    world = World(needs="distances", merge_method="geomedian")
    assert world.say(0, world.enrolment(min_peers=MAX_MEASURED_PEERS + 1)) is Code.MALFORMED
    world.enrol(0)
    full = tuple(replace(world.training.peers[0], node=node_of(i)) for i in range(MAX_MEASURED_PEERS))
    world.state.put(training_key(CONTRACT), encode(replace(world.training, peers=full)))
    rejected = world.refusal(MAX_MEASURED_PEERS, world.enrolment())
    assert rejected.code is Code.CONFLICT
    assert rejected.log == "study has 120 peers, the most there can be with geomedian"
    assert world.say(1, world.enrolment()) is Code.OK


def test_t7_the_first_enrolment_fixes_settings_and_the_error_shows_both_sides() -> None:
    world = World()
    world.enrol(0)
    rejected = world.refusal(1, replace(world.enrolment(), settings=settings(sync_frequency=32)))
    assert rejected.code is Code.CONFLICT
    assert rejected.log == "settings: sync_frequency is 16 on the contract, 32 here"


def test_t7_options_of_methods_are_told_as_numbers_and_what_follows_from_a_method_is_not() -> None:
    def difference(contract: Settings, mine: Settings) -> str:
        world = World()
        world.must(0, replace(world.enrolment(), settings=contract))
        return world.refusal(1, replace(world.enrolment(), settings=mine)).log

    trimmed = settings(merge_method="trimmed_mean", merge_options=(("trim", 250_000),))
    assert difference(trimmed, replace(trimmed, merge_options=(("trim", 200_000),))) == (
        "settings: merge_options is trim 0.25 on the contract, trim 0.2 here"
    )
    assert difference(trimmed, replace(trimmed, merge_options=())) == (
        "settings: merge_options is trim 0.25 on the contract, none here"
    )
    krum = settings(merge_method="krum", needs="distances")
    assert difference(settings(), krum) == "settings: merge_method is 'mean' on the contract, 'krum' here"
    acme = settings(merge_method="acme", method_source="acme 1.0 sha256:00")
    assert difference(acme, replace(acme, method_source="acme 1.1 sha256:11")) == (
        "settings: method_source is 'acme 1.0 sha256:00' on the contract, 'acme 1.1 sha256:11' here"
    )


def test_t7_the_first_enrolment_fixes_the_model() -> None:
    world = World()
    world.enrol(0)
    rejected = world.refusal(1, replace(world.enrolment(), manifest=Manifested(hash=b"m" * 32, size=8)))
    assert rejected.code is Code.CONFLICT
    assert rejected.log.startswith("model: ")


def test_t8_the_largest_min_peers_counts_until_its_peer_leaves() -> None:
    world = World()
    world.enrol(0, 1, min_peers=1)
    assert required_peers(world.training) == 2
    world.enrol(2, min_peers=3)
    assert required_peers(world.training) == 3
    world.must(2, world.leaving())
    assert required_peers(world.training) == 2


def test_t8_a_late_min_peers_takes_back_the_quorum() -> None:
    world = World()
    world.enrol(0, 1, 2)
    world.check_in(0, 1)
    assert world.settled_since() is not None
    world.enrol(3, min_peers=4)
    assert world.settled_since() is None
    world.now_ms += 10_000
    assert world.say(0, world.ticking()) is Code.TOO_EARLY


def test_t8_lowering_min_peers_can_close_the_round() -> None:
    world = World()
    world.enrol(0, 1, 2)
    world.must(0, world.enrolment(min_peers=3))
    world.check_in(1, 2)
    assert world.settled_since() is None
    world.must(0, world.enrolment(min_peers=2))
    assert world.settled_since() is not None


def test_t8_who_enrols_again_has_not_checked_in() -> None:
    world = World()
    world.enrol(0, 1)
    world.check_in(0)
    world.enrol(0)
    assert len(world.round.checkins) == 0
    world.check_in(1)
    assert world.is_at(Phase.COLLECTING)


def test_t8_who_enrols_again_keeps_its_record_of_rounds() -> None:
    world = World()
    world.enrol(0, 1)
    world.play_round([0, 1])
    world.enrol(0)
    peer = world.training.peers[0]
    assert (peer.rounds_offered, peer.rounds_contributed, peer.enrolled_round) == (1, 1, 0)


@pytest.mark.parametrize(
    "progress",
    [
        Progress(epoch=1 << 63),
        Progress(batch=-(1 << 63)),
        Progress(metric_name="m" * 65),
        Progress(metric_name="a\x1b]0;"),
    ],
)
def test_t9_progress_stays_within_limits(progress: Progress) -> None:
    world = World()
    world.enrol(0, 1)
    assert world.say(0, replace(world.finishing(), progress=progress)) is Code.MALFORMED
    assert world.say(0, replace(world.offer(0), progress=progress)) is Code.MALFORMED


# --- T-10, T-11: check-in -------------------------------------------------------------------------------------------


def test_t10_only_the_enrolled_check_in() -> None:
    world = World()
    world.enrol(0, 1)
    assert world.say(2, world.offer(2)) is Code.NOT_ALLOWED
    world.must(1, world.leaving())
    assert world.say(1, world.offer(1)) is Code.NOT_ALLOWED


def test_t10_a_check_in_names_the_newest_result() -> None:
    world = World()
    world.enrol(0, 1)
    assert world.say(0, replace(world.offer(0), base=bytes(32))) is Code.STALE
    world.play_round([0, 1])
    assert world.say(0, replace(world.offer(0), base=b"")) is Code.STALE
    assert world.say(0, world.offer(0)) is Code.OK


def test_t10_an_offer_may_be_replaced_until_the_round_closes() -> None:
    world = World()
    world.enrol(0, 1)
    world.check_in(0)
    world.must(0, replace(world.offer(0), commitment=b"n" * 32))
    assert [c.commitment for c in world.round.checkins] == [b"n" * 32]
    world.check_in(1)
    assert world.say(0, world.offer(0)) is Code.STALE


@pytest.mark.parametrize("change", [{"commitment": b""}, {"commitment": b"x" * 33}, {"weight": 2}, {"weight": -1}])
def test_t11_an_offer_has_a_commitment_and_the_enrolled_weight(change: dict[str, object]) -> None:
    world = World()
    world.enrol(0, 1)
    assert world.say(0, replace(world.offer(0), **change)) is Code.MALFORMED


@pytest.mark.parametrize(
    ("checkin_mode", "allowed"),
    [("inactive", {"inactive"}), ("snapshot", {"snapshot", "inactive"}), ("active", {"last", "inactive"})],
)
def test_t11_a_finished_peer_offers_what_the_settings_say(checkin_mode: str, allowed: set[str]) -> None:
    world = World(checkin_mode=checkin_mode)
    world.enrol(0, 1, 2)
    world.play_round([0, 1, 2])
    for mode in ("snapshot", "inactive", "last"):
        assert world.say(0, replace(world.offer(0), mode=mode)) is Code.NOT_ALLOWED
    world.must(0, world.finishing())
    for mode in ("active", "snapshot", "inactive", "last"):
        empty = {"commitment": b"", "weight": 0} if mode == "inactive" else {"commitment": b"c" * 32, "weight": 1}
        expected = Code.OK if mode in allowed else Code.NOT_ALLOWED
        assert world.say(0, replace(world.offer(0), mode=mode, **empty)) is expected


# --- T-15, T-16: finishing and leaving ------------------------------------------------------------------------------


def test_t15_a_finished_peer_is_still_waited_for() -> None:
    world = World()
    world.enrol(0, 1, 2)
    world.must(0, world.finishing())
    world.check_in(1, 2)
    assert world.is_at(Phase.COLLECTING)
    world.check_in(0)
    assert world.is_at(Phase.MERGING)
    assert not world.round.closing


def test_t15_when_all_have_finished_the_closing_round_completes_the_training() -> None:
    world = World()
    world.enrol(0, 1)
    world.play_round([0, 1])
    for peer in (0, 1):
        world.must(peer, world.finishing())
    world.check_in(0, 1)
    assert world.round.closing
    world.finalise()
    assert world.is_at(Phase.COMPLETED)
    assert world.training.last is not None
    assert world.training.last.round == 1


def test_t16_a_leaver_is_not_waited_for_and_its_offer_goes() -> None:
    world = World()
    world.enrol(0, 1, 2)
    world.check_in(0, 1)
    world.must(2, world.leaving())
    assert world.is_at(Phase.MERGING)
    assert world.round.participants == (node_of(0), node_of(1))


def test_t16_leaving_takes_back_the_quorum() -> None:
    world = World()
    world.enrol(0, 1, 2)
    world.check_in(0, 1)
    world.must(1, world.leaving())
    assert world.settled_since() is None
    assert [c.node for c in world.round.checkins] == [node_of(0)]


def test_t16_in_a_merging_round_the_leavers_offer_and_charge_stand() -> None:
    world = World()
    world.merging(2)
    world.must(0, world.leaving())
    assert world.is_at(Phase.MERGING)
    world.finalise()
    assert world.training.last is not None
    assert world.training.last.contributors == (node_of(0), node_of(1))


def test_t16_when_all_leave_a_training_without_a_result_starts_over() -> None:
    world = World()
    world.enrol(0, 1)
    world.must(0, world.leaving())
    world.must(1, world.leaving())
    assert (world.phase, world.training.run, world.training.settings) == (Phase.UNINITIALIZED, 2, None)


@pytest.mark.parametrize("merging", [False, True])
def test_t16_when_all_leave_a_training_with_a_result_waits_for_who_comes_back(merging: bool) -> None:
    world = World()
    world.enrol(0, 1)
    world.play_round([0, 1])
    world.check_in(*([0, 1] if merging else [0]))
    world.must(0, world.leaving())
    world.must(1, world.leaving())
    assert world.is_at(Phase.COLLECTING)
    assert (world.round.number, world.round.checkins, world.training.run) == (1, (), 1)
    world.enrol(0, 1)
    world.play_round([0, 1])
    assert world.training.last is not None
    assert (world.training.last.round, world.training.run) == (1, 1)


def test_t16_a_reason_for_leaving_is_short() -> None:
    world = World()
    world.enrol(0, 1)
    assert world.say(0, replace(world.leaving(), reason="r" * 201)) is Code.MALFORMED
    assert state_of(world, 0) is PeerState.LIVE


def test_t16_who_left_may_come_back() -> None:
    world = World()
    world.enrol(0, 1)
    world.must(0, world.leaving())
    assert world.say(0, world.leaving()) is Code.NOT_ALLOWED
    world.enrol(0)
    assert state_of(world, 0) is PeerState.LIVE


def test_enrolments_carry_what_was_asked() -> None:
    world = World()
    world.must(0, Enrol(contract=CONTRACT, run=1, settings=world.settings, manifest=BIG, min_peers=1, weight=7,
                        endpoint=HOME, restored=True))  # fmt: skip
    peer = world.training.peers[0]
    assert (peer.weight, peer.restored, peer.endpoint) == (7, True, HOME)
