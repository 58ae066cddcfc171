"""`swarm network handover`: replace a lost sentinel. A shell over `sn.handing_over`."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from swarmlearning.sn.handing_over import (
    Progress,
    StoppedSn,
    apply_handover,
    describe_handover,
    load_handover,
    propose_handover,
    read_standing,
    sign_handover,
)
from swarmlearning.types import NodeId, NodeName, short_name

R = TypeVar("R")

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def handover() -> None:
    """Replace a sentinel that is lost for good, with the signatures of a majority of the SNs.

    All remaining SNs are stopped; the one with the highest block proposes; each adds its signature to the file that
    goes round; the new sentinel applies it and is started without --sentinel, all others with --sentinel and its
    address. See docs/how-to/replace-the-sentinel.md.
    """


def _stopped_sn(command: Callable[..., R]) -> Callable[..., R]:
    """Add the options that name a stopped SN's files, which `command` gets as `stopped`."""

    # `Any`: click passes whatever other options the command has.
    @functools.wraps(command)
    def with_sn(*args: Any, data: Path, genesis: Path, sign_key: Path | None, **others: Any) -> R:  # noqa: ANN401
        directory = data.expanduser().absolute()
        key = sign_key if sign_key is not None else directory / "signing.key"
        return command(*args, stopped=StoppedSn(data=directory, genesis=genesis, sign_key=key), **others)

    decorated: Callable[..., R] = with_sn
    for option in (
        click.option("--sign-key", type=_FILE, help="Its Ed25519 key; default DIR/signing.key."),
        click.option("--genesis", required=True, type=_FILE, help="The network's founding file."),
        click.option(
            "--data",
            required=True,
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Data directory of this SN, which must not run.",
        ),
    ):
        decorated = option(decorated)
    return decorated


@handover.command()
@_stopped_sn
def standing(stopped: StoppedSn) -> None:
    """Show where a stopped SN stands: the one with the highest block is to propose."""
    click.echo(read_standing(stopped))


@handover.command()
@_stopped_sn
@click.option("--to", "sentinel", metavar="NODE", help="Node id of the new sentinel; default: this SN.")
@click.option("--number", type=click.IntRange(1), help="Number of the handover; default: the next one.")
@click.option("--out", required=True, type=_FILE, help="Where to write the proposal, such as handover.bin.")
def propose(stopped: StoppedSn, sentinel: str | None, number: int | None, out: Path) -> None:
    """Propose a new sentinel from this SN's next block on, and sign the proposal."""
    chosen: NodeId | None = NodeName.parse(sentinel).id if sentinel is not None else None
    _show(propose_handover(stopped, chosen, number, out), out)


@handover.command()
@click.argument("file", type=_FILE)
@_stopped_sn
def sign(file: Path, stopped: StoppedSn) -> None:
    """Add this SN's signature to a proposal.

    Refused where this SN has another block at that height, stands higher (then it is to propose), or signed another
    handover of that number. From then on this SN takes no block of the old sentinel beyond the proposal's.
    """
    _show(sign_handover(stopped, file), file)


@handover.command()
@click.argument("files", type=_FILE, nargs=-1, required=True, metavar="FILE...")
@_stopped_sn
def apply(files: tuple[Path, ...], stopped: StoppedSn) -> None:
    """Go by a handover that a majority signed, at the new sentinel; several copies' signatures are counted together."""
    done = apply_handover(stopped, files).signed.handover
    click.echo(
        f"from block {done.height + 1} on {short_name(NodeId(done.sentinel))} orders: start that SN without "
        "--sentinel, all others with --sentinel and its address"
    )


@handover.command("show")
@click.argument("file", type=_FILE)
def show_handover(file: Path) -> None:
    """Show what a handover's file says; nothing in it is verified."""
    click.echo(describe_handover(load_handover(file)))


def _show(progress: Progress, file: Path) -> None:
    click.echo(describe_handover(progress.signed))
    needed = len(progress.voters) // 2 + 1
    missing = [short_name(node) for node in progress.voters if node not in progress.signers]
    state = f"{len(progress.signers)} of {len(progress.voters)} SNs have signed, {needed} are needed"
    if progress.has_majority:
        click.echo(f"{state}: send {file} to the new sentinel, to apply it")
    else:
        click.echo(f"{state}: send {file} on; not yet signed by {', '.join(missing)}")
