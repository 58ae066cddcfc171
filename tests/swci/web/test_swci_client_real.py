"""`Swci` against the real REST service, a real SN and agents that sign what real ones will."""

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from swci_world import A, B, Swarm
from web_world import HOST, Service

from swarmlearning.contracts.messages import ListenToRunner, ReportTask, TakeTask
from swarmlearning.contracts.task_records import WorkState
from swarmlearning.errors import Refused, VerificationError
from swarmlearning.sn.asking import open_submitter
from swarmlearning.swci import Swci
from swarmlearning.types import Role, RunnerName, TrustDomain


def task_file(name: str, outcome: str = "image-1") -> str:
    steps = ["BuildType: INLINE", "BuildSteps:", "- FROM python:3.12-slim", "- RUN pip3 install 'numpy<3'"]
    header = [f"Name: {name}", "TaskType: MAKE_USER_CONTAINER", "Author: Heart-Team", "Prereq: ROOTTASK"]
    return "\n".join([*header, f"Outcome: {outcome}", "Body:", *(f"    {step}" for step in steps), ""])


def connect(service: Service, role: Role = Role.OPERATOR, domain: TrustDomain = A, **options: object) -> Swci:
    """As a caller that nobody else is."""
    swarm = service.swarm
    me = swarm.identity(role, domain, name=swarm.fresh("py"))
    return Swci(HOST, service.port, me.cert, me.key, me.cacert, **options)  # type: ignore[arg-type]  # of the same names


@pytest.fixture
def swci(service: Service) -> Swci:
    return connect(service)


@contextmanager
def agent(
    swarm: Swarm, runner: str, end: WorkState, description: str = "", *, may_take: threading.Event | None = None
) -> Iterator[None]:
    """An agent that listens, takes the runner's first task and ends it."""
    listening = threading.Event()

    async def main() -> None:
        me, name = swarm.fresh("swop"), RunnerName(runner)
        async with swarm.client(Role.SWOP, name=me) as client:
            submitter = await open_submitter(client, swarm.identity(Role.SWOP, name=me).source(), None)
            await submitter.require(ListenToRunner(runner=name, listening=True))
            listening.set()
            async for _ in client.changes():  # the first one comes at once
                found = await client.runner(name)
                if found is not None and found.assignment is not None:
                    break
            if may_take is not None:
                await asyncio.to_thread(may_take.wait, 60)
            await submitter.require(TakeTask(runner=name, number=1, planned=1))
            report = ReportTask(runner=name, number=1, state=end, description=description)
            await submitter.require(report)

    failures: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:  # noqa: BLE001  # told below
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert listening.wait(60), failures
        yield
    finally:
        thread.join(60)
        assert not thread.is_alive()
        assert not failures


def upload(swci: Swci, tmp_path: Path, name: str) -> str:
    path = tmp_path / f"{name}.yaml"
    path.write_text(task_file(name))
    assert swci.uploadTaskDefinition(path).endswith(f"{name}.yaml")
    return path.name


