"""NVIDIA FLARE: a server and four clients, provisioned and started as its own start scripts do; mutual TLS.

FLARE starts a further process for the job at the server and at each client. `--workflow` chooses FedAvg (the server
merges) or its swarm workflow (each round another client merges).
"""

import argparse
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import driving
from jobs import write_job
from nvflare.fuel.flare_api.flare_api import new_secure_session

ADMIN = "admin@bench.example"
SERVER = "localhost"
"""Its name decides the address that it listens on; by any other it would be all addresses."""

PROJECT = """
api_version: 3
name: bench
description: comparison
participants:
- {{name: {server}, org: bench, type: server, fed_learn_port: {port}}}
- {{name: {admin}, org: bench, type: admin, role: project_admin}}
{clients}
builders:
- path: nvflare.lighter.impl.workspace.WorkspaceBuilder
  args: {{template_file: [master_template.yml]}}
- path: nvflare.lighter.impl.static_file.StaticFileBuilder
  args: {{config_folder: config}}
- path: nvflare.lighter.impl.cert.CertBuilder
- path: nvflare.lighter.impl.signature.SignatureBuilder
"""


def provision(folder: Path, port: int, peers: int) -> Path:
    """Make certificates and start-up kits; the folder with one kit for each participant."""
    clients = "\n".join(f"- {{name: site-{peer + 1}, org: bench, type: client}}" for peer in range(peers))
    project = folder / "project.yml"
    project.write_text(PROJECT.format(server=SERVER, port=port, admin=ADMIN, clients=clients))
    command = [driving.tool("nvflare"), "provision", "-p", str(project), "-w", str(folder / "work")]
    with (folder / "provision.log").open("wb") as log:
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=120)
    kits = folder / "work" / "bench" / "prod_00"
    for site in (SERVER, *(f"site-{peer + 1}" for peer in range(peers))):
        write_resources(kits / site / "local")
    return kits


def write_resources(local: Path) -> None:
    """What a site's operator decides: it runs the job's two components too, and keeps its files beside the kit."""
    text = (local / "resources.json.default").read_text()
    resources = json.loads(text.replace("/tmp/nvflare", str(local.parent / "storage")))  # noqa: S108  # to replace it
    resources["class_allow_list"].append("bench_parts.")
    (local / "resources.json").write_text(json.dumps(resources))


def start_kit(kit: Path, role: str, *settings: str) -> driving.Started:
    """Start a server or a client of a kit with the command of its `sub_start.sh`."""
    module = f"nvflare.private.fed.app.{role}.{role}_train"
    command = [sys.executable, "-u", "-m", module, "-m", str(kit), "-s", f"fed_{role}.json", "--set"]
    command += ["secure_train=true", "org=bench", "config_folder=config", *settings]
    return driving.start(command, kit / "log")


def main() -> None:
    """Provision, start, submit the job, wait for the marks."""
    workflow, sys.argv[1:] = take_workflow(sys.argv[1:])
    task = driving.read_task(__doc__)
    os.environ["HOME"] = str(task.folder)  # FLARE keeps a registry of kits in the home directory
    os.environ["PYTHONPATH"] += f":{Path(__file__).parent}"  # for bench_parts
    [port] = driving.free_ports(1)
    kits = provision(task.folder, port, task.peers)
    started = [start_kit(kits / SERVER, "server")]
    driving.wait_for_port(port, started)
    sites = [f"site-{peer + 1}" for peer in range(task.peers)]
    started += [start_kit(kits / site, "client", f"uid={site}") for site in sites]
    job = task.folder / "job"
    write_job(job, workflow, megabytes=task.megabytes, peers=task.peers, rounds=task.measured + 1)
    session = new_secure_session(ADMIN, str(kits / ADMIN), timeout=60)
    driving.wait_until(
        "all clients", lambda: len(session.get_system_info().client_info) == task.peers, started, limit_s=60
    )
    session.submit_job(str(job))
    driving.wait_for_marks(task, started)
    driving.report(task, "NVIDIA FLARE", version("nvflare"), tls="mutual")
    os._exit(0)  # the session's threads would wait for a server that is about to be ended


def take_workflow(arguments: list[str]) -> tuple[str, list[str]]:
    """This driver's own option, and the arguments of all drivers."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--workflow", choices=("fedavg", "swarm"), required=True)
    options, rest = parser.parse_known_args(arguments)
    return options.workflow, rest


if __name__ == "__main__":
    main()
