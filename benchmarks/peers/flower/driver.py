"""Flower: one SuperLink, four SuperNodes, an App sent with `flwr run`; FedAvg over NumPy arrays.

TLS: the SuperLink has a certificate that SuperNodes and `flwr run` verify; clients show none.
"""

import os
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import driving
import payload


def main() -> None:
    """Start everything, submit the App, wait for the marks."""
    task = driving.read_task(__doc__)
    ca, certificate, key = driving.make_certificates(task.folder / "tls")
    home = task.folder / "home"
    home.mkdir()
    os.environ |= {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    port, *node_ports = driving.free_ports(1 + task.peers)
    tls = ["--ssl-certfile", certificate, "--ssl-keyfile", key, "--ssl-ca-certfile", ca]
    link = [driving.tool("flower-superlink"), *map(str, tls), "--port", str(port), "--host", "127.0.0.1"]
    link.append("--disable-runtime-dependency-installation")
    started = [driving.start(link, task.folder / "superlink.log")]
    driving.wait_for_port(port, started)
    for peer, node_port in enumerate(node_ports):
        node = [driving.tool("flower-supernode"), "--superlink", f"127.0.0.1:{port}", "--root-certificates", str(ca)]
        node += ["--port", str(node_port), "--node-config", f"peer={peer}"]
        started.append(driving.start(node, task.folder / f"supernode-{peer}.log"))
    (home / "config.toml").write_text(
        '[superlink]\ndefault = "bench"\n\n'
        f'[superlink.bench]\naddress = "127.0.0.1:{port}"\nroot-certificates = "{ca}"\n'
    )
    config = f"rounds={task.measured} peers={task.peers} megabytes={task.megabytes}"
    app = task.folder / "app"
    shutil.copytree(Path(__file__).parent / "app", app)
    shutil.copy(payload.__file__, app / "bench_app")  # Flower starts Apps without PYTHONPATH
    submit = [driving.tool("flwr"), "run", str(app), "bench", "--run-config", config]
    with (task.folder / "flwr-run.log").open("wb") as log:
        subprocess.run(submit, check=True, stdout=log, stderr=log, timeout=120)
    driving.wait_for_marks(task, started)
    driving.report(task, "Flower", version("flwr"), tls="server's certificate")


if __name__ == "__main__":
    main()
