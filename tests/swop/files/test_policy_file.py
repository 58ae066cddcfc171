"""Policies as files: what is read, what is refused, who may write them. Rules SW-25 to SW-28."""

import hashlib
import os
from pathlib import Path

import pytest

from swarmlearning.contracts.task_records import TaskType
from swarmlearning.errors import ConfigurationError
from swarmlearning.swop.policy import NO_POLICY, Hours, Limits, Policy, Rule, ShareLog
from swarmlearning.swop.policy_file import load_policy, read_policy
from swarmlearning.swop.policy_values import parse_hours
from swarmlearning.tasks.faults import Faulty

FULL = f"""\
version: 1
ask: false
allow_unsandboxed: true
network: yes
share_log: never
limits: {{memory: 8GiB, processes: 512, open_files: 4096, cpus: 2.5, run_time: 12h, content: 2.5GB, log: 64KiB}}
rules:
- name: heart study
  organisations: [cleveland.example, budapest.example]
  authors: [Heart-Team]
  tasks: [heart_*]
  hashes: [{"0a" * 32}]
  types: [RUN_SWARM]
  images: ["user-env-*", "python:3.*-slim"]
  entrypoints: [python3]
  mounts: [/opt/heart/./model/, heart-program]
  urls: ["https://models.example/heart/"]
  hours: [Mon-Fri 18:00-06:00, "Sat,Sun"]
  private_data: true
  network: true
- name: builds
  types: MAKE_USER_CONTAINER
"""


def read(text: str) -> Policy:
    found = read_policy(text.encode(), "policy.yaml")
    assert isinstance(found, Policy), found.lines()
    return found


def faults(text: str) -> list[str]:
    found = read_policy(text.encode(), "policy.yaml")
    assert isinstance(found, Faulty)
    return [line.removeprefix("policy.yaml ") for line in found.lines()]


def rule(*lines: str) -> str:
    return "version: 1\nrules:\n- name: r\n" + "".join(f"  {line}\n" for line in lines)


def test_sw25_every_field_is_read() -> None:
    found = read(FULL)
    assert found.digest == hashlib.sha256(FULL.encode()).digest()
    assert (found.ask, found.allow_unsandboxed, found.network, found.share_log) == (False, True, True, ShareLog.NEVER)
    assert found.limits == Limits(
        memory=8 << 30,
        processes=512,
        open_files=4096,
        cpus=2.5,
        run_time_s=43_200,
        content=2_500_000_000,
        log=64 << 10,
    )
    assert found.rules[0] == Rule(
        name="heart study",
        organisations=("cleveland.example", "budapest.example"),  # type: ignore[arg-type]  # as the reader types them
        authors=("Heart-Team",),
        tasks=("heart_*",),
        hashes=(b"\x0a" * 32,),
        types=(TaskType.RUN_SWARM,),
        images=("user-env-*", "python:3.*-slim"),
        entrypoints=("python3",),
        mounts=("/opt/heart/model", "heart-program"),
        urls=("https://models.example/heart/",),
        hours=(
            Hours(days=(0, 1, 2, 3, 4), begin=18 * 60, end=6 * 60),
            Hours(days=(5, 6), begin=0, end=24 * 60),
        ),
        private_data=True,
        network=True,
    )
    assert found.rules[1] == Rule(name="builds", types=(TaskType.MAKE_USER_CONTAINER,))
    assert found.warnings == ()


def test_sw25_what_is_left_out_has_the_careful_default() -> None:
    found = read("version: 1\n")
    assert (found.ask, found.allow_unsandboxed, found.network, found.rules) == (True, False, False, ())
    assert (found.share_log, found.limits) == (ShareLog.STARTUP, Limits())
    assert found.digest != NO_POLICY.digest
    assert read("version: 1\nrules: []\nlimits: ~\nshare_log: ~\nask: ~\n").rules == ()
    only = read(rule()).rules[0]
    assert (only.private_data, only.network, only.mounts, only.urls) == (False, False, (), ())


