"""Where the network and its trainings stand, once or as long as one watches: live, as lines, or as JSON.

Asks an SN through a client, makes a report (`status`) and shows it (`view`).
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, aclosing, nullcontext
from typing import Final, Protocol, Self

import click
import msgspec
from msgspec.structs import replace
from rich.console import Console
from rich.live import Live

from swarmlearning.clock import WallClock, system_clock
from swarmlearning.contracts.records import MAX_HISTORY, Phase, RoundSummary, Training
from swarmlearning.errors import ConfigurationError, Unreachable, WaitExpired
from swarmlearning.reports.status import (
    ContractReport,
    StatusReport,
    is_used,
    make_printable,
    report_contract,
    report_line,
    report_network,
)
from swarmlearning.reports.view import (
    Fitted,
    describe_changes,
    draw_contract,
    draw_contracts,
    draw_network,
    is_wide,
    show_time,
)
from swarmlearning.sn.asking import find_training
from swarmlearning.sn.client import SnClient
from swarmlearning.types import ContractName

DEFAULT_ROUNDS: Final = 10

GIVE_UP_S: Final = 120.0
"""How long a watch tries to reach an SN that has fallen silent, seconds."""

REHEARSED: Final = "rehearsal/"
"""How names of contracts begin in which a network is rehearsed."""

_AGAIN_S: Final = 1.0


class Show(Protocol):
    """Where a watch is shown."""

    def update(self, report: ContractReport) -> None:
        """Show a newer report."""
        ...

    def tell(self, text: str) -> None:
        """Say something about the watch itself; the next report takes its place."""
        ...


async def look(client: SnClient, name: ContractName | None, rounds: int) -> StatusReport:
    """The network, and a contract in full or all in short.

    Raises:
        ConfigurationError: there is no such contract.
        Unreachable, VerificationError, Refused: see `transport.api.Client.call`.
    """
    network = report_network(await client.status(), str(client.address.endpoint), system_clock())
    if name is not None:
        trainings = [await find_training(client, name)]
        chosen: Training | None = trainings[0]
    else:
        trainings = [await find_training(client, known) for known in await client.contracts()]
        used = [training for training in trainings if is_used(training)]
        chosen = used[0] if len(used) == 1 else None
    contract = report_contract(chosen, await _history(client, chosen.name, rounds)) if chosen else None
    return StatusReport(network=network, contracts=tuple(map(report_line, trainings)), contract=contract)


async def _history(client: SnClient, name: ContractName, most: int) -> list[RoundSummary]:
    return await client.history(name, most) if most else []


def print_status(console: Console, report: StatusReport) -> None:
    """Print a report for people."""
    console.print(draw_network(report.network))
    wide = is_wide(console.width)
    others = [line for line in report.contracts if report.contract is None or line.name != report.contract.name]
    if others:
        console.print("", draw_contracts(others), sep="\n")
    if report.contract is not None:
        console.print("", draw_contract(report.contract, wide), sep="\n")


# --- watching ---------------------------------------------------------------------------------------------------------


async def watch_contract(
    client: SnClient, name: ContractName | None, rounds: int, console: Console, as_json: bool
) -> None:
    """Show a contract's every change until it is complete.

    Raises:
        ConfigurationError: there is no such contract, or none was named and several are in use.
        WaitExpired: the SN fell silent for `GIVE_UP_S`.
        VerificationError, Refused: see `transport.api.Client.call`.
    """
    training = await find_training(client, name) if name is not None else await only_contract(client)
    with open_show(console, rounds, as_json=as_json) as show:
        await follow(client, training.name, rounds, show)


async def only_contract(client: SnClient) -> Training:
    """The contract that is meant where none is named: the only one in use, or the only one.

    Raises:
        ConfigurationError: there are several; the message names them.
        Unreachable, VerificationError, Refused: see `transport.api.Client.call`.
    """
    trainings = [await find_training(client, known) for known in await client.contracts()]
    # A rehearsal has contracts of its own, which nobody means who does not name them.
    trainings = [training for training in trainings if not training.name.startswith(REHEARSED)] or trainings
    found = [training for training in trainings if is_used(training)] or trainings
    if len(found) != 1:
        names = ", ".join(training.name for training in found)
        raise ConfigurationError(f"which contract is meant? Name one of: {names}")
    return found[0]


async def follow(client: SnClient, name: ContractName, rounds: int, show: Show, give_up_s: float = GIVE_UP_S) -> None:
    """Give `show` a contract's report now and after every change, until it is complete.

    A report has the newest `rounds` final rounds, and more where more became final since the last one.

    Raises:
        WaitExpired: the SN fell silent for `give_up_s`.
        VerificationError, Refused: see `transport.api.Client.call`.
    """
    clock = asyncio.get_running_loop().time
    history: list[RoundSummary] = []
    finals: int | None = None
    lost_since: float | None = None
    while True:
        try:
            # The default contract's record has version 0 until somebody enrols.
            records = client.watch(name, after_version=-1)
            async with aclosing(records):  # type: ignore[type-var]  # it is a generator
                async for training in records:
                    lost_since = None
                    if training.finals != finals:
                        fresh = 0 if finals is None else training.finals - finals
                        history = await _history(client, name, min(MAX_HISTORY, max(rounds, fresh)))
                        finals = training.finals
                    show.update(report_contract(training, history))
                    if training.phase is Phase.COMPLETED:
                        return
            problem = f"{client.address.endpoint} ended the watch"
        except Unreachable as error:
            problem = str(error)
        lost_since = clock() if lost_since is None else lost_since
        silent_s = clock() - lost_since
        if silent_s >= give_up_s:
            raise WaitExpired(f"SN {client.address.endpoint} has not answered for {silent_s:.0f} s: {problem}")
        show.tell(f"{problem}; trying again, for {give_up_s:.0f} s at most")
        await asyncio.sleep(_AGAIN_S)


def open_show(console: Console, rounds: int, *, as_json: bool) -> AbstractContextManager[Show]:
    """JSON lines; or on a terminal a live view, otherwise plain lines."""
    if as_json:
        return nullcontext(JsonShow())
    return LiveShow(console, rounds) if console.is_terminal else nullcontext(LineShow(system_clock))


class JsonShow:
    """A JSON document a line."""

    def update(self, report: ContractReport) -> None:
        """Print a newer report."""
        click.echo(msgspec.json.encode(report).decode())

    def tell(self, text: str) -> None:
        """Say something, apart from the documents."""
        click.echo(make_printable(text), err=True)


class LineShow:
    """A line for every change, with the time."""

    def __init__(self, clock: WallClock, say: Callable[[str], None] = click.echo) -> None:
        """Date lines by `clock`, and hand them to `say`."""
        self._clock = clock
        self._say = say
        self._report: ContractReport | None = None
        self._told = ""

    def update(self, report: ContractReport) -> None:
        """Print what is new."""
        for line in describe_changes(self._report, report):
            self._say(f"{show_time(self._clock(), '%H:%M:%S UTC')}  {line}")
        self._report, self._told = report, ""

    def tell(self, text: str) -> None:
        """Say something once, until there is news."""
        if not self._told:
            self._told = make_printable(text)
            self._say(f"{show_time(self._clock(), '%H:%M:%S UTC')}  {self._told}")


class LiveShow:
    """A view that is drawn anew; what it last showed stays on the terminal, in full."""

    def __init__(self, console: Console, rounds: int) -> None:
        """Draw on `console`, with `rounds` rounds where they fit."""
        self._console = console
        self._rounds = rounds
        self._report: ContractReport | None = None
        self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        if self._report is not None:
            self._console.print(draw_contract(self._report, is_wide(self._console.width)))

    def update(self, report: ContractReport) -> None:
        """Draw a newer report."""
        kept = report.rounds[max(0, len(report.rounds) - self._rounds) :]
        self._report = replace(report, rounds=kept)
        self._draw(f"as of {show_time(system_clock())}; Ctrl-C ends")

    def tell(self, text: str) -> None:
        """Draw it below what was last known."""
        self._draw(make_printable(text))

    def _draw(self, note: str) -> None:
        if self._report is not None:
            self._live.update(Fitted(self._report, [note]), refresh=True)
