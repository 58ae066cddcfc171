"""Removing what programs leave: SW-53. Attacks on whoever cleans up after them."""

import asyncio
import os
from pathlib import Path

from process_world import make_pair, plain_manager, run_program

from swarmlearning.swop.managers.boundary import PartState
from swarmlearning.swop.managers.build_context import remove_tree

DEEP = """
import os
os.chdir(os.environ["HOME"])
for _ in range(3000):
    os.mkdir("a")
    os.chdir("a")
"""


def test_sw53_directories_that_are_deeper_than_a_path_can_be_long_are_removed(tmp_path: Path) -> None:
    """The attack: such a tree let the agent fall over its own recursion, at every start anew."""

    async def story() -> None:
        manager = plain_manager(tmp_path)
        pair = make_pair(tmp_path, DEEP)
        assert (await run_program(manager, pair)).exit_status == 0
        await manager.remove(pair)
        assert (await manager.look(pair)).ml.state is PartState.ABSENT
        assert await manager.find_pairs() == ()

    asyncio.run(story())


def test_sw53_closed_directories_are_removed_and_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    tree = tmp_path / "tree"
    (tree / "closed" / "inner").mkdir(parents=True)
    (tree / "closed" / "inner" / "file").write_text("")
    (tree / "closed" / "link").symlink_to(outside)
    (tree / "closed" / "nowhere").symlink_to("nothing")
    os.mkfifo(tree / "pipe")
    (tree / "closed" / "inner").chmod(0o000)
    (tree / "closed").chmod(0o000)
    remove_tree(tree)
    assert not tree.exists()
    assert (outside / "kept").exists()
    alias = tmp_path / "alias"
    alias.symlink_to(outside)
    remove_tree(alias)
    assert (outside / "kept").exists()
