"""A ledger of contracts only: messages from named peers, without signatures, blocks or a network.

Peers are numbers: peer 0 is `sl0` of organisation 0. What an honest peer would get for a shard is `true_root`.
"""

import copy
import itertools
import struct
from collections.abc import Iterator, Sequence

import msgspec

from swarmlearning.contracts import membership
from swarmlearning.contracts.closing import wait_ms
from swarmlearning.contracts.context import Context, Rejected
from swarmlearning.contracts.disputes import STORING
from swarmlearning.contracts.messages import (
    AnyMessage,
    CheckIn,
    CreateContract,
    Enrol,
    Finish,
    Here,
    Leave,
    Measure,
    MergeCommit,
    Payload,
    ResetContract,
    Stored,
    Suspect,
    Tick,
    Unreachable,
)
from swarmlearning.contracts.records import Manifested, Phase, Progress, Round, Settings, Training
from swarmlearning.contracts.rounds import encoded_base, pending_nodes, pending_stores
from swarmlearning.contracts.transition import VERSION, Signed, transition
from swarmlearning.encoding import sha256
from swarmlearning.parameters.chunks import result_root
from swarmlearning.types import Code, ContractName, Endpoint, NodeId, NodeName, Role, TrustDomain

NETWORK = "heart"
CONTRACT = ContractName("study")
HOME = Endpoint(host="127.0.0.1", port=30305)
BIG = Manifested(hash=bytes(32), size=1_000_000)
"""A model of 16 chunks: as many shards as participants, where it is sharded."""


def name_of(index: int, role: Role = Role.SL, network: str = NETWORK) -> NodeName:
    return NodeName(domain=TrustDomain(f"org{index}.example"), network=network, role=role, name=f"{role.value}{index}")


def node_of(index: int) -> NodeId:
    return name_of(index).id


def index_of(node: NodeId) -> int:
    return int(NodeName.parse(node).name.removeprefix("sl"))


def settings(**changes: object) -> Settings:
    base = Settings(sync_frequency=16, start="merge", grace_ms=10_000, lease_ms=5_000, round_max_ms=100_000)
    return msgspec.structs.replace(base, **changes)


class DictState:
    """State in memory."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        return self.values.get(key)

    def put(self, key: str, value: bytes) -> None:
        self.values[key] = value

    def delete(self, key: str) -> None:
        self.values.pop(key, None)

    def keys(self, prefix: str) -> Iterator[str]:
        yield from sorted(key for key in self.values if key.startswith(prefix))


def others(world: "World", *but: int) -> list[int]:
    """The round's participants, by number, without some."""
    return [p for p in map(index_of, world.round.participants) if p not in but]


