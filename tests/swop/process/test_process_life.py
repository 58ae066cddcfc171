"""Pairs outlive the agent and are found again; what is not ours is never taken for ours."""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from process_world import (
    WAIT_S,
    is_running,
    log_of,
    make_pair,
    open_manager,
    plain_manager,
    prepare,
    run_program,
    settings,
    shared,
    wait_ended,
    wait_for,
)

from swarmlearning.errors import ConfigurationError
from swarmlearning.swop.managers.boundary import Pair, Part, PartState, PartStatus
from swarmlearning.swop.managers.process import ProcessManager
from swarmlearning.swop.managers.process_kernel import find_descendants, read_boot_id, read_start
from swarmlearning.swop.managers.process_parts import Ident, Place, ShimStatus, find_marked, signal_process

NOT_BEGUN = "the sandbox could not be made, or has no such program in it; the log says why"

BOTH = pytest.mark.parametrize("sandbox", [True, False], ids=["sandbox", "plain"])

UNTIL_TOLD = """
import os, sys, time
print('begun', flush=True)
while not os.path.exists(sys.argv[1] + '/go'): time.sleep(0.01)
print('told', flush=True)
sys.exit(7)
"""


def patient_pair(tmp_path: Path) -> Pair:
    """A pair whose program ends with status 7 when there is a file `go`."""
    (tmp_path / "shared").mkdir()
    pair = make_pair(tmp_path / "D", UNTIL_TOLD, body_shared_content=(shared(tmp_path / "shared"),))
    body = msgspec.structs.replace(pair.body, command=pair.body.command + " /platform/shared")
    return msgspec.structs.replace(pair, body=body)


def ml_place(pair: Pair) -> Place:
    return Place(Path(pair.directory) / "parts" / "ml")


def ml_status(pair: Pair) -> ShimStatus:
    status = ml_place(pair).look().status
    assert status is not None
    return status


def write_status(pair: Pair, **changes: object) -> None:
    """What a shim would have left that is gone: its program ran."""
    here = Ident(pid=os.getpid(), start=read_start(os.getpid()))
    status = ShimStatus(
        token="t", boot=read_boot_id(), shim=here, program=here, ended=False, exit_status=None, detail="", log_lost=0
    )
    place = Path(pair.directory) / "parts" / "ml"
    place.mkdir(parents=True, exist_ok=True)
    (place / "lock").touch()
    (place / "spec.json").touch()
    (place / "status.json").write_bytes(msgspec.json.encode(msgspec.structs.replace(status, **changes)))


DRIVER = """
import asyncio, sys, msgspec
from process_world import open_manager, prepare
from swarmlearning.swop.managers.boundary import Pair
from pathlib import Path
pair = msgspec.json.decode(sys.argv[1], type=Pair)
async def main(manager):
    prepare(pair)
    await manager.start_ml(pair)
    print("started", flush=True)
    await asyncio.sleep(600)
manager = open_manager(Path(sys.argv[2]), sandbox=sys.argv[3] == "True")
asyncio.run(main(manager))
"""


@BOTH
def test_sw41_a_pair_goes_on_when_its_agent_is_killed_and_is_found_with_its_exit_status(
    tmp_path: Path, sandbox: bool
) -> None:
    manager = open_manager(tmp_path / "D", sandbox=sandbox)
    pair = patient_pair(tmp_path)
    words = [sys.executable, "-c", DRIVER, msgspec.json.encode(pair).decode(), str(tmp_path / "D"), str(sandbox)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, start_new_session=True) as agent:
        assert agent.stdout is not None
        assert agent.stdout.readline() == b"started\n"
        os.killpg(agent.pid, signal.SIGKILL)

    async def main() -> None:
        assert await manager.find_pairs() == (pair.id,)
        await manager.adopt(pair)
        assert (await manager.look(pair)).ml.state is PartState.RUNNING
        await manager.start_ml(pair)  # nothing: it runs
        (tmp_path / "shared" / "go").touch()
        assert (await wait_ended(manager, pair, Part.ML)).exit_status == 7
        assert log_of(pair) == "begun\ntold\n"
        await manager.remove(pair)
        assert await manager.find_pairs() == ()

    asyncio.run(main())


@BOTH
def test_sw41_two_that_start_it_at_once_start_it_once(tmp_path: Path, sandbox: bool) -> None:
    one, other = (open_manager(tmp_path / "D", sandbox=sandbox) for _ in range(2))
    pair = patient_pair(tmp_path)

    async def main() -> None:
        prepare(pair)
        await asyncio.gather(one.start_ml(pair), other.start_ml(pair), one.start_ml(pair))
        (tmp_path / "shared" / "go").touch()
        await wait_ended(one, pair, Part.ML)

    asyncio.run(main())
    assert log_of(pair) == "begun\ntold\n"


