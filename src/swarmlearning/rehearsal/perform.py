"""One site's part in a rehearsal, from the roll call to the verdict. Blocking, through the local door.

Two contracts. The *roll call* is never completed: every rehearsal is a few rounds of it, in which all sites, and only
all together, get on. Its first round says who is there and gives the rehearsal an identity; each further one is a
barrier between two steps and carries what the sites found in the one before. The rounds that are tried are those of
a second contract, named after that identity, so that no rehearsal meets the remains of another.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec
import numpy as np
from msgspec.structs import replace

from swarmlearning import __version__
from swarmlearning.callbacks.configuration import SessionConfig
from swarmlearning.callbacks.exchange import model_hash
from swarmlearning.callbacks.results import FinalResult, SyncResult
from swarmlearning.contracts.records import Settings
from swarmlearning.encoding import encode, sha256
from swarmlearning.errors import ConfigurationError, Refused, SwarmError, WaitExpired
from swarmlearning.parameters.dtypes import Array
from swarmlearning.rehearsal.model import content, differing, merged
from swarmlearning.rehearsal.script import (
    GRACE_MS,
    LEASE_MS,
    Finding,
    Outcome,
    Step,
    absent_nodes,
    expect,
    judge,
    kill_limit_s,
    seconds_of,
    weight_of,
    write_script,
)
from swarmlearning.sl.control import Drilled
from swarmlearning.types import ContractName, NodeId, short_name

SETTINGS: Final = Settings(
    sync_frequency=1,
    checkin_mode="inactive",
    start="merge",
    topology="sharded",  # every site leads a shard, so that every link is used
    grace_ms=GRACE_MS,
    lease_ms=LEASE_MS,
    round_max_ms=120_000,
)
"""Of both contracts."""

STEP_S: Final = 60.0
"""Longest step, seconds, and what it may take a megabyte; `--wait` limits it too."""
STEP_S_A_MEGABYTE: Final = 1.0

VOIDS: Final = 3
"""Void rounds of the roll call after which it is given up."""


class Session(Protocol):
    """What a rehearsal needs of `RehearsalSession`."""

    node: NodeId

    def open(self, arrays: Mapping[str, Array]) -> dict[str, Array] | None:
        """See `SwarmSession.open`."""
        ...

    def sync(self, arrays: Mapping[str, Array]) -> SyncResult:
        """See `SwarmSession.sync`."""
        ...

    def drill(self, kind: str, peer: NodeId, seconds: int) -> Drilled:
        """See `RehearsalSession.drill`."""
        ...

    def finish(self, arrays: Mapping[str, Array]) -> FinalResult:
        """See `SwarmSession.finish`."""
        ...

    def leave(self, reason: str) -> None:
        """See `SwarmSession.leave`."""
        ...

    def close(self) -> None:
        """See `SwarmSession.close`."""
        ...


class Limit(Protocol):
    """See `WaitMemory.limit`."""

    def __call__(self, seconds: float, what: str, *, together: bool = False) -> contextlib.AbstractContextManager[None]:
        """Ends what is done within it after so many seconds, or, `together`, when a site has left."""
        ...


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A checked command line."""

    peers: int
    contract: ContractName
    """Of the roll call."""
    drills: tuple[str, ...]
    megabytes: int
    wait_s: float


class Rehearsed(msgspec.Struct, frozen=True, kw_only=True):
    """What one site knows when it is over."""

    node: NodeId
    """This site's; empty if it never enrolled."""
    nodes: tuple[NodeId, ...]
    """Of all sites; empty if they never came together."""
    contract: str
    """In which the rounds were tried."""
    megabytes: int
    lease_ms: int
    grace_ms: int
    findings: tuple[Finding, ...]
    final: str
    """Hash of the final model."""
    faults: tuple[str, ...]
    """Why the network is not ready; none: it is."""

    @property
    def ready(self) -> bool:
        """Whether the training may begin."""
        return not self.faults


class _Tally(msgspec.Struct, frozen=True, kw_only=True):
    """What a round of the roll call said, over all sites."""

    result: SyncResult
    passed: int
    """Sites in which the step before went as it should."""
    fired: int
    same_model: bool
    """All have the same final model (or none yet)."""