class World:
    """One training contract, and peers that talk to it."""

    def __init__(self, **changes: object) -> None:
        self.state = DictState()
        self.height = 0
        self.now_ms = 0
        """Elapsed time."""
        self.settings = settings(**changes)
        self.manifest = BIG
        self._read: tuple[bytes, Training] = (b"", Training(name=CONTRACT, creator=TrustDomain(""), created_height=0))
        self.must(0, CreateContract(contract=CONTRACT))

    # --- the ledger ---------------------------------------------------------------------------------------------

    @property
    def training(self) -> Training:
        data = self.state.values[membership.training_key(CONTRACT)]
        if data != self._read[0]:
            found = membership.load_training(self.state, CONTRACT)
            assert found is not None
            self._read = (data, found)
        return self._read[1]

    @property
    def round(self) -> Round:
        found = self.training.round
        assert found is not None
        return found

    @property
    def phase(self) -> Phase:
        return self.training.phase

    def is_at(self, phase: Phase) -> bool:
        return self.training.phase is phase

    def settled_since(self) -> int | None:
        """Since when the round could close but for the grace period."""
        return self.round.quorum_ms

    def fork(self) -> "World":
        """A world of its own that begins where this one is."""
        other = copy.copy(self)
        other.state = DictState()
        other.state.values = dict(self.state.values)
        return other

    def send(self, sender: NodeName, message: AnyMessage) -> Rejected | None:
        """Carry out a message, or say why not; then nothing has changed."""
        self.height += 1
        before = dict(self.state.values)
        context = Context(
            height=self.height,
            time_ms=1_000_000 + self.now_ms,
            elapsed_ms=self.now_ms,
            previous_hash=sha256(b"block %d" % self.height),
            sender=sender.id,
            name=sender,
        )
        payload = Payload(network=NETWORK, nonce=bytes(16), expires=self.height, message=message)
        try:
            transition(VERSION, self.state, context, Signed(payload=payload, signer=bytes(32)), NETWORK)
        except Rejected as rejected:
            self.state.values = before
            return rejected
        return None

    def say(self, peer: int, message: AnyMessage) -> Code:
        """A peer's message; its result code."""
        rejected = self.send(name_of(peer), message)
        return Code.OK if rejected is None else rejected.code

    def must(self, peer: int, message: AnyMessage) -> None:
        rejected = self.send(name_of(peer), message)
        assert rejected is None, f"{rejected.code.name}: {rejected.log}"

    def refusal(self, peer: int, message: AnyMessage) -> Rejected:
        rejected = self.send(name_of(peer), message)
        assert rejected is not None
        return rejected

    # --- messages -----------------------------------------------------------------------------------------------

    def enrolment(
        self,
        *,
        min_peers: int = 2,
        weight: int = 1,
        restored: bool = False,
        grace_ms: int | None = None,
        leads: bool = True,
    ) -> Enrol:
        return Enrol(
            contract=CONTRACT,
            run=self.training.run,
            settings=self.settings,
            manifest=self.manifest,
            min_peers=min_peers,
            weight=weight,
            endpoint=HOME,
            restored=restored,
            grace_ms=grace_ms,
            leads=leads,
        )

    def offer(self, peer: int, progress: Progress | None = None) -> CheckIn:
        """What the peer's state and the settings make it offer."""
        training = self.training
        mine = next((p for p in training.peers if p.node == node_of(peer)), None)
        weight, mode = (mine.weight if mine else 1), "active"
        if mine is not None and mine.state == "finished":
            mode = {"inactive": "inactive", "snapshot": "snapshot", "active": "last"}[self.settings.checkin_mode]
            if mode == "last" and training.last is None:
                mode = "inactive"
        empty = mode == "inactive"
        round_ = training.round
        return CheckIn(
            contract=CONTRACT,
            run=training.run,
            round=round_.number if round_ else 0,
            attempt=round_.attempt if round_ else 0,
            base=training.last.sha256 if training.last else b"",
            commitment=b"" if empty else sha256(b"offer %d" % peer),
            weight=0 if empty else weight,
            mode=mode,  # type: ignore[arg-type]  # one of the four, by the table above
            progress=progress or Progress(),
        )

    def ticking(self) -> Tick:
        training = self.training
        round_ = training.round
        number, attempt = (round_.number, round_.attempt) if round_ else (0, 0)
        return Tick(contract=CONTRACT, run=training.run, round=number, attempt=attempt)

    def true_root(self, shard: int) -> bytes:
        """What merging the contributors' chunks of a shard gives."""
        return sha256(b"shard %d of " % shard, *(node.encode() for node in self.round.contributors))

    def commitment(self, shard: int, lie: bytes = b"") -> MergeCommit:
        round_ = self.round
        root = sha256(b"lie", lie) if lie else self.true_root(shard)
        return MergeCommit(
            contract=CONTRACT,
            run=self.training.run,
            round=round_.number,
            attempt=round_.attempt,
            shard=shard,
            root=root,
        )

    def true_distances(self, shard: int) -> bytes:
        """What measuring the contributors' chunks of a shard gives."""
        pairs = itertools.combinations(self.round.contributors, 2)
        values = [len(one) + len(other) + 0.1 * (shard + index) for index, (one, other) in enumerate(pairs)]
        return struct.pack(f"<{len(values)}d", *values)

    def measurement(self, shard: int, lie: bytes = b"") -> Measure:
        round_ = self.round
        true = self.true_distances(shard)
        # A lie that is a number: a byte of the first distance's fraction.
        return Measure(
            contract=CONTRACT,
            run=self.training.run,
            round=round_.number,
            attempt=round_.attempt,
            shard=shard,
            distances=lie[:1] + true[1:] if lie and true else true,
        )

    def work(self, shard: int, lie: bytes = b"") -> Measure | MergeCommit:
        """What whoever is in charge says of a shard: what it measured, or what it merged."""
        return self.measurement(shard, lie) if self.round.measuring else self.commitment(shard, lie)

    def storing(self, lie: bytes = b"") -> Stored:
        round_ = self.round
        root = result_root(round_.merged) if all(round_.merged) else bytes(32)
        return Stored(
            contract=CONTRACT,
            run=self.training.run,
            round=round_.number,
            attempt=round_.attempt,
            result_root=root,
            sha256=sha256(b"model", root, lie),
            whole=sha256(b"whole", root) if encoded_base(self.training) else b"",
        )

    def report(self, shard: int, contributor: int) -> Unreachable:
        round_ = self.round
        return Unreachable(
            contract=CONTRACT,
            run=self.training.run,
            round=round_.number,
            attempt=round_.attempt,
            shard=shard,
            contributor=node_of(contributor),
            reason="unreachable",
        )

    def suspicion(self, shard: int, node: NodeId, *, gone: bool = False) -> Suspect:
        round_ = self.round
        return Suspect(
            contract=CONTRACT,
            run=self.training.run,
            round=round_.number,
            attempt=round_.attempt,
            shard=shard,
            leader=node,
            gone=gone,
        )

    def finishing(self) -> Finish:
        return Finish(contract=CONTRACT, run=self.training.run)

    def here(self) -> Here:
        return Here(contract=CONTRACT, run=self.training.run)

    def leaving(self) -> Leave:
        return Leave(contract=CONTRACT, run=self.training.run)

    def resetting(self) -> ResetContract:
        return ResetContract(contract=CONTRACT, run=self.training.run)

    # --- stretches ----------------------------------------------------------------------------------------------

    def enrol(self, *peers: int, min_peers: int = 2) -> None:
        for peer in peers:
            self.must(peer, self.enrolment(min_peers=min_peers))

    def check_in(self, *peers: int) -> None:
        for peer in peers:
            self.must(peer, self.offer(peer))

    def complete(self, peers: Sequence[int]) -> None:
        """Everyone finishes, and the closing round is played."""
        for peer in peers:
            self.must(peer, self.finishing())
        self.play_round(peers)

    def merging(self, n: int, **more: int) -> Round:
        """`n` peers enrol and check in: the round merges."""
        self.enrol(*range(n), **more)
        self.check_in(*range(n))
        assert self.phase is Phase.MERGING
        return self.round

    def leader(self, shard: int = 0) -> int:
        return index_of(self.round.leaders[shard])

    def charged(self, shard: int = 0) -> list[int]:
        return [self.leader(shard), *(index_of(node) for node in self.round.witnesses[shard])]

    def measure_all(self) -> None:
        """Everybody in charge measures."""
        for shard in range(self.round.shards):
            for peer in self.charged(shard):
                if self.round.measuring and node_of(peer) in pending_nodes(self.round, shard):
                    self.must(peer, self.measurement(shard))

    def commit_all(self) -> None:
        """Everybody in charge commits the truth."""
        self.measure_all()
        for shard in range(self.round.shards):
            for peer in self.charged(shard):
                if not self.round.merged[shard]:
                    self.must(peer, self.commitment(shard))

    def store(self, *peers: int) -> None:
        for peer in peers:
            self.must(peer, self.storing())

    def finalise(self) -> None:
        """The merging round goes the honest way."""
        self.commit_all()
        number = self.round.number
        for node in self.round.participants:
            if self.phase is Phase.MERGING and self.round.number == number:
                self.store(index_of(node))

    def play_round(self, peers: Sequence[int]) -> None:
        self.check_in(*peers)
        self.finalise()


