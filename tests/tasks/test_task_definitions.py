"""Task definition files: what is read, what is refused and how a person is told. Rules: docs/spec/swci-tasks.md."""

import time

import pytest
import task_files
import yaml

from swarmlearning.contracts.task_records import MAX_FIELD, MAX_LINE, MAX_LINES, ROOT_TASK, TaskType
from swarmlearning.errors import ConfigurationError
from swarmlearning.tasks.bodies import (
    Credentials,
    MakeContent,
    MakeUserContainer,
    Mount,
    Operation,
    PullImage,
    RunSwarm,
    parse_body,
    read_body,
)
from swarmlearning.tasks.definition import Definition, read_definition
from swarmlearning.tasks.faults import MAX_FAULTS, Faulty
from swarmlearning.tasks.trees import MAX_DEPTH, MAX_FILE_BYTES, MAX_NODES


def read(text: str) -> Definition:
    found = read_definition(text.encode(), "task.yaml")
    assert isinstance(found, Definition), found.lines()
    return found


def faults(text: str | bytes) -> tuple[str, ...]:
    found = read_definition(text if isinstance(text, bytes) else text.encode(), "task.yaml")
    assert isinstance(found, Faulty)
    return found.lines()


def with_body(kind: str, *body: str) -> str:
    header = [f"Name: t\nTaskType: {kind}\nAuthor: me\nPrereq: ROOTTASK\nOutcome: o\nBody:"]
    return "\n".join([*header, *(f"  {line}" for line in body)]) + "\n"


def run_with(*body: str) -> str:
    return with_body("RUN_SWARM", "Command: c", "Entrypoint: e", "WorkingDir: /w", *body)


# --- files of the product's shapes ----------------------------------------------------------------------------------


def test_ci52_a_run_task_in_the_products_shape_is_read() -> None:
    found = read(task_files.RUN)
    assert (found.name, found.kind) == ("swarm_heart_task", TaskType.RUN_SWARM)
    assert (found.author, found.prereq) == ("Heart-Team", "user_env_heart_build_task")
    assert found.outcome == "swarm_heart_task"
    assert found.body == RunSwarm(
        command="model/heart.py --verbose",
        entrypoint="python3",
        working_dir="/tmp/work",
        environment=(
            ("DATA_DIR", "data/rows"),
            ("MODEL_DIR", "model"),
            ("MAX_EPOCHS", "32"),
            ("MIN_PEERS", "2"),
            ("WAIT", "500"),
            ("LOOP", "False"),
        ),
        private_content="/tmp/work/data",
        shared_content=(Mount(source="<CURRENT-PATH>/workspace/heart/model", target="/tmp/work/model", kind="BIND"),),
    )


def test_ci52_a_build_task_in_the_products_shape_is_read() -> None:
    found = read(task_files.BUILD)
    assert found.body == MakeUserContainer(
        build_context="sl-cli-lib",
        build_steps=(
            "FROM python:3.12-slim",
            " ",
            "RUN pip3 install --upgrade pip && pip3 install \\",
            "   numpy pandas scikit-learn==1.5.0 ",
            " ",
            'ENV PATH="/opt/tools/bin:${PATH}" \\',
            "    NOTE='quoted' \\",
            "RUN mkdir -p /tmp/pkg",
            "COPY client-py3-none-any.whl /tmp/pkg/client-py3-none-any.whl",
            "RUN pip3 install /tmp/pkg/client-py3-none-any.whl",
        ),
    )


def test_ci52_pull_and_content_tasks_in_the_products_shape_are_read() -> None:
    assert read(task_files.PULL).body == PullImage(registry="registry.example/heart/", repository="tools", tag="2.7.0")
    assert read(task_files.CONTENT).body == MakeContent(
        content_type="SWARMCONTENT",
        operations=(
            Operation(operation="DOWNLOAD", target="http://192.0.2.2:9292/model/heart.py", out="model/heart.py"),
            Operation(operation="EXTRACT", target="data/rows.tar"),
        ),
    )


