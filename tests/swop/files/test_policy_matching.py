"""Attacks on what a policy allows: names, images, directories, URLs that look like others. Rules SW-30 to SW-33."""

import time
from datetime import datetime

import pytest

from swarmlearning.swop.matching import (
    Url,
    covers_image,
    covers_mount,
    covers_text,
    covers_time,
    covers_url,
    normalise_path,
    parse_url,
)
from swarmlearning.swop.policy import Hours

# --- names and images -----------------------------------------------------------------------------------------------


TEXTS = [
    ("heart_*", "heart_1", True),
    ("heart_*", "heart_", True),
    ("heart_*", "my_heart_1", False),
    ("*", "", True),
    ("*_task", "a/b_task", True),
    ("a*b*c", "aXbYc", True),
    ("a*b*c", "abc", True),
    ("a*b*c", "acb", False),
    ("a*b*c", "aXc", False),
    ("*a*", "abc", True),
    ("a*b*b*c", "abc", False),
    ("ab*ba", "aba", False),
    ("a**b", "ab", True),
    ("heart", "heart\n", False),
    ("h.art", "heart", False),
    ("[a-z]", "b", False),
    ("[a-z]", "[a-z]", True),
    ("h?", "h1", False),
    ("a|b", "a", False),
    ("", "", True),
    ("", "x", False),
]


@pytest.mark.parametrize(("pattern", "text", "covered"), TEXTS)
def test_sw30_a_star_is_the_only_special_character(pattern: str, text: str, covered: bool) -> None:
    assert covers_text([pattern], text) is covered


def test_sw30_a_pattern_of_many_stars_is_done_soon() -> None:
    began_s = time.monotonic()
    assert not covers_text(["*a" * 40 + "b"], "a" * 100_000)
    assert time.monotonic() - began_s < 20


IMAGES = [
    ("python:3.*", "python:3.12-slim", True),
    ("python:*", "python:3.12@sha256:0123", True),
    ("python:3.*", "python:3.1@sha256:0123", False),
    ("python:3.*@*", "python:3.1@sha256:0123", True),
    ("registry.example/tools:1.*", "registry.example/tools:1.0:evil", False),
    ("registry.example/tools:*", "registry.example/tools:1.0:evil", False),
    ("registry.example:5000/tools:1.*", "registry.example:5000/tools:1.0", True),
    ("python:*", "python:5000/evil/tools", False),
    ("python:*", "python:5000/evil:1", False),
    ("*", "evil.example/tools", False),
    ("*", "user-env-1.0", True),
    ("registry.example/heart/*", "registry.example/heart/tools:1", True),
    ("registry.example/heart/*", "registry.example/heart/evil/tools:1", False),
    ("registry.example/*", "registry.example.evil/x", False),
    ("registry.example/heart/*", "registry.example/heart/../evil:1", False),
    ("*", "$BASE", False),
    ("python:*", "python:${TAG}", False),
    ("python:*", 'python:"3"', False),
    ("python:*", "python:3 evil", False),
    ("python:*", "python:3\n", False),
    ("*", "", False),
    ("*", "$?", False),
]


@pytest.mark.parametrize(("pattern", "image", "covered"), IMAGES)
def test_sw30_an_image_is_covered_within_its_registry_alone(pattern: str, image: str, covered: bool) -> None:
    assert covers_image([pattern], image) is covered


# --- directories and volumes ----------------------------------------------------------------------------------------


MOUNTS = [
    ("/opt/heart", "/opt/heart", True),
    ("/opt/heart", "/opt/heart/model/a", True),
    ("/opt/heart/", "/opt//heart/./model/", True),
    ("/opt/heart", "/opt/heart-evil", False),
    ("/opt/heart", "/opt", False),
    ("/opt/heart", "/opt/heart/../../etc", False),
    ("/opt/heart", "/opt/heart/..", False),
    ("/opt/heart", "opt/heart", False),
    ("/opt/heart", "./opt/heart", False),
    ("/opt/heart", "/opt/heart\x00/etc", False),
    ("/opt/heart", "/OPT/heart", False),
    ("/", "/etc", True),
    ("/", "/", True),
    ("program", "program", True),
    ("program", "program2", False),
    ("program", "program/x", False),
    ("program", "./program", False),
    ("/program", "program", False),
    ("*", "program", False),
    ("/opt/*", "/opt/heart", False),
    ("/opt/*", "/opt/*", True),
]


@pytest.mark.parametrize(("mount", "source", "covered"), MOUNTS)
def test_sw31_a_directory_is_covered_by_whole_names(mount: str, source: str, covered: bool) -> None:
    assert covers_mount([normalise_path(mount) or mount], source) is covered


# --- URLs -----------------------------------------------------------------------------------------------------------


