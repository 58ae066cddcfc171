"""What containers print, copied to files: nothing twice, nothing left out. Spec: docs/spec/swop-containers.md."""

import asyncio
import random
from pathlib import Path

import pytest
from containers_world import make_pair, make_settings, open_at, read, run, until
from fake_engine import FakeEngine, Fault

from swarmlearning.swop.managers.boundary import Part, PartState
from swarmlearning.swop.managers.docker_manager import ContainerManager
from swarmlearning.swop.policy import Limits
from swarmlearning.swop.profile import ManagerKind

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # see conftest


async def until_read(path: str, text: str) -> None:
    async def there() -> bool:
        return read(path) == text

    await until(f"{path} holds {text[-60:]!r}, got {read(path)[-60:]!r}", there)


def test_sw77_logs_are_copied_while_they_are_written(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path)

    async def main() -> None:
        await docker_manager.start_sl(pair)
        await docker_manager.start_ml(pair)
        fake.say(fake.of("sl"), "I am the SL\n")
        fake.say(fake.of("ml"), "epoch 1\n")
        await until_read(pair.sl_log, "I am the SL\n")
        await until_read(pair.ml_log, "epoch 1\n")
        assert Path(pair.ml_log).stat().st_mode & 0o777 == 0o600  # noqa: ASYNC240
        fake.say(fake.of("ml"), "a line in ")  # as engines hand out long lines
        fake.say(fake.of("ml"), "two pieces\n")
        await until_read(pair.ml_log, "epoch 1\na line in two pieces\n")

    run(docker_manager, main())


def test_sw77_who_is_told_that_a_program_has_ended_finds_its_last_words(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path)
    lines = "".join(f"line {number}\n" for number in range(5000))

    async def main() -> None:
        await docker_manager.start_ml(pair)
        ml = fake.of("ml")
        fake._do(lambda: ml.log.extend(("2030-01-01T00:00:00.5Z", line.encode()) for line in lines.splitlines(True)))
        fake.end(ml, 1)
        assert (await docker_manager.look(pair)).ml.state is PartState.EXITED
        assert read(pair.ml_log) == lines

    run(docker_manager, main())


