"""Waiting for a taskrunner: who is waited for, how it ends, and an SN that comes back. Rule CI-59."""

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from msgspec.structs import replace

from swarmlearning.contracts.task_records import Agent, Assignment, RunnerState, Taskrunner, TaskType, WorkState
from swarmlearning.errors import NotFound, Refused, Unreachable, WaitExpired
from swarmlearning.reports import runner_wait
from swarmlearning.reports.runner_wait import RunnerWait, begin_wait
from swarmlearning.sn.api import Changes
from swarmlearning.sn.client import SnClient
from swarmlearning.transport.api import Address
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import Endpoint, NodeId, NodeName, RunnerName, TaskName, TrustDomain

SN = NodeId("spiffe://org0.example/heart/sn/sn0")
HERE = Address(node=SN, endpoint=Endpoint(host="10.0.0.1", port=30304))
NAME = RunnerName("heart_runner")
FIRST, SECOND = (NodeId(f"spiffe://org{index}.example/heart/swop/swop1") for index in (0, 1))
ASKING = (
    "awaiting approval: swop1@org1.example "
    "(an operator of org1.example decides, by APPROVE TASK build or DENY TASK build)"
)
LOST = "the SN at 10.0.0.1:30304 does not answer: connection lost; trying again"


def assignment(**changes: object) -> Assignment:
    base = Assignment(
        number=1,
        task=TaskName("build"),
        kind=TaskType.MAKE_USER_CONTAINER,
        hash=bytes(32),
        mode="peers",
        wanted=2,
        assigner=NodeId("spiffe://org0.example/heart/operator/op"),
        assigned_ms=1,
    )
    return replace(base, **changes)


def agent(node: NodeId, state: WorkState, description: str = "") -> Agent:
    return Agent(node=node, state=state, description=description, planned=1, since_ms=2, reported_ms=3)


def runner(state: RunnerState, *agents: Agent, given: Assignment | None = None, **changes: object) -> Taskrunner:
    return Taskrunner(
        name=NAME,
        creator=TrustDomain("org0.example"),
        created_height=1,
        state=state,
        listeners=(FIRST, SECOND),
        assignment=given or (None if state is RunnerState.IDLE else assignment()),
        agents=agents,
        **changes,  # type: ignore[arg-type]  # by name
    )


WAITING = runner(RunnerState.WAITING)
ONE = runner(RunnerState.RUNNING, agent(FIRST, WorkState.RUNNING))
ASKED = runner(RunnerState.RUNNING, agent(FIRST, WorkState.COMPLETE), agent(SECOND, WorkState.AWAITING_APPROVAL))
DONE = runner(RunnerState.COMPLETE, agent(FIRST, WorkState.COMPLETE), agent(SECOND, WorkState.COMPLETE))
FAILED = runner(RunnerState.ERROR, agent(FIRST, WorkState.ERROR, "no disk"), reason="at most 1 of 2 agents can\x1b[2J")
IDLE = runner(RunnerState.IDLE)


class ScriptedSn(SnClient):
    """Plays parts of a ledger; each but the last ends as when the SN falls silent. An empty part: it is not there."""

    def __init__(self, *parts: Sequence[Taskrunner], begin: Sequence[Taskrunner | None] = (WAITING,)) -> None:
        super().__init__(MemoryNetwork().client(NodeName.parse(SN)), HERE)
        self.parts = list(parts)
        self.now: list[Taskrunner | None] = list(begin)
        self.problems: list[str] = []
        """What keeps it from following the ledger, at the records of a part."""
        self.streams = 0
        self.others = 0

    async def changes(self) -> AsyncIterator[Changes]:
        self.streams += 1
        part = self.parts.pop(0) if self.parts else ()
        for index, record in enumerate(part):
            self.now = [record]
            problem = self.problems[index] if index < len(self.problems) else ""
            if index == 0:
                yield Changes(height=1, everything=True, problem=problem)
            else:
                yield Changes(height=1, runners=(NAME,), problem=problem)
            self.others += 1
            yield Changes(height=1, runners=(RunnerName("another"),), members=True, problem=problem)
        if not self.parts and part:
            await asyncio.Event().wait()
        raise Unreachable("connection lost")

    async def runner(self, name: RunnerName) -> Taskrunner | None:
        assert name == NAME
        record = self.now[0] if len(self.now) == 1 else self.now.pop(0)
        if record is None:
            raise Unreachable("connection lost")
        return record

    async def runners(self) -> tuple[RunnerName, ...]:
        return (NAME,)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_wait, "_AGAIN_S", 0)


def wait(sn: ScriptedSn, limit_s: float = 20) -> tuple[Taskrunner | Exception, list[str]]:
    told: list[str] = []

    async def main() -> Taskrunner:
        return await (await begin_wait(sn, NAME, told.append)).until_done(limit_s)

    try:
        return asyncio.run(main()), told
    except (Refused, Unreachable, NotFound) as error:
        return error, told


def test_ci59_an_sn_that_does_not_follow_the_ledger_is_said_once_and_that_it_does_again() -> None:
    sn = ScriptedSn([WAITING, WAITING, WAITING, DONE])
    sn.problems = ["no block for 7 s\x1b[2J", "no block for 8 s", ""]
    ended, told = wait(sn)
    assert ended == DONE
    assert told == [
        "# build: 0 of 2 agents complete; has not taken it: swop1@org0.example, swop1@org1.example",
        "# the SN at 10.0.0.1:30304 does not follow the ledger: no block for 7 s?[2J; waiting",
        "# the SN at 10.0.0.1:30304 follows the ledger again",
    ]


