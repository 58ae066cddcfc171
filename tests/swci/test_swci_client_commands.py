"""What `Swci` sends for each method, and what it makes of what comes back."""

import inspect
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_service import FakeService, World, echo, made_world
from hypothesis import given
from hypothesis import strategies as st

from swarmlearning.errors import ConfigurationError
from swarmlearning.swci import Swci
from swarmlearning.swci.commander import write_line
from swarmlearning.swci.entries import parse
from swarmlearning.swci.lexer import split_line
from swarmlearning.swci.table import COMMANDS


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with made_world(tmp_path) as made:
        yield made


Call = Callable[[Swci], object]

SENT: dict[str, list[tuple[Call, str]]] = {
    "ls": [(lambda s: s.ls(), "LS"), (lambda s: s.ls("-l"), "LS -l")],
    "pwd": [(lambda s: s.pwd(), "PWD")],
    "cd": [(lambda s: s.cd("my tasks"), 'CD "my tasks"'), (lambda s: s.cd(Path("/a/b")), "CD /a/b")],
    "sleep": [(lambda s: s.sleep(5), "SLEEP 5"), (lambda s: s.sleep(0.2), "SLEEP 1")],
    "createContext": [
        (lambda s: s.createContext("testContext", ip="sn1"), 'CREATE CONTEXT "testContext" WITH IP sn1 30304'),
        (lambda s: s.createContext("c-1", "10.0.0.1", 16000), "CREATE CONTEXT c-1 WITH IP 10.0.0.1 16000"),
        (lambda s: s.createContext("c-1", service="a.b:1"), "CREATE CONTEXT c-1 WITH SERVICE a.b:1"),
    ],
    "switchContext": [(lambda s: s.switchContext("c-1"), "SWITCH CONTEXT c-1")],
    "deleteContext": [(lambda s: s.deleteContext("c-1"), "DELETE CONTEXT c-1")],
    "listContexts": [(lambda s: s.listContexts(), "LIST CONTEXTS")],
    "getContextInfo": [
        (lambda s: s.getContextInfo("c-1"), "GET CONTEXT INFO c-1"),
        (lambda s: s.getContextInfo(), "GET CONTEXT INFO"),
    ],
    "getContextVersion": [(lambda s: s.getContextVersion(), "GET CONTEXT VERSION")],
    "listContextEnv": [
        (lambda s: s.listContextEnv(), "LIST CONTEXT ENV"),
        (lambda s: s.listContextEnv("c-1"), "LIST CONTEXT ENV c-1"),
    ],
    "getContextEnv": [
        (lambda s: s.getContextEnv("A_B"), "GET CONTEXT ENV A_B"),
        (lambda s: s.getContextEnv("A_B", "c-1"), "GET CONTEXT ENV c-1 A_B"),
    ],
    "setContextEnv": [
        (lambda s: s.setContextEnv("A_B", "1 2"), 'SET CONTEXT ENV A_B "1 2"'),
        (lambda s: s.setContextEnv("A_B", "x=1", ctxName="c-1"), "SET CONTEXT ENV c-1 A_B x=1"),
    ],
    "createTrainingContract": [(lambda s: s.createTrainingContract("heart-1"), "CREATE CONTRACT heart-1")],
    "listTrainingContracts": [(lambda s: s.listTrainingContracts(), "LIST CONTRACTS")],
    "getTrainingContractInfo": [(lambda s: s.getTrainingContractInfo("k.1"), "GET CONTRACT INFO k.1")],
    "getTrainingContractStatus": [(lambda s: s.getTrainingContractStatus(ctName="k.1"), "GET CONTRACT STATUS k.1")],
    "getTrainingContractPerformanceData": [
        (lambda s: s.getTrainingContractPerformanceData(), "PERFDATA defaultbb.cqdb.sml.hpe"),
        (lambda s: s.getTrainingContractPerformanceData("k.1"), "PERFDATA k.1"),
    ],
    "getContractHistory": [
        (lambda s: s.getContractHistory("k.1"), "GET CONTRACT HISTORY k.1"),
        (lambda s: s.getContractHistory("k.1", 5), "GET CONTRACT HISTORY k.1 5"),
    ],
    "listPeers": [(lambda s: s.listPeers(), "LIST PEERS"), (lambda s: s.listPeers("k.1"), "LIST PEERS k.1")],
    "resetTrainingContract": [
        (lambda s: s.resetTrainingContract(), "RESET CONTRACT defaultbb.cqdb.sml.hpe"),
        (lambda s: s.resetTrainingContract(ctName="k.1"), "RESET CONTRACT k.1"),
    ],
    "createTaskFrom": [(lambda s: s.createTaskFrom("defs/a.yaml"), "CREATE TASK FROM defs/a.yaml")],
    "createTask": [
        (
            lambda s: s.createTask("RUN_SWARM", "t_1", "Anna B", "ROOTTASK", "out:1"),
            'CREATE TASK RUN_SWARM t_1 "Anna B" "ROOTTASK" out:1',
        )
    ],
    "appendTaskBody": [
        (lambda s: s.appendTaskBody("t_1", 1, '  Command: "x" # y'), 'APPEND TASK BODY t_1 1   Command: "x" # y')
    ],
    "finalizeTask": [(lambda s: s.finalizeTask("t_1"), "FINALIZE TASK t_1")],
    "approveTask": [(lambda s: s.approveTask("t_1"), "APPROVE TASK t_1")],
    "denyTask": [(lambda s: s.denyTask("t_1"), "DENY TASK t_1")],
    "deleteTask": [(lambda s: s.deleteTask("t_1"), "DELETE TASK t_1")],
    "listTasks": [(lambda s: s.listTasks(), "LIST TASKS")],
    "getTaskInfo": [(lambda s: s.getTaskInfo("t_1"), "GET TASK INFO t_1")],
    "getTaskBody": [(lambda s: s.getTaskBody("t_1"), "GET TASK BODY t_1")],
    "createTaskRunner": [(lambda s: s.createTaskRunner("r.1"), "CREATE TASKRUNNER r.1")],
    "listTaskRunners": [(lambda s: s.listTaskRunners(), "LIST TASKRUNNERS")],
    "getTaskRunnerInfo": [(lambda s: s.getTaskRunnerInfo("r.1"), "GET TASKRUNNER INFO r.1")],
    "getTaskRunnerStatus": [(lambda s: s.getTaskRunnerStatus("r.1"), "GET TASKRUNNER STATUS r.1")],
    "getTaskRunnerPeerStatus": [
        (lambda s: s.getTaskRunnerPeerStatus("r.1", 0), "GET TASKRUNNER PEER STATUS r.1 0"),
        (lambda s: s.getTaskRunnerPeerStatus("r.1", "swop@a.b"), "GET TASKRUNNER PEER STATUS r.1 swop@a.b"),
    ],
    "listTaskRunnerPeers": [(lambda s: s.listTaskRunnerPeers("r.1"), "LIST TASKRUNNER PEERS r.1")],
    "resetTaskRunner": [
        (lambda s: s.resetTaskRunner(), "RESET TASKRUNNER defaulttaskbb.taskdb.sml.hpe"),
        (lambda s: s.resetTaskRunner(trName="r.1"), "RESET TASKRUNNER r.1"),
    ],
    "assignTask": [
        (lambda s: s.assignTask("t_1", "r.1", 2), "ASSIGN TASK t_1 TO r.1 WITH 2 PEERS"),
        (lambda s: s.assignTask("t_1", peers=2, trName="r.1"), "ASSIGN TASK t_1 TO r.1 WITH 2 PEERS"),
        (lambda s: s.assignTask("t_1", "r.1", 2.0), "ASSIGN TASK t_1 TO r.1 WITH 2 PEERS"),  # type: ignore[arg-type]  # the product takes it
    ],
    "assignTaskToAll": [(lambda s: s.assignTaskToAll("t_1", "r.1"), "ASSIGN TASK t_1 TO r.1 WITH ALL PEERS")],
    "assignTaskToTarget": [
        (lambda s: s.assignTaskToTarget("t_1", "r.1", "swop@a.b"), "ASSIGN TASK t_1 TO r.1 TARGET swop@a.b")
    ],
    "listNodes": [(lambda s: s.listNodes(), "LIST NODES")],
    "showStatus": [(lambda s: s.showStatus(), "SHOW STATUS")],
    "listMembers": [(lambda s: s.listMembers(), "LIST MEMBERS")],
    "listProposals": [
        (lambda s: s.listProposals(), "LIST PROPOSALS"),
        (lambda s: s.listProposals("all"), 'LIST PROPOSALS "all"'),
    ],
    "getProposalInfo": [(lambda s: s.getProposalInfo(3), "GET PROPOSAL INFO 3")],
    "vote": [(lambda s: s.vote(3, "yes"), 'VOTE 3 "yes"')],
    "withdrawProposal": [(lambda s: s.withdrawProposal(3), "WITHDRAW PROPOSAL 3")],
    "exportLedger": [
        (lambda s: s.exportLedger("l.jsonl"), "EXPORT LEDGER l.jsonl"),
        (lambda s: s.exportLedger("l.jsonl", 7), "EXPORT LEDGER l.jsonl 7"),
    ],
    "execute": [(lambda s: s.execute("wait for ip sn1  # until it is there"), "wait for ip sn1  # until it is there")],
}
"""Method to calls and what they send."""