def test_a_program_for_the_product_runs_from_context_to_reset(service: Service, swci: Swci, tmp_path: Path) -> None:
    """As `test_swci_client_program` has it, with keywords and order as published programs have them."""
    swarm = service.swarm
    task, runner = swarm.fresh("build"), swarm.fresh("runner")
    sn = swarm.sn()
    assert swci.createContext("testContext", ip=sn.host, port=sn.port)[-1] == "CONTEXT CREATED : testContext"
    assert swci.switchContext("testContext") == ["DEFAULT CONTEXT SET TO : testContext"]
    assert swci.cd("/platform/swarm/usr")[0].startswith("Current Directory : ")
    file = upload(swci, tmp_path, task)
    assert file in swci.ls()
    lines = swci.createTaskFrom(file)
    assert lines[0] == "Task definition is valid"
    assert f"Task Registered : {task}" in lines
    assert swci.finalizeTask(task)
    assert swci.createTaskRunner(runner)
    assert swci.isTaskDone(trName=runner)
    may_take = threading.Event()
    with agent(swarm, runner, WorkState.COMPLETE, may_take=may_take):
        assert swci.assignTask(task, peers=1, trName=runner)
        assert not swci.isTaskDone(trName=runner)
        may_take.set()
        assert f"TASK_NAME : {task}" in swci.waitForTaskRunner(runner, 60, pollWaitInSec=0.1)
    assert swci.isTaskDone(trName=runner)
    assert "TASK_STATE : COMPLETE" in swci.getTaskRunnerStatus(runner)
    assert "STATUS : COMPLETE" in swci.getTaskRunnerPeerStatus(runner, 0)
    assert swci.resetTaskRunner(trName=runner)
    assert "TASK_STATE : IDLE" in swci.getTaskRunnerStatus(runner)
    assert swci.getTaskBody(task)[-1] == "- RUN pip3 install 'numpy<3'"
    assert swci.getErrors() is None


def test_ci70_who_approves_through_the_service_is_named_beside_it(service: Service, swci: Swci, tmp_path: Path) -> None:
    task = service.swarm.fresh("build")
    swci.registerTask(upload(swci, tmp_path, task))
    assert swci.approveTask(task)[0] == f"Task Approved : {task}", swci.getErrors()
    assert any(line.startswith("APPROVED_BY : a.example , ") for line in swci.getTaskInfo(task))
    assert swci.denyTask(task)[0] == f"Task Denied : {task}"
    (denied,) = [line for line in swci.getTaskInfo(task) if line.startswith("DENIED_BY : ")]
    assert re.fullmatch(r"DENIED_BY : a\.example , SIGNED_BY : \S+@a\.example for \S+@a\.example , AT : .*", denied)


def test_a_task_is_registered_and_executed_in_two_calls(service: Service, swci: Swci, tmp_path: Path) -> None:
    task, runner = service.swarm.fresh("build"), service.swarm.fresh("runner")
    assert swci.registerTask(upload(swci, tmp_path, task)) == [f"Registered Task : {task}"]
    swci.createTaskRunner(runner)
    with agent(service.swarm, runner, WorkState.COMPLETE):
        report = swci.executeTask(task, runner, 1, 0.1)
    assert "TASK_STATE : COMPLETE" in report
    assert "STATUS : COMPLETE" in report
    assert "TASK_STATE : IDLE" in swci.getTaskRunnerStatus(runner)


def test_ci67_a_task_that_fails_is_told_with_the_agents_reason(service: Service, swci: Swci, tmp_path: Path) -> None:
    task, runner = service.swarm.fresh("build"), service.swarm.fresh("runner")
    swci.registerTask(upload(swci, tmp_path, task))
    swci.createTaskRunner(runner)
    with agent(service.swarm, runner, WorkState.ERROR, "no space left on device"):
        assert swci.executeTask(task, runner, 1, 0.1) == []
    error = swci.getErrors() or ""
    assert f"task {task} on {runner} ended with ERROR" in error
    assert "no space left on device" in error
    assert "TASK_STATE : ERROR" in swci.getTaskRunnerStatus(runner)  # left for whoever looks


