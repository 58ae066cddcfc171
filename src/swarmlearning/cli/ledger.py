"""`swarm ledger export|proof|verify`: the ledger's history for auditors, and proofs that hold without a ledger."""

from pathlib import Path
from typing import Final

import click

from swarmlearning.cli import examples
from swarmlearning.cli.asking import sn_option
from swarmlearning.errors import ConfigurationError, DecodeError, PeerError, VerificationError
from swarmlearning.identity.files import PUBLIC_MODE, write_file
from swarmlearning.identity.options import identity_options
from swarmlearning.identity.source import PemSource
from swarmlearning.local.genesis import load_genesis
from swarmlearning.sn.asking import ask_sn
from swarmlearning.sn.client import SnClient
from swarmlearning.sn.export import show_instant
from swarmlearning.sn.exporting import Exported, export_history
from swarmlearning.sn.proofs import MAX_FILE_BYTES, ProvenTx, Verified, verify_file

_FILE: Final = click.Path(path_type=Path, dir_okay=False)


@click.group(
    epilog=examples(
        "swarm ledger export --sn 10.0.0.1:30304 --out history.jsonl",
        "swarm ledger proof --sn 10.0.0.1:30304 --tx 3f2a... --out proof.bin",
        "swarm ledger verify proof.bin --genesis genesis.bin",
    )
)
def ledger() -> None:
    """Read the ledger's history, and prove what is in it to those who hold no ledger."""


@ledger.command()
@identity_options
@sn_option
@click.option("--first", type=click.IntRange(1), default=1, show_default=True, help="The first block's height.")
@click.option("--out", required=True, type=_FILE, help="Where to write it, such as history.jsonl.")
@click.option("--force", is_flag=True, help="Replace the file, once the new one is complete.")
def export(identity: PemSource, sn: str, first: int, out: Path, force: bool) -> None:
    """Write all blocks as JSON lines: one line a block, with every transaction decoded and what came of it.

    Needs an identity of the SN's own organisation, of the role auditor, operator or sn. The file appears when it is
    complete.
    """

    def tell(line: str) -> None:
        click.echo(line, err=True)

    async def question(client: SnClient) -> Exported:
        return await export_history(
            client, out, first=first, force=force, tell=tell, or_else=", or overwrite it with --force"
        )

    exported = ask_sn(identity, sn, question)
    tell(f"{out}: {exported}")


@ledger.command()
@identity_options
@sn_option
@click.option("--tx", metavar="HASH", help="SHA-256 of a transaction, 64 hexadecimal digits (as an export shows it).")
@click.option("--height", type=click.IntRange(1), help="Instead: a block's height, for all its transactions.")
@click.option("--out", required=True, type=_FILE, help="Where to write it, such as proof.bin.")
@click.option("--force", is_flag=True, help="Replace the file.")
def proof(identity: PemSource, sn: str, tx: str | None, height: int | None, out: Path, force: bool) -> None:
    """Get what proves that a transaction, or a whole block, is on the ledger: for `swarm ledger verify`.

    Needs an identity of the SN's own organisation, of any role.
    """
    if (tx is None) == (height is None):
        raise ConfigurationError("give either --tx HASH or --height H")
    wanted = b"" if tx is None else _digest("--tx", tx)
    data = ask_sn(identity, sn, lambda client: client.proof(tx=wanted, height=height or 0))
    write_file(out, data, mode=PUBLIC_MODE, force=force)
    click.echo(f"{out}: {len(data)} bytes; verify it with: swarm ledger verify {out} --genesis genesis.bin", err=True)


@ledger.command()
@click.argument("files", type=_FILE, nargs=-1, required=True, metavar="FILE...")
@click.option("--genesis", required=True, type=_FILE, help="The network's founding file.")
@click.option(
    "--handover",
    "handovers",
    multiple=True,
    metavar="FINGERPRINT",
    help="Where a sentinel was replaced: a handover that you believe, by its fingerprint (swarm network handover "
    "show). Repeat for more.",
)
def verify(files: tuple[Path, ...], genesis: Path, handovers: tuple[str, ...]) -> None:
    """Verify proofs by the founding file alone, without a network, and print what they prove.

    Whether a transaction was carried out, a proof of the embedded ledger does not tell: an export does.
    """
    founding = load_genesis(genesis)
    believed = [_digest("--handover", text) for text in handovers]
    failures: list[PeerError] = []
    for file in files:
        try:
            lines = describe_proof(verify_file(_read(file), founding, believed))
        except (DecodeError, VerificationError) as error:
            failures.append(VerificationError(f"{file} proves nothing: {error}"))
            continue
        if len(files) > 1:
            click.echo(f"{file}:")
        for line in lines:
            # Who made the file chose what it says: no control characters reach the terminal.
            click.echo("".join(c if c.isprintable() else " " for c in line))
    for failure in failures[:-1]:
        click.echo(f"swarm: error: {failure}", err=True)
    if failures:
        raise failures[-1]


def _digest(option: str, text: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise ConfigurationError(f"{option} {text[:80]}: expected a SHA-256, 64 hexadecimal digits")
    return digest


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error


def describe_proof(verified: Verified) -> list[str]:
    """What a proof that holds says, line by line."""
    block = verified.block
    lines = [line for tx in verified.txs for line in _describe_tx(tx)]
    if block.is_whole:
        lines.append(f"no others     the block holds these {len(verified.txs)} transactions alone")
    lines += [
        f"block         {block.block_hash.hex()}",
        f"height        {block.height}",
        f"time          {show_instant(block.time_ms)}",
        f"proposer      {block.proposer}",
    ]
    return lines + [f"signed by     {voucher}" for voucher in block.vouchers]


def _describe_tx(tx: ProvenTx) -> list[str]:
    kind = type(tx.message).__name__
    subjects = (getattr(tx.message, what, None) for what in ("contract", "runner", "task"))
    subject = next((name for name in subjects if name is not None), None)
    about = f"{kind} in {subject}" if subject is not None else kind
    key, registration = tx.signer.hex(), tx.registration
    if registration is None:
        who = f"the key {key}; whose it is, is not proven"
    elif registration.is_certified:
        who = f"{registration.node} (key {key[:16]}, registered in block {registration.height})"
    else:
        who = (
            f"the key {key}, registered in block {registration.height} as {registration.node} by an authority that the "
            "genesis does not name"
        )
    lines = [f"transaction   {tx.hash.hex()}  {about}", f"  sent by     {who}"]
    return [*lines, f"  on behalf   {tx.caller}, as the sender says"] if tx.caller else lines
