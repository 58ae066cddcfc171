"""The command `pip install` of a recipe: which options there are, what is installed, from where.

A closed list: what is not on it is refused. Spec: docs/spec/swop-content.md, SW-61.
"""

import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from swarmlearning.swop.managers.recipe_words import StepFault, Word, shorten

_Kind = Literal["text", "url", "place", "file", "drop"]

FLAGS: Final = frozenset({
    "--upgrade", "--no-deps", "--pre", "--force-reinstall", "--ignore-installed", "--prefer-binary", "--no-index",
    "--quiet", "--verbose", "--compile", "--no-compile", "--no-build-isolation", "--use-pep517", "--require-hashes",
})  # fmt: skip
"""Options without a value that pip is given."""

DROPPED: Final = frozenset({
    "--no-cache-dir", "--disable-pip-version-check", "--no-input", "--no-color", "--no-warn-script-location", "--user",
    "--no-warn-conflicts", "--no-python-version-warning", "--break-system-packages",
})  # fmt: skip
"""Options without a value that mean nothing for an image here: it has no cache, no user, and is no system."""

VALUES: Final[dict[str, _Kind]] = {
    "--requirement": "file",
    "--constraint": "file",
    "--index-url": "url",
    "--extra-index-url": "url",
    "--find-links": "place",
    "--upgrade-strategy": "text",
    "--only-binary": "text",
    "--no-binary": "text",
    "--timeout": "text",
    "--retries": "text",
    "--cache-dir": "drop",
    "--progress-bar": "drop",
    "--root-user-action": "drop",
}
"""Options with a value, and what that is: a text, an https URL, a file in the image, a place (either), or nothing."""

_SHORT: Final = {
    "-U": "--upgrade",
    "-I": "--ignore-installed",
    "-q": "--quiet",
    "-v": "--verbose",
    "-r": "--requirement",
    "-c": "--constraint",
    "-i": "--index-url",
    "-f": "--find-links",
    "--pypi-url": "--index-url",
    "--default-timeout": "--timeout",
}

_ARCHIVES: Final = (".whl", ".tar.gz", ".tgz", ".zip", ".tar.bz2", ".tar.xz")
_VERSION: Final = r"\s*(?:===|==|~=|!=|<=|>=|<|>)\s*[A-Za-z0-9.*+!_-]+\s*"
_REQUIREMENT: Final = re.compile(
    rf"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?P<extras>\[[A-Za-z0-9._, -]*\])?"
    rf"(?:{_VERSION}(?:,{_VERSION})*)?(?:\s*;.*)?"
)
_AT_URL: Final = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?:\[[A-Za-z0-9._, -]*\])?\s*@\s*(?P<url>\S+)(?:\s+;.*)?"
)
_PATH_EXTRAS: Final = re.compile(r"(?P<path>.+?)(?P<extras>\[[A-Za-z0-9._, -]+\])?")

OURS: Final = re.compile(r"swarm[-_.]?learning", re.IGNORECASE)
"""Our own package, and the product's client."""


class Argument(msgspec.Struct, frozen=True, kw_only=True):
    """One argument of pip."""

    text: str
    """As pip takes it; of a path, where it is in the image."""
    wanted: bool = False
    """Whether it is something to be installed, or a file of such, and not an option."""
    path: bool = False
    pattern: bool = False
    """Whether the path has `*` or `?`, and stands for all files of such names."""
    extras: str = ""
    """Behind a path, such as `[gpu]`."""


class Pip(msgspec.Struct, frozen=True, kw_only=True):
    """A command `pip install`."""

    arguments: tuple[Argument, ...]
    """Empty: nothing is left to be installed."""
    notes: tuple[str, ...]


def is_ours(name: str) -> bool:
    """Whether a file's name is that of a wheel of Swarm Learning, or a pattern for such."""
    base = posixpath.basename(name)
    return OURS.match(base) is not None and base.endswith((".whl", "*"))


def check_url(text: str) -> str:
    """A URL that pip may be given.

    Raises:
        StepFault: it is not https, or has a user or password in it.
    """
    try:
        url = urlsplit(text)
        host, port = url.hostname, url.port
    except ValueError as error:
        raise StepFault(f"{shorten(text)} is no URL") from error
    if url.scheme.lower() != "https" or not host or port == 0:
        raise StepFault(f"expected a URL that begins with https://, got {shorten(text)}")
    if url.username is not None or url.password is not None:
        # Not shown: every member could read it on the ledger, but need not in everybody's logs.
        raise StepFault(f"a URL on {shorten(host)} has a user or password in it, which every member could read")
    return text