@pytest.mark.parametrize("name", task_files.ALL)
def test_ci51_lines_of_a_body_say_what_the_file_said(name: str) -> None:
    text = task_files.ALL[name]
    found = read(text)
    assert parse_body(found.kind, found.lines) == found.body
    assert yaml.safe_load("\n".join(found.lines)) == yaml.safe_load(text)["Body"]
    assert read(text).lines == found.lines


def test_ci51_scalars_stay_as_they_were_written() -> None:
    found = read(run_with("Envvars: {A: on, B: 0123, C: ~, D: '', E: 1.10, F: 2024-01-01, G: 1e3, H: !!str 5, I:}"))
    assert isinstance(found.body, RunSwarm)
    assert dict(found.body.environment) == {
        "A": "on",
        "B": "0123",
        "C": None,
        "D": "",
        "E": "1.10",
        "F": "2024-01-01",
        "G": "1e3",
        "H": "5",
        "I": None,
    }
    assert found.lines[3] == "Envvars: {A: on, B: 0123, C: ~, D: '', E: 1.10, F: 2024-01-01, G: 1e3, H: '5', I: ~}"


VARIABLES = (
    'Envvars: [{"DATA_DIR": data/rows}, {"MODEL_DIR": model}, {"MAX_EPOCHS": 32}, {"MIN_PEERS": 2}, '
    "{'WAIT': 500}, {\"LOOP\": False}]"
)


def test_ci51_lines_of_the_run_task() -> None:
    assert read(task_files.RUN).lines == (
        "Command: model/heart.py --verbose",
        "Entrypoint: python3",
        "WorkingDir: /tmp/work",
        VARIABLES,
        "PrivateContent: /tmp/work/data",
        "SharedContent:",
        "- Src: <CURRENT-PATH>/workspace/heart/model",
        "  Tgt: /tmp/work/model",
        "  MType: BIND",
    )


# --- where one may write less or otherwise --------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["Prereq:", "Prereq: ~", ""])
def test_ci52_no_prerequisite_means_the_root_task(line: str) -> None:
    assert read(task_files.PULL.replace("Prereq   : ROOTTASK", line)).prereq == ROOT_TASK


def test_ci52_build_swarm_is_another_name_of_make_user_container() -> None:
    assert read(task_files.BUILD.replace("MAKE_USER_CONTAINER", "BUILD_SWARM")).kind is TaskType.MAKE_USER_CONTAINER


def test_ci52_variables_are_a_list_a_mapping_or_nothing() -> None:
    expected = (("A", "1"), ("B", "x"))
    for text in ("Envvars: {A: 1, B: x}", "Envvars: [A: 1, B: x]", "Envvars: [{A: 1, B: x}]"):
        found = read(run_with(text)).body
        assert isinstance(found, RunSwarm)
        assert found.environment == expected
    for text in ("Envvars: ~", "Envvars:", "Envvars: []", "# none"):
        found = read(run_with(text)).body
        assert isinstance(found, RunSwarm)
        assert found.environment == ()


def test_ci52_what_may_be_null_may_be_left_out() -> None:
    assert read(run_with()).body == read(run_with("Envvars: ~", "PrivateContent: ~", "SharedContent: ~")).body
    least = with_body("MAKE_USER_CONTAINER", "BuildType: INLINE", "BuildSteps: [FROM scratch]")
    assert read(least).body == MakeUserContainer(build_steps=("FROM scratch",))


def test_ci52_options_are_a_list_a_mapping_or_nothing() -> None:
    outs = []
    for options in ("[{Out: d/x}]", "{Out: d/x}", "[]", "~"):
        text = f"OpsList: [{{Operation: DOWNLOAD, Target: 'http://h/x', Options: {options}}}]"
        body = read(with_body("MAKE_SWARM_USER_CONTENT", "ContentType: BUILDCONTENT", text)).body
        assert isinstance(body, MakeContent)
        outs.append(body.operations[0].out)
    assert outs == ["d/x", "d/x", None, None]


