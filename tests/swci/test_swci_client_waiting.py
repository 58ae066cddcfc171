"""Waiting for a taskrunner: what is told meanwhile, and every way in which it ends."""

import itertools
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from fake_service import FakeService, World, made_world

from swarmlearning.errors import ConfigurationError, Refused, SwarmError, Unreachable, WaitExpired
from swarmlearning.swci.runner_waiting import PATIENCE_S, RunnerStatus, read_status, wait_for_runner


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with made_world(tmp_path) as made:
        yield made


def status(state: str, task: str = "t_1") -> list[str]:
    return [f"TASK_NAME : {task}", "PEER_TYPE : SL", f"TASK_STATE : {state}", "ACTIVE_PEERS : 1"]


Said = Sequence[str] | Exception


class Runner:
    """Taskrunner and time, as `wait_for_runner` sees them."""

    def __init__(self, *said: Said, at_end: Said | None = None) -> None:
        self._said = itertools.chain(said, itertools.repeat(said[-1] if at_end is None else at_end))
        self.now_s = 0.0
        self.asked_s: list[float] = []
        self.noticed: list[str] = []
        self.complaints: list[str] = []

    def ask(self) -> Sequence[str]:
        self.asked_s.append(self.now_s)
        said = next(self._said)
        if isinstance(said, Exception):
            raise said
        return said

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds

    def wait(self, limit_s: float = 1000, poll_s: float = 10, *, known: bool = False) -> RunnerStatus:
        return wait_for_runner(
            self.ask,
            "task t_1 on r",
            limit_s=limit_s,
            poll_s=poll_s,
            known=known,
            notice=lambda found: self.noticed.append(found.state),
            complain=self.complaints.append,
            clock=lambda: self.now_s,
            sleep=self.sleep,
        )


@pytest.mark.parametrize("end", ["COMPLETE", "ERROR", "IDLE"])
def test_ci67_a_wait_ends_with_each_state_in_which_nothing_is_done(end: str) -> None:
    runner = Runner(status("WAITING"), status("RUNNING"), status(end))
    assert runner.wait().state == end
    assert runner.asked_s == [0, 10, 20]
    assert runner.noticed == ["WAITING", "RUNNING"]


def test_ci67_a_wait_has_an_end_and_says_what_it_waited_for() -> None:
    runner = Runner(status("RUNNING"))
    with pytest.raises(WaitExpired) as caught:
        runner.wait(limit_s=25)
    assert runner.asked_s == [0, 10, 20, 25]
    assert str(caught.value) == (
        "waited 25 s for task t_1 on r; it goes on: TASK_NAME : t_1; PEER_TYPE : SL; TASK_STATE : RUNNING; "
        "ACTIVE_PEERS : 1"
    )


def test_ci67_a_service_that_is_away_for_a_while_is_asked_again() -> None:
    away = Unreachable("nobody there")
    runner = Runner(
        status("RUNNING"), *[away] * 20, Refused("the SN does not answer", code="command"), status("COMPLETE")
    )
    assert runner.wait().state == "COMPLETE"
    assert len(runner.complaints) == 21
    assert runner.complaints[0] == "waiting for task t_1 on r: nobody there; trying again"


def test_ci67_a_service_that_is_away_for_long_ends_the_wait() -> None:
    runner = Runner(status("RUNNING"), Unreachable("nobody there"))
    with pytest.raises(Unreachable, match="nobody there"):
        runner.wait(limit_s=10_000)
    assert runner.now_s == PATIENCE_S


def test_ci67_with_long_pauses_it_is_asked_twice_all_the_same() -> None:
    runner = Runner(status("RUNNING"), Unreachable("away"), status("COMPLETE"))
    assert runner.wait(limit_s=10_000, poll_s=1000).state == "COMPLETE"


@pytest.mark.parametrize("known", [True, False])
def test_a_taskrunner_that_there_is_not_is_not_waited_for(*, known: bool) -> None:
    runner = Runner(Refused("there is no taskrunner r", code="command"), at_end=status("COMPLETE"))
    if known:  # it was just given a task, so that something else is wrong
        assert runner.wait(known=True).state == "COMPLETE"
    else:
        with pytest.raises(Refused, match="there is no taskrunner r"):
            runner.wait()


def test_a_certificate_that_was_revoked_ends_the_wait() -> None:
    runner = Runner(status("RUNNING"), Refused("revoked", code="certificate"))
    with pytest.raises(Refused, match="revoked"):
        runner.wait()
    assert runner.now_s == 10