@pytest.mark.parametrize("stamps", ["nanoseconds", "seconds", "out of order", "the same", "another zone"])
def test_sw77_after_a_restart_copying_goes_on_where_it_was(
    stamps: str, fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(7)
    pair = make_pair(tmp_path)

    def stamp(number: int) -> str:
        second, millis = divmod(number * 137, 1000)
        match stamps:
            case "seconds":
                return f"2030-01-01T00:00:{second:02}Z"
            case "out of order":
                at = max(number * 137 + draw.randrange(-900, 900), 0)
                return f"2030-01-01T00:00:{at // 1000:02}.{at % 1000:03}000000Z"
            case "the same":
                return "2030-01-01T00:00:00.123456789Z"
            case "another zone":
                return f"2030-01-01T05:30:{second:02}.{millis:03}+05:30"
            case _:
                return f"2030-01-01T00:00:{second:02}.{millis:03}000001Z"

    async def main() -> None:
        told = ""
        for round_ in range(6):
            manager = open_at(fake.socket, make_settings(tmp_path), monkeypatch, ManagerKind.DOCKER)
            if round_ == 0:
                await manager.start_ml(pair)
            await manager.adopt(pair)
            await manager.adopt(pair)
            for _ in range(20):
                number = len(fake.of("ml").log)
                fake.say(fake.of("ml"), f"line {number}\n", stamp(number))
                told += f"line {number}\n"
            await until_read(pair.ml_log, told)
            await manager.close()
        for _ in range(5):  # while no agent runs
            number = len(fake.of("ml").log)
            fake.say(fake.of("ml"), f"line {number}\n", stamp(number))
            told += f"line {number}\n"
        fake.end(fake.of("ml"), 0)
        manager = open_at(fake.socket, make_settings(tmp_path), monkeypatch, ManagerKind.DOCKER)
        await manager.adopt(pair)
        assert (await manager.look(pair)).ml.state is PartState.EXITED
        assert read(pair.ml_log) == told
        await manager.close()

    asyncio.run(main())


def test_sw77_what_was_written_after_the_last_note_is_not_there_twice(
    fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent was killed between writing to the log and noting that it did."""
    pair = make_pair(tmp_path)

    async def main() -> None:
        manager = open_at(fake.socket, make_settings(tmp_path), monkeypatch, ManagerKind.DOCKER)
        await manager.start_ml(pair)
        fake.say(fake.of("ml"), "one\n")
        await until_read(pair.ml_log, "one\n")
        await manager.close()
        with Path(pair.ml_log).open("a") as log:  # noqa: ASYNC230
            log.write("tw")
        fake.say(fake.of("ml"), "two\n")
        again = open_at(fake.socket, make_settings(tmp_path), monkeypatch, ManagerKind.DOCKER)
        await again.adopt(pair)
        await until_read(pair.ml_log, "one\ntwo\n")
        await again.close()

    asyncio.run(main())


def test_sw77_an_engine_that_goes_away_and_comes_back_costs_no_line(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path)

    async def main() -> None:
        await docker_manager.start_ml(pair)
        fake.say(fake.of("ml"), "before\n")
        await until_read(pair.ml_log, "before\n")
        fake.stop()
        fake.of("ml").log.append(("2030-01-01T00:00:00Z", b"meanwhile\n"))
        fake.faults["GET", "/containers/[^/]+/logs"] = Fault(status=500, times=1)
        fake.start()
        fake.say(fake.of("ml"), "after\n")
        await until_read(pair.ml_log, "before\nmeanwhile\nafter\n")

    run(docker_manager, main())


def test_sw77_a_log_has_an_end_and_the_programs_last_lines(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path, limits=Limits(log=4000))

    async def main() -> None:
        await docker_manager.start_ml(pair)
        ml = fake.of("ml")
        for number in range(1000):
            ml.log.append((f"2030-01-01T00:{number // 60:02}:{number % 60:02}Z", f"line {number}\n".encode()))
        fake.say(ml, "Traceback: out of luck\n")

        async def cut() -> bool:
            return "left out" in read(pair.ml_log)

        await until("the log is cut", cut)
        assert len(read(pair.ml_log)) <= 4000
        fake.end(ml, 1)
        await docker_manager.look(pair)
        log = read(pair.ml_log)
        assert log.startswith("line 0\nline 1\n")
        assert "\n(more than 4000 bytes: what follows is left out, but for the end)\n" in log
        assert log.endswith("line 999\nTraceback: out of luck\n")
        assert len(log) <= 4000

    run(docker_manager, main())


def test_sw77_a_log_that_was_cut_stays_so_after_a_restart(
    fake: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make_pair(tmp_path, limits=Limits(log=1000))

    async def main() -> None:
        manager = open_at(fake.socket, make_settings(tmp_path), monkeypatch, ManagerKind.DOCKER)
        await manager.start_ml(pair)
        fake.say(fake.of("ml"), "x" * 5000 + "\n")

        async def cut() -> bool:
            return "left out" in read(pair.ml_log)

        await until("the log is cut", cut)
        await manager.close()
        before = read(pair.ml_log)
        again = open_at(fake.socket, make_settings(tmp_path), monkeypatch, ManagerKind.DOCKER)
        await again.adopt(pair)
        fake.say(fake.of("ml"), "the end\n")
        assert read(pair.ml_log) == before
        fake.end(fake.of("ml"), 0)
        await again.look(pair)
        assert read(pair.ml_log).endswith("the end\n")
        assert len(read(pair.ml_log)) <= 1000
        await again.close()

    asyncio.run(main())


@pytest.mark.parametrize("noise", [b"no stamp at all\n", b"\xff\xfe\x00 bytes\n", b"9999-99-99T99:99:99Z x\n", b"\n"])
def test_sw77_whatever_a_program_prints_is_copied(
    noise: bytes, fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path)

    async def main() -> None:
        await docker_manager.start_ml(pair)
        fake.of("ml").log.append(("2030-01-01T00:00:00Z", noise))
        fake.say(fake.of("ml"), "end\n")

        async def there() -> bool:
            return read_bytes(pair.ml_log) == noise + b"end\n"

        await until("it is there", there)

    run(docker_manager, main())


def read_bytes(path: str) -> bytes:
    return Path(path).read_bytes() if Path(path).exists() else b""


def test_sw77_removing_a_pair_waits_for_the_end_of_its_logs(
    fake: FakeEngine, docker_manager: ContainerManager, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path)

    async def main() -> None:
        await docker_manager.start_ml(pair)
        fake.faults["GET", "/containers/[^/]+/logs"] = Fault(status=0, delay_s=0.3)
        fake.say(fake.of("ml"), "last words\n")
        await docker_manager.stop(pair, Part.ML, 1.0)
        await docker_manager.remove(pair)
        assert read(pair.ml_log) == "last words\n"

    run(docker_manager, main())
