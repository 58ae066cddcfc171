"""The SN's API for its own organisation: submit, look, watch. Who may ask what: docs/spec/access.md."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from swarmlearning import __version__
from swarmlearning.clock import WallClock
from swarmlearning.contracts import membership
from swarmlearning.contracts.governance import list_proposals, load_docket
from swarmlearning.contracts.proposals import Proposal
from swarmlearning.contracts.records import MAX_HISTORY, Node
from swarmlearning.contracts.seats import list_offences
from swarmlearning.encoding import decode, encode
from swarmlearning.errors import Refused
from swarmlearning.ledger.boundary import LedgerArchive, LedgerView
from swarmlearning.sn.api import (
    CALL_CONTRACT,
    CALL_CONTRACTS,
    CALL_DIRECTORY,
    CALL_GOVERNANCE,
    CALL_HISTORY,
    CALL_LIGHT,
    CALL_STATUS,
    CALL_SUBMIT,
    CALL_TICKET,
    KEEPALIVE_S,
    STREAM_WATCH,
    Directory,
    Governance,
    HistoryRequest,
    Notice,
    Status,
    Submitted,
    WatchRequest,
)
from swarmlearning.sn.application import SwarmApplication
from swarmlearning.sn.archiving import Archiving
from swarmlearning.sn.light import LightRequest, check_question
from swarmlearning.sn.presence import PresenceBook
from swarmlearning.sn.state import Overlay
from swarmlearning.sn.studying import Studying
from swarmlearning.transport.api import Call, Caller, Frame, Stream
from swarmlearning.types import ContractName, NodeId, NodeName, Role, TrustDomain

SUBMIT_TIMEOUT_S = 30.0

_CLOCK_STEP_S = 0.001
"""A timer may fire so much early, by rounding."""

HISTORY_BYTES = 900 << 10
"""Of one reply with a history or with proposals: older ones are left out where they do not fit."""

STATUS_OFFENCES = 8
"""How many offences a status tells."""

MAX_LIGHT = 4
"""Most questions of one organisation's light clients that are worked on at a time; its CA may name many SNs."""

MAX_LIGHT_ALL = 16
"""Most of all: our own transactions go to our CometBFT over the same connections, of which there are 64."""


