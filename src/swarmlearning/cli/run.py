"""`swarm run`: try a training script in a throw-away swarm on this machine."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.console import Console

from swarmlearning.cli.ledger_option import ledger_option
from swarmlearning.errors import ConfigurationError, ExitCode
from swarmlearning.local.live import View
from swarmlearning.local.models import export_model
from swarmlearning.local.network import LocalNetwork, Site, Sl, prepare_workdir, program_environment
from swarmlearning.local.training import Program, TrainingRun, run_until_signal
from swarmlearning.types import DEFAULT_CONTRACT, ContractName, LedgerKind, TrustDomain, check_contract_name

MAX_LOCAL_PEERS: Final = 64
"""More nodes than this do not fit on one machine sensibly."""

DEFAULT_PARENT: Final = Path("swarm-run")
"""Where runs without --workdir go, each in a numbered directory."""

ORGANISATION: Final = TrustDomain("local.example")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A checked `swarm run` command line."""

    peers: int
    min_peers: int
    """None: left to the program."""
    contract: ContractName
    workdir: Path
    ledger: LedgerKind
    keep: bool
    argv: tuple[str, ...]


@click.command(context_settings={"allow_interspersed_args": False})
@click.option("--peers", type=int, default=2, show_default=True, help="How many copies of the program train together.")
@click.option("--min-peers", type=int, help="SWARM_MIN_PEERS and MIN_PEERS of the programs.  [default: --peers]")
@click.option("--contract", default=DEFAULT_CONTRACT, show_default=True, help="The contract that the programs name.")
@click.option("--workdir", type=click.Path(path_type=Path), help="An empty or new directory.  [default: swarm-run/N]")
@ledger_option
@click.option("--keep", is_flag=True, help="Keep the nodes' data, certificates and keys, not only logs and model.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND...")
def run(
    peers: int,
    min_peers: int | None,
    contract: str,
    workdir: Path | None,
    ledger: LedgerKind,
    keep: bool,
    command: tuple[str, ...],
) -> int:
    """Train with N copies of a program in a throw-away swarm on this machine.

    \b
        swarm run --peers 4 --min-peers 3 -- python train.py

    Each copy finds its number, from 0, in SWARM_PEER_INDEX and how many there are in SWARM_PEERS, so that it can
    choose its share of the data. `python` is the interpreter that `swarm` is installed in. The exit status is 0 only
    if all programs end well and with the same model, the one on the ledger.
    """  # noqa: D301  # click reads the backspace
    plan = check_arguments(peers, min_peers, contract, workdir, keep, command, ledger=ledger)
    try:
        return run_until_signal(lambda: run_swarm(plan, Console()))
    except KeyboardInterrupt:
        _complain(f"interrupted; logs: {plan.workdir / 'logs'}")
        return ExitCode.INTERRUPTED


def check_arguments(
    peers: int,
    min_peers: int | None,
    contract: str,
    workdir: Path | None,
    keep: bool,
    command: Sequence[str],
    *,
    ledger: LedgerKind = "embedded",
) -> Plan:
    """Check a command line, and make its working directory.

    Raises:
        ConfigurationError: it cannot work; nothing has been started.
    """
    if not 2 <= peers <= MAX_LOCAL_PEERS:
        raise ConfigurationError(f"--peers {peers}: expected 2-{MAX_LOCAL_PEERS}")
    if min_peers is None:
        min_peers = peers
    if not 2 <= min_peers <= peers:
        raise ConfigurationError(f"--min-peers {min_peers}: expected 2 to --peers, which is {peers}")
    program = shutil.which(command[0], path=_search_path(os.environ))
    if program is None:
        raise ConfigurationError(
            f"command not found: {command[0]!r}; give a program on PATH, or a path such as ./train.sh"
        )
    return Plan(
        peers=peers,
        min_peers=min_peers,
        contract=check_contract_name(contract),
        workdir=prepare_workdir(workdir) if workdir is not None else next_workdir(DEFAULT_PARENT),
        ledger=ledger,
        keep=keep,
        argv=(program, *command[1:]),
    )


def next_workdir(parent: Path) -> Path:
    """Make the first numbered directory under `parent` that does not exist.

    Raises:
        ConfigurationError: it cannot be made.
    """
    try:
        parent.mkdir(exist_ok=True)
        number = max((int(path.name) for path in parent.iterdir() if path.name.isdecimal()), default=0)
        while True:
            number += 1
            try:
                (parent / str(number)).mkdir(mode=0o700)
            except FileExistsError:
                continue  # another run was faster
            return (parent / str(number)).resolve()
    except OSError as error:
        raise ConfigurationError(f"{parent} cannot be used: {error.strerror}; name a directory by --workdir") from error


async def run_swarm(plan: Plan, console: Console) -> ExitCode:
    """Run the plan and report on it.

    Raises:
        ConfigurationError: a program or node cannot be started.
        Unreachable: a node ended or did not become ready.
    """
    site = Site(domain=ORGANISATION, sls=plan.peers)
    model = None
    try:
        async with (
            LocalNetwork([site], plan.workdir, ledger=plan.ledger, say=_complain) as network,
            network.open_client() as sn,
        ):
            names = {sl.node: f"peer {index}" for index, sl in enumerate(network.sls)}
            programs = [_program(plan, sl, index) for index, sl in enumerate(network.sls)]
            with View(console, names, title=plan.contract) as view:
                run = TrainingRun(network, sn, [plan.contract], view, echo=view.line)
                (ended,) = await run.run(programs)
        result = ended.endings[0].result
        if not ended.faults and ended.training is not None and result is not None:
            path = plan.workdir / "model.npz"
            model = path if export_model(network.sls[0].control, ended.training, result, path) else None
    finally:
        if not plan.keep:
            _remove_nodes(plan.workdir)
    logs = plan.workdir / "logs"
    if ended.faults:
        for fault in ended.faults:
            _complain(f"swarm: {fault}")
        _complain(f"swarm: the training failed; logs: {logs}")
        return ExitCode.FAILED
    where = f"model: {model}; logs: {logs}" if model else f"logs: {logs}"
    click.echo(f"all {plan.peers} peers ended with the model {ended.model.hex()}; {where}")
    return ExitCode.OK


def _complain(text: str) -> None:
    click.echo(text, err=True)


def _program(plan: Plan, sl: Sl, index: int) -> Program:
    environment = program_environment(os.environ, sl, index, plan.peers) | {"PATH": _search_path(os.environ)}
    environment |= {"SWARM_MIN_PEERS": str(plan.min_peers), "MIN_PEERS": str(plan.min_peers)}
    log = plan.workdir / "logs" / f"peer-{index}.log"
    return Program(name=f"peer {index}", sl=sl, argv=plan.argv, env=environment, log=log)


def _search_path(environ: Mapping[str, str]) -> str:
    # The interpreter that has this package comes first: in `swarm run -- python train.py` any other would be a puzzle.
    return os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", os.defpath)])


def _remove_nodes(workdir: Path) -> None:
    """Remove the throw-away nodes' data and keys; logs and model stay."""
    for path in (workdir / ORGANISATION, workdir / "control"):
        shutil.rmtree(path, ignore_errors=True)
    (workdir / "genesis.bin").unlink(missing_ok=True)
