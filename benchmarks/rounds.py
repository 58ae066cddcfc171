"""How long a round takes: real nodes over mutual TLS on this machine, numpy programs, one leader and sharded.

    python benchmarks/rounds.py [--peers 4] [--sizes 0.001,1,16,64]

Prints for each model size the seconds a round (mean of the rounds after the first two), and the same as a multiple of
copying that many bytes once for every peer in memory, in the same run. All peers share this machine's cores, disk and
loopback, so a round here does the work of all of them.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from swarmlearning.local.network import LocalNetwork, Site, prepare_workdir
from swarmlearning.types import TrustDomain

ROUNDS = 7
WARM_UP = 2

PROGRAM = """
import json, os, sys, time
import numpy as np
from swarmlearning.callbacks.configuration import SessionConfig
from swarmlearning.callbacks.session import SwarmSession
from swarmlearning.contracts.records import Settings

size, peers, topology, contract = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
weights = {"w": np.random.default_rng(int(sys.argv[5])).normal(size=max(1, size // 4)).astype(np.float32)}
settings = Settings(sync_frequency=1, start="merge", topology=topology, checkin_mode="inactive")
times = []
with SwarmSession(SessionConfig(settings=settings, min_peers=peers, contract=contract)) as session:
    session.open(weights)
    for _ in range(int(sys.argv[6])):
        begun = time.perf_counter()
        weights = session.sync(weights).arrays
        times.append(time.perf_counter() - begun)
    session.finish(weights)
print(json.dumps(times))
"""


def time_copy(size: int) -> float:
    """Seconds to copy `size` bytes in memory."""
    source = np.ones(size, np.uint8)
    target = np.empty_like(source)
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - begun)
    return best


def run_training(network: LocalNetwork, size: int, topology: str) -> float:
    """Mean seconds a round of one training."""
    contract = f"bench-{size}-{topology}"
    programs = []
    for index, sl in enumerate(network.sls):
        arguments = [size, len(network.sls), topology, contract, index, ROUNDS]
        command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
        environment = {**os.environ, "SWARM_SL": str(sl.control)}
        programs.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    outputs = [program.communicate(timeout=600)[0] for program in programs]
    if any(program.returncode for program in programs):
        raise SystemExit(f"a program failed; see {network.workdir}")
    rounds = np.array([json.loads(output.strip().splitlines()[-1]) for output in outputs])
    return float(rounds[:, WARM_UP:].mean())


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--sizes", default="0.001,1,16,64", help="model sizes, MiB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        workdir = Path(directory) / "w"
        prepare_workdir(workdir)
        sites = [Site(domain=TrustDomain(f"site-{index}.example")) for index in range(options.peers)]
        async with LocalNetwork(sites, workdir) as network:
            print(f"{options.peers} peers, each with its own SN; {os.cpu_count()} cores")
            print(f"{'model':>10}  {'topology':>8}  {'s / round':>9}  {'x copies':>9}")
            for size in (max(64, int(float(text) * 2**20)) for text in options.sizes.split(",")):
                for topology in ("leader", "sharded"):
                    seconds = await asyncio.to_thread(run_training, network, size, topology)
                    ratio = seconds / (options.peers * time_copy(size))
                    print(f"{size / 2**20:>8.3f} M  {topology:>8}  {seconds:>9.3f}  {ratio:>9.0f}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
