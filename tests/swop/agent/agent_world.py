"""Agents on hosts of tests: profiles, policies, tasks, real `swarm swop` processes, and how an operator steers them.

A host is a directory with the identities of its SLs; everything lies on this machine, SLs take free ports.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

from swci_world import A, Swarm, process_environment

from swarmlearning.contracts.messages import (
    AppendTask,
    ApproveTask,
    AssignTask,
    CreateTask,
    CreateTaskrunner,
    FinalizeTask,
    ResetTaskrunner,
)
from swarmlearning.contracts.task_records import ENDED, ROOT_TASK, Agent, RunnerState, Taskrunner, TaskType, hash_task
from swarmlearning.errors import Unreachable
from swarmlearning.local.network import NETWORK
from swarmlearning.sn.client import SnClient, Submitter
from swarmlearning.types import NodeId, NodeName, Role, RunnerName, TaskName, TrustDomain

SOURCES: Final = Path(__file__).parent / "programs"
"""Programs that tasks of tests run; each test has a copy."""

ALLOW_ALL: Final = """\
version: 1
rules:
  - name: tests
    mounts: ["{programs}"]
    private_data: true
"""


def copy_programs(directory: Path) -> Path:
    """A directory with the programs, which a task mounts."""
    return Path(shutil.copytree(SOURCES, directory / "programs", ignore=shutil.ignore_patterns("__pycache__")))


class Operator:
    """Steers an organisation's taskrunners, and watches them."""

    def __init__(self, client: SnClient, submitter: Submitter) -> None:
        self.client = client
        self.submitter = submitter

    async def make_runner(self, name: str) -> RunnerName:
        runner = RunnerName(name)
        await self.submitter.require(CreateTaskrunner(runner=runner))
        return runner

    async def write_task(
        self,
        name: str,
        lines: Sequence[str],
        *,
        kind: TaskType = TaskType.RUN_SWARM,
        prereq: str = ROOT_TASK,
        outcome: str = "model",
    ) -> TaskName:
        """A final task."""
        task = TaskName(name)
        await self.submitter.require(
            CreateTask(task=task, kind=kind, author="Anna", prereq=TaskName(prereq), outcome=outcome)
        )
        for first in range(0, len(lines), 10):  # a transaction has its limit
            await self.submitter.require(AppendTask(task=task, first=first + 1, lines=tuple(lines[first : first + 10])))
        written = await self.client.task(task)
        assert written is not None
        await self.submitter.require(FinalizeTask(task=task, hash=hash_task(written.task, written.body)))
        return task

    async def hash_of(self, task: TaskName) -> bytes:
        found = await self.client.task(task)
        assert found is not None
        return found.task.hash

    async def assign(self, runner: RunnerName, task: TaskName, *, peers: int = 1) -> None:
        digest = await self.hash_of(task)
        await self.submitter.require(AssignTask(runner=runner, task=task, hash=digest, mode="peers", peers=peers))

    async def assign_all(self, runner: RunnerName, task: TaskName) -> None:
        await self.submitter.require(AssignTask(runner=runner, task=task, hash=await self.hash_of(task), mode="all"))

    async def target(self, runner: RunnerName, task: TaskName, agent: NodeId) -> None:
        digest = await self.hash_of(task)
        await self.submitter.require(AssignTask(runner=runner, task=task, hash=digest, mode="target", target=agent))

    async def approve(self, task: TaskName, *, granted: bool = True) -> None:
        await self.submitter.require(ApproveTask(task=task, hash=await self.hash_of(task), granted=granted))

    async def reset(self, runner: RunnerName) -> None:
        found = await self.look(runner)
        number = 0 if found.assignment is None else found.assignment.number
        await self.submitter.require(ResetTaskrunner(runner=runner, number=number))

    async def look(self, runner: RunnerName) -> Taskrunner:
        found = await self.client.runner(runner)
        assert found is not None
        return found

    async def until(self, runner: RunnerName, wanted: Callable[[Taskrunner], bool], limit_s: float = 60) -> Taskrunner:
        """The runner, as soon as it is as wanted."""
        found: list[Taskrunner] = []
        try:
            async with asyncio.timeout(limit_s):
                async with contextlib.aclosing(self.client.changes()) as changes:  # type: ignore[type-var]
                    async for _ in changes:
                        found.append(await self.look(runner))
                        if wanted(found[-1]):
                            return found[-1]
        except TimeoutError:
            raise AssertionError(f"waited {limit_s:.0f} s; last seen: {found[-1] if found else 'nothing'}") from None
        raise Unreachable("the stream of changes ended")

    async def until_decided(self, runner: RunnerName, limit_s: float = 100) -> Taskrunner:
        decided = (RunnerState.COMPLETE, RunnerState.ERROR)
        return await self.until(runner, lambda found: found.state in decided, limit_s)

    async def until_over(self, runner: RunnerName, limit_s: float = 60) -> Agent:
        """The one agent, as soon as it has ended."""
        found = await self.until(runner, lambda found: any(a.state in ENDED for a in found.agents), limit_s)
        (agent,) = found.agents
        return agent


@asynccontextmanager
async def operating(swarm: Swarm, domain: TrustDomain = A) -> AsyncIterator[Operator]:
    async with swarm.client(Role.OPERATOR, domain) as client, swarm.submitter(Role.OPERATOR, domain) as submitter:
        yield Operator(client, submitter)


