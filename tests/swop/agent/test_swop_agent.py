"""An agent against a real SN, on a manager that starts nothing: docs/spec/swop.md."""

import asyncio
import contextlib
import http.server
import logging
import threading
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from acting_agents import QUICK, acting, entries_of, preparing
from agent_world import ALLOW_ALL, HostFiles, Operator, operating
from fake_manager import FakeManager
from msgspec.structs import replace
from swci_world import B, Swarm

from swarmlearning.contracts.messages import TakeTask
from swarmlearning.contracts.task_records import Agent, RunnerState, Taskrunner, TaskType, WorkState
from swarmlearning.errors import ConfigurationError, TaskFailed
from swarmlearning.sn.client import SnClient
from swarmlearning.swop.agent import LOST
from swarmlearning.swop.agent import Agent as Acting
from swarmlearning.swop.host import Paces
from swarmlearning.swop.journal import Entry
from swarmlearning.swop.managers.boundary import Part, PartState, PartStatus
from swarmlearning.swop.permission import read_task
from swarmlearning.types import Endpoint, Role, RunnerName, TaskName

pytestmark = pytest.mark.timeout(60)

RUN = ("Command: train.py", "Entrypoint: python3", "WorkingDir: /work", "Envvars: [EPOCHS: 3]", "PrivateContent: /data")
ALONE = (*RUN[:3], "Envvars: [SWARM_LOOPBACK: 'TRUE']")
BUILD = ("BuildType: INLINE", "BuildSteps:", "  - FROM python:3.11", "  - RUN pip install numpy")


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 50))


@pytest.fixture
def files(swarm: Swarm, tmp_path: Path) -> HostFiles:
    """A host with a policy that allows everything; its agent listens to a runner of its own name."""
    made = HostFiles(swarm, tmp_path, swarm.fresh("host"))
    made.write_policy()
    made.write_profile([made.name])
    return made


async def prepare(operator: Operator, files: HostFiles, lines: tuple[str, ...] = RUN) -> tuple[RunnerName, TaskName]:
    """A runner, and a task, both named like the host."""
    return await operator.make_runner(files.name), await operator.write_task(files.name, lines)


def agent_of(runner: Taskrunner) -> Agent:
    (agent,) = runner.agents
    return agent


def states(runner: Taskrunner) -> list[WorkState]:
    return [unit.state for agent in runner.agents for unit in agent.units]


# --- tasks that leave something -------------------------------------------------------------


def test_an_image_is_built_and_the_ledger_has_what_ran_and_who_agreed(files: HostFiles) -> None:
    """SW-9, SW-11."""
    manager = FakeManager()

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager) as host:
            runner = await operator.make_runner(files.name)
            task = await operator.write_task(
                files.name, BUILD, kind=TaskType.MAKE_USER_CONTAINER, outcome="heart-image"
            )
            await operator.assign(runner, task)
            agent = await operator.until_over(runner)
            assert (agent.state, agent.planned) == (WorkState.COMPLETE, 1)
            assert agent.approved_by.startswith("policy tests ")
            assert agent.evidence is not None
            assert agent.evidence.manager == "a fake without programs"
            assert agent.evidence.image == manager.images["heart-image"]
            assert agent.evidence.log_hash
            (entry,) = entries_of(host)
            assert (entry.state, entry.task) == (WorkState.COMPLETE, task)

    run(story())


def test_a_build_that_fails_tells_its_last_lines(files: HostFiles) -> None:
    """SW-11: nothing of it has seen private data."""
    manager = FakeManager()
    manager.build_fails = "step 2 failed"

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            runner = await operator.make_runner(files.name)
            task = await operator.write_task(files.name, BUILD, kind=TaskType.MAKE_USER_CONTAINER)
            await operator.assign(runner, task)
            agent = await operator.until_over(runner)
            assert agent.state is WorkState.ERROR
            assert agent.description == "step 2 failed: step 1 | no such package"
            assert agent.evidence is not None
            assert agent.evidence.exit_status == 7

    run(story())


# --- who decides -------------------------------------------------------------


