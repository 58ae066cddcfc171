"""Anybody saying anything of a taskrunner, in any order: what must hold all the same. docs/spec/tasks.md.

The state is compared with what the rules say of the record by themselves, written down here a second time; and at any
point all agents that can may do their work, after which the runner is decided or truly waits for others (W-9).
"""

from contracts_world import name_of
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace
from task_world import PULL, RUN, RUNNER, Ward, op, swop, ward_with

from swarmlearning.contracts.limits import has_controls
from swarmlearning.contracts.messages import ResetTaskrunner, TakeTask
from swarmlearning.contracts.task_records import (
    ENDED,
    FAILED,
    MAX_APPROVED_BY,
    MAX_DESCRIPTION,
    MAX_IMAGE,
    MAX_MANAGER,
    MAX_PLANNED,
    MAX_UNITS,
    Evidence,
    RunnerState,
    Taskrunner,
    TaskType,
    Unit,
    WorkState,
    count_towards_wanted,
    count_work,
)
from swarmlearning.types import Code, NodeId, NodeName

AGENTS = st.integers(0, 3)
STATES = st.sampled_from(list(WorkState))
TASKS = st.sampled_from([PULL, RUN])
UNITS = st.dictionaries(st.sampled_from(["a", "b", "c"]), STATES, max_size=3)
SURE = st.sampled_from([WorkState.COMPLETE, WorkState.ERROR])
EVIDENCE = st.none() | st.builds(
    Evidence,
    manager=st.sampled_from(["PROCESS", "\x1b[2J", "m" * 120]),
    image=st.sampled_from(["", "sha256:7f", "\U0001f600" * 60]),
    exit_status=st.sampled_from([None, -1, 0, 255, 256]),
    log_hash=st.sampled_from([b"", bytes(32), bytes(31)]),
)
DECIDED = {RunnerState.COMPLETE, RunnerState.ERROR}


class RunnerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.seen: Taskrunner | None = None
        self.targeted = False
        """Whether an agent was named since `seen`: then what was decided is decided anew."""
        self.gone: set[int] = set()

    @initialize(listening=st.sets(AGENTS))
    def begin(self, listening: set[int]) -> None:
        self.ward = ward_with(*sorted(listening))

    # --- what is said ---------------------------------------------------------------------------------------------

    @rule(agent=AGENTS, listening=st.booleans())
    def listen(self, agent: int, listening: bool) -> None:
        if agent not in self.gone:
            self.ward.say(swop(agent), self.ward.listening(listening))

    @rule(task=TASKS, peers=st.integers(0, 4))
    def assign(self, task: str, peers: int) -> None:
        self.ward.say(op(0), self.ward.assigning(PULL if task == PULL else RUN, peers))

    @rule(task=TASKS)
    def assign_all(self, task: str) -> None:
        self.ward.say(op(0), self.ward.assigning_all(PULL if task == PULL else RUN))

    @rule(task=TASKS, agent=AGENTS)
    def target(self, task: str, agent: int) -> None:
        message = self.ward.targeting(PULL if task == PULL else RUN, agent)
        if self.ward.say(op(1), message) is Code.OK:
            assert agent not in self.gone
            self.targeted = True

    @rule(who=AGENTS, stale=st.booleans())
    def reset(self, who: int, stale: bool) -> None:
        before = self.ward.runner
        message = self.ward.resetting()
        wrong = ResetTaskrunner(runner=RUNNER, number=message.number + 1)
        code = self.ward.say(op(who), wrong if stale else message)
        assert (code is Code.STALE) == stale
        # The runner is organisation 0's, and what is not of organisation 1 was assigned by it.
        if not stale and before.state in DECIDED | {RunnerState.IDLE}:
            assert code is Code.OK

    @rule(agent=AGENTS, planned=st.integers(0, 3), behind=st.integers(0, 1))
    def take(self, agent: int, planned: int, behind: int) -> None:
        number = self.ward.runner.assignments - behind
        if self.ward.say(swop(agent), TakeTask(runner=RUNNER, number=number, planned=planned)) is Code.OK:
            assert behind == 0
            assert planned >= 1

    @rule(agent=AGENTS, planned=st.integers(1, 3))
    def take_now(self, agent: int, planned: int) -> None:
        is_run = self.ward.runner.assignment is not None and self.ward.assignment.kind is TaskType.RUN_SWARM
        self.ward.say(swop(agent), self.ward.taking(planned if is_run else 1))

    @rule(agent=AGENTS, state=STATES, units=UNITS, mine=EVIDENCE, theirs=EVIDENCE, by=st.text(max_size=9))
    def report(
        self,
        agent: int,
        state: WorkState,
        units: dict[str, WorkState],
        mine: Evidence | None,
        theirs: Evidence | None,
        by: str,
    ) -> None:
        peers = tuple(Unit(uid=uid, state=units[uid], evidence=theirs, description=by * 99) for uid in sorted(units))
        message = replace(self.ward.reporting(state, peers, by * 99), approved_by=by * 99, evidence=mine)
        self.ward.say(swop(agent), message)

    @rule(agent=AGENTS, task=TASKS, evidence=EVIDENCE, with_the_agent=st.booleans())
    def prove(self, agent: int, task: str, evidence: Evidence | None, with_the_agent: bool) -> None:
        """A report in which nothing is wrong, unless the evidence is: from wherever the runner stands."""
        ward, name = self.ward.fork(), swop(agent)
        ward.say(op(0), ward.targeting(PULL if task == PULL else RUN, agent))
        ward.say(name, ward.taking())
        mine = next((found for found in ward.runner.agents if found.node == name.id), None)
        if mine is None or mine.state in ENDED:
            return
        is_run = ward.assignment.kind is TaskType.RUN_SWARM
        peers = mine.units or ((Unit(uid="a", state=WorkState.RUNNING),) if is_run else ())
        told = tuple(replace(peer, evidence=evidence) for peer in peers)
        message = ward.reporting(WorkState.RUNNING, peers if with_the_agent else told)
        code = ward.say(name, replace(message, evidence=evidence if with_the_agent else None, approved_by="x" * 999))
        fits = evidence is None or (evidence.exit_status in (None, *range(256)) and len(evidence.log_hash) in (0, 32))
        if with_the_agent and is_run:
            assert (code is Code.OK) == (evidence is None)
        elif with_the_agent or is_run:
            assert (code is Code.OK) == fits
        check_texts(ward.runner)

    @rule(agent=AGENTS, state=SURE)
    def finish(self, agent: int, state: WorkState) -> None:
        finish_agent(self.ward, swop(agent), state)

    @rule(agent=st.integers(2, 3))
    def go(self, agent: int) -> None:
        if agent not in self.gone:
            self.ward.go_without(agent)
            self.gone.add(agent)

    # --- what must come true --------------------------------------------------------------------------------------

    @rule(how=st.lists(SURE, min_size=8, max_size=8))
    def it_ends_when_all_have_done_what_they_can(self, how: list[WorkState]) -> None:
        ward = self.ward.fork()
        if ward.runner.assignment is None or ward.standing in DECIDED:
            return
        for agent in set(range(4)) - self.gone:
            ward.say(swop(agent), ward.taking())
        for agent, state in zip(range(4), how, strict=False):
            finish_agent(ward, swop(agent), state)
        if ward.standing in DECIDED:
            return
        # None failed, or somebody who was named and could not be asked is still to come: it waits for more.
        counts = count_towards_wanted(ward.runner)
        assert counts.active == 0
        assert counts.completed < ward.assignment.wanted
        assert counts.failed == 0

    # --- what must hold always ------------------------------------------------------------------------------------

    @invariant()
    def counts_are_true(self) -> None:
        runner = self.ward.runner
        for counts in (count_work(runner), count_towards_wanted(runner)):
            assert min(counts.active, counts.completed, counts.failed) >= 0
        if runner.assignment is not None and runner.assignment.kind is TaskType.RUN_SWARM:
            counts = count_work(runner)
            assert counts.active + counts.completed + counts.failed == sum(a.planned for a in runner.agents)

    @invariant()
    def the_state_is_what_the_rules_say(self) -> None:
        runner, assignment = self.ward.runner, self.ward.runner.assignment
        if assignment is None:
            assert runner.state is RunnerState.IDLE
            assert (runner.agents, runner.reason) == ((), "")
            return
        assert runner.state is not RunnerState.IDLE
        counts = count_towards_wanted(runner)
        enough = counts.completed >= assignment.wanted
        assert (runner.state is RunnerState.COMPLETE) == enough
        assert (runner.state is RunnerState.ERROR) == bool(runner.reason)
        assert (runner.state in DECIDED) == (assignment.ended_ms > 0)
        if runner.state is RunnerState.ERROR:
            assert counts.failed > 0
            assert counts.completed + counts.active < assignment.wanted
        elif not enough:
            assert counts.failed == 0 or counts.completed + counts.active + still_to_come(runner) >= assignment.wanted
            assert (runner.state is RunnerState.WAITING) == (not runner.agents)

    @invariant()
    def what_is_decided_or_has_ended_stays(self) -> None:
        now, before = self.ward.runner, self.seen
        self.seen, targeted, self.targeted = now, self.targeted, False
        if before is None:
            return
        assert (now.version == before.version) == (now == before)
        assert now.version >= before.version
        assert now.assignments - before.assignments in (0, 1)
        if now.assignment is None or before.assignment is None:
            return
        if now.assignment.number == before.assignment.number:
            assert replace_changing(now) == replace_changing(before)
            if before.state in DECIDED and not targeted:
                assert (now.state, now.reason) == (before.state, before.reason)
                assert now.assignment.ended_ms == before.assignment.ended_ms
            if not targeted:
                after = {agent.node: agent for agent in now.agents}
                for agent in before.agents:
                    if agent.state in ENDED:
                        assert after[agent.node] == agent
                    ended = {u.uid: u.state for u in agent.units if u.state in ENDED}
                    later = {u.uid: u.state for u in after[agent.node].units}
                    assert ended.items() <= later.items()

    @invariant()
    def agents_are_consistent(self) -> None:
        runner = self.ward.runner
        nodes = [agent.node for agent in runner.agents]
        assert len(set(nodes)) == len(nodes)
        assert list(runner.listeners) == sorted(set(runner.listeners))
        gone = {name_of(index).domain for index in self.gone}
        assert not gone & {NodeName.parse(node).domain for node in runner.listeners}
        for agent in runner.agents:
            uids = [unit.uid for unit in agent.units]
            assert uids == sorted(set(uids))
            assert len(uids) <= agent.planned
            states = {unit.state for unit in agent.units}
            if agent.state is WorkState.COMPLETE:
                assert states <= {WorkState.COMPLETE}
            if agent.state in FAILED:
                assert states <= ENDED
            if NodeName.parse(agent.node).domain in gone:
                assert agent.state in ENDED
        if runner.assignment is not None:
            assert list(runner.assignment.chosen) == sorted(set(runner.assignment.chosen))
            assert not set(runner.assignment.targets) & set(nodes)
            if runner.assignment.kind is not TaskType.RUN_SWARM:
                assert all((agent.planned, agent.units) == (1, ()) for agent in runner.agents)

    @invariant()
    def what_agents_say_is_short_printable_and_where_it_belongs(self) -> None:
        check_texts(self.ward.runner)