class _RollCall:
    """Rounds in which all sites get on together."""

    def __init__(self, session: Session, plan: Plan) -> None:
        self._session = session
        self._peers = plan.peers
        digest = sha256(encode((__version__, plan.drills, plan.megabytes)))
        self._options = float(int.from_bytes(digest[:6], "big"))

    def open(self) -> None:
        self._session.open(self._ballot(passed=True, fired=0, model=""))

    def _ballot(self, *, passed: bool, fired: int, model: str) -> dict[str, Array]:
        said = {
            "fired": float(fired),
            "model": float(int(model[:12] or "0", 16)),
            "nonce": float(secrets.randbits(48)),
            "options": self._options,
            "passed": float(passed),
        }
        return {name: np.array([value], np.float64) for name, value in said.items()}

    def agree(self, *, passed: bool = True, fired: int = 0, model: str = "") -> _Tally:
        """Wait for all, and tell each other what was found.

        Raises:
            ConfigurationError: more sites than were said, or with other options.
            WaitExpired: its rounds close void.
        """
        mine = self._ballot(passed=passed, fired=fired, model=model)
        for _ in range(VOIDS):
            result = self._session.sync(mine)
            if result.over:
                raise Refused("the roll call's contract is complete: name another one at all sites (--contract)")
            if result.arrays is not None:
                return self._count(result, result.arrays, mine)
        raise WaitExpired(f"roll call: {VOIDS} rounds closed void, with too few sites in them")

    def _count(self, result: SyncResult, means: Mapping[str, Array], mine: Mapping[str, Array]) -> _Tally:
        sites = len(result.contributors)
        if sites != self._peers:
            names = names_of(result.contributors)
            raise ConfigurationError(
                f"{sites} sites answered ({names}); this one was started with --peers {self._peers}"
            )
        if means["options"][0] != self._options:
            raise ConfigurationError(
                "the sites were not started alike: compare --drills, --megabytes and `swarm --version` at all of them"
            )
        # A mean of small whole numbers, so that their sum is found again exactly.
        return _Tally(
            result=result,
            passed=round(float(means["passed"][0]) * sites),
            fired=round(float(means["fired"][0]) * sites),
            same_model=bool(means["model"][0] == mine["model"][0]),
        )


