"""The containers of an agent as an engine has them: what there is, how it stands and ended, its logs and its time.

Makes and removes none. Spec: docs/spec/swop-containers.md, SW-77 and SW-78.
"""

import asyncio
import contextlib
import logging
import math
import signal
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import docker.errors
import msgspec

from swarmlearning.errors import ConfigurationError, Unreachable
from swarmlearning.reports.status import make_printable
from swarmlearning.swop.managers import docker_names as names
from swarmlearning.swop.managers.boundary import Pair, Part, PartState, PartStatus
from swarmlearning.swop.managers.docker_engine import CALL_S, Engine, run_in_thread
from swarmlearning.swop.managers.docker_logs import RETRY_S, Copier
from swarmlearning.swop.managers.docker_mounts import READY
from swarmlearning.types import NodeId

_LOG: Final = logging.getLogger(__name__)

LOG_WAIT_S: Final = 3.0
"""How long the end of a container's log is waited for before it is told that it has exited, seconds."""

STOP_S: Final = 10.0
"""Between SIGTERM and SIGKILL of a program that ran for too long, or of a forgotten pair, seconds."""

RUNNING: Final = frozenset({"running", "paused", "restarting", "stopping", "removing"})
FRESH: Final = frozenset({"created", "configured", "initialized"})
"""Made, and never started."""