def test_without_a_policy_it_waits_until_its_institution_approves(files: HostFiles) -> None:
    """SW-4: and says what is to be done; nothing is started before."""
    manager = FakeManager()
    files.write_profile([files.name], policy=False)

    async def story() -> None:
        async with (
            operating(files.swarm) as operator,
            operating(files.swarm, B) as other,
            acting(files, manager) as host,
        ):
            runner, task = await prepare(operator, files)
            await operator.assign(runner, task)
            found = await operator.until(
                runner, lambda found: any(a.state is WorkState.AWAITING_APPROVAL for a in found.agents)
            )
            said = agent_of(found).description
            assert said.startswith("a person has to decide: there is no policy; ")
            assert "it runs python3 train.py, private data at /data" in said
            await other.approve(task)
            assert not manager.started
            await operator.approve(task)
            await manager.until(lambda m: m.runs(0, Part.ML) and m.runs(1, Part.ML))
            found = await operator.until(runner, lambda found: states(found) == [WorkState.RUNNING] * 2)
            assert agent_of(found).approved_by.endswith("/operator/ci-operator")
            (entry,) = entries_of(host)
            assert entry.approved_by == agent_of(found).approved_by

    run(story())


def test_what_its_institution_denies_is_not_started_and_what_runs_is_stopped(files: HostFiles) -> None:
    """SW-4: DENY TASK counts at any time."""
    manager = FakeManager()

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            runner, task = await prepare(operator, files)
            await operator.assign(runner, task)
            await manager.until(lambda m: m.runs(0, Part.ML) and m.runs(1, Part.ML))
            await operator.approve(task, granted=False)
            agent = await operator.until_over(runner)
            assert (agent.state, {unit.state for unit in agent.units}) == (WorkState.DENIED, {WorkState.DENIED})
            await manager.until(lambda m: not any(m.runs(idx, part) for idx in (0, 1) for part in Part))
            for idx in (0, 1):
                assert [part for node, part in manager.stopped if node == idx] == ["ml", "sl"]
            started = list(manager.started)
            await operator.reset(runner)
            await operator.assign(runner, task)
            agent = await operator.until_over(runner)
            assert agent.state is WorkState.DENIED
            assert "denied it" in agent.description
            assert manager.started == started

    run(story())


def test_a_policy_that_cannot_be_read_decides_nothing_until_it_can(files: HostFiles) -> None:
    """SW-4: the one before does not count any more."""
    manager = FakeManager()

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            runner, task = await prepare(operator, files)
            files.write_policy("version: 1\nrules: [{nam: x}]\n")
            await operator.assign(runner, task)
            found = await operator.until(
                runner, lambda found: any(a.state is WorkState.AWAITING_APPROVAL for a in found.agents)
            )
            assert "the policy of this host cannot be read" in agent_of(found).description
            assert not manager.started
            files.write_policy()
            await manager.until(lambda m: m.runs(0, Part.ML))

    run(story())


# --- pairs -------------------------------------------------------------


def test_a_program_starts_when_its_sl_is_ready_and_not_before(files: HostFiles) -> None:
    """SW-8: the fake refuses a program without an SL; an SL that does not get ready is an error that says so."""
    manager = FakeManager()
    manager.sl_ready = False

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            runner, task = await prepare(operator, files)
            await operator.assign(runner, task)
            agent = await operator.until_over(runner)
            assert agent.state is WorkState.ERROR
            assert {unit.description for unit in agent.units} == {"its SL was not ready within 3 s"}
            assert {part for _, part, _ in manager.started} == {"sl"}
            assert sorted(manager.stopped) == [(0, "sl"), (1, "sl")]

    run(story())


def test_one_program_that_fails_fails_its_peer_at_once_and_the_other_goes_on(files: HostFiles) -> None:
    """SW-8, SW-9: the agent fails when all its peers have ended."""
    manager = FakeManager()

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            runner, task = await prepare(operator, files, ALONE)
            await operator.assign(runner, task, peers=2)
            await manager.until(lambda m: m.runs(0, Part.ML) and m.runs(1, Part.ML))
            manager.exit(1, Part.ML, 9)
            found = await operator.until(runner, lambda found: WorkState.ERROR in states(found))
            agent = agent_of(found)
            assert (found.state, agent.state) == (RunnerState.ERROR, WorkState.RUNNING)
            assert agent.units[1].description == "its program ended with status 9: it begins"
            await manager.until(lambda m: (1, "sl") in m.stopped)
            assert manager.runs(0, Part.ML)
            manager.exit(0, Part.ML, 0)
            agent = await operator.until_over(runner)
            assert [unit.state for unit in agent.units] == [WorkState.COMPLETE, WorkState.ERROR]
            assert agent.description.startswith("1 of 2 peers failed; its program ended with status 9")

    run(story())


