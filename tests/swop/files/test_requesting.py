"""What a task would do here, as those see it who try to hide it. Rule SW-29."""

from pathlib import Path

import pytest
from decision_world import BUILD, CONTENT, IMAGE_TASK, PULL, RUN, make_profile, make_task, mounting, request
from msgspec.structs import replace

from swarmlearning.contracts.task_records import make_root_task
from swarmlearning.swop.matching import covers_mount
from swarmlearning.swop.profile import Attribute, IdentityPart, PrivateData
from swarmlearning.swop.requesting import UNKNOWN, find_entrypoint, find_images, find_mounts, find_urls
from swarmlearning.tasks.bodies import MakeUserContainer, Operation


def build(*steps: str) -> MakeUserContainer:
    return MakeUserContainer(build_steps=steps)


# --- images ---------------------------------------------------------------------------------------------------------


def test_sw29_a_training_runs_in_what_its_prerequisite_left() -> None:
    assert find_images(RUN, IMAGE_TASK) == ("user-env-1.0",)
    assert find_images(RUN, None) == find_images(RUN, make_root_task()) == ()
    assert find_images(CONTENT, IMAGE_TASK) == ()


def test_sw29_the_whole_name_of_what_is_pulled() -> None:
    assert find_images(PULL, None) == ("registry.example/heart/tools:2.7.0",)
    digest = replace(PULL, tag="sha256:" + "0" * 64)
    assert find_images(digest, None) == ("registry.example/heart/tools@sha256:" + "0" * 64,)


SOURCES = [
    (("FROM python:3.12",), ("python:3.12",)),
    (("from  --platform=linux/amd64\tpython:3.12  AS base", "FROM base"), ("python:3.12",)),
    (("FROM python:3.12 AS Base", "FROM x/y", "COPY --from=bASE /a /b"), ("python:3.12", "x/y")),
    (("FROM a", "FROM b", "COPY --from=0 /a /b", "COPY --from=1 /a /b"), ("a", "b")),
    (("FROM a AS 5", "FROM 0"), ("a", "0")),
    (("FROM a", "COPY --from=1 /a /b"), ("a", "1")),
    (("FROM a", "COPY --link --from=evil/x /a /b"), ("a", "evil/x")),
    (("FROM a", "RUN --mount=type=bind,from=evil/x,target=/x cp /x /y"), ("a", "evil/x")),
    (("FROM a", "RUN --mount=from=evil/x,target=/x cp /x /y"), ("a", "evil/x")),
    (("FROM a", "ONBUILD COPY --from=evil/x /a /b"), ("a", "evil/x")),
    (("FROM evil/x AS evil/x",), ("evil/x",)),
    (("FROM a", "FROM evil/x AS a", "FROM a"), ("a", "evil/x")),
    (("FROM \\", "evil/x"), ("evil/x",)),
    (("FROM \\", "# a comment", "evil/x"), ("evil/x",)),
    (("FR\\", "OM evil/x"), ("evil/x",)),
    (("FROM a\nFROM evil/x",), ("a", "evil/x")),
    (("  \tFROM evil/x",), ("evil/x",)),
    (("FROM evil/x \\",), ("evil/x",)),
    (("RUN true \\", "# a comment", "  && FROM", "FROM evil/x"), ("evil/x",)),
    (("ARG BASE=evil/x", "FROM $BASE"), ("$BASE",)),
    (("# syntax=evil/frontend", "FROM a"), ("evil/frontend", "a")),
    (("#SYNTAX = evil/frontend", "FROM a"), ("evil/frontend", "a")),
    (("FROM",), (UNKNOWN,)),
    ((), ()),
    (("# FROM evil/x",), ()),
]


@pytest.mark.parametrize(("steps", "images"), SOURCES)
def test_sw29_every_image_that_a_build_takes_anything_from(steps: tuple[str, ...], images: tuple[str, ...]) -> None:
    assert find_images(build(*steps), None) == images


AMBIGUOUS = [
    ("# escape=`", "FROM a"),
    ("#escape=\\", "FROM a"),
    ("// syntax=evil/frontend", "FROM a"),
    ('{"syntax": "evil/frontend"}', "FROM a"),
    ("FROM a", "RUN <<EOF", "x", "EOF"),
    ("FROM a", "RUN <<'E\\'", "E\\", "FROM evil/x"),
    ("FROM a", "RUN echo \\\\", "FROM evil/x"),
    ("FROM a", "RUN true \\", "\u00a0# no comment for every builder", "FROM evil/x"),
    ("FROM a", "RUN true \\", " ", "FROM evil/x"),
    ("FROM a", "FROM\x0bevil/x"),
    ("FROM a", "FROM\x0cevil/x"),
]


@pytest.mark.parametrize("steps", AMBIGUOUS)
def test_sw29_what_builders_read_in_different_ways_cannot_be_told(steps: tuple[str, ...]) -> None:
    assert UNKNOWN in find_images(build(*steps), None)


# --- directories, volumes, private data -----------------------------------------------------------------------------


def test_sw29_links_are_followed_to_where_they_lead(tmp_path: Path) -> None:
    real = tmp_path.resolve()
    (real / "opt" / "heart").mkdir(parents=True)
    (real / "etc").mkdir()
    (real / "opt" / "heart" / "evil").symlink_to(real / "etc")
    inside, evil, new = (f"{real}/opt/heart{end}" for end in ("", "/evil/passwd", "/new/dir"))
    assert [found for _, found in find_mounts(mounting(inside, evil, new))] == [inside, f"{real}/etc/passwd", new]
    asked = request(mounting(evil))
    assert not any(covers_mount([inside], mount) for mount in asked.mounts)


