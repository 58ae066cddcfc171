"""What members can decide and what it does: docs/spec/membership.md, M-11 to M-16; training.md, T-52."""

import pytest
from chain_world import Chain, authority, certificate, key_of, member, registration, validator_of
from contracts_world import BIG, HOME, Honest, World, name_of, node_of
from contracts_world import settings as study_settings
from governance_world import Parliament, admission, op, org
from msgspec.structs import replace

from swarmlearning.contracts import changes, membership, proposals, seats, training
from swarmlearning.contracts.context import Context
from swarmlearning.contracts.messages import CreateContract, Enrol, LeaveNetwork, Propose, RevokeCertificate
from swarmlearning.contracts.proposals import (
    AdmitOrganisation,
    AnyChange,
    ChangeRoles,
    ExpelOrganisation,
    Offence,
    ReplaceIssuers,
    ReplaceValidator,
    RevokeForeign,
)
from swarmlearning.contracts.records import PeerState, Phase
from swarmlearning.encoding import sha256
from swarmlearning.identity.verify import fingerprint
from swarmlearning.ledger.boundary import Event, Misbehaviour
from swarmlearning.sn.state import Overlay
from swarmlearning.types import (
    DEFAULT_CONTRACT,
    Code,
    ContractName,
    Endpoint,
    NodeId,
    NodeName,
    Role,
    TrustDomain,
    Validator,
)

LEAVE = LeaveNetwork()


def issuers(*names: str) -> tuple[bytes, ...]:
    return tuple(sorted(authority(name) for name in names))


# --- M-11: who cannot go --------------------------------------------------------------------------------------------


def test_m11_the_last_organisation_cannot_leave() -> None:
    parliament = Parliament(2, voting=True)
    parliament.leave(1)
    chain = parliament.chain
    assert parliament.say(0, LEAVE).code is Code.CONFLICT
    assert parliament.members == [org(0)]
    assert chain.app.validators() == {org(0): validator_of(0)}


def test_m11_the_sentinels_organisation_hands_over_first() -> None:
    parliament = Parliament(4)
    assert "hand over" in parliament.refusal(1, ExpelOrganisation(domain=org(0))).log
    left = parliament.say(0, LEAVE)
    assert left.code is Code.CONFLICT
    assert "hand over" in left.log


def test_m11_after_a_handover_the_former_sentinels_organisation_can_be_expelled_also_in_an_idle_network() -> None:
    parliament = Parliament(4)
    chain = parliament.chain
    tx = chain.sign(op(1), Propose(change=ExpelOrganisation(domain=org(0))))
    # Who orders the next block is not known when it is judged.
    assert chain.app.check(tx).code is Code.OK
    assert chain.apply(tx, proposer=member(2, Role.SN).id)[0].code is Code.OK
    vote = chain.sign(op(3), parliament.ballot(1))
    assert chain.apply(vote, proposer=member(2, Role.SN).id)[0].code is Code.OK
    again = chain.sign(op(2), parliament.ballot(1))
    assert chain.apply(again, proposer=member(2, Role.SN).id)[0].code is Code.OK
    assert org(0) not in parliament.members


def test_m11_nobody_proposes_its_own_expulsion() -> None:
    assert "may leave" in Parliament(4).refusal(1, ExpelOrganisation(domain=org(1))).log


@pytest.mark.parametrize(
    "change",
    [
        ExpelOrganisation(domain=org(9)),
        ChangeRoles(domain=org(9), roles=(Role.SN,)),
        RevokeForeign(domain=org(9), fingerprint=bytes(32)),
        ReplaceIssuers(domain=org(9), issuers=issuers(org(9))),
        ReplaceValidator(domain=org(9), validator=validator_of(9)),
        ExpelOrganisation(domain=TrustDomain("x" * 10_000)),
    ],
)
def test_m11_nothing_is_decided_about_who_is_no_member(change: AnyChange) -> None:
    refused = Parliament(4, voting=True).refusal(0, change)
    assert refused.code is Code.NOT_FOUND
    assert len(refused.log) < 200


