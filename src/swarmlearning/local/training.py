"""Runs one training over a local network: the peers' programs, what the user sees of them, and how it ended.

Does not start the network (`network`), nor judge the end (`check`).
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from swarmlearning.contracts.records import PeerState, Phase, Training
from swarmlearning.errors import Unreachable
from swarmlearning.local.check import Ending, newest_result
from swarmlearning.local.live import View
from swarmlearning.local.network import LocalNetwork, Sl
from swarmlearning.local.process import Command, Echo, Process
from swarmlearning.sn.client import SnClient
from swarmlearning.types import ContractName, NodeId

T = TypeVar("T")

PROGRAM_STOP_S: Final = 3.0
"""How long programs get to end by themselves, seconds."""

_AGAIN_S: Final = 0.5


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A peer's program."""

    name: str
    sl: Sl
    argv: tuple[str, ...]
    env: Mapping[str, str]
    log: Path


class TrainingRun:
    """One training from the start of its programs to their end. Use once."""

    def __init__(
        self,
        network: LocalNetwork,
        sn: SnClient,
        contract: ContractName,
        view: View,
        *,
        min_peers: int | None = None,
        echo: Echo | None = None,
    ) -> None:
        """Run a training under `contract`.

        `min_peers` is what the programs are expected to ask for, None if that is not known before they enrol; `echo`
        is given their lines.
        """
        self.training: Training | None = None
        """The newest record seen."""
        self.shortfall = ""
        """Why the programs were ended early, empty if they were not."""
        self._network = network
        self._sn = sn
        self._contract = contract
        self._view = view
        self._min_peers = min_peers
        self._echo = echo
        self._changed = asyncio.Event()
        self._running: dict[NodeId, Process] = {}

    async def run(self, programs: Sequence[Program]) -> list[Ending]:
        """Start the programs, wait until all have ended, and say how each did.

        When too few are left for another round, those left are ended: they would wait in vain.

        Raises:
            ConfigurationError: a program cannot be started.
            Unreachable: a node ended.
        """
        tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._network.watch_nodes())]
        processes: list[Process] = []
        try:
            for program in programs:
                command = Command(name=program.name, argv=program.argv, env=program.env, log=program.log)
                process = await Process.start(command, self._network.reaper, self._echo)
                processes.append(process)
                self._running[program.sl.node] = process
            tasks.append(asyncio.create_task(self._supervise(processes)))
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            self.training = await self._sn.training(self._contract)
        finally:
            for task in tasks:
                task.cancel()
            await stop_all(processes)
            await asyncio.gather(*tasks, return_exceptions=True)
        if self.training is not None:
            self._view.update(self.training)
        return [
            Ending(
                name=program.name,
                node=program.sl.node,
                status=await process.wait(),
                result=newest_result(program.sl.control, self.training),
            )
            for program, process in zip(programs, processes, strict=True)
        ]

    async def _follow(self) -> None:
        """Show the training as the ledger has it, for as long as this task lives."""
        version = 0
        while True:
            with suppress(Unreachable):
                async for training in self._sn.watch(self._contract, version):
                    version = training.version
                    self.training = training
                    self._view.update(training)
                    self._changed.set()
            await asyncio.sleep(_AGAIN_S)

    async def _supervise(self, processes: Sequence[Process]) -> None:
        """Wait for the programs; end those left when they would wait for ever."""
        waits = [asyncio.create_task(process.wait()) for process in processes]
        for wait in waits:
            wait.add_done_callback(lambda _: self._changed.set())
        while not all(wait.done() for wait in waits):
            await self._changed.wait()
            self._changed.clear()
            self.shortfall = self.shortfall or self._find_shortfall()
            if self.shortfall:
                self._view.say(self.shortfall)
                await stop_all(processes)

    def _find_shortfall(self) -> str:
        ended = [process for process in self._running.values() if process.status is not None]
        training = self.training
        if not ended or (training is not None and training.phase is Phase.COMPLETED):
            return ""
        peers = {peer.node: peer for peer in training.peers} if training is not None else {}
        # An SL whose program finished goes on serving and counts; one whose program ended otherwise does not.
        left = sum(
            process.status is None or (node in peers and peers[node].state is PeerState.FINISHED)
            for node, process in self._running.items()
        )
        needed = max((peer.min_peers for peer in peers.values()), default=self._min_peers or 2)
        if left >= needed or left == 0:
            return ""
        names = ", ".join(f"{process.name} (status {process.status})" for process in ended)
        return f"ended early: {names}; the {left} left are fewer than the {needed} that a round needs, so they end too"


async def stop_all(processes: Sequence[Process]) -> None:
    """End these processes, all at once."""
    await asyncio.gather(*(process.stop(PROGRAM_STOP_S) for process in processes))


def run_until_signal(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end; Ctrl-C, SIGTERM and SIGHUP cancel it, so that it ends what it started.

    Raises:
        KeyboardInterrupt: a signal ended it.
    """

    async def guarded() -> T:
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, task.cancel)
        return await main()

    try:
        return asyncio.run(guarded())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
