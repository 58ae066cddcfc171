"""The contracts as a ledger application: joins `ledger` (order) and `contracts` (meaning). Spec: transactions.md."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Final, assert_never

import msgspec

from swarmlearning.contracts import membership, taskrunners, tasks
from swarmlearning.contracts.context import Rejected
from swarmlearning.contracts.messages import AnyMessage
from swarmlearning.contracts.ordering import BlockRules
from swarmlearning.contracts.records import BlockTime, Genesis, Phase, Training
from swarmlearning.contracts.seats import record_offence, take_seat
from swarmlearning.contracts.task_records import Task, Taskrunner
from swarmlearning.contracts.transition import (
    VERSION,
    Changed,
    admit,
    forget_nonces,
    hopeful_times,
    identify,
    nonce_key,
    open_tx,
    transition,
)
from swarmlearning.contracts.waves import expects_more
from swarmlearning.encoding import decode, encode
from swarmlearning.errors import Broken, DecodeError, InvalidName, Refused, VerificationError
from swarmlearning.identity.verify import verify_issuer
from swarmlearning.ledger.boundary import Applied, Event, Header, Info, Misbehaviour, TxResult
from swarmlearning.sn.fairness import WaitingBook
from swarmlearning.sn.state import Overlay, StateStore
from swarmlearning.types import DEFAULT_CONTRACT, Code, NodeId, NodeName, Role, TrustDomain, Validator, check_label

MAX_GAP_MS: Final = 60_000
"""TX-16: a gap between two blocks counts as at most this for deadlines, milliseconds."""

MAX_GENESIS_BYTES: Final = 8 << 20


class _Pending(msgspec.Struct, frozen=True, kw_only=True):
    """A block that was applied and not committed."""

    height: int
    time_ms: int
    changes: dict[str, bytes | None]
    events: tuple[Event, ...]
    txs: tuple[bytes, ...]
    senders: frozenset[NodeId]


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """A block that was committed, for those in this process who follow the state."""

    height: int
    time_ms: int
    """Block time, milliseconds since the epoch."""
    keys: frozenset[str]
    """Of the state, that it wrote or removed."""
    senders: frozenset[NodeId]
    """Who signed its transactions, also those that failed."""


class SwarmApplication:
    """Executes blocks of swarm transactions. Implements `ledger.boundary.Application`."""

    def __init__(self, store: StateStore, on_commit: Callable[[tuple[Event, ...]], None] = lambda _: None) -> None:
        """Open the application on a store.

        Args:
            store: committed state.
            on_commit: called after each commit with the block's events.
        """
        self.store = store
        self._on_commit = on_commit
        self._followers: list[Callable[[Committed], None]] = []
        self._pending: _Pending | None = None
        self._waiting = WaitingBook()
        self._genesis = membership.load_genesis(Overlay(store))

    @property
    def genesis(self) -> Genesis:
        """The network's genesis.

        Raises:
            Broken: called before `init`.
        """
        if self._genesis is None:
            raise Broken("the application was used before its genesis was given")
        return self._genesis

    def follow(self, tell: Callable[[Committed], None]) -> None:
        """Call `tell` after each commit, for as long as this application lives."""
        self._followers.append(tell)

    def info(self) -> Info:
        """Tell what has been committed."""
        return Info(height=max(0, self.store.height), app_hash=self.store.root(), initialised=self._genesis is not None)

    def init(self, genesis: bytes) -> bytes:
        """Start from the genesis; durable.

        Raises:
            DecodeError: malformed, or made for a version of the contracts that this release does not know.
            Broken: it has started already.
        """
        record = decode_genesis(genesis)
        if self._genesis is not None:
            raise Broken("the application was given a second genesis")
        overlay = Overlay(self.store)
        overlay.put(membership.GENESIS_KEY, encode(record))
        overlay.put(membership.TIME_KEY, encode(BlockTime(time_ms=record.created_ms, elapsed_ms=0)))
        for organisation in record.organisations:
            membership.save_organisation(overlay, organisation)
            if organisation.validator is not None:
                take_seat(overlay, organisation.domain, organisation.validator)
        # Who may reset the default contract alone: whoever runs the sentinel; among validators the first by name.
        creator = NodeName.parse(record.sentinel).domain if record.sentinel else record.organisations[0].domain
        default = Training(name=DEFAULT_CONTRACT, creator=creator, created_height=0)
        overlay.put(membership.training_key(DEFAULT_CONTRACT), encode(default))
        taskrunners.put_default_runner(overlay, creator)
        tasks.put_root_task(overlay)
        self.store.commit(0, overlay.changes)
        self._genesis = record
        return self.store.root()

    def check(self, tx: bytes) -> TxResult:
        """TX-9, TX-20: judge a transaction by committed state: what would fail now, whatever the time, is not ordered.

        Nor is one whose organisation has as many waiting here as it may have.
        """
        height = self.store.height + 1
        overlay = Overlay(self.store)
        now = membership.load_time(overlay)
        if now is None:
            raise Broken("check before init")
        try:
            signed = open_tx(tx)
            admit(overlay, self.genesis, signed, height)
            times = hopeful_times(signed.payload.message, now.time_ms, now.elapsed_ms)
            context = identify(overlay, signed, height, times, bytes(32))
        except Rejected as rejected:
            return TxResult(code=rejected.code, log=rejected.log)
        domain = context.name.domain
        try:
            transition(self.genesis.version, overlay, context, signed, self.genesis.network)
        except Rejected as rejected:
            self._waiting.leave(domain, tx)
            return TxResult(code=rejected.code, log=rejected.log)
        if not self._waiting.enter(domain, tx, self.store.height):
            return TxResult(code=Code.BUSY, log=f"too many transactions of {domain} wait for a block; try again later")
        return TxResult(code=Code.OK)

    def propose(self, txs: Sequence[bytes], max_bytes: int) -> list[bytes]:
        """TX-18, TX-19: take transactions in order while they fit; leave out what no correct node accepts."""
        chosen: list[bytes] = []
        rules = self._rules()
        room = max_bytes
        for tx in txs:
            if len(tx) > room:
                continue
            with contextlib.suppress(Rejected):
                rules.take(tx)
                chosen.append(tx)
                room -= len(tx)
        return chosen

    def _rules(self) -> BlockRules:
        """What may stand in the block after the committed one."""
        state = Overlay(self.store)
        now = membership.load_time(state)
        if now is None:
            raise Broken("a block before init")
        return BlockRules(state, self.genesis, now, self.store.height + 1)

    def expects_more(self, txs: Sequence[bytes]) -> bool:
        """Whether `txs` are of a wave whose other messages have yet to come; asked of the sentinel's only."""
        state = Overlay(self.store)
        messages: list[tuple[NodeId, AnyMessage]] = []
        for tx in txs:
            with contextlib.suppress(Rejected):
                signed = open_tx(tx)
                node = membership.load_signer(state, signed.signer)
                messages.append((node.node if node is not None else NodeId(""), signed.payload.message))
        return len(messages) == len(txs) and expects_more(state, messages)

    def accept(self, header: Header, txs: Sequence[bytes]) -> str:
        """TX-18, TX-19: refuse only what every correct node refuses, and nothing that `propose` makes."""
        if header.height != self.store.height + 1:
            return f"block {header.height} does not follow the committed height {self.store.height}"
        rules = self._rules()
        for index, tx in enumerate(txs):
            try:
                rules.take(tx)
            except Rejected as rejected:
                return f"block {header.height}, transaction {index}: {rejected.log}"
        return ""

    def apply(self, header: Header, txs: Sequence[bytes], misbehaviour: Sequence[Misbehaviour] = ()) -> Applied:
        """TX-13, TX-14, TX-17: execute a block on the committed state, in memory; an empty one changes nothing."""
        if header.height != self.store.height + 1:
            raise Broken(f"block {header.height} does not follow the committed height {self.store.height}")
        block = Overlay(self.store)
        before = membership.load_time(block)
        if before is None:
            raise Broken("apply before init")
        results: list[TxResult] = []
        events: list[Event] = []
        senders: set[NodeId] = set()
        if txs or misbehaviour:
            gap = min(max(0, header.time_ms - before.time_ms), MAX_GAP_MS)
            now = BlockTime(
                time_ms=max(header.time_ms, before.time_ms),
                elapsed_ms=before.elapsed_ms + gap,
                transactions=before.transactions,
                height=header.height,
            )
            forget_nonces(block, before.height, header.height)
            events += [self._accuse(block, now, evidence) for evidence in misbehaviour]
            for tx in txs:
                result, event = self._execute(block, header, now, tx, senders)
                results.append(result)
                events.extend(event)
            done = sum(result.code is Code.OK for result in results)
            block.put(membership.TIME_KEY, encode(msgspec.structs.replace(now, transactions=now.transactions + done)))
        validators = self._changed_validators(block)
        self._pending = _Pending(
            height=header.height,
            time_ms=header.time_ms,
            changes=block.changes,
            events=tuple(events),
            txs=tuple(txs),
            senders=frozenset(senders),
        )
        return Applied(
            results=tuple(results),
            app_hash=self.store.root(block.changes),
            events=tuple(events),
            validators=validators,
        )

    def _accuse(self, block: Overlay, now: BlockTime, evidence: Misbehaviour) -> Event:
        """M-16: write down what a validator did."""
        offence = record_offence(
            block,
            kind=evidence.kind,
            address=evidence.address,
            happened=(evidence.height, evidence.time_ms),
            recorded=(now.height, now.time_ms),
        )
        return Event(kind="misbehaviour", subject=offence.domain or offence.address.hex())

    def _changed_validators(self, block: Overlay) -> tuple[Validator, ...] | None:
        """M-13: all who vote after a block, if it changed them."""
        prefix = membership.organisation_key(TrustDomain(""))
        if not any(key.startswith(prefix) for key in block.changes):
            return None
        before, after = self.validators(), _list_validators(block)
        return None if after == before else tuple(after.values())

    def _execute(
        self, block: Overlay, header: Header, now: BlockTime, tx: bytes, senders: set[NodeId]
    ) -> tuple[TxResult, list[Event]]:
        """TX-15: carry out one transaction; one that fails leaves only its nonce. Its sender joins `senders`."""
        try:
            signed = open_tx(tx)
            admit(block, self.genesis, signed, header.height)
        except Rejected as rejected:
            return TxResult(code=rejected.code, log=rejected.log), []
        block.put(nonce_key(signed), b"")
        overlay = Overlay(block)
        try:
            times = (now.time_ms, now.elapsed_ms)
            sentinel = NodeId(header.proposer if self.genesis.ledger == "embedded" else "")
            context = identify(overlay, signed, header.height, times, header.previous_hash, sentinel)
            senders.add(context.sender)
            changed = transition(self.genesis.version, overlay, context, signed, self.genesis.network)
        except Rejected as rejected:
            return TxResult(code=rejected.code, log=rejected.log), []
        overlay.fold()
        return TxResult(code=Code.OK), [_event_of(changed, context.sender)]

    def commit(self) -> None:
        """Write the last applied block's state.

        Raises:
            Broken: no block has been applied.
        """
        pending = self._pending
        if pending is None:
            raise Broken("commit without a block")
        self.store.commit(pending.height, pending.changes)
        self._pending = None
        self._waiting.settle(pending.txs, pending.height)
        self._on_commit(pending.events)
        committed = Committed(
            height=pending.height,
            time_ms=pending.time_ms,
            keys=frozenset(pending.changes),
            senders=pending.senders,
        )
        for tell in self._followers:
            tell(committed)

    def voters(self) -> dict[NodeId, bytes]:
        """Every registered SN whose key may sign (M-3), with that key: a majority of them replaces the sentinel."""
        state = Overlay(self.store)
        found: dict[NodeId, bytes] = {}
        for key in state.keys(membership.node_key(NodeId(""))):
            node = membership.load_node(state, NodeId(key.removeprefix("node/")))
            if node is None or NodeName.parse(node.node).role is not Role.SN:
                continue
            with contextlib.suppress(Rejected):
                found[membership.require_signer(state, node.key).node] = node.key
        return found

    def validators(self) -> dict[TrustDomain, Validator]:
        """M-8: who votes for each organisation."""
        return _list_validators(Overlay(self.store))

    def query(self, path: str, argument: bytes) -> bytes:
        """Committed value under `path/argument`; empty where there is none.

        Raises:
            Refused: unknown path.
        """
        if path not in ("org", "node", "training", "runner", "meta"):
            raise Refused(f"query path {path!r}: expected org, node, training, runner or meta", code="not-found")
        return self.store.get(f"{path}/{argument.decode(errors='replace')}") or b""


