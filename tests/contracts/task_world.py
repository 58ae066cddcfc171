"""A ledger of tasks and taskrunners only: messages from named nodes, without signatures, blocks or a network.

Organisation `n` has an operator `op(n)` and an agent `swop(n)`. Block time is `now_ms`.
"""

import copy

from contracts_world import NETWORK, DictState, name_of

from swarmlearning.contracts import changes, membership, taskrunners, tasks
from swarmlearning.contracts.context import Context, Rejected
from swarmlearning.contracts.messages import (
    AnyMessage,
    AppendTask,
    AssignTask,
    CreateTask,
    CreateTaskrunner,
    FinalizeTask,
    ListenToRunner,
    Payload,
    ReportTask,
    ResetTaskrunner,
    TakeTask,
)
from swarmlearning.contracts.records import Node, Organisation
from swarmlearning.contracts.task_records import (
    ROOT_TASK,
    Agent,
    Assignment,
    Evidence,
    RunnerState,
    Task,
    Taskrunner,
    TaskType,
    Unit,
    WorkState,
    hash_task,
)
from swarmlearning.contracts.transition import VERSION, Signed, transition
from swarmlearning.encoding import encode
from swarmlearning.types import DEFAULT_RUNNER, Code, NodeId, NodeName, Role, RunnerName, TaskName

RUNNER = DEFAULT_RUNNER
RUN = TaskName("run")
PULL = TaskName("pull")
BODY = ("image: tumour", "peers: all")


def op(index: int) -> NodeName:
    return name_of(index, Role.OPERATOR)


def swop(index: int) -> NodeName:
    return name_of(index, Role.SWOP)


def unit(uid: str, state: WorkState, description: str = "", evidence: Evidence | None = None) -> Unit:
    return Unit(uid=uid, state=state, description=description, evidence=evidence)


def units(*states: WorkState) -> tuple[Unit, ...]:
    """Peers `sl00`, `sl01`, … in these states."""
    return tuple(unit(f"sl{index:02d}", state) for index, state in enumerate(states))


