"""p2pfl: four nodes, each connected with each, over mutual TLS; all four are in every round's train set."""

import sys
from importlib.metadata import version
from pathlib import Path

import driving


def main() -> None:
    """Start the nodes, wait for the marks."""
    task = driving.read_task(__doc__)
    driving.make_certificates(task.folder / "tls")
    ports = ",".join(map(str, driving.free_ports(task.peers)))
    common = ["--ports", ports, "--megabytes", str(task.megabytes), "--tls", str(task.folder / "tls")]
    common += ["--rounds", str(task.measured + 1)]  # the result of the last one is marked by nobody
    nodes = []
    for peer in range(task.peers):
        folder = task.folder / f"node-{peer}"
        folder.mkdir()
        command = [sys.executable, str(Path(__file__).parent / "node.py"), "--peer", str(peer), *common]
        nodes.append(driving.start(command, folder / "log"))
    driving.wait_for_marks(task, nodes)
    driving.report(task, "p2pfl", version("p2pfl"), tls="mutual")


if __name__ == "__main__":
    main()
