"""Supervision of real, tiny processes: nothing is lost of what they print, and nothing of them is left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from swarmlearning.errors import Broken, ConfigurationError
from swarmlearning.local import reaper as reaper_program
from swarmlearning.local.process import MAX_LINE_BYTES, Command, Process, Reaper, clean_line, describe_end


@pytest.fixture
def reaper() -> Iterator[Reaper]:
    made = Reaper()
    yield made
    made.close()


def python(tmp_path: Path, program: str, name: str = "peer 0") -> Command:
    return Command(
        name=name,
        argv=(sys.executable, "-I", "-S", "-u", "-c", program),
        env={"PATH": os.environ["PATH"], "GREETING": "hello"},
        log=tmp_path / "a.log",
    )


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until_gone(pid: int, limit_s: float = 10) -> bool:
    deadline = time.monotonic() + limit_s
    while is_running(pid) and time.monotonic() < deadline:
        os.sched_yield()
    return not is_running(pid)


async def first_line(lines: "asyncio.Queue[str]") -> str:
    return await asyncio.wait_for(lines.get(), 20)


def test_exit_status_and_output_arrive_whole(tmp_path: Path, reaper: Reaper) -> None:
    async def main() -> None:
        shown: list[tuple[str, str]] = []
        program = "import os,sys; print(os.environ['GREETING']); print('err', file=sys.stderr); sys.exit(7)"
        process = await Process.start(python(tmp_path, program), reaper, lambda n, t: shown.append((n, t)))
        assert await process.wait() == 7
        assert shown == [("peer 0", "hello"), ("peer 0", "err")]
        assert (tmp_path / "a.log").read_bytes() == b"hello\nerr\n"
        assert describe_end(process) == f"peer 0 ended with status 7 (err); its log is {tmp_path / 'a.log'}"
        assert process.tail() == ["hello", "err"]

    asyncio.run(main())


def test_a_death_by_signal_has_the_status_that_a_shell_shows(tmp_path: Path, reaper: Reaper) -> None:
    async def main() -> None:
        process = await Process.start(python(tmp_path, "import os; os.kill(os.getpid(), 9)"), reaper)
        assert process.status is None
        assert await process.wait() == 128 + signal.SIGKILL
        assert process.status == 128 + signal.SIGKILL

    asyncio.run(main())


def test_a_line_without_end_is_shown_in_pieces_and_logged_whole(tmp_path: Path, reaper: Reaper) -> None:
    async def main() -> None:
        shown: list[str] = []
        process = await Process.start(
            python(tmp_path, "print('x' * 100_000, end='')"), reaper, lambda _, t: shown.append(t)
        )
        assert await process.wait() == 0
        assert max(map(len, shown)) == MAX_LINE_BYTES
        assert sum(map(len, shown)) == 100_000
        assert (tmp_path / "a.log").stat().st_size == 100_000

    asyncio.run(main())


def test_a_program_that_ignores_sigterm_is_killed(tmp_path: Path, reaper: Reaper) -> None:
    async def main() -> None:
        lines: asyncio.Queue[str] = asyncio.Queue()
        program = (
            "import signal,time; signal.signal(15, lambda *_: print('no')); print('up')\nwhile True: time.sleep(60)"
        )
        process = await Process.start(python(tmp_path, program), reaper, lambda _, t: lines.put_nowait(t))
        assert await first_line(lines) == "up"
        assert await process.stop(0.3) == 128 + signal.SIGKILL
        assert await first_line(lines) == "no"  # it was asked first
        assert not is_running(process.pid)

    asyncio.run(main())


def test_a_program_that_ends_on_sigterm_is_given_the_time(tmp_path: Path, reaper: Reaper) -> None:
    async def main() -> None:
        lines: asyncio.Queue[str] = asyncio.Queue()
        program = "import signal,sys,time; signal.signal(15, lambda *_: sys.exit(5)); print('up'); time.sleep(60)"
        process = await Process.start(python(tmp_path, program), reaper, lambda _, t: lines.put_nowait(t))
        await first_line(lines)
        assert await process.stop(20) == 5

    asyncio.run(main())


def test_what_a_program_leaves_behind_ends_with_it(tmp_path: Path, reaper: Reaper) -> None:
    """The helper holds the program's output open and ignores SIGTERM; neither may keep us waiting."""
    helper = "import signal,time; signal.signal(15, signal.SIG_IGN); print('up'); time.sleep(60)"
    program = (
        "import subprocess,sys\n"
        f"p = subprocess.Popen([sys.executable, '-I', '-S', '-u', '-c', {helper!r}], stdout=subprocess.PIPE)\n"
        "p.stdout.readline(); print(p.pid); p.returncode = 0"
    )

    async def main() -> None:
        process = await Process.start(python(tmp_path, program), reaper)
        assert await asyncio.wait_for(process.wait(), 20) == 0
        assert not is_running(int(process.tail()[0]))

    asyncio.run(main())