ELSEWHERE = {
    "isTaskDone", "executeTask", "waitForTaskRunner", "registerTask", "plotTopology", "nodes",
    "uploadTaskDefinition", "uploadTaskDefintion", "getErrors", "setLogLevel", "clearCache",
}  # fmt: skip
"""Methods that send several commands or none; tested apart."""


def methods() -> list[str]:
    return [name for name, _ in inspect.getmembers(Swci, inspect.isfunction) if not name.startswith("_")]


def test_every_method_is_tested_for_what_it_sends() -> None:
    assert set(methods()) == set(SENT) | ELSEWHERE


def test_ci60_each_method_sends_its_command_line_once_and_answers_its_lines(world: World) -> None:
    service = world.service(echo)
    swci = world.swci(service)
    expected = [line for calls in SENT.values() for _, line in calls]
    for calls in SENT.values():
        for call, line in calls:
            assert call(swci) == [f"said {line}"]
            assert swci.getErrors() is None
    assert service.commands == expected
    assert service.connections == len(expected)  # each on a connection of its own
    assert set(service.callers) == {"spiffe://a.example/net/operator/anna"}
    assert b"\r\nConnection: close\r\n" in service.requests[0]


BY_EXECUTE_ALONE = {"EXIT", "EXIT ON FAILURE [<switch>]", "HELP [<command...>]", "WATCH CONTRACT <contract>"}
"""Commands that make sense in a shell only, or are waited for elsewhere; `execute` takes them."""