def test_sw41_a_start_that_ended_before_its_shim_was_there_is_no_start(tmp_path: Path) -> None:
    manager = plain_manager(tmp_path / "D")
    pair = make_pair(tmp_path / "D", "print('ran')")

    async def main() -> None:
        prepare(pair)
        place = Path(pair.directory) / "parts" / "ml"
        place.mkdir(parents=True)
        (place / "lock").touch()
        (place / "spec.json").write_text("{}")
        assert await manager.find_pairs() == (pair.id,)
        assert (await manager.look(pair)).ml == PartStatus()
        await manager.stop(pair, Part.ML, 0)
        assert (await run_program(manager, pair)).exit_status == 0

    asyncio.run(main())
    assert log_of(pair) == "ran\n"


def test_sw41_a_shim_that_has_not_said_anything_yet_is_a_start(tmp_path: Path) -> None:
    """The agent was killed, and the shim is on its way."""
    manager = plain_manager(tmp_path / "D")
    pair = make_pair(tmp_path / "D", "print('ran')")
    place = Path(pair.directory) / "parts" / "ml"
    place.mkdir(parents=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert asyncio.run(manager.look(pair)).ml.state is PartState.RUNNING
        assert asyncio.run(manager.look(pair)).sl.state is PartState.ABSENT
    assert asyncio.run(manager.look(pair)).ml.state is PartState.ABSENT


def test_sw43_a_pid_that_was_given_away_again_is_not_taken_for_ours(tmp_path: Path) -> None:
    manager = plain_manager(tmp_path / "D")
    pair = make_pair(tmp_path / "D")
    with subprocess.Popen(["sleep", "100"]) as stranger:
        start = read_start(stranger.pid)
        assert start is not None
        write_status(pair, shim=Ident(pid=stranger.pid, start=start - 1))
        status = asyncio.run(manager.look(pair)).ml
        assert (status.state, status.exit_status) == (PartState.EXITED, None)
        assert "supervised it was killed" in status.detail
        asyncio.run(manager.stop(pair, Part.ML, 0))
        asyncio.run(manager.remove(pair))
        assert stranger.poll() is None
        assert not signal_process(Ident(pid=stranger.pid, start=start - 1), signal.SIGKILL)
        assert stranger.poll() is None
        assert signal_process(Ident(pid=stranger.pid, start=start), signal.SIGKILL)
        assert stranger.wait(WAIT_S) == -signal.SIGKILL
    assert not signal_process(Ident(pid=stranger.pid, start=start), signal.SIGKILL)


def test_sw43_after_a_reboot_nothing_is_ours(tmp_path: Path) -> None:
    """Not even a process of the same number that has been running for as long."""
    manager = plain_manager(tmp_path / "D")
    pair = make_pair(tmp_path / "D")
    with subprocess.Popen(["sleep", "100"], env={"SWARM_SWOP_PART": "t", "PATH": os.defpath}) as stranger:
        write_status(pair, boot="another", shim=Ident(pid=stranger.pid, start=read_start(stranger.pid)))
        status = asyncio.run(manager.look(pair)).ml
        assert (status.state, status.exit_status) == (PartState.EXITED, None)
        assert status.detail == "the machine was restarted while it ran"
        asyncio.run(manager.stop(pair, Part.ML, 0))
        asyncio.run(manager.remove(pair))
        assert stranger.poll() is None
        stranger.kill()


@BOTH
def test_sw42_when_its_shim_is_killed_a_program_ends_and_its_status_is_lost(tmp_path: Path, sandbox: bool) -> None:
    manager = open_manager(tmp_path / "D", sandbox=sandbox)
    program = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    print('helper', flush=True)
while True: time.sleep(100)
"""
    pair = make_pair(tmp_path / "D", program)

    async def main() -> None:
        prepare(pair)
        await manager.start_ml(pair)
        await wait_for(lambda: "helper" in log_of(pair))
        status = ml_status(pair)
        assert status.program is not None
        everything = [status.program.pid, *find_descendants(status.program.pid)]
        assert len(everything) == (4 if sandbox else 2)
        os.kill(status.shim.pid, signal.SIGKILL)
        found = await wait_ended(manager, pair, Part.ML)
        assert found.exit_status is None
        assert "supervised it was killed" in found.detail
        await wait_for(lambda: not is_running(everything[0]))
        # What it had forked is not ended by the kernel, but by whoever comes next.
        await manager.stop(pair, Part.ML, 0)
        await wait_for(lambda: not any(is_running(pid) for pid in everything))
        assert find_marked(status.token) == []

    asyncio.run(main())


def test_sw48_a_shim_whose_pair_was_removed_ends_with_its_program(tmp_path: Path) -> None:
    manager = plain_manager(tmp_path / "D")
    pair = patient_pair(tmp_path)

    async def main() -> None:
        prepare(pair)
        await manager.start_ml(pair)
        status = ml_status(pair)
        assert status.program is not None
        shutil.rmtree(pair.directory)
        os.kill(status.program.pid, signal.SIGKILL)
        await wait_for(lambda: not is_running(status.shim.pid), 20)

    asyncio.run(main())


def test_sw48_a_shim_that_cannot_write_the_exit_status_tries_again_until_it_is_asked_to_end(tmp_path: Path) -> None:
    """A directory in the file's place stands for a disk that takes nothing."""
    manager = plain_manager(tmp_path / "D")
    pair = patient_pair(tmp_path)

    async def main() -> None:
        prepare(pair)
        await manager.start_ml(pair)
        status = ml_status(pair)
        place = Path(pair.directory) / "parts" / "ml"
        (place / "status.json").rename(place / "before")
        (place / "status.json").mkdir()
        (tmp_path / "shared" / "go").touch()
        await wait_for(lambda: (place / "status.json.end").read_bytes().startswith(b"{"))
        assert is_running(status.shim.pid)
        assert signal_process(status.shim, signal.SIGTERM)
        await wait_for(lambda: not is_running(status.shim.pid), 20)

    asyncio.run(main())


def test_sw48_an_exit_status_that_the_disk_did_not_take_is_written_later(tmp_path: Path) -> None:
    manager = plain_manager(tmp_path / "D")
    pair = patient_pair(tmp_path)

    async def main() -> None:
        prepare(pair)
        await manager.start_ml(pair)
        place = Path(pair.directory) / "parts" / "ml"
        (place / "status.json").rename(place / "before")
        (place / "status.json").mkdir()
        (tmp_path / "shared" / "go").touch()
        await wait_for(lambda: (place / "status.json.end").read_bytes().startswith(b"{"))
        (place / "status.json").rmdir()
        assert (await wait_ended(manager, pair, Part.ML)).exit_status == 7

    asyncio.run(main())


def test_sw42_a_program_that_cannot_be_started_says_why(tmp_path: Path) -> None:
    manager = plain_manager(tmp_path / "D")
    pair = make_pair(tmp_path / "D", body_entrypoint="no-such-program")
    status = asyncio.run(run_program(manager, pair))
    assert (status.exit_status, status.detail) == (
        127,
        "cannot start 'no-such-program': No such file or directory",
    )


def test_sw42_a_sandbox_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    manager = open_manager(tmp_path / "D", sandbox=True)
    sandbox = manager._sandbox
    assert not isinstance(sandbox, str)
    manager._sandbox = msgspec.structs.replace(sandbox, isolating=(*sandbox.isolating, "--ro-bind", "/none", "/x"))
    pair = make_pair(tmp_path / "D")
    status = asyncio.run(run_program(manager, pair))
    assert (status.exit_status, status.detail) == (1, NOT_BEGUN)
    assert "Can't find source path /none" in log_of(pair)


def test_sw42_a_program_that_is_not_in_the_sandbox_is_not_said_to_be_the_sandbox_s_fault(tmp_path: Path) -> None:
    manager = open_manager(tmp_path / "D", sandbox=True)
    pair = make_pair(tmp_path / "D", body_entrypoint="no-such-program")
    status = asyncio.run(run_program(manager, pair))
    assert (status.exit_status, status.detail) == (1, NOT_BEGUN)
    assert "execvp no-such-program: No such file or directory" in log_of(pair)


def test_sw42_a_death_by_signal_has_the_status_that_a_shell_shows(tmp_path: Path) -> None:
    for sandbox in (True, False):
        manager = open_manager(tmp_path / "D", sandbox=sandbox)
        pair = make_pair(tmp_path / "D", "import os; os.kill(os.getpid(), 11)", name=f"pair-{sandbox}")
        assert asyncio.run(run_program(manager, pair)).exit_status == 128 + 11


def test_sw44_without_a_working_sandbox_a_program_that_needs_one_is_refused(tmp_path: Path) -> None:
    manager = plain_manager(tmp_path / "D", "bubblewrap is not installed")
    assert not manager.isolates
    assert manager.describe() == "processes without a sandbox: bubblewrap is not installed"
    pair = make_pair(tmp_path / "D", "print('ran')", sandboxed=True)
    prepare(pair)
    with pytest.raises(ConfigurationError, match="cannot be done: bubblewrap is not installed; install"):
        asyncio.run(manager.start_ml(pair))
    assert log_of(pair) == ""


def test_sw52_another_image_under_the_same_tag_is_refused(tmp_path: Path) -> None:
    manager = plain_manager(tmp_path / "D")
    tags = tmp_path / "D" / "images" / "tags"
    tags.mkdir(parents=True)
    image = manager._images.describe_image("")
    manager._images._tag_file("env:1").write_bytes(json.dumps({"tag": "env:1", "digest": "ab" * 32}).encode())
    (tmp_path / "D" / "images" / ("ab" * 32)).mkdir()
    described = msgspec.json.encode(msgspec.structs.replace(image, digest="ab" * 32))
    (tmp_path / "D" / "images" / ("ab" * 32) / "image.json").write_bytes(described)
    good = make_pair(tmp_path / "D", "print('ran')", image="env:1", image_id="ab" * 32)
    assert asyncio.run(run_program(manager, good)).exit_status == 0
    other = make_pair(tmp_path / "D", "print('ran')", image="env:1", image_id="cd" * 32, name="pair-2")
    prepare(other)
    with pytest.raises(ConfigurationError, match="'env:1' is abababababababab, expected cdcd"):
        asyncio.run(manager.start_ml(other))


def test_a_program_without_an_sl_is_not_started(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="its SL was not started"):
        asyncio.run(plain_manager(tmp_path / "D").start_ml(make_pair(tmp_path / "D")))


# --- removing -------------------------------------------------------------------------------------------------------


@BOTH
def test_sw53_removing_leaves_the_logs_and_nothing_else(tmp_path: Path, sandbox: bool) -> None:
    manager = open_manager(tmp_path / "D", sandbox=sandbox)
    program = """
import os
import shutil
os.makedirs(os.environ['HOME'] + '/a/b')
os.chmod(os.environ['HOME'] + '/a', 0)
os.symlink('/', os.environ['HOME'] + '/link')
print('done')
"""
    pair = make_pair(tmp_path / "D", program)
    asyncio.run(run_program(manager, pair))
    asyncio.run(manager.remove(pair))
    assert not Path(pair.directory).exists()
    assert log_of(pair) == "done\n"
    asyncio.run(manager.remove(pair))  # again, as after a crash
    assert Path("/usr").exists()


def test_sw53_with_keep_everything_stays_but_what_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    manager = plain_manager(tmp_path / "D", keep=True)
    pair = patient_pair(tmp_path)

    async def main() -> None:
        prepare(pair)
        await manager.start_ml(pair)
        await manager.remove(pair)
        assert (await manager.look(pair)).ml.state is PartState.EXITED
        assert await manager.find_pairs() == ()  # or the agent would remove it again and again

    asyncio.run(main())
    assert Path(pair.directory, "root").exists()
    assert f"left in place, as SWOP_KEEP_CONTAINERS asks: {pair.directory}" in caplog.text


def test_sw53_a_forgotten_pair_is_stopped_and_removed_by_its_id(tmp_path: Path) -> None:
    manager = plain_manager(tmp_path / "D")
    pair = patient_pair(tmp_path)

    async def main() -> None:
        prepare(pair)
        await manager.start_ml(pair)
        pid = ml_status(pair).shim.pid
        assert await manager.find_pairs() == (pair.id,)
        await manager.remove_forgotten(pair.id)
        assert not is_running(pid)
        assert await manager.find_pairs() == ()

    asyncio.run(main())


@pytest.mark.parametrize("name", ["..", ".", "../x", "a/b", "", "x" * 101])
def test_sw53_an_id_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    manager = plain_manager(tmp_path / "D")
    (tmp_path / "x").mkdir()
    with pytest.raises(ConfigurationError, match="expected letters, digits"):
        asyncio.run(manager.remove_forgotten(name))
    assert (tmp_path / "x").exists()


def test_sw40_the_sandbox_is_tried_out_when_the_manager_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "bin" / "bwrap"
    broken.parent.mkdir()

    def describe(text: str) -> str:
        broken.write_text("#!/bin/sh\n" + text)
        broken.chmod(0o755)
        manager = asyncio.run(ProcessManager.open(settings(tmp_path / "D")))
        assert manager.isolates == ("in a sandbox" in manager.describe())
        return manager.describe()

    monkeypatch.setenv("PATH", f"{broken.parent}:/usr/bin:/bin")
    refused = describe(
        'case "$1" in --help|--version) exec /usr/bin/bwrap "$1";; esac; echo "no permission" >&2; exit 1'
    )
    assert refused.startswith("processes without a sandbox: bubblewrap ")
    assert refused.endswith("does not work here: no permission")
    # One that runs the program without keeping anything from it is not taken for a sandbox.
    lying = 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"'
    shown = describe(f'case "$1" in --help|--version) exec /usr/bin/bwrap "$1";; esac; {lying}')
    assert shown.endswith("does not work here: it shows files of the host")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "bubblewrap is not installed" in asyncio.run(ProcessManager.open(settings(tmp_path / "D"))).describe()
