"""`swarm logs`, and what of logs may be told: docs/spec/swop.md, SW-10 and SW-12."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from swarmlearning.cli.main import swarm
from swarmlearning.contracts.task_records import TaskType, Unit, WorkState
from swarmlearning.errors import ConfigurationError, NotFound
from swarmlearning.swop.journal import Entry, Journal, PairEntry, Stage
from swarmlearning.swop.log_finding import find_logs, list_logs, load
from swarmlearning.swop.log_following import Follower, follow, tail_lines
from swarmlearning.swop.logfiles import hash_log, hide, last_lines, secrets_of
from swarmlearning.swop.managers.boundary import Pair
from swarmlearning.swop.policy import Limits
from swarmlearning.swop.profile import PeerNode
from swarmlearning.tasks.bodies import RunSwarm
from swarmlearning.types import Endpoint, NodeId, RunnerName, TaskName


def make_pair(data: Path, entry_id: str, idx: int, name: str) -> Pair:
    directory = data / "logs" / entry_id
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"ml-{idx}.log").write_text(f"{entry_id} program {idx}\n")
    (directory / f"sl-{idx}.log").write_text(f"{entry_id} sl {idx}\n")
    return Pair(
        id=f"{entry_id}-pair-{idx}",
        label="",
        uid=NodeId(f"spiffe://a.example/net/sl/{name}"),
        node=PeerNode(idx=idx, line=1, identity=()),
        group="tests",
        image="",
        image_id="",
        body=RunSwarm(command="x", entrypoint="y", working_dir="/"),
        sn=Endpoint(host="sn", port=1),
        host_ip="127.0.0.1",
        sl_environment=(),
        ml_environment=(),
        network=None,
        dns=(),
        online=False,
        sandboxed=True,
        limits=Limits(),
        directory=str(data / "pairs" / str(idx)),
        sl_log=str(directory / f"sl-{idx}.log"),
        ml_log=str(directory / f"ml-{idx}.log"),
    )


def put(
    data: Path, entry_id: str, number: int, *, pairs: int = 0, stage: Stage = Stage.ML, over: bool = False
) -> Entry:
    """An assignment in a journal, with logs."""
    journal = Journal(data)
    items = tuple(
        PairEntry(
            idx=idx,
            pair=make_pair(data, entry_id, idx, f"sl-{idx}"),
            unit=Unit(uid=f"sl-{idx}", state=WorkState.RUNNING),
            stage=stage,
        )
        for idx in range(pairs)
    )
    kind = TaskType.RUN_SWARM if pairs else TaskType.MAKE_USER_CONTAINER
    entry = Entry(
        id=entry_id,
        runner=RunnerName("ward"),
        number=number,
        task=TaskName("heart" if pairs else "build"),
        kind=kind,
        hash=b"h" * 32,
        assigned_ms=number,
        version=1,
        planned=max(1, pairs),
        begun_ms=number,
        since_ms=number,
        pairs=items,
        ended_ms=number if over else 0,
        cleaned=over,
    )
    journal.save(entry)
    if not pairs:
        (journal.logs_of(entry_id) / "task.log").write_text(f"{entry_id} step 1\n")
    return entry


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two trainings and a build."""
    put(tmp_path, "first", 1, pairs=2, over=True)
    put(tmp_path, "image", 2)
    put(tmp_path, "second", 3, pairs=2)
    return tmp_path


def said(data: Path, *arguments: str) -> list[str]:
    # By the root: click keeps what a command that is called by itself would show as its help.
    done = CliRunner().invoke(swarm, ["logs", "--data", str(data), *arguments])
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


@pytest.mark.parametrize("name", ["1", "sl-1", "sl-1@a.example", "second-pair-1", "spiffe://a.example/net/sl/sl-1"])
def test_sw12_an_sl_has_many_names_and_the_newest_assignment_is_meant(data: Path, name: str) -> None:
    assert said(data, name) == ["second program 1"]
    assert said(data, name, "--part", "sl") == ["second sl 1"]
    assert said(data, name, "--part", "all", "--tail", "1") == [
        "--- sl of second-pair-1",
        "second sl 1",
        "--- ml of second-pair-1",
        "second program 1",
    ]


def test_an_older_assignment_is_named_by_its_runner_and_number(data: Path) -> None:
    assert said(data, "1", "--assignment", "ward:1") == ["first program 1"]
    assert said(data, "build") == ["image step 1"]
    with pytest.raises(NotFound, match=r"no logs of nobody in assignment ward:9; there are: sl-0@a\.example"):
        find_logs(data, load(data), "nobody", "ml", "ward:9")


def test_without_a_name_it_says_what_there_is(data: Path) -> None:
    lines = said(data)
    assert lines[0].split() == ["NAME", "SL", "STATE", "ASSIGNMENT", "TASK", "BYTES", "BEGUN"]
    assert [line.split()[0] for line in lines[1:]] == [
        "second-pair-0", "second-pair-1", "build", "first-pair-0", "first-pair-1"
    ]  # fmt: skip
    sizes = {line.name: line.bytes for line in list_logs(data, load(data))}
    assert sizes["second-pair-0"] == len("second program 0\nsecond sl 0\n")
    assert sizes["build"] == len("image step 1\n")


def test_a_directory_without_a_journal_is_no_agents(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="name it by --data"):
        load(tmp_path)