def test_an_sl_that_dies_is_started_again_three_times(files: HostFiles) -> None:
    """SW-8: its program is not."""
    manager = FakeManager()
    files.write_profile([files.name], nodes=1)

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            runner, task = await prepare(operator, files)
            await operator.assign(runner, task)
            for times in range(1, 5):
                await manager.until(lambda m, times=times: (0, "sl", times) in m.started and m.runs(0, Part.ML))  # type: ignore[misc]
                manager.exit(0, Part.SL, 70, "out of memory")
            agent = await operator.until_over(runner)
            assert agent.units[0].description.startswith("its SL died 4 times with status 70 (out of memory)")
            assert [entry for entry in manager.started if entry[1] == "ml"] == [(0, "ml", 1)]
            assert (0, "ml") in manager.stopped

    run(story())


def test_a_program_that_runs_too_long_is_stopped(files: HostFiles) -> None:
    """SW-8: the policy's `run_time`."""
    manager = FakeManager()
    files.write_profile([files.name], nodes=1)
    files.write_policy(ALLOW_ALL + "limits: {run_time: 1s}\n")

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            runner, task = await prepare(operator, files)
            await operator.assign(runner, task)
            agent = await operator.until_over(runner)
            assert agent.units[0].description.startswith(
                "its program ran longer than the 1 s that it may by the policy"
            )
            assert manager.stopped == [(0, "ml"), (0, "sl")]

    run(story())


def test_a_program_that_was_lost_with_the_machine_is_an_error(files: HostFiles) -> None:
    """SW-8: how it ended nobody knows, so it is not said to have ended well."""
    manager = FakeManager()
    files.write_profile([files.name], nodes=1)

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            runner, task = await prepare(operator, files)
            await operator.assign(runner, task)
            await manager.until(lambda m: m.runs(0, Part.ML))
            manager.exit(0, Part.ML, None, "the machine was restarted")
            agent = await operator.until_over(runner)
            assert agent.units[0].description == "its program was lost: the machine was restarted"
            assert agent.units[0].evidence is not None
            assert agent.units[0].evidence.exit_status is None

    run(story())


def test_a_program_that_somebody_removed_is_not_started_a_second_time(files: HostFiles) -> None:
    """SW-8."""
    manager = FakeManager()
    files.write_profile([files.name], nodes=1)

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            runner, task = await prepare(operator, files)
            await operator.assign(runner, task)
            await operator.until(runner, lambda found: "joined no training" in str(found.agents))
            (pair_id,) = manager.pairs
            manager.pairs[pair_id] = replace(manager.pairs[pair_id], ml=PartStatus())
            agent = await operator.until_over(runner)
            assert agent.units[0].description == "its program is gone: somebody removed it from this host"
            assert [entry for entry in manager.started if entry[1] == "ml"] == [(0, "ml", 1)]

    run(story())


def test_one_bad_identity_fails_one_peer(files: HostFiles) -> None:
    """SW-7: the others run; two nodes with one identity are one node too many."""
    manager = FakeManager()
    files.write_profile([files.name], nodes=3, identities=[0, 0, 1])
    (Path(files.swarm.identity(Role.SL, files.domain, f"{files.name}-sl-1").cert or "")).write_text("no certificate")

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            runner, task = await prepare(operator, files, ALONE)
            await operator.assign(runner, task)
            await manager.until(lambda m: m.runs(0, Part.ML))
            found = await operator.until(runner, lambda found: len(states(found)) == 3)
            units = {unit.uid: unit for unit in agent_of(found).units}
            assert "the identity of node 0" in units["node 1"].description
            assert "the identity of its SL cannot be read" in units["node 2"].description
            manager.exit(0, Part.ML, 0)
            agent = await operator.until_over(runner)
            assert {unit.uid: unit.state for unit in agent.units}[files.sl(0)] is WorkState.COMPLETE
            assert {entry[0] for entry in manager.started} == {0}

    run(story())


