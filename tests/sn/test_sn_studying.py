"""What an SN tells of tasks, taskrunners and nodes, and what has changed: docs/spec/access.md, A-14 to A-16."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

import pytest
from chain_world import START_MS, Chain, member, validator_of
from sim_loop import run_virtual
from test_sn_access import HERE, SN, OneNodeLedger

from swarmlearning.contracts.messages import (
    AnyMessage,
    AppendTask,
    ApproveTask,
    CreateContract,
    CreateTask,
    CreateTaskrunner,
    FinalizeTask,
    ListenToRunner,
    Propose,
)
from swarmlearning.contracts.proposals import ChangeRoles
from swarmlearning.contracts.task_records import ROOT_TASK, TaskType, hash_task
from swarmlearning.encoding import decode, encode
from swarmlearning.errors import PeerError
from swarmlearning.ledger.boundary import Misbehaviour
from swarmlearning.sn import feed, presence, studying
from swarmlearning.sn.api import (
    CALL_PRESENCE,
    CALL_RUNNER,
    CALL_RUNNERS,
    CALL_TASK,
    CALL_TASKS,
    KEEPALIVE_S,
    STREAM_CHANGES,
    Changes,
    Presence,
)
from swarmlearning.sn.application import Committed
from swarmlearning.sn.client import SnClient
from swarmlearning.sn.presence import PresenceBook
from swarmlearning.sn.service import SnService
from swarmlearning.transport.api import Caller
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import (
    DEFAULT_RUNNER,
    Code,
    ContractName,
    NodeId,
    NodeName,
    Role,
    RunnerName,
    TaskName,
    TrustDomain,
)

OP, SWOP, SL = member(0, Role.OPERATOR), member(0, Role.SWOP), member(0)


class Office:
    """An SN of organisation 0 at which its operator and its agent are registered."""

    def __init__(self, organisations: int = 2, *, voting: bool = False) -> None:
        self.chain = Chain(organisations, voting=voting)
        self.ledger = OneNodeLedger(self.chain)
        self.away: tuple[TrustDomain, ...] = ()
        self.clock_ms = START_MS + 1_000_000
        self.book = PresenceBook(lambda: self.clock_ms)
        self.service = SnService(
            SN, self.chain.app, self.ledger, lambda: self.clock_ms, away=lambda: self.away, presence=self.book
        )
        self.network = MemoryNetwork()
        self.network.serve(SN, HERE.endpoint, self.service)
        self.chain.register(OP, SWOP)

    def client(self, name: NodeName = OP) -> SnClient:
        return SnClient(self.network.client(name), HERE)

    def do(self, *messages: AnyMessage, by: NodeName = OP) -> None:
        for message in messages:
            result = self.chain.do(by, message)
            assert result.code is Code.OK, result.log

    def changes(self) -> "Reading":
        """A reader of the service itself, without a network that reads ahead."""
        return Reading(self.service)


class Reading:
    """What a stream of changes says."""

    def __init__(self, service: SnService) -> None:
        self.frames: AsyncIterator[Any] = service.streams[STREAM_CHANGES](Caller(node=OP.id, name=OP), b"")

    async def next(self) -> Changes:
        return decode(bytes(await anext(self.frames)), Changes)


def creation(name: str) -> CreateTask:
    return CreateTask(task=TaskName(name), kind=TaskType.PULL_IMAGE, author="Anna", prereq=ROOT_TASK, outcome="x" * 160)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


# --- tasks and taskrunners ------------------------------------------------------------------------------------


def test_a14_tasks_and_runners_are_told_as_they_stand() -> None:
    async def story() -> None:
        office = Office()
        client = office.client(member(0, Role.AUDITOR))
        office.do(creation("t"), AppendTask(task=TaskName("t"), first=1, lines=("a", "b")))
        office.do(ListenToRunner(runner=DEFAULT_RUNNER, listening=True), by=SWOP)
        assert [task.name for task in await client.tasks()] == [ROOT_TASK, "t"]
        whole = await client.task(TaskName("t"))
        assert whole is not None
        assert (whole.task, whole.body) == ((await client.tasks())[1], ("a", "b"))
        office.do(FinalizeTask(task=TaskName("t"), hash=hash_task(whole.task, whole.body)))
        final = await client.task(TaskName("t"))
        assert final is not None
        assert final.task.is_final
        assert await client.task(TaskName("none")) is None
        assert await client.runners() == (DEFAULT_RUNNER,)
        runner = await client.runner(DEFAULT_RUNNER)
        assert runner is not None
        assert runner.listeners == (SWOP.id,)
        assert await client.runner(RunnerName("none")) is None

    run(story())


def test_a14_a_task_comes_with_what_the_members_said_of_it_by_trust_domain() -> None:
    async def story() -> None:
        office, other = Office(3), member(2, Role.OPERATOR)
        office.chain.register(other)
        task = TaskName("heart/run")
        office.do(creation(task), AppendTask(task=task, first=1, lines=("a",)))
        draft = await office.client().task(task)
        assert draft is not None
        assert draft.approvals == ()
        digest = hash_task(draft.task, draft.body)
        office.do(FinalizeTask(task=task, hash=digest))
        office.do(ApproveTask(task=task, hash=digest, granted=False), by=other)
        office.do(ApproveTask(task=task, hash=digest, granted=True))
        whole = await office.client().task(task)
        assert whole is not None
        said = [(found.domain, found.by, found.granted, found.hash) for found in whole.approvals]
        assert said == [(OP.domain, OP.id, True, digest), (other.domain, other.id, False, digest)]

    run(story())


def test_a14_lists_come_in_pages_and_the_client_puts_them_together(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        office = Office()
        names = [f"t{number:02d}" for number in range(20)]
        office.do(*map(creation, names), *(CreateTaskrunner(runner=RunnerName(name)) for name in names))
        monkeypatch.setattr(studying, "PAGE_BYTES", 1500)
        client = office.client()
        assert [task.name for task in await client.tasks()] == [ROOT_TASK, *names]
        assert await client.runners() == (DEFAULT_RUNNER, *names)
        assert [node.node for node in await client.presence()] == [OP.id, SWOP.id]
        monkeypatch.setattr(studying, "PAGE_BYTES", 100)
        assert await client.tasks() == (), "what fits into no page ends the list; none is so large"

    run(story())


def test_a14_all_bodies_fit_into_one_reply() -> None:
    async def story() -> None:
        office = Office()
        office.do(creation("t"))
        lines = ("é" * 4000,) * 7
        for first in range(1, 29, 7):
            office.do(AppendTask(task=TaskName("t"), first=first, lines=lines))
        whole = await office.client().task(TaskName("t"))
        assert whole is not None
        assert whole.body == lines * 4

    run(story())


@pytest.mark.parametrize("method", [CALL_TASKS, CALL_TASK, CALL_RUNNERS, CALL_RUNNER, CALL_PRESENCE])
@pytest.mark.parametrize("body", [b"", b"\xff", b"\xc1rubbish", encode(7)])
def test_a4_what_cannot_be_decoded_is_refused_in_one_line(method: str, body: bytes) -> None:
    async def story() -> None:
        office = Office()
        with pytest.raises(PeerError) as caught:
            await office.network.client(OP).call(HERE, method, body, timeout_s=5)
        assert "\n" not in str(caught.value)
        assert office.network.failures == []

    run(story())


# --- presence -------------------------------------------------------------------------------------------------


def presences(office: Office, by: NodeName = OP) -> dict[NodeId, Presence]:
    async def ask() -> Sequence[Presence]:
        return await office.client(by).presence()

    return {found.node: found for found in asyncio.run(ask())}


def test_a15_a_node_was_seen_when_it_last_asked_by_this_sns_clock() -> None:
    office = Office()
    office.chain.register(SL)
    assert presences(office)[SL.id].seen_ms == office.chain.time_ms, "by its registration"
    office.clock_ms += 60_000

    async def ask() -> None:
        await office.client(SL).status()

    asyncio.run(ask())
    seen_ms = office.clock_ms
    office.clock_ms += 5_000
    found = presences(office)
    assert found[SL.id].seen_ms == seen_ms
    assert found[OP.id].seen_ms == office.clock_ms, "it asks just now"


def test_a15_the_beginning_of_a_stream_counts_too() -> None:
    office = Office()
    office.clock_ms += 60_000

    async def follow() -> None:
        stream = office.client(SWOP).changes()
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]  # it is a generator

    asyncio.run(follow())
    assert presences(office)[SWOP.id].seen_ms == office.clock_ms


def test_a15_a_transaction_counts_by_block_time_but_never_from_the_future_or_back() -> None:
    office = Office()
    chain = office.chain
    office.do(ListenToRunner(runner=DEFAULT_RUNNER, listening=True), by=SWOP)
    assert presences(office)[SWOP.id].seen_ms == chain.time_ms
    chain.do(SWOP, CreateContract(contract=ContractName("a")))  # fails: it is no SL
    assert presences(office)[SWOP.id].seen_ms == chain.time_ms
    chain.do(SWOP, ListenToRunner(runner=DEFAULT_RUNNER, listening=True), step_ms=5_000_000)
    assert presences(office)[SWOP.id].seen_ms == office.clock_ms < chain.time_ms
    office.clock_ms += 10_000_000
    office.book.note_request(SWOP.id, asked=True)
    chain.do(SWOP, ListenToRunner(runner=DEFAULT_RUNNER, listening=True))
    assert presences(office)[SWOP.id].seen_ms == office.clock_ms > chain.time_ms, "an old block takes nothing back"


def test_a15_nothing_was_heard_of_who_registered_before_this_sn_began() -> None:
    office = Office()
    office.chain.register(SL, member(1, Role.OPERATOR))
    again = SnService(SN, office.chain.app, office.ledger, lambda: office.clock_ms)
    network = MemoryNetwork()
    network.serve(SN, HERE.endpoint, again)

    async def ask() -> Sequence[Presence]:
        return await SnClient(network.client(OP), HERE).presence()

    assert {found.node: found.seen_ms for found in asyncio.run(ask())} == {
        OP.id: office.clock_ms,
        SWOP.id: 0,
        SL.id: 0,
        member(1, Role.OPERATOR).id: 0,
    }


def test_a15_this_sn_and_the_sentinel_that_it_follows_are_seen_now() -> None:
    office = Office()
    other = member(1, Role.SN)
    office.chain.register(SN, other)
    found = presences(office)
    assert found[SN.id].seen_ms == office.clock_ms
    assert found[other.id].seen_ms == office.chain.time_ms
    # The same ledger, seen from the other organisation's SN: its sentinel is SN.
    follower = SnService(other, office.chain.app, office.ledger, lambda: office.clock_ms)
    network = MemoryNetwork()
    network.serve(other, HERE.endpoint, follower)
    asker = member(1, Role.OPERATOR)

    async def ask() -> dict[NodeId, int]:
        address = type(HERE)(node=other.id, endpoint=HERE.endpoint)
        return {p.node: p.seen_ms for p in await SnClient(network.client(asker), address).presence()}

    found_there = asyncio.run(ask())
    assert found_there[SN.id] == found_there[other.id] == office.clock_ms
    office.ledger.problem = "the sentinel does not answer"
    assert asyncio.run(ask())[SN.id] == 0


def test_a15_on_cometbft_the_sn_of_a_connected_member_is_seen_now() -> None:
    office = Office(3, voting=True)
    others = [member(index, Role.SN) for index in (1, 2)]
    second = NodeName(domain=others[1].domain, network="heart", role=Role.SN, name="second")
    office.chain.register(SN, *others)
    office.away = (others[1].domain,)
    found = presences(office)
    assert found[others[0].id].seen_ms == office.clock_ms
    assert found[others[1].id].seen_ms == office.chain.time_ms
    office.away = ()
    assert presences(office)[others[1].id].seen_ms == office.clock_ms
    # Of two it is not known which one's validator that is.
    office.chain.register(second)
    assert presences(office)[second.id].seen_ms == office.chain.time_ms


def test_a15_a_node_is_served_by_the_sn_that_it_asks_or_the_only_one_that_it_could() -> None:
    office = Office(3)
    others = [member(index, Role.SN) for index in (1, 2)]
    second = NodeName(domain=others[1].domain, network="heart", role=Role.SN, name="second")
    office.chain.register(SN, *others, second, SL, member(1), member(2))
    found = presences(office)
    assert found[SL.id].parent == found[OP.id].parent == SN.id
    assert found[member(1).id].parent == others[0].id
    assert found[member(2).id].parent == ""
    # SNs have the sentinel above them, which has nobody.
    assert found[others[0].id].parent == found[second.id].parent == SN.id
    assert found[SN.id].parent == ""
    # With a second SN of our own, who has asked here is served here, and of others it is not known.
    own = NodeName(domain=SN.domain, network="heart", role=Role.SN, name="own")
    office.chain.register(own)
    found = presences(office)
    assert (found[OP.id].parent, found[SL.id].parent) == (SN.id, "")


def test_a15_where_validators_vote_no_sn_is_above_another() -> None:
    office = Office(2, voting=True)
    office.chain.register(SN, member(1, Role.SN))
    assert {found.parent for node, found in presences(office).items() if "/sn/" in node} == {""}


def test_a15_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "MAX_HEARD", 3)
    book = PresenceBook(lambda: 5_000)
    for index in range(4):
        book.note_request(member(index).id, asked=True)
    book.note_request(member(1).id, asked=False)
    senders = frozenset({member(7).id})
    book.note_block(Committed(height=1, time_ms=4_000, keys=frozenset(), senders=senders))
    known = [index for index in range(9) if book.of(member(index).id).at_ms]
    assert known == [1, 3, 7]
    assert book.of(member(1).id).asked, "it asked once"
    book.note_block(Committed(height=2, time_ms=4_500, keys=frozenset(), senders=frozenset({member(1).id})))
    assert book.of(member(1).id).asked, "and signs later"
    assert book.of(member(7).id).at_ms == 4_000


# --- changes --------------------------------------------------------------------------------------------------


def test_a16_the_first_notice_says_everything_and_each_block_what_it_changed() -> None:
    async def story() -> None:
        office = Office()
        reading = office.changes()
        first = await reading.next()
        assert first == Changes(height=1, everything=True)
        office.do(creation("t"))
        assert await reading.next() == Changes(height=2, tasks=(TaskName("t"),))
        office.do(AppendTask(task=TaskName("t"), first=1, lines=("a",)))
        assert await reading.next() == Changes(height=3, tasks=(TaskName("t"),))
        office.do(ListenToRunner(runner=DEFAULT_RUNNER, listening=True), by=SWOP)
        assert await reading.next() == Changes(height=4, runners=(DEFAULT_RUNNER,))
        office.chain.register(SL)
        assert await reading.next() == Changes(height=5, members=True)
        office.do(CreateContract(contract=ContractName("a/b")), by=SL)
        assert await reading.next() == Changes(height=6, contracts=(ContractName("a/b"),))
        change = ChangeRoles(domain=member(1).domain, roles=(Role.SN, Role.SL))
        office.do(Propose(change=change))
        assert await reading.next() == Changes(height=7, proposals=True)
        evidence = Misbehaviour(kind="duplicate_vote", address=validator_of(1).address, height=1, time_ms=1)
        office.chain.apply(misbehaviour=(evidence,))
        assert await reading.next() == Changes(height=8, proposals=True)

    run(story())


def test_a16_an_approval_is_told_by_the_name_of_its_task() -> None:
    async def story() -> None:
        office = Office()
        task = TaskName("heart/run/2")
        office.do(creation(task), AppendTask(task=task, first=1, lines=("a",)))
        whole = await office.client().task(task)
        assert whole is not None
        digest = hash_task(whole.task, whole.body)
        office.do(FinalizeTask(task=task, hash=digest))
        reading = office.changes()
        await reading.next()
        office.do(ApproveTask(task=task, hash=digest, granted=True))
        assert await reading.next() == Changes(height=office.chain.height, tasks=(task,))

    run(story())


def test_a16_a_slow_reader_gets_several_blocks_in_one_notice_and_misses_none() -> None:
    async def story() -> None:
        office = Office()
        slow, quick = office.changes(), office.changes()
        await slow.next()
        await quick.next()
        office.do(creation("t2"))
        assert (await quick.next()).tasks == ("t2",)
        office.do(creation("t1"), CreateTaskrunner(runner=RunnerName("r")))
        office.chain.register(SL)
        office.do(AppendTask(task=TaskName("t2"), first=1, lines=("a",)))
        expected = Changes(height=6, tasks=(TaskName("t1"), TaskName("t2")), runners=(RunnerName("r"),), members=True)
        assert await slow.next() == expected
        assert await quick.next() == expected, "what it was told once it is told again when it changes again"
        office.do(creation("t3"))
        assert (await slow.next()).tasks == ("t3",)

    run(story())


def test_a16_what_was_told_is_not_told_again_at_once() -> None:
    office = Office()

    async def story() -> tuple[float, Changes]:
        reading = office.changes()
        await reading.next()
        office.do(creation("t"))
        await reading.next()
        quiet = await reading.next()
        return asyncio.get_running_loop().time(), quiet

    assert run_virtual(story()) == (KEEPALIVE_S, Changes(height=2))


def test_a16_where_too_much_changed_everything_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        monkeypatch.setattr(feed, "MAX_NAMED", 3)
        office = Office()
        reading = office.changes()
        await reading.next()
        office.do(*(creation(f"t{number}") for number in range(3)))
        assert len((await reading.next()).tasks) == 3
        office.do(*(creation(f"u{number}") for number in range(4)), CreateTaskrunner(runner=RunnerName("r")))
        assert await reading.next() == Changes(height=office.chain.height, everything=True)
        office.do(creation("v"))
        assert await reading.next() == Changes(height=office.chain.height, tasks=(TaskName("v"),))

    run(story())


def test_a16_a_restored_state_changes_everything() -> None:
    async def story() -> None:
        office = Office()
        reading = office.changes()
        await reading.next()
        office.do(creation("t"))
        office.service.restored()
        assert await reading.next() == Changes(height=2, everything=True)

    run(story())


def test_a16_who_has_hung_up_is_forgotten() -> None:
    async def story() -> None:
        office = Office()
        reading, other = office.changes(), office.changes()
        await reading.next()
        await other.next()
        readers = office.service._studying._feed._readers
        assert len(readers) == 2
        await reading.frames.aclose()  # type: ignore[attr-defined]  # it is a generator
        assert len(readers) == 1

    run(story())


def test_a16_a_sign_of_life_comes_also_while_blocks_change_nothing_that_is_told() -> None:
    """And it says what keeps the SN from following the ledger."""
    office = Office()

    async def story() -> list[tuple[float, Changes]]:
        loop = asyncio.get_running_loop()
        reading = office.changes()
        seen: list[tuple[float, Changes]] = []
        for second in range(1, 20):
            # Refused: it leaves a nonce and nothing else.
            loop.call_later(second, office.chain.do, SWOP, creation("t"))
        loop.call_later(12.0, setattr, office.ledger, "problem", "the sentinel does not answer")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(4 * KEEPALIVE_S + 1):
                while True:
                    notice = await reading.next()
                    seen.append((loop.time(), notice))
        return seen

    seen = run_virtual(story())
    assert [round(at) for at, _ in seen] == [0, 5, 10, 15, 20]
    assert [notice.problem for _, notice in seen] == ["", "", "", *["the sentinel does not answer"] * 2]
    assert [notice.height for _, notice in seen][:2] == [1, 6]
    assert not any(notice.tasks or notice.everything for _, notice in seen[1:])


def test_a16_the_client_learns_height_and_problem_from_a_notice() -> None:
    async def story() -> None:
        office = Office()
        office.ledger.problem = "the sentinel does not answer"
        client = office.client()
        stream = client.changes()
        assert (await anext(stream)).everything
        assert (client.height, client.problem) == (1, "the sentinel does not answer")
        later = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        office.do(creation("t"))
        assert (await later).tasks == ("t",)
        await stream.aclose()  # type: ignore[attr-defined]  # it is a generator

    run(story())
