"""A small training in numpy: `CONTRACT`, `ROUNDS`, `MIN_PEERS`; `PACE` is a file that holds it back."""

import os
import time
from pathlib import Path

import numpy as np

from swarmlearning.callbacks.configuration import SessionConfig
from swarmlearning.callbacks.session import SwarmSession
from swarmlearning.contracts.records import Settings
from swarmlearning.types import ContractName


def wait_for_pace() -> None:
    """Until nobody holds the training back any more."""
    pace = Path(__file__).parent / os.environ.get("PACE", "nobody-holds-it")
    while pace.exists():
        time.sleep(0.05)


def main() -> None:
    site = int(Path("/platform/data/site.txt").read_text()) if Path("/platform/data").exists() else 0
    print(f"trains at site {site}", flush=True)
    peers = int(os.environ["MIN_PEERS"])
    session = SwarmSession(
        SessionConfig(
            settings=Settings(sync_frequency=1, grace_ms=500),
            min_peers=peers,
            contract=ContractName(os.environ["CONTRACT"]),
            program="small",
        )
    )
    weights = {"layer": np.full((8, 8), site, np.float32)}
    weights = session.open(weights) or weights
    for step in range(int(os.environ.get("ROUNDS", "3"))):
        wait_for_pace()
        weights["layer"] = weights["layer"] * np.float32(0.5) + np.float32(site)
        result = session.sync(weights)
        print(f"step {step}: round {result.round}", flush=True)
        if result.over:
            break
        weights = result.arrays or weights
    final = session.finish(weights)
    print(f"final {final.sha256[:8] if isinstance(final.sha256, str) else final.sha256.hex()[:8]}", flush=True)


main()
