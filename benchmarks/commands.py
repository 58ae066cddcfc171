"""How long commands take: in a session, over REST, by `swarm ci` as a process; and how soon a colleague is told.

    python benchmarks/commands.py [--times 200] [--json]

Two organisations on the embedded ledger, their SNs and the REST service as real processes over mutual TLS. Beside each
figure stands what it is at least: a command that asks nobody, and a Python that starts.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from swarmlearning.clock import system_clock
from swarmlearning.encoding import to_json
from swarmlearning.identity.authority import Authority, issue_certificate
from swarmlearning.local.network import NETWORK, LocalNetwork, Site, prepare_workdir
from swarmlearning.sn.asking import open_sn
from swarmlearning.swci.client import Swci
from swarmlearning.swci.contexts import Book, Context, IdentityPaths, MemoryContexts
from swarmlearning.swci.directory import Directory
from swarmlearning.swci.running import run_line
from swarmlearning.swci.session import Collected, Session
from swarmlearning.swci.table import COMMANDS
from swarmlearning.swci.values import ContextName
from swarmlearning.swci.web.serve import WebConfig, WebNode
from swarmlearning.types import Endpoint, NodeName, Role, TrustDomain

A, B = TrustDomain("a.example"), TrustDomain("b.example")
LINES = ("PWD", "LIST NODES", "GET CONTRACT STATUS defaultbb.cqdb.sml.hpe", "CREATE CONTRACT bench/{}")


def issue(workdir: Path, domain: TrustDomain) -> IdentityPaths:
    """An operator's identity."""
    name = NodeName(domain=domain, network=NETWORK, role=Role.OPERATOR, name="bench")
    made = issue_certificate(
        Authority.load(workdir / domain / "ca"),
        name,
        ("127.0.0.1",),
        workdir / domain / "bench",
        at_ms=system_clock(),
        days=1,
    )
    return IdentityPaths(cert=str(made.certificate), key=str(made.key), cacert=str(made.issuer))


async def median_ms(times: int, work: Callable[[int], Awaitable[object]]) -> float:
    """Median of how long `work` takes, milliseconds, after a first time that is not counted."""
    await work(0)
    taken = []
    for number in range(1, times + 1):
        began_s = time.perf_counter()
        await work(number)
        taken.append((time.perf_counter() - began_s) * 1000)
    return statistics.median(taken)


async def measure(network: LocalNetwork, workdir: Path, times: int) -> dict[str, float]:
    """All figures, milliseconds."""
    own, other = issue(workdir, A), issue(workdir, B)
    sns = [sn.address.endpoint for sn in network.sns]
    return (
        await in_a_session(own, sns[0], workdir, times)
        | await through_rest(own, sns[0], workdir, times)
        | await notices(own, other, sns, workdir, times)
        | await as_processes(own, sns[0], max(5, times // 20))
    )


async def in_a_session(own: IdentityPaths, sn: Endpoint, workdir: Path, times: int) -> dict[str, float]:
    """A shell's or a script's commands, without drawing."""
    session = make_session(own, sn, workdir)

    async def one(line: str, number: int) -> None:
        done = await run_line(COMMANDS, session, line.format(f"session-{number}"))
        if done is None or done.failed:
            raise SystemExit(f"{line}: {done}")

    try:
        return {
            f"session: {line}": await median_ms(times, lambda number, line=line: one(line, number)) for line in LINES
        }
    finally:
        await session.disconnect()


def make_session(own: IdentityPaths, sn: Endpoint, workdir: Path) -> Session:
    """A session whose context is an SN."""
    name = ContextName("bench")
    book = Book(contexts=(Context(name=name, sn=sn),), current=name)
    return Session(contexts=MemoryContexts(book), directory=Directory(workdir), output=Collected(), identity=own)


async def through_rest(own: IdentityPaths, sn: Endpoint, workdir: Path, times: int) -> dict[str, float]:
    """The Python class over the REST service: a connection and a handshake each."""
    files = workdir / "files"
    files.mkdir()
    node = WebNode(WebConfig(sn=sn, host="127.0.0.1", port=0, root=files, identity=own))
    port = await node.start()
    swci = Swci("127.0.0.1", port, own.cert, own.key, own.cacert, raiseErrors=True)
    try:
        found = {}
        for line in LINES:
            found[f"Swci: {line}"] = await median_ms(
                times, lambda number, line=line: asyncio.to_thread(swci.execute, line.format(f"rest-{number}"))
            )
        return found
    finally:
        await node.stop()


async def notices(
    own: IdentityPaths, other: IdentityPaths, sns: list[Endpoint], workdir: Path, times: int
) -> dict[str, float]:
    """From a command at one organisation until another's SN has told a colleague there what changed."""
    session = make_session(own, sns[0], workdir)
    async with open_sn(other.source(), str(sns[1])) as (client, _):
        changes = client.changes()
        await anext(changes)

        async def one(number: int) -> None:
            name = f"bench/notice-{number}"
            command = asyncio.create_task(run_line(COMMANDS, session, f"CREATE CONTRACT {name}"))
            while name not in (await anext(changes)).contracts:
                pass
            await command

        try:
            return {"CREATE CONTRACT until the other organisation is told": await median_ms(times, one)}
        finally:
            await changes.aclose()  # type: ignore[attr-defined]  # it is a generator
            await session.disconnect()


async def as_processes(own: IdentityPaths, sn: Endpoint, times: int) -> dict[str, float]:
    """`swarm ci -c`, from its start to its end."""
    options = ["--cert", own.cert, "--key", own.key, "--cacert", own.cacert, "--sn", str(sn)]
    calls = {
        "process: python -c pass": ["-c", "pass"],
        "process: swarm ci -c PWD": ["-m", "swarmlearning", "ci", "-c", "PWD"],
        "process: swarm ci -c 'LIST NODES'": ["-m", "swarmlearning", "ci", *options, "-c", "LIST NODES"],
    }

    def run(call: list[str]) -> None:
        subprocess.run([sys.executable, *call], check=True, stdout=subprocess.DEVNULL)

    return {
        name: await median_ms(times, lambda _, call=call: asyncio.to_thread(run, call)) for name, call in calls.items()
    }


async def run_benchmark(times: int) -> dict[str, float]:
    """Start the network and measure."""
    with tempfile.TemporaryDirectory() as directory:
        workdir = Path(directory) / "network"
        prepare_workdir(workdir)
        async with LocalNetwork([Site(domain=A, sls=0), Site(domain=B, sls=0)], workdir) as network:
            return await measure(network, workdir, times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    figures = asyncio.run(run_benchmark(given.times))
    if given.json:
        print(to_json(figures).decode())
        return
    for name, value in figures.items():
        print(f"{value:8.1f} ms  {name}")


if __name__ == "__main__":
    main()
