"""Tasks: docs/spec/tasks.md, W-1 to W-5, each with its attack."""

import pytest
from chain_world import Chain
from contracts_world import name_of
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from task_world import BODY, Ward, op, swop

from swarmlearning.contracts import tasks
from swarmlearning.contracts.messages import DeleteTask, FinalizeTask
from swarmlearning.contracts.task_records import (
    MAX_BODIES_BYTES,
    MAX_FIELD,
    MAX_LINE,
    MAX_LINES,
    MAX_TASK_BYTES,
    MAX_TASKS,
    ROOT_TASK,
    Task,
    Taskrunner,
    TaskType,
    hash_task,
)
from swarmlearning.encoding import decode
from swarmlearning.sn.state import Overlay
from swarmlearning.types import DEFAULT_RUNNER, Code, NodeId, Role, TaskName

T = TaskName("t")


def body(ward: Ward, name: str = "t") -> tuple[str, ...]:
    return tasks.load_body(ward.state, TaskName(name))


# --- W-1: what is there from the beginning --------------------------------------------------------------------------


@pytest.mark.parametrize("voting", [False, True])
def test_w1_the_root_task_and_the_default_runner_are_there_from_the_beginning(voting: bool) -> None:
    chain = Chain(2, voting=voting)
    root = tasks.load_task(Overlay(chain.app.store), ROOT_TASK)
    assert root is not None
    assert (root.kind, root.is_final, root.lines, root.creator) == (TaskType.ROOT_TASK, True, 0, "")
    assert root.hash == hash_task(root, ())
    runner = decode(chain.app.query("runner", DEFAULT_RUNNER.encode()), Taskrunner)
    assert runner == Taskrunner(name=DEFAULT_RUNNER, creator=name_of(0).domain, created_height=0)


def test_w1_the_root_task_is_not_made_written_finalized_or_deleted() -> None:
    ward = Ward()
    for kind in TaskType:
        assert ward.say(op(0), ward.creation(ROOT_TASK, kind)) in (Code.CONFLICT, Code.MALFORMED)
    assert "alone is ROOT_TASK" in ward.refusal(op(0), ward.creation("t", TaskType.ROOT_TASK), Code.MALFORMED)
    ward.refusal(op(0), ward.append(ROOT_TASK, "x"), Code.CONFLICT)
    ward.refusal(op(0), ward.finalizing(ROOT_TASK), Code.CONFLICT)
    ward.refusal(op(0), DeleteTask(task=ROOT_TASK), Code.CONFLICT)


# --- W-2: creation --------------------------------------------------------------------------------------------------


def test_w2_operators_and_sns_create_tasks_and_the_record_says_who_for_whom_and_when() -> None:
    ward = Ward()
    ward.must(name_of(1, Role.SN), ward.creation(), caller=op(1).id)
    assert ward.task(T) == Task(
        name=T,
        kind=TaskType.PULL_IMAGE,
        author="Anna",
        prereq=ROOT_TASK,
        outcome="image",
        creator=name_of(1, Role.SN).id,
        created_height=ward.height,
        caller=op(1).id,
    )
    assert not ward.task(T).is_final
    for role in (Role.SL, Role.SWOP, Role.AUDITOR):
        ward.refusal(name_of(1, role), ward.creation("u"), Code.NOT_ALLOWED)


@pytest.mark.parametrize("name", ["", "-t", "a b", "é", "t\n", "x" * 129, "../t", "t;"])
def test_w2_a_name_is_like_a_contracts(name: str) -> None:
    assert "task name" in Ward().refusal(op(0), Ward().creation(name), Code.MALFORMED)


def test_w2_a_name_is_given_once() -> None:
    ward = Ward()
    ward.must(op(0), ward.creation())
    assert "exists already" in ward.refusal(op(1), ward.creation(), Code.CONFLICT)


@pytest.mark.parametrize("field", ["author", "outcome"])
@pytest.mark.parametrize("text", ["x" * (MAX_FIELD + 1), "a\nb", "a\tb", "\x1b[2J", "\x9b", "\u202egnp.exe", "\u2028"])
def test_w2_author_and_outcome_are_short_and_printable(field: str, text: str) -> None:
    ward = Ward()
    assert field in ward.refusal(op(0), replace(ward.creation(), **{field: text}), Code.MALFORMED)
    ward.must(op(0), replace(ward.creation(), **{field: "ü" * MAX_FIELD}))


