"""EXPORT LEDGER: the ledger's history into a file of the session's. Spec: CI-48.

Does not: prove anything to others; `swarm ledger proof` does.
"""

from typing import Final

import msgspec

from swarmlearning.errors import ConfigurationError
from swarmlearning.reports.status import make_printable
from swarmlearning.sn.exporting import export_history
from swarmlearning.swci.entries import Entry, Route, Shown, make_entry
from swarmlearning.swci.session import Session
from swarmlearning.swci.values import Command, FileName


class ExportLedger(Command, frozen=True, kw_only=True):
    """`EXPORT LEDGER`."""

    file: FileName
    first: int = 1


class LedgerExported(msgspec.Struct, frozen=True, kw_only=True):
    """What was written."""

    file: str
    """Its whole path."""
    blocks: int
    transactions: int


async def export_ledger(session: Session, command: ExportLedger) -> LedgerExported:
    """Write all blocks to a new file, a line of JSON each.

    Raises:
        ConfigurationError: the file exists, lies outside the root or cannot be written; or no block can be the first.
        SwarmError: see `Session.sn` and `export_history`.
    """
    if command.first < 1:
        raise ConfigurationError(f"<first> {command.first}; expected a block's height, from 1 on")
    path = session.directory.resolve(command.file)
    exported = await export_history(await session.sn(), path, first=command.first, force=False, tell=session.tell)
    return LedgerExported(
        file=make_printable(str(path)),
        blocks=exported.blocks,
        transactions=exported.transactions,
    )


def _show_exported(exported: LedgerExported) -> Shown:
    text = f"{exported.blocks} blocks, {exported.transactions} transactions"
    return Shown((f"Ledger Exported : {exported.file}, {text}",))


COMMANDS: Final[tuple[Entry, ...]] = (
    make_entry(
        "EXPORT LEDGER <file> [<first>]",
        ExportLedger,
        export_ledger,
        _show_exported,
        topic="Ledger",
        help="Write all blocks, from a height on, to a new file: a line of JSON each, with what came of transactions.",
        example="EXPORT LEDGER history.jsonl",
        route=Route("POST", "/ledger/exports"),
        waits=True,
    ),
)
