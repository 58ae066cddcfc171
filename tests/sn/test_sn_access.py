"""Who may ask an SN what, and what its clients make of the answers: docs/spec/access.md, A-1 to A-6."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from chain_world import Chain, key_of, member, registration
from contracts_world import BIG, HOME, settings
from msgspec.structs import replace
from sim_loop import run_virtual

from swarmlearning.contracts import governance, membership
from swarmlearning.contracts.messages import EXPIRY_WINDOW, CreateContract, Enrol, Finish, Propose, Withdraw
from swarmlearning.contracts.proposals import ChangeRoles, Docket, Proposal, ProposalState, ReplaceIssuers
from swarmlearning.contracts.records import Dropped, RoundSummary
from swarmlearning.contracts.task_records import ROOT_TASK
from swarmlearning.encoding import decode, encode
from swarmlearning.errors import PeerError, Refused
from swarmlearning.ledger.boundary import Misbehaviour, TxResult
from swarmlearning.sn.api import (
    CALL_CONTRACT,
    CALL_CONTRACTS,
    CALL_DIRECTORY,
    CALL_GOVERNANCE,
    CALL_HISTORY,
    CALL_PRESENCE,
    CALL_RUNNER,
    CALL_RUNNERS,
    CALL_STATUS,
    CALL_SUBMIT,
    CALL_TASK,
    CALL_TASKS,
    STREAM_WATCH,
    HistoryRequest,
    Notice,
    PresenceRequest,
    RunnersRequest,
    TasksRequest,
    WatchRequest,
)
from swarmlearning.sn.client import EXPIRY_BLOCKS, SnClient, Submitter
from swarmlearning.sn.service import SnService
from swarmlearning.sn.state import Overlay
from swarmlearning.transport.api import Address, Caller
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import DEFAULT_CONTRACT, DEFAULT_RUNNER, Code, ContractName, Endpoint, NodeName, Role

SN = member(0, Role.SN)
HERE = Address(node=SN.id, endpoint=Endpoint(host="sn", port=30304))
LOOKS = [
    *(CALL_STATUS, CALL_CONTRACT, CALL_CONTRACTS, CALL_HISTORY, CALL_DIRECTORY, CALL_GOVERNANCE),
    *(CALL_TASKS, CALL_TASK, CALL_RUNNERS, CALL_RUNNER, CALL_PRESENCE),
]
BODIES = {
    CALL_CONTRACT: encode(DEFAULT_CONTRACT),
    CALL_TASKS: encode(TasksRequest()),
    CALL_TASK: encode(ROOT_TASK),
    CALL_RUNNERS: encode(RunnersRequest()),
    CALL_RUNNER: encode(DEFAULT_RUNNER),
    CALL_PRESENCE: encode(PresenceRequest()),
    CALL_HISTORY: encode(HistoryRequest(contract=DEFAULT_CONTRACT, most=10)),
}
A = ContractName("a")


class OneNodeLedger:
    """A ledger whose every submitted transaction is a block."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self._grown = asyncio.Condition()
        self.submitted: list[bytes] = []
        self.problem = ""

    @property
    def height(self) -> int:
        return self.chain.height

    async def submit(self, tx: bytes, *, timeout_s: float) -> tuple[int, TxResult]:
        self.submitted.append(tx)
        judged = self.chain.app.check(tx)
        if judged.code is not Code.OK:
            return 0, judged
        async with self._grown:
            result = self.chain.apply(tx)[0]
            self._grown.notify_all()
        return self.height, result

    async def wait_height(self, above: int) -> int:
        async with self._grown:
            await self._grown.wait_for(lambda: self.height > above)
        return self.height


class Office:
    """An SN of organisation 0, its ledger, and clients of anybody."""

    def __init__(self) -> None:
        self.chain = Chain(2)
        self.ledger = OneNodeLedger(self.chain)
        self.network = MemoryNetwork()
        service = SnService(SN, self.chain.app, self.ledger, lambda: self.chain.time_ms, ticket=self.ticket)
        self.network.serve(SN, HERE.endpoint, service)

    async def ticket(self) -> bytes:
        return b"a ticket"

    def client(self, name: NodeName) -> SnClient:
        return SnClient(self.network.client(name), HERE)

    def submitter(self, name: NodeName) -> Submitter:
        return Submitter(self.client(name), "heart", key_of(name))

    async def ask(self, name: NodeName, method: str, body: bytes = b"") -> bytes:
        return await self.network.client(name).call(HERE, method, BODIES.get(method, body), timeout_s=5)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