def test_each_method_sends_a_command_of_the_table_and_each_command_has_a_method() -> None:
    meant = [parse(COMMANDS, line) for name, calls in SENT.items() for _, line in calls if line != "LS -l"]
    usages = {one.entry.usage for one in meant if one is not None}
    left = {entry.usage for entry in COMMANDS if not entry.usage.startswith("WAIT FOR ")} - usages
    assert left <= BY_EXECUTE_ALONE, "a command without a method"


PRODUCT = {
    "__init__": "swciIp, port=30306, clientCert=None, clientPKey=None, clientCABundle=None, logger=None, logLv=30, "
    "enableCaching=True",
    "ls": "optStr=''",
    "pwd": "",
    "cd": "dirPath",
    "sleep": "sleepTime",
    "createContext": "ctxName, ip=None, port=30304, service=None",
    "switchContext": "ctxName",
    "listContexts": "",
    "getContextInfo": "ctxName",
    "createTrainingContract": "ctName",
    "listTrainingContracts": "",
    "getTrainingContractInfo": "ctName",
    "getTrainingContractStatus": "ctName",
    "getTrainingContractPerformanceData": "ctName='defaultbb.cqdb.sml.hpe'",
    "resetTrainingContract": "ctName='defaultbb.cqdb.sml.hpe'",
    "createTaskFrom": "yamlFileName",
    "registerTask": "yamlFileName, finalize=True",
    "finalizeTask": "taskName",
    "deleteTask": "taskName",
    "listTasks": "",
    "getTaskInfo": "taskName",
    "getTaskBody": "taskName",
    "uploadTaskDefintion": "taskFilePath",
    "assignTask": "taskName, trName, peers",
    "getTaskRunnerStatus": "trName",
    "getTaskRunnerPeerStatus": "trName, idx",
    "getTaskRunnerInfo": "trName",
    "listTaskRunners": "",
    "resetTaskRunner": "trName='defaulttaskbb.taskdb.sml.hpe'",
    "isTaskDone": "trName",
    "executeTask": "taskName, tr='defaulttaskbb.taskdb.sml.hpe', peers=1, pollWaitInSec=120, resetTROnSuccess=True",
    "listNodes": "",
    "plotTopology": "SNColour, SWOPColor, SLColor, attrs",
    "getErrors": "",
    "setLogLevel": "logLv",
    "clearCache": "",
}


