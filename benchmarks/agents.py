"""How soon an agent acts: a task taken, a program started in the sandbox, a crash told on the ledger.

    python benchmarks/agents.py [--times 10] [--json]

One organisation on the embedded ledger, its SN and its agent as real processes over mutual TLS, programs in the PROCESS
manager's sandbox. Beside it, in the same run: the same program started alone, with and without the sandbox.
"""

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from swarmlearning.clock import system_clock
from swarmlearning.contracts.messages import (
    AppendTask,
    AssignTask,
    CreateTask,
    FinalizeTask,
    ResetTaskrunner,
)
from swarmlearning.contracts.task_records import ACTIVE, ROOT_TASK, TaskType, hash_task
from swarmlearning.encoding import to_json
from swarmlearning.identity.authority import Authority, Issued, issue_certificate
from swarmlearning.identity.source import PemSource
from swarmlearning.local.network import NETWORK, LocalNetwork, Site, node_environment, prepare_workdir
from swarmlearning.local.process import Command, Process
from swarmlearning.sn.asking import open_sn, open_submitter
from swarmlearning.sn.client import SnClient, Submitter
from swarmlearning.types import DEFAULT_RUNNER, NodeName, Role, TaskName, TrustDomain

A = TrustDomain("a.example")
HOST = "127.0.0.1"
POLICY = "version: 1\nrules:\n- {name: bench, organisations: [a.example], mounts: [programs]}\n"
PROFILE = """\
groupname: bench
taskrunner: defaulttaskbb.taskdb.sml.hpe
policyuri: {policy}
nodes:
- slnodedef:
    idx: 0
    identity:
    - attribute: {{aType: CERT, mType: BIND, src: {cert}, tgt: /cert}}
    - attribute: {{aType: KEY, mType: BIND, src: {key}, tgt: /key}}
    - attribute: {{aType: CACERT, mType: BIND, src: {issuer}, tgt: /ca}}
    slport: 0
"""
CRASH = "import sys\nsys.exit('no column age')\n"
BODY = (
    "Command: /platform/programs/crash.py",
    "Entrypoint: python3",
    "WorkingDir: /platform",
    "SharedContent: [{Src: programs, Tgt: /platform/programs, MType: VOLUME}]",
)


def issue(network: LocalNetwork, role: Role, name: str) -> Issued:
    """A certificate."""
    base = network.workdir / A
    node = NodeName(domain=A, network=NETWORK, role=role, name=name)
    return issue_certificate(Authority.load(base / "ca"), node, (HOST,), base / "pki", at_ms=system_clock(), days=1)


async def start_agent(network: LocalNetwork, data: Path) -> None:
    """The agent, which ends with the network."""
    sl, swop = issue(network, Role.SL, "sl"), issue(network, Role.SWOP, "swop")
    programs = data / "volumes" / "programs"
    programs.mkdir(parents=True)
    (programs / "crash.py").write_text(CRASH)
    policy, profile, ready = data / "policy.yaml", data / "profile.yaml", data / "ready"
    policy.write_text(POLICY)
    policy.chmod(0o600)
    profile.write_text(PROFILE.format(policy=policy, cert=sl.certificate, key=sl.key, issuer=sl.issuer))
    options = ["--profile", profile, "--data", data, "--sn", network.sns[0].address.endpoint, "--host-ip", HOST]
    options += ["--cert", swop.certificate, "--key", swop.key, "--cacert", swop.issuer, "--ready-file", ready]
    argv = (sys.executable, "-P", "-m", "swarmlearning", "swop", *map(str, options))
    command = Command(name="swop", argv=argv, env=node_environment(os.environ), log=data / "swop.log")
    agent = await Process.start(command, network.reaper)
    async with asyncio.timeout(60):
        while not ready.exists():
            if agent.status is not None:
                raise SystemExit(f"the agent ended: {agent.tail()}")
            await asyncio.sleep(0.05)


async def make_task(client: SnClient, submitter: Submitter) -> tuple[TaskName, bytes]:
    """The task whose program crashes at once."""
    name = TaskName("crash")
    await submitter.require(
        CreateTask(task=name, kind=TaskType.RUN_SWARM, author="bench", prereq=ROOT_TASK, outcome="none")
    )
    await submitter.require(AppendTask(task=name, first=1, lines=BODY))
    whole = await client.task(name)
    assert whole is not None
    digest = hash_task(whole.task, whole.body)
    await submitter.require(FinalizeTask(task=name, hash=digest))
    return name, digest


async def crash_once(client: SnClient, submitter: Submitter, name: TaskName, digest: bytes) -> tuple[float, float]:
    """Seconds from the assignment until it is taken, and until the crash stands on the ledger."""
    began_s = time.perf_counter()
    await submitter.require(AssignTask(runner=DEFAULT_RUNNER, task=name, hash=digest, mode="peers", peers=1))
    taken_s = 0.0
    async for _ in client.changes():
        runner = await client.runner(DEFAULT_RUNNER)
        assert runner is not None
        assert runner.assignment is not None
        if runner.agents and not taken_s:
            taken_s = time.perf_counter() - began_s
        if runner.state not in ACTIVE:
            told_s = time.perf_counter() - began_s
            assert "no column age" in runner.reason, runner.reason
            await submitter.require(ResetTaskrunner(runner=DEFAULT_RUNNER, number=runner.assignment.number))
            return taken_s, told_s
    raise SystemExit("the SN ended the stream of changes")


def start_alone(times: int, *, sandbox: bool) -> float:
    """Median seconds of an interpreter that begins and ends."""
    argv = [sys.executable, "-I", "-c", "pass"]
    if sandbox:
        argv = ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "--proc", "/proc", "--dev", "/dev", "--", *argv]
    taken = []
    for _ in range(times):
        began_s = time.perf_counter()
        subprocess.run(argv, check=True)
        taken.append(time.perf_counter() - began_s)
    return statistics.median(taken)


async def measure(times: int) -> dict[str, float]:
    """All figures, seconds."""
    with tempfile.TemporaryDirectory(prefix="swarm-bench-") as directory:
        workdir = prepare_workdir(Path(directory) / "w")
        async with LocalNetwork([Site(domain=A, sls=0)], workdir) as network:
            await start_agent(network, Path(directory) / "data")
            operator = issue(network, Role.OPERATOR, "bench")
            identity = PemSource(operator.certificate, operator.key, operator.issuer)
            async with open_sn(identity, str(network.sns[0].address.endpoint)) as (client, _):
                submitter = await open_submitter(client, identity, None)
                name, digest = await make_task(client, submitter)
                found = [await crash_once(client, submitter, name, digest) for _ in range(times + 1)][1:]
    figures = {
        "assigned until taken": statistics.median(taken for taken, _ in found),
        "assigned until the crash is on the ledger": statistics.median(told for _, told in found),
        "python alone": start_alone(times, sandbox=False),
    }
    if shutil.which("bwrap") is not None:
        figures["python in bubblewrap"] = start_alone(times, sandbox=True)
    return figures


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=10, help="how often each is measured; medians are told")
    parser.add_argument("--json", action="store_true", help="as JSON")
    options = parser.parse_args()
    figures = asyncio.run(measure(options.times))
    if options.json:
        print(to_json(figures).decode())
        return
    for name, value in figures.items():
        print(f"{name:45} {value * 1000:8.0f} ms")


if __name__ == "__main__":
    main()
