"""What of an agent's words goes on the ledger, where every member reads it for good: not where things lie on its host.

Errors name directories, so that whoever runs this host can help; their names may tell whose data that is. The journal
and the agent's own log have them in full. Spec: docs/spec/swop.md, SW-15.
"""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from swarmlearning.contracts.task_records import MAX_DESCRIPTION
from swarmlearning.reports.status import make_printable
from swarmlearning.swop.profile import Profile

Private = tuple[tuple[str, str], ...]
"""Paths of this host, and what is told in their place; a path before those that lead to it."""

PATH: Final = "[path]"
"""Stands for a path of this host."""

MAX_PATHS: Final = 1000
"""How many paths of a task may be told."""

_END: Final = "…"

_PATH: Final = re.compile(r"(?:(?<![\w/.:)])|(?<=:)(?!//))/[^\s'\"|,;:()<>\[\]]+")
"""A path that begins at the root; not one within a URL, or within another path."""

_OF_ALL: Final = ("/usr", "/lib", "/lib64", "/bin", "/home/swarm", "/platform")
"""What every host has, or every program for itself."""


def find_private(profile: Profile, data: Path, secrets: Iterable[str]) -> Private:
    """What of this host's paths stays on it: private data, identities, policy, and the agent's own directory."""
    named = list(_name(profile, data, secrets))
    # As they are named, and where their links lead: errors may say either.
    both = dict([*((os.path.realpath(path), told) for path, told in named), *named])
    return tuple(sorted(((path, told) for path, told in both.items() if path != "/"), key=lambda item: -len(item[0])))


def _name(profile: Profile, data: Path, secrets: Iterable[str]) -> Iterator[tuple[str, str]]:
    for secret in secrets:
        yield secret, "(the agent's key)"
    yield str(data), "(the agent's data)"
    if profile.policy is not None:
        yield str(profile.policy), "(the policy)"
    for node in profile.nodes:
        for attribute in node.identity:
            if attribute.kind == "BIND":
                yield attribute.source, f"({attribute.part.value} of node {node.idx})"
        if node.private_data is not None and node.private_data.kind == "BIND":
            yield node.private_data.source, f"(private data of node {node.idx})"


def hide_paths(text: str, shown: Iterable[str] = ()) -> str:
    """`text` without paths of this host; those at and in `shown`, which a task names itself, and common ones stay."""
    kept = frozenset(place.rstrip("/") for place in (*_OF_ALL, *shown) if place.strip("/"))

    def replace(found: re.Match[str]) -> str:
        path = found[0]
        end = len(path)
        while end > 0:  # itself, then the directories that it is in
            if path[:end] in kept:
                return path
            end = path.rfind("/", 0, end)
        return PATH

    return _PATH.sub(replace, text)


def find_paths(text: str) -> tuple[str, ...]:
    """Paths in a text that begin at the root, each once; of very many the shortest."""
    return tuple(sorted(sorted(set(_PATH.findall(text)), key=len)[:MAX_PATHS]))


def tell_others(text: str, private: Private, shown: Iterable[str] = ()) -> str:
    """SW-15: a description as it goes on the ledger: printable, and no longer than is kept there.

    Without paths of the host, but for those in `shown`, which the task names.
    """
    # Much more than is told, so that replacing leaves enough; not all that a task can say, which is others' to choose.
    text = text[: 16 * MAX_DESCRIPTION]
    for path, told in private:
        text = text.replace(path, told)
    text = hide_paths(make_printable(text), shown)
    if len(text.encode()) <= MAX_DESCRIPTION:
        return text
    cut = text.encode()[: MAX_DESCRIPTION - len(_END.encode())].decode(errors="ignore")
    return cut + _END
