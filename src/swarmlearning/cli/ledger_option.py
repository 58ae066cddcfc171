"""`--ledger` of the commands that start a throw-away network on this machine."""

from collections.abc import Callable
from typing import Any, TypeVar, get_args

import click

from swarmlearning.types import LedgerKind

R = TypeVar("R")


def ledger_option(command: Callable[..., R]) -> Callable[..., R]:
    """Add the option, which `command` gets as `ledger`; whether CometBFT is there is found out at once."""
    return click.option(
        "--ledger",
        type=click.Choice(get_args(LedgerKind)),
        default="embedded",
        show_default=True,
        callback=_check,
        help="Who orders transactions: one SN, or a validator of each organisation by CometBFT.",
    )(command)


def _check(_context: click.Context, _parameter: click.Parameter, value: Any) -> LedgerKind:  # noqa: ANN401  # click's
    if value == "cometbft":
        from swarmlearning.ledger.cometbft.binary import find_binary

        find_binary(None)
    kind: LedgerKind = value
    return kind