# --- M-12: authorities ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ((), Code.MALFORMED),
        ((b"rubbish",), Code.MALFORMED),
        ((certificate(member(9), org(9)),), Code.MALFORMED),
        (issuers(org(9)) * 2, Code.MALFORMED),
        (tuple(reversed(issuers(org(8), org(9)))), Code.MALFORMED),
        (tuple(sorted(bytes([i]) for i in range(17))), Code.MALFORMED),
        ((b"\x30" * 33_000,), Code.MALFORMED),
        (issuers(org(1)), Code.CONFLICT),
        (issuers(org(9), org(1)), Code.CONFLICT),
    ],
    ids=["none", "rubbish", "a leaf", "twice", "not rising", "seventeen", "large", "another's", "also another's"],
)
def test_m12_authorities_that_cannot_issue_or_are_anothers_are_refused(bad: tuple[bytes, ...], code: Code) -> None:
    assert Parliament(4).refusal(0, replace(admission(9), issuers=bad)).code is code
    assert Parliament(4).refusal(0, ReplaceIssuers(domain=org(2), issuers=bad)).code is code


def test_m12_another_certificate_of_the_same_ca_key_is_in_use_too() -> None:
    """Whose key it is matters, not what stands on it."""
    own = authority(org(1), serial=99)
    assert own != authority(org(1))
    assert Parliament(4).refusal(0, replace(admission(9), issuers=(own,))).code is Code.CONFLICT


def test_m12_a_replaced_authority_puts_out_the_nodes_of_the_old_one_until_they_register_anew() -> None:
    parliament = Parliament(4)
    chain, sl = parliament.chain, member(2)
    chain.register(sl)
    both = ReplaceIssuers(domain=org(2), issuers=issuers(org(2), "new.example"))
    parliament.decide(both, 0, 1, 3)
    assert chain.do(sl, CreateContract(contract=ContractName("a"))).code is Code.OK
    parliament.decide(ReplaceIssuers(domain=org(2), issuers=issuers("new.example")), 0, 1, 3)
    refused = chain.do(sl, CreateContract(contract=ContractName("b")))
    assert refused.code is Code.NOT_ALLOWED
    assert "authority" in refused.log
    assert chain.do(sl, registration(sl)).code is Code.NOT_ALLOWED
    assert chain.do(sl, registration(sl, certificate(sl, "new.example"))).code is Code.OK
    assert chain.do(sl, CreateContract(contract=ContractName("b"))).code is Code.OK


@pytest.mark.parametrize("kept", [0, 1])
def test_m12_while_two_authorities_are_listed_each_node_belongs_to_the_one_that_issued_its_certificate(
    kept: int,
) -> None:
    parliament = Parliament(4)
    chain, nodes, names = parliament.chain, [member(2), member(2, Role.SN)], (org(2), "new.example")
    parliament.decide(ReplaceIssuers(domain=org(2), issuers=issuers(*names)), 0, 1, 3)
    for node, issuer in zip(nodes, names, strict=True):
        assert chain.do(node, registration(node, certificate(node, issuer))).code is Code.OK
    parliament.decide(ReplaceIssuers(domain=org(2), issuers=issuers(names[kept])), 0, 1, 3)
    said = [chain.do(node, CreateContract(contract=ContractName(node.name))).code for node in nodes]
    assert said[kept] is Code.OK
    assert said[1 - kept] is Code.NOT_ALLOWED


def test_m12_the_sentinel_is_not_put_out() -> None:
    parliament = Parliament(4)
    chain, sn = parliament.chain, member(0, Role.SN)
    chain.register(sn)
    mark = fingerprint(certificate(sn, org(0)))
    for change in (
        RevokeForeign(domain=org(0), fingerprint=mark),
        ReplaceIssuers(domain=org(0), issuers=issuers("new.example")),
    ):
        assert "hand over" in parliament.refusal(1, change).log
    parliament.decide(RevokeForeign(domain=org(0), fingerprint=sha256(b"another")), 1, 2, 3)
    parliament.decide(ReplaceIssuers(domain=org(0), issuers=issuers(org(0), "new.example")), 1, 2, 3)