def test_an_engine_that_does_not_answer_is_waited_for(files: HostFiles) -> None:
    """SW-8: and who waits says for what."""
    manager = FakeManager()
    files.write_profile([files.name], nodes=1)

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            runner, task = await prepare(operator, files)
            await operator.assign(runner, task)
            await manager.until(lambda m: m.runs(0, Part.ML))
            manager.away = True
            waiting = "waits for a fake without programs: the engine does not answer"
            await operator.until(runner, lambda found: [u.description for u in agent_of(found).units] == [waiting])
            manager.away = False
            await operator.until(runner, lambda found: "joined no training" in agent_of(found).units[0].description)

    run(story())


# --- several runners, resets -------------------------------------------------------------


def test_two_assignments_never_use_one_node_at_once(files: HostFiles) -> None:
    """SW-6: the later one waits, and says for what; other work goes on beside them."""
    manager = FakeManager()
    second = f"{files.name}-second"
    files.write_profile([files.name, second])

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            runner, task = await prepare(operator, files, ALONE)
            other = await operator.make_runner(second)
            await operator.assign(runner, task, peers=2)
            await manager.until(lambda m: m.runs(0, Part.ML) and m.runs(1, Part.ML))
            await operator.assign(other, task, peers=2)
            waiting = f"waits for node 0, which is at work for {runner}"
            await operator.until(other, lambda found: any(a.description == waiting for a in found.agents))
            assert len(manager.started) == 4
            await operator.reset(runner)
            await manager.until(lambda m: len(m.started) == 8)
            assert len(manager.removed) == 2
            for idx in (0, 1):
                manager.exit(idx, Part.ML, 0)
            agent = await operator.until_over(other)
            assert agent.state is WorkState.COMPLETE

    run(story())


def test_a_reset_stops_the_program_before_its_sl_and_removes_both_but_not_their_logs(files: HostFiles) -> None:
    """SW-5."""
    manager = FakeManager()

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager) as host:
            runner, task = await prepare(operator, files)
            await operator.assign(runner, task)
            await manager.until(lambda m: m.runs(0, Part.ML) and m.runs(1, Part.ML))
            await operator.reset(runner)
            await manager.until(lambda m: len(m.removed) == 2)
            for idx in (0, 1):
                assert [part for node, part in manager.stopped if node == idx] == ["ml", "sl"]
            assert not manager.pairs
            assert list((files.data / "logs").glob("*/ml-0.log"))
            # Ready for the next one.
            await operator.assign(runner, task)
            await manager.until(lambda m: m.runs(0, Part.ML))
            assert [entry.cleaned for entry in entries_of(host)] == [True, False]

    run(story())


def test_named_anew_it_drops_what_it_did_and_begins_again(files: HostFiles) -> None:
    """SW-2: W-15 lets a failed agent take the task once more, under the same number."""
    manager = FakeManager()
    files.write_profile([files.name], nodes=1)

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager) as host:
            runner, task = await prepare(operator, files, ALONE)
            await operator.assign(runner, task)
            await manager.until(lambda m: m.runs(0, Part.ML))
            first = set(manager.pairs)
            await operator.target(runner, task, files.agent)
            await manager.until(lambda m: set(m.removed) == first and m.runs(0, Part.ML))
            manager.exit(0, Part.ML, 0)
            agent = await operator.until_over(runner)
            assert agent.state is WorkState.COMPLETE
            assert manager.started == [(0, "sl", 1), (0, "ml", 1), (0, "sl", 2), (0, "ml", 2)]
            assert [(entry.number, entry.dropped) for entry in entries_of(host)] == [(1, True), (1, False)]

    run(story())


# --- listening -------------------------------------------------------------


def test_it_waits_for_a_runner_that_is_not_there_yet(files: HostFiles, caplog: pytest.LogCaptureFixture) -> None:
    """SW-1: it makes none itself."""
    manager = FakeManager()

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            assert f"{files.name}: there is no such taskrunner on the ledger" in caplog.text
            runner, task = await prepare(operator, files)
            await operator.assign(runner, task)
            await manager.until(lambda m: m.runs(0, Part.ML))

    with caplog.at_level(logging.INFO):
        run(story())