def test_w2_a_prerequisite_is_there_and_final_or_the_same_organisations() -> None:
    ward = Ward()
    assert "no task build" in ward.refusal(op(0), ward.creation(prereq="build"), Code.NOT_FOUND)
    ward.refusal(op(0), ward.creation(prereq="t"), Code.NOT_FOUND)
    ward.must(op(0), ward.creation("build"))
    ward.must(op(0), ward.creation("own", prereq="build"))
    # Else whoever builds on it could hold another organisation's unfinished task fast (W-4).
    assert "not final" in ward.refusal(op(1), ward.creation("foreign", prereq="build"), Code.CONFLICT)
    ward.must(op(0), ward.append("build", "FROM x"))
    ward.must(op(0), ward.finalizing("build"))
    ward.must(op(1), ward.creation("foreign", prereq="build"))


@pytest.mark.parametrize(
    ("kind", "fits"),
    [
        (TaskType.MAKE_USER_CONTAINER, True),
        (TaskType.PULL_IMAGE, True),
        (TaskType.MAKE_SWARM_USER_CONTENT, False),
        (TaskType.RUN_SWARM, False),
    ],
)
def test_w2_a_swarm_runs_after_an_image_or_nothing(kind: TaskType, fits: bool) -> None:
    ward = Ward()
    ward.write("before", kind)
    message = ward.creation("run", TaskType.RUN_SWARM, "before")
    if fits:
        ward.must(op(0), message)
    else:
        assert f"is {kind.value}" in ward.refusal(op(0), message, Code.MALFORMED)
    ward.must(op(0), ward.creation("alone", TaskType.RUN_SWARM))
    for other in set(TaskType) - {TaskType.RUN_SWARM, TaskType.ROOT_TASK}:
        ward.must(op(0), ward.creation(f"after-{other.value}", other, "before"))


# --- W-3: the body --------------------------------------------------------------------------------------------------


def test_w3_lines_are_written_over_those_that_are_there_and_after_them() -> None:
    ward = Ward()
    ward.must(op(0), ward.creation(), ward.append("t", "a", "b", "c"))
    assert body(ward) == ("a", "b", "c")
    ward.must(op(0), ward.append("t", "B", first=2))
    assert body(ward) == ("a", "B", "c")
    ward.must(name_of(0, Role.SN), ward.append("t", "C", "", "\te", first=3))
    assert body(ward) == ("a", "B", "C", "", "\te")
    ward.must(op(0), ward.append("t", "f", first=6))
    assert body(ward) == ("a", "B", "C", "", "\te", "f")
    assert ward.task(T).lines == 6
    for first in (-1, 0, 8):
        assert "expected 1 to 7" in ward.refusal(op(0), ward.append("t", "x", first=first), Code.MALFORMED)
    assert "one at least" in ward.refusal(op(0), ward.append("t"), Code.MALFORMED)


@given(st.lists(st.tuples(st.integers(1, 8), st.lists(st.text("ab", max_size=2), min_size=1, max_size=4)), max_size=8))
def test_w3_appending_is_what_a_list_of_lines_does(steps: list[tuple[int, list[str]]]) -> None:
    ward = Ward(1)
    ward.must(op(0), ward.creation())
    expected: list[str] = []
    for first, lines in steps:
        if first > len(expected) + 1:
            ward.refusal(op(0), ward.append("t", *lines, first=first), Code.MALFORMED)
            continue
        ward.must(op(0), ward.append("t", *lines, first=first))
        expected[first - 1 : first - 1 + len(lines)] = lines
    assert body(ward) == tuple(expected)
    stock = tasks._load_stock(ward.state, op(0).domain)
    assert stock.size == sum(len(line) + 1 for line in expected)


@pytest.mark.parametrize(
    "line",
    [
        "rm -rf /\r: # harmless",
        "a\nb",
        "\x0b",
        "\x0c",
        "\x00",
        "\x1b[8mhidden",
        "\x7f",
        "\x85",
        "\x9b2J",
        "\u2028",
        "\u2029",
        "\u202e",
        "\u2066",
        "x" * (MAX_LINE + 1),
    ],
)
def test_w3_a_line_reads_as_it_stands_there(line: str) -> None:
    ward = Ward()
    ward.must(op(0), ward.creation())
    assert "line 2 of t" in ward.refusal(op(0), ward.append("t", "fine", line), Code.MALFORMED)
    assert body(ward) == ()


