"""SW-13: what a task leaves on a host is its organisation's; a swarm runs in what its prerequisite made."""

from pathlib import Path

import pytest

from swarmlearning.contracts.task_records import ROOT_TASK, Task, TaskType
from swarmlearning.errors import ConfigurationError, TaskFailed
from swarmlearning.swop.outcomes import Outcomes
from swarmlearning.types import NodeId, TaskName, TrustDomain

A, B, C = TrustDomain("a.example"), TrustDomain("b.example"), TrustDomain("c.example")


def task_of(domain: TrustDomain, name: str = "build", number: int = 1) -> Task:
    return Task(
        name=TaskName(name),
        kind=TaskType.MAKE_USER_CONTAINER,
        author="tests",
        prereq=ROOT_TASK,
        outcome="env",
        creator=NodeId(f"spiffe://{domain}/net/operator/o"),
        created_height=1,
        hash=bytes([number]) * 32,
    )


def made(data: Path, task: Task, name: str = "env", digest: str = "digest") -> Outcomes:
    outcomes = Outcomes(data)
    outcomes.claim("image", name, task, there=False)
    outcomes.made("image", name, task, digest)
    return Outcomes(data)  # as after a restart


def test_sw13_another_organisations_task_takes_no_place(tmp_path: Path) -> None:
    outcomes = made(tmp_path, task_of(A))
    outcomes.claim("image", "env", task_of(A, "newer", 2), there=True)
    for name in ("env", "env:latest", "docker.io/library/env", "localhost/env:latest", "index.docker.io/library/env"):
        with pytest.raises(TaskFailed, match=r"image .* was made here by build, a task of a\.example"):
            outcomes.claim("image", name, task_of(B), there=True)
    with pytest.raises(TaskFailed, match="a task of a"):
        outcomes.claim("image", "env", task_of(B), there=False)


def test_sw13_what_no_task_made_is_no_tasks_to_replace(tmp_path: Path) -> None:
    outcomes = Outcomes(tmp_path)
    with pytest.raises(TaskFailed, match="a volume private that no task made"):
        outcomes.claim("volume", "private", task_of(A), there=True)
    with pytest.raises(TaskFailed, match="an image python:3 that no task made"):
        outcomes.claim("image", "python:3", task_of(A), there=True)


def test_sw13_the_image_of_the_sls_is_nobodys_even_where_it_is_not_there_yet(tmp_path: Path) -> None:
    outcomes = Outcomes(tmp_path, ("swarm", ""))
    for name in ("swarm", "swarm:latest", "docker.io/library/swarm:latest", "index.docker.io/library/swarm"):
        with pytest.raises(TaskFailed, match="image of the SLs"):
            outcomes.claim("image", name, task_of(A), there=False)
    outcomes.claim("image", "swarm:2", task_of(A), there=False)


def test_sw13_what_came_to_nothing_holds_no_name(tmp_path: Path) -> None:
    Outcomes(tmp_path).claim("image", "env", task_of(A), there=False)
    outcomes = Outcomes(tmp_path)
    outcomes.claim("image", "env", task_of(B), there=False)
    with pytest.raises(TaskFailed, match=r"a task of b\.example"):
        outcomes.claim("image", "env", task_of(A), there=True)


def test_sw13_a_swarm_runs_in_what_its_prerequisite_made_and_nothing_else(tmp_path: Path) -> None:
    first, second = task_of(A, "build-1", 1), task_of(A, "build-2", 2)
    outcomes = made(tmp_path, first)
    assert outcomes.require_image("env", first, "digest") == "digest"
    with pytest.raises(TaskFailed, match="not on this host: assign build-1 first"):
        outcomes.require_image("env", first, None)
    with pytest.raises(TaskFailed, match="was made by the task build-1, not by build-2"):
        outcomes.require_image("env", second, "digest")
    with pytest.raises(TaskFailed, match="is not the one that build-1 made"):
        outcomes.require_image("env", first, "another")
    with pytest.raises(TaskFailed, match="was made by no task"):
        outcomes.require_image("other", first, "digest")


def test_sw13_a_build_that_failed_leaves_the_image_that_was_there(tmp_path: Path) -> None:
    first = task_of(A, "build-1", 1)
    outcomes = made(tmp_path, first)
    outcomes.claim("image", "env", task_of(A, "build-2", 2), there=True)
    assert Outcomes(tmp_path).require_image("env", first, "digest") == "digest"


def test_sw13_volumes_of_third_organisations_are_no_tasks_to_take(tmp_path: Path) -> None:
    outcomes = Outcomes(tmp_path)
    outcomes.claim("volume", "data", task_of(C), there=False)
    with pytest.raises(TaskFailed, match=r"volume data was filled here by build, a task of c\.example"):
        outcomes.check_volumes(["unknown", "data"], task_of(A), B)
    outcomes.check_volumes(["data"], task_of(C), B)
    outcomes.check_volumes(["data"], task_of(A), C)


def test_sw13_without_knowing_what_belongs_to_whom_nothing_goes_on(tmp_path: Path) -> None:
    made(tmp_path, task_of(A))
    assert (tmp_path / "outcomes.json").stat().st_mode & 0o777 == 0o600
    (tmp_path / "outcomes.json").write_text("[{")
    with pytest.raises(ConfigurationError, match=r"outcomes\.json, which says whose"):
        Outcomes(tmp_path)