class HostFiles:
    """A host's directory: profile, policy, identities."""

    def __init__(self, swarm: Swarm, directory: Path, name: str, domain: TrustDomain = A) -> None:
        self.swarm = swarm
        self.programs = directory / "programs"
        self.directory = directory / name
        self.directory.mkdir(parents=True)
        self.name = name
        self.domain = domain
        self.data = self.directory / "data"
        self.policy = self.directory / "policy.yaml"
        self.profile = self.directory / "profile.yaml"

    @property
    def agent(self) -> NodeId:
        return NodeName(domain=self.domain, network=NETWORK, role=Role.SWOP, name=self.name).id

    def sl(self, idx: int) -> NodeId:
        return NodeName(domain=self.domain, network=NETWORK, role=Role.SL, name=f"{self.name}-sl-{idx}").id

    def write_policy(self, text: str = ALLOW_ALL) -> None:
        partial = self.policy.with_suffix(".part")
        partial.write_text(text.replace("{programs}", str(self.programs)))
        partial.chmod(0o600)
        partial.replace(self.policy)

    def write_profile(
        self,
        runners: Sequence[str],
        *,
        nodes: int = 2,
        policy: bool = True,
        environment: Sequence[str] = (),
        identities: Sequence[int] = (),
    ) -> None:
        """A profile of so many nodes; `environment` are usrenvvars of all, `identities` whose certificates."""
        lines = ["groupname: tests", f"taskrunner: {json.dumps(list(runners))}"]
        lines += [f"policyuri: {self.policy if policy else '~'}"]
        lines += ["resourcemgr:", "    mgrtype: DOCKER", "    accessinfo: ~", "network: ~", "envvars: ~"]
        lines += ["apls: ~", "apisrv: ~", "nodes:"]
        for idx in range(nodes):
            paths = self.swarm.identity(Role.SL, self.domain, f"{self.name}-sl-{(identities or range(nodes))[idx]}")
            data = self.directory / f"data-{idx}"
            data.mkdir(exist_ok=True)
            (data / "site.txt").write_text(f"{idx}\n")
            lines += ["  - slnodedef:", f"      idx: {idx}", "      identity:"]
            for part, path in (("KEY", paths.key), ("CERT", paths.cert), ("CACERT", paths.cacert)):
                assert path is not None
                lines += [
                    f"        - attribute: {{aType: {part}, mType: BIND, src: {path}, tgt: /swarm/{part.lower()}}}"
                ]
            lines += ["      slhostname: ~", "      slhostip: 127.0.0.1", "      slport: 0", "      usrhostname: ~"]
            lines += [f"      privatedata: {{src: {data}, mType: BIND}}", "      slenvvars: ~"]
            variables = "".join(f"\n        - {line}" for line in environment) or " ~"
            lines += [f"      usrenvvars:{variables}"]
        self.profile.write_text("\n".join([*lines, ""]))

    # --- processes --------------------------------------------------------------------------------------------------

    def command(self, *more: str) -> list[str]:
        paths = self.swarm.identity(Role.SWOP, self.domain, self.name)
        identity = ["--cert", str(paths.cert), "--key", str(paths.key), "--cacert", str(paths.cacert)]
        sn = str(self.swarm.sn(self.domain))
        options = ["--profile", str(self.profile), "--data", str(self.data), "--sn", sn, "--host-ip", "127.0.0.1"]
        return [sys.executable, "-m", "swarmlearning", "swop", *options, *identity, *more]

    @property
    def log(self) -> Path:
        return self.directory / "swop.log"

    def start(self, *more: str) -> "subprocess.Popen[bytes]":
        """A real agent; returns when it is ready."""
        ready = self.directory / "ready"
        ready.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            environment = process_environment(self.directory / "config")
            process = subprocess.Popen(
                self.command("--resource-manager", "process", "--ready-file", str(ready), *more),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment | {"SWARM_LOG_LEVEL": "INFO"},
                start_new_session=True,
            )
        limit = time.monotonic() + 30
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > limit:
                kill(process)
                raise AssertionError(f"the agent is not ready; its log: {self.log.read_text()}")
            time.sleep(0.02)
        return process

    def logs(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """What `swarm logs` says."""
        return subprocess.run(
            [sys.executable, "-m", "swarmlearning", "logs", "--data", str(self.data), *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=process_environment(self.directory / "config"),
        )


async def until(condition: Callable[[], bool]) -> None:
    """Until something is so that nobody tells."""
    while not condition():  # noqa: ASYNC110  # another process's files
        await asyncio.sleep(0.05)


def kill(process: "subprocess.Popen[bytes]", how: signal.Signals = signal.SIGKILL) -> None:
    """End an agent, and nothing else."""
    if process.poll() is None:
        process.send_signal(how)
    process.wait(timeout=30)


@contextmanager
def running_agents(*hosts: HostFiles) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """Real agents that are ended with all that they started, when the block ends."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        for host in hosts:
            started.append(host.start())  # noqa: PERF401  # those before are ended if one does not start
        yield started
    finally:
        for process in started:
            kill(process, signal.SIGTERM)
        for host in hosts:
            end_pairs(host)


def end_pairs(host: HostFiles) -> None:
    """End what an agent's host still runs: whoever has its data directory in the command line or environment."""
    wanted = os.fsencode(str(host.data))
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if wanted in (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes():
                os.kill(int(entry.name), signal.SIGKILL)


def run_lines(
    programs: Path, program: str, *, command: str = "", environment: Sequence[str] = (), private: bool = False
) -> list[str]:
    """The body of a RUN_SWARM that runs one of `programs`."""
    lines = [f"Command: /programs/{program} {command}".rstrip(), "Entrypoint: python3", "WorkingDir: /programs"]
    lines += [f"Envvars: [{', '.join(environment)}]" if environment else "Envvars: ~"]
    lines += [f"PrivateContent: {'/platform/data' if private else '~'}"]
    return [*lines, "SharedContent:", f"  - {{Src: {programs}, Tgt: /programs, MType: BIND}}"]