BAD = [
    ("ask: true\n", "line 1, version: expected a value, it is missing"),
    ("version: 2\n", "line 1, version: expected a number from 1 to 1, got '2'"),
    ("version: 1\nallow: all\n", "line 2, allow: unknown field; expected version, ask, allow_unsandboxed"),
    ("version: 1\nask: maybe\n", "line 2, ask: expected true or false, got 'maybe'"),
    ("version: 1\nask: 1\n", "line 2, ask: expected true or false, got '1'"),
    ("version: 1\nask: true\nask: true\n", "line 3, ask: given twice"),
    ("version: 1\nshare_log: sometimes\n", "line 2, share_log: expected never or startup or always"),
    (
        "version: 1\nlimits: {memory: 8}\n",
        "line 2, limits.memory: expected a size such as 8GiB or 500MB, at least 1048576",
    ),
    ("version: 1\nlimits: {memory: 8 apples}\n", "limits.memory: expected a size such as 8GiB"),
    ("version: 1\nlimits: {memory: -8GiB}\n", "limits.memory: expected a size such as 8GiB"),
    ("version: 1\nlimits: {memory: 99999999TiB}\n", "limits.memory: expected a size such as 8GiB"),
    ("version: 1\nlimits: {run_time: 12}\n", "limits.run_time: expected a time such as 90s, 30m, 12h or 7d"),
    ("version: 1\nlimits: {run_time: 0h}\n", "limits.run_time: expected a time such as"),
    ("version: 1\nlimits: {cpus: 0}\n", "limits.cpus: expected a number from 0.01 to 65536"),
    ("version: 1\nlimits: {cpus: nan}\n", "limits.cpus: expected a number from 0.01 to 65536"),
    ("version: 1\nlimits: {processes: 0}\n", "limits.processes: expected a number from 1 to"),
    ("version: 1\nlimits: {procs: 5}\n", "limits.procs: unknown field; expected memory, processes,"),
    ("version: 1\nrules: {a: b}\n", "line 2, rules: expected a list, got a mapping"),
    ("version: 1\nrules: [{}]\n", "line 2, rules[1].name: expected a value, it is missing"),
    ("version: 1\nrules: [{name: a}, {name: a}]\n", "line 2, rules[2]: the name 'a' given to two rules"),
    (f"version: 1\nrules: [{{name: {'x' * 61}}}]\n", "rules[1].name: expected at most 60 characters, got 61"),
    (rule("images: []"), "line 4, rules[1].images: expected at least one entry, got an empty list"),
    (rule("images: ~"), "line 4, rules[1].images: expected at least one entry, got nothing (~); leave it out where it"),
    (rule("hashes:"), "line 4, rules[1].hashes: expected at least one entry, got nothing (~)"),
    (rule("hour: Mon"), "line 4, rules[1].hour: unknown field; expected name, organisations,"),
    (rule("organisations: [A.example]"), "line 4, rules[1].organisations[1]: organisation 'A.example': expected 1-64"),
    (rule("organisations: ['*']"), "line 4, rules[1].organisations[1]: organisation '*': expected 1-64"),
    (rule("tasks: ['heart[1]']"), "line 4, rules[1].tasks[1]: expected a task's name"),
    (
        rule("hashes: [abc]"),
        "line 4, rules[1].hashes[1]: expected the 64 hexadecimal digits of a task's hash, got 'abc'",
    ),
    (
        rule("types: [ROOT_TASK]"),
        "line 4, rules[1].types[1]: expected RUN_SWARM or MAKE_USER_CONTAINER or PULL_IMAGE or",
    ),
    (rule("images: ['python:3.?']"), "line 4, rules[1].images[1]: expected an image such as python:3.*"),
    (rule("mounts: [/opt/../etc]"), "line 4, rules[1].mounts[1]: expected a directory that begins with /"),
    (rule("mounts: [opt/heart]"), "line 4, rules[1].mounts[1]: expected a directory that begins with /"),
    (rule("mounts: [..]"), "line 4, rules[1].mounts[1]: expected a directory that begins with /"),
    (rule("urls: ['file:///etc']"), "line 4, rules[1].urls[1]: expected the beginning of a URL such as https://host"),
    (rule("urls: ['https://u:p@h.example/']"), "urls[1]: expected the beginning of a URL such as https://host"),
    (rule("urls: ['https://h\u00e9.example/']"), "urls[1]: expected the beginning of a URL such as https://host"),
    (rule("urls: ['https://h.example/?a=b']"), "urls[1]: expected the beginning of a URL without a question mark"),
    (rule("urls: ['https://h.example./']"), "urls[1]: expected the beginning of a URL such as https://host"),
    (rule("urls: ['https://h..example/']"), "urls[1]: expected the beginning of a URL such as https://host"),
    (rule("urls: ['https://h%2eexample/']"), "urls[1]: expected the beginning of a URL such as https://host"),
    (rule("urls: ['https://h.example/../a']"), "urls[1]: expected the beginning of a URL such as https://host"),
    (rule("urls: [h.example]"), "urls[1]: expected the beginning of a URL such as https://host"),
    (rule("hours: [18-6]"), "line 4, rules[1].hours[1]: expected days and times such as Mon-Fri 18:00-06:00"),
    (rule("private_data: if asked"), "line 4, rules[1].private_data: expected true or false, got 'if asked'"),
    ("", "line 1: the policy is empty; expected at least version: 1"),
    ("version: !!python/object/apply:os.system [id]\n", "version: the tag tag:yaml.org,2002:python/object/apply"),
]


