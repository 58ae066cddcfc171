"""Tasks MAKE_SWARM_USER_CONTENT, carried out with a real server. SW-67, SW-68, SW-69."""

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from archive_forge import make_zip, member, tar
from content_server import CONTENT, serve

from swarmlearning.contracts.task_records import TaskType
from swarmlearning.errors import TaskFailed
from swarmlearning.swop.content.names import check_path, volume_names
from swarmlearning.swop.content.preparing import prepare_content
from swarmlearning.swop.policy import Limits
from swarmlearning.tasks.bodies import MakeContent, parse_body

LIMITS = Limits()


class World:
    """A directory that is filled, and what is told of it."""

    def __init__(self, directory: Path) -> None:
        self.volume = directory / "volume"
        self.volume.mkdir()
        self.log = directory / "task.log"
        self.told: list[str] = []

    async def run(
        self, *steps: str, limits: Limits = LIMITS, allow: Callable[[str], bool] = bool
    ) -> None:  # fmt: skip
        lines = ("ContentType: BUILDCONTENT", "OpsList:", *(f"- {step}" for step in steps))
        body = parse_body(TaskType.MAKE_SWARM_USER_CONTENT, lines)
        assert isinstance(body, MakeContent)
        await prepare_content(body, self.volume, limits, allow, self.told.append, self.log)

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.volume)) for path in self.volume.rglob("*") if path.is_file())


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def download(url: str, *options: str) -> str:
    return f"{{Operation: DOWNLOAD, Target: '{url}', Options: [{', '.join(f'{{{each}}}' for each in options)}]}}"


def extract(target: str, *options: str) -> str:
    return f"{{Operation: EXTRACT, Target: '{target}', Options: [{', '.join(f'{{{each}}}' for each in options)}]}}"


async def test_sw67_steps_are_done_in_order_and_told(world: World) -> None:
    (world.volume / "a.tgz").write_bytes(gzip.compress(tar(member("rows/x.csv", b"1"))))
    async with serve() as server:
        await world.run(
            download(f"{server.base}/dir/data.csv?key=secret"),
            download(
                f"{server.base}/file", "Out: /deep/er/model.bin", f"Sha256: {hashlib.sha256(CONTENT).hexdigest()}"
            ),
            download(f"{server.base}/dir/data.csv", "Out: deep/"),
            extract("a.tgz", "Out: data"),
            extract("/a.tgz"),
        )
        base = server.base
    assert world.files() == [
        "a.tgz", "data.csv", "data/rows/x.csv", "deep/data.csv", "deep/er/model.bin", "rows/x.csv",
    ]  # fmt: skip
    assert world.told[0] == f"step 1 of 5: DOWNLOAD {base}/dir/data.csv?…"
    assert world.told[-2:] == ["step 5 of 5: EXTRACT /a.tgz", "a.tgz: 1 entries, 1 bytes"]
    log = world.log.read_text()
    assert all(line in log for line in world.told)
    assert "secret" not in log


async def test_sw67_all_urls_are_allowed_before_the_first_is_asked_for(world: World) -> None:
    async with serve() as server:
        allowed = f"{server.base}/file"
        with pytest.raises(TaskFailed, match=r"other: this host's policy does not allow downloads from there"):
            await world.run(download(allowed), download(f"{server.base}/other"), allow=lambda url: url == allowed)
        assert server.asked == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("Out: ../evil",), "got one with .."),
        (("Out: a/../../evil",), "got one with .."),
        (("Out: .",), "expected the name of a file"),
        (("Out: 'a\\b'",), "expected names of printable characters"),
        (("Out: is-a-file/x",), "is a file, no directory"),
        (("Out: directory",), "is a directory; end it with /"),
    ],
)
async def test_sw67_a_file_goes_nowhere_but_into_the_volume(
    world: World, options: tuple[str, ...], reason: str
) -> None:
    (world.volume / "is-a-file").touch()
    (world.volume / "directory").mkdir()
    async with serve() as server:
        with pytest.raises(TaskFailed, match=f"step 1 of 1: Out .*{reason}"):
            await world.run(download(f"{server.base}/file", *options))
    assert world.files() == ["is-a-file"]


async def test_sw67_a_name_from_a_url_leads_nowhere_else(world: World) -> None:
    """The attack: the file's name has an encoded `/` in it, or is one of the special ones."""
    async with serve() as server:
        with pytest.raises(TaskFailed, match="it names no file"):
            await world.run(download(f"{server.base}/"))
        for name in ("..", "%2e%2e", "a%00b", "a%0ab"):
            with pytest.raises(TaskFailed, match="Out "):
                await world.run(download(f"{server.base}/{name}"))
        with pytest.raises(TaskFailed, match="status 404"):
            await world.run(download(f"{server.base}/..%2f..%2fevil"))
    assert world.files() == []


async def test_sw68_downloads_have_one_limit_together(world: World) -> None:
    async with serve() as server:
        steps = [download(f"{server.base}/file", f"Out: {number}") for number in range(3)]
        with pytest.raises(TaskFailed, match=r"step 3 of 3: .*bytes, and this host's policy allows \d+ more"):
            await world.run(*steps, limits=Limits(content=len(CONTENT) * 5 // 2))
    assert world.files() == ["0", "1"]


async def test_sw69_archives_have_one_limit_together(world: World) -> None:
    (world.volume / "a.zip").write_bytes(make_zip(("x", bytes(1000))))
    with pytest.raises(TaskFailed, match=r"step 3 of 3: a\.zip: archive: more than 500 bytes"):
        await world.run(*[extract("a.zip", f"Out: {number}") for number in range(3)], limits=Limits(content=2500))


async def test_sw69_only_files_of_the_volume_are_unpacked(world: World, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar(member("x", b"x")))
    (world.volume / "link.tar").symlink_to(tmp_path / "a.tar")
    for target in ("../a.tar", "missing.tar", "link.tar", ".", str(tmp_path / "a.tar"), "http://h/a.tar"):
        with pytest.raises(TaskFailed, match="step 1 of 1: Target "):
            await world.run(extract(target))
    assert world.files() == ["link.tar"]


async def test_sw68_another_hash_of_an_archive_is_refused(world: World) -> None:
    (world.volume / "a.tar").write_bytes(tar(member("x", b"x")))
    with pytest.raises(TaskFailed, match="its SHA-256 is"):
        await world.run(extract("a.tar", f"Sha256: {'0' * 64}"))
    assert world.files() == ["a.tar"]
    assert "failed: a.tar: its SHA-256 is" in world.log.read_text()


def test_sw67_each_peer_has_a_volume_of_its_own_where_the_task_says_so() -> None:
    build = MakeContent(content_type="BUILDCONTENT", operations=())
    assert volume_names(build, "lib", [0, 3]) == ("lib",)
    swarm = MakeContent(content_type="SWARMCONTENT", operations=())
    assert volume_names(swarm, "data", [0, 3]) == ("data-0", "data-3")


def test_paths_in_a_volume_have_plain_parts() -> None:
    assert check_path("./a/./b/", "x") == ("a", "b")
    assert check_path("", "x") == check_path(".", "x") == ()
