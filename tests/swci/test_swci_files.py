"""Files of a session are called whatever people, archives and other programs call them."""

import asyncio
import os
from pathlib import Path

from swarmlearning.swci.contexts import IdentityPaths, MemoryContexts
from swarmlearning.swci.directory import Directory
from swarmlearning.swci.running import run_line, write_lines
from swarmlearning.swci.session import Collected, Session
from swarmlearning.swci.table import COMMANDS


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