def test_the_state_is_not_looked_for_in_other_lines() -> None:
    found = read_status(["TASK_NAME : TASK_STATE : COMPLETE", "TASK_STATE : RUNNING"])
    assert (found.state, found.task, found.is_done) == ("RUNNING", "TASK_STATE : COMPLETE", False)


# --- against a service ----------------------------------------------------------------------------------------------


class Swop:
    """What a service says of a taskrunner whose task goes through states."""

    def __init__(self, *states: str, task: str = "t_1", agents: int = 2) -> None:
        self._states = itertools.chain(states, itertools.repeat(states[-1]))
        self.task, self.agents = task, agents
        self.on_status: Callable[[], None] = lambda: None

    def __call__(self, command: str) -> list[str]:
        match command.split():
            case ["GET", "TASKRUNNER", "STATUS", _]:
                self.on_status()
                return status(next(self._states), self.task)
            case ["GET", "TASKRUNNER", "PEER", "STATUS", _, index]:
                if int(index) >= self.agents:
                    return [f"ERROR there is no peer {index}"]
                return [f"SWOP UID : swop-{index}", "STATUS : ERROR", "DESCRIPTION : no disk"]
            case ["LIST", "TASKRUNNER", "PEERS", _]:
                return [f"swop-{index}" for index in range(self.agents)]
            case _:
                return [f"said {command}"]


def verbs(service: FakeService) -> list[str]:
    return [command.split(" t_1")[0].split(" r")[0] for command in service.commands]


