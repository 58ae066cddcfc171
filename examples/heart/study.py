"""A study on this machine by one command: two organisations, an agent on each one's host, four hospitals' peers.

    python examples/heart/study.py [--out DIR]

What is made up here is the network (certificates, an SN for each organisation) and that both hosts are this machine.
The rest is what people do in earnest: two operators start their agents with their own profile, one of them with a
policy; the study lead runs a script. Real processes, mutual TLS, real data (UCI heart disease; see the data's README).
"""

import argparse
import asyncio
import csv
import os
import shutil
import sys
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from swarmlearning.clock import system_clock
from swarmlearning.errors import SwarmError
from swarmlearning.identity.authority import Authority, issue_certificate
from swarmlearning.local.network import NETWORK, LocalNetwork, Site, Sn, node_environment, prepare_workdir
from swarmlearning.local.process import Command, Process
from swarmlearning.types import NodeName, Role, TrustDomain

HERE = Path(__file__).parent
HOST = "127.0.0.1"
ORGANISATIONS = {"north": ("cleveland", "hungary"), "south": ("switzerland", "va-long-beach")}
"""And the hospitals whose data their hosts hold."""

SWARM = (sys.executable, "-P", "-m", "swarmlearning")
READY_S = 60.0


def write_private_data(directory: Path) -> None:
    """Give each hospital its own rows: every fourth to test on, the others to train on."""
    table = files("swarmlearning.demo") / "data" / "heart_disease_uci.csv"
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    for hospital in (name for names in ORGANISATIONS.values() for name in names):
        own = [row for row in rows if row["dataset"].lower().replace(" ", "-") == hospital]
        place = directory / hospital
        place.mkdir(parents=True)
        for name, part in (("TRAIN.csv", [r for i, r in enumerate(own) if i % 4]), ("TEST.csv", own[::4])):
            with (place / name).open("w", newline="") as file:
                writer = csv.DictWriter(file, fieldnames=list(rows[0]))
                writer.writeheader()
                writer.writerows(part)


def issue(base: Path, domain: str, role: Role, name: str) -> tuple[str, ...]:
    """A certificate of an organisation for a node, as options of `swarm`."""
    node = NodeName(domain=TrustDomain(domain), network=NETWORK, role=role, name=name)
    issued = issue_certificate(Authority.load(base / "ca"), node, (HOST,), base / "pki", at_ms=system_clock(), days=30)
    return ("--cert", str(issued.certificate), "--key", str(issued.key), "--cacert", str(issued.issuer))


async def start_agent(network: LocalNetwork, place: Path, name: str, sn: Sn) -> Process:
    """What the operator of one organisation does on its host."""
    domain = f"{name}.example"
    base, data = network.workdir / domain, place / name
    identity = issue(base, domain, Role.SWOP, "swop")
    for idx in range(len(ORGANISATIONS[name])):
        issue(base, domain, Role.SL, f"sl-{idx}")
    # The operator has read the program and puts it where tasks find it: in a volume of this host.
    shutil.copytree(HERE / "model", data / "volumes" / "heart-program")
    ready = place / f"{name}.ready"
    options = ["swop", "--profile", HERE / f"profile-{name}.yaml", "--data", data, "--sn", sn.address.endpoint]
    options += ["--set", f"CERTS={base / 'pki'}", "--set", f"DATA={place / 'private'}", "--host-ip", HOST]
    options += ["--ready-file", ready]
    policy = HERE / f"policy-{name}.yaml"
    if policy.exists():
        # A policy that others may write is refused, and some checkouts are made so.
        own = place / policy.name
        own.write_bytes(policy.read_bytes())
        own.chmod(0o600)
        options += ["--set", f"POLICY={own}"]
    command = Command(
        name=f"swop of {name}",
        argv=(*SWARM, *map(str, options), *identity),
        env=node_environment(os.environ),
        log=place / f"swop-{name}.log",
    )
    agent = await Process.start(command, network.reaper, echo=lambda who, line: print(f"{who} | {line}"))
    async with asyncio.timeout(READY_S):
        while not ready.exists():
            if agent.status is not None:
                raise SystemExit(f"the agent of {name} ended with status {agent.status}; its log is {command.log}")
            await asyncio.sleep(0.1)
    return agent


async def run_study(out: Path) -> int:
    """Found the network, start the agents, run the lead's script; return its exit status."""
    place = prepare_workdir(out)
    write_private_data(place / "private")
    print(f"Founds a network of {len(ORGANISATIONS)} organisations on this machine, in {place}.")
    sites = [Site(domain=TrustDomain(f"{name}.example"), sls=0) for name in ORGANISATIONS]
    networks = place / "network"
    networks.mkdir()
    async with LocalNetwork(sites, networks) as network:
        names = list(ORGANISATIONS)
        print("Each organisation's operator starts an agent: one is asked about every task, one has a policy.")
        agents = [await start_agent(network, place, name, sn) for name, sn in zip(names, network.sns, strict=True)]
        lead = issue(network.workdir / "north.example", "north.example", Role.OPERATOR, "lead")
        command = Command(
            name="lead",
            argv=(*SWARM, "ci", "--sn", str(network.sns[0].address.endpoint), "--script", "swci-init", *lead),
            env=node_environment(os.environ) | {"XDG_CONFIG_HOME": str(place / "config")},
            log=place / "lead.log",
            cwd=HERE,
        )
        print(f"The study lead runs the script {HERE / 'swci-init'}.")
        script = await Process.start(command, network.reaper, echo=lambda who, line: print(f"{who} | {line}"))
        status = await script.wait()
        if status == 0:
            await asyncio.to_thread(await_clean_up, place)
        for agent in agents:
            await agent.stop(10.0)
    return status or tell_result(place)


def await_clean_up(place: Path) -> None:
    """The script's last command has the agents remove what they started; wait until they have, a minute at most."""
    end_s = time.monotonic() + READY_S
    while any(place.glob("*/pairs/*")) and time.monotonic() < end_s:
        time.sleep(0.1)


def tell_result(place: Path) -> int:
    """Say where the model is and whether all peers have the same one."""
    said = [line for log in place.glob("*/logs/*/ml-*.log") for line in log.read_text().splitlines()]
    models = [line.split()[-1] for line in said if line.startswith("final swarm model ")]
    saved = sorted(place.glob("*/volumes/heart-result/*.keras"))
    print(f"{len(models)} peers ended with {len(set(models))} model: {', '.join(sorted(set(models)))}")
    print("\n".join(f"  {path}" for path in saved))
    print("What the programs printed: swarm logs --data " + str(place / "north"))
    return 0 if len(models) == len(saved) == 4 and len(set(models)) == 1 else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="new directory for everything it writes; default: heart-study")
    out: Path | None = parser.parse_args(arguments).out
    names = (Path("heart-study" if number == 1 else f"heart-study-{number}") for number in range(1, 1000))
    out = out or next(path for path in names if not path.exists())
    try:
        return asyncio.run(run_study(out))
    except SwarmError as error:
        print(f"study.py: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
