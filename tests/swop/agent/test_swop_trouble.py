"""An agent whose host has troubles of its own: a full disk, a clock that jumps. docs/spec/swop.md, SW-5 and SW-8."""

import asyncio
from pathlib import Path
from unittest import mock

import pytest
from acting_agents import acting, entries_of
from agent_world import ALLOW_ALL, HostFiles, operating
from fake_manager import FakeManager
from swci_world import Swarm

from swarmlearning.clock import system_clock
from swarmlearning.contracts.task_records import WorkState
from swarmlearning.errors import Broken, ConfigurationError
from swarmlearning.swop import executing
from swarmlearning.swop.host import PolicyBook
from swarmlearning.swop.journal import Entry
from swarmlearning.swop.managers.boundary import Pair, PairStatus, Part
from swarmlearning.swop.policy_file import load_policy

pytestmark = pytest.mark.timeout(60)

ALONE = ("Command: train.py", "Entrypoint: python3", "WorkingDir: /work", "Envvars: [SWARM_LOOPBACK: 'TRUE']")


@pytest.fixture
def files(swarm: Swarm, tmp_path: Path) -> HostFiles:
    made = HostFiles(swarm, tmp_path, swarm.fresh("host"))
    made.write_policy()
    made.write_profile([made.name])
    return made


def test_sw5_a_program_that_fills_the_disk_is_removed_by_a_reset_all_the_same(files: HostFiles) -> None:
    """The attack: nothing can be written down before it is gone, and it was not removed before that was."""
    manager = FakeManager()

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager) as host:
            runner = await operator.make_runner(files.name)
            await operator.assign(runner, await operator.write_task(files.name, ALONE))
            await manager.until(lambda manager: manager.runs(0, Part.ML) and manager.runs(1, Part.ML))
            save = host.journal.save

            def save_on_a_full_disk(entry: Entry) -> None:
                if manager.pairs:
                    raise Broken("cannot write: no space left on device")
                save(entry)

            with mock.patch.object(host.journal, "save", save_on_a_full_disk):
                await operator.reset(runner)
                await manager.until(lambda manager: not manager.pairs)
                again = await operator.write_task(f"{files.name}-2", ALONE)
                await operator.assign(runner, again)
            await manager.until(lambda manager: manager.runs(0, Part.ML))
            before, after = entries_of(host)
            assert before.cleaned
            assert after.task == again

    asyncio.run(asyncio.wait_for(story(), 50))


def test_sw27_a_policy_that_others_may_write_from_now_on_counts_no_more(files: HostFiles) -> None:
    book = PolicyBook(files.policy, load_policy)
    assert book.current().rules
    files.policy.chmod(0o666)
    with pytest.raises(ConfigurationError, match="others can write it"):
        book.current()
    files.policy.chmod(0o600)
    assert book.current().rules


def test_sw5_whatever_a_manager_does_at_the_end_other_work_goes_on(files: HostFiles) -> None:
    manager = FakeManager()

    async def break_down(_: Pair) -> None:
        raise KeyError("a fault of ours")

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager):
            runner = await operator.make_runner(files.name)
            task = await operator.write_task(files.name, ALONE)
            await operator.assign(runner, task)
            await manager.until(lambda manager: manager.runs(1, Part.ML))
            with (
                mock.patch.object(manager, "remove", break_down),
                mock.patch.object(executing, "_TRY_AGAIN_S", 0.01),
            ):
                await operator.reset(runner)
                await operator.assign(runner, task)
                await manager.until(lambda manager: (1, "ml", 2) in manager.started)

    asyncio.run(asyncio.wait_for(story(), 50))


def test_sw8_a_clock_that_jumps_does_not_end_a_program(files: HostFiles) -> None:
    manager = FakeManager()
    files.write_profile([files.name], nodes=1)
    files.write_policy(ALLOW_ALL + "limits: {run_time: 1h}\n")
    looks = 0
    look = manager.look

    async def count(pair: Pair) -> PairStatus:
        nonlocal looks
        looks += 1
        manager.changed.set()
        return await look(pair)

    async def story() -> None:
        async with operating(files.swarm) as operator, acting(files, manager) as host:
            ahead = 0

            def clock() -> int:
                return system_clock() + ahead

            with mock.patch.object(host, "clock", clock), mock.patch.object(manager, "look", count):
                runner = await operator.make_runner(files.name)
                await operator.assign(runner, await operator.write_task(files.name, ALONE))
                await manager.until(lambda manager: manager.runs(0, Part.ML))
                ahead = 24 * 3600 * 1000
                seen = looks
                await manager.until(lambda _: looks >= seen + 3)
                assert manager.runs(0, Part.ML)
                manager.exit(0, Part.ML, 0)
                assert (await operator.until_over(runner)).state is WorkState.COMPLETE

    asyncio.run(asyncio.wait_for(story(), 50))
