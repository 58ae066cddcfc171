"""What of an agent's words goes on the ledger, where every member reads it for good: not where things lie on its host.

Errors name directories, so that whoever runs this host can help; their names may tell whose data that is. The journal
and the agent's own log have them in full. Spec: docs/spec/swop.md, SW-9.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from swarmlearning.contracts.task_records import MAX_DESCRIPTION
from swarmlearning.reports.status import make_printable
from swarmlearning.swop.profile import Profile

Private = tuple[tuple[str, str], ...]
"""Paths of this host, and what is told in their place; a path before those that lead to it."""

_END: Final = "…"


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


def tell_others(text: str, private: Private) -> str:
    """A description as it goes on the ledger: without such paths, printable, and no longer than is kept there."""
    for path, told in private:
        text = text.replace(path, told)
    text = make_printable(text)
    if len(text.encode()) <= MAX_DESCRIPTION:
        return text
    cut = text.encode()[: MAX_DESCRIPTION - len(_END.encode())].decode(errors="ignore")
    return cut + _END