class Rehearsal:
    """One site's part."""

    def __init__(
        self,
        plan: Plan,
        connect: Callable[[SessionConfig], Session],
        *,
        limit: Limit,
        tell: Callable[[Finding], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is connected yet.

        Args:
            plan: what was asked for.
            connect: makes a session.
            limit: of a wait.
            tell: is given each step's finding as it is known here.
            clock: seconds.
        """
        self._plan = plan
        self._connect = connect
        self._limit = limit
        self._tell = tell
        self._clock = clock
        self._step_s = min(plan.wait_s, STEP_S + STEP_S_A_MEGABYTE * plan.megabytes)
        self._open: list[Session] = []
        self._findings: list[Finding] = []
        self._faults: list[str] = []
        self._node = NodeId("")
        self._nodes: tuple[NodeId, ...] = ()
        self._identity = b""
        self._contract = ""
        self._final = ""
        self._canary_s = 0.0

    def run(self) -> Rehearsed:
        """Take part; every error of the swarm's is a fault in what is returned."""
        try:
            self._perform()
        except SwarmError as error:
            self._faults.append(str(error))
        finally:
            for session in self._open:
                session.close()
        failed = [f"{f.step.kind}: {problem}" for f in self._findings for problem in f.problems]
        return Rehearsed(
            node=self._node,
            nodes=self._nodes,
            contract=self._contract,
            megabytes=self._plan.megabytes,
            lease_ms=LEASE_MS,
            grace_ms=GRACE_MS,
            findings=tuple(self._findings),
            final=self._final,
            faults=(*failed, *self._faults),
        )

    def _start(self, contract: str, min_peers: int, weight: int = 1) -> Session:
        config = SessionConfig(
            settings=SETTINGS,
            min_peers=min_peers,
            contract=ContractName(contract),
            weight=weight,
            program="swarm rehearse",
            connect_wait_s=min(self._plan.wait_s, 10.0),
        )
        session = self._connect(config)
        self._open.append(session)
        return session

    def _perform(self) -> None:
        plan = self._plan
        roll_session = self._start(plan.contract, plan.peers)
        roll = _RollCall(roll_session, plan)
        with self._limit(plan.wait_s, f"roll call of {plan.peers} sites"):
            roll.open()
            self._node = roll_session.node
            first = roll.agree().result
        self._nodes = tuple(sorted(first.contributors))
        self._identity = sha256(bytes.fromhex(first.sha256), plan.contract.encode())
        self._contract = f"{plan.contract}/{first.round}-{self._identity.hex()[:8]}"
        weights = weight_of(self._nodes)
        # All but one must be able to go on, when one plays dead.
        session = self._start(self._contract, max(2, plan.peers - 1), weights[self._node])
        with self._limit(self._step_s, "beginning"):
            if session.open(self._offer(0)) is not None:
                raise Refused(f"{self._contract} was used before: start all sites again")
            roll.agree()  # all are enrolled: from now on every round waits for every site
        last: SyncResult | None = None
        for step in write_script(self._nodes, self._identity, plan.drills):
            if step.skipped:
                self._note(Finding(step=step, outcome=None, expected=""))
                continue
            last = self._try(step, session, roll)
        with self._limit(self._step_s, "the end", together=True):
            self._end(session, roll, last)
            roll_session.leave("the rehearsal is over")

    def _note(self, finding: Finding) -> None:
        self._findings.append(finding)
        self._tell(finding)

    def _offer(self, step: int) -> dict[str, Array]:
        return content(self._identity, self._node, step, self._plan.megabytes)

    def _try(self, step: Step, session: Session, roll: _RollCall) -> SyncResult:
        """One step: all begin together, something goes wrong, and all say what they saw."""
        mine = self._offer(step.number)
        with self._limit(self._step_s, f"round {step.kind}"):
            if step.victim == self._node:
                session.drill(step.kind, step.peer, seconds_of(step.kind))
            before = self._clock()
            result = session.sync(mine)
            seconds = self._clock() - before
            after = session.drill("none", NodeId(""), 0)
        finding = self._judge(step, result, seconds, after)
        if step.kind == "canary":
            self._canary_s = seconds
        if finding.outcome is not None and (absent := absent_nodes(step, self._nodes, finding.outcome)):
            self._note(finding)
            names = ", ".join(short_name(node) for node in absent)
            raise WaitExpired(f"{names} took no part in the round {step.kind}: interrupted there, or cut off")
        try:
            with self._limit(self._step_s, f"after the round {step.kind}", together=True):
                tally = roll.agree(passed=finding.passed, fired=finding.fired)
        except SwarmError:
            self._note(finding)
            raise
        self._note(self._weigh(finding, tally))
        return result

    def _judge(self, step: Step, result: SyncResult, seconds: float, after: Drilled) -> Finding:
        limit_s = kill_limit_s(self._canary_s)
        known = after.last if after.last is not None and after.last.round == result.round else None
        wrong, expected_sha256 = 0, ""
        if result.arrays is not None and result.contributors:
            right = merged(
                self._identity, result.contributors, weight_of(self._nodes), step.number, self._plan.megabytes
            )
            wrong, expected_sha256 = differing(result.arrays, right), model_hash(right)
        outcome = Outcome(
            round=result.round,
            seconds=seconds,
            bytes_moved=self._moved(result),
            contributors=result.contributors,
            participants=result.participants,
            dropped=known.dropped if known is not None else (),
            attempts=known.attempts if known is not None else 1,
            differing=wrong,
            sha256=result.sha256,
            expected_sha256=expected_sha256,
        )
        return Finding(
            step=step,
            outcome=outcome,
            expected=expect(step, limit_s),
            problems=judge(step, self._nodes, self._node, outcome, limit_s),
            fired=after.fired,
        )

    def _moved(self, result: SyncResult) -> int:
        """Bytes of this round: the SL counts those of all rounds."""
        so_far = sum(f.outcome.bytes_moved for f in self._findings if f.outcome is not None)
        return max(0, result.bytes_received + result.bytes_sent - so_far)

    def _weigh(self, finding: Finding, tally: _Tally) -> Finding:
        """A finding with what the other sites said."""
        problems = list(finding.problems)
        others = len(self._nodes) - tally.passed - (not finding.passed)
        if others > 0:
            problems.append(f"{others} other site{'s' * (others > 1)} found a fault here: see there")
        if finding.step.kind in ("slow", "kill") and not tally.fired:
            problems.append("the drill held nothing back, so that nothing was tried")
        return replace(finding, problems=tuple(problems), fired=tally.fired)

    def _end(self, session: Session, roll: _RollCall, last: SyncResult | None) -> None:
        """Finish, and see that all have the same final model."""
        newest = last.sha256 if last is not None else ""
        final = session.finish(last.arrays if last is not None and last.arrays is not None else self._offer(0))
        self._final = final.sha256
        if not final.sha256:
            self._faults.append("end: no final model")
        elif final.sha256 != newest or final.arrays is None or model_hash(final.arrays) != newest:
            ours = final.sha256[:16]
            self._faults.append(f"end: the final model is {ours}, the last round's was {newest[:16]}")
        if not roll.agree(passed=not self._faults, model=final.sha256).same_model:
            self._faults.append("end: the sites do not have the same final model")


def names_of(nodes: Sequence[NodeId]) -> str:
    """Short names, for people."""
    return ", ".join(short_name(node) for node in nodes) or "nobody"