class SnService:
    """Answers SLs, operators and auditors of the SN's own organisation."""

    def __init__(
        self,
        node: NodeName,
        app: SwarmApplication,
        ledger: LedgerView,
        clock: WallClock,
        *,
        sentinel: Callable[[], NodeId] | None = None,
        archive: LedgerArchive | None = None,
        ticket: Callable[[], Awaitable[bytes]] | None = None,
        light: Callable[[str, dict[str, str]], Awaitable[bytes]] | None = None,
        away: Callable[[], tuple[TrustDomain, ...]] = tuple,
        presence: PresenceBook | None = None,
    ) -> None:
        """Serve `app` and `ledger` as `node`.

        Args:
            node: this SN.
            app: committed state.
            ledger: orders what is submitted.
            clock: this SN's.
            sentinel: tells who orders now; None: whom the genesis names.
            archive: the past, for exports and proofs; None: they are not offered.
            ticket: makes a join ticket; None: none is given.
            light: what our CometBFT tells light clients; None: there is none.
            away: members whose validator is not connected here.
            presence: of whom this SN hears elsewhere than here; None: it hears of nobody elsewhere.
        """
        self._node = node
        self._app = app
        self._ledger = ledger
        self._clock = clock
        self._sentinel = sentinel
        self._archiving = None if archive is None else Archiving(app, archive, self._admit)
        self._make_ticket = ticket
        self._ask_light = light
        self._away = away
        self._light_busy: Counter[TrustDomain] = Counter()
        presence = presence or PresenceBook(clock)
        app.follow(presence.note_block)
        self._studying = Studying(node, app, ledger, clock, presence, self._admit, sentinel=self._who_orders, away=away)
        self._calls = presence.noting({**self._own_calls, **self._studying.calls}, asked=True)
        past = {} if self._archiving is None else self._archiving.streams
        self._streams = presence.noting_streams({STREAM_WATCH: self._watch, **past, **self._studying.streams})

    @property
    def calls(self) -> Mapping[str, Call]:
        """Request-reply methods."""
        return self._calls

    @property
    def streams(self) -> Mapping[str, Stream]:
        """Streaming methods."""
        return self._streams

    def restored(self) -> None:
        """The state was replaced as a whole, by a snapshot."""
        self._studying.restored()

    @property
    def _own_calls(self) -> Mapping[str, Call]:
        return {
            CALL_STATUS: self._status,
            CALL_SUBMIT: self._submit,
            CALL_CONTRACT: self._contract,
            CALL_CONTRACTS: self._contracts,
            CALL_HISTORY: self._history,
            CALL_DIRECTORY: self._directory,
            CALL_TICKET: self._ticket,
            CALL_LIGHT: self._light,
            CALL_GOVERNANCE: self._governance,
        }

    def _who_orders(self) -> NodeId:
        return self._app.genesis.sentinel if self._sentinel is None else self._sentinel()

    def _admit(self, caller: Caller, *roles: Role) -> None:
        """A-1: own organisation only. A-2: by role."""
        if caller.name.domain != self._node.domain:
            raise Refused(
                f"{caller.name.short} asked the SN of {self._node.domain}; nodes ask their own organisation's SN",
                code="foreign-organisation",
            )
        if caller.name.role not in roles:
            wanted = ", ".join(role.value for role in roles)
            raise Refused(f"{caller.name.short} is {caller.name.role.value}; this needs one of: {wanted}", code="role")

    async def _status(self, caller: Caller, _body: bytes) -> bytes:
        self._admit(caller, *Role)
        genesis = self._app.genesis
        state = Overlay(self._app.store)
        now = membership.load_time(state)
        return encode(
            Status(
                node=self._node.id,
                network=genesis.network,
                ledger=genesis.ledger,
                validators=len(self._app.validators()),
                sentinel=self._who_orders(),
                height=self._ledger.height,
                transactions=now.transactions if now else 0,
                app_hash=self._app.store.root(),
                time_ms=now.time_ms if now else 0,
                clock_ms=self._clock(),
                problem=self._ledger.problem,
                away=self._away(),
                version=__version__,
                open_proposals=len(load_docket(state).open),
                offences=tuple(list_offences(state, STATUS_OFFENCES)),
            )
        )

    async def _submit(self, caller: Caller, body: bytes) -> bytes:
        self._admit(caller, Role.SL, Role.SN, Role.SWOP, Role.OPERATOR)
        height, result = await self._ledger.submit(body, timeout_s=SUBMIT_TIMEOUT_S)
        return encode(Submitted(height=height, code=result.code, log=result.log))

    async def _light(self, caller: Caller, body: bytes) -> bytes:
        """A-13: headers and signatures for the SN of any member, which verifies them itself."""
        if caller.name.role is not Role.SN:
            raise Refused(f"{caller.name.short} is {caller.name.role.value}; this needs the role sn", code="role")
        if self._ask_light is None:
            raise Refused("there is no CometBFT here", code="not-found")
        request = decode(body, LightRequest)
        check_question(request)
        domain = caller.name.domain
        if self._light_busy[domain] >= MAX_LIGHT or self._light_busy.total() >= MAX_LIGHT_ALL:
            raise Refused(
                f"{self._light_busy[domain]} questions of {domain} are open already, {self._light_busy.total()} in "
                f"all; at most {MAX_LIGHT} of one organisation and {MAX_LIGHT_ALL} of all are worked on",
                code="busy",
            )
        self._light_busy[domain] += 1
        try:
            return await self._ask_light(request.method, request.params)
        finally:
            self._light_busy[domain] -= 1
            if not self._light_busy[domain]:
                del self._light_busy[domain]

    async def _contract(self, caller: Caller, body: bytes) -> bytes:
        self._admit(caller, *Role)
        return self._app.query("training", decode(body, str).encode())

    async def _contracts(self, caller: Caller, _body: bytes) -> bytes:
        self._admit(caller, *Role)
        prefix = membership.training_key(ContractName(""))
        return encode(tuple(key.removeprefix(prefix) for key in self._app.store.keys(prefix)))

    async def _history(self, caller: Caller, body: bytes) -> bytes:
        """A-6: the newest summaries of a contract's final rounds, the oldest first."""
        self._admit(caller, *Role)
        request = decode(body, HistoryRequest)
        if not 1 <= request.most <= MAX_HISTORY:
            raise Refused(f"history of {request.most} rounds: expected 1 to {MAX_HISTORY}", code="malformed")
        state = Overlay(self._app.store)
        training = membership.load_training(state, request.contract)
        if training is None:
            raise Refused(f"there is no contract {request.contract}", code="not-found")
        kept: list[bytes] = []
        room = HISTORY_BYTES
        for summary in reversed(membership.load_history(state, training, request.most)):
            data = encode(summary)
            room -= len(data) + 8
            if room < 0:
                break
            kept.append(data)
        return encode(tuple(reversed(kept)))

    async def _directory(self, caller: Caller, _body: bytes) -> bytes:
        self._admit(caller, *Role)
        state = Overlay(self._app.store)
        keys = list(state.keys(membership.node_key(NodeId(""))))
        found = (membership.load_node(state, NodeId(key.removeprefix("node/"))) for key in keys)
        nodes: tuple[Node, ...] = tuple(node for node in found if node is not None)
        organisations = tuple(membership.list_organisations(state))
        height = self._ledger.height
        return encode(
            Directory(network=self._app.genesis.network, height=height, organisations=organisations, nodes=nodes)
        )

    async def _ticket(self, caller: Caller, _body: bytes) -> bytes:
        """A-12: what an organisation needs that was admitted after the founding, signed by this SN."""
        self._admit(caller, Role.SN, Role.OPERATOR)
        if self._make_ticket is None:
            raise Refused("this SN gives no join tickets", code="not-found")
        return await self._make_ticket()

    async def _governance(self, caller: Caller, _body: bytes) -> bytes:
        """A-8: proposals, the open ones first where not all fit into a reply, and offences."""
        self._admit(caller, *Role)
        state = Overlay(self._app.store)
        kept: list[Proposal] = []
        found = list_proposals(state)
        room = HISTORY_BYTES
        for proposal in found:
            room -= len(encode(proposal))
            if room < 0:
                break
            kept.append(proposal)
        return encode(
            Governance(
                height=self._ledger.height,
                clock_ms=self._clock(),
                members=tuple(member.domain for member in membership.list_organisations(state)),
                proposals=tuple(sorted(kept, key=lambda proposal: proposal.number)),
                left_out=len(found) - len(kept),
                offences=tuple(list_offences(state)),
            )
        )

    async def _watch(self, caller: Caller, body: bytes) -> AsyncIterator[Frame]:
        """A-3: every change of one training, the newest first; a slow reader misses versions, never the newest."""
        self._admit(caller, *Role)
        request = decode(body, WatchRequest)
        seen, shown = b"", request.version
        loop = asyncio.get_running_loop()
        due_s, problem = loop.time() + KEEPALIVE_S, ""
        while True:
            height = self._ledger.height
            data = self._app.query("training", request.contract.encode())
            if data != seen:
                seen = data
                training = membership.load_training(Overlay(self._app.store), request.contract)
                if training is not None and training.version > shown:
                    shown, due_s, problem = training.version, loop.time() + KEEPALIVE_S, self._ledger.problem
                    yield encode(Notice(height=height, training=data, problem=problem))
            # Blocks that change another training only are no sign of life of this watch.
            if loop.time() >= due_s - _CLOCK_STEP_S or self._ledger.problem != problem:
                due_s, problem = loop.time() + KEEPALIVE_S, self._ledger.problem
                yield encode(Notice(height=height, training=b"", problem=problem))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ledger.wait_height(height), due_s - loop.time())