def _event_of(changed: Changed, sender: NodeId) -> Event:
    """What is told of a message that was carried out."""
    match changed:
        case Task():
            return Event(kind="task", subject=changed.name)
        case Taskrunner():
            return Event(kind="taskrunner", subject=changed.name)
        case Training():
            kinds = {Phase.COLLECTING: "collecting", Phase.MERGING: "merging", Phase.COMPLETED: "completed"}
            return Event(kind=kinds.get(changed.phase, "training"), subject=changed.name)
        case None:
            return Event(kind="membership", subject=sender)
        case _:
            assert_never(changed)


def _list_validators(state: Overlay) -> dict[TrustDomain, Validator]:
    members = membership.list_organisations(state)
    return {member.domain: member.validator for member in members if member.validator is not None}


def decode_genesis(data: bytes) -> Genesis:
    """M-7: a validated genesis.

    Raises:
        DecodeError: malformed, without organisations, with a foreign sentinel, or of an unknown version.
    """
    try:
        genesis = decode(data, Genesis, limit=MAX_GENESIS_BYTES)
    except DecodeError as error:
        raise DecodeError(f"no founding file as `swarm network create` writes it: {error}") from error
    if genesis.version != VERSION:
        raise DecodeError(f"genesis: contracts version {genesis.version}, this release knows {VERSION}; upgrade it")
    domains = [organisation.domain for organisation in genesis.organisations]
    if not domains or len(set(domains)) != len(domains):
        raise DecodeError("genesis: expected at least one organisation, each once")
    try:
        for domain in domains:
            check_label("trust domain", domain)
    except InvalidName as error:
        raise DecodeError(f"genesis: {error}") from error
    if genesis.created_ms < 0:
        raise DecodeError("genesis: expected a time after 1970")
    if genesis.ledger == "embedded":
        _check_sentinel(genesis)
    else:
        _check_validators(genesis)
    for organisation in genesis.organisations:
        if not organisation.issuers:
            raise DecodeError(f"genesis: {organisation.domain} has no CA certificate")
        for issuer in organisation.issuers:
            try:
                verify_issuer(issuer)
            except VerificationError as error:
                raise DecodeError(f"genesis: {organisation.domain}: {error}") from error
    return genesis