@pytest.mark.parametrize("role", list(Role))
def test_a1_another_organisations_nodes_are_refused_whatever_their_role(role: Role) -> None:
    async def story() -> None:
        office = Office()
        for method in [*LOOKS, CALL_SUBMIT]:
            with pytest.raises(Refused, match="own organisation's SN") as caught:
                await office.ask(member(1, role), method)
            assert caught.value.code == "foreign-organisation"
        with pytest.raises(Refused):
            await anext(office.client(member(1, role)).watch(A))
        with pytest.raises(Refused):
            await anext(office.client(member(1, role)).changes())
        assert office.ledger.submitted == []

    run(story())


@pytest.mark.parametrize("role", list(Role))
def test_a2_every_role_of_the_own_organisation_may_look(role: Role) -> None:
    async def story() -> None:
        office = Office()
        for method in LOOKS:
            assert await office.ask(member(0, role), method)
        assert (await anext(office.client(member(0, role)).changes())).everything

    run(story())


@pytest.mark.parametrize("role", list(Role))
def test_a12_join_tickets_are_for_sns_and_operators_of_the_own_organisation(role: Role) -> None:
    async def story() -> None:
        office = Office()
        if role in (Role.SN, Role.OPERATOR):
            assert await office.client(member(0, role)).ticket() == b"a ticket"
        else:
            with pytest.raises(Refused) as caught:
                await office.client(member(0, role)).ticket()
            assert caught.value.code == "role"
        with pytest.raises(Refused) as caught:
            await office.client(member(1, role)).ticket()
        assert caught.value.code == "foreign-organisation"

    run(story())


@pytest.mark.parametrize("role", list(Role))
def test_a2_everybody_but_auditors_submits(role: Role) -> None:
    async def story() -> None:
        office = Office()
        tx = office.chain.sign(member(0, role), registration(member(0, role)))
        if role is Role.AUDITOR:
            with pytest.raises(Refused) as caught:
                await office.ask(member(0, role), CALL_SUBMIT, tx)
            assert caught.value.code == "role"
            assert office.ledger.submitted == []
        else:
            assert (await office.client(member(0, role)).submit(tx)).code is Code.OK

    run(story())


def test_a7_a_status_tells_the_clock_of_now_and_why_the_sn_does_not_follow() -> None:
    async def story() -> None:
        office = Office()
        office.chain.time_ms += 7_000  # no block since
        status = await office.client(member(0, Role.OPERATOR)).status()
        assert status.clock_ms == office.chain.time_ms
        assert status.clock_ms > status.time_ms
        assert status.problem == ""
        office.ledger.problem = "the sentinel does not answer"
        assert (await office.client(member(0, Role.OPERATOR)).status()).problem == "the sentinel does not answer"

    run(story())


def test_a3_a_watch_gives_the_newest_record_and_every_later_one() -> None:
    async def story() -> None:
        office = Office()
        office.chain.register(member(0))
        office.chain.do(member(0), CreateContract(contract=A))
        watch = office.client(member(0, Role.AUDITOR)).watch(A)
        assert (await anext(watch)).version == 1
        later = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        # Another contract's change is no news here.
        await office.submitter(member(0)).require(CreateContract(contract=ContractName("b")))
        message = Enrol(contract=A, run=1, settings=settings(), manifest=BIG, min_peers=2, weight=1, endpoint=HOME)
        await office.submitter(member(0)).require(message)
        record = await later
        assert (record.name, record.version, len(record.peers)) == (A, 2, 1)
        await watch.aclose()  # type: ignore[attr-defined]  # it is a generator

    run(story())


def test_a3_a_watch_tells_nobody_what_it_has_seen_before() -> None:
    async def story() -> None:
        office = Office()
        client = office.network.client(member(0))
        frames = client.stream(HERE, STREAM_WATCH, encode(WatchRequest(contract=A, version=1)), idle_s=30)
        office.chain.register(member(0))
        office.chain.do(member(0), CreateContract(contract=A))
        first = asyncio.ensure_future(anext(frames))
        done, _ = await asyncio.wait([first], timeout=0.2)
        assert not done
        first.cancel()

    run(story())


@pytest.mark.parametrize("body", [b"", b"\xff", b"\xc1rubbish", encode(7)])
def test_a4_what_cannot_be_decoded_is_refused_in_one_line(body: bytes) -> None:
    async def story() -> None:
        office = Office()
        client = office.network.client(member(0))
        with pytest.raises(PeerError) as caught:
            await client.call(HERE, CALL_CONTRACT, body, timeout_s=5)
        assert "\n" not in str(caught.value)
        result = await office.client(member(0)).submit(body)
        assert (result.height, result.code) == (0, Code.MALFORMED)

    run(story())