@pytest.mark.parametrize("name", PRODUCT)
def test_ci69_a_call_written_for_the_product_fits(name: str) -> None:
    parameters = list(inspect.signature(getattr(Swci, name)).parameters.values())[1:]
    positional = [one for one in parameters if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    expected = [text for text in PRODUCT[name].split(", ") if text]
    shown = [
        one.name if one.default is inspect.Parameter.empty or name == "plotTopology" else f"{one.name}={one.default!r}"
        for one in positional
    ]
    if name == "getContextInfo":  # may be left out, as its documentation says
        shown = [text.removesuffix("=None") for text in shown]
    assert shown == expected
    assert all(one.default is not inspect.Parameter.empty for one in parameters[len(expected) :])


def test_the_class_is_found_where_the_product_has_it_and_importing_the_package_stays_light() -> None:
    import subprocess
    import sys

    program = (
        "import sys, swarmlearning.swci as sw\n"
        "assert 'swarmlearning.swci.client' not in sys.modules\n"
        "import swarmlearning.swci.lexer\n"
        "assert 'swarmlearning.swci.client' not in sys.modules\n"
        "from swarmlearning.swci import Swci\n"
        "assert sw.Swci is Swci and sw.SwciError.__name__ == 'SwciError'\n"
        "assert not {'aiohttp', 'networkx', 'matplotlib', 'numpy'} & set(sys.modules)\n"
        "try:\n    sw.Swcy\nexcept AttributeError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "module 'swarmlearning.swci' has no attribute 'Swcy'\n", done.stderr


# --- arguments ------------------------------------------------------------------------------------------------------


@given(st.text(max_size=60))
def test_ci63_an_argument_is_one_word_whatever_it_holds(text: str) -> None:
    try:
        line = write_line("GET CONTRACT INFO {}", text)
    except ConfigurationError:
        assert any(not char.isprintable() and char != "\t" for char in text)
        return
    words = split_line(line)
    assert [word.text for word in words] == ["GET", "CONTRACT", "INFO", text]


@pytest.mark.parametrize("name", ["STATUS", "peers", "Q", "all"])
def test_ci63_an_argument_that_looks_like_a_keyword_is_none(name: str) -> None:
    word = split_line(write_line("LIST PEERS {}", name))[-1]
    assert (word.text, word.quoted) == (name, True)


@pytest.mark.parametrize(
    "attack", ["x\nDELETE TASK y", "x\r\nDELETE TASK y", "x\x00y", "x\x1b[2J", "x\u2028y", "x\ud800", "x\u202ey"]
)
@pytest.mark.parametrize(
    "call",
    [
        lambda s, text: s.getTaskInfo(text),
        lambda s, text: s.assignTask("t", text, 1),
        lambda s, text: s.assignTask("t", "r", text),
        lambda s, text: s.appendTaskBody("t", 1, text),
        lambda s, text: s.execute(text),
    ],
)
def test_ci63_a_second_command_in_an_argument_is_refused_and_nothing_is_sent(
    world: World, attack: str, call: Callable[[Swci, str], list[str]]
) -> None:
    service = world.service(echo)
    swci = world.swci(service)
    assert call(swci, attack) == []
    errors = swci.getErrors()
    assert errors is not None
    assert errors.startswith("ERROR character ")
    assert len(errors.splitlines()) == 1
    assert service.connections == 0


@pytest.mark.parametrize("wrong", [None, True, ["t"], b"t", object()])
def test_an_argument_of_another_type_is_refused_by_name(world: World, wrong: Any) -> None:
    service = world.service(echo)
    swci = world.swci(service)
    assert swci.getTaskInfo(wrong) == []
    assert "expected text or a number" in (swci.getErrors() or "")
    assert service.connections == 0


def test_ci63_a_line_that_is_too_long_is_refused_and_a_long_one_arrives_whole(world: World) -> None:
    service = world.service(lambda command: [str(len(command))])
    swci = world.swci(service)
    assert swci.execute("x" * 16_384) == ["16384"]
    assert swci.execute("x" * 16_385) == []
    assert swci.getErrors() == "ERROR a line of 16385 bytes; expected at most 16384"
    assert swci.execute("ü€𐍈 &=%+#?") == ["10"]
    assert service.commands[-1] == "ü€𐍈 &=%+#?"


# --- answers --------------------------------------------------------------------------------------------------------


def test_ci64_a_command_that_was_not_carried_out_answers_nothing_and_says_why(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    service = world.service(lambda command: ["ERROR there is no task t"] if "t" in command else ["fine"])
    swci = world.swci(service)
    assert swci.getErrors() is None
    assert swci.getTaskInfo("t") == []
    assert swci.getErrors() == "ERROR there is no task t"
    assert [record.message for record in caplog.records] == ["there is no task t"]
    assert swci.pwd() == ["fine"]
    assert swci.getErrors() is None


def test_ci60_what_a_command_said_before_it_failed_is_no_answer(world: World) -> None:
    lines = ["WAITING FOR TASKRUNNER TO COMPLETE", "#", "ERROR the task failed: no disk"]
    swci = world.swci(world.service(lambda _: lines))
    assert swci.execute("WAIT FOR TASKRUNNER r") == []
    assert swci.getErrors() == "ERROR the task failed: no disk"


def test_ci60_of_several_errors_the_last_one_sums_up(world: World) -> None:
    swci = world.swci(world.service(lambda _: ["ERROR line 1: x", "ERROR line 2: y", "ERROR 2 faults in a.yaml"]))
    assert swci.createTaskFrom("a.yaml") == []
    assert swci.getErrors() == "ERROR 2 faults in a.yaml"


def test_ci60_a_body_whose_lines_look_like_failures_is_a_body(world: World) -> None:
    lines = ["ERROR is a word of this body", "  - indented", "", "ERROR again"]
    swci = world.swci(world.service(lambda _: lines))
    assert swci.getTaskBody("t") == lines
    assert swci.getErrors() is None
    assert swci.getTaskInfo("t") == []


def test_ci60_a_body_that_cannot_be_told_is_a_failure(world: World) -> None:
    swci = world.swci(world.service(lambda _: ["ERROR there is no task t"]))
    assert swci.getTaskBody("t") == []
    assert swci.getErrors() == "ERROR there is no task t"


def test_several_lines_in_one_text_are_lines(world: World) -> None:
    swci = world.swci(world.service(lambda _: ["a  \nb\r\n", "", "c"]))
    assert swci.pwd() == ["a", "b", "", "c"]


def test_ci64_errors_are_raised_where_that_was_asked_for(world: World) -> None:
    from swarmlearning.errors import Refused, Unreachable

    service = world.service(lambda _: ["ERROR not you"])
    swci = world.swci(service, raiseErrors=True)
    with pytest.raises(Refused, match=r"^not you$"):
        swci.listTasks()
    with pytest.raises(Refused, match=r"^not you$"):
        swci.isTaskDone("r")
    with pytest.raises(ConfigurationError, match="control character"):
        swci.getTaskInfo("x\ny")
    service.close()
    with pytest.raises(Unreachable, match="the connection was refused"):
        swci.listTasks()


def test_ci64_what_cannot_answer_nothing_raises_a_runtime_error(world: World, tmp_path: Path) -> None:
    """As in the product: a loop on `isTaskDone` must end."""
    swci = world.swci(world.service(lambda _: ["ERROR the SN does not answer"]))
    with pytest.raises(RuntimeError, match=r"^the SN does not answer$"):
        swci.isTaskDone("r")
    with pytest.raises(RuntimeError, match="cannot be read"):
        swci.uploadTaskDefintion(str(tmp_path / "none.yaml"))
    with pytest.raises(RuntimeError, match="expected ip or service"):
        swci.createContext("c")
    assert swci.getErrors() == "ERROR createContext: expected ip or service, the address of an SN"


def test_ci64_errors_are_those_of_the_calling_thread(world: World) -> None:
    service = world.service(lambda command: ["ERROR bad"] if "bad" in command else ["fine"])
    swci = world.swci(service)
    assert swci.getTaskInfo("bad") == []
    seen: list[str | None] = []

    def other() -> None:
        seen.append(swci.getErrors())
        assert swci.pwd() == ["fine"]
        seen.append(swci.getErrors())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join(20)
    assert seen == [None, None]
    assert swci.getErrors() == "ERROR bad"


def test_a_call_does_not_wait_for_that_of_another_thread(world: World) -> None:
    release, begun = threading.Event(), threading.Event()

    def answer(command: str) -> list[str]:
        if command == "SLEEP 9":
            begun.set()
            assert release.wait(20)
        return [command]

    swci = world.swci(world.service(answer))
    results: list[list[str]] = []
    thread = threading.Thread(target=lambda: results.append(swci.sleep(9)))
    thread.start()
    assert begun.wait(20)
    assert swci.pwd() == ["PWD"]
    assert not results
    release.set()
    thread.join(20)
    assert results == [["SLEEP 9"]]


def test_it_works_while_an_event_loop_runs_as_in_a_notebook(world: World) -> None:
    import asyncio

    swci = world.swci(world.service(echo))

    async def cell() -> list[str]:
        return swci.pwd()

    assert asyncio.run(cell()) == ["said PWD"]


# --- what is made of answers ----------------------------------------------------------------------------------------


def register(command: str) -> list[str]:
    if command.startswith("CREATE TASK FROM"):
        return ["Task definition is valid", "Task Registered : build_1", "Appending Task Body", "batch start : 1"]
    return ["Task Finalized : build_1"]


def test_a_registered_task_is_finalized_and_named(world: World) -> None:
    service = world.service(register)
    swci = world.swci(service)
    assert swci.registerTask("a.yaml") == ["Registered Task : build_1"]
    assert service.commands == ["CREATE TASK FROM a.yaml", "FINALIZE TASK build_1"]


def test_a_task_is_registered_without_being_finalized(world: World) -> None:
    service = world.service(register)
    assert world.swci(service).registerTask("a.yaml", finalize=False)[1] == "Task Registered : build_1"
    assert service.commands == ["CREATE TASK FROM a.yaml"]


def test_a_task_that_cannot_be_finalized_is_not_said_to_be_registered(world: World) -> None:
    service = world.service(lambda c: ["ERROR no lines"] if c.startswith("FINAL") else register(c))
    swci = world.swci(service)
    assert swci.registerTask("a.yaml") == []
    assert swci.getErrors() == "ERROR no lines"


@pytest.mark.parametrize(
    ("line", "done"),
    [
        ("TASK_STATE : COMPLETE", True),
        ("    TASK_STATE         : ERROR", True),
        ("TASK_STATE: IDLE", True),
        ("TASK STATE : COMPLETE", True),
        ("TASK_STATE : RUNNING", False),
        ("TASK_STATE : WAITING", False),
        ("TASK_STATE : COMPLETED?", False),
    ],
)
def test_the_line_with_the_state_says_whether_a_task_is_done(world: World, line: str, *, done: bool) -> None:
    swci = world.swci(world.service(lambda _: ["TASK_NAME : a: COMPLETE", line, "PEERS : 1"]))
    assert swci.isTaskDone("r") is done


def test_no_state_is_an_error_and_no_endless_loop(world: World) -> None:
    swci = world.swci(world.service(lambda _: ["who knows"]))
    with pytest.raises(RuntimeError, match="no line with TASK_STATE"):
        swci.isTaskDone("r")


def test_a_file_is_uploaded_as_it_is_with_its_name(world: World, tmp_path: Path) -> None:
    service = world.service(lambda _: ["Task definition uploaded"])
    swci = world.swci(service)
    data = bytes(range(256)) * 40 + b"\r\n--boundary--\r\n"
    path = tmp_path / "täsk 1.yaml"
    path.write_bytes(data)
    assert swci.uploadTaskDefinition(path) == "Task definition uploaded"
    assert swci.uploadTaskDefintion(str(path)) == "Task definition uploaded"
    assert service.uploads == [("täsk 1.yaml", data)] * 2


def test_an_upload_that_is_refused_or_too_large_raises(world: World, tmp_path: Path) -> None:
    service = world.service(lambda _: ["ERROR file name"])
    swci = world.swci(service)
    small, large = tmp_path / "a.yaml", tmp_path / "b.yaml"
    small.write_bytes(b"a")
    large.write_bytes(b"a" * ((4 << 20) + 1))
    with pytest.raises(RuntimeError, match=r"^file name$"):
        swci.uploadTaskDefinition(small)
    connections = service.connections
    with pytest.raises(RuntimeError, match="more than 4194304 bytes"):
        swci.uploadTaskDefinition(large)
    assert service.connections == connections


def test_a_file_name_cannot_add_to_the_form(world: World, tmp_path: Path) -> None:
    path = tmp_path / 'a"; name="other'
    path.write_bytes(b"x")
    service = world.service(echo)
    with pytest.raises(RuntimeError, match="without quotes"):
        world.swci(service).uploadTaskDefinition(path)
    assert service.connections == 0


NODES = [
    "NodeType,HostIP,Port,ContainerName,UUID,ParentUUID,i-am-alive",
    'SENTINEL,10.0.0.1,30304,"sn@a.example, old",u1,,2026-12-01T10:00:00Z',
    "SL, 10.0.0.2, 30305, sl-0@a.example, u2, u1, ",
]


def test_nodes_are_lines_of_csv_as_in_the_product_and_rows_by_column(world: World) -> None:
    swci = world.swci(world.service(lambda _: NODES))
    assert swci.listNodes()[0] == NODES[0]
    assert len(swci.listNodes()) == 3
    first, second = swci.nodes()
    assert first["ContainerName"] == "sn@a.example, old"
    assert (second["NodeType"], second["HostIP"], second["ParentUUID"], second["i-am-alive"]) == (
        "SL",
        "10.0.0.2",
        "u1",
        "",
    )


@pytest.mark.parametrize("lines", [[], ["a,a", "1,2"], ["a,b", "1"], ["a,b", '1,"2']])
def test_what_is_no_table_is_refused(world: World, lines: list[str]) -> None:
    swci = world.swci(world.service(lambda _: lines))
    assert swci.nodes() == []
    assert "ERROR LIST NODES answered no" in (swci.getErrors() or "")


# --- memory ---------------------------------------------------------------------------------------------------------


def count(service: FakeService, line: str) -> int:
    return service.commands.count(line)


def test_ci65_a_final_task_is_asked_for_once(world: World) -> None:
    service = world.service(echo)
    swci = world.swci(service)
    swci.finalizeTask("t_1")
    first = swci.getTaskBody("t_1")
    first.append("changed by the caller")
    again = swci.getTaskBody("t_1")
    assert again == ["said GET TASK BODY t_1"]
    again.append("changed by the caller")
    assert swci.getTaskBody("t_1") == ["said GET TASK BODY t_1"]
    assert count(service, "GET TASK BODY t_1") == 1


@pytest.mark.parametrize("decide", [Swci.approveTask, Swci.denyTask])
def test_ci65_who_approved_a_final_task_is_asked_for_each_time(
    world: World, decide: Callable[[Swci, str], list[str]]
) -> None:
    service = world.service(echo)
    swci = world.swci(service)
    decide(swci, "t_1")  # only a final task is approved or denied
    for _ in range(2):
        swci.getTaskBody("t_1")
        swci.getTaskInfo("t_1")
    assert (count(service, "GET TASK BODY t_1"), count(service, "GET TASK INFO t_1")) == (1, 2)


def test_ci65_what_may_change_is_asked_for_each_time(world: World) -> None:
    service = world.service(echo)
    swci = world.swci(service)
    for _ in range(2):
        swci.getTaskBody("t_1")  # not known to be final
        swci.listTasks()
        swci.getTaskRunnerStatus("r")
        swci.getContextInfo("c")
        swci.listNodes()
        swci.getTrainingContractInfo("k")
    assert len(service.commands) == 12


def test_ci65_a_task_that_is_said_to_be_final_is_remembered(world: World) -> None:
    said = {"GET TASK INFO t_1": ["TASK_NAME : t_1", "FINALIZED : not final"]}
    service = world.service(lambda command: said.get(command, ["FINALIZED : final since block 7"]))
    swci = world.swci(service)
    swci.getTaskInfo("t_1")
    swci.getTaskBody("t_1")  # whatever a body says
    swci.getTaskInfo("t_1")
    swci.getTaskBody("t_1")
    assert len(service.commands) == 4
    said.clear()
    swci.getTaskInfo("t_1")
    swci.getTaskInfo("t_1")
    swci.getTaskBody("t_1")
    swci.getTaskBody("t_1")
    assert service.commands[4:] == ["GET TASK INFO t_1", "GET TASK INFO t_1", "GET TASK BODY t_1"]


@pytest.mark.parametrize(
    "forget",
    [
        lambda s: s.clearCache(),
        lambda s: s.switchContext("c"),
        lambda s: s.createContext("c", ip="h"),
        lambda s: s.deleteContext("c"),
        lambda s: s.execute("SWITCH CONTEXT c"),
    ],
)
def test_ci65_another_network_may_have_another_task_of_the_name(world: World, forget: Callable[[Swci], object]) -> None:
    service = world.service(echo)
    swci = world.swci(service)
    swci.finalizeTask("t_1")
    swci.getTaskBody("t_1")
    forget(swci)
    swci.getTaskBody("t_1")
    swci.getTaskBody("t_1")
    assert count(service, "GET TASK BODY t_1") == 3


def test_ci65_nothing_is_remembered_where_that_was_asked_for(world: World) -> None:
    service = world.service(echo)
    swci = world.swci(service, enableCaching=False)
    swci.finalizeTask("t_1")
    swci.getTaskBody("t_1")
    swci.getTaskBody("t_1")
    assert count(service, "GET TASK BODY t_1") == 2


def test_ci65_a_failure_is_not_remembered(world: World) -> None:
    answers = iter([["fine"], ["ERROR busy"], ["body"], ["other"]])
    swci = world.swci(world.service(lambda _: next(answers)))
    swci.finalizeTask("t_1")
    assert swci.getTaskBody("t_1") == []
    assert swci.getTaskBody("t_1") == ["body"]
    assert swci.getTaskBody("t_1") == ["body"]


# --- the object -----------------------------------------------------------------------------------------------------


def test_levels_are_numbers_or_names(world: World) -> None:
    swci = world.swci(world.service(echo), logLv="debug")
    logger = logging.getLogger("swarmlearning.swci.client")
    assert logger.level == logging.DEBUG
    swci.setLogLevel(logging.ERROR)
    assert logger.level == logging.ERROR
    swci.setLogLevel("INFO")
    assert logger.level == logging.INFO
    with pytest.raises(ConfigurationError, match="'LOUD': expected one of CRITICAL"):
        swci.setLogLevel("LOUD")


def test_the_users_logger_is_used_and_left_as_it_is(world: World) -> None:
    mine = logging.getLogger("mine")
    mine.setLevel(logging.CRITICAL)
    swci = world.swci(world.service(lambda _: ["ERROR x"]), logger=mine, logLv=logging.DEBUG)
    assert swci.pwd() == []
    assert (mine.level, mine.handlers) == (logging.CRITICAL, [])


def test_it_says_what_it_is(world: World) -> None:
    service = world.service(echo)
    assert repr(world.swci(service)) == f"Swci(127.0.0.1:{service.port}, as anna@a.example)"
