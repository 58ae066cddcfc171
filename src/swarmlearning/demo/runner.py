"""Runs the demo: a network of hospitals on this machine, their programs, and what the ledger says at the end.

    OUT/results/<hospital>/     what each hospital's program wrote (see `records`)
    OUT/logs/                   what nodes and programs printed
    OUT/network/                keys, certificates, ledgers: removed at the end
    OUT/report.html, summary.json   written by `report`

Does not train (`hospital`), nor evaluate or draw (`evaluate`, `report`).
"""

import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console

from swarmlearning.demo.records import (
    HOSPITALS,
    Dataset,
    DemoRun,
    Framework,
    LedgerFacts,
    contract_name,
    load_site_run,
)
from swarmlearning.demo.xray import find_xrays
from swarmlearning.errors import ConfigurationError
from swarmlearning.local.live import View
from swarmlearning.local.network import LocalNetwork, Site, Sl, prepare_workdir, program_environment
from swarmlearning.local.training import Program, TrainingRun
from swarmlearning.types import LedgerKind

MARKER: Final = ".swarm-demo"
"""Says that a directory is the demo's, so that the next run may replace what is in it."""

MAX_SEEDS: Final = 100

_OURS: Final = ("results", "logs", "network", "report.html", "summary.json")
_NEEDED: Final[dict[Framework, tuple[str, ...]]] = {
    "keras": ("keras", "jax", "sklearn", "matplotlib"),
    "pytorch": ("torch", "sklearn", "matplotlib"),
}
_ONE_THREAD: Final = {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
"""Several programs share this machine: threads of each would only get in the others' way. The user's own values win."""
_EXTRAS: Final[dict[Framework, str]] = {"keras": "demo", "pytorch": "demo,torch"}


class DemoPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A checked `swarm demo` command line."""

    dataset: Dataset
    framework: Framework
    seeds: tuple[int, ...]
    out: Path
    data: str
    """Path of the X-ray file; empty for the heart data, which are in the package."""
    ledger: LedgerKind = "embedded"

    @property
    def results(self) -> Path:
        """Where the hospitals write."""
        return self.out / "results"


def plan_demo(
    dataset: Dataset, framework: Framework, seeds: int, out: Path, data: str, *, ledger: LedgerKind = "embedded"
) -> DemoPlan:
    """Check a command line, find the data and prepare the output directory.

    Raises:
        ConfigurationError: a package or the data are missing, or `out` holds something that is not the demo's.
    """
    if not 1 <= seeds <= MAX_SEEDS:
        raise ConfigurationError(f"--seeds {seeds}: expected 1-{MAX_SEEDS}")
    require_packages(framework)
    found = str(find_xrays(data).resolve()) if dataset == "xray" else ""
    return DemoPlan(
        dataset=dataset,
        framework=framework,
        seeds=tuple(range(seeds)),
        out=prepare_out(out),
        data=found,
        ledger=ledger,
    )


def require_packages(
    framework: Framework, is_there: Callable[[str], bool] = lambda name: importlib.util.find_spec(name) is not None
) -> None:
    """Check that what the demo imports is installed.

    Raises:
        ConfigurationError: it is not; the message says what to install.
    """
    missing = [name for name in _NEEDED[framework] if not is_there(name)]
    if missing:
        extra = _EXTRAS[framework]
        command = f'pip install "swarmlearning[{extra}]" or, from a clone, ".[{extra}]"'
        raise ConfigurationError(f"the demo needs {', '.join(missing)}: {command}")


def prepare_out(out: Path) -> Path:
    """Make the output directory, or clear what an earlier demo left in it; never anything else.

    Raises:
        ConfigurationError: it is not empty and not the demo's, or cannot be used.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()) and not (out / MARKER).is_file():
            raise ConfigurationError(f"{out} is not empty and not from a demo; choose another directory by --out")
        (out / MARKER).touch()
        for name in _OURS:
            path = out / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        for name in ("results", "logs"):
            (out / name).mkdir()
    except OSError as error:
        raise ConfigurationError(f"directory {out} cannot be used: {error.strerror}; name another by --out") from error
    return out.resolve()


async def run_demo(plan: DemoPlan, console: Console) -> tuple[DemoRun | None, list[str]]:
    """Train all seeds, one after the other, over one network.

    Returns:
        What the report is made of, and what is wrong with it, one line each; None if there is too little for a report.

    Raises:
        ConfigurationError, Unreachable, DecodeError: a node or program cannot be started, or ended; or its results
            cannot be read.
    """
    begun = time.monotonic()
    hospitals = HOSPITALS[plan.dataset]
    sites = [Site(domain=hospital.domain) for hospital in hospitals]
    workdir = prepare_workdir(plan.out / "network")
    contracts = [contract_name(plan.dataset, seed) for seed in plan.seeds]
    say = Console(stderr=True, soft_wrap=True, highlight=False, markup=False).print
    try:
        async with (
            LocalNetwork(sites, workdir, ledger=plan.ledger, logs=plan.out / "logs", say=say) as network,
            network.open_client() as sn,
        ):
            seconds = time.monotonic() - begun
            nodes = len(network.sns) + len(network.sls)
            console.print(f"{len(sites)} organisations, {nodes} nodes ready after {seconds:.1f} s", highlight=False)
            names = {sl.node: hospital.title for sl, hospital in zip(network.sls, hospitals, strict=True)}
            programs = [_program(plan, sl, index, os.environ) for index, sl in enumerate(network.sls)]
            with View(console, names, title=contracts[0]) as view:
                ended = await TrainingRun(network, sn, contracts, view).run(programs)
            status = await sn.status()
    finally:
        shutil.rmtree(workdir, ignore_errors=True)
    faults = [f"{each.contract}: {fault}" for each in ended for fault in each.faults]
    if faults:
        return None, list(dict.fromkeys(faults))
    run = DemoRun(
        dataset=plan.dataset,
        framework=plan.framework,
        seeds=plan.seeds,
        seconds=round(time.monotonic() - begun, 3),
        results=str(plan.results),
        data=plan.data,
        sites=tuple(load_site_run(plan.results, hospital, plan.seeds) for hospital in hospitals),
        ledger=LedgerFacts(
            height=status.height,
            transactions=status.transactions,
            models={each.contract: each.model.hex() for each in ended},
        ),
    )
    return run, find_model_faults(run)


def find_model_faults(run: DemoRun) -> list[str]:
    """Where a hospital's program ended with another model than the ledger's, one line each."""
    faults = []
    for site in run.sites:
        for seed_run in site.seeds:
            contract = contract_name(run.dataset, seed_run.seed)
            ledger = run.ledger.models.get(contract, "")
            if not ledger or seed_run.model_sha256 != ledger:
                mine, theirs = seed_run.model_sha256[:16] or "no model", ledger[:16] or "none"
                faults.append(f"{contract}: {site.hospital.title} ended with {mine}, the ledger's model is {theirs}")
    return faults


def _program(plan: DemoPlan, sl: Sl, index: int, environ: Mapping[str, str]) -> Program:
    hospital = HOSPITALS[plan.dataset][index]
    arguments = ["--dataset", plan.dataset, "--framework", plan.framework, "--site", str(index)]
    arguments += ["--seeds", ",".join(map(str, plan.seeds)), "--out", str(plan.results)]
    if plan.data:
        arguments += ["--data", plan.data]
    environment = _ONE_THREAD | program_environment(environ, sl, index, len(HOSPITALS[plan.dataset]))
    return Program(
        name=hospital.title,
        sl=sl,
        argv=(sys.executable, "-P", "-m", "swarmlearning.demo.hospital", *arguments),
        env=environment | {"KERAS_BACKEND": "jax"},
        log=plan.out / "logs" / f"{hospital.key}.log",
    )
