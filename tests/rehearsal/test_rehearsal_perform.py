"""One site's part against sites that are made up, with SLs that merge rightly, wrongly, or say something else."""

import contextlib
import io
import itertools
import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest
from msgspec.structs import replace

from swarmlearning.callbacks.configuration import SessionConfig
from swarmlearning.callbacks.exchange import model_hash
from swarmlearning.callbacks.results import FinalResult, SyncResult
from swarmlearning.contracts.records import Dropped, Result
from swarmlearning.encoding import sha256
from swarmlearning.errors import SwarmError, Unreachable, WaitExpired
from swarmlearning.merge.mean import Mean
from swarmlearning.parameters.dtypes import Array
from swarmlearning.rehearsal.model import content
from swarmlearning.rehearsal.perform import Plan, Rehearsal, Rehearsed, Session
from swarmlearning.rehearsal.report import WIDTH, describe_beginning, describe_end, describe_finding
from swarmlearning.rehearsal.script import weight_of, write_script
from swarmlearning.rehearsal.session import WaitMemory, memory_logger
from swarmlearning.sl.control import Drilled
from swarmlearning.types import ContractName, NodeId

A, B, C = NODES = [NodeId(f"spiffe://{letter}.example/n/sl/sl-0") for letter in "abc"]
ROLL = ContractName("rehearsal/network")
PLAN = Plan(peers=3, contract=ROLL, drills=("slow", "cut", "kill"), megabytes=1, wait_s=30.0)


def merge(offers: Mapping[NodeId, Mapping[str, Array]], weights: Mapping[NodeId, int]) -> dict[str, Array]:
    """As SLs do."""
    nodes = sorted(offers)
    out: dict[str, Array] = {}
    for name, first in offers[nodes[0]].items():
        flat = np.empty(first.size, first.dtype)
        Mean().merge_block([offers[n][name].reshape(-1) for n in nodes], [weights[n] for n in nodes], flat)
        out[name] = flat.reshape(first.shape)
    return out


class Swarm:
    """The network as site `me` sees it: all other sites do the same, unless a test says otherwise."""

    def __init__(self, me: NodeId = A, nodes: list[NodeId] = NODES) -> None:
        self.me = me
        self.nodes = nodes
        self.now = 0.0
        self.sessions: list[FakeSession] = []
        self.asked: list[tuple[str, str]] = []
        self.said: list[tuple[float, float]] = []
        """What this site told the others: passed, fired."""
        self.faulty: dict[int, Callable[[SyncResult], SyncResult]] = {}
        """By step: what becomes of its result."""
        self.fails: dict[int, SwarmError] = {}
        self.dropped: dict[int, NodeId] = {}
        self.others_fail: set[int] = set()
        """Rounds of the roll call in which another site says that a step failed."""
        self.others_fired = 4.0
        self.others_options: float | None = None
        self.others_model: float | None = None
        self.final: Callable[[FinalResult], FinalResult] = lambda final: final

    def connect(self, config: SessionConfig) -> Session:
        session = FakeSession(self, config)
        self.sessions.append(session)
        return session

    def run(self, plan: Plan = PLAN) -> Rehearsed:
        @contextlib.contextmanager
        def limit(seconds: float, what: str, *, together: bool = False) -> Iterator[None]:
            yield

        return Rehearsal(plan, self.connect, limit=limit, clock=lambda: self.now).run()