def test_ci52_a_step_of_a_content_may_name_the_hash_of_its_file() -> None:
    found = []
    for options in (f"[Out: x, Sha256: {'aB' * 32}]", f"{{Sha256: {'AB' * 32}, Out: x}}", "{Out: x}"):
        text = f"OpsList: [{{Operation: DOWNLOAD, Target: 'http://h/x', Options: {options}}}]"
        body = read(with_body("MAKE_SWARM_USER_CONTENT", "ContentType: BUILDCONTENT", text)).body
        assert isinstance(body, MakeContent)
        assert body.operations[0].out == "x"
        found.append(body.operations[0].sha256)
    assert found == ["ab" * 32, "ab" * 32, None]


def test_ci52_credentials_are_a_path_or_a_name_and_password_and_those_are_warned_of() -> None:
    path = read(task_files.PULL.replace(" ~", " /etc/registry.json"))
    assert isinstance(path.body, PullImage)
    assert path.body.auth == "/etc/registry.json"
    assert path.warnings == ()
    pair = read(task_files.PULL.replace(" ~", " {Username: u, Password: 0123}"))
    assert isinstance(pair.body, PullImage)
    assert pair.body.auth == Credentials(username="u", password="0123")
    assert len(pair.warnings) == 1
    assert pair.warnings[0].startswith("Body.Auth.Password will stand on the ledger, where every member reads it")
    assert "0123" not in pair.warnings[0]


def test_ci50_aliases_are_written_out() -> None:
    found = read(run_with("Envvars: [A: &a value, B: *a]"))
    assert found.lines[3] == "Envvars: [{A: value}, {B: value}]"


def test_the_products_limits_are_lifted() -> None:
    steps = ["- FROM x", *(f"- RUN step {number} {'x' * 300}" for number in range(500))]
    found = read(with_body("MAKE_USER_CONTAINER", "BuildType: INLINE", "BuildSteps:", *steps))
    assert isinstance(found.body, MakeUserContainer)
    assert len(found.body.build_steps) == 501
    mounts = [f"- {{Src: /a{number}, Tgt: /b{number}, MType: VOLUME}}" for number in range(50)]
    body = read(run_with("SharedContent:", *mounts)).body
    assert isinstance(body, RunSwarm)
    assert len(body.shared_content) == 50


def test_ci51_a_text_longer_than_a_line_is_folded() -> None:
    command = " ".join(["--option"] * 2000)
    found = read(run_with().replace("Command: c", f"Command: {command}"))
    assert isinstance(found.body, RunSwarm)
    assert found.body.command == command
    assert max(map(len, found.lines)) <= MAX_LINE
    literal = read(with_body("MAKE_USER_CONTAINER", "BuildType: INLINE", "BuildSteps:", "- |", f"  {command}"))
    assert isinstance(literal.body, MakeUserContainer)
    assert literal.body.build_steps == (command + "\n",)
    assert max(map(len, literal.lines)) <= MAX_LINE


# --- what is refused, and how it is told ----------------------------------------------------------------------------


def test_ci50_every_fault_is_told_with_file_line_and_field() -> None:
    text = task_files.RUN.replace("Author: Heart-Team", "Author: ~").replace("MType: BIND", "MType: COPY")
    known = "Command, Entrypoint, WorkingDir, Envvars, PrivateContent, SharedContent"
    assert faults(text.replace("WorkingDir: /tmp/work", "WorkingDri: /tmp/work")) == (
        "task.yaml line 6, Author: expected a value, got nothing (~)",
        "task.yaml line 10, Body.WorkingDir: expected a value, it is missing",
        f"task.yaml line 12, Body.WorkingDri: unknown field; expected {known}; did you mean WorkingDir?",
        "task.yaml line 18, Body.SharedContent[1].MType: expected BIND or VOLUME, got 'COPY'",
    )


def test_ci52_where_a_program_sees_things_begins_at_the_root() -> None:
    text = task_files.RUN.replace("WorkingDir: /tmp/work", "WorkingDir: work")
    text = text.replace("PrivateContent: /tmp/work/data", "PrivateContent: data")
    assert faults(text.replace("Tgt: /tmp/work/model", "Tgt: ../model")) == (
        "task.yaml line 12, Body.WorkingDir: expected a path from /, got 'work'",
        "task.yaml line 14, Body.PrivateContent: expected a path from /, got 'data'",
        "task.yaml line 17, Body.SharedContent[1].Tgt: expected a path from /, got '../model'",
    )