def test_m12_others_revoke_a_certificate_that_its_organisation_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "MAX_REVOKED", 1)
    parliament = Parliament(4)
    chain, sl = parliament.chain, member(3)
    chain.register(sl)
    # It has used up its own room, so that nothing can be revoked any more.
    parliament.must(3, RevokeCertificate(fingerprint=sha256(b"nothing")))
    mark = fingerprint(certificate(sl, org(3)))
    parliament.decide(RevokeForeign(domain=org(3), fingerprint=mark), 0, 1, 2)
    assert chain.do(sl, CreateContract(contract=ContractName("a"))).code is Code.NOT_ALLOWED
    assert chain.do(sl, registration(sl)).code is Code.NOT_ALLOWED
    assert parliament.refusal(0, RevokeForeign(domain=org(3), fingerprint=b"short")).code is Code.MALFORMED


def test_m4_a_revocation_changes_nothing_else_of_its_organisation() -> None:
    """Once it forgot who votes for it."""
    parliament = Parliament(4, voting=True)
    before = parliament.organisation(2)
    parliament.must(2, RevokeCertificate(fingerprint=sha256(b"x")))
    assert parliament.organisation(2) == replace(before, revoked=(sha256(b"x"),))


# --- M-13: validators -----------------------------------------------------------------------------------------------


def changed(chain: Chain) -> tuple[Validator, ...] | None:
    return chain.blocks[-1][2].validators


def test_m13_the_set_that_votes_is_that_of_the_members_after_the_block() -> None:
    parliament = Parliament(4, voting=True)
    chain = parliament.chain
    number = parliament.propose(0, admission(4, voting=True))
    assert changed(chain) is None
    parliament.vote(number, 1)
    assert changed(chain) is None
    parliament.vote(number, 2)
    assert changed(chain) == tuple(map(validator_of, range(5)))
    parliament.must(3, RevokeCertificate(fingerprint=sha256(b"x")))
    assert changed(chain) is None, "members changed, validators did not"
    parliament.rotate(1, "new")
    assert changed(chain) == (validator_of(0), validator_of(1, "new"), *map(validator_of, (2, 3, 4)))
    parliament.expel(0, 1, 2, 3)
    assert changed(chain) == (validator_of(1, "new"), *map(validator_of, (2, 3, 4)))
    assert tuple(chain.app.validators().values()) == changed(chain)
    parliament.decide(ReplaceValidator(domain=org(3), validator=validator_of(3, "new")), 1, 2, 3)
    assert changed(chain) == (validator_of(1, "new"), validator_of(2), validator_of(3, "new"), validator_of(4))


def test_m13_a_key_or_peer_id_in_use_is_refused_and_a_key_that_was_given_up_too() -> None:
    parliament = Parliament(4, voting=True)
    parliament.rotate(1, "new")
    fresh = validator_of(9)
    for taken, says in (
        (replace(fresh, key=validator_of(2).key), "is org2"),
        (replace(fresh, key=validator_of(1).key), "was org1"),
        (replace(fresh, peer=validator_of(2).peer), "peer id"),
    ):
        assert says in parliament.refusal(0, replace(admission(9), validator=taken)).log
        assert says in parliament.refusal(0, ReplaceValidator(domain=org(3), validator=taken)).log
    assert parliament.rotate(1, "").code is Code.CONFLICT, "its own old key"
    # Another key behind the same node key is its own affair.
    same_peer = replace(validator_of(2, "new"), peer=validator_of(2).peer)
    parliament.decide(ReplaceValidator(domain=org(2), validator=same_peer), 0, 1, 3)


