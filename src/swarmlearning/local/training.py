"""Runs trainings over a local network: the peers' programs, what the user sees of them, and how it ended.

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
from swarmlearning.local.check import Ending, find_faults, newest_result
from swarmlearning.local.live import View
from swarmlearning.local.network import LocalNetwork, Sl
from swarmlearning.local.process import Command, Echo, Process
from swarmlearning.sn.client import SnClient
from swarmlearning.types import ContractName, NodeId

T = TypeVar("T")

PROGRAM_STOP_S: Final = 3.0
"""How long programs get to end by themselves, seconds."""

_AGAIN_S: Final = 0.5
_LOOK_S: Final = 1.0


class Program(msgspec.Struct, frozen=True, kw_only=True):
    """A peer's program."""

    name: str
    sl: Sl
    argv: tuple[str, ...]
    env: Mapping[str, str]
    log: Path


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a training ended, by the ledger and at every peer."""

    contract: ContractName
    training: Training | None
    endings: tuple[Ending, ...]

    @property
    def faults(self) -> list[str]:
        """What is wrong with it, one line each."""
        return find_faults(self.training, self.endings)

    @property
    def model(self) -> bytes:
        """SHA-256 of the final model on the ledger; empty if there is none."""
        return self.training.last.sha256 if self.training is not None and self.training.last is not None else b""


def _ending(program: Program, process: Process, training: Training | None) -> Ending:
    status = process.status
    assert status is not None  # all programs were stopped
    result = newest_result(program.sl.control, training)
    return Ending(name=program.name, node=program.sl.node, status=status, result=result)


class TrainingRun:
    """The programs of all peers, from their start to their end, over one or more trainings in turn. Use once."""

    def __init__(
        self,
        network: LocalNetwork,
        sn: SnClient,
        contracts: Sequence[ContractName],
        view: View,
        *,
        echo: Echo | None = None,
    ) -> None:
        """Expect the programs to train under `contracts`, in this order; `echo` is given their lines."""
        self._network = network
        self._sn = sn
        self._contracts = tuple(contracts)
        self._view = view
        self._echo = echo
        self._running: dict[NodeId, Process] = {}

    async def run(self, programs: Sequence[Program]) -> list[Ended]:
        """Start the programs, wait until all have ended, and tell how each training ended.

        When too few are left for another round, those left are ended: they would wait in vain.

        Raises:
            ConfigurationError: a program cannot be started.
            Unreachable: a node ended.
        """
        tasks = [asyncio.create_task(self._follow_all()), asyncio.create_task(self._network.watch_nodes())]
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
            trainings = [await self._sn.training(contract) for contract in self._contracts]
        finally:
            for task in tasks:
                task.cancel()
            await stop_all(processes)
            await asyncio.gather(*tasks, return_exceptions=True)
        if trainings[-1] is not None:
            self._view.update(trainings[-1])
        return [
            Ended(
                contract=contract,
                training=training,
                endings=tuple(
                    _ending(program, process, training) for program, process in zip(programs, processes, strict=True)
                ),
            )
            for contract, training in zip(self._contracts, trainings, strict=True)
        ]

    async def _follow_all(self) -> None:
        """Show one training after the other as the ledger has them, for as long as this task lives."""
        for contract in self._contracts:
            self._view.retitle(f"{contract}, {len(self._network.sls)} peers")
            await self._follow(contract)
        await asyncio.Event().wait()

    async def _follow(self, contract: ContractName) -> None:
        """Show a training until it is complete."""
        version = 0
        while True:
            with suppress(Unreachable):
                async for training in self._sn.watch(contract, version):
                    version = training.version
                    self._view.update(training)
                    if training.phase is Phase.COMPLETED:
                        return
            await asyncio.sleep(_AGAIN_S)

    async def _supervise(self, processes: Sequence[Process]) -> None:
        """Wait for the programs; end those left when they would wait for ever."""
        waits = [asyncio.create_task(process.wait()) for process in processes]
        pending: set[asyncio.Task[int]] = set(waits)
        while pending:
            # Again after a while: those left may have enrolled since.
            _, pending = await asyncio.wait(pending, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            shortfall = ""
            with suppress(Unreachable):  # a node that died is `watch_nodes`' affair
                shortfall = await self._find_shortfall() if pending else ""
            if shortfall:
                self._view.say(shortfall)
                await stop_all(processes)

    async def _find_shortfall(self) -> str:
        """Why the programs that are left would wait in vain, empty if they would not, or might not."""
        ended = [process for process in self._running.values() if process.status is not None]
        if not ended:
            return ""
        # All trainings, not only ours: the programs may agree on statistics first, under a contract of its own.
        for contract in await self._sn.contracts():
            training = await self._sn.training(contract)
            missing = self._count_missing(training) if training is not None else 0
            if missing:
                names = ", ".join(f"{process.name} (status {process.status})" for process in ended)
                return f"ended early: {names}; {contract} would need {missing} more for a round, so the others end too"
        return ""

    def _count_missing(self, training: Training) -> int:
        """How many peers too few a training has for ever; 0 if enough can still come, or nobody waits."""
        peers = {peer.node: peer for peer in training.peers}
        waiting = sum(process.status is None for process in self._running.values())
        if training.phase is Phase.COMPLETED or not peers or not waiting:
            return 0
        # An SL whose program finished goes on serving and counts; one whose program ended otherwise does not.
        serving = sum(
            process.status is not None and node in peers and peers[node].state is PeerState.FINISHED
            for node, process in self._running.items()
        )
        return max(0, max(peer.min_peers for peer in peers.values()) - waiting - serving)


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
