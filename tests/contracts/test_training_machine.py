"""Any peers saying anything in any order: what must hold of a training all the same. docs/spec/training.md.

At any point a part of the peers may turn honest for good, the others silent: then the round must end in a bounded
number of steps (T-34), or truly say whom it waits for (T-33).
"""

from contracts_world import CONTRACT, Honest, World, index_of, name_of, node_of
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from swarmlearning.contracts.closing import explain_wait
from swarmlearning.contracts.distances import count_pairs
from swarmlearning.contracts.messages import CreateContract
from swarmlearning.contracts.records import PeerState, Phase, Training
from swarmlearning.contracts.rounds import dropped_nodes, needs_measuring, pending_nodes, required_peers
from swarmlearning.encoding import encode, sha256
from swarmlearning.types import Code, short_name

PEERS = st.integers(0, 5)
LIES = st.sampled_from([b"", b"", b"", b"x", b"y"])


class TrainingMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.finals: dict[tuple[int, int], bytes] = {}
        self.seen: Training | None = None
        self.merge_began = 0

    @initialize(
        n=st.integers(2, 6),
        witnesses=st.integers(0, 2),
        topology=st.sampled_from(["leader", "sharded"]),
        start=st.sampled_from(["draw", "merge"]),
        checkin_mode=st.sampled_from(["inactive", "snapshot", "active"]),
        needs=st.sampled_from(["", "distances", "history"]),
        joined=st.booleans(),
    )
    def begin(self, n: int, joined: bool, **chosen: object) -> None:
        self.n = n
        self.world = World(**chosen)
        if joined:
            self.world.enrol(*range(n))

    # --- what peers say -----------------------------------------------------------------------------------------

    @rule(peer=PEERS, min_peers=st.integers(1, 4), restored=st.booleans())
    def enrol(self, peer: int, min_peers: int, restored: bool) -> None:
        self.world.say(peer % self.n, self.world.enrolment(min_peers=min_peers, restored=restored))

    @rule(peer=PEERS)
    def check_in(self, peer: int) -> None:
        self.world.say(peer % self.n, self.world.offer(peer % self.n))

    @rule(absent=PEERS)
    def most_check_in(self, absent: int) -> None:
        for peer in range(self.n):
            if peer != absent:
                self.world.say(peer, self.world.offer(peer))

    @rule(peer=PEERS, waited_s=st.integers(0, 200))
    def tick(self, peer: int, waited_s: int) -> None:
        self.world.now_ms += waited_s * 1000
        self.world.say(peer % self.n, self.world.ticking())

    @rule(peer=PEERS)
    def finish(self, peer: int) -> None:
        self.world.say(peer % self.n, self.world.finishing())

    @rule(peer=PEERS)
    def leave(self, peer: int) -> None:
        self.world.say(peer % self.n, self.world.leaving())

    @rule(peer=PEERS)
    def reset(self, peer: int) -> None:
        self.world.say(peer % self.n, self.world.resetting())

    @rule(shard=st.integers(-1, 6), which=st.integers(0, 3), lie=LIES)
    def commit(self, shard: int, which: int, lie: bytes) -> None:
        if self.world.phase is Phase.MERGING:
            charged = self.world.charged(shard) if 0 <= shard < self.world.round.shards else [0]
            self.world.say(charged[which % len(charged)], self.world.work(shard, lie))

    @rule(shard=st.integers(0, 5), which=st.integers(0, 3))
    def merge_or_measure_at_the_wrong_time(self, shard: int, which: int) -> None:
        if self.world.phase is Phase.MERGING and shard < self.world.round.shards:
            charged = self.world.charged(shard)
            early = self.world.round.measuring
            message = self.world.commitment(shard) if early else self.world.measurement(shard)
            assert self.world.say(charged[which % len(charged)], message) in (Code.TOO_EARLY, Code.STALE)

    @rule()
    def commit_everything(self) -> None:
        for shard in range(6):
            # A dispute that nobody can decide ends the merging phase in the middle.
            if self.world.phase is Phase.MERGING and shard < self.world.round.shards:
                for node in pending_nodes(self.world.round, shard):
                    self.world.say(index_of(node), self.world.work(shard))

    @rule(peer=PEERS, lie=LIES)
    def stored(self, peer: int, lie: bytes) -> None:
        if self.world.phase is Phase.MERGING:
            self.world.say(peer % self.n, self.world.storing(lie))

    @rule(shard=st.integers(0, 5), which=st.integers(0, 3), contributor=PEERS)
    def report(self, shard: int, which: int, contributor: int) -> None:
        if self.world.phase is Phase.MERGING:
            charged = self.world.charged(shard % self.world.round.shards)
            message = self.world.report(shard % self.world.round.shards, contributor % self.n)
            self.world.say(charged[which % len(charged)], message)

    @rule(shard=st.integers(0, 5), which=st.integers(0, 3), voices=st.sets(PEERS))
    def suspect(self, shard: int, which: int, voices: set[int]) -> None:
        if self.world.phase is Phase.MERGING:
            charged = self.world.charged(shard % self.world.round.shards)
            message = self.world.suspicion(shard % self.world.round.shards, node_of(charged[which % len(charged)]))
            for peer in sorted(voices):
                self.world.say(peer % self.n, message)

    # --- what must come true ------------------------------------------------------------------------------------

    @rule(silent=st.sets(PEERS), finishing=st.booleans())
    def a_round_ends_whoever_falls_silent(self, silent: set[int], finishing: bool) -> None:
        world = self.world.fork()
        honest = Honest(world, [peer for peer in range(self.n) if peer not in silent], finishing=finishing)
        before = world.training
        if before.phase not in (Phase.COLLECTING, Phase.MERGING) or not honest.seats():
            return
        for _ in range(40 + 12 * self.n):
            after = world.training
            if (after.voids, after.last) != (before.voids, before.last) or after.phase is Phase.COMPLETED:
                return
            if not honest.step():
                break
        # No end: then it truly waits for peers that are silent, and names every one of them.
        stuck = world.training
        assert stuck.phase is Phase.COLLECTING
        assert len(honest.seats()) < required_peers(stuck), explain_wait(stuck)
        text = explain_wait(stuck)
        enrolled = [peer for peer in stuck.peers if peer.state is not PeerState.LEFT]
        if len(enrolled) < required_peers(stuck):
            assert f"{len(enrolled)} of at least {required_peers(stuck)} peers have enrolled" in text
        else:
            came = {c.node for c in stuck.round.checkins} if stuck.round else set()
            assert all(short_name(p.node) in text for p in enrolled if p.node not in came)
            assert came < {p.node for p in enrolled}

    # --- what must hold always ----------------------------------------------------------------------------------

    @invariant()
    def numbers_only_grow(self) -> None:
        now, before = self.world.training, self.seen
        self.seen = now
        if before is None:
            return
        assert now.version >= before.version
        assert now.run >= before.run
        if now.run > before.run:
            assert now.last is None
            return
        assert set(now.distrusted) >= set(before.distrusted)
        assert {p.node for p in now.peers} >= {p.node for p in before.peers}
        if before.last is not None:
            assert now.last is not None
            assert now.last.round >= before.last.round
        if now.round is not None and before.round is not None:
            assert (now.round.number, now.round.attempt) >= (before.round.number, before.round.attempt)
            if (now.round.number, now.round.attempt) == (before.round.number, before.round.attempt):
                assert now.round.contributors == before.round.contributors
                assert now.round.leaders == before.round.leaders

    @invariant()
    def a_round_has_one_result(self) -> None:
        training = self.world.training
        if training.last is not None:
            key = (training.run, training.last.round)
            assert self.finals.setdefault(key, encode(training.last)) == encode(training.last)
            held = [node for node in training.last.holders if node in training.last.participants]
            assert 2 * len(held) > len(training.last.participants)

    @invariant()
    def roles_are_consistent(self) -> None:
        training, round_ = self.world.training, self.world.training.round
        if round_ is None:
            return
        enrolled = {peer.node for peer in training.peers}
        assert {c.node for c in round_.checkins} <= enrolled
        assert len({d.node for d in round_.dropped}) == len(round_.dropped) <= len(enrolled)
        if training.phase is not Phase.MERGING:
            assert not round_.participants
            return
        assert set(round_.participants) == {c.node for c in round_.checkins}
        assert set(round_.contributors) <= set(round_.participants)
        assert round_.contributors
        for shard in range(round_.shards):
            charged = (round_.leaders[shard], *round_.witnesses[shard])
            assert len(set(charged)) == len(charged)
            assert set(charged) <= set(round_.participants)
            assert not set(charged) & dropped_nodes(round_)
            assert not set(charged) & set(round_.benched)
            assert round_.merged[shard] or pending_nodes(round_, shard), "a shard that waits for nobody"

    @invariant()
    def nothing_is_merged_before_it_is_measured(self) -> None:
        """T-42."""
        training, round_ = self.world.training, self.world.training.round
        if round_ is None or not round_.merging:
            return
        measures = needs_measuring(training, round_.contributors)
        assert round_.measuring == (measures and not round_.distances)
        assert (
            len(round_.distances) == (8 * count_pairs(len(round_.contributors)) if measures else 0) or round_.measuring
        )
        assert len(round_.parts) <= len(round_.commits)
        if not round_.measuring:
            assert not round_.parts
            return
        assert not all(round_.merged)
        assert not round_.holdings
        for shard, root in enumerate(round_.merged):
            mine = [part for part in round_.parts if part.shard == shard]
            assert not root or [sha256(part.distances) for part in mine] == [root]

    @invariant()
    def only_history_keeps_the_result_before_the_last(self) -> None:
        """T-31."""
        training = self.world.training
        if self.world.settings.needs != "history" or training.last is None:
            assert training.previous is None
        elif training.previous is not None:
            key = (training.run, training.previous.round)
            assert training.previous.round < training.last.round
            assert self.finals[key] == encode(training.previous)
        else:
            assert len([key for key in self.finals if key[0] == training.run]) <= 1

    @invariant()
    def attempts_are_bounded(self) -> None:
        """T-34."""
        round_ = self.world.training.round
        if round_ is None or not round_.merging:
            self.merge_began = 0
            return
        self.merge_began = self.merge_began or round_.attempt
        assert round_.attempt - self.merge_began < 2 * len(round_.participants)

    @invariant()
    def the_record_stays_small_and_readable(self) -> None:
        training = self.world.training
        assert explain_wait(training)
        assert len(encode(training)) < 4000 * self.n + 2000


TestTraining = TrainingMachine.TestCase


def test_a_second_contract_changes_nothing_in_the_first() -> None:
    world = World()
    world.merging(2)
    before = encode(world.training)
    other = CreateContract(contract=type(CONTRACT)("other"))
    assert world.send(name_of(1), other) is None
    assert encode(world.training) == before