class FakeSession:
    """A session of the roll call, or of the contract in which the rounds are tried."""

    def __init__(self, swarm: Swarm, config: SessionConfig) -> None:
        self.node = NodeId("")
        self.config = config
        self.swarm = swarm
        self.rounds = 0
        self.closed = False
        self.left = ""
        self.drills: list[tuple[str, NodeId]] = []
        self.newest: SyncResult | None = None
        self.bytes = 0

    def open(self, arrays: Mapping[str, Array]) -> dict[str, Array] | None:
        self.node = self.swarm.me
        return None

    def sync(self, arrays: Mapping[str, Array]) -> SyncResult:
        self.swarm.asked.append((self.config.contract, "sync"))
        if self.config.contract == ROLL:
            return self._roll_call(arrays)
        step, self.rounds = self.rounds, self.rounds + 1
        if step in self.swarm.fails:
            raise self.swarm.fails[step]
        script = write_script(self.swarm.nodes, self._identity(), PLAN.drills)
        part = [s for s in script if not s.skipped][step]
        kind, victim = part.kind, part.victim
        gone = {victim} if kind == "kill" else set()
        gone |= {self.swarm.dropped[step]} if step in self.swarm.dropped else set()
        who = [node for node in self.swarm.nodes if node not in gone]
        offers = {node: content(self._identity(), node, part.number, PLAN.megabytes) for node in who}
        if self.swarm.me in offers:
            offers[self.swarm.me] = dict(arrays)
        weights = {**weight_of(self.swarm.nodes), self.swarm.me: self.config.weight}
        made = merge(offers, weights)
        self.swarm.now += 4.0 if kind == "kill" else 0.5
        self.bytes += 3_000_000
        result = SyncResult(
            arrays=made,
            round=step,
            sha256=model_hash(made),
            contributors=tuple(who),
            participants=tuple(self.swarm.nodes),
            next_interval=1,
            over=False,
            bytes_received=self.bytes,
            bytes_sent=0,
        )
        if step in self.swarm.faulty:
            result = self.swarm.faulty[step](result)
        self.newest = result
        return result

    def _identity(self) -> bytes:
        first = next(s for s in self.swarm.sessions if s.config.contract == ROLL).first
        return sha256(bytes.fromhex(first), ROLL.encode())

    first = ""

    def _roll_call(self, arrays: Mapping[str, Array]) -> SyncResult:
        number, self.rounds = self.rounds, self.rounds + 1
        mine = {name: float(values[0]) for name, values in arrays.items()}
        self.swarm.said.append((mine["passed"], mine["fired"]))
        others = dict(mine)
        others["nonce"] = 7.0
        others["passed"] = 0.0 if number in self.swarm.others_fail else 1.0
        others["fired"] = self.swarm.others_fired
        if self.swarm.others_options is not None:
            others["options"] = self.swarm.others_options
        if self.swarm.others_model is not None:
            others["model"] = self.swarm.others_model
        count = len(self.swarm.nodes)
        means = {name: np.array([(mine[name] + others[name] * (count - 1)) / count]) for name in mine}
        self.first = self.first or model_hash(means)
        return SyncResult(
            arrays=dict(means),
            round=40 + number,
            sha256=model_hash(means),
            contributors=tuple(self.swarm.nodes),
            participants=tuple(self.swarm.nodes),
            next_interval=1,
            over=False,
        )

    def drill(self, kind: str, peer: NodeId, seconds: int) -> Drilled:
        self.swarm.asked.append((self.config.contract, kind))
        self.drills.append((kind, peer))
        fired = 5 if len(self.drills) > 1 and self.drills[-2][0] != "none" else 0
        last = None
        if self.newest is not None:
            gone = [n for n in self.swarm.nodes if n not in self.newest.contributors]
            last = Result(
                round=self.newest.round,
                roots=(),
                result_root=b"",
                sha256=bytes.fromhex(self.newest.sha256),
                holders=(),
                participants=self.newest.participants,
                contributors=self.newest.contributors,
                dropped=tuple(Dropped(node=n, reason="unreachable: silent") for n in gone),
                attempts=2 if gone else 1,
                height=1,
                time_ms=0,
            )
        return Drilled(fired=fired, last=last)

    def finish(self, arrays: Mapping[str, Array]) -> FinalResult:
        return self.swarm.final(FinalResult(arrays=dict(arrays), sha256=model_hash(arrays), round=4))

    def leave(self, reason: str) -> None:
        self.left = reason

    def close(self) -> None:
        self.closed = True


