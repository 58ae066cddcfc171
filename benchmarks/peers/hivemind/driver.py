"""hivemind: four peers that average among themselves by all-reduce; libp2p's own secured streams."""

import sys
from importlib.metadata import version
from pathlib import Path

import driving


def main() -> None:
    """Start the first peer, then the others with its address; wait for the marks."""
    task = driving.read_task(__doc__)
    common = ["--peers", str(task.peers), "--megabytes", str(task.megabytes), "--rounds", str(task.measured)]
    peers = []
    for peer in range(task.peers):
        script = str(Path(__file__).parent / "peer.py")
        command = [sys.executable, script, "--peer", str(peer), "--folder", str(task.folder), *common]
        peers.append(driving.start(command, task.folder / f"peer-{peer}.log"))
        if not peer:
            driving.wait_until("the first peer's address", (task.folder / "addresses.json").exists, peers, 120)
    driving.wait_for_marks(task, peers)
    driving.report(task, "hivemind", version("hivemind"), tls="libp2p's")


if __name__ == "__main__":
    main()