def test_a5_what_a_node_may_do_is_decided_by_who_signed_not_by_who_brought_it() -> None:
    async def story() -> None:
        office = Office()
        office.chain.register(member(1))
        tx = office.chain.sign(member(1), CreateContract(contract=A))
        assert (await office.client(member(0)).submit(tx)).code is Code.OK
        training = await office.client(member(0)).training(A)
        assert training is not None
        assert training.creator == member(1).domain

    run(story())


def test_looking_gives_what_the_ledger_says() -> None:
    async def story() -> None:
        office = Office()
        office.chain.register(member(0), SN)
        client = office.client(member(0))
        status = await client.status()
        assert (status.node, status.network, status.height, status.transactions) == (SN.id, "heart", 1, 2)
        assert status.app_hash == office.chain.app.info().app_hash
        assert await client.contracts() == (DEFAULT_CONTRACT,)
        assert await client.training(ContractName("none")) is None
        directory = await client.directory()
        assert {node.node for node in directory.nodes} == {member(0).id, SN.id}
        assert [o.domain for o in directory.organisations] == [member(0).domain, member(1).domain]

    run(story())


def test_a_submitter_that_slept_through_many_blocks_learns_the_height_and_says_it_again() -> None:
    async def story() -> None:
        office = Office()
        office.chain.register(member(0))
        submitter = office.submitter(member(0))
        await submitter.require(CreateContract(contract=A))
        for _ in range(EXPIRY_BLOCKS + 2):
            office.chain.apply()
        office.ledger.submitted.clear()
        assert await submitter.require(CreateContract(contract=ContractName("b"))) == office.chain.height
        assert len(office.ledger.submitted) == 2
        assert EXPIRY_BLOCKS < EXPIRY_WINDOW

    run(story())


def test_a_refused_message_is_said_once_and_its_code_is_for_programs() -> None:
    async def story() -> None:
        office = Office()
        office.chain.register(member(0))
        submitter = office.submitter(member(0))
        with pytest.raises(Refused, match="there is no contract a") as caught:
            await submitter.require(Finish(contract=A, run=1))
        assert caught.value.code == "not_found"
        assert len(office.ledger.submitted) == 1
        with pytest.raises(Refused) as caught:
            await office.submitter(member(0, Role.OPERATOR)).require(CreateContract(contract=A))
        assert caught.value.code == "unknown_signer"

    run(story())


def summary(number: int, text: str = "") -> RoundSummary:
    return RoundSummary(
        run=1, round=number, sha256=bytes(32), participants=(), contributors=(),
        dropped=(Dropped(node=member(0).id, reason=text),), attempts=1, height=number, time_ms=0, collect_ms=0,
        merge_ms=0, interval=1, mean_loss_micro=None, mean_metric_micro=None, figures=(),
    )  # fmt: skip


def with_history(office: Office, texts: list[str]) -> None:
    state = Overlay(office.chain.app.store)
    training = membership.load_training(state, DEFAULT_CONTRACT)
    assert training is not None
    for number, text in enumerate(texts):
        state.put(membership.history_key(DEFAULT_CONTRACT, number), encode(summary(number, text)))
    state.put(membership.training_key(DEFAULT_CONTRACT), encode(replace(training, finals=len(texts))))
    office.chain.app.store.commit(office.chain.app.store.height + 1, state.changes)


def test_a6_a_history_is_the_newest_rounds_the_oldest_first() -> None:
    office = Office()
    with_history(office, [""] * 1_005)

    async def main() -> None:
        client = office.client(member(0, Role.OPERATOR))
        assert [s.round for s in await client.history(DEFAULT_CONTRACT, 3)] == [1_002, 1_003, 1_004]
        assert [s.round for s in await client.history(DEFAULT_CONTRACT)] == list(range(5, 1_005))
        for most in (0, 1_001):
            with pytest.raises(Refused, match="expected 1 to 1000"):
                await client.history(DEFAULT_CONTRACT, most)
        with pytest.raises(Refused, match="there is no contract other"):
            await client.history(ContractName("other"))

    asyncio.run(main())


def test_a6_a_long_history_is_cut_to_what_a_reply_holds() -> None:
    office = Office()
    with_history(office, ["x" * 10_000] * 200)

    async def main() -> None:
        rounds = [s.round for s in await office.client(member(0, Role.OPERATOR)).history(DEFAULT_CONTRACT)]
        assert rounds == list(range(rounds[0], 200))
        assert 80 < len(rounds) < 95

    asyncio.run(main())