def _check_sentinel(genesis: Genesis) -> None:
    try:
        sentinel = NodeName.parse(genesis.sentinel)
    except InvalidName as error:
        raise DecodeError(f"genesis: {error}") from error
    domains = {organisation.domain for organisation in genesis.organisations}
    if (sentinel.network, sentinel.role) != (genesis.network, Role.SN) or sentinel.domain not in domains:
        raise DecodeError(f"genesis: sentinel {sentinel.id} is not an SN of a founding organisation")
    if len(genesis.sentinel_key) != 32:
        raise DecodeError("genesis: expected a sentinel key of 32 bytes")
    if any(organisation.validator for organisation in genesis.organisations):
        raise DecodeError("genesis: where a sentinel orders there are no validators")


def _check_validators(genesis: Genesis) -> None:
    """M-8: each organisation votes through one validator, whose key and peer id are its own."""
    if genesis.sentinel or genesis.sentinel_key:
        raise DecodeError("genesis: where validators vote there is no sentinel")
    found = [organisation.validator for organisation in genesis.organisations]
    validators = [validator for validator in found if validator is not None]
    if len(validators) != len(found):
        missing = next(o.domain for o in genesis.organisations if o.validator is None)
        raise DecodeError(f"genesis: {missing} has no validator")
    if len({v.key for v in validators}) != len(found) or len({v.peer for v in validators}) != len(found):
        raise DecodeError("genesis: two organisations have the same validator key or peer id")