def test_ci59_who_waited_too_long_is_told_that_the_sn_did_not_follow_the_ledger() -> None:
    sn = ScriptedSn([WAITING])
    sn.problems = ["the sentinel is gone"]
    ended, _ = wait(sn, limit_s=0.1)
    assert isinstance(ended, WaitExpired)
    assert str(ended).endswith("; the SN at 10.0.0.1:30304 does not follow the ledger: the sentinel is gone")


def test_ci59_who_is_waited_for_is_said_whenever_it_changes() -> None:
    ended, told = wait(ScriptedSn([WAITING, WAITING, ONE, ASKED, DONE]))
    assert ended == DONE
    assert told == [
        "# build: 0 of 2 agents complete; has not taken it: swop1@org0.example, swop1@org1.example",
        "# build: 0 of 2 agents complete; running: swop1@org0.example; has not taken it: swop1@org1.example",
        f"# build: 1 of 2 agents complete; {ASKING}",
    ]


def test_ci59_what_happened_between_asking_and_following_is_not_missed() -> None:
    ended, told = wait(ScriptedSn([DONE]))
    assert ended == DONE
    assert len(told) == 1


def test_ci59_a_notice_that_names_nothing_since_everything_changed_is_not_passed_over() -> None:
    class Hasty(ScriptedSn):
        async def changes(self) -> AsyncIterator[Changes]:
            yield Changes(height=1, everything=True)
            self.now = [DONE]
            yield Changes(height=2, everything=True)
            await asyncio.Event().wait()

    assert wait(Hasty())[0] == DONE


def test_ci59_what_others_do_is_not_asked_about() -> None:
    asked: list[RunnerName] = []

    class Counting(ScriptedSn):
        async def runner(self, name: RunnerName) -> Taskrunner | None:
            asked.append(name)
            return await super().runner(name)

    sn = Counting([ONE, DONE])
    wait(sn)
    assert sn.others == 1
    assert len(asked) == 3


def test_ci59_nothing_is_waited_for_where_nothing_goes_on() -> None:
    for record in (IDLE, DONE):
        sn = ScriptedSn(begin=[record])
        assert wait(sn) == (record, [])
        assert sn.streams == 0


@pytest.mark.parametrize("at_once", [True, False])
def test_ci59_a_task_in_error_fails_with_its_reason(at_once: bool) -> None:
    sn = ScriptedSn(begin=[FAILED]) if at_once else ScriptedSn([ONE, FAILED])
    ended, _ = wait(sn)
    assert isinstance(ended, Refused)
    assert ended.code == "task_failed"
    assert str(ended) == "build on heart_runner ended with ERROR: at most 1 of 2 agents can?[2J"


def test_ci59_a_reset_meanwhile_is_no_success() -> None:
    ended, _ = wait(ScriptedSn([ONE, IDLE]))
    assert isinstance(ended, Refused)
    assert (ended.code, str(ended)) == ("reset", "heart_runner was reset before build was done")
    other = runner(RunnerState.COMPLETE, given=assignment(number=2, task=TaskName("run")))
    ended, _ = wait(ScriptedSn([ONE, other]))
    assert isinstance(ended, Refused)
    assert str(ended) == "heart_runner was reset and given run before build was done"


def test_ci59_an_sn_that_comes_back_is_followed_on() -> None:
    sn = ScriptedSn([WAITING], [], [], [ONE], [DONE])
    ended, told = wait(sn)
    assert ended == DONE
    assert sn.streams == 5
    assert told == [
        "# build: 0 of 2 agents complete; has not taken it: swop1@org0.example, swop1@org1.example",
        f"# {LOST}",
        "# the SN at 10.0.0.1:30304 answers again",
        "# build: 0 of 2 agents complete; running: swop1@org0.example; has not taken it: swop1@org1.example",
        f"# {LOST}",
        "# the SN at 10.0.0.1:30304 answers again",
    ]


def test_ci59_a_wait_begins_also_at_an_sn_that_is_just_away(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, told = wait(ScriptedSn([DONE], begin=[None, None, WAITING]))
    assert ended == DONE
    assert told[0] == f"# {LOST}"
    assert len(told) == 2
    monkeypatch.setattr(runner_wait, "BEGIN_S", 0)
    ended, told = wait(ScriptedSn(begin=[None]))
    assert isinstance(ended, Unreachable)
    assert told == []


def test_ci59_a_wait_ends_at_its_limit_and_says_who_was_waited_for() -> None:
    ended, _ = wait(ScriptedSn([ASKED]), limit_s=0.05)
    assert isinstance(ended, WaitExpired)
    assert str(ended) == f"heart_runner is not done after 0 s: build: 1 of 2 agents complete; {ASKING}"
    ended, _ = wait(ScriptedSn([ASKED], []), limit_s=0.05)
    assert str(ended).endswith("; its SN does not answer: connection lost")


def test_ci59_a_wait_can_be_interrupted() -> None:
    async def main() -> None:
        sn = ScriptedSn([ONE])
        following = asyncio.Event()
        work = asyncio.create_task(RunnerWait(sn, WAITING, lambda _: following.set()).until_done(1000))
        await following.wait()
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(main())


def test_a_taskrunner_that_is_not_there_is_told_with_the_nearest() -> None:
    class Nobody(ScriptedSn):
        async def runner(self, name: RunnerName) -> Taskrunner | None:
            return None

    ended, _ = wait(Nobody())
    assert isinstance(ended, NotFound)
    assert "there is no taskrunner heart_runner; did you mean heart_runner?" in str(ended)