@pytest.mark.parametrize(
    "source", ["heart", "../etc", "./heart", "/opt/../etc", "<CURRENT-PATH>/model", "/a\x00b", "~"]
)
def test_sw29_a_directory_that_is_no_plain_path_is_covered_by_nothing(source: str) -> None:
    ((_, found),) = find_mounts(mounting(source))
    assert found == f"./{source}"
    assert not covers_mount(["/", "heart", source, found], found)


@pytest.mark.parametrize("source", ["/etc", "../etc", "a/b", "", "-x"])
def test_sw29_a_volume_is_no_path(source: str) -> None:
    ((_, found),) = find_mounts(mounting(source, kind="VOLUME"))
    assert not covers_mount(["/", source], found)


EXPOSED = [
    ("/", True),
    ("/data", True),
    ("/data/heart", True),
    ("/data/heart/2024", True),
    ("/data//./heart/", True),
    ("/data/hear", False),
    ("/data/heart-public", False),
    ("/pki", True),
    ("/pki/key.pem", True),
    ("/pki/cert.pem", False),
    ("/var/lib/swop/journal", True),
    ("/opt", False),
]


@pytest.mark.parametrize(("source", "exposed"), EXPOSED)
def test_sw29_a_mount_that_shows_private_data_or_keys_counts_as_reading_them(source: str, exposed: bool) -> None:
    asked = request(mounting("/opt/x", source), hidden=("/var/lib/swop",))
    assert asked.private_data is exposed
    assert asked.exposed == ((source,) if exposed else ())


def test_sw29_a_volume_of_private_data_is_seen_by_its_name(tmp_path: Path) -> None:
    profile = make_profile(PrivateData(source="patients", kind="VOLUME"))
    assert request(mounting("patients", kind="VOLUME"), profile=profile).exposed == ("patients",)
    assert request(mounting("patients2", kind="VOLUME"), profile=profile).exposed == ()
    context = replace(BUILD, build_context="patients")
    assert request(context, profile=profile).exposed == ("patients",)


def test_sw29_a_task_that_fills_a_volume_has_to_be_allowed_that_volume() -> None:
    """The attack: content is the outcome's, and replaces what a node has as private data, or whose key lies there."""
    profile = make_profile(PrivateData(source="patients", kind="VOLUME"))
    key = Attribute(part=IdentityPart.KEY, kind="VOLUME", source="keys", target="/keys")
    ca = Attribute(part=IdentityPart.CACERT, kind="VOLUME", source="ca", target="/ca")
    profile = replace(profile, nodes=(replace(profile.nodes[0], identity=(key, ca)),))
    kinds = {"o": False, "patients": True, "keys": True, "ca": True}
    for outcome, exposed in kinds.items():
        asked = request(CONTENT, profile=profile, task=replace(make_task(CONTENT), outcome=outcome))
        assert asked.mounts == (outcome,)
        assert asked.exposed == ((outcome,) if exposed else ())
        assert asked.private_data is exposed
    per_peer = replace(CONTENT, content_type="SWARMCONTENT")
    task = replace(make_task(per_peer), outcome="patients")
    assert request(per_peer, profile=profile, task=task).mounts == ("patients-0",)
    assert not covers_mount(["patients", "/"], request(per_peer, profile=None, task=task).mounts[0])


def test_sw29_private_data_behind_a_link_is_seen(tmp_path: Path) -> None:
    real = tmp_path.resolve()
    (real / "data").mkdir()
    (real / "alias").symlink_to("data")
    profile = make_profile(PrivateData(source=f"{real}/alias", kind="BIND"))
    assert request(mounting(f"{real}/data"), profile=profile).exposed == (f"{real}/data",)


def test_sw29_private_content_reads_private_data_where_there_is_any() -> None:
    body = replace(RUN, private_content="/data")
    assert request(body).private_data
    assert not request(body, profile=make_profile(None)).private_data
    assert not request(RUN).private_data


# --- programs and downloads -----------------------------------------------------------------------------------------


def test_sw29_an_entry_point_is_its_first_word() -> None:
    for text, word in (("python3", "python3"), ("'my tool' -x", "my tool"), ("'", ""), ("", "")):
        assert find_entrypoint(replace(RUN, entrypoint=text)) == word
    assert find_entrypoint(BUILD) is None


def test_sw29_downloads_are_those_of_content_and_of_builds() -> None:
    more = (*CONTENT.operations, Operation(operation="EXTRACT", target="https://x/y"))
    assert find_urls(replace(CONTENT, operations=more)) == ("https://models.example/heart/a.tar",)
    steps = ("FROM a", "ADD https://e.example/x /x", 'ADD ["ht\\u0074p\\u003a//e.example/y", "/y"]', "ADD file /z")
    assert find_urls(build(*steps)) == ("https://e.example/x", "http://e.example/y")
    assert find_urls(build("ADD $URL /x", "ADD git@e.example:x /x", "ADD [broken /x")) == (
        "$URL",
        "git@e.example:x",
        "$?",
    )
    assert find_urls(RUN) == find_urls(PULL) == ()