@pytest.mark.parametrize(("text", "expected"), BAD)
def test_sw25_what_is_wrong_is_told_by_line(text: str, expected: str) -> None:
    told = faults(text)
    assert any(expected in line for line in told), told


def test_sw25_at_most_500_rules_of_60_characters() -> None:
    rules = [f"- name: {number:060}" for number in range(501)]
    assert len(read("version: 1\nrules:\n" + "\n".join(rules[:500])).rules) == 500
    (told,) = faults("version: 1\nrules:\n" + "\n".join(rules))
    assert told == "line 503, rules[501]: 501 rules; a policy has at most 500"


def test_sw25_at_most_1000_entries_of_a_condition() -> None:
    texts = [f"t{number}" for number in range(1001)]
    assert len(read(rule(f"tasks: [{', '.join(texts[:1000])}]")).rules[0].tasks) == 1000
    assert faults(rule(f"tasks: [{', '.join(texts)}]")) == [
        "line 4, rules[1].tasks: 1001 entries; expected at most 1000"
    ]


def test_sw26_a_text_may_stand_for_a_list_of_one() -> None:
    found = read(rule("organisations: a.example", "hours: Mon", "mounts: /opt")).rules[0]
    assert (found.organisations, found.hours[0].days, found.mounts) == (("a.example",), (0,), ("/opt",))


SIZES = {"1MiB": 1 << 20, "1048576": 1 << 20, "2048 KiB": 2 << 20, "1.5GiB": 3 << 29, "2MB": 2_000_000, "1TiB": 1 << 40}


@pytest.mark.parametrize("text", SIZES)
def test_sw26_sizes(text: str) -> None:
    assert read(f"version: 1\nlimits: {{memory: {text}}}\n").limits.memory == SIZES[text]


TIMES = {"90s": 90, "30m": 1800, "1.5h": 5400, "7d": 604_800, "0.5 s": 0.5}


@pytest.mark.parametrize("text", TIMES)
def test_sw26_durations(text: str) -> None:
    assert read(f"version: 1\nlimits: {{run_time: {text}}}\n").limits.run_time_s == TIMES[text]