def test_w3_other_organisations_and_other_roles_write_nothing() -> None:
    ward = Ward()
    ward.must(op(0), ward.creation(), ward.append("t", "a"))
    assert "is org0.example's" in ward.refusal(op(1), ward.append("t", "b"), Code.NOT_ALLOWED)
    ward.refusal(op(1), ward.finalizing("t"), Code.NOT_ALLOWED)
    ward.refusal(op(1), DeleteTask(task=T), Code.NOT_ALLOWED)
    ward.refusal(swop(0), ward.append("t", "b"), Code.NOT_ALLOWED)
    ward.refusal(op(0), ward.append("none", "b"), Code.NOT_FOUND)


def test_w3_a_body_has_limits_in_lines_and_bytes() -> None:
    ward = Ward()
    ward.must(op(0), ward.creation())
    for first in range(1, MAX_LINES, 512):
        ward.must(op(0), ward.append("t", *["x"] * 512, first=first))
    assert len(body(ward)) == MAX_LINES
    assert "at most 4096" in ward.refusal(op(0), ward.append("t", "x", first=MAX_LINES + 1), Code.CONFLICT)
    ward.must(op(0), ward.creation("wide"))
    # 2 bytes a character, and an end of line each.
    lines = ["é" * MAX_LINE] * 31
    ward.must(op(0), ward.append("wide", *lines))
    room = MAX_TASK_BYTES - 31 * (2 * MAX_LINE + 1)
    ward.refusal(op(0), ward.append("wide", *["x" * MAX_LINE, "x" * (room - MAX_LINE - 1)], first=32), Code.CONFLICT)
    ward.must(op(0), ward.append("wide", *["x" * MAX_LINE, "x" * (room - MAX_LINE - 2)], first=32))


# --- W-4: final for good, or deleted --------------------------------------------------------------------------------


def test_w4_a_final_task_is_neither_changed_nor_deleted_by_anybody() -> None:
    ward = Ward()
    ward.write("t")
    task = ward.task(T)
    assert task.is_final
    assert task.finalized_height == ward.height
    assert task.hash == hash_task(task, BODY)
    for message in (ward.append("t", "x"), ward.finalizing("t"), DeleteTask(task=T)):
        assert "final" in ward.refusal(op(0), message, Code.CONFLICT)
        ward.refusal(op(1), message, Code.CONFLICT)


def test_w4_who_finalizes_names_what_it_believes_it_to_be() -> None:
    """Else a colleague's line that came between reading and approving would be approved too."""
    ward = Ward()
    ward.must(op(0), ward.creation(), ward.append("t", "a"))
    seen = ward.finalizing("t")
    ward.must(name_of(0, Role.SN), ward.append("t", "b", first=2))
    assert "somebody changed it" in ward.refusal(op(0), seen, Code.CONFLICT)
    ward.refusal(op(0), FinalizeTask(task=T, hash=b""), Code.CONFLICT)
    ward.must(op(0), ward.finalizing("t"))


def test_w4_the_hash_covers_all_that_a_host_carries_out() -> None:
    ward = Ward()
    ward.write("t")
    task = ward.task(T)
    changed = [
        replace(task, name=TaskName("u")),
        replace(task, kind=TaskType.RUN_SWARM),
        replace(task, author="Bob"),
        replace(task, prereq=TaskName("u")),
        replace(task, outcome="other"),
        replace(task, creator=NodeId(op(1).id)),
    ]
    hashes = {hash_task(other, BODY) for other in (task, *changed)} | {hash_task(task, BODY[:1]), hash_task(task, ())}
    # Where one line ends is a part of it.
    hashes |= {hash_task(task, ("ab", "c")), hash_task(task, ("a", "bc"))}
    assert len(hashes) == len(changed) + 5


def test_w4_only_what_has_a_body_and_follows_something_final_is_finalized() -> None:
    ward = Ward()
    ward.must(op(0), ward.creation("build"), ward.creation("t", prereq="build"))
    assert "no body" in ward.refusal(op(0), ward.finalizing("t"), Code.CONFLICT)
    ward.must(op(0), ward.append("t", "x"))
    assert "build" in ward.refusal(op(0), ward.finalizing("t"), Code.CONFLICT)
    ward.must(op(0), ward.append("build", "x"))
    ward.must(op(0), ward.finalizing("build"))
    ward.must(op(0), ward.finalizing("t"))


