"""Which command a typed request means: method and path, from the table of commands. Spec: CI-26.

Names may hold a `/`: a path is split before its parts are decoded, so that `%2F` belongs to a name.
"""

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote_to_bytes

import msgspec

from swarmlearning.errors import ConfigurationError
from swarmlearning.swci.entries import Entry, Route
from swarmlearning.swci.web.problems import WebRefusal

PREFIX: Final = "/v1"

_PARAMETER: Final = re.compile(r"\{([a-z_]+)\}")


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """A command at its route."""

    entry: Entry
    route: Route
    parts: tuple[str, ...]
    """Of the path: words, and parameters in braces."""

    @property
    def in_path(self) -> tuple[str, ...]:
        """Arguments that stand in the path."""
        return tuple(found[1] for part in self.parts if (found := _PARAMETER.fullmatch(part)))

    @property
    def takes_json(self) -> bool:
        """Whether the other arguments come as a JSON object, not as a query."""
        return self.route.method in ("POST", "PUT")

    def match(self, parts: Sequence[str]) -> dict[str, str] | None:
        """The arguments of a path that is this one, or None."""
        if len(parts) != len(self.parts):
            return None
        found: dict[str, str] = {}
        for own, part in zip(self.parts, parts, strict=True):
            if parameter := _PARAMETER.fullmatch(own):
                found[parameter[1]] = part
            elif own != part:
                return None
        return found if all(found.values()) else None


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks for."""

    bound: Bound
    arguments: dict[str, str]
    """Those in the path."""


class Router:
    """Finds commands by method and path.

    Attributes:
        bounds: all commands that have a route, those with more words in their paths first.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        """Read the routes of a table.

        Raises:
            ValueError: a path names an argument that its command lacks, or two commands have one route: our fault.
        """
        bounds = [_bind(entry, entry.route) for entry in entries if entry.route is not None]
        shapes = [(bound.route.method, _PARAMETER.sub("{}", bound.route.path)) for bound in bounds]
        if len(set(shapes)) != len(shapes):
            raise ValueError(f"two commands have one route: {sorted(shapes)}")
        self.bounds = sorted(bounds, key=lambda bound: len(bound.in_path))

    def find(self, method: str, path: str) -> Found:
        """What is asked for; `path` is as it came, below the prefix.

        Raises:
            WebRefusal: there is no such path, or it takes another method.
            ConfigurationError: the path is not UTF-8.
        """
        parts = split_path(path)
        matched = [(bound, found) for bound in self.bounds if (found := bound.match(parts)) is not None]
        for bound, found in matched:
            if bound.route.method == method:
                return Found(bound=bound, arguments=found)
        if not matched:
            raise unknown_path()
        raise wrong_method(method, {bound.route.method for bound, _ in matched})


def split_path(path: str) -> list[str]:
    """The parts of a path, each decoded.

    Raises:
        ConfigurationError: they are not UTF-8.
    """
    try:
        return [unquote_to_bytes(part).decode() for part in path.removeprefix("/").split("/")]
    except ValueError as error:
        raise ConfigurationError("the path is not percent-encoded UTF-8") from error


def unknown_path() -> WebRefusal:
    """There is nothing at a path."""
    return WebRefusal(404, "no-such-path", f"there is nothing at this path; {PREFIX}/openapi.json lists what there is")


def wrong_method(method: str, known: set[str]) -> WebRefusal:
    """A path takes other methods."""
    allowed = ", ".join(sorted(known))
    message = f"{method[:16]} is not for this path; expected {allowed}"
    return WebRefusal(405, "method", message, headers={"Allow": allowed})


def _bind(entry: Entry, route: Route) -> Bound:
    bound = Bound(entry=entry, route=route, parts=tuple(route.path.removeprefix("/").split("/")))
    names = set(entry.command.__struct_fields__)
    if (
        not route.path.startswith("/")
        or not set(bound.in_path) <= names
        or len(set(bound.in_path)) < len(bound.in_path)
    ):
        raise ValueError(f"route {route.path} of {entry.usage}: expected parameters among {sorted(names)}, each once")
    return bound