def test_a_network_that_does_as_it_should_is_ready() -> None:
    swarm = Swarm()
    done = swarm.run()
    assert done.faults == ()
    assert done.ready
    assert [f.step.kind for f in done.findings] == ["canary", "slow", "cut", "kill", "last"]
    assert all(f.passed for f in done.findings)
    roll, rounds = swarm.sessions
    assert (roll.config.contract, roll.config.min_peers) == (ROLL, 3)
    assert rounds.config.contract.startswith(f"{ROLL}/40-")
    assert rounds.config.min_peers == 2
    assert rounds.config.weight == 1
    assert roll.closed
    assert rounds.closed
    assert roll.left
    assert done.final
    assert done.node == A
    assert done.nodes == (A, B, C)


def test_the_bytes_of_a_round_are_its_own() -> None:
    done = Swarm().run()
    assert [f.outcome.bytes_moved for f in done.findings if f.outcome] == [3_000_000] * 5


def test_each_rehearsal_has_a_contract_of_its_own() -> None:
    first, second = Swarm().run(), Swarm().run()
    assert first.contract != second.contract


@pytest.mark.parametrize("me", NODES)
def test_only_the_victim_asks_for_a_drill_and_everybody_ends_it_after_the_round(me: NodeId) -> None:
    swarm = Swarm(me)
    done = swarm.run()
    assert done.ready
    asked: list[tuple[str, NodeId]] = []
    for finding in done.findings:
        asked += [(finding.step.kind, finding.step.peer)] if finding.step.victim == me else []
        asked.append(("none", NodeId("")))
    assert swarm.sessions[1].drills == asked


def test_a_drill_is_armed_before_its_own_round_and_all_meet_between_two_rounds() -> None:
    swarm = Swarm()
    swarm.run()
    rounds = swarm.sessions[1].config.contract
    kinds = ["meet" if contract == ROLL else "round" if what == "sync" else what for contract, what in swarm.asked]
    assert kinds[:2] == ["meet", "meet"]  # the roll call; all are enrolled
    assert all(contract == rounds for contract, what in swarm.asked if what != "sync")
    trying = [kind for kind in kinds[2:] if kind not in ("slow", "cut", "kill")]
    assert trying == ["round", "none", "meet"] * 5 + ["meet"]
    for at, kind in enumerate(kinds):
        if kind in ("slow", "cut", "kill"):
            assert (kinds[at - 1], kinds[at + 1]) == ("meet", "round")


def wrong_by_a_bit(result: SyncResult) -> SyncResult:
    assert result.arrays is not None
    arrays = {name: values.copy() for name, values in result.arrays.items()}
    arrays["bias"][3] = np.nextafter(arrays["bias"][3], np.float32(1))
    return replace(result, arrays=arrays, sha256=model_hash(arrays))


def unweighted(result: SyncResult) -> SyncResult:
    assert result.arrays is not None
    arrays = {name: values[::-1].copy() for name, values in result.arrays.items()}
    return replace(result, arrays=arrays, sha256=model_hash(arrays))


@pytest.mark.parametrize("step", range(5))
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (wrong_by_a_bit, "in 1 places the merged model is not the weighted mean"),
        (unweighted, "places the merged model is not"),
        (lambda r: replace(r, sha256="00" * 32), "the ledger's hash is 0000000000000000"),
        (lambda r: replace(r, arrays=None, sha256="", contributors=()), "void"),
    ],
    ids=["one bit", "turned round", "another hash", "void"],
)
def test_an_sl_that_merges_wrongly_in_any_round_makes_the_verdict_not_ready(
    step: int, fault: Callable[[SyncResult], SyncResult], says: str
) -> None:
    swarm = Swarm()
    swarm.faulty[step] = fault
    done = swarm.run()
    assert not done.ready
    kind = ["canary", "slow", "cut", "kill", "last"][step]
    assert any(fault.startswith(f"{kind}: ") and says in fault for fault in done.faults)
    assert "verdict: not ready: " in describe_end(done)
    assert swarm.said[2 + step][0] == 0.0  # the others are told


def test_a_victim_that_is_dropped_for_being_slow_makes_the_verdict_not_ready() -> None:
    swarm = Swarm()
    swarm.dropped[1] = C
    done = swarm.run()
    assert done.faults == ("slow: sl-0@c.example did not contribute: unreachable: silent",)
    assert [f.passed for f in done.findings] == [True, False, True, True, True]  # it goes on