WEEK = tuple(range(7))
HOURS = {
    "Mon-Fri 18:00-06:00": Hours(days=(0, 1, 2, 3, 4), begin=1080, end=360),
    "fri-MON": Hours(days=(0, 4, 5, 6), begin=0, end=1440),
    "Tue,Thu-Fri 00:00-24:00": Hours(days=(1, 3, 4), begin=0, end=1440),
    "20:00-24:00": Hours(days=WEEK, begin=1200, end=1440),
    "Mon-Sun": Hours(days=WEEK, begin=0, end=1440),
    "Mon-Mon": Hours(days=(0,), begin=0, end=1440),
    "Tue-Mon": Hours(days=WEEK, begin=0, end=1440),
}


@pytest.mark.parametrize("text", HOURS)
def test_sw26_hours(text: str) -> None:
    assert parse_hours(text) == HOURS[text]


@pytest.mark.parametrize(
    "text",
    [
        *("", "Mo", "Mon-", "-Mon", "Mon--Fri", "Mon,,Tue", "18:00", "18:00-18:00", "24:00-06:00", "18:60-19:00"),
        *(
            "18:00-24:01",
            "18:00-19:60",
            "18:00-25:00",
            "1:00-2:00",
            "Mon 18:00 - 06:00",
            "Mon Tue",
            "Monday",
            "18:00-06:00 Mon",
            "\u0661\u0668:00-20:00",
        ),
    ],
)
def test_sw26_what_are_no_hours(text: str) -> None:
    assert parse_hours(text) is None


def test_sw28_doubtful_rules_are_warned_of() -> None:
    digest = "0a" * 32
    assert read(rule("private_data: true", "tasks: x")).warnings[0].startswith("rule 'r' allows private data without")
    assert read(rule("private_data: true", f"hashes: {digest}")).warnings == ()
    assert read(rule("authors: x")).warnings[0].startswith("rule 'r' trusts authors, which nobody verifies")
    assert read(rule("tasks: heart-*")).warnings[0].startswith("rule 'r' trusts tasks by their names, which any member")
    assert read(rule("tasks: heart-*", "organisations: a.example")).warnings == ()
    assert read(rule("authors: x", "organisations: a.example")).warnings == ()
    assert read(rule("network: true")).warnings[0].startswith("rule 'r' has no condition: it allows every task")


# --- who can write the file -----------------------------------------------------------------------------------------


def write(path: Path, text: str = "version: 1\n", mode: int = 0o644) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_sw27_a_policy_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "policy.yaml")
    assert load_policy(path).ask
    for mode in (0o664, 0o646, 0o622):
        path.chmod(mode)
        with pytest.raises(ConfigurationError, match=f"others can write it .mode 0{mode:o}.; run: chmod go-w"):
            load_policy(path)


def test_sw27_a_policy_in_a_directory_that_everybody_can_write_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    place.mkdir(parents=True)
    path = write(place / "policy.yaml")
    link = tmp_path / "link.yaml"
    link.symlink_to(path)
    place.parent.chmod(0o777)
    for name in (path, link):
        with pytest.raises(ConfigurationError, match=r"every user can replace it, since .*/a has mode 0777"):
            load_policy(name)
    place.parent.chmod(0o1777)
    assert load_policy(link).ask


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_sw27_a_policy_of_another_user_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "policy.yaml")
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigurationError, match="belongs to user 12345, who can change it; expected root"):
        load_policy(path)


def test_sw27_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("pipe", "."):
        with pytest.raises(ConfigurationError, match=r"expected a file|cannot be read"):
            load_policy(tmp_path / name)
    with pytest.raises(ConfigurationError, match=r"cannot be read .No such file or directory.; check policyuri"):
        load_policy(tmp_path / "none")


def test_sw27_directories_in_a_policy_are_followed_where_they_lead(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    path = write(tmp_path / "policy.yaml", rule(f"mounts: [{tmp_path}/link/model, program]"))
    assert load_policy(path).rules[0].mounts == (f"{tmp_path.resolve()}/real/model", "program")


def test_sw25_all_faults_of_a_file_are_one_error(tmp_path: Path) -> None:
    path = write(tmp_path / "policy.yaml", "ask: x\nnetwork: y\n")
    with pytest.raises(ConfigurationError) as caught:
        load_policy(path)
    assert str(caught.value).count(str(path)) == 3
