"""Whether what a policy names covers what a task asks for. Where that is in doubt, it does not.

Pure. Spec: docs/spec/swop-files.md, SW-30 to SW-33.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Final
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

import msgspec

from swarmlearning.swop.policy import Hours
from swarmlearning.swop.values import is_volume
from swarmlearning.tasks.faults import show_text

_PORTS: Final = {"http": 80, "https": 443}
_IMAGE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\]")
_URL: Final = re.compile(r"[!-~]+")
_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


def covers_text(patterns: Iterable[str], text: str) -> bool:
    """Whether a pattern, in which `*` alone has a meaning, any characters, is the whole of a text."""
    return any(_match(pattern, text) for pattern in patterns)


def covers_image(patterns: Iterable[str], image: str) -> bool:
    """As `covers_text`, but that `*` stands for no `/`: what is before one may be another registry, port and all.

    Nor for the `@` before a digest, beside which a tag means nothing, unless any tag is allowed (`:*`). Covered by
    nothing is an image whose name is not known yet, such as `$BASE`, and one with two tags, of which engines take the
    second.
    """
    if not _IMAGE.fullmatch(image) or image.partition("@")[0].rpartition("/")[2].count(":") > 1:
        return False
    parts = image.split("/")
    return any(
        len(wanted) == len(parts) and all(map(_match, wanted, parts))
        for wanted in (
            pattern.split("/") for pattern in patterns if "@" not in image or "@" in pattern or pattern.endswith(":*")
        )
    )


def _match(pattern: str, text: str) -> bool:
    """Takes for each piece between stars the first place where it fits: soon done, whatever the text."""
    first, *others = pattern.split("*")
    if not others:
        return pattern == text
    last = others.pop()
    if len(text) < len(first) + len(last) or not (text.startswith(first) and text.endswith(last)):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in others:
        at = text.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


# --- paths ----------------------------------------------------------------------------------------------------------


def normalise_path(text: str) -> str | None:
    """A path from the root without `.`, `//` and a `/` at its end; None if it is none, or has `..`."""
    if not text.startswith("/") or not text.isprintable():
        return None
    parts = [part for part in text.split("/") if part not in ("", ".")]
    return None if ".." in parts else "/" + "/".join(parts)


def covers_mount(mounts: Iterable[str], source: str) -> bool:
    """Whether a directory is one of `mounts` or in one, by whole names; a volume is covered by its name alone.

    Links are not followed here: both sides name places where they lead.
    """
    if is_volume(source):
        return source in mounts
    path = normalise_path(source)
    return path is not None and any(is_within(path, mount) for mount in mounts if mount.startswith("/"))


def is_within(path: str, directory: str) -> bool:
    """Whether a normal path is a directory or in it."""
    outer = directory.rstrip("/")
    return path == (outer or "/") or path.startswith(outer + "/")


# --- URLs -----------------------------------------------------------------------------------------------------------


class Url(msgspec.Struct, frozen=True, kw_only=True):
    """What of a URL is compared."""

    scheme: str
    host: str
    port: int
    path: tuple[str, ...]
    """Its names, decoded."""


def covers_url(urls: Iterable[str], url: str) -> bool:
    """Whether a URL begins with one of `urls`: the same scheme, host and port, and its path within theirs."""
    wanted = parse_url(url)
    if isinstance(wanted, str):
        return False
    for text in urls:
        allowed = parse_url(text)
        if isinstance(allowed, str):
            continue
        same = (allowed.scheme, allowed.host, allowed.port) == (wanted.scheme, wanted.host, wanted.port)
        if same and wanted.path[: len(allowed.path)] == allowed.path:
            return True
    return False


def explain_url(text: str) -> str:
    """What is wrong with a URL in a policy; empty if nothing."""
    found = parse_url(text)
    if isinstance(found, str):
        return f"expected the beginning of a URL such as https://host.example/models/, got {show_text(text)}: {found}"
    if "?" in text:
        return f"expected the beginning of a URL without a question mark, got {show_text(text)}"
    return ""


def parse_url(text: str) -> Url | str:
    """What a URL says, or why it cannot be compared safely."""
    if not _URL.fullmatch(text) or "\\" in text or _ESCAPE.search(text):
        return "it has characters that a URL cannot have"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return "it is no URL"
    problem = _explain_parts(parts)
    if problem:
        return problem
    names = [unquote_to_bytes(name).decode(errors="replace") for name in parts.path.split("/")[1:]]
    if names and not names[-1]:
        names.pop()
    if not all(map(_is_plain, names)):
        return "its path has .., an empty name, or something else that servers read in different ways"
    return Url(
        scheme=parts.scheme,
        host=_host_of(parts),
        port=_PORTS[parts.scheme] if port is None else port,
        path=tuple(names),
    )


def _explain_parts(parts: SplitResult) -> str:
    if parts.scheme not in _PORTS:
        return "its scheme is neither http nor https"
    if "@" in parts.netloc:
        return "it has a name or a password"
    if not _HOST.fullmatch(_host_of(parts)) or ".." in parts.netloc:
        return "its host is no name in ASCII and no address"
    if parts.fragment:
        return "it has a #"
    return ""


def _host_of(parts: SplitResult) -> str:
    host = (parts.hostname or "").lower()
    return f"[{host}]" if ":" in host else host


def _is_plain(name: str) -> bool:
    return name not in ("", ".", "..") and name.isprintable() and not any(char in name for char in "/\\%;?#\ufffd")


# --- times ----------------------------------------------------------------------------------------------------------


def covers_time(hours: Iterable[Hours], now: datetime) -> bool:
    """Whether a local time is within one of the hours; those over midnight belong to the day on which they begin."""
    day, minute = now.weekday(), now.hour * 60 + now.minute
    return any(_holds(hour, day, minute) for hour in hours)


def _holds(hours: Hours, day: int, minute: int) -> bool:
    if hours.begin < hours.end:
        return day in hours.days and hours.begin <= minute < hours.end
    return (day in hours.days and minute >= hours.begin) or ((day - 1) % 7 in hours.days and minute < hours.end)