def test_a_profile_without_a_runner_makes_it_listen_no_more(files: HostFiles) -> None:
    """SW-1: else WITH ALL PEERS would wait for it for ever."""

    async def story() -> None:
        async with operating(files.swarm) as operator:
            runner = await operator.make_runner(files.name)
            other = await operator.make_runner(f"{files.name}-other")
            async with acting(files, FakeManager()):
                await operator.until(runner, lambda found: found.listeners == (files.agent,))
            assert (await operator.look(runner)).listeners == (files.agent,)
            files.write_profile([other])
            async with acting(files, FakeManager()):
                await operator.until(other, lambda found: found.listeners == (files.agent,))
                assert (await operator.look(runner)).listeners == ()

    run(story())


def test_a_second_agent_on_the_same_data_is_refused(files: HostFiles) -> None:
    """SW-1."""

    async def story() -> None:
        async with acting(files, FakeManager()):
            with pytest.raises(ConfigurationError, match="another agent uses the data directory"):
                async with acting(files, FakeManager()):
                    pass

    run(story())


# --- restarts -------------------------------------------------------------


@pytest.mark.parametrize("lost", ["nothing", "sl", "ml"])
def test_a_restarted_agent_finds_what_it_started(files: HostFiles, lost: str) -> None:
    """SW-5: nothing is started twice, but what died meanwhile; what the journal does not know is removed."""
    manager = FakeManager()
    files.write_profile([files.name], nodes=1)

    async def story() -> None:
        async with operating(files.swarm) as operator:
            async with acting(files, manager):
                runner, task = await prepare(operator, files, ALONE)
                await operator.assign(runner, task)
                await manager.until(lambda m: m.runs(0, Part.ML))
            manager.pairs["somebodys"] = manager.pairs[next(iter(manager.pairs))]
            if lost != "nothing":
                pair_id = next(iter(manager.known))
                before = manager.pairs[pair_id]
                ended = PartStatus(state=PartState.EXITED, exit_status=1)
                manager.pairs[pair_id] = type(before)(
                    sl=ended if lost == "sl" else before.sl, ml=ended if lost == "ml" else before.ml
                )
            async with acting(files, manager):
                assert manager.forgotten == ["somebodys"]
                assert manager.adopted == list(manager.known)
                if lost == "sl":
                    await manager.until(lambda m: (0, "sl", 2) in m.started)
                if lost != "ml":
                    manager.exit(0, Part.ML, 0)
                agent = await operator.until_over(runner)
                assert agent.state is (WorkState.ERROR if lost == "ml" else WorkState.COMPLETE)
            assert [entry for entry in manager.started if entry[1] == "ml"] == [(0, "ml", 1)]

    run(story())


def test_a_reset_while_it_was_away_is_carried_out_when_it_is_back(files: HostFiles) -> None:
    """SW-5: and the next assignment is taken."""
    manager = FakeManager()

    async def story() -> None:
        async with operating(files.swarm) as operator:
            async with acting(files, manager):
                runner, task = await prepare(operator, files)
                await operator.assign(runner, task)
                await manager.until(lambda m: m.runs(0, Part.ML) and m.runs(1, Part.ML))
            first = set(manager.pairs)
            await operator.reset(runner)
            await operator.assign(runner, task)
            async with acting(files, manager):
                await manager.until(lambda m: set(m.removed) == first and m.runs(0, Part.ML) and m.runs(1, Part.ML))

    run(story())


def test_cleaning_up_that_was_interrupted_goes_on_without_an_sn(files: HostFiles) -> None:
    """SW-5: what was reset is not taken up again, whoever is away."""
    manager = FakeManager()

    async def story() -> None:
        async with operating(files.swarm) as operator:
            async with acting(files, manager):
                runner, task = await prepare(operator, files)
                await operator.assign(runner, task)
                await manager.until(lambda m: m.runs(0, Part.ML) and m.runs(1, Part.ML))
                manager.keeps = True
                await operator.reset(runner)
                await manager.until(lambda m: not any(m.runs(idx, part) for idx in (0, 1) for part in Part))
            started = list(manager.started)
            manager.keeps = False
            nobody = Endpoint(host="127.0.0.1", port=1)
            async with acting(files, manager, sn=nobody, wait=False):
                await manager.until(lambda m: len(m.removed) == 2)
            assert manager.started == started

    run(story())


