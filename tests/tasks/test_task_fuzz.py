"""Task files that nobody wrote: any bytes give a definition or faults with lines, and what is read is kept."""

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from swarmlearning.contracts.task_records import MAX_LINE, TaskType
from swarmlearning.tasks.bodies import MakeUserContainer, RunSwarm, parse_body, read_body
from swarmlearning.tasks.definition import Definition, read_definition
from swarmlearning.tasks.faults import Faulty


def check(found: Definition | Faulty) -> None:
    if isinstance(found, Faulty):
        assert found.faults
        assert all(fault.line >= 1 and fault.text for fault in found.faults)
        lines = [fault.line for fault in found.faults]
        assert lines == sorted(lines)
        assert all(line.isprintable() and len(line) < 2000 for line in found.lines())
    else:
        assert parse_body(found.kind, found.lines) == found.body
        assert all(len(line) <= MAX_LINE and "\n" not in line for line in found.lines)


PIECES = st.sampled_from(
    [
        *("Name", "TaskType", "Author", "Prereq", "Outcome", "Body", "RUN_SWARM", "MAKE_USER_CONTAINER", "Envvars"),
        *("BuildType", "INLINE", "BuildSteps", "Command", "Entrypoint", "WorkingDir", "SharedContent", "Src", "MType"),
        *(
            ": ",
            ":",
            "\n",
            "\n  ",
            "\n    ",
            "- ",
            "[",
            "]",
            "{",
            "}",
            ", ",
            "? ",
            "| ",
            "> ",
            "|2\n",
            "'",
            '"',
            "#",
            " #",
        ),
        *(
            "&a ",
            "*a",
            "!!str ",
            "!x ",
            "<<: ",
            "~",
            "null",
            "---\n",
            "...\n",
            "%YAML 1.1\n",
            "\t",
            "\\",
            "\\x00",
            "0123",
        ),
        *("\u2028", "\u202e", "\x00", "\ufeff", "\U0001f600", "é", "a", " "),
    ]
)


@given(st.binary(max_size=300))
def test_ci50_any_bytes_give_a_definition_or_faults(data: bytes) -> None:
    check(read_definition(data, "fuzz"))


@given(st.lists(PIECES, max_size=60))
@example(["- ", "'", "\n", "a", "'"])
def test_ci50_any_pieces_of_yaml_give_a_definition_or_faults(pieces: list[str]) -> None:
    check(read_definition("".join(pieces).encode(), "fuzz"))


@given(st.lists(PIECES, max_size=40), st.sampled_from([kind for kind in TaskType if kind is not TaskType.ROOT_TASK]))
def test_ci52_any_lines_give_a_body_or_faults(pieces: list[str], kind: TaskType) -> None:
    lines = tuple("".join(pieces).split("\n"))
    found = read_body(kind, lines, "fuzz")
    if isinstance(found, Faulty):
        assert all(1 <= fault.line <= len(lines) for fault in found.faults)


UNFIT = "".join(map(chr, [*range(9), 11, 12, 13, *range(14, 32), *range(127, 160), *range(0x2028, 0x202F)]))
TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters=UNFIT + "\u2066\u2067\u2068\u2069\ufeff\ufffe\uffff"),
    min_size=1,
    max_size=200,
)
LINE = TEXT.map(lambda text: text.replace("\n", " ").replace("\t", " "))
NAME = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
STYLE = st.fixed_dictionaries(
    {
        "default_style": st.sampled_from([None, '"', "'", "|", ">"]),
        "default_flow_style": st.booleans(),
        "width": st.sampled_from([20, 80, 5000]),
        "allow_unicode": st.booleans(),
    }
)


def wrap(kind: str, body: object, style: dict[str, object]) -> bytes:
    whole = {"Name": "t", "TaskType": kind, "Author": "me", "Prereq": "ROOTTASK", "Outcome": "o", "Body": body}
    text: str = yaml.dump(whole, Dumper=yaml.SafeDumper, sort_keys=False, **style)  # type: ignore[call-overload]
    return text.encode()


@given(st.lists(TEXT, min_size=1, max_size=5), STYLE)
def test_ci51_steps_of_any_text_in_any_style_come_back_the_same(steps: list[str], style: dict[str, object]) -> None:
    found = read_definition(wrap("MAKE_USER_CONTAINER", {"BuildType": "INLINE", "BuildSteps": steps}, style), "fuzz")
    assert isinstance(found, Definition), found.lines()
    assert found.body == MakeUserContainer(build_steps=tuple(steps))
    check(found)


@given(TEXT, LINE, LINE.map("/{}".format), st.dictionaries(NAME, TEXT | st.integers() | st.none(), max_size=4), STYLE)
def test_ci51_runs_of_any_text_in_any_style_come_back_the_same(
    command: str, entrypoint: str, directory: str, variables: dict[str, str | int | None], style: dict[str, object]
) -> None:
    body = {"Command": command, "Entrypoint": entrypoint, "WorkingDir": directory, "Envvars": variables}
    found = read_definition(wrap("RUN_SWARM", body, style), "fuzz")
    assert isinstance(found, Definition), found.lines()
    environment = tuple((name, None if value is None else str(value)) for name, value in variables.items())
    expected = RunSwarm(command=command, entrypoint=entrypoint, working_dir=directory, environment=environment)
    assert found.body == expected
    check(found)