def test_a8_members_proposals_and_accusations_are_told_and_a_status_counts_them() -> None:
    office = Office()
    chain, operator = office.chain, member(0, Role.OPERATOR)
    chain.register(operator, member(1, Role.OPERATOR))
    change = ChangeRoles(domain=member(1).domain, roles=(Role.SN, Role.SL))
    assert chain.do(operator, Propose(change=change)).code is Code.OK
    assert chain.do(operator, Withdraw(proposal=1)).code is Code.OK
    assert chain.do(operator, Propose(change=change)).code is Code.OK
    for height in range(1, 13):
        evidence = Misbehaviour(kind="duplicate_vote", address=bytes(20), height=height, time_ms=5)
        chain.apply(misbehaviour=(evidence,))

    async def main() -> None:
        client = office.client(member(0, Role.AUDITOR))
        found = await client.governance()
        assert found.members == (member(0).domain, member(1).domain)
        assert [(p.number, p.state.value) for p in found.proposals] == [(1, "withdrawn"), (2, "open")]
        assert [offence.height for offence in found.offences] == list(range(1, 13))
        assert (found.left_out, found.height, found.clock_ms) == (0, chain.height, chain.time_ms)
        status = await client.status()
        assert status.open_proposals == 1
        assert [offence.height for offence in status.offences] == list(range(5, 13))

    asyncio.run(main())


def test_a8_where_not_all_proposals_fit_into_a_reply_the_open_ones_come_first() -> None:
    office = Office()
    chain, operator = office.chain, member(0, Role.OPERATOR)
    chain.register(operator)
    state = Overlay(chain.app.store)
    large = ReplaceIssuers(domain=member(1).domain, issuers=(bytes(32_000),))
    for number in range(1, 41):
        record = Proposal(
            number=number, change=large, proposer=member(0).domain, reason="", yes=(), opened_height=1, opened_ms=1,
            expires_ms=2, state=ProposalState.OPEN if number <= 3 else ProposalState.REJECTED,
        )  # fmt: skip
        state.put(governance.proposal_key(number), encode(record))
    docket = Docket(next=41, open=(1, 2, 3), closed=tuple(range(4, 41)))
    state.put("meta/proposals", encode(docket))
    chain.app.store.commit(chain.height + 1, state.changes)

    async def main() -> None:
        found = await office.client(operator).governance()
        shown = [proposal.number for proposal in found.proposals]
        assert shown[:3] == [1, 2, 3]
        assert shown[3:] == list(range(shown[3], 41))
        assert found.left_out == 40 - len(shown) > 0

    asyncio.run(main())


class BusyLedger:
    """A ledger whose height grows all the time, by what other trainings do, and that may have a problem."""

    def __init__(self) -> None:
        self.problem = ""

    @property
    def height(self) -> int:
        return int(asyncio.get_running_loop().time())

    async def submit(self, tx: bytes, *, timeout_s: float) -> tuple[int, TxResult]:
        raise AssertionError("nobody submits here")

    async def wait_height(self, above: int) -> int:
        await asyncio.sleep(above + 1 - asyncio.get_running_loop().time())
        return self.height


def notices(ledger: BusyLedger, seconds: float, change: Callable[[], None]) -> list[tuple[float, Notice]]:
    """What a watch of the default contract is sent, and when, on virtual time; `change` happens after 12 s."""
    office = Office()

    async def main() -> list[tuple[float, Notice]]:
        service = SnService(SN, office.chain.app, ledger, lambda: 0)
        loop = asyncio.get_running_loop()
        loop.call_later(12.0, change)
        seen: list[tuple[float, Notice]] = []
        body = encode(WatchRequest(contract=DEFAULT_CONTRACT, version=0))
        asker = member(0, Role.SL)
        frames = service.streams[STREAM_WATCH](Caller(node=asker.id, name=asker), body)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    frame = await anext(frames)
                    seen.append((loop.time(), decode(bytes(frame), Notice)))
        return seen

    return run_virtual(main())


def test_a3_a_watch_shows_that_it_lives_also_while_other_trainings_make_blocks() -> None:
    """Once each block of another training put the sign of life off, and the reader took its SN for dead."""
    times = [at for at, _ in notices(BusyLedger(), 31.0, lambda: None)]
    assert len(times) == 6
    assert all(4.0 <= later - at <= 6.0 for at, later in itertools.pairwise(times))


def test_a3_a_watch_says_at_once_what_keeps_the_sn_from_following() -> None:
    ledger = BusyLedger()
    seen = notices(ledger, 20.0, lambda: setattr(ledger, "problem", "the sentinel does not answer"))
    first = next(at for at, notice in seen if notice.problem)
    assert 12.0 <= first <= 13.0
    assert seen[-1][1].problem == "the sentinel does not answer"
