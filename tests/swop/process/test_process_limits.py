"""What a program may use, how long it may run, what is kept of its log; in a sandbox and without."""

import asyncio
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from process_world import (
    is_running,
    log_of,
    make_pair,
    open_manager,
    prepare,
    run_program,
    shared,
    wait_for,
)

from swarmlearning.swop.managers.boundary import Part
from swarmlearning.swop.managers.process import ProcessManager
from swarmlearning.swop.managers.process_files import Log
from swarmlearning.swop.managers.process_shim import show_bytes, show_duration
from swarmlearning.swop.policy import Limits

BOTH = pytest.mark.parametrize("sandbox", [True, False], ids=["sandbox", "plain"])


@pytest.fixture
def manager(tmp_path: Path, sandbox: bool) -> ProcessManager:
    return open_manager(tmp_path / "D", sandbox=sandbox)


@BOTH
def test_sw47_a_program_that_forks_for_ever_is_ended(tmp_path: Path, manager: ProcessManager) -> None:
    program = (
        "import os, time\nfor n in range(60):\n  if os.fork() == 0:\n    os.setsid(); time.sleep(100)\ntime.sleep(100)"
    )
    pair = make_pair(tmp_path / "D", program, limits=Limits(processes=20))
    status = asyncio.run(run_program(manager, pair))
    if status.exit_status != 1:  # refused by the kernel: not for root
        assert status.exit_status == 137
        assert status.detail.startswith("stopped: ")
        assert status.detail.endswith("processes and threads, the policy allows 20")


@BOTH
def test_sw47_more_memory_than_it_may_have_is_refused_to_a_process(tmp_path: Path, manager: ProcessManager) -> None:
    program = "x = bytearray(300 << 20)"
    pair = make_pair(tmp_path / "D", program, limits=Limits(memory=200 << 20))
    assert asyncio.run(run_program(manager, pair)).exit_status == 1
    assert "MemoryError" in log_of(pair)
    enough = make_pair(tmp_path / "D", program, name="pair-2", limits=Limits(memory=600 << 20))
    assert asyncio.run(run_program(manager, enough)).exit_status == 0


@BOTH
def test_sw47_all_processes_together_have_no_more_memory(tmp_path: Path, manager: ProcessManager) -> None:
    program = "import os, time\nfor n in range(3):\n  if os.fork() == 0: break\nx = b'x' * (80 << 20)\ntime.sleep(100)"
    pair = make_pair(tmp_path / "D", program, limits=Limits(memory=200 << 20))
    status = asyncio.run(run_program(manager, pair))
    assert status.exit_status == 137
    assert status.detail.startswith("stopped: ")
    assert status.detail.endswith("of memory in use, the policy allows 200 MiB")


@BOTH
def test_sw47_memory_that_forks_share_counts_once(tmp_path: Path, manager: ProcessManager) -> None:
    program = (
        "import os, time\nx = b'x' * (80 << 20)\n"
        "for n in range(4):\n  if os.fork() == 0: time.sleep(1.5); os._exit(0)\n"
        "for n in range(4): os.wait()"
    )
    pair = make_pair(tmp_path / "D", program, limits=Limits(memory=200 << 20))
    assert asyncio.run(run_program(manager, pair)).exit_status == 0


@BOTH
def test_sw47_files_cores_and_cpus_are_limited(tmp_path: Path, manager: ProcessManager) -> None:
    program = (
        "import os, resource; print(resource.getrlimit(resource.RLIMIT_NOFILE), "
        "resource.getrlimit(resource.RLIMIT_CORE), len(os.sched_getaffinity(0)))"
    )
    pair = make_pair(tmp_path / "D", program, limits=Limits(open_files=77, cpus=0.5))
    asyncio.run(run_program(manager, pair))
    assert log_of(pair) == "(77, 77) (0, 0) 1\n"


@BOTH
def test_sw47_a_program_that_runs_for_too_long_is_stopped(tmp_path: Path, manager: ProcessManager) -> None:
    program = "import time; print('begun', flush=True); time.sleep(100)"
    pair = make_pair(tmp_path / "D", program, limits=Limits(run_time_s=0.5))
    status = asyncio.run(run_program(manager, pair))
    assert (status.exit_status, status.detail) == (124, "stopped after 0.5 s, the policy's run_time")
    assert log_of(pair) == "begun\n\n[stopped after 0.5 s, the policy's run_time]\n"


@BOTH
def test_sw42_stopping_asks_first(tmp_path: Path, manager: ProcessManager) -> None:
    program = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('bye'))\nprint('ready', flush=True)\ntime.sleep(100)"
    )
    pair = make_pair(tmp_path / "D", program)

    async def main() -> None:
        prepare(pair)
        await manager.start_ml(pair)
        await wait_for(lambda: "ready" in log_of(pair))
        await manager.stop(pair, Part.ML, 20)
        assert (await manager.look(pair)).ml.exit_status == 1

    asyncio.run(main())
    assert log_of(pair) == "ready\nbye\n"