def test_ci67_a_wait_says_whom_it_waits_for(service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    swci = connect(service, logLv="INFO")
    task, runner = service.swarm.fresh("build"), service.swarm.fresh("runner")
    swci.registerTask(upload(swci, tmp_path, task))
    swci.createTaskRunner(runner)
    assert swci.assignTask(task, runner, 2)
    assert swci.waitForTaskRunner(runner, timeoutInSec=0.3, pollWaitInSec=0.1) == []
    assert f"waited 0.3 s for taskrunner {runner}; it goes on: WAITING: {task}: 0 of 2 agents complete" in (
        swci.getErrors() or ""
    )
    assert f"waiting for taskrunner {runner}: WAITING: {task}: 0 of 2 agents complete" in caplog.text


def test_a_contract_is_made_looked_at_and_reset(service: Service, swci: Swci) -> None:
    name = service.swarm.fresh("heart")
    assert swci.createTrainingContract(name) == [f"Contract Created : {name}"]
    assert name in swci.listTrainingContracts()
    for lines in (
        swci.getTrainingContractInfo(name),
        swci.getTrainingContractStatus(name),
        swci.getTrainingContractPerformanceData(name),
        swci.getContractHistory(name),
        swci.getContractHistory(name, 3),
        swci.listPeers(name),
    ):
        assert lines, swci.getErrors()
    assert swci.resetTrainingContract(name)[0] == f"Contract Reset : {name}"


LOOKS: list[Callable[[Swci], list[str]]] = [
    Swci.pwd, Swci.listContexts, Swci.getContextInfo, Swci.getContextVersion, Swci.listTrainingContracts,
    Swci.listTasks, Swci.listTaskRunners, Swci.listNodes, Swci.showStatus, Swci.listMembers,
    lambda s: s.getTaskInfo("ROOTTASK"),
    lambda s: s.getTaskRunnerInfo("defaulttaskbb.taskdb.sml.hpe"),
    lambda s: s.getTaskRunnerStatus("defaulttaskbb.taskdb.sml.hpe"),
    lambda s: s.listTaskRunnerPeers("defaulttaskbb.taskdb.sml.hpe"),
    lambda s: s.getTrainingContractInfo("defaultbb.cqdb.sml.hpe"),
    lambda s: s.execute("HELP ASSIGN TASK"),
]  # fmt: skip


@pytest.mark.parametrize("look", LOOKS)
def test_what_only_looks_answers(service: Service, look: Callable[[Swci], list[str]]) -> None:
    swci = connect(service, raiseErrors=True)
    assert all(look(swci))


def test_what_may_answer_nothing_does_without_an_error(service: Service, swci: Swci) -> None:
    name = service.swarm.fresh("heart")
    swci.createTrainingContract(name)
    calls: list[Callable[[], list[str]]] = [
        swci.listProposals,
        swci.listContextEnv,
        lambda: swci.listPeers(name),
        lambda: swci.sleep(0),
        lambda: swci.execute(""),
    ]
    for call in calls:
        call()
        assert swci.getErrors() is None


def test_nodes_and_their_picture(service: Service, swci: Swci) -> None:
    assert swci.listNodes()[0] == "NodeType,HostIP,Port,ContainerName,UUID,ParentUUID,i-am-alive"
    kinds = [node["NodeType"] for node in swci.nodes()]
    assert kinds.count("SENTINEL") == 1
    assert "SN" in kinds
    assert swci.plotTopology().startswith(b"\x89PNG")
    assert swci.getErrors() is None


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda s: s.getTaskInfo("nobody-made-this"), "there is no task nobody-made-this"),
        (lambda s: s.getTrainingContractInfo("../etc"), "<contract> "),
        (lambda s: s.execute("LIST NODEZ"), "did you mean LIST NODES?"),
        (lambda s: s.assignTask("ROOTTASK", "defaulttaskbb.taskdb.sml.hpe", 1), "nothing to carry out"),
        (lambda s: s.createTaskFrom("../../etc/passwd"), "outside"),
        (lambda s: s.ls("-R"), "expected -l"),
        (lambda s: s.vote(1, "maybe"), "expected one of YES, NO"),
        (lambda s: s.execute("WAIT FOR TASKRUNNER nobody-made-this"), "nobody-made-this"),
    ],
)
def test_ci64_what_the_service_refuses_is_told(swci: Swci, call: Callable[[Swci], list[str]], text: str) -> None:
    assert call(swci) == []
    assert text in (swci.getErrors() or "")


