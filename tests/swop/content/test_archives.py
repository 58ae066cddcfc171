"""Archives, good and hostile: what is in them comes out, and nothing else happens. SW-69."""

import asyncio
import gzip
import hashlib
import io
import os
import random
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from archive_forge import PACKERS, make_zip, member, overlapping_zip, tar, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarmlearning.errors import TaskFailed
from swarmlearning.swop.content import archives
from swarmlearning.swop.content.archives import unpack
from swarmlearning.swop.content.unpacking import MAX_ENTRIES, Bounds

LIMIT = 64 << 20
BOUNDS = Bounds(bytes=LIMIT)


class Place:
    """A volume's directory, with something precious beside it."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "volume"
        self.root.mkdir()
        self.precious = directory / "precious"
        self.precious.write_text("precious")
        self.archive = self.root / "a.tar"
        self.told: list[str] = []

    async def unpack(self, data: bytes, into: str = "out", bounds: Bounds = BOUNDS) -> int:
        write(self.archive, data)
        return await unpack(self.archive, self.root, (into,) if into else (), bounds, self.told.append)

    def files(self) -> dict[str, bytes]:
        """All that came out, by its path."""
        top = self.root / "out"
        return {str(path.relative_to(top)): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()}

    async def refuses(self, data: bytes, reason: str, bounds: Bounds = BOUNDS) -> None:
        with pytest.raises(TaskFailed, match=reason) as caught:
            await self.unpack(data, bounds=bounds)
        assert str(caught.value).isprintable()
        self.check_untouched()

    def check_untouched(self) -> None:
        assert self.precious.read_text() == "precious"
        assert sorted(path.name for path in self.root.parent.iterdir()) == ["precious", "volume"]
        assert [path.name for path in self.root.iterdir()] == ["a.tar"], "nothing is left of a failed archive"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


GOOD = tar(
    member("./", kind=tarfile.DIRTYPE),
    member("./data/", kind=tarfile.DIRTYPE),
    member("./data/rows.csv", b"1,2\n" * 1000),
    member("run.sh", b"#!/bin/sh\n", mode=0o4755),
    member("empty"),
)


@pytest.mark.parametrize("packing", list(PACKERS))
async def test_sw69_tar_comes_out_however_it_is_packed(place: Place, packing: str) -> None:
    data = PACKERS[packing](GOOD)
    assert await place.unpack(data) == 4010
    assert place.files() == {"data/rows.csv": b"1,2\n" * 1000, "empty": b"", "run.sh": b"#!/bin/sh\n"}
    script = place.root / "out" / "run.sh"
    assert script.stat().st_mode & 0o7777 == 0o755 & ~_umask()
    assert place.told[-1] == "a.tar: 5 entries, 4010 bytes"
    assert sorted(path.name for path in place.root.iterdir()) == ["a.tar", "out"]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
async def test_sw69_zip_comes_out(place: Place, method: int) -> None:
    await place.unpack(make_zip(("d/", b""), ("d/x", b"abc" * 100), ("y", b""), method=method))
    assert place.files() == {"d/x": b"abc" * 100, "y": b""}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
async def test_sw69_what_pythons_own_writer_makes_comes_out(place: Place, form: int) -> None:
    file = io.BytesIO()
    names = ["a" * 90 + "/" + "b" * 90, "é", "x"] if form != tarfile.USTAR_FORMAT else ["a" * 90 + "/" + "b" * 90, "x"]
    with tarfile.open(fileobj=file, mode="w:gz", format=form) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    await place.unpack(file.getvalue())
    assert sorted(place.files()) == sorted(names)


async def test_sw69_archives_of_the_systems_tar_come_out(place: Place, tmp_path: Path) -> None:
    source = tmp_path / "volume" / "source"
    source.mkdir()
    (source / "x").write_text("abc")
    (source / "link").symlink_to("x")
    os.link(source / "x", source / "same")
    for flag, name in (("z", "a.tgz"), ("j", "a.tbz"), ("J", "a.txz")):
        done = await asyncio.to_thread(
            subprocess.run, ["tar", f"-c{flag}f", str(tmp_path / name), "-C", str(source), "."], capture_output=True
        )
        if done.returncode:
            pytest.skip("this machine's tar cannot pack like that")
        place.archive = place.root / name
        await place.unpack((tmp_path / name).read_bytes())
        assert place.files() == {"x": b"abc", "link": b"abc", "same": b"abc"}


async def test_sw69_links_to_files_of_the_archive_are_those_files_once_more(place: Place) -> None:
    await place.unpack(
        tar(
            member("d/first", kind=tarfile.SYMTYPE, link="../x"),
            member("second", kind=tarfile.SYMTYPE, link="./d/first"),
            member("x", b"abc"),
            member("third", kind=tarfile.LNKTYPE, link="x"),
        )
    )
    assert place.files() == {"d/first": b"abc", "second": b"abc", "third": b"abc", "x": b"abc"}
    assert not any(path.is_symlink() for path in place.root.rglob("*"))


async def test_sw69_content_is_merged_into_what_is_there_and_replaces_files(place: Place) -> None:
    (place.root / "out" / "d").mkdir(parents=True)
    (place.root / "out" / "d" / "old").write_text("old")
    (place.root / "out" / "d" / "x").write_text("old")
    await place.unpack(tar(member("d/x", b"new")))
    assert place.files() == {"d/old": b"old", "d/x": b"new"}
    with pytest.raises(TaskFailed, match="a file here and a directory there"):
        await place.unpack(tar(member("d", b"new")))


async def test_sw69_an_archive_may_replace_itself(place: Place) -> None:
    await place.unpack(tar(member("a.tar", b"new")), into="")
    assert place.archive.read_bytes() == b"new"


# --- attacks --------------------------------------------------------------------------------------------------------

NAMES = ["../evil", "a/../../evil", "/etc/evil", "//evil", "..", "a/..", "a//b", "a\\..\\evil", "a\x1b[31m", "a\u202eb"]


@pytest.mark.parametrize("name", NAMES)
async def test_sw69_a_name_that_leads_out_is_refused(place: Place, name: str) -> None:
    await place.refuses(tar(member("good", b"x"), member(name, b"evil")), "a.tar: archive: ")


async def test_sw69_an_absolute_name_is_called_one(place: Place) -> None:
    await place.refuses(tar(member("/etc/evil", b"evil")), "got an absolute one")


@pytest.mark.parametrize("name", [*(name for name in NAMES if "\\" not in name), "C:\\evil"])
async def test_sw69_a_name_in_a_zip_that_leads_out_is_refused(place: Place, name: str) -> None:
    await place.refuses(make_zip(("good", b"x"), (name, b"evil")), "a.tar: archive: ")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x" * 256, "names of at most 255 bytes"),
        ("/".join(["d" * 100] * 12), "1024 in all"),
        ("/".join(["d"] * 33), "32 deep"),
        ("\udc80", "printable characters"),
    ],
)
async def test_sw69_huge_deep_and_broken_names_are_refused(place: Place, name: str, reason: str) -> None:
    await place.refuses(tar(member(name, b"x")), reason)


async def test_sw69_nothing_is_written_through_a_link_out(place: Place) -> None:
    """The attack: a link that leads out of the archive, then a file behind it."""
    out = str(place.root.parent)
    for link in (out, "../..", "/etc", "d/../../../x"):
        await place.refuses(
            tar(member("way", kind=tarfile.SYMTYPE, link=link), member("way/precious", b"evil")), "archive: "
        )


async def test_sw69_a_link_to_a_directory_is_refused(place: Place) -> None:
    inside = [member("d/", kind=tarfile.DIRTYPE), member("way", kind=tarfile.SYMTYPE, link="d")]
    await place.refuses(tar(*inside), "a link to d, no file of the archive")
    await place.refuses(tar(*inside, member("way/x", b"x")), "archive: ")
    await place.refuses(tar(member("way", kind=tarfile.SYMTYPE, link=".")), "no file of the archive")


async def test_sw69_a_link_to_itself_or_in_a_circle_is_refused(place: Place) -> None:
    await place.refuses(tar(member("a", kind=tarfile.SYMTYPE, link="a")), "no file of the archive")
    circle = [member("a", kind=tarfile.SYMTYPE, link="b"), member("b", kind=tarfile.SYMTYPE, link="a")]
    await place.refuses(tar(*circle), "no file of the archive")


async def test_sw69_a_hard_link_to_a_file_of_the_host_is_refused(place: Place) -> None:
    for link in ("/etc/passwd", "../precious", "../../../../../../../etc/passwd"):
        await place.refuses(tar(member("evil", kind=tarfile.LNKTYPE, link=link)), "a link out of it")
    await place.refuses(tar(member("evil", kind=tarfile.LNKTYPE, link="a.tar")), "no file of the archive")


async def test_sw69_a_second_file_of_a_name_is_refused(place: Place) -> None:
    """The attack: the second one is written through the link that the first one is."""
    twice = [member("x", kind=tarfile.SYMTYPE, link="y"), member("y", b"y"), member("x", b"evil")]
    await place.refuses(tar(*twice), "x is in it twice")
    await place.refuses(tar(member("x", b"1"), member("./x", b"2")), "is in it twice")
    await place.refuses(tar(member("x", b"1"), member("x/y", b"2")), "is a file, no directory")
    await place.refuses(tar(member("x/y", b"1"), member("x", b"2")), "cannot be unpacked")


@pytest.mark.parametrize(
    ("kind", "name"), [(tarfile.CHRTYPE, "char"), (tarfile.BLKTYPE, "block"), (tarfile.FIFOTYPE, "fifo")]
)
async def test_sw69_devices_and_pipes_are_refused(place: Place, kind: bytes, name: str) -> None:
    await place.refuses(tar(member(name, kind=kind)), "a device or pipe")


async def test_sw69_a_pipe_in_a_zip_is_refused(place: Place) -> None:
    await place.refuses(make_zip(("x", b""), mode=0o010644), "a device or pipe")


async def test_sw69_a_link_in_a_zip_is_as_one_in_a_tar(place: Place) -> None:
    await place.refuses(make_zip(("x", b"/etc/passwd"), mode=0o120777), "a link out of it")
    await place.refuses(make_zip(("x", b"../../precious"), mode=0o120777), "a link out of it")


async def test_sw69_a_bomb_is_recognised_before_it_has_gone_off(place: Place) -> None:
    """80 MiB of zeros are 80 KiB packed: a thousand times as much."""
    for pack in (gzip.compress, PACKERS["bz2"], PACKERS["xz"]):
        data = pack(tar(member("x", bytes(80 << 20))))
        await place.refuses(data, "it is a bomb", bounds=Bounds(bytes=1 << 40))


async def test_sw69_what_passes_for_names_is_bounded_too(place: Place) -> None:
    """The attack: a name of 3 GiB, which tarfile would read whole."""
    head = tarfile.TarInfo("././@LongLink")
    head.type = tarfile.GNUTYPE_LONGNAME
    head.size = 3 << 30
    await place.refuses(head.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20), "bytes of names and attributes")
    head = tarfile.TarInfo("pax")
    head.type = tarfile.XHDTYPE
    head.size = 3 << 30
    await place.refuses(head.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20), "bytes of names and attributes")


async def test_sw69_headers_of_headers_of_headers_are_refused(place: Place) -> None:
    """The attack: each says that another one follows; tarfile calls itself for each."""
    head = member("pax", b"13 path=xyzw\n", kind=tarfile.XHDTYPE)
    await place.refuses(head * 5000 + tar(member("x", b"x")), "a.tar: ")


async def test_sw69_no_more_bytes_than_the_policy_allows(place: Place) -> None:
    data = tar(member("x", bytes(600)), member("y", bytes(600)))
    await place.refuses(data, "more than 1000 bytes", bounds=Bounds(bytes=1000))
    await place.refuses(make_zip(("x", bytes(600)), ("y", bytes(600))), "more than 1000", bounds=Bounds(bytes=1000))
    links = [member("x", bytes(600)), member("y", kind=tarfile.LNKTYPE, link="x")]
    await place.refuses(tar(*links), "more than 1000 bytes", bounds=Bounds(bytes=1000))
    assert await place.unpack(data, bounds=Bounds(bytes=1200)) == 1200


async def test_sw69_no_more_entries_than_the_limit(place: Place) -> None:
    """The attack: a million empty files in a few kilobytes."""
    entries = b"".join(member(f"{number}") for number in range(1500))
    await place.refuses(gzip.compress(tar(entries)), "more than 1000 files", bounds=Bounds(bytes=LIMIT, entries=1000))
    data = make_zip(*((str(number), b"") for number in range(1500)))
    await place.refuses(data, "more than 1000 files", bounds=Bounds(bytes=LIMIT, entries=1000))


async def test_sw69_a_million_directories_of_one_name_are_entries_too(place: Place) -> None:
    once = member("d/", kind=tarfile.DIRTYPE)
    packed = gzip.compress(once * 2000) * 500 + gzip.compress(tar())
    await place.refuses(packed, f"more than {MAX_ENTRIES} files and directories")


async def test_sw69_files_of_a_zip_that_lie_over_each_other_are_refused(place: Place) -> None:
    """The attack: a thousand files of 10 MiB, all of which are the same 10 KiB."""
    await place.refuses(overlapping_zip(1000, 10 << 20), "lies over another file", bounds=Bounds(bytes=1 << 40))


async def test_sw69_a_huge_table_of_contents_is_not_read(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_DIRECTORY", 10_000)
    data = make_zip(*((str(number), b"") for number in range(1500)))
    await place.refuses(data, "its table of contents has more than 10000 bytes")


async def test_sw69_files_with_holes_are_refused(place: Place) -> None:
    """The attack: a file of 1 TiB in 512 bytes."""
    info = tarfile.TarInfo("sparse")
    info.type = tarfile.GNUTYPE_SPARSE
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[386 : 386 + 24] = b"%011o\0%011o\0" % (0, 0)
    head[483:495] = b"\x80" + (1 << 40).to_bytes(11, "big")
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    await place.refuses(tar(bytes(head)), "has holes")


@pytest.mark.parametrize("packing", list(PACKERS))
async def test_sw69_a_truncated_archive_is_damaged_wherever_it_ends(place: Place, packing: str) -> None:
    body = random.Random(1).randbytes(20_000)
    data = PACKERS[packing](tar(member("x", body), member("y", body)))
    for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        await place.refuses(data[: int(len(data) * share)], "a.tar: ")
    if packing == "plain":
        await place.refuses(data[:-1024], "damaged, or ends early")
        await place.refuses(data[: len(data) // 2 - 512], "a.tar: ")


async def test_sw69_a_damaged_header_is_not_taken_for_the_end(place: Place) -> None:
    data = bytearray(tar(member("x", b"x"), member("y", b"y")))
    data[1024 + 10] ^= 1
    await place.refuses(bytes(data), "damaged, or ends early")


async def test_sw69_a_wrong_checksum_of_a_packed_tar_or_zip_is_noticed(place: Place) -> None:
    data = bytearray(gzip.compress(GOOD))
    data[-8] ^= 1
    await place.refuses(bytes(data), "damaged")
    data = bytearray(make_zip(("x", b"abcdefgh" * 10), method=zipfile.ZIP_STORED))
    data[50] ^= 1
    await place.refuses(bytes(data), "CRC")


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"hello", bytes(10), bytes(2000), b"\x1f\x8b", b"%PDF-1.4" * 99])
async def test_sw69_what_is_no_archive_is_said_to_be_none(place: Place, data: bytes) -> None:
    await place.refuses(data, "a.tar: ")


async def test_sw69_an_encrypted_zip_is_refused(place: Place) -> None:
    data = bytearray(make_zip(("x", b"abc"), method=zipfile.ZIP_STORED))
    directory = data.index(b"PK\x01\x02")
    data[directory + 8] |= 1
    data[6] |= 1
    await place.refuses(bytes(data), "is encrypted")


async def test_sw69_another_hash_than_the_tasks_is_refused_before_anything_comes_out(place: Place) -> None:
    write(place.archive, GOOD)
    with pytest.raises(TaskFailed, match="its SHA-256 is"):
        await unpack(place.archive, place.root, (), BOUNDS, place.told.append, "0" * 64)
    place.check_untouched()
    await unpack(place.archive, place.root, (), BOUNDS, place.told.append, hashlib.sha256(GOOD).hexdigest())


async def test_sw69_a_cancelled_archive_leaves_nothing(place: Place) -> None:
    body = random.Random(1).randbytes(40 << 20)
    write(place.archive, gzip.compress(tar(member("x", body)), 1))
    running = asyncio.create_task(unpack(place.archive, place.root, ("out",), BOUNDS, place.told.append))
    async with asyncio.timeout(20):
        while not list(place.root.glob(".*.unpacked/x")):
            assert not running.done()
            await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    place.check_untouched()


PROGRAM = """
import asyncio, resource, sys
from pathlib import Path
from swarmlearning.errors import TaskFailed
from swarmlearning.swop.content.archives import unpack
from swarmlearning.swop.content.unpacking import Bounds
resource.setrlimit(resource.RLIMIT_DATA, (200 << 20, 200 << 20))
archive = Path(sys.argv[1])
try:
    asyncio.run(unpack(archive, archive.parent, ("out",), Bounds(bytes=1 << 40), lambda text: None))