# --- honest peers -------------------------------------------------------------------------------------------------


class Honest:
    """Drives the honest peers of a world as their SLs would; the others are silent, or serve nothing that verifies."""

    def __init__(self, world: World, peers: Sequence[int], *, finishing: bool = False) -> None:
        self.world = world
        self.peers = list(peers)
        self.nodes = {node_of(peer) for peer in peers}
        self.finishing = finishing
        self.steps = 0

    def seats(self) -> list[int]:
        """Those of them that are enrolled."""
        states = {p.node: p.state for p in self.world.training.peers}
        return [peer for peer in self.peers if states.get(node_of(peer), "left") != "left"]

    def step(self) -> bool:
        """Everybody does what there is to do now, or waits a minute; False if there is nothing to do or to wait for."""
        self.steps += 1
        before = self.world.training
        acts = {Phase.COLLECTING: self._collect, Phase.MERGING: self._merge}
        if before.phase in acts:
            for peer in self.seats():
                acts.get(self.world.phase, lambda _: None)(peer)
        if self.world.training == before and wait_ms(before) is not None:
            self.world.now_ms += 60_000
            self.world.say(self.seats()[0], self.world.ticking())
            return True
        return self.world.training != before

    def _collect(self, peer: int) -> None:
        world = self.world
        mine = next(p for p in world.training.peers if p.node == node_of(peer))
        if self.finishing and mine.state != "finished":
            world.must(peer, world.finishing())
        elif all(c.node != mine.node for c in world.round.checkins):
            world.must(peer, world.offer(peer))

    def _merge(self, peer: int) -> None:
        world, node = self.world, node_of(peer)
        if node not in world.round.participants:
            return
        for shard in range(world.round.shards):
            if self.world.phase is not Phase.MERGING or node not in world.round.participants:
                return
            self._work(peer, shard)
        if self.world.phase is not Phase.MERGING:
            return
        round_ = world.round
        if all(round_.merged) and all(h.node != node for h in round_.holdings):
            world.say(peer, world.storing())
        for silent in pending_stores(round_):
            if world.phase is Phase.MERGING and silent not in self.nodes and world.round.attempt == round_.attempt:
                world.say(peer, world.suspicion(STORING, silent))

    def _work(self, peer: int, shard: int) -> None:
        world, node, round_ = self.world, node_of(peer), self.world.round
        merged = round_.merged[shard]
        committed = [c.node for c in round_.commits if c.shard == shard]
        in_charge = node in (round_.leaders[shard], *round_.witnesses[shard])
        if not merged and in_charge and node not in committed:
            silent = [c for c in round_.contributors if c not in self.nodes]
            if silent:
                world.say(peer, world.report(shard, index_of(silent[0])))
            else:
                world.must(peer, world.work(shard))
        elif not merged:
            for other in (round_.leaders[shard], *round_.witnesses[shard]):
                if other not in self.nodes and other not in committed and world.round.attempt == round_.attempt:
                    world.say(peer, world.suspicion(shard, other))
        elif not round_.measuring and not self._is_served(shard) and round_.leaders[shard] != node:
            world.say(peer, world.suspicion(shard, round_.leaders[shard]))

    def _is_served(self, shard: int) -> bool:
        """Whether an honest peer can serve the merged shard, or has it already."""
        round_ = self.world.round
        root = round_.merged[shard]
        sources = {c.node for c in round_.commits if c.shard == shard and c.root == root}
        held = {h.node for h in round_.holdings}
        return root == self.world.true_root(shard) and bool((sources | held) & self.nodes)