BASE = "https://models.example/heart/"
URLS = [
    ("https://models.example/heart/a.tar", True),
    ("https://models.example/heart", True),
    ("https://models.example/heart/", True),
    ("https://models.example:443/heart/a", True),
    ("HTTPS://MODELS.EXAMPLE/heart/a", True),
    ("https://models.example/heart/a?version=2&x=../..", True),
    ("https://models.example/%68eart/a", True),
    ("https://models.example/heart-evil/a", False),
    ("https://models.example/Heart/a", False),
    ("https://models.example/", False),
    ("https://models.example", False),
    ("http://models.example/heart/a", False),
    ("https://models.example:8443/heart/a", False),
    ("https://models.example.evil.example/heart/a", False),
    ("https://evil.example/models.example/heart/a", False),
    ("https://models.example@evil.example/heart/a", False),
    ("https://user:password@models.example/heart/a", False),
    ("https://models.example:443@evil.example/heart/a", False),
    ("https://models.example\\@evil.example/heart/a", False),
    ("https://models.example%40evil.example/heart/a", False),
    ("https://models.example%2eevil.example/heart/a", False),
    ("https://models.example./heart/a", False),
    ("https://models.example\u3002/heart/a", False),
    ("https://m\u043edels.example/heart/a", False),
    ("https://xn--mdels-qqa.example/heart/a", False),
    ("https://models.example/heart/../etc", False),
    ("https://models.example/heart/%2e%2e/etc", False),
    ("https://models.example/heart/%2E./etc", False),
    ("https://models.example/heart/%252e%252e/etc", False),
    ("https://models.example/heart%2f..%2fetc", False),
    ("https://models.example/heart/..;/etc", False),
    ("https://models.example/heart//etc", False),
    ("https://models.example//heart/a", False),
    ("https://models.example/heart/./a", False),
    ("https://models.example/heart/a%00.tar", False),
    ("https://models.example/heart/a%zz", False),
    ("https://models.example/heart/a%", False),
    ("https://models.example/heart/a%ff", False),
    ("https://models.example/heart/a\\..\\..", False),
    ("https://models.example/heart/a#/../..", False),
    ("https://models.example/heart/a b", False),
    ("https://models.example/heart/a\n", False),
    (" https://models.example/heart/a", False),
    ("ht\ttps://models.example/heart/a", False),
    ("https:models.example/heart/a", False),
    ("https:/models.example/heart/a", False),
    ("https:///models.example/heart/a", False),
    ("//models.example/heart/a", False),
    ("models.example/heart/a", False),
    ("file:///heart/a", False),
    ("file://models.example/heart/a", False),
    ("ftp://models.example/heart/a", False),
    ("https://[::1]/heart/a", False),
    ("https://models.example:x/heart/a", False),
    ("https://models.example:99999/heart/a", False),
    ("https://[models.example]/heart/a", False),
    ("", False),
]


@pytest.mark.parametrize(("url", "covered"), URLS)
def test_sw32_a_url_is_covered_by_scheme_host_port_and_whole_names(url: str, covered: bool) -> None:
    assert covers_url([BASE], url) is covered


def test_sw32_what_a_url_is() -> None:
    assert parse_url("http://[2001:DB8::1]:81/a%20b/c/") == Url(
        scheme="http", host="[2001:db8::1]", port=81, path=("a b", "c")
    )
    assert covers_url(["http://192.0.2.1/"], "http://192.0.2.1:80/a")
    assert not covers_url(["http://192.0.2.1/"], "http://3221225985/a")
    assert not covers_url([], "https://models.example/")
    assert not covers_url(["file:///"], "file:///etc/passwd")
    assert not covers_url(["nonsense", "file:///"], "https://models.example/")
    assert covers_url(["nonsense", "https://models.example/"], "https://models.example/a")


# --- times ----------------------------------------------------------------------------------------------------------


NIGHTS = Hours(days=(0, 1, 2, 3, 4), begin=18 * 60, end=6 * 60)
OFFICE = Hours(days=(0, 1, 2, 3, 4), begin=8 * 60, end=17 * 60)
SUNDAY = Hours(days=(6,), begin=22 * 60, end=2 * 60)
# 2026-03-02 is a Monday.
CASES = [
    (NIGHTS, "2026-03-02T18:00", True),
    (NIGHTS, "2026-03-02T17:59", False),
    (NIGHTS, "2026-03-03T05:59", True),
    (NIGHTS, "2026-03-03T06:00", False),
    (NIGHTS, "2026-03-02T05:00", False),  # the night from Sunday
    (NIGHTS, "2026-03-07T05:00", True),  # the night from Friday
    (NIGHTS, "2026-03-07T18:00", False),
    (OFFICE, "2026-03-06T08:00", True),
    (OFFICE, "2026-03-06T17:00", False),
    (OFFICE, "2026-03-07T09:00", False),
    (SUNDAY, "2026-03-02T01:59", True),
    (SUNDAY, "2026-03-02T02:00", False),
    (SUNDAY, "2026-03-01T23:00", True),
    (SUNDAY, "2026-03-01T01:00", False),
    (Hours(days=(0,), begin=0, end=1440), "2026-03-02T23:59", True),
    (Hours(days=(0,), begin=0, end=1440), "2026-03-03T00:00", False),
]


@pytest.mark.parametrize(("hours", "now", "covered"), CASES)
def test_sw33_hours_over_midnight_belong_to_the_day_on_which_they_begin(hours: Hours, now: str, covered: bool) -> None:
    assert covers_time([hours], datetime.fromisoformat(now)) is covered