CASES = [
    ("Name: t\nName: u\n", "line 2, Name: given twice, first on line 1; expected it once"),
    ("Name: a b\n", "line 1, Name: task name 'a b': expected 1-128 characters"),
    ("tasktype: RUN_SWARM\n", "line 1, tasktype: unknown field; "),
    ("TaskType: ROOT_TASK\n", "line 1, TaskType: expected RUN_SWARM or MAKE_USER_CONTAINER or PULL_IMAGE or"),
    ("TaskType: run_swarm\n", "line 1, TaskType: expected RUN_SWARM or"),
    (f"Author: {'x' * (MAX_FIELD + 1)}\n", "line 1, Author: expected at most 160 characters, got 161"),
    ("Author: |\n  a\n  b\n", "line 1, Author: expected one line without tabs, got 'a\\nb\\n'"),
    ("Outcome: [a]\n", "line 1, Outcome: expected text, got a list"),
    ("Outcome: ''\n", "line 1, Outcome: expected text, got an empty one"),
    ("- Name: t\n", "line 1: expected a mapping with Name, TaskType, Author, Prereq, Outcome, Body, got a list"),
    ("hello\n", "line 1: expected a mapping with Name, TaskType, Author, Prereq, Outcome, Body, got 'hello'"),
    ("", "line 1: the file is empty; expected Name, TaskType, Author, Prereq, Outcome, Body"),
    ("# only a comment\n", "line 1: the file is empty"),
    (
        "Name: t\n---\nName: u\n",
        "line 2: no YAML: expected a single document in the stream, but found",
    ),
    ("Name: t\n\tAuthor: x\n", "line 2: no YAML: while scanning for the next token, found character '\\t'"),
    ("a:\n  - b\n c: d\n", "line 3: no YAML: while parsing a block mapping, expected <block end>"),
    ("Name: *nowhere\n", "line 1: no YAML: found undefined alias 'nowhere'"),
    (
        "Name: !!python/object:os.system x\n",
        "line 1, Name: the tag tag:yaml.org,2002:python/object:os.system;",
    ),
    ("Name: !secret x\n", "line 1, Name: the tag !secret; expected none"),
    ("Name: !!binary aGk=\n", "line 1, Name: the tag tag:yaml.org,2002:binary; expected none"),
    ("a: &a {b: c}\nd:\n  <<: *a\n", "line 3, d: a merge key (<<); expected its entries written out"),
    ("? [a, b]\n: c\n", "line 1: a list or mapping as a key; expected a text"),
    ('Name: "a\\u202eb"\n', "line 1, Name: the character U+202E; expected no control characters"),
    ("Name: t # \u202e hidden\n", "line 1: the character U+202E; expected no control characters"),
    ("Name: t\nAuthor: \x1b[2J\n", "line 2: the character U+001B; expected no control characters"),
    ('Name: "\\ud800"\n', "line 1, Name: the character U+D800; "),
    ('Name: "\\UFFFFFFFF"\n', "line 1: no YAML: "),
    ("%YAML 1." + "9" * 5000 + "\n---\na: b\n", "line 1: no YAML: "),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_ci50_a_file_that_is_no_definition_is_refused_by_line(text: str, expected: str) -> None:
    told = faults(text)
    assert any(line.startswith(f"task.yaml {expected}") for line in told), told
    assert all(line.isprintable() and len(line) < 700 for line in told)


BODIES = [
    ("RUN_SWARM", "Command: c", "line 7, Body.Entrypoint: expected a value, it is missing"),
    ("RUN_SWARM", "Command: [c]", "line 7, Body.Command: expected text, got a list"),
    ("RUN_SWARM", "Envvars: x", "line 7, Body.Envvars: expected a list of NAME: value, got 'x'"),
    ("RUN_SWARM", "Envvars: [A=1]", "line 7, Body.Envvars[1]: expected NAME: value, got 'A=1'"),
    ("RUN_SWARM", "Envvars: [A: 1, A: 2]", "line 7, Body.Envvars[2].A: set twice; expected it once"),
    ("RUN_SWARM", "Envvars: [A: [x]]", "line 7, Body.Envvars[1].A: expected a text or number, got a list"),
    ("RUN_SWARM", "Envvars: ['A B': 1]", "line 7, Body.Envvars[1]: the variable 'A B'; expected a name"),
    ("RUN_SWARM", "SharedContent: []", "line 7, Body.SharedContent: expected at least one entry, got an empty list"),
    (
        "RUN_SWARM",
        "SharedContent: [x]",
        "line 7, Body.SharedContent[1]: expected a mapping with Src, Tgt, MType, got",
    ),
    ("MAKE_USER_CONTAINER", "BuildType: REMOTE", "line 7, Body.BuildType: expected INLINE, got 'REMOTE'"),
    (
        "MAKE_USER_CONTAINER",
        "BuildSteps: [RUN a: b]",
        "line 7, Body.BuildSteps[1]: expected text, got a mapping; a text",
    ),
    ("MAKE_USER_CONTAINER", "BuildSteps: FROM x", "line 7, Body.BuildSteps: expected a list, got 'FROM x'"),
    ("PULL_IMAGE", "Auth: {Username: u}", "line 7, Body.Tag: expected a value, it is missing"),
    ("PULL_IMAGE", "Auth: {User: u}", "line 7, Body.Auth.User: unknown field; expected Username, Password"),
    ("PULL_IMAGE", "Auth: {Username: u, Password: [p]}", "line 7, Body.Auth.Password: expected text"),
    ("MAKE_SWARM_USER_CONTENT", "ContentType: X", "line 7, Body.ContentType: expected BUILDCONTENT or SWARMCONTENT"),
    (
        "MAKE_SWARM_USER_CONTENT",
        "OpsList: [{Operation: COPY, Target: x, Options: [Into: y]}]",
        "line 7, Body.OpsList[1].Options[1].Into: unknown field; expected Out, Sha256",
    ),
    (
        "MAKE_SWARM_USER_CONTENT",
        "OpsList: [{Operation: DOWNLOAD, Target: x, Options: [Sha256: abc]}]",
        "line 7, Body.OpsList[1].Options[1].Sha256: expected 64 hexadecimal digits, got 'abc'",
    ),
    (
        "MAKE_SWARM_USER_CONTENT",
        "OpsList: [{Operation: DOWNLOAD, Target: x, Options: [Out: a, Out: b]}]",
        "line 7, Body.OpsList[1].Options: the option Out given more than once",
    ),
    ("RUN_SWARM", "BuildSteps: [a]", "line 7, Body.BuildSteps: unknown field; expected Command"),
    ("RUN_SWARM", "", "line 6, Body: expected a value, got nothing (~)"),
    ("RUN_SWARM", "- a", "line 7, Body: expected a mapping with Command, Entrypoint"),
]


@pytest.mark.parametrize(("kind", "body", "expected"), BODIES)
def test_ci52_a_body_that_does_not_fit_its_type_is_refused_by_field(kind: str, body: str, expected: str) -> None:
    told = faults(with_body(kind, body))
    assert any(line.startswith(f"task.yaml {expected}") for line in told), told


def test_ci50_only_so_many_faults_are_told() -> None:
    told = faults("".join(f"key{number}: x\n" for number in range(100)))
    assert len(told) == MAX_FAULTS + 1
    assert told[-1] == "task.yaml: 85 more faults"


def test_ci50_what_is_no_utf8_is_refused_with_its_line() -> None:
    assert faults(b"Name: t\nAuthor: \xff\n") == ("task.yaml line 2: not UTF-8; expected text in UTF-8",)
    assert read_definition(b"\xef\xbb\xbf" + task_files.PULL.encode(), "x") == read(task_files.PULL)
    assert read_definition(task_files.RUN.replace("\n", "\r\n").encode(), "x") == read(task_files.RUN)


def test_ci50_a_text_that_no_line_takes_is_refused() -> None:
    told = faults(run_with(f"PrivateContent: /{'x' * 5000}"))
    why = f"5001 characters without a blank; a line of a body has at most {MAX_LINE}"
    assert told == (f"task.yaml line 10, Body.PrivateContent: {why}",)


def test_ci50_a_body_that_is_too_large_is_refused() -> None:
    steps = ["- RUN x"] * MAX_LINES
    told = faults(with_body("MAKE_USER_CONTAINER", "BuildType: INLINE", "BuildSteps:", *steps))
    assert "task.yaml line 7, Body: 4098 lines of " in told[0]


BOMBS = {
    "nested lists": b"[" * 200_000,
    "nested mappings": b"{a: " * 100_000,
    "lines of nested lists": b"[\n" * 200_000,
    "question marks": b"? " * 200_000,
    "laughing aliases": b"a: &a [x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 8)) for c in range(ord("b"), ord("k"))),
    "one large alias": b"a: &a " + b"x" * 100_000 + b"\nb: [" + b"*a," * 1000 + b"]\n",
    "an alias in itself": b"a: &a [*a]",
    "an alias in a mapping of its own": b"&a {k: *a}",
    "many entries": b"- a\n" * (MAX_NODES + 1),
    "many keys": b"".join(b"k%d: v\n" % number for number in range(30_000)),
    "too large": b" " * (MAX_FILE_BYTES + 1),
}


EXPECTED = {
    "nested lists": f"line 1: nested deeper than {MAX_DEPTH}",
    "nested mappings": f"line 1: nested deeper than {MAX_DEPTH}",
    "lines of nested lists": f"line {MAX_DEPTH + 1}: nested deeper than {MAX_DEPTH}",
    "question marks": f"line 1: nested deeper than {MAX_DEPTH}",
    "laughing aliases": f": aliases written out make more than {MAX_NODES} entries",
    "one large alias": f": aliases written out make more than {MAX_NODES} entries, or {MAX_FILE_BYTES} characters",
    "an alias in itself": f": nested deeper than {MAX_DEPTH}; does an alias stand inside itself?",
    "an alias in a mapping of its own": f": nested deeper than {MAX_DEPTH}; does an alias stand inside itself?",
    "many entries": f"line {MAX_NODES}: more than {MAX_NODES} entries",
    "many keys": f"line {MAX_NODES // 2}: more than {MAX_NODES} entries",
    "too large": f"line 1: {MAX_FILE_BYTES + 1} bytes; expected at most {MAX_FILE_BYTES}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_ci50_a_bomb_is_refused_soon(name: str) -> None:
    began_s = time.monotonic()
    told = faults(BOMBS[name])
    # It takes a second at most; the machine may be busy.
    assert time.monotonic() - began_s < 20
    (line,) = told
    assert EXPECTED[name] in line


def test_ci50_nesting_is_counted_from_the_outside() -> None:
    at_most = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    assert "nested" not in faults(f"a: {at_most}")[0]
    assert "nested deeper" in faults(f"a: [{at_most}]")[0]


# --- bodies that people wrote line by line --------------------------------------------------------------------------


def test_ci52_a_body_is_read_from_its_lines_comments_and_all() -> None:
    lines = ("# how it is built", "BuildType: INLINE", "BuildSteps:", "- FROM scratch", "", "- '  COPY a b'")
    body = parse_body(TaskType.MAKE_USER_CONTAINER, lines)
    assert body == MakeUserContainer(build_steps=("FROM scratch", "  COPY a b"))


def test_ci52_a_body_that_does_not_parse_names_its_lines() -> None:
    found = read_body(TaskType.MAKE_USER_CONTAINER, ("BuildType: X", "", "BuildSteps: [[a]]", "BuildType: Y"), "build")
    assert isinstance(found, Faulty)
    assert found.lines() == (
        "build line 1, Body.BuildType: expected INLINE, got 'X'",
        "build line 3, Body.BuildSteps[1]: expected text, got a list",
        "build line 4, Body.BuildType: given twice, first on line 1; expected it once",
    )
    with pytest.raises(ConfigurationError, match="build line 1: no YAML"):
        parse_body(TaskType.RUN_SWARM, ("a: b: c",), "build")
    with pytest.raises(ConfigurationError, match="body line 1, Body: the body is empty"):
        parse_body(TaskType.RUN_SWARM, ())
    with pytest.raises(ConfigurationError, match="ROOT_TASK has no body"):
        parse_body(TaskType.ROOT_TASK, ("a: b",))
