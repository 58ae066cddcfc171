"""LS: what is in a directory, for people and existing clients; what others named reaches no terminal as it came."""

import asyncio
import os
from pathlib import Path

from swarmlearning.swci.contexts import IdentityPaths, MemoryContexts
from swarmlearning.swci.directory import Directory
from swarmlearning.swci.running import run_line, write_lines
from swarmlearning.swci.session import Collected, Session
from swarmlearning.swci.table import COMMANDS


def say(root: Path, *lines: str) -> list[list[str]]:
    session = Session(
        contexts=MemoryContexts(), directory=Directory(root), output=Collected(), identity=IdentityPaths()
    )

    async def main() -> list[list[str]]:
        found = [await run_line(COMMANDS, session, line) for line in lines]
        return [write_lines(done) for done in found if done is not None]

    return asyncio.run(main())


def test_ls_tells_sizes_and_times_when_it_is_asked_to(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "a\x1b[2Jb.yaml").write_bytes(b"12345")
    plain, long, more, wrong = say(tmp_path, "LS", "ls -l", "LS -la", "LS -R")
    assert plain == ["a?[2Jb.yaml", "out/"]
    assert long[0].split()[0] == "5"
    assert " UTC  a?[2Jb.yaml" in long[0]
    assert long[1].endswith("  out/")
    assert more == long
    assert wrong == ["ERROR <option> -R: expected -l for sizes and times, or nothing"]


def test_a_link_is_listed_as_itself_wherever_it_leads(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside").write_bytes(b"x" * 4096)
    (root / "link").symlink_to(tmp_path / "outside")
    ((line,),) = say(root, "LS -l")
    assert int(line.split()[0]) != 4096


def test_ci11_a_file_may_be_called_anything_and_steers_no_terminal(tmp_path: Path) -> None:
    for name in (b"\x1b[2Jred\nTASK_STATE : COMPLETE", b"\xff.yaml"):
        (tmp_path / os.fsdecode(name)).touch()
    (tmp_path / "odd\x9b1m").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "odd\x9b1m")
    session = Session(
        contexts=MemoryContexts(), directory=Directory(tmp_path), output=Collected(), identity=IdentityPaths()
    )
    for line in ("LS", "CD link", "PWD"):
        done = asyncio.run(run_line(COMMANDS, session, line))
        assert done is not None
        assert not done.failed
        assert write_lines(done)
        assert all(shown.isprintable() for shown in write_lines(done))
        assert write_lines(done, as_json=True)