def test_an_agent_that_lost_its_data_says_so(files: HostFiles) -> None:
    """SW-2: nobody waits for what nobody does."""

    async def story() -> None:
        async with (
            operating(files.swarm) as operator,
            files.swarm.submitter(Role.SWOP, files.domain, files.name) as submitter,
        ):
            runner, task = await prepare(operator, files)
            async with acting(files, FakeManager()):
                pass
            await operator.assign(runner, task)
            await submitter.require(TakeTask(runner=runner, number=1, planned=2))
            async with acting(files, FakeManager()):
                agent = await operator.until_over(runner)
                assert (agent.state, agent.description) == (WorkState.ERROR, LOST)

    run(story())


def test_sw2_two_agents_of_one_name_do_not_spoil_each_others_work(files: HostFiles) -> None:
    """The second one, with a data directory of its own, ends; the first one's work goes on."""
    manager = FakeManager()
    twin = HostFiles(files.swarm, files.directory / "twin", files.name)
    twin.write_policy()
    twin.write_profile([files.name], identities=[0, 1])

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            runner, task = await prepare(operator, files)
            await operator.assign(runner, task)
            await operator.until(runner, lambda found: states(found) == [WorkState.RUNNING] * 2)
            async with preparing(twin, FakeManager(), paces=replace(QUICK, lost_s=30.0)) as host:
                other = asyncio.create_task(Acting(host).run())
                await manager.until(lambda m: m.runs(1, Part.ML))
                manager.exit(1, Part.ML, 9)
                with pytest.raises(BaseExceptionGroup) as ended:
                    await other
            assert "another agent is at work as" in str(ended.value.exceptions[0])
            found = await operator.look(runner)
            assert states(found) == [WorkState.RUNNING, WorkState.ERROR]

    run(story())


def test_an_agent_killed_before_anything_was_started_begins(files: HostFiles) -> None:
    """SW-5: also one that was killed while it waited for its institution."""
    manager = FakeManager()
    files.write_profile([files.name], policy=False)

    async def story() -> None:
        async with operating(files.swarm) as operator:
            async with acting(files, manager):
                runner, task = await prepare(operator, files)
                await operator.assign(runner, task)
                await operator.until(
                    runner, lambda found: any(a.state is WorkState.AWAITING_APPROVAL for a in found.agents)
                )
            await operator.approve(task)
            async with acting(files, manager, paces=Paces(presence_s=0.2)):
                await manager.until(lambda m: m.runs(0, Part.ML))

    run(story())


# --- what is decided twice -------------------------------------------------------------


@pytest.mark.parametrize("restarted", [False, True])
def test_what_waits_for_a_node_is_decided_again_before_it_starts(files: HostFiles, restarted: bool) -> None:
    """SW-4, SW-6: also after a restart the node is at work; and meanwhile the policy was changed."""
    manager = FakeManager()
    second = f"{files.name}-second"
    files.write_profile([files.name, second])

    async def story() -> None:
        async with operating(files.swarm) as operator, contextlib.AsyncExitStack() as stack:
            runner, task = await prepare(operator, files, ALONE)
            other = await operator.make_runner(second)
            async with acting(files, manager):
                await operator.assign(runner, task, peers=2)
                await manager.until(lambda m: m.runs(0, Part.ML) and m.runs(1, Part.ML))
                if not restarted:
                    await operator.assign(other, task, peers=2)
                    await operator.until(other, lambda found: "waits for node 0" in str(found.agents))
            if restarted:
                await operator.assign(other, task, peers=2)
            await stack.enter_async_context(acting(files, manager))
            await operator.until(other, lambda found: "waits for node 0" in str(found.agents))
            files.write_policy("version: 1\nask: false\n")
            await operator.reset(runner)
            agent = await operator.until_over(other)
            assert agent.state is WorkState.DENIED
            assert "nobody is asked" in agent.description
            assert len(manager.started) == 4

    run(story())


def test_another_body_than_the_one_that_was_assigned_is_not_carried_out(files: HostFiles) -> None:
    """SW-4: whatever an SN says."""

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, FakeManager()) as host:
            runner, task = await prepare(operator, files)
            whole = await operator.client.task(task)
            assert whole is not None
            entry = Entry(
                id="x",
                runner=runner,
                number=1,
                task=task,
                kind=whole.task.kind,
                hash=whole.task.hash,
                assigned_ms=1,
                version=1,
                planned=1,
                begun_ms=1,
            )
            assert (await read_task(host, entry)).task == whole.task
            lies = [
                replace(whole, body=(*whole.body[:-1], "PrivateContent: /elsewhere")),
                replace(whole, task=replace(whole.task, prereq=TaskName("another"))),
                replace(whole, task=replace(whole.task, kind=TaskType.PULL_IMAGE)),
                None,
            ]
            for lie in lies:
                with mock.patch.object(SnClient, "task", return_value=lie), pytest.raises(TaskFailed):
                    await read_task(host, entry)
            with pytest.raises(TaskFailed, match=f"the assignment names {bytes(32).hex()[:16]}"):
                await read_task(host, replace(entry, hash=bytes(32)))

    run(story())


