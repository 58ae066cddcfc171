"""Exporting the ledger's history into a file that is whole or not there. What a line says: `export`."""

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Final

import msgspec

from swarmlearning.errors import ConfigurationError
from swarmlearning.sn.client import SnClient
from swarmlearning.sn.export import History

TELL_EVERY_S: Final = 1.0
"""How often an export says how far it is, seconds."""


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """What was written."""

    first: int
    """Height of the first block that was asked for."""
    blocks: int
    transactions: int

    def __str__(self) -> str:
        return f"{self.blocks} blocks, {self.transactions} transactions"


async def export_history(
    client: SnClient, path: Path, *, first: int, force: bool, tell: Callable[[str], None], or_else: str = ""
) -> Exported:
    """Write all blocks from height `first` on to a new file, a line of JSON each.

    Args:
        client: asks the SN whose ledger it is.
        path: of the file, which appears when it is complete.
        first: height of the first block.
        force: replace a file that is there.
        tell: is told now and then how far it is.
        or_else: what else to do where the file exists, for the error's text.

    Raises:
        ConfigurationError: the file exists and `force` is not given, or it cannot be written.
        Unreachable, VerificationError, Refused, DecodeError: see `SnClient.blocks`.
    """
    history = History((await client.directory()).nodes)
    last = (await client.status()).height
    blocks = transactions = 0
    told_s = time.monotonic()
    with whole_file(path, force=force, or_else=or_else) as file:
        async with contextlib.aclosing(client.blocks(first)) as stream:  # type: ignore[type-var]  # it is a generator
            async for block in stream:
                file.write(history.line(block) + b"\n")
                blocks += 1
                transactions += len(block.txs)
                if time.monotonic() - told_s >= TELL_EVERY_S:
                    told_s = time.monotonic()
                    tell(f"block {block.height} of {last}")
    return Exported(first=first, blocks=blocks, transactions=transactions)


@contextlib.contextmanager
def whole_file(path: Path, *, force: bool, or_else: str = "") -> Iterator[IO[bytes]]:
    """A file to write to that appears under its name, durable, when the block ends well.

    Args:
        path: where it appears.
        force: in place of one that is there.
        or_else: what else to do where there is one, for the error's text.

    Raises:
        ConfigurationError: it exists and `force` is not given, or it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    exists = f"{path} exists; choose another place" + or_else
    if path.exists() and not force:
        raise ConfigurationError(exists)
    try:
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if force:
                temporary.replace(path)
            else:
                path.hardlink_to(temporary)  # unlike a rename, fails if `path` exists by now
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError as error:
        raise ConfigurationError(exists) from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}; choose another place") from error