def test_what_a_program_prints_steers_no_terminal(data: Path) -> None:
    path = data / "logs" / "second" / "ml-0.log"
    path.write_bytes(b"\x1b]0;title\x07plain\x1b[2J\n\xe2\x80\xaereversed\xff\r\n50 %\r100 %\n")
    assert said(data, "0") == ["plain", "?reversed�", "100 %"]


def test_follow_goes_on_until_it_ends_also_over_a_new_file(data: Path) -> None:
    """A log that is replaced or cut is read on; what was written before the end is all told."""
    path = data / "logs" / "second" / "ml-0.log"
    lines, position = tail_lines(path, None)
    steps: Iterator[str] = iter(["grow", "replace", "cut", "end"])
    over = [False]

    def sleep(_: float) -> None:
        match next(steps):
            case "grow":
                with path.open("a") as file:
                    file.write("more, and half of a")
            case "replace":
                with path.open("a") as file:
                    file.write(" line\n")
                new = path.with_suffix(".new")
                new.write_text("another file\n")
                new.replace(path)
            case "cut":
                path.write_text("cut\n")
            case _:
                with path.open("a") as file:
                    file.write("the end, without an end of line")
                over[0] = True

    told = [line for _, line in follow([(path, position)], lambda _: over[0], sleep)]
    assert [*lines, *told] == [
        "second program 0", "more, and half of a line", "another file", "cut", "the end, without an end of line"
    ]  # fmt: skip


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(1, 7))
def test_however_it_is_written_the_same_lines_are_read(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], size: int
) -> None:
    path = tmp_path_factory.mktemp("log") / "a.log"
    whole = b"\n".join(parts)
    follower = Follower(path, 0)
    told: list[str] = []
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(whole), size * 5):
            file.write(whole[start : start + size * 5])
            told += follower.read()
    told += follower.close()
    assert told == tail_lines(path, None)[0]


def test_swarm_logs_f_ends_when_the_pair_has_ended(data: Path) -> None:
    """A real process, which another one writes for."""
    path = data / "logs" / "second" / "ml-1.log"
    command = [sys.executable, "-m", "swarmlearning", "logs", "sl-1", "-f", "--data", str(data)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "second program 1\n"
        limit = threading.Timer(30, process.kill)
        limit.start()
        with path.open("a") as file:
            file.write("later\n")
        assert process.stdout.readline() == "later\n"
        journal = Journal(data)
        entry = journal.get("second")
        assert entry is not None
        ended = tuple(replace(item, stage=Stage.ENDED) if item.idx == 1 else item for item in entry.pairs)
        journal.save(replace(entry, pairs=ended))
        assert process.stdout.read() == ""
        assert process.wait(30) == 0
        limit.cancel()


# --- what may be told to others -------------------------------------------------------------


def test_sw10_last_lines_are_short_printable_and_without_the_values_of_the_profile(tmp_path: Path) -> None:
    path = tmp_path / "ml.log"
    path.write_bytes(
        b"old\n" * 50_000
        + b"1\n2\n3\n\x1b[1mlogin\x1b[0m hunter-22 at https://anna:pw@db.example/x\n\n/data/7 is empty\nend\n"
    )
    hidden = secrets_of(
        (("PASSWORD", "hunter-22"), ("EPOCHS", "7"), ("DATA", "/data/7"), ("NONE", None), ("OK", "true"))
    )
    assert hidden == {"hunter-22"}
    assert last_lines(path, hidden) == "2 | 3 | login *** at https://***@db.example/x | /data/7 is empty | end"
    path.write_text("x" * 5000)
    assert len(last_lines(path)) == 300
    assert last_lines(tmp_path / "none.log") == ""
    assert hash_log(tmp_path / "none.log") == b""


@given(st.text("abcde", min_size=4, max_size=6), st.text("abcde* ", max_size=20), st.text("abcde* ", max_size=20))
def test_sw10_a_secret_is_never_left_in_what_is_told(secret: str, before: str, after: str) -> None:
    assert secret not in hide(before + secret + after, [secret])


def test_the_last_lines_of_a_log_are_the_last(tmp_path: Path) -> None:
    path = tmp_path / "ml.log"
    path.write_text("".join(f"line {number}\n" for number in range(20_000)))
    assert tail_lines(path, 2)[0] == ["line 19998", "line 19999"]
    assert tail_lines(path, 0)[0] == []
    assert len(tail_lines(path, None)[0]) == 20_000


def test_what_a_reset_stopped_does_not_run(data: Path) -> None:
    states = {(line.assignment, line.name): line.state for line in list_logs(data, load(data))}
    assert states["ward:1", "first-pair-0"] == "STOPPED"
    assert states["ward:3", "second-pair-0"] == "RUNNING"


def test_sw10_a_crash_at_private_data_tells_where_and_not_at_what(tmp_path: Path) -> None:
    path = tmp_path / "ml.log"
    path.write_text(
        "Maria Huber;1951-03-02;positive\n"
        "Traceback (most recent call last):\n"
        '  File "/platform/model/train.py", line 12, in <module>\n'
        '    row = parse("Maria Huber;1951-03-02")\n'
        "ValueError: could not convert 'Maria Huber' of \"row\" 20241 to float\n"
    )
    assert last_lines(path, masked=True) == (
        "File \"/platform/model/train.py\", line 12 | ValueError: could not convert '***' of '***' *** to float"
    )
    path.write_text("Maria Huber;1951-03-02;positive\nno column 'age' in file 3\n")
    assert last_lines(path, masked=True) == "no column '***' in file 3"
    assert last_lines(tmp_path / "none", masked=True) == ""
