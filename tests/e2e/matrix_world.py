"""One scenario of the fault matrix: train, strike at exactly the wanted moment, repair or not, check what must hold.

Moments are read off the ledger's record. A node that is to be hit within a round is frozen first; only if the record
still stands there is it killed (or left frozen); else it goes on and the next round is tried.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

from matrix_network import UNBOUND, FaultyNetwork, Program, now_s
from matrix_program import Job
from matrix_scenario import MIN_PEERS, PEERS, Figures, Scenario
from matrix_watch import History, Watch, wait_until

from swarmlearning.contracts.records import PeerState, Phase, Result, Round, Training
from swarmlearning.sn.client import SnClient
from swarmlearning.types import ContractName

TRIES = 40
"""Rounds in which a moment is tried to be hit. Only the leader having stored is seen in one round of two on an idle
machine and much more seldom on a busy one: the others store in the same block, or before it."""

LIMIT_S = 60.0
"""Longest wait for anything; far above what any of it takes."""

OUTAGE_LEASES = 1.5
"""How long a frozen sentinel stays frozen, leases: so long that every lease runs out meanwhile."""

BLINK_LEASES = 0.25
"""How long a blink takes, leases; R-9 and R-10 accuse nobody before half a lease."""

EARLY = 2
"""The peer that is hit outside merging, that enrols first and that finishes first."""


class Run:
    """One scenario on a network where everything is up."""

    def __init__(
        self, network: FaultyNetwork, history: History, sn: SnClient, scenario: Scenario, folder: Path
    ) -> None:
        self.scenario = scenario
        contract = ContractName(scenario.id)
        folder.mkdir()
        self.programs = [
            Program(
                network,
                Job(
                    contract=contract,
                    settings=scenario.settings,
                    min_peers=MIN_PEERS,
                    index=index,
                    megabytes=scenario.megabytes,
                    pace=str(folder / f"peer-{index}.pace"),
                    log=str(folder / f"peer-{index}.jsonl"),
                    life=0,
                ),
            )
            for index in range(PEERS)
        ]
        self.watch = Watch(sn, contract)
        self._network = network
        self._history = history
        self._struck_s = 0.0
        self._struck_round = -1
        self._repaired_s: float | None = None
        self._victim = EARLY
        """Site of what is hit."""
        self._programs: list[Program] = []
        """Programs that are hit."""

    async def play(self) -> Figures:
        """Do it all, and check what must hold.

        Raises:
            AssertionError: something does not hold, or a wait took too long; says what it waited for.
        """
        try:
            async with asyncio.TaskGroup() as group:
                following = group.create_task(self.watch.run())
                try:
                    return await self._play()
                finally:
                    following.cancel()
                    for program in self.programs:
                        await program.kill()
        except ExceptionGroup as group_of_one:
            raise group_of_one.exceptions[0] from None

    async def _play(self) -> Figures:
        await self._reach_and_strike()
        before = self._struck_round
        for program in self.programs:
            if not program.is_started:
                await program.start()
            program.allow(upto=UNBOUND)
        if self.scenario.action == "kill-restart":
            await self._start_again()
        elif (outage_s := self._outage_s) is not None:
            await asyncio.sleep(outage_s)
            self._thaw()
        await self.watch.until("the next final round", lambda _: self.watch.final_round > before, LIMIT_S)
        took_s = self.watch.final_s[self.watch.final_round] - self._struck_s
        if self.scenario.action == "freeze-thaw" and self._outage_s is None:
            self._thaw()
        await self._finish()
        results = await self._check(before)
        following = results[min(round_ for round_ in results if round_ > before)]
        goal_s = self.scenario.goal_s
        assert goal_s is None or took_s <= goal_s, f"the next round was final {took_s:.1f} s after the fault"
        if self.scenario.action == "blink":
            assert following.attempts == 1, f"somebody was relieved for {self._outage_s} s of silence"
            assert len(following.contributors) == PEERS, f"somebody was dropped for {self._outage_s} s of silence"
        return Figures(
            scenario=self.scenario.id,
            struck_round=before,
            next_final_s=took_s,
            repaired_s=self._repaired_s,
            attempts=following.attempts,
            contributors=len(following.contributors),
        )

    @property
    def _outage_s(self) -> float | None:
        """How long it stays frozen, seconds; None if for ever, or until the others have gone on."""
        lease_s = self.scenario.lease_ms / 1000
        if self.scenario.action == "blink":
            return BLINK_LEASES * lease_s
        if self.scenario.action == "freeze-thaw" and self.scenario.target == "sentinel":
            return OUTAGE_LEASES * lease_s
        return None

    # --- reaching the moment --------------------------------------------------------------------------------------

    async def _reach_and_strike(self) -> None:
        moment = self.scenario.moment
        if moment == "opening":
            await self._start_first(self.programs[EARLY])
            assert await self._strike(EARLY, lambda record: record.round is not None and not record.round.checkins)
            return
        for program in self.programs:
            await program.start()
        for program in self.programs:
            # Else the others' round 0 may be over before this one has enrolled, and it is none of its own.
            await self._until_said(program, "opened")
        for program in self.programs:
            program.allow(upto=0)
        await self._await_round(0)
        if self.scenario.is_in_round:
            await self._catch()
            return
        if moment == "collecting":
            self.programs[EARLY].allow(upto=1)
            await self.watch.until("the first check-in", lambda record: self._offers(record) == 1, LIMIT_S)
        elif moment == "finished":
            self.programs[EARLY].allow(last=0)
            await self.watch.until("the first peer to finish", self._has_finished, LIMIT_S)
        assert await self._strike(EARLY, lambda record: self._offers(record) < MIN_PEERS)

    async def _start_first(self, program: Program) -> None:
        await program.start()
        await self._until_said(program, "opened")

    def _offers(self, record: Training) -> int:
        """Check-ins to the open round 1."""
        return len(record.round.checkins) if record.round is not None and record.round.number == 1 else -1

    def _has_finished(self, record: Training) -> bool:
        node = self._network.sls[EARLY].node
        return any(peer.node == node and peer.state is PeerState.FINISHED for peer in record.peers)

    async def _await_round(self, number: int) -> None:
        """Until every program has had a round's result and stands before the next."""
        await self.watch.until(f"round {number} to be final", lambda _: self.watch.final_round >= number, LIMIT_S)
        for program in self.programs:
            await self._until_said(program, "round", number)

    async def _until_said(self, program: Program, kind: str, number: int | None = None) -> None:
        def is_said() -> bool:
            assert program.status is None, f"{program.name} ended with status {program.status}: {program.output}"
            return bool(program.said(kind, round_=number))

        what = f"{program.name} to say {kind!r}" + ("" if number is None else f" of round {number}")
        await wait_until(what, is_said, LIMIT_S, self.watch.explain)

    async def _catch(self) -> None:
        """Strike within a round; a round that went on too fast is followed by another try."""
        for number in range(1, 1 + TRIES):
            for program in self.programs:
                program.allow(upto=number)
            what = f"round {number} to be {self.scenario.moment}"
            await self.watch.until(what, partial(self._is_there, number), LIMIT_S)
            if await self._strike_in_round(number):
                return
            await self._await_round(number)
        raise AssertionError(f"the moment {self.scenario.moment!r} passed by in {TRIES} rounds; {self.watch.explain()}")

    async def _strike_in_round(self, number: int) -> bool:
        leaders = self.watch.leaders.get(number)
        if leaders is None or self.watch.record is None or not self._holds(self.watch.record, number):
            return False
        leader = self._network.index_of(leaders[0])
        victim = leader
        if self.scenario.target == "follower":
            victim = next(index for index in range(PEERS) if index != leader)
        if self.scenario.target == "sn" and victim == 0:
            victim = EARLY  # the leader's own SN is the sentinel
        return await self._strike(victim, lambda record: self._holds(record, number))

    def _is_there(self, number: int, record: Training) -> bool:
        """Whether the moment has come, or has passed already."""
        return self._holds(record, number) or self.watch.final_round >= number

    def _holds(self, record: Training, number: int) -> bool:
        """Whether round `number` is at the moment that is wanted."""
        round_ = record.round
        if self.scenario.moment == "final":
            is_fresh = round_ is None or not round_.checkins
            last = record.last
            return last is not None and last.round == number and is_fresh and len(last.participants) == PEERS
        if record.phase is not Phase.MERGING or round_ is None or round_.number != number or round_.attempt != 1:
            return False
        # On a busy machine a round may have closed without somebody; that one is not hit.
        return len(round_.participants) == PEERS and _describe(round_) == self.scenario.moment

    # --- the fault ------------------------------------------------------------------------------------------------

    @property
    def _nodes(self) -> list[str]:
        """Names of the nodes that are hit."""
        match self.scenario.target:
            case "everything":
                return [self._network.name_of(kind, index) for kind in ("sl", "sn") for index in range(PEERS)]
            case "sentinel" | "blackout":
                return [self._network.name_of("sn", 0)]
            case "sn":
                return [self._network.name_of("sn", self._victim)]
            case "program":
                return []
            case "sl" | "host" | "leader" | "follower":
                return [self._network.name_of("sl", self._victim)]

    def _choose_programs(self) -> list[Program]:
        """The programs that are hit."""
        if self.scenario.target == "everything":
            return [program for program in self.programs if program.is_started]
        return [self.programs[self._victim]] if self.scenario.target in ("program", "host", "blackout") else []

    async def _strike(self, victim: int, holds: Callable[[Training], bool]) -> bool:
        """Freeze the victim; if the record still is where it should be, the fault has come, else let it go on."""
        self._victim = victim
        self._programs = self._choose_programs()
        self._struck_s = now_s()
        for name in self._nodes:
            self._network.freeze(name)
        for program in self._programs:
            program.freeze()
        # A frozen sentinel orders nothing any more: the record stands where it stood.
        stands = self.scenario.target in ("sentinel", "blackout", "everything")
        if not stands and not holds(await self.watch.settle()):
            self._thaw()
            self._repaired_s = None
            return False
        self._struck_round = self.watch.final_round
        if self.scenario.action in ("kill", "kill-restart"):
            for name in self._nodes:
                await self._network.kill(name)
            for program in self._programs:
                await program.kill()
        return True

    def _thaw(self) -> None:
        for name in self._nodes:
            self._network.thaw(name)
        for program in self._programs:
            program.thaw()
        self._repaired_s = now_s() - self._struck_s

    async def _start_again(self) -> None:
        is_late = self.scenario.target == "blackout"
        if not is_late:
            await self._network.heal()
        for program in self._programs:
            program.allow(upto=UNBOUND, last=UNBOUND)
            await program.start()
        if is_late:
            await asyncio.sleep(OUTAGE_LEASES * self.scenario.lease_ms / 1000)
            await self._network.heal()
        self._repaired_s = now_s() - self._struck_s

    # --- the end --------------------------------------------------------------------------------------------------

    @property
    def _survivors(self) -> list[Program]:
        """Programs that must end well: all, but for the one whose fault is never repaired."""
        is_lost = self.scenario.action in ("kill", "freeze")
        return [program for program in self.programs if not (is_lost and program.index == self._victim)]

    async def _finish(self) -> None:
        """Let all end two rounds later, and wait until they have."""
        if self.scenario.action == "kill-restart":
            for program in self._programs:
                await self._until_said(program, "opened")
        record = self.watch.record
        number = record.round.number if record is not None and record.round is not None else self.watch.final_round
        for program in self.programs:
            if self.scenario.moment != "finished" or program.index != EARLY or self._programs:
                program.allow(last=number + 1)
        for program in self._survivors:
            await wait_until(f"{program.name} to end", program.has_ended, LIMIT_S, self.watch.explain)
            assert program.status == 0, f"{program.name} ended with status {program.status}: {program.output}"

    async def _check(self, before: int) -> dict[int, Result]:
        """What must hold after every fault; returns the ledger's final results by round."""
        record = await self.watch.settle()
        assert record.phase is Phase.COMPLETED, f"all programs have ended, but {self.watch.explain()}"
        results = await self._history.results(record.name, record.run)
        assert record.last is not None
        assert results[max(results)] == record.last
        assert max(results) > before, f"no round became final after the fault, the newest is {before}"
        finals = {program.index: [line.sha256 for line in program.said("final")] for program in self._survivors}
        expected = [record.last.sha256.hex()]
        assert all(said == expected for said in finals.values()), f"final models {finals}, on the ledger {expected}"
        # Every result that a program was ever given is the ledger's: so no two peers had different ones, and none
        # that was acknowledged before the fault is lost.
        for program in self.programs:
            for line in program.lines():
                if line.sha256:
                    on_ledger = results.get(line.round)
                    assert on_ledger is not None, f"{program.name} was given round {line.round}, which is lost"
                    assert line.sha256 == on_ledger.sha256.hex(), f"{program.name} has another round {line.round}"
        return results


def _describe(round_: Round) -> str:
    """Which moment of merging a round is at; empty for one that is none of ours."""
    if not any(round_.merged):
        return "merging"
    if not all(round_.merged):
        return ""
    holders = {holding.node for holding in round_.holdings}
    if not holders:
        return "merged"
    return "stored" if holders == {round_.leaders[0]} else ""