def read_pip(words: Sequence[Word], workdir: str) -> Pip:
    """What the words after `pip` say.

    Args:
        words: without `pip` itself.
        workdir: of the image, from which paths are read.

    Raises:
        StepFault: it is not `install`, or says something that is not on the list.
    """
    commands = [word.text for word in words if not word.text.startswith("-")]
    if commands[:2] == ["cache", "purge"] and len(words) == 2:
        return Pip(arguments=(), notes=("there is no cache to purge",))
    if commands[:1] != ["install"]:
        raise StepFault(f"expected pip install, got pip {shorten(' '.join(commands[:1])) or 'alone'}")
    rest = list(words)
    rest.remove(next(word for word in words if word.text == "install"))
    options: list[Argument] = []
    wanted: list[Argument] = []
    notes: list[str] = []
    queue = iter(rest)
    for word in queue:
        if word.text.startswith("-"):
            options += _read_option(word, queue, workdir)
        elif (requirement := _read_requirement(word, workdir, notes)) is not None:
            wanted.append(requirement)
    arguments = (*options, *wanted)
    if names_anything(arguments):
        return Pip(arguments=arguments, notes=tuple(notes))
    if not notes:
        raise StepFault("it names nothing to install")
    return Pip(arguments=(), notes=tuple(notes))


def names_anything(arguments: Iterable[Argument]) -> bool:
    """Whether there is anything to be installed."""
    return any(argument.wanted for argument in arguments)


def _read_option(word: Word, queue: Iterator[Word], workdir: str) -> list[Argument]:
    given, equals, value = word.text.partition("=")
    option = _SHORT.get(given, given)
    if option in DROPPED and not equals:
        return []
    if option in FLAGS and not equals:
        return [Argument(text=option)]
    kind = VALUES.get(option)
    if kind is None:
        raise StepFault(f"pip's option {shorten(given)} is not carried out here")
    if not equals:
        following = next(queue, None)
        if following is None:
            raise StepFault(f"expected a value after {given}")
        value = following.text
    if not value or value.startswith("-"):
        raise StepFault(f"expected a value after {given}, got {shorten(value) or 'nothing'}")
    if kind == "drop":
        return []
    if kind == "url" or (kind == "place" and "://" in value):
        return [Argument(text=option), Argument(text=check_url(value))]
    if kind in ("file", "place"):
        return [Argument(text=option), _read_path(value, workdir, wanted=option == "--requirement")]
    return [Argument(text=option), Argument(text=value)]


def _read_path(text: str, workdir: str, *, wanted: bool, pattern: bool = False, extras: str = "") -> Argument:
    if "://" in text or text.startswith("file:"):
        raise StepFault(f"expected a file that COPY brought into the image, got {shorten(text)}")
    return Argument(text=join_path(workdir, text), wanted=wanted, path=True, pattern=pattern, extras=extras)


def _read_requirement(word: Word, workdir: str, notes: list[str]) -> Argument | None:
    """What is to be installed; None if it is left out, for which a note says why."""
    text = word.text
    if is_ours(text):
        notes.append(f"{shorten(posixpath.basename(text))} is left out: Swarm Learning is in every image")
        return None
    if "://" in text and "@" not in text.partition("://")[0]:
        return Argument(text=check_url(text), wanted=True)
    if (named := _AT_URL.fullmatch(text)) is not None:
        check_url(named["url"])
        _check_not_ours(named["name"])
        return Argument(text=text, wanted=True)
    if text.startswith((".", "/")) or "/" in text.partition(";")[0] or text.lower().endswith(_ARCHIVES):
        parts = _PATH_EXTRAS.fullmatch(text)
        assert parts is not None
        return _read_path(parts["path"], workdir, wanted=True, pattern=word.pattern, extras=parts["extras"] or "")
    found = _REQUIREMENT.fullmatch(text)
    if found is None:
        raise StepFault(
            f"expected a package, with versions in quotes as in 'keras>=3', got {shorten(text) or 'nothing'}"
        )
    name = found["name"].lower()
    if name == "pip":
        notes.append("pip is left out: it is the host's")
        return None
    if found["extras"] is None and OURS.fullmatch(name):
        notes.append(f"{name} is left out: Swarm Learning is in every image")
        return None
    _check_not_ours(name)
    return Argument(text=text, wanted=True)


def _check_not_ours(name: str) -> None:
    if OURS.fullmatch(name):
        raise StepFault(f"Swarm Learning is in every image; name what else is needed instead of {name}")


def join_path(workdir: str, path: str) -> str:
    """A path in the image, absolute and without `.` and `..`."""
    joined = posixpath.normpath(posixpath.join("/", workdir, path))
    return "/" + joined.lstrip("/")
