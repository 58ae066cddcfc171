"""What an agent does about a taskrunner, against the real contracts: docs/spec/swop.md, SW-2.

An agent that does nothing but what `plan` says, and is killed at every point; a ledger on which others say anything.
"""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace
from task_world import PULL, RUN, RUNNER, Ward, op, swop, ward_with

from swarmlearning.contracts.messages import TakeTask
from swarmlearning.contracts.task_records import ENDED, FAILED, Taskrunner, TaskType, WorkState
from swarmlearning.swop.plan import Action, Known, Step, find_agent, may_take, plan
from swarmlearning.types import Code

ME = swop(0)
OTHERS = st.integers(1, 3)
TASKS = st.sampled_from([PULL, RUN])


class ModelAgent:
    """Agent 0 with a journal, as `swop.agent` keeps one; it starts nothing."""

    def __init__(self) -> None:
        self.journal: list[Known] = []
        self.did: list[Step] = []

    def planned(self, runner: Taskrunner) -> int:
        return 2 if runner.assignment is not None and runner.assignment.kind is TaskType.RUN_SWARM else 1

    def plan(self, runner: Taskrunner) -> list[Action]:
        known = [entry for entry in self.journal if not (entry.dropped and entry.cleaned)]
        return plan(runner, ME.id, known, self.planned(runner))

    def put(self, entry: Known) -> None:
        self.journal = [other for other in self.journal if other.id != entry.id] + [entry]

    def act(self, ward: Ward, action: Action, *, killed: str = "") -> None:
        """Do what is to be done; `killed` between the journal and the ledger, or after the ledger."""
        runner, entry = ward.runner, action.known
        self.did.append(action.step)
        match action.step:
            case Step.TAKE:
                assert entry is None or not entry.since_ms, "what was done before would go on, and counts no more"
                self.put(entry or self.make(runner))
                if killed != "before":
                    assert ward.say(ME, ward.taking(self.planned(runner))) is Code.OK
            case Step.WORK:
                mine = find_agent(runner, ME.id)
                assert entry is not None
                assert mine is not None
                self.put(replace(entry, since_ms=mine.since_ms, version=runner.version))
                if entry.ended:
                    ward.must(ME, ward.reporting(WorkState.ERROR))
            case Step.ABANDON:
                assert entry is not None
                self.put(replace(entry, ended=True, cleaned=True))
            case Step.REDO:
                assert entry is not None
                self.put(replace(entry, dropped=True))
            case Step.LOST:
                if entry is not None:
                    self.put(replace(entry, dropped=True, ended=True, cleaned=True))
                mine = find_agent(runner, ME.id)
                assert mine is not None
                self.put(replace(self.make(runner), since_ms=mine.since_ms, ended=True, cleaned=True))

    def make(self, runner: Taskrunner) -> Known:
        assignment = runner.assignment
        assert assignment is not None
        return Known(
            id=f"{assignment.number}-{len(self.did)}-{len(self.journal)}",
            number=assignment.number,
            hash=assignment.hash,
            assigned_ms=assignment.assigned_ms,
            version=runner.version,
        )

    def settle(self, ward: Ward) -> None:
        """Do all that is to be done, until nothing changes any more."""
        for _ in range(12):
            actions = self.plan(ward.runner)
            if not [action for action in actions if action.step is not Step.WORK or self.is_new(ward, action)]:
                return
            self.act(ward, actions[0])
        raise AssertionError(f"it never comes to rest: {self.did[-12:]}")

    def is_new(self, ward: Ward, action: Action) -> bool:
        mine = find_agent(ward.runner, ME.id)
        assert mine is not None
        assert action.known is not None
        return action.known.ended or action.known.since_ms != mine.since_ms


class PlanMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.agent = ModelAgent()
        self.older: list[Taskrunner] = []

    @initialize(listens=st.booleans())
    def begin(self, listens: bool) -> None:
        self.ward = ward_with(*([0, 1] if listens else [1]))

    # --- the ledger -------------------------------------------------------------------------------------------------

    @rule(listening=st.booleans())
    def listen(self, listening: bool) -> None:
        self.ward.say(ME, self.ward.listening(listening))

    @rule(task=TASKS, peers=st.integers(1, 3))
    def assign(self, task: str, peers: int) -> None:
        self.ward.say(op(0), self.ward.assigning(PULL if task == PULL else RUN, peers))

    @rule(task=TASKS)
    def assign_all(self, task: str) -> None:
        self.ward.say(op(0), self.ward.assigning_all(PULL if task == PULL else RUN))

    @rule(task=TASKS, agent=st.integers(0, 3))
    def target(self, task: str, agent: int) -> None:
        self.ward.say(op(0), self.ward.targeting(PULL if task == PULL else RUN, agent))

    @rule()
    def reset(self) -> None:
        self.ward.say(op(0), self.ward.resetting())

    @rule(agent=OTHERS, planned=st.sampled_from([1, 64]))
    def another_takes(self, agent: int, planned: int) -> None:
        self.ward.say(swop(agent), self.ward.taking(planned))

    @rule(agent=OTHERS, state=st.sampled_from([WorkState.ERROR, WorkState.DENIED]))
    def another_fails(self, agent: int, state: WorkState) -> None:
        self.ward.say(swop(agent), self.ward.reporting(state))

    # --- the agent --------------------------------------------------------------------------------------------------

    @rule()
    def it_acts(self) -> None:
        self.agent.settle(self.ward)

    @rule(killed=st.sampled_from(["before", "after"]))
    def it_is_killed_at_the_first_thing_it_does(self, killed: str) -> None:
        for action in self.agent.plan(self.ward.runner)[:1]:
            self.agent.act(self.ward, action, killed=killed)

    @rule(state=st.sampled_from([WorkState.RUNNING, WorkState.ERROR]), told=st.booleans())
    def it_ends(self, state: WorkState, told: bool) -> None:
        """What it does ends; it is told to the ledger, or the agent is killed before."""
        self.agent.settle(self.ward)
        for action in self.agent.plan(self.ward.runner):
            if action.step is Step.WORK and action.known is not None and state in FAILED:
                self.agent.put(replace(action.known, ended=True))
                if told:
                    self.ward.must(ME, self.ward.reporting(state))

    @rule()
    def its_data_is_lost(self) -> None:
        self.agent.journal = []

    # --- what must hold ---------------------------------------------------------------------------------------------

    @invariant()
    def it_takes_what_the_ledger_lets_it_take_and_nothing_else(self) -> None:
        if not hasattr(self, "ward"):
            return
        runner = self.ward.runner
        planned = self.agent.planned(runner)
        taking = TakeTask(runner=RUNNER, number=runner.assignments, planned=planned)
        accepted = self.ward.fork().say(ME, taking) is Code.OK
        assert accepted == may_take(runner, ME.id, planned)
        steps = {action.step for action in self.agent.plan(runner)}
        assert accepted == bool(steps & {Step.TAKE, Step.REDO})

    @invariant()
    def when_it_has_done_what_is_to_be_done_journal_and_ledger_say_the_same(self) -> None:
        if not hasattr(self, "ward"):
            return
        ward, agent = self.ward.fork(), ModelAgent()
        agent.journal = list(self.agent.journal)
        agent.settle(ward)
        mine = find_agent(ward.runner, ME.id)
        at_it = [entry for entry in agent.journal if not entry.cleaned]
        if mine is not None and mine.state not in ENDED:
            assert [(entry.since_ms, entry.number) for entry in at_it] == [(mine.since_ms, ward.assignment.number)]
        else:
            assert all(entry.ended and mine is not None for entry in at_it), "it works at what nobody waits for"

    @invariant()
    def an_older_record_makes_it_do_nothing(self) -> None:
        """Its SN was restored, or is another one that has yet to catch up."""
        if not hasattr(self, "ward"):
            return
        newest = max((entry.version for entry in self.agent.journal), default=0)
        for record in self.older[-5:]:
            assigned = record.assignment.assigned_ms if record.assignment is not None else 0
            if record.version < newest and all(assigned <= entry.assigned_ms for entry in self.agent.journal):
                assert self.agent.plan(record) == []
        self.older.append(self.ward.runner)


TestPlan = PlanMachine.TestCase


def test_it_is_no_loss_that_an_agent_was_failed_before_it_could_take() -> None:
    """W-14 writes agents down that never took anything."""
    ward = ward_with(0, 1)
    ward.must(op(0), ward.assigning_all(PULL))
    ward.go_without(0)
    mine = find_agent(ward.runner, ME.id)
    assert mine is not None
    assert mine.state is WorkState.ERROR
    assert plan(ward.runner, ME.id, [], 1) == []


def test_what_ended_on_the_ledger_without_us_is_stopped() -> None:
    ward, agent = ward_with(0, 1), ModelAgent()
    ward.must(op(0), ward.assigning(PULL))
    agent.settle(ward)
    assert agent.did == [Step.TAKE, Step.WORK]
    ward.go_without(0)
    (action,) = agent.plan(ward.runner)
    assert action.step is Step.ABANDON
    assert "left" in action.why or "ERROR" in action.why


def test_a_network_founded_anew_counts_from_one_again_and_nothing_is_mistaken() -> None:
    ward, agent = ward_with(0), ModelAgent()
    ward.must(op(0), ward.assigning(PULL))
    agent.settle(ward)
    anew = ward_with(0)
    anew.now_ms += 1_000_000
    anew.must(op(0), anew.assigning(PULL))
    steps = [action.step for action in agent.plan(anew.runner)]
    assert steps == [Step.ABANDON, Step.TAKE]


@given(planned=st.integers(-1, 70), others=st.integers(0, 4))
def test_no_more_peers_are_planned_than_the_ledger_takes(planned: int, others: int) -> None:
    ward = ward_with(0, 1, 2, 3, 4, organisations=5) if others else ward_with(0)
    ward.must(op(0), ward.assigning(RUN, 4))
    for index in range(1, others + 1):
        ward.take(index, planned=60)
    accepted = ward.fork().say(ME, ward.taking(planned)) is Code.OK
    assert accepted == may_take(ward.runner, ME.id, planned)
