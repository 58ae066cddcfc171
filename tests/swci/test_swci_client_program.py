"""A program written for the product, as it stands, against a service that plays a swarm with two agents."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_service import World, made_world

import swarmlearning.swci as sw

BUILD = """Name: user_env_build_task
TaskType: MAKE_USER_CONTAINER
Author: Anna
Prereq: ROOTTASK
Outcome: user-env-1
Body:
    BuildType: INLINE
    BuildSteps:
    - FROM python:3.12
"""


class PlayedSwarm:
    """Tasks, one taskrunner and contexts, as far as programs ask for them; a task takes two questions."""

    def __init__(self) -> None:
        self.contexts: list[str] = []
        self.tasks: dict[str, bool] = {"ROOTTASK": True}
        self.files: dict[str, str] = {}
        self.state, self.task, self.asked = "IDLE", "Empty", 0
        self.here = "/"

    def __call__(self, command: str) -> list[str]:  # noqa: C901  # a branch a command
        words = [word.strip('"') for word in command.split()]
        match [words[0].lower(), *words[1:]]:
            case ["create", "CONTEXT", name, "WITH", "IP", _, _]:
                self.contexts.append(name)
                return ["API Server is UP!", f"CONTEXT CREATED : {name}"]
            case ["switch", "CONTEXT", name] if name in self.contexts:
                return [f"DEFAULT CONTEXT SET TO : {name}"]
            case ["cd", name]:
                self.here = name
                return [f"Current Directory : {name}"]
            case ["sleep", _]:
                return []
            case ["create", "TASK", "FROM", file] if file in self.files:
                (name,) = re.findall(r"^Name: (\S+)$", self.files[file], re.MULTILINE)
                self.tasks[name] = False
                return ["Task definition is valid", f"Task Registered : {name}", "Appending Task Body"]
            case ["finalize", "TASK", name] if name in self.tasks:
                self.tasks[name] = True
                return [f"Task Finalized : {name}"]
            case ["list", "TASKS"]:
                return sorted(self.tasks)
            case ["get", "TASK", "BODY", name] if name in self.tasks:
                return self.files["build.yaml"].split("Body:\n")[1].splitlines()
            case ["assign", "TASK", name, "TO", _, "WITH", _, "PEERS"] if self.tasks.get(name):
                if self.state != "IDLE":
                    return [f"ERROR taskrunner has {self.task}; RESET TASKRUNNER first"]
                self.state, self.task, self.asked = "RUNNING", name, 0
                return [f"Task Assigned : {name}"]
            case ["get", "TASKRUNNER", "STATUS", _]:
                self.asked += 1
                if self.state == "RUNNING" and self.asked > 2:
                    self.state = "COMPLETE"
                return [f"TASK_NAME : {self.task}", f"TASK_STATE : {self.state}"]
            case ["get", "TASKRUNNER", "PEER", "STATUS", _, "0" | "1"]:
                return ["STATUS : COMPLETE"]
            case ["reset", "TASKRUNNER", name]:
                self.state, self.task = "IDLE", "Empty"
                return [f"Taskrunner Reset : {name}"]
            case ["reset", "CONTRACT", name]:
                return [f"Contract Reset : {name}"]
            case ["get", "CONTRACT", "STATUS", _]:
                return ["STATE : COMPLETED"]
            case ["upload"]:
                return ["uploaded"]
            case _:
                return [f"ERROR unknown command {command[:40]!r}"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with made_world(tmp_path) as made:
        yield made


@pytest.fixture
def swarm() -> PlayedSwarm:
    return PlayedSwarm()


@pytest.fixture
def port(world: World, swarm: PlayedSwarm, monkeypatch: pytest.MonkeyPatch) -> int:
    """Of the service; the programs find their certificates in the environment."""
    monkeypatch.setenv("SWARM_ID_CERT", world.operator.cert)
    monkeypatch.setenv("SWARM_ID_KEY", world.operator.key)
    monkeypatch.setenv("SWARM_ID_CACERT", world.operator.ca)
    return world.service(swarm).port


def test_a_program_that_polls_runs_unchanged(
    port: int, swarm: PlayedSwarm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the keywords that published programs use."""
    taskrunnername = "defaulttaskbb.taskdb.sml.hpe"
    s = sw.Swci("127.0.0.1", port=port)
    s.createContext("testContext", ip="127.0.0.1")
    s.switchContext("testContext")
    s.cd("/platform/swarm/usr")
    (tmp_path / "build.yaml").write_text(BUILD)
    s.uploadTaskDefintion(str(tmp_path / "build.yaml"))
    swarm.files["build.yaml"] = BUILD
    print(s.createTaskFrom("build.yaml"))
    print(s.finalizeTask("user_env_build_task"))
    print(s.resetTaskRunner(trName=taskrunnername))
    print(s.assignTask("user_env_build_task", peers=2, trName=taskrunnername))
    polls = 0
    while not s.isTaskDone(trName=taskrunnername):
        polls += 1
        s.sleep(0)
    print(s.getTrainingContractStatus(ctName="defaultbb.cqdb.sml.hpe"))
    s.resetTaskRunner(trName=taskrunnername)
    s.resetTrainingContract(ctName="defaultbb.cqdb.sml.hpe")
    assert s.getErrors() is None
    assert polls == 2
    assert swarm.state == "IDLE"
    said = capsys.readouterr().out.splitlines()
    assert "'Task Registered : user_env_build_task'" in said[0]
    assert "ERROR" not in "".join(said)


def test_a_program_that_executes_runs_unchanged(port: int, swarm: PlayedSwarm, tmp_path: Path) -> None:
    """As a notebook does it: register without finalizing, look, finalize, execute with the default taskrunner."""
    s = sw.Swci("127.0.0.1", port=port)
    assert s.createContext("test-fd", "127.0.0.1")
    assert s.switchContext("test-fd")
    (tmp_path / "build.yaml").write_text(BUILD)
    s.uploadTaskDefintion(str(tmp_path / "build.yaml"))
    swarm.files["build.yaml"] = BUILD
    assert s.registerTask("build.yaml", finalize=False)
    assert s.getTaskBody("user_env_build_task") == [
        "    BuildType: INLINE",
        "    BuildSteps:",
        "    - FROM python:3.12",
    ]
    assert s.assignTask("user_env_build_task", "defaulttaskbb.taskdb.sml.hpe", 1) == []
    assert s.finalizeTask("user_env_build_task")
    assert s.listTasks() == ["ROOTTASK", "user_env_build_task"]
    s.executeTask("user_env_build_task", pollWaitInSec=0.01)
    assert s.getErrors() is None
    assert (swarm.state, swarm.task) == ("IDLE", "Empty")


def test_a_mistake_in_a_program_is_told_and_nothing_else_happens(port: int) -> None:
    s = sw.Swci("127.0.0.1", port=port)
    assert s.switchContext("nobody-made-this") == []
    assert "unknown command" in (s.getErrors() or "")
    assert s.registerTask("not-uploaded.yaml") == []
    assert s.getErrors()