def test_a_killed_site_that_does_not_contribute_afterwards_makes_the_verdict_not_ready() -> None:
    swarm = Swarm()
    swarm.dropped[4] = B
    assert swarm.run().faults == ("last: sl-0@b.example did not contribute: unreachable: silent",)


def test_what_another_site_found_counts_here_too() -> None:
    swarm = Swarm()
    swarm.others_fail = {3}
    done = swarm.run()
    assert done.faults == ("slow: 2 other sites found a fault here: see there",)


def test_a_drill_that_held_nothing_back_was_none() -> None:
    swarm = Swarm(A)
    swarm.others_fired = 0.0
    done = swarm.run()
    mine = {f.step.kind for f in done.findings if f.step.victim == A}
    missed = {fault.split(":")[0] for fault in done.faults}
    assert missed == {"slow", "kill"} - mine
    assert all("held nothing back" in fault for fault in done.faults)


def test_a_site_that_is_not_in_the_round_ends_the_rehearsal_and_is_named() -> None:
    swarm = Swarm()
    swarm.faulty[1] = lambda r: replace(r, participants=(A, B), contributors=(A, B))
    swarm.dropped = {}
    original = FakeSession.drill

    def without_dropped(self: FakeSession, kind: str, peer: NodeId, seconds: int) -> Drilled:
        answer = original(self, kind, peer, seconds)
        return replace(answer, last=replace(answer.last, dropped=())) if answer.last is not None else answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeSession, "drill", without_dropped)
        done = swarm.run()
    assert [f.step.kind for f in done.findings] == ["canary", "slow"]
    assert "sl-0@c.example took no part in the round slow: interrupted there, or cut off" in done.faults
    assert all(session.closed for session in swarm.sessions)


def test_an_sl_that_goes_away_is_a_fault_and_every_session_is_closed() -> None:
    swarm = Swarm()
    swarm.fails[2] = Unreachable("the SL at /x closed the connection")
    done = swarm.run()
    assert done.faults == ("the SL at /x closed the connection",)
    assert [f.step.kind for f in done.findings] == ["canary", "slow"]
    assert all(session.closed for session in swarm.sessions)


def test_sites_that_were_started_otherwise_do_not_begin() -> None:
    swarm = Swarm()
    swarm.others_options = 12.0
    done = swarm.run()
    assert len(done.faults) == 1
    assert "not started alike" in done.faults[0]
    assert len(swarm.sessions) == 1


def test_more_sites_than_were_said_do_not_begin() -> None:
    done = Swarm().run(replace(PLAN, peers=2))
    assert len(done.faults) == 1
    assert done.faults[0].startswith("3 sites answered (sl-0@a.example, sl-0@b.example, sl-0@c.example)")


@pytest.mark.parametrize(
    ("final", "says"),
    [
        (lambda f: replace(f, sha256="11" * 32), "the final model is 1111111111111111, the last round's was "),
        (lambda f: replace(f, arrays=content(b"", A, 0, 1)), "the last round's was"),
        (lambda _: FinalResult(arrays=None, sha256="", round=-1), "no final model"),
    ],
    ids=["hash", "arrays", "none"],
)
def test_another_final_model_than_the_last_round_s_makes_the_verdict_not_ready(
    final: Callable[[FinalResult], FinalResult], says: str
) -> None:
    swarm = Swarm()
    swarm.final = final
    done = swarm.run()
    assert len(done.faults) == 1
    assert says in done.faults[0]


def test_sites_with_different_final_models_are_not_ready() -> None:
    swarm = Swarm()
    swarm.others_model = 1.0
    done = swarm.run()
    assert done.faults == ("end: the sites do not have the same final model",)


def test_a_roll_call_that_closes_void_again_and_again_is_given_up() -> None:
    swarm = Swarm()
    with pytest.MonkeyPatch.context() as patch:
        original = FakeSession._roll_call
        patch.setattr(FakeSession, "_roll_call", lambda self, arrays: replace(original(self, arrays), arrays=None))
        done = swarm.run()
    assert done.faults == ("roll call: 3 rounds closed void, with too few sites in them",)
    assert done.nodes == ()