def test_m13_who_has_given_up_many_keys_waits_until_no_evidence_can_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an organisation shook off what its old keys did by making new ones."""
    monkeypatch.setattr(seats, "MAX_RETIRED", 2)
    monkeypatch.setattr(seats, "EVIDENCE_BLOCKS", 5)
    parliament = Parliament(4, voting=True)
    chain = parliament.chain
    assert [parliament.rotate(1, salt).code for salt in "abc"] == [Code.OK, Code.OK, Code.CONFLICT]
    assert parliament.rotate(2, "a").code is Code.OK
    for _ in range(6):
        chain.apply()
    assert parliament.rotate(1, "c").code is Code.CONFLICT, "blocks have passed, but no time"
    chain.do(op(0), RevokeCertificate(fingerprint=sha256(b"x")), step_ms=3 * proposals.DAY_MS)
    assert parliament.rotate(1, "c").code is Code.OK
    assert len(list(chain.app.store.keys("validator/"))) == 4 + 1, "all in office, and the one just given up"


def test_m5_a_validators_address_misleads_no_terminal() -> None:
    there = replace(validator_of(9), endpoint=Endpoint(host="v\u202e.example", port=1))
    assert Parliament(4, voting=True).refusal(0, replace(admission(9), validator=there)).code is Code.MALFORMED


def test_m13_where_a_sentinel_orders_there_are_no_validators() -> None:
    parliament = Parliament(4)
    assert parliament.rotate(1, "new").code is Code.NOT_ALLOWED
    assert parliament.refusal(0, admission(9, voting=True)).code is Code.NOT_ALLOWED
    assert parliament.refusal(0, ReplaceValidator(domain=org(1), validator=validator_of(9))).code is Code.NOT_ALLOWED


# --- M-14: admission and roles --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "roles", [(), (Role.SL,), (Role.SN, Role.SN), (Role.SL, Role.SN), (Role.SN, Role.AUDITOR, Role.SL)]
)
def test_m14_roles_stand_in_one_order_each_once_with_sn_among_them(roles: tuple[Role, ...]) -> None:
    parliament = Parliament(4)
    assert parliament.refusal(0, ChangeRoles(domain=org(1), roles=roles)).code is Code.MALFORMED
    assert parliament.refusal(0, replace(admission(9), roles=roles)).code is Code.MALFORMED


@pytest.mark.parametrize("domain", ["", "A.example", "a/b", "x" * 65, "a b", "é"])
def test_m14_a_new_member_has_a_name_that_certificates_can_bear(domain: str) -> None:
    change = replace(admission(9), domain=TrustDomain(domain))
    assert Parliament(4).refusal(0, change).code is Code.MALFORMED


def test_m14_a_member_is_not_admitted_again_and_there_is_a_largest_number(monkeypatch: pytest.MonkeyPatch) -> None:
    parliament = Parliament(4)
    again = AdmitOrganisation(domain=org(1), issuers=issuers(org(9)))
    assert "already" in parliament.refusal(0, again).log
    monkeypatch.setattr(changes, "MAX_ORGANISATIONS", 4)
    assert "the most there can be" in parliament.refusal(0, admission(9)).log


def test_m14_where_validators_vote_a_new_member_brings_one() -> None:
    assert Parliament(4, voting=True).refusal(0, admission(9)).code is Code.MALFORMED


def test_m14_a_new_members_nodes_register_and_speak() -> None:
    parliament = Parliament(4)
    parliament.decide(admission(9), 0, 1, 2)
    parliament.chain.register(op(9))
    number = parliament.propose(9, admission(8))
    assert parliament.proposal(number).yes == (org(9),)


def test_m14_what_was_revoked_stays_so_when_a_former_member_is_admitted_again() -> None:
    parliament = Parliament(4)
    chain, sl = parliament.chain, member(3)
    mark = fingerprint(certificate(sl, org(3)))
    parliament.must(3, RevokeCertificate(fingerprint=mark))
    parliament.leave(3)
    parliament.decide(admission(3), 0, 1, 2)
    assert chain.do(sl, registration(sl)).code is Code.NOT_ALLOWED
    assert changes.load_departed(parliament.state, org(3)) is None


# --- M-15: what departure does --------------------------------------------------------------------------------------


@pytest.mark.parametrize("expelled", [True, False])
def test_m15_who_goes_takes_along_nodes_and_keys_and_nothing_of_others(expelled: bool) -> None:
    parliament = Parliament(4, voting=True)
    chain, sl = parliament.chain, member(3)
    neighbour = NodeName(domain=TrustDomain("org3.example.two"), network="heart", role=Role.SL, name="sl3")
    alike = replace(admission(30, voting=True), domain=neighbour.domain, issuers=issuers(neighbour.domain))
    parliament.decide(alike, 0, 1, 2)
    chain.register(sl, neighbour)
    assert chain.do(sl, CreateContract(contract=ContractName("theirs"))).code is Code.OK
    if expelled:
        parliament.expel(3, 0, 1, 2)
    else:
        parliament.leave(3)
    left = list(chain.app.store.keys(""))
    forgotten = [f"node/{sl.id}", f"node/{op(3).id}", "count/nodes/org3.example", "org/org3.example"]
    assert not set(forgotten) & set(left)
    assert f"key/{key_of(sl).public.hex()}" not in left
    assert f"node/{neighbour.id}" in left
    assert membership.load_training(parliament.state, ContractName("theirs")) is not None
    departed = changes.load_departed(parliament.state, org(3))
    assert departed is not None
    assert (departed.expelled, departed.height) == (expelled, chain.height)
    assert chain.do(sl, registration(sl)).code is Code.NOT_ALLOWED


def test_m15_old_keys_do_not_come_back_with_a_former_member() -> None:
    parliament = Parliament(4)
    chain, sl = parliament.chain, member(3)
    chain.register(sl)
    parliament.leave(3)
    parliament.decide(admission(3), 0, 1, 2)
    assert chain.do(sl, CreateContract(contract=ContractName("a"))).code is Code.UNKNOWN_SIGNER


# --- M-16: evidence -------------------------------------------------------------------------------------------------


def accuse(index: int, salt: str = "", height: int = 3) -> Misbehaviour:
    return Misbehaviour(kind="duplicate_vote", address=validator_of(index, salt).address, height=height, time_ms=7)


def found(chain: Chain) -> list[Offence]:
    return seats.list_offences(Overlay(chain.app.store))


def test_m16_evidence_is_written_down_with_whom_the_key_votes_or_voted_for_and_people_are_told() -> None:
    parliament = Parliament(4, voting=True)
    chain = parliament.chain
    parliament.rotate(1, "new")
    parliament.expel(2, 0, 1, 3)
    told: list[Event] = []
    accused = (accuse(0), accuse(1), accuse(1, "new"), accuse(2), accuse(9))
    header = chain.header()
    told.extend(chain.app.apply(header, (), accused).events)
    chain.apply(misbehaviour=accused)
    assert [offence.domain for offence in found(chain)] == [org(0), org(1), org(1), org(2), ""]
    assert {(o.height, o.time_ms, o.recorded_height) for o in found(chain)} == {(3, 7, chain.height)}
    assert [offence.number for offence in found(chain)] == [1, 2, 3, 4, 5]
    strange = validator_of(9).address.hex()
    assert [(e.kind, e.subject) for e in told] == [
        ("misbehaviour", who) for who in (org(0), org(1), org(1), org(2), strange)
    ]


def test_m16_a_block_with_evidence_alone_is_not_empty() -> None:
    parliament = Parliament(4, voting=True)
    before = parliament.chain.app.info().app_hash
    parliament.chain.apply(misbehaviour=(accuse(1),))
    assert parliament.chain.app.info().app_hash != before


def test_m16_offences_are_bounded_and_the_newest_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seats, "MAX_OFFENCES", 4)
    chain = Parliament(4, voting=True).chain
    for height in range(1, 11):
        chain.apply(misbehaviour=(accuse(1, height=height),))
    assert [offence.height for offence in found(chain)] == [7, 8, 9, 10]
    assert [offence.number for offence in seats.list_offences(Overlay(chain.app.store), 2)] == [9, 10]
    assert len(list(chain.app.store.keys("offence/"))) == 4


# --- T-52: trainings go on ------------------------------------------------------------------------------------------


def gone(world: World, *peers: int) -> None:
    """What an expulsion does to the world's training."""
    context = Context(
        height=world.height, time_ms=1, elapsed_ms=world.now_ms, previous_hash=bytes(32), sender=node_of(0),
        name=name_of(0),
    )  # fmt: skip
    after = training.go_on_without(world.training, context, {node_of(peer) for peer in peers}, "org was expelled")
    membership.save_training(world.state, after)