@pytest.mark.parametrize("argv", [("no-such-command-here",), ("/",)])
def test_a_command_that_cannot_start_is_one_clear_line(tmp_path: Path, reaper: Reaper, argv: tuple[str, ...]) -> None:
    async def main() -> None:
        command = Command(name="peer 0", argv=argv, env={"PATH": os.environ["PATH"]}, log=tmp_path / "a.log")
        with pytest.raises(ConfigurationError, match=f"cannot start '{argv[0]}': ") as caught:
            await Process.start(command, reaper)
        assert "\n" not in str(caught.value)

    asyncio.run(main())


def test_supervisor_killed_outright_leaves_nothing_behind(tmp_path: Path) -> None:
    """SIGKILL gives the supervisor no chance to tidy up; the reaper's lifeline breaks all the same."""
    child = "import signal,time; signal.signal(15, signal.SIG_IGN); print('up'); time.sleep(60)"
    supervisor = f"""
import asyncio, os, sys
from pathlib import Path
from swarmlearning.local.process import Command, Process, Reaper
async def main():
    argv = (sys.executable, "-I", "-S", "-u", "-c", {child!r})
    command = Command(name="c", argv=argv, env={{}}, log=Path(sys.argv[1]))
    process = await Process.start(command, Reaper(), lambda *_: print(process.pid, flush=True))
    await process.wait()
asyncio.run(main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", supervisor, str(tmp_path / "c.log")], stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        pid = int(running.stdout.readline())
        assert is_running(pid)
        running.send_signal(signal.SIGKILL)
    assert wait_until_gone(pid)


def test_closing_the_reaper_ends_listed_groups_only(tmp_path: Path) -> None:
    async def main() -> None:
        listed, forgotten = Reaper(), Reaper()
        sleeper = "import time; time.sleep(60)"
        first = await Process.start(python(tmp_path, sleeper), listed)
        second = await Process.start(python(tmp_path, sleeper), forgotten)
        forgotten.remove(second.pid)
        listed.close()
        forgotten.close()
        assert await first.wait() == 128 + signal.SIGTERM
        assert second.status is None
        assert await second.stop(10) == 128 + signal.SIGTERM

    asyncio.run(main())


def test_a_closed_reaper_takes_no_more_groups(tmp_path: Path) -> None:
    reaper = Reaper()
    reaper.close()
    with pytest.raises(Broken, match="start again"):
        reaper.add(12345)


def test_reaper_list_refuses_groups_that_would_mean_everyone() -> None:
    lines = [b"+0\n", b"+1\n", b"+-1\n", b"+x\n", b"\n", b"+12\n", b"+34\n", b"-12\n"]
    assert reaper_program.follow(lines) == {34}


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"plain  ", "plain"),
        (b" 10%\r 50%\r100%", "100%"),
        (b"windows line\r", "windows line"),
        (b"\x1b[1;32mgreen\x1b[0m and \x1b]0;title\x07quiet", "green and quiet"),
        (b"bell\x07 back\x08 tab\tnul\x00", "bell back tab\tnul"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        ("\u00e9\u0085".encode(), "\u00e9"),
    ],
)
def test_lines_reach_the_terminal_without_control_characters(raw: bytes, shown: str) -> None:
    assert clean_line(raw) == shown