def test_ci67_a_task_is_assigned_waited_for_told_and_its_taskrunner_reset(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    service = world.service(Swop("WAITING", "RUNNING", "COMPLETE"))
    swci = world.swci(service, logLv="INFO")
    report = swci.executeTask("t_1", "r.1", 2, 0.01)
    assert swci.getErrors() is None
    assert report[:4] == status("COMPLETE")
    assert report.count("=" * 40) == 3
    assert "SWOP UID : swop-1" in report
    assert service.commands[0] == "ASSIGN TASK t_1 TO r.1 WITH 2 PEERS"
    assert verbs(service)[1:] == ["GET TASKRUNNER STATUS"] * 3 + ["GET TASKRUNNER PEER STATUS"] * 3 + [
        "RESET TASKRUNNER"
    ]
    told = [record.message for record in caplog.records if record.levelno == logging.INFO]
    assert told[0] == "task t_1 is assigned to r.1"
    assert told[1].startswith("waiting for task t_1 on r.1: TASK_NAME : t_1; PEER_TYPE : SL; TASK_STATE : WAITING")


def test_a_taskrunner_is_left_as_it_is_where_that_was_asked_for(world: World) -> None:
    service = world.service(Swop("COMPLETE"))
    assert world.swci(service).executeTask("t_1", "r.1", peers=1, pollWaitInSec=0.01, resetTROnSuccess=False)
    assert "RESET TASKRUNNER" not in verbs(service)


def test_a_taskrunner_that_cannot_be_reset_does_not_make_a_failure_of_a_task_that_completed(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    swop = Swop("COMPLETE")
    service = world.service(lambda command: ["ERROR not yours"] if command.startswith("RESET") else swop(command))
    swci = world.swci(service)
    assert swci.executeTask("t_1", "r.1", 1, 0.01)[:4] == status("COMPLETE")
    assert swci.getErrors() is None
    assert "taskrunner r.1 could not be reset: not yours" in caplog.text


def test_ci67_a_task_that_failed_is_told_with_its_reason_and_not_reset(world: World) -> None:
    service = world.service(Swop("RUNNING", "ERROR"))
    swci = world.swci(service)
    assert swci.executeTask("t_1", "r.1", 2, 0.01) == []
    assert swci.getErrors() == (
        "ERROR task t_1 on r.1 ended with ERROR: TASK_NAME : t_1; PEER_TYPE : SL; TASK_STATE : ERROR; ACTIVE_PEERS : 1"
    )
    assert "RESET TASKRUNNER" not in verbs(service)


def test_ci67_a_taskrunner_that_was_reset_meanwhile_did_not_complete_the_task(world: World) -> None:
    swci = world.swci(world.service(Swop("RUNNING", "IDLE", task="Empty")), raiseErrors=True)
    with pytest.raises(Refused, match=r"taskrunner r\.1 was reset meanwhile"):
        swci.executeTask("t_1", "r.1", 2, 0.01)


def test_ci67_the_end_of_another_task_is_not_that_of_this_one(world: World) -> None:
    service = world.service(Swop("COMPLETE", task="t_2"))
    with pytest.raises(Refused, match="TASK_NAME : t_2"):
        world.swci(service, raiseErrors=True).executeTask("t_1", "r.1", 2, 0.01)
    assert "RESET TASKRUNNER" not in verbs(service)


def test_a_task_that_cannot_be_assigned_is_not_waited_for(world: World) -> None:
    service = world.service(lambda _: ["ERROR taskrunner r.1 is busy with t_0"])
    swci = world.swci(service)
    assert swci.executeTask("t_1", "r.1", 2) == []
    assert swci.getErrors() == "ERROR taskrunner r.1 is busy with t_0"
    assert len(service.commands) == 1


def test_ci67_an_interrupt_ends_the_wait_at_once_and_not_the_task(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    swop = Swop("RUNNING")
    main = threading.main_thread().ident
    assert main is not None
    swop.on_status = lambda: signal.pthread_kill(main, signal.SIGINT)
    service = world.service(swop)
    swci = world.swci(service)
    with pytest.raises(KeyboardInterrupt):
        swci.executeTask("t_1", "r.1", 1, 600)
    assert "no longer waiting for task t_1 on r.1; it goes on" in caplog.text
    assert "RESET TASKRUNNER" not in verbs(service)
    swop.on_status = lambda: None
    assert swci.isTaskDone("r.1") is False  # the object goes on to work


def test_ci67_a_wait_that_expired_says_what_it_heard_last(world: World) -> None:
    swci = world.swci(world.service(Swop("RUNNING")))
    assert swci.waitForTaskRunner("r.1", timeoutInSec=0, pollWaitInSec=1) == []
    assert (swci.getErrors() or "").endswith(
        "it goes on: TASK_NAME : t_1; PEER_TYPE : SL; TASK_STATE : RUNNING; ACTIVE_PEERS : 1"
    )


def test_ci67_where_a_service_says_whom_it_waits_for_that_is_told(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    answers = itertools.chain(
        [["said"], [*status("RUNNING"), "PROGRESS : 1 of 2 peers complete; waiting for swop@b.example"]],
        itertools.repeat([*status("ERROR"), "REASON : swop@b.example: no disk", "PROGRESS : 1 of 2 peers complete"]),
    )
    swci = world.swci(
        world.service(lambda command: ["ERROR no more"] if " PEER " in command else next(answers)), logLv="INFO"
    )
    assert swci.executeTask("t_1", "r.1", 2, 0.01) == []
    told = [record.message for record in caplog.records]
    assert told[1] == "waiting for task t_1 on r.1: RUNNING: 1 of 2 peers complete; waiting for swop@b.example"
    assert swci.getErrors() == (
        "ERROR task t_1 on r.1 ended with ERROR: swop@b.example: no disk; ERROR: 1 of 2 peers complete"
    )


def test_ci67_a_wait_answers_the_last_status_and_tells_each_before(world: World) -> None:
    seen: list[list[str]] = []
    swci = world.swci(world.service(Swop("WAITING", "RUNNING", "ERROR")))
    assert swci.waitForTaskRunner("r.1", 60, seen.append, pollWaitInSec=0.01) == status("ERROR")
    assert seen == [status("WAITING"), status("RUNNING")]


def test_what_a_callback_raises_ends_the_wait(world: World) -> None:
    class Enough(Exception):
        pass

    def stop(_lines: list[str]) -> None:
        raise Enough

    with pytest.raises(Enough):
        world.swci(world.service(Swop("RUNNING"))).waitForTaskRunner("r.1", callback=stop)


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "5", None, True])
def test_times_that_are_none_are_refused_before_anything_is_sent(world: World, value: object) -> None:
    service = world.service(Swop("COMPLETE"))
    swci = world.swci(service, raiseErrors=True)
    calls: list[Callable[[], object]] = [
        lambda: swci.executeTask("t_1", "r.1", 1, value),  # type: ignore[arg-type]  # what the test is about
        lambda: swci.executeTask("t_1", "r.1", timeoutInSec=value),  # type: ignore[arg-type]
        lambda: swci.waitForTaskRunner("r.1", value),  # type: ignore[arg-type]
        lambda: swci.sleep(value),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(ConfigurationError, match="expected a number of seconds"):
            call()
    with pytest.raises(SwarmError):
        world.swci(service, timeoutInSec=value)
    assert service.connections == 0