def test_ci63_what_an_argument_holds_stays_in_it(service: Service, swci: Swci) -> None:
    name = service.swarm.fresh("kept")
    swci.createTrainingContract(name)
    for attack in (f'x" # {name}', f"x; RESET CONTRACT {name}", f"x\tRESET CONTRACT {name}", "'", '"', "#", ""):
        assert swci.getTrainingContractInfo(attack) == []
        assert "<contract> contract name" in (swci.getErrors() or ""), attack


def test_the_longest_line_arrives_in_whatever_alphabet(swci: Swci) -> None:
    assert swci.execute("€" * 5461) == []  # 16,383 bytes, 49,149 percent-encoded
    assert "unknown command" in (swci.getErrors() or "")


def test_a_body_is_written_line_by_line_as_it_stands(service: Service, swci: Swci) -> None:
    task = service.swarm.fresh("hand")
    assert swci.createTask("MAKE_USER_CONTAINER", task, "Anna B", "ROOTTASK", "image-2"), swci.getErrors()
    body = ["BuildType: INLINE", "BuildSteps:", "-   FROM 'x' # \"kept\"", "- ERROR is no command"]
    for number, line in enumerate(body, 1):
        assert swci.appendTaskBody(task, number, line), swci.getErrors()
    assert swci.getTaskBody(task) == body
    assert swci.finalizeTask(task), swci.getErrors()
    assert swci.deleteTask(task) == []
    assert swci.getErrors()


def test_a_file_that_is_too_large_or_oddly_named_is_refused_by_the_service(swci: Swci, tmp_path: Path) -> None:
    for name, size, text in ((".hidden", 1, "file name"), ("a.yaml", (1 << 20) + 1, "more than 1048576 bytes")):
        path = tmp_path / name
        path.write_bytes(b"x" * size)
        with pytest.raises(RuntimeError, match=text):
            swci.uploadTaskDefinition(path)


def test_a_caller_without_the_role_is_told_which_is_needed(service: Service) -> None:
    with pytest.raises(Refused, match="has the role auditor; this needs the role operator") as caught:
        connect(service, Role.AUDITOR, raiseErrors=True).pwd()
    assert caught.value.code == "role"


def test_ci61_another_organisations_operator_sends_nothing_here(service: Service) -> None:
    with pytest.raises(VerificationError, match="did not prove who it is"):
        connect(service, domain=B, raiseErrors=True).pwd()


def test_ci61_an_sn_is_no_command_interface(service: Service) -> None:
    me = service.swarm.identity()
    sn = service.swarm.sn()
    with pytest.raises(VerificationError, match=r"expected an operator of a\.example in the network local, got spiffe"):
        Swci(sn.host, sn.port, me.cert, me.key, me.cacert, raiseErrors=True).pwd()


def test_callers_have_their_own_contexts_and_directories(service: Service, tmp_path: Path) -> None:
    one, two = connect(service), connect(service)
    one.createContext("mine", service.swarm.sn().host, service.swarm.sn().port)
    assert any("mine" in line for line in one.listContexts())
    assert not any("mine" in line for line in two.listContexts())


def test_several_threads_of_one_caller_are_answered_each_its_own(service: Service, swci: Swci) -> None:
    names = [service.swarm.fresh("thread") for _ in range(6)]
    answers: dict[str, tuple[list[str], str | None]] = {}

    def create(name: str) -> None:
        answers[name] = swci.createTrainingContract(name), swci.getErrors()

    threads = [threading.Thread(target=create, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert answers == {name: ([f"Contract Created : {name}"], None) for name in names}


def test_a_call_that_was_given_up_frees_the_session(service: Service, swci: Swci) -> None:
    began_s = time.monotonic()
    assert swci.execute("SLEEP 50", timeoutInSec=0.5) == []
    assert "no answer to SLEEP 50 within 0.5 s" in (swci.getErrors() or "")
    assert swci.pwd()
    assert time.monotonic() - began_s < 30