def check_texts(runner: Taskrunner) -> None:
    """W-12, W-17, of what is remembered."""
    is_run = runner.assignment is not None and runner.assignment.kind is TaskType.RUN_SWARM
    for agent in runner.agents:
        assert not (is_run and agent.evidence)
        descriptions = [agent.description, *(unit.description for unit in agent.units)]
        assert max(len(text.encode()) for text in descriptions) <= MAX_DESCRIPTION
        all_of_it = [agent.evidence, *(unit.evidence for unit in agent.units)]
        found = [evidence for evidence in all_of_it if evidence is not None]
        assert all(len(evidence.manager.encode()) <= MAX_MANAGER for evidence in found)
        assert all(len(evidence.image.encode()) <= MAX_IMAGE for evidence in found)
        assert len(agent.approved_by.encode()) <= MAX_APPROVED_BY
        texts = [agent.approved_by, *(text for evidence in found for text in (evidence.manager, evidence.image))]
        assert not any(has_controls(text) for text in (*descriptions, *texts))
        assert all(evidence.exit_status in (None, *range(256)) for evidence in found)
        assert {len(evidence.log_hash) for evidence in found} <= {0, 32}


def finish_agent(ward: Ward, name: NodeName, state: WorkState) -> None:
    """What an agent says that is done, or that has failed, with all that it planned."""
    mine = next((agent for agent in ward.runner.agents if agent.node == name.id), None)
    if mine is None or mine.state in ENDED:
        return
    kept = {unit.uid: unit.state for unit in mine.units if unit.state in ENDED}
    if state is WorkState.COMPLETE and set(kept.values()) <= {WorkState.COMPLETE}:
        if ward.assignment.kind is TaskType.RUN_SWARM:
            more = (uid for uid in ("a", "b", "c") if uid not in kept)
            kept |= dict.fromkeys(list(more)[: mine.planned - len(kept)], WorkState.COMPLETE)
    else:
        state = WorkState.ERROR
    ward.must(name, ward.reporting(state, tuple(Unit(uid=uid, state=kept[uid]) for uid in sorted(kept))))


def still_to_come(runner: Taskrunner) -> int:
    """W-9, once more: who may take it and has not, and how much that is at most."""
    assignment = runner.assignment
    assert assignment is not None
    may: set[NodeId] = set(assignment.targets)
    may |= set(assignment.chosen) if assignment.chosen else set(runner.listeners)
    missing = len(may.difference(agent.node for agent in runner.agents))
    each = MAX_UNITS if assignment.kind is TaskType.RUN_SWARM and assignment.mode == "peers" else 1
    return min(missing * each, MAX_PLANNED - sum(agent.planned for agent in runner.agents))


def replace_changing(runner: Taskrunner) -> tuple[object, ...]:
    """What of an assignment never changes."""
    assignment = runner.assignment
    assert assignment is not None
    return (assignment.task, assignment.hash, assignment.mode, assignment.wanted, assignment.assigned_ms)


TestTaskrunner = RunnerMachine.TestCase