_GONE: Final = PartStatus(
    state=PartState.EXITED, detail="its container is gone: removed by hand, or with the engine's storage"
)
_KILLED: Final = 128 + signal.SIGKILL


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A container that an engine has."""

    id: str
    state: str
    labels: dict[str, str]


class Watcher:
    """Looks after the containers of one agent."""

    def __init__(self, engine: Engine, agent: NodeId) -> None:
        """Use `engine`, of which only what has this agent's label is looked at."""
        self._engine = engine
        self._agent = agent
        self._ready: set[str] = set()
        self._ended: dict[str, PartStatus] = {}
        self._copiers: dict[str, Copier] = {}
        self._timers: dict[str, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Let go; what runs goes on."""
        for timer in self._timers.values():
            timer.cancel()
        for copier in self._copiers.values():
            copier.close()
        await asyncio.gather(*self._timers.values(), return_exceptions=True)
        deadline = time.monotonic() + LOG_WAIT_S
        for copier in self._copiers.values():
            await _until_done(copier, deadline)
        self._timers.clear()
        self._copiers.clear()

    async def list(self, labels: Mapping[str, str]) -> list[Found]:
        """The agent's containers that have these labels.

        Raises:
            Unreachable: the engine does not answer.
        """
        wanted = {names.AGENT: self._agent, **labels}

        def work() -> list[Found]:
            listed = self._engine.api.containers(all=True, filters=names.filters(wanted))
            return [
                Found(id=str(item["Id"]), state=str(item["State"]).lower(), labels=dict(item["Labels"]))
                for item in listed
                if names.has_labels(item, wanted)
            ]

        return await self._engine.call("list containers", work)

    async def find(self, pair_id: str) -> dict[Part, Found]:
        """What there is of a pair.

        Raises:
            Unreachable: the engine does not answer.
        """
        found = await self.list({names.PAIR: pair_id})
        return {Part(item.labels[names.PART]): item for item in found if item.labels.get(names.PART) in set(Part)}

    async def status(self, pair: Pair, part: Part, found: Found | None, made: str) -> PartStatus:
        """Where half of a pair stands; one that has ended is told when its log is in the file.

        Args:
            pair: the pair.
            part: the half.
            found: its container; None if there is none.
            made: id of the container that was made for it; empty if none was.

        Raises:
            Unreachable: the engine does not answer.
        """
        if found is None:
            return _GONE if made else PartStatus()
        if found.state in FRESH:
            return PartStatus()
        if found.state in RUNNING:
            self._ended.pop(found.id, None)
            ready = part is Part.ML or await self._is_ready(found.id)
            return PartStatus(state=PartState.RUNNING if ready else PartState.STARTING)
        if found.id not in self._ended:
            state = await self._inspect(found.id)
            if state is None:
                return _GONE
            await self._log_end(found.id)
            self._ended[found.id] = _describe_end(pair, part, state)
        return self._ended[found.id]

    async def _is_ready(self, container: str) -> bool:
        if container in self._ready:
            return True

        def look() -> bool:
            try:
                pieces, found = self._engine.api.get_archive(container, READY)
                for _ in pieces:
                    pass  # to the end, so that the connection can be used again
                return int(found["size"]) > 0
            except docker.errors.NotFound:
                return False

        if await self._engine.call("look whether the SL is ready", look):
            self._ready.add(container)
        return container in self._ready

    async def _inspect(self, container: str) -> Mapping[str, Any] | None:
        """A container's state as its engine has it; None if it is gone."""

        def work() -> Mapping[str, Any] | None:
            try:
                state: Mapping[str, Any] = self._engine.api.inspect_container(container)["State"]
            except docker.errors.NotFound:
                return None
            return state

        return await self._engine.call(f"look at the container {container[:12]}", work)

    # --- logs and time ------------------------------------------------------------------------------------------

    def attend(self, pair: Pair, part: Part, container: str) -> None:
        """Copy a container's log, and end a program in time; nothing where that is done already."""
        if container not in self._copiers:
            log = pair.sl_log if part is Part.SL else pair.ml_log
            note = Path(pair.directory) / f"{part.value}-log.json"
            note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            copier = Copier(self._engine, container, Path(log), note, pair.limits.log)
            copier.start()
            self._copiers[container] = copier
        if part is Part.ML and pair.limits.run_time_s is not None and container not in self._timers:
            self._timers[container] = asyncio.create_task(
                self._end_in_time(pair, container, pair.limits.run_time_s), name=f"time of {pair.id}"
            )

    async def _end_in_time(self, pair: Pair, container: str, limit_s: float) -> None:
        """Stop a program that runs for too long, by when the engine says that it started. A task's boundary."""
        while True:
            try:
                state = await self._inspect(container)
                if state is None or not state["Running"]:
                    return
                left = limit_s - _ran_s(state)
                if left > 0:
                    await asyncio.sleep(left + 0.01)
                    continue
                _LOG.info("%s: its program has run for %g s and is stopped", pair.label, limit_s)
                await self.stop(container, f"{pair.label}, ml", STOP_S)
            except (Unreachable, ConfigurationError) as error:
                _LOG.debug("cannot end %s in time: %s", pair.label, error)
                await asyncio.sleep(RETRY_S)

    async def stop(self, container: str, what: str, grace_s: float) -> None:
        """Stop a running container; returns when it has ended.

        Raises:
            Unreachable: the engine does not answer, or cannot stop it.
        """
        seconds = max(math.ceil(grace_s), 0)

        def stop() -> None:
            with contextlib.suppress(docker.errors.NotFound):
                if self._engine.api.inspect_container(container)["State"].get("Paused"):
                    self._engine.api.unpause(container)  # a paused one cannot hear that it is to end
                self._engine.api.stop(container, timeout=seconds)

        await self._engine.call(f"stop {what}", stop, limit_s=seconds + CALL_S)

    async def forget(self, found: Found) -> None:
        """Before a container is removed: have the end of its log, if it has ended, and stop looking after it."""
        container = found.id
        if found.state not in RUNNING:
            await self._log_end(container)
        if copier := self._copiers.pop(container, None):
            copier.close()
        if timer := self._timers.pop(container, None):
            timer.cancel()
        self._ready.discard(container)
        self._ended.pop(container, None)

    async def _log_end(self, container: str) -> None:
        if copier := self._copiers.get(container):
            await _until_done(copier, time.monotonic() + LOG_WAIT_S)


async def _until_done(copier: Copier, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left > 0 and not copier.done.is_set():
        await run_in_thread(lambda: copier.done.wait(left))


def _describe_end(pair: Pair, part: Part, state: Mapping[str, Any]) -> PartStatus:
    """How a container ended; why, where its engine knows or it can be told by our limits."""
    status = int(state["ExitCode"])
    memory, run_time_s = pair.limits.memory, pair.limits.run_time_s
    detail = ""
    if state.get("OOMKilled"):
        detail = "out of memory" + (f": its limit is {memory} bytes" if memory else "")
    elif part is Part.ML and run_time_s is not None and _ran_s(state) >= run_time_s:
        detail = f"stopped after {run_time_s:g} s, for so long it may run"
    elif status == _KILLED and part is Part.ML and memory is not None:
        detail = f"killed: from outside, or as it needed more than its limit of {memory} bytes of memory"
    elif state.get("Error"):
        detail = make_printable(" ".join(str(state["Error"]).split()))[:300]
    return PartStatus(state=PartState.EXITED, exit_status=status, detail=detail)


def _ran_s(state: Mapping[str, Any]) -> float:
    """How long a container has run, or ran, seconds."""
    begin = datetime.fromisoformat(str(state["StartedAt"]))
    end = time.time() if state["Running"] else datetime.fromisoformat(str(state["FinishedAt"])).timestamp()
    return end - begin.timestamp()