def test_w4_what_another_task_needs_is_not_deleted_and_else_leaves_nothing_behind() -> None:
    ward = Ward()
    before = dict(ward.state.values)
    ward.must(op(0), ward.creation("build"), ward.append("build", "x"))
    ward.must(op(0), ward.creation("a", prereq="build"), ward.creation("b", prereq="build"))
    assert "prerequisite of 2" in ward.refusal(op(0), DeleteTask(task=TaskName("build")), Code.CONFLICT)
    ward.must(op(0), DeleteTask(task=TaskName("a")))
    assert "prerequisite of 1" in ward.refusal(op(0), DeleteTask(task=TaskName("build")), Code.CONFLICT)
    ward.must(op(0), DeleteTask(task=TaskName("b")), DeleteTask(task=TaskName("build")))
    ward.refusal(op(0), DeleteTask(task=TaskName("build")), Code.NOT_FOUND)
    assert {key for key in ward.state.values if key not in before} == {f"count/tasks/{op(0).domain}"}
    # Its name is free again, with nothing of what it was.
    ward.must(op(1), ward.creation("build"))
    assert body(ward, "build") == ()
    assert ward.task(TaskName("build")).lines == 0


def test_w4_a_task_stays_whose_prerequisite_became_final_and_was_counted_before() -> None:
    ward = Ward()
    ward.must(op(0), ward.creation("build"), ward.append("build", "x"), ward.creation("a", prereq="build"))
    ward.must(op(0), ward.finalizing("build"))
    assert not [key for key in ward.state.values if key.startswith("needed/")]
    ward.must(op(0), DeleteTask(task=TaskName("a")))
    assert not [key for key in ward.state.values if key.startswith("needed/")]


# --- W-5: limits ----------------------------------------------------------------------------------------------------


def test_w5_an_organisation_has_so_many_unfinished_and_so_many_final_tasks() -> None:
    ward = Ward(2)
    for number in range(MAX_TASKS):
        ward.must(op(0), ward.creation(f"t{number}"))
    assert "1000 unfinished" in ward.refusal(op(0), ward.creation("more"), Code.CONFLICT)
    ward.must(op(0), DeleteTask(task=TaskName("t0")), ward.creation("t0"))
    ward.must(op(1), ward.creation("another-organisations"))
    for number in range(MAX_TASKS):
        ward.must(op(0), ward.append(f"t{number}", "x"))
        ward.must(op(0), ward.finalizing(f"t{number}"))
    ward.must(op(0), ward.creation("more"), ward.append("more", "x"))
    assert "1000 final" in ward.refusal(op(0), ward.finalizing("more"), Code.CONFLICT)
    ward.must(op(0), DeleteTask(task=TaskName("more")), ward.creation("more"))


def test_w5_all_bodies_of_an_organisation_have_a_limit_and_what_is_deleted_counts_no_more() -> None:
    ward = Ward(2)
    large = ["x" * (MAX_LINE - 1)] * (MAX_TASK_BYTES // MAX_LINE)
    most = MAX_BODIES_BYTES // MAX_TASK_BYTES
    for number in range(most):
        ward.must(op(0), ward.creation(f"t{number}"), ward.append(f"t{number}", *large))
    ward.must(op(0), ward.creation("more"))
    assert f"at most {MAX_BODIES_BYTES}" in ward.refusal(op(0), ward.append("more", ""), Code.CONFLICT)
    ward.must(op(1), ward.creation("others"), ward.append("others", *large))
    # Nothing more, but other lines of the same length.
    ward.must(op(0), ward.append("t0", "y" * (MAX_LINE - 1)))
    ward.must(op(0), DeleteTask(task=TaskName("t0")), ward.append("more", *large))
    ward.refusal(op(0), ward.append("more", "", first=len(large) + 1), Code.CONFLICT)


def test_w5_a_former_member_keeps_its_tasks() -> None:
    ward = Ward()
    ward.write("t", by=1)
    ward.must(op(1), ward.creation("draft"))
    ward.go_without(1)
    assert ward.task(T).is_final
    assert ward.task(TaskName("draft")).creator == op(1).id