class Ward:
    """Organisations with operators and agents, all registered."""

    def __init__(self, organisations: int = 4) -> None:
        self.state = DictState()
        self.height = 0
        self.now_ms = 1_000_000
        tasks.put_root_task(self.state)
        taskrunners.put_default_runner(self.state, name_of(0).domain)
        for index in range(organisations):
            membership.save_organisation(self.state, Organisation(domain=name_of(index).domain, issuers=()))
            for name in (op(index), swop(index)):
                node = Node(
                    node=name.id, key=name.id.encode(), certificates=(), issuer=b"", endpoint=None, registered_height=0
                )
                self.state.put(membership.node_key(name.id), encode(node))

    def fork(self) -> "Ward":
        """A world of its own that begins where this one is."""
        other = copy.copy(self)
        other.state = DictState()
        other.state.values = dict(self.state.values)
        return other

    # --- the ledger -----------------------------------------------------------------------------------------------

    def context(self, sender: NodeName, caller: str = "") -> Context:
        return Context(
            height=self.height,
            time_ms=self.now_ms,
            elapsed_ms=0,
            previous_hash=bytes(32),
            sender=sender.id,
            name=sender,
            caller=NodeId(caller),
        )

    def send(self, sender: NodeName, message: AnyMessage, caller: str = "") -> Rejected | None:
        """Carry out a message, or say why not; then nothing has changed."""
        self.height += 1
        self.now_ms += 1000
        before = dict(self.state.values)
        payload = Payload(network=NETWORK, nonce=bytes(16), expires=self.height, message=message)
        signed = Signed(payload=payload, signer=bytes(32))
        try:
            transition(VERSION, self.state, self.context(sender, caller), signed, NETWORK)
        except Rejected as rejected:
            self.state.values = before
            return rejected
        return None

    def must(self, sender: NodeName, *messages: AnyMessage, caller: str = "") -> None:
        for message in messages:
            rejected = self.send(sender, message, caller)
            assert rejected is None, f"{rejected.code.name}: {rejected.log}"

    def say(self, sender: NodeName, message: AnyMessage) -> Code:
        rejected = self.send(sender, message)
        return Code.OK if rejected is None else rejected.code

    def refusal(self, sender: NodeName, message: AnyMessage, code: Code) -> str:
        """Why a message was refused, for this reason."""
        before = dict(self.state.values)
        rejected = self.send(sender, message)
        assert rejected is not None
        assert rejected.code is code, rejected.log
        assert self.state.values == before
        assert len(rejected.log) < 400
        return rejected.log

    def go_without(self, index: int) -> None:
        """An organisation leaves."""
        self.height += 1
        self.now_ms += 1000
        changes.remove_member(self.state, self.context(op(index)), name_of(index).domain, expelled=False)

    # --- tasks ----------------------------------------------------------------------------------------------------

    def task(self, name: TaskName) -> Task:
        found = tasks.load_task(self.state, name)
        assert found is not None
        return found

    def hash_of(self, name: TaskName) -> bytes:
        return hash_task(self.task(name), tasks.load_body(self.state, name))

    def creation(self, name: str = "t", kind: TaskType = TaskType.PULL_IMAGE, prereq: str = ROOT_TASK) -> CreateTask:
        return CreateTask(task=TaskName(name), kind=kind, author="Anna", prereq=TaskName(prereq), outcome="image")

    def append(self, name: str, *lines: str, first: int = 1) -> AppendTask:
        return AppendTask(task=TaskName(name), first=first, lines=lines)

    def finalizing(self, name: str) -> FinalizeTask:
        return FinalizeTask(task=TaskName(name), hash=self.hash_of(TaskName(name)))

    def write(
        self, name: str = "t", kind: TaskType = TaskType.PULL_IMAGE, prereq: str = ROOT_TASK, by: int = 0
    ) -> None:
        """A final task."""
        self.must(op(by), self.creation(name, kind, prereq), self.append(name, *BODY))
        self.must(op(by), self.finalizing(name))

    # --- a taskrunner ---------------------------------------------------------------------------------------------

    @property
    def runner(self) -> Taskrunner:
        found = taskrunners.load_runner(self.state, RUNNER)
        assert found is not None
        return found

    @property
    def standing(self) -> RunnerState:
        return self.runner.state

    @property
    def assignment(self) -> Assignment:
        found = self.runner.assignment
        assert found is not None
        return found

    def agent(self, index: int) -> Agent:
        return next(agent for agent in self.runner.agents if agent.node == swop(index).id)

    def listening(self, listening: bool = True, runner: RunnerName = RUNNER) -> ListenToRunner:
        return ListenToRunner(runner=runner, listening=listening)

    def listen(self, *indexes: int) -> None:
        for index in indexes:
            self.must(swop(index), self.listening())

    def assigning(self, task: TaskName, peers: int = 1) -> AssignTask:
        return AssignTask(runner=RUNNER, task=task, hash=self.task(task).hash, mode="peers", peers=peers)

    def assigning_all(self, task: TaskName) -> AssignTask:
        return AssignTask(runner=RUNNER, task=task, hash=self.task(task).hash, mode="all")

    def targeting(self, task: TaskName, index: int) -> AssignTask:
        return AssignTask(runner=RUNNER, task=task, hash=self.task(task).hash, mode="target", target=swop(index).id)

    def resetting(self) -> ResetTaskrunner:
        assignment = self.runner.assignment
        return ResetTaskrunner(runner=RUNNER, number=0 if assignment is None else assignment.number)

    def taking(self, planned: int = 1, number: int = 0) -> TakeTask:
        return TakeTask(runner=RUNNER, number=number or self.runner.assignments, planned=planned)

    def take(self, *indexes: int, planned: int = 1) -> None:
        for index in indexes:
            self.must(swop(index), self.taking(planned))

    def reporting(
        self, state: WorkState, peers: tuple[Unit, ...] = (), description: str = "", number: int = 0
    ) -> ReportTask:
        return ReportTask(
            runner=RUNNER,
            number=number or self.runner.assignments,
            state=state,
            description=description,
            units=peers,
        )

    def report(self, index: int, state: WorkState, *peers: WorkState, description: str = "") -> None:
        self.must(swop(index), self.reporting(state, units(*peers), description))


def ward_with(*listening: int, organisations: int = 4) -> Ward:
    """A swarm that is ready to be run: tasks `pull` and, after it, `run`; these agents listen."""
    ward = Ward(organisations)
    ward.write(PULL)
    ward.write(RUN, TaskType.RUN_SWARM, PULL)
    ward.listen(*listening)
    return ward


def second_runner(ward: Ward, by: int = 1) -> RunnerName:
    name = RunnerName("other")
    ward.must(op(by), CreateTaskrunner(runner=name))
    return name
