"""A network of real nodes for a module's tests, and `swarm` commands that ask it as its operator."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from swarmlearning.local.network import LocalNetwork, Site, prepare_workdir
from swarmlearning.types import LedgerKind, TrustDomain

A = TrustDomain("a.example")


@contextmanager
def running_network(
    workdir: Path, sites: Sequence[Site] = (Site(domain=A, sls=2),), ledger: LedgerKind = "embedded"
) -> Iterator[LocalNetwork]:
    """By default one organisation with an SN and two SLs."""
    prepare_workdir(workdir)
    made = LocalNetwork(list(sites), workdir, ledger=ledger)
    loop = asyncio.new_event_loop()
    # The loop goes on while tests run: it is what copies the nodes' output to their logs.
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(made.__aenter__(), loop).result(90)
        yield made
        asyncio.run_coroutine_threadsafe(made.stop(), loop).result(60)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def swarm_command(network: LocalNetwork, *arguments: str) -> list[str]:
    """A command line; the options of identity and SN come after the (sub)command's name or names."""
    pki = network.workdir / A / "pki"
    identity = ["--cert", "operator.cert.pem", "--key", "operator.key.pem", "--cacert", f"{A}.ca.pem"]
    options = [str(pki / word) if word.endswith(".pem") else word for word in identity]
    names = 3 if arguments[:2] == ("network", "propose") else 1 + (arguments[0] in ("contract", "ledger", "network"))
    command = [sys.executable, "-m", "swarmlearning", *arguments[:names], *options]
    return [*command, "--sn", str(network.sns[0].address.endpoint), *arguments[names:]]


def ask_swarm(network: LocalNetwork, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What a command says."""
    command = swarm_command(network, *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