def states(world: World) -> list[str]:
    return [peer.state.value for peer in world.training.peers]


def test_t52_an_open_round_closes_without_who_is_gone_if_it_was_waited_for() -> None:
    world = World()
    world.enrol(0, 1, 2)
    world.check_in(0, 1)
    gone(world, 2)
    assert states(world) == ["live", "live", "left"]
    assert world.phase is Phase.MERGING
    assert world.round.participants == (node_of(0), node_of(1))


def test_t52_its_offer_goes_with_it() -> None:
    world = World()
    world.enrol(0, 1, 2)
    world.check_in(0, 2)
    gone(world, 2)
    assert [c.node for c in world.round.checkins] == [node_of(0)]


@pytest.mark.parametrize("stage", ["begun", "merged", "stored"])
def test_t52_a_merging_round_collects_again_without_a_participant_that_is_gone(stage: str) -> None:
    world = World()
    world.merging(4)
    attempt = world.round.attempt
    if stage != "begun":
        world.commit_all()
    if stage == "stored":
        world.store(3)
    gone(world, 3)
    assert world.phase is Phase.COLLECTING
    assert world.round.attempt > attempt
    assert [(d.node, d.reason) for d in world.round.dropped] == [(node_of(3), "org was expelled")]
    assert states(world) == ["live", "live", "live", "left"]
    world.play_round([0, 1, 2])
    last = world.training.last
    assert last is not None
    assert last.participants == (node_of(0), node_of(1), node_of(2))