except TaskFailed as error:
    print(error)
else:
    print("a.tar: came out")
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""


@pytest.mark.parametrize("kind", ["bomb", "names", "overlap", "many"])
def test_sw69_memory_stays_small_whatever_an_archive_says(tmp_path: Path, kind: str) -> None:
    name = member("././@LongLink", bytes(200 << 20), kind=tarfile.GNUTYPE_LONGNAME)
    makers: dict[str, Callable[[], bytes]] = {
        "bomb": lambda: gzip.compress(tar(member("x", bytes(256 << 20))), 1),
        "names": lambda: gzip.compress(tar(name), 1),
        "overlap": lambda: overlapping_zip(20_000, 10 << 20),
        "many": lambda: gzip.compress(member("d/", kind=tarfile.DIRTYPE) * 1000) * 190 + gzip.compress(tar()),
    }
    archive = write(tmp_path / "a.tar", makers[kind]())
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(archive)], capture_output=True, text=True, timeout=100, check=True
    )
    said, peak = done.stdout.splitlines()[:-1], int(done.stdout.splitlines()[-1])
    assert said[0].startswith("a.tar: "), said
    assert "memory" not in said[0]
    assert peak < 60_000, f"{peak} KiB"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
@given(data=st.data())
def test_sw69_whatever_bytes_come_as_an_archive_nothing_happens_outside(tmp_path: Path, data: st.DataObject) -> None:
    """Good archives, bytes of which are changed, left out or doubled."""
    good = data.draw(st.sampled_from([GOOD, gzip.compress(GOOD, 1), make_zip(("a/b", b"abc"), ("c", b"d" * 99))]))
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    place_ = tmp_path / data.draw(st.integers(0, 10**9).map(str))
    place_.mkdir(exist_ok=True)
    root = place_ / "volume"
    root.mkdir(exist_ok=True)
    archive = write(root / "a", bytes(changed))
    try:
        asyncio.run(unpack(archive, root, ("out",), Bounds(bytes=1 << 20), print))
    except TaskFailed as error:
        message = str(error)
        assert [path.name for path in root.iterdir()] in (["a"], ["a", "out"], ["out", "a"])
    else:
        message = ""
    assert message.isprintable()
    assert [path.name for path in place_.iterdir()] == ["volume"]
    assert not any(path.is_symlink() for path in root.rglob("*"))