# --- content -------------------------------------------------------------


class _Pages(http.server.BaseHTTPRequestHandler):
    """Serves one page, and a redirect to it."""

    def do_GET(self) -> None:
        moved = self.path.endswith("/moved")
        self.send_response(302 if moved else 200)
        if moved:
            self.send_header("Location", "/elsewhere/rows.csv")
        body = b"" if moved else b"1,2,3\n"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
        """Says nothing."""


@pytest.fixture
def site() -> Iterator[str]:
    """A server of this machine."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def content(site: str, path: str, kind: str = "SWARMCONTENT") -> list[str]:
    step = f"  - {{Operation: DOWNLOAD, Target: '{site}/{path}', Options: [{{Out: rows.csv}}]}}"
    return [f"ContentType: {kind}", "OpsList:", step]


def test_each_peer_gets_a_volume_of_its_own_and_redirects_stay_within_the_rule(files: HostFiles, site: str) -> None:
    """SW-11: what a rule allows to be downloaded is asked about every redirect, too."""
    manager = FakeManager()
    volumes = "[rows-direct-0, rows-direct-1, rows-moved-0, rows-moved-1]"
    files.write_policy(f"version: 1\nrules:\n  - name: rows\n    urls: ['{site}/shared/']\n    mounts: {volumes}\n")

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            runner = await operator.make_runner(files.name)
            for name, path in (("direct", "shared/rows.csv"), ("moved", "shared/moved")):
                task = await operator.write_task(
                    f"{files.name}-{name}",
                    content(site, path),
                    kind=TaskType.MAKE_SWARM_USER_CONTENT,
                    outcome=f"rows-{name}",
                )
                await operator.assign(runner, task)
                agent = await operator.until_over(runner)
                if name == "direct":
                    assert agent.state is WorkState.COMPLETE, agent.description
                else:
                    assert agent.state is WorkState.ERROR
                    assert "does not allow downloads from there" in agent.description
                await operator.reset(runner)
        assert manager.volumes == {"rows-direct-0": ["rows.csv"], "rows-direct-1": ["rows.csv"]}
        assert not list((files.data / "content").iterdir())

    run(story())


def test_sw11_a_swarm_sees_each_peers_own_content_under_the_shared_name(files: HostFiles, site: str) -> None:
    """And what it shares without its being there is made, and is its organisation's: SW-13."""
    manager = FakeManager()
    grants = f"urls: ['{site}/shared/'], mounts: [rows, rows-0, rows-1, out], private_data: true"
    files.write_policy(f"version: 1\nrules:\n  - {{name: rows, {grants}}}\n")

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager) as host:
            runner = await operator.make_runner(files.name)
            rows = await operator.write_task(
                f"{files.name}-rows",
                content(site, "shared/rows.csv"),
                kind=TaskType.MAKE_SWARM_USER_CONTENT,
                outcome="rows",
            )
            await operator.assign(runner, rows)
            assert (await operator.until_over(runner)).state is WorkState.COMPLETE
            await operator.reset(runner)
            mounts = "SharedContent: [{Src: rows, Tgt: /rows, MType: VOLUME}, {Src: out, Tgt: /out, MType: VOLUME}]"
            await operator.assign(runner, await operator.write_task(files.name, (*RUN, mounts)))
            await manager.until(lambda m: m.runs(0, Part.ML) and m.runs(1, Part.ML))
            seen = {
                pair.node.idx: [mount.source for mount in pair.body.shared_content] for pair in manager.known.values()
            }
            assert seen == {0: ["rows-0", "out"], 1: ["rows-1", "out"]}
            made = host.outcomes.find("volume", "out")
            assert made is not None
            assert made.owner == files.domain

    run(story())