def test_t52_a_merging_round_goes_on_if_who_is_gone_took_no_part_in_it() -> None:
    world = World()
    world.merging(3)
    world.enrol(3)
    before = world.round
    gone(world, 3)
    assert world.round == before
    assert states(world) == ["live", "live", "live", "left"]


def test_t52_when_all_are_gone_a_training_without_a_result_starts_over_and_one_with_a_result_waits() -> None:
    world = World()
    world.merging(2)
    fresh = world.fork()
    gone(fresh, 0, 1)
    assert (fresh.training.run, fresh.phase, fresh.training.peers) == (2, Phase.UNINITIALIZED, ())
    world.finalise()
    world.check_in(0, 1)
    assert world.phase is Phase.MERGING
    gone(world, 0, 1)
    assert (world.training.run, world.phase) == (1, Phase.COLLECTING)
    assert states(world) == ["left", "left"]


def test_t52_a_complete_training_stays_as_it_was() -> None:
    world = World()
    world.merging(2)
    world.finalise()
    world.complete([0, 1])
    assert world.phase is Phase.COMPLETED
    before = world.training.peers
    gone(world, 1)
    assert world.training.peers == before


@pytest.mark.parametrize("out", [0, 1, 2, 3])
def test_t52_the_others_come_to_a_result_whoever_is_gone(out: int) -> None:
    world = World(witnesses=1)
    world.merging(4)
    gone(world, out)
    honest = Honest(world, [peer for peer in range(4) if peer != out])
    while world.training.last is None:
        assert honest.step()
        assert honest.steps < 100


@pytest.mark.parametrize("how", ["expelled", "left", "roles"])
def test_t52_in_every_training_and_for_every_way_to_go(how: str) -> None:
    parliament = Parliament(4)
    chain = parliament.chain
    sls = [member(i) for i in range(4)]
    chain.register(*sls)
    other = ContractName("other")
    chain.do(sls[0], CreateContract(contract=other))
    for sl in sls:
        for name in (DEFAULT_CONTRACT, other):
            enrol = Enrol(contract=name, run=1, settings=study_settings(), manifest=BIG, min_peers=2, weight=1,
                          endpoint=HOME)  # fmt: skip
            assert chain.do(sl, enrol).code is Code.OK
    if how == "expelled":
        parliament.expel(3, 0, 1, 2)
    elif how == "left":
        parliament.leave(3)
    else:
        parliament.decide(ChangeRoles(domain=org(3), roles=(Role.SN, Role.OPERATOR)), 0, 1, 2)
    for name in (DEFAULT_CONTRACT, other):
        record = membership.load_training(parliament.state, name)
        assert record is not None
        assert {peer.node: peer.state for peer in record.peers} == {
            NodeId(sl.id): PeerState.LEFT if sl == sls[3] else PeerState.LIVE for sl in sls
        }
