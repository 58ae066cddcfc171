"""What benchmarks of throw-away networks share: a working directory, progress on standard error, JSON or tables."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import click
import msgspec
from rich.console import Console

from swarmlearning.local.network import prepare_workdir

P = TypeVar("P")
M = TypeVar("M")


def run_benchmark(
    measure: Callable[[P, Path, Callable[[str], None]], Awaitable[M]],
    plan: P,
    show: Callable[[M], None],
    *,
    as_json: bool,
) -> None:
    """Measure, and show what was measured."""

    async def main(workdir: Path) -> M:
        return await measure(plan, workdir, lambda line: console.print(line, style="dim"))

    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="swarm-bench-") as directory:
        measured = asyncio.run(main(prepare_workdir(Path(directory) / "w")))
    if as_json:
        click.echo(msgspec.json.encode(measured).decode())
    else:
        show(measured)