@BOTH
def test_sw42_a_program_that_ignores_it_is_made_to_end(tmp_path: Path, manager: ProcessManager) -> None:
    program = (
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('no', flush=True))\nprint('ready', flush=True)\n"
        "while True: time.sleep(100)"
    )
    pair = make_pair(tmp_path / "D", program)

    async def main() -> None:
        prepare(pair)
        await manager.start_ml(pair)
        await wait_for(lambda: "ready" in log_of(pair))
        begin = time.monotonic()
        await manager.stop(pair, Part.ML, 0.5)
        assert 0.4 < time.monotonic() - begin < 20
        assert (await manager.look(pair)).ml.exit_status == 137

    asyncio.run(main())
    assert log_of(pair) == "ready\nno\n"


@BOTH
def test_sw42_what_a_program_leaves_behind_ends_with_it(tmp_path: Path, manager: ProcessManager) -> None:
    """In a session of its own, twice forked, and deaf: nobody's child any more but the shim's."""
    (tmp_path / "shared").mkdir()
    program = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open(sys.argv[1] + '/pid', 'w').write(str(os.getpid()))
        while True: time.sleep(100)
    os._exit(0)
while not os.path.exists(sys.argv[1] + '/pid'): time.sleep(0.01)
"""
    place = f"/platform/shared-{secrets.token_hex(8)}"
    pair = make_pair(tmp_path / "D", program, body_shared_content=(shared(tmp_path / "shared", place),))
    body = msgspec.structs.replace(pair.body, command=f"{pair.body.command} {place}")
    pair = msgspec.structs.replace(pair, body=body)
    status = asyncio.run(run_program(manager, pair))
    assert status.exit_status == 0
    assert (tmp_path / "shared" / "pid").exists()
    assert list(find_named(place.encode())) == []


def find_named(text: bytes) -> Iterator[int]:
    """Running processes with a word on their command line, other than this one."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            try:
                if text in (path / "cmdline").read_bytes() and is_running(int(path.name)):
                    yield int(path.name)
            except OSError:
                continue


# --- the log --------------------------------------------------------------------------------------------------------


@BOTH
def test_sw48_a_flood_keeps_beginning_and_end(tmp_path: Path, manager: ProcessManager) -> None:
    program = "print('first')\nfor n in range(200_000): print('line', n)\nprint('last')"
    pair = make_pair(tmp_path / "D", program, limits=Limits(log=100_000))
    assert asyncio.run(run_program(manager, pair)).exit_status == 0
    said = log_of(pair)
    assert len(said) <= 100_000
    assert len(said) > 40_000
    assert said.startswith("first\nline 0\nline 1\n")
    assert said.endswith("line 199999\nlast\n")
    assert said.count("bytes left out: the log may have 100000 ...]") == 1
    written = len("first\nlast\n") + sum(len(f"line {n}\n") for n in range(200_000))
    left_out = int(said.partition("[... ")[2].partition(" bytes")[0])
    note = next(line for line in said.splitlines(keepends=True) if "left out" in line)
    assert left_out + len(said) - len("\n" + note) == written


def test_sw48_a_log_goes_on_after_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"before\n")
    Log(str(path), 1 << 20).write(b"after\n")
    assert path.read_bytes() == b"before\nafter\n"


def test_sw48_a_link_in_the_logs_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "log").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"):
        Log(str(tmp_path / "log"), 1000)


def test_sw48_bytes_that_the_disk_does_not_take_are_counted_and_told(tmp_path: Path) -> None:
    """RLIMIT_FSIZE stands for a full disk; that it is raised for one with room again."""
    program = f"""
import resource, sys
from swarmlearning.swop.managers.process_files import Log
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
log = Log({str(tmp_path / "log")!r}, 1 << 20)
for _ in range(5): log.write(b"x" * 300)
print(log.lost)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.write(b"again")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "500\n"
    text = (tmp_path / "log").read_text()
    assert text == "x" * 1000 + "\n[500 bytes were lost: the disk did not take them]\nagain"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "none", str(place)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small disk, and not everywhere")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@BOTH
def test_sw48_a_full_disk_stops_no_program_and_costs_no_exit_status(
    small_disk: Path, tmp_path: Path, sandbox: bool
) -> None:
    manager = open_manager(small_disk / "D", sandbox=sandbox)
    program = """
import os
path = os.environ["HOME"] + "/fill"
try:
    with open(path, "wb", buffering=0) as file:
        while True: file.write(b"x" * 4096)
except OSError as error:
    print(error.strerror, "y" * 300_000, flush=True)
raise SystemExit(7)
"""
    pair = make_pair(small_disk / "D", program)
    status = asyncio.run(run_program(manager, pair))
    assert status.exit_status == 7
    assert log_of(pair) in ("", "No space left on device ") or log_of(pair).startswith("No space")
    spoken = json.loads((Path(pair.directory) / "parts" / "ml" / "status.json").read_bytes())
    assert spoken["log_lost"] > 0


# --- words ----------------------------------------------------------------------------------------------------------


def test_durations_and_sizes_are_shown_in_whole_units() -> None:
    assert [show_duration(s) for s in (43_200, 5_400, 90, 0.5)] == ["12 h", "90 min", "90 s", "0.5 s"]
    assert [show_bytes(n) for n in (1 << 30, 1536 << 20, 5 << 10, 7)] == ["1 GiB", "1.5 GiB", "5 KiB", "7 bytes"]
