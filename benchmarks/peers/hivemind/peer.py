"""One hivemind peer in a process of its own: a DHT node and a DecentralizedAverager over libp2p."""

import argparse
import json
import sys
import time
from pathlib import Path

import hivemind
import torch
from payload import Marks, make_arrays, train

MATCHMAKING_S = 1.0
"""How long a peer looks for a group. A full group starts at once; hivemind's own 5 s would only lengthen failures."""


def main() -> None:
    """Average until told to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", type=int)
    parser.add_argument("--peers", type=int)
    parser.add_argument("--megabytes", type=float)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    addresses = options.folder / "addresses.json"
    known = json.loads(addresses.read_text()) if options.peer else []
    dht = hivemind.DHT(initial_peers=known, host_maddrs=["/ip4/127.0.0.1/tcp/0"], start=True)
    if not options.peer:
        addresses.with_suffix(".part").write_text(json.dumps([str(address) for address in dht.get_visible_maddrs()]))
        addresses.with_suffix(".part").rename(addresses)
    arrays = make_arrays(options.megabytes)
    averager = hivemind.DecentralizedAverager(
        [torch.from_numpy(array) for array in arrays],
        dht,
        prefix="bench",
        target_group_size=options.peers,
        min_group_size=options.peers,
        min_matchmaking_time=MATCHMAKING_S,
        request_timeout=MATCHMAKING_S * 0.6,
        start=True,
    )
    (options.folder / f"ready-{options.peer}").touch()
    while len(list(options.folder.glob("ready-*"))) < options.peers:
        time.sleep(0.05)
    marks = Marks(options.peer)
    marks.write(arrays, options.peers)
    for _ in range(options.rounds):
        with averager.get_tensors() as tensors:
            for tensor, trained in zip(
                tensors, train([tensor.numpy() for tensor in tensors], options.peer), strict=True
            ):
                tensor[...] = torch.from_numpy(trained)
        joined = averager.step(allow_retries=True, timeout=120)
        if joined is None or len(joined) != options.peers:
            sys.exit(f"averaged with {len(joined or ())} peers, expected {options.peers}")
        with averager.get_tensors() as tensors:
            marks.write([tensors[0].numpy()], options.peers)
    while True:  # the driver's end ends us; others may still read from us
        time.sleep(1)


if __name__ == "__main__":
    main()
