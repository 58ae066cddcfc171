"""All trainings that an SL takes part in: one program each, and what goes on after a program or the SL itself has gone.

Does not: know sockets, files or TLS (`node`). Spec: docs/spec/control.md, C-3, C-12, C-17; round.md, R-16, R-18.
"""

import asyncio
from collections.abc import Callable

from msgspec.structs import replace

from swarmlearning.errors import ConfigurationError, SwarmError
from swarmlearning.parameters.manifest import Manifest, decode_manifest
from swarmlearning.sl.control import Open
from swarmlearning.sl.desk import Desk, log
from swarmlearning.sl.journal import Entry, Journals
from swarmlearning.sl.participation import Participation
from swarmlearning.types import ContractName

Make = Callable[[Open, Manifest, memoryview | None], Participation]
"""Makes a participation of what a program opened with, its model, and its parameters' file."""


class Trainings:
    """Participations by contract, and the tasks that run them."""

    def __init__(self, make: Make, journals: Journals, discard: Callable[[str], None]) -> None:
        """Take part in nothing yet.

        Args:
            make: makes a participation.
            journals: what an earlier process left.
            discard: deletes a program's file, by its name; it may be gone already.
        """
        self.desks: dict[ContractName, Desk] = {}
        """What is served to other SLs."""
        self.participations: dict[ContractName, Participation] = {}
        self.running: dict[ContractName, asyncio.Task[None]] = {}
        self._make = make
        self._journals = journals
        self._discard = discard
        self._stopping = False

    @property
    def is_busy(self) -> bool:
        """Whether a training goes on."""
        return any(not participation.ended.is_set() for participation in self.participations.values())

    def require_free(self, contract: ContractName) -> None:
        """C-3: one program at a time.

        Raises:
            ConfigurationError: another program already takes part in that contract.
        """
        known = self.participations.get(contract)
        if known is not None and known.attended and not known.ended.is_set():
            raise ConfigurationError(f"another program already takes part in {contract} through this SL")

    async def begin(self, request: Open, manifest: Manifest, own: memoryview) -> Participation:
        """A program takes part: anew, or (C-17) going on. It takes over what its SL does without a program.

        Raises:
            ConfigurationError: another program already takes part in that contract.
        """
        self.require_free(request.contract)
        participation = self._make(request, manifest, own)
        known = self.participations.get(request.contract)
        if known is not None:
            # The program before is gone, but its SL may still do its share of a round: from now on the new one does.
            await end_tasks(self.running[request.contract])
            participation.desk.inherit(known.desk)
        self._discard_older(request)
        self._start(participation, request.file)
        return participation

    def _discard_older(self, request: Open) -> None:
        """C-12: the file of a program that died with its SL."""
        for entry in self._journals.entries():
            if entry.contract == request.contract and entry.request.file != request.file:
                self._discard(entry.request.file)

    async def resume(self) -> None:
        """R-18: go on for programs that had finished when an earlier process ended."""
        for entry in self._journals.entries():
            if not entry.finished:
                continue
            try:
                participation = self._make_again(entry)
            except SwarmError as error:
                log.warning("%s: cannot go on for a program that had finished: %s", entry.contract, error)
                self._journals.forget(entry.contract)
                continue
            log.info("%s, run %d: going on for a program that had finished", entry.contract, entry.run)
            self._start(participation, "")
            participation.go_on(entry)

    def _make_again(self, entry: Entry) -> Participation:
        request = replace(entry.request, file="", run=entry.run, adopted=-1)
        return self._make(request, decode_manifest(request.manifest), None)

    def _start(self, participation: Participation, file: str) -> None:
        contract = participation.desk.contract
        self.participations[contract] = participation
        self.desks[contract] = participation.desk
        self.running[contract] = asyncio.ensure_future(self._keep(participation, file))

    async def _keep(self, participation: Participation, file: str) -> None:
        """Run a participation; a task's boundary. The program's file goes with it (C-12), unless the SL itself goes."""
        try:
            await participation.run()
        except* SwarmError as group:
            log.error("%s: %s", participation.desk.contract, group.exceptions[0])
        finally:
            participation.ended.set()
            if file and not self._stopping:
                self._discard(file)

    async def stop(self) -> None:
        """End all. Nobody leaves: programs wait for this SL's successor (C-17)."""
        self._stopping = True
        await end_tasks(*self.running.values())


async def end_tasks(*tasks: "asyncio.Task[None]") -> None:
    """Cancel tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
