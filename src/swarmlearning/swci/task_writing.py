"""Putting a task definition on the ledger, also where an attempt at it was interrupted. Spec: CI-53.

A definition goes up in several transactions, because a task is larger than one may be.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from swarmlearning.contracts.messages import MAX_TX_BYTES, AppendTask, CreateTask
from swarmlearning.encoding import encode
from swarmlearning.errors import ConfigurationError, Unreachable
from swarmlearning.reports.status import make_printable
from swarmlearning.sn.api import WholeTask
from swarmlearning.sn.client import SnClient, Submitter
from swarmlearning.tasks.definition import Definition
from swarmlearning.types import NodeName, TaskName

BATCH_BYTES: Final = MAX_TX_BYTES - (8 << 10)
"""Most bytes of lines in one transaction: the rest is for names and the signature."""


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Lines of a body that one transaction wrote."""

    first: int
    """Number of its first line, from 1."""
    lines: int


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """A task that stands on the ledger as a file defines it."""

    task: TaskName
    lines: int
    """Of its body."""
    batches: tuple[Batch, ...]
    """What was written now."""
    found: int
    """Lines that stood there already, from an attempt that was interrupted."""
    resumed: bool
    """The task was there already."""
    final: bool
    """It was there already, and final: nothing was to be done."""
    warnings: tuple[str, ...]


async def register_task(client: SnClient, submitter: Submitter, definition: Definition) -> Registered:
    """CI-53: create a task and write its body; or go on where the body on the ledger ends.

    Raises:
        ConfigurationError: there is a task of that name that is not the beginning of this one.
        Refused: the ledger refused it, and says why.
        Unreachable: the SN fell silent; the message says how far it got.
        VerificationError: see `SnClient.submit`.
    """
    there = await client.task(definition.name)
    found = 0 if there is None else _require_beginning(there, definition, client)
    written = found
    batches = []
    try:
        if there is None:
            message = CreateTask(
                task=definition.name,
                kind=definition.kind,
                author=definition.author,
                prereq=definition.prereq,
                outcome=definition.outcome,
            )
            await submitter.require(message)
        for first, lines in split_batches(definition.lines, found):
            await submitter.require(AppendTask(task=definition.name, first=first, lines=lines))
            batches.append(Batch(first=first, lines=len(lines)))
            written += len(lines)
    except Unreachable as error:
        how_far = f"{written} of {len(definition.lines)} lines of {definition.name} are known to be on the ledger"
        raise Unreachable(f"{error}; {how_far}: give the same command again, it goes on from there") from error
    return Registered(
        task=definition.name,
        lines=len(definition.lines),
        batches=tuple(batches),
        found=found,
        resumed=there is not None,
        final=there is not None and there.task.is_final,
        warnings=definition.warnings,
    )


def split_batches(lines: tuple[str, ...], start: int) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Lines after the first `start` ones by what goes into one transaction: number of the first, from 1, and lines."""
    first, size = start, 0
    for index in range(start, len(lines)):
        more = len(encode(lines[index]))
        if size + more > BATCH_BYTES:
            yield first + 1, lines[first:index]
            first, size = index, 0
        size += more
    if first < len(lines):
        yield first + 1, lines[first:]


def _require_beginning(there: WholeTask, definition: Definition, client: SnClient) -> int:
    """How many lines of `definition` are there already, if what is there is the beginning of it, and ours.

    Raises:
        ConfigurationError: it is not.
    """
    task, own = there.task, NodeName.parse(client.address.node).domain
    owner = NodeName.parse(task.creator).domain if task.creator else "the network"
    other = "choose another name" if task.is_final else f"DELETE TASK {task.name} first, or choose another name"
    if owner != own:
        raise ConfigurationError(f"there is a task {task.name} already, {owner}'s: choose another name")
    for field, ours, theirs in (
        ("type", definition.kind.value, task.kind.value),
        ("author", definition.author, task.author),
        ("prerequisite", definition.prereq, task.prereq),
        ("outcome", definition.outcome, task.outcome),
    ):
        if ours != theirs:
            raise ConfigurationError(
                f"task {task.name} is on the ledger already with the {field} {make_printable(theirs)!r}, the file has "
                f"{ours!r}: {other}"
            )
    for number, line in enumerate(there.body, 1):
        if number > len(definition.lines) or line != definition.lines[number - 1]:
            raise ConfigurationError(
                f"task {task.name} is on the ledger already with another body, from its line {number} on: {other}"
            )
    if task.is_final and len(there.body) != len(definition.lines):
        raise ConfigurationError(
            f"task {task.name} is final with {len(there.body)} lines, the file makes {len(definition.lines)}: {other}"
        )
    return len(there.body)