def test_a_contract_that_was_used_before_is_not_rehearsed_in() -> None:
    swarm = Swarm()
    with pytest.MonkeyPatch.context() as patch:
        original = FakeSession.open

        def late(self: FakeSession, arrays: Mapping[str, Array]) -> dict[str, Array] | None:
            original(self, arrays)
            return dict(arrays)  # the roll call goes on from its newest result; the rounds must not

        patch.setattr(FakeSession, "open", late)
        done = swarm.run()
    assert len(done.faults) == 1
    assert "was used before" in done.faults[0]


# --- what is shown ------------------------------------------------------------------------------------------------


def shown(done: Rehearsed) -> str:
    beginning = describe_beginning(3, ROLL, 4, done.lease_ms, done.grace_ms)
    return "\n".join([beginning, *map(describe_finding, done.findings), describe_end(done)])


@pytest.mark.parametrize("ready", [True, False])
def test_what_is_shown_fits_into_80_columns_and_ends_with_the_verdict(ready: bool) -> None:
    swarm = Swarm()
    if not ready:
        swarm.faulty = {1: wrong_by_a_bit, 3: lambda r: replace(r, sha256="00" * 32)}
    text = shown(swarm.run())
    assert max(map(len, text.splitlines())) <= WIDTH
    verdict = text.splitlines()[-1]
    assert verdict == "verdict: ready" if ready else verdict.startswith("verdict: not ready: 3 faults; run `swarm do")
    for word in ("tried", "victim", "expected", "happened", "MB/s", "lease 3 s", "grace 10 s"):
        assert word in text


def test_a_drill_that_was_not_tried_stands_beside_the_verdict() -> None:
    done = Swarm(nodes=[A, B]).run(replace(PLAN, peers=2))
    assert done.ready
    text = shown(done)
    assert text.endswith("verdict: ready (not tried: cut, kill)")
    assert "needs 3 sites, here are 2" in text


def test_what_others_say_does_not_reach_the_terminal_as_it_is() -> None:
    swarm = Swarm()
    swarm.fails[0] = Unreachable("\x1b[2Jall is well")
    assert "\x1b" not in shown(swarm.run())


# --- the limit of a wait ------------------------------------------------------------------------------------------


def blocks(logger: logging.Logger, *texts: str) -> None:
    """What a session does while it waits for a reply."""
    for text in texts:
        logger.info("Waiting: %s", text)
    for _ in itertools.count():
        time.sleep(0.01)


def test_a_wait_ends_at_its_limit_with_what_was_waited_for() -> None:
    memory = WaitMemory(screen := io.StringIO())
    logger = memory_logger(memory)
    before = signal.getsignal(signal.SIGALRM)
    says = r"^roll call: waited 0 s: 2 of at least 3 peers have enrolled \(a, b\)$"
    with pytest.raises(WaitExpired, match=says), memory.limit(0.05, "roll call"):
        blocks(logger, "nobody has enrolled yet", "2 of at least 3 peers have enrolled (a, b)")
    assert screen.getvalue().splitlines()[-1] == "  waiting: 2 of at least 3 peers have enrolled (a, b)"
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0.0


def test_a_wait_in_which_a_site_leaves_ends_at_once() -> None:
    memory = WaitMemory(io.StringIO())
    logger = memory_logger(memory)
    says = "after the round slow: a site was interrupted, or its SL has left: 2 of"
    with pytest.raises(WaitExpired, match=says), memory.limit(60, "after the round slow", together=True):
        blocks(logger, "2 of at least 3 peers have checked in", "2 of at least 3 peers have enrolled (a, b)")
    logger.info("Waiting: 2 of at least 3 peers have enrolled (a, b)")  # outside: nobody waits for all


def test_a_wait_that_ends_in_time_leaves_no_alarm_behind() -> None:
    memory = WaitMemory(io.StringIO())
    with memory.limit(60, "x"):
        pass
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0.0
    with pytest.raises(WaitExpired, match="the SL said nothing"), memory.limit(0.01, "x"):
        blocks(memory_logger(memory))
