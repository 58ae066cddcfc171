"""Answers CometBFT's calls: the application's side of ABCI 2.0, over the narrower boundary.

The commit path, with its numbered crash points (`crash`)::

    8 | app.apply | 9 | -> FinalizeBlock's answer ... Commit -> | 10 | our file (fsync) | 11 | app.commit | 12 |
    waiters are told | 13 | -> Commit's answer

Nothing durable is written before Commit: after a crash in between the child executes the block again, and what was
written of a block that it does not consider committed could never be taken back.

Single-threaded: every call is answered whole before the next one. Does not: read from sockets (`server`). Spec:
docs/spec/ledger-cometbft.md, sections 2 to 4.
"""

import asyncio
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal

import msgspec

from swarmlearning.encoding import sha256
from swarmlearning.errors import Broken, ConfigurationError, DecodeError
from swarmlearning.ledger.boundary import Application, Applied, Header, Misbehaviour, Snapshots
from swarmlearning.ledger.cometbft import abci_pb2 as pb
from swarmlearning.ledger.cometbft.config import MAX_BLOCK_TXS, CometConfig
from swarmlearning.ledger.cometbft.crash import Crash, CrashPoint
from swarmlearning.ledger.cometbft.home import MAX_TX_BYTES, POWER
from swarmlearning.ledger.cometbft.order import CallOrder
from swarmlearning.ledger.cometbft.pool import Pool
from swarmlearning.ledger.cometbft.snapshots import SnapshotCalls
from swarmlearning.ledger.cometbft.store import REMEDY, OrderedStore
from swarmlearning.ledger.waiting import Waiting
from swarmlearning.types import Validator

_LOG: Final = logging.getLogger("swarmlearning.ledger")

VERSION: Final = 1
"""Of the application's protocol, in every block's header."""

OLD_S: Final = 2.0
"""How long after a block the votes for it are too old to date the next one, seconds."""

_TX_OVERHEAD: Final = 5
"""Most bytes that a block needs for a transaction besides the transaction itself."""

_FILTER: Final = "/p2p/filter/"

_KINDS: Final[dict[int, Literal["duplicate_vote", "light_client_attack"]]] = {
    pb.DUPLICATE_VOTE: "duplicate_vote",
    pb.LIGHT_CLIENT_ATTACK: "light_client_attack",
}


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """A block that was executed and waits to be committed."""

    height: int
    txs: tuple[bytes, ...]
    applied: Applied


class Driver:
    """Drives the application as CometBFT says.

    Attributes:
        pool: judges what waits for a block.

    Args:
        config: who and where.
        app: the application, initialised; driven by nobody else.
        store: the engine's own file.
        waiting: who waits for transactions and heights.
        crash: called at each crash point; raises where a test wants the node to die.
        members_changed: called after a commit that changed who votes.
        monotonic_s: a clock that only goes forward; None: the running loop's.
        snapshots: the application's; None: none are given, none are taken.
    """

    def __init__(
        self,
        config: CometConfig,
        app: Application,
        store: OrderedStore,
        waiting: Waiting,
        crash: Crash,
        members_changed: Callable[[], None] = lambda: None,
        monotonic_s: Callable[[], float] | None = None,
        snapshots: Snapshots | None = None,
    ) -> None:
        self._config = config
        self._app = app
        self._store = store
        self._waiting = waiting
        self._crash = crash
        self._members_changed = members_changed
        self.pool = Pool(app, store, waiting)
        self._pending: Pending | None = None
        self._monotonic_s = monotonic_s or _loop_s
        self._committed_s = -math.inf
        """When the last block was committed here, by that clock."""
        self._refreshed = False
        """Whether we have proposed an empty block for the sake of the time since the last one that was not empty."""
        self._order = CallOrder(app.info().height)
        self._snapshots = SnapshotCalls(config.node, snapshots, store)
        self._answers: dict[str, Callable[[Any], pb.Response]] = {
            "echo": _echo,
            "flush": _flush,
            "info": self._info,
            "query": self._query,
            "check_tx": self.pool.check,
            "init_chain": self._init_chain,
            "prepare_proposal": self._prepare,
            "process_proposal": self._process,
            "extend_vote": self._extend,
            "verify_vote_extension": self._verify_extension,
            "finalize_block": self._finalize,
            "commit": self._commit,
            "list_snapshots": self._snapshots.list,
            "load_snapshot_chunk": self._snapshots.load,
            "offer_snapshot": lambda request: self._snapshots.offer(request, self._order),
            "apply_snapshot_chunk": lambda request: self._snapshots.apply(request, self._order),
        }

    @property
    def height(self) -> int:
        """Of the last block that is committed here."""
        return self._app.info().height

    def begin(self) -> None:
        """A child has connected: its life begins, and a block that was executed but not committed is forgotten."""
        self._pending = None
        self.pool.forget()
        self._order = CallOrder(self.height)

    def answer(self, request: pb.Request) -> pb.Response:
        """Carry out one call.

        Raises:
            DecodeError: it is none that we know.
            Broken: it is not legal now, or the application or the disk failed.
            ConfigurationError: the child was made for another network.
        """
        kind = request.WhichOneof("value")
        if kind is None:
            raise DecodeError("ABCI: a request of an unknown kind: expected CometBFT 0.38 to 0.40")
        try:
            return self._answers[kind](getattr(request, kind))
        except DecodeError as error:
            # Of a request it would blame the child, which would be started again, and again.
            raise Broken(
                f"at CometBFT's call {kind}, something that is stored here cannot be read: {error}; {REMEDY}"
            ) from error

    # --- handshake --------------------------------------------------------------------------------------------

    def _info(self, _: pb.RequestInfo) -> pb.Response:
        self._crash(CrashPoint.BEFORE_INFO)
        self._order.info()
        info = self._app.info()
        return pb.Response(
            info=pb.ResponseInfo(
                data="swarmlearning",
                app_version=VERSION,
                last_block_height=info.height,
                last_block_app_hash=info.app_hash if info.height else b"",
            )
        )

    def _init_chain(self, request: pb.RequestInitChain) -> pb.Response:
        self._crash(CrashPoint.BEFORE_INIT_CHAIN)
        self._order.init_chain()
        expected = f'"{sha256(self._config.genesis).hex()}"'.encode()
        for what, ours, theirs in (
            ("chain", self._config.network.encode(), request.chain_id.encode()),
            ("founding file", expected, request.app_state_bytes),
        ):
            if ours != theirs:
                raise ConfigurationError(
                    f"CometBFT's genesis.json is of another network: expected {what} {ours.decode()}, got "
                    f"{theirs[:80].decode(errors='replace')}; give CometBFT the home that was made for this network"
                )
        if request.initial_height > 1:
            raise ConfigurationError(f"CometBFT's genesis.json begins at height {request.initial_height}: expected 1")
        keys = _keys(self._app.validators().values())
        if not keys:
            raise ConfigurationError("the genesis names no validators: it was not made for the ledger on CometBFT")
        self._crash(CrashPoint.AFTER_INIT_CHAIN)
        return pb.Response(
            init_chain=pb.ResponseInitChain(
                validators=[_update(key, POWER) for key in sorted(keys)], app_hash=self._app.info().app_hash
            )
        )

    # --- deciding ---------------------------------------------------------------------------------------------

    def _prepare(self, request: pb.RequestPrepareProposal) -> pb.Response:
        self._crash(CrashPoint.BEFORE_PREPARE)
        self._order.decide("PrepareProposal", request.height)
        offered = [tx for tx in dict.fromkeys(request.txs) if self.pool.may_propose(tx)][:MAX_BLOCK_TXS]
        chosen = [] if offered and self._time_is_old() else self._app.propose(offered, request.max_tx_bytes)
        sizes = itertools.accumulate(len(tx) + _TX_OVERHEAD for tx in chosen)
        fit = [tx for tx, size in zip(chosen, sizes, strict=True) if size <= request.max_tx_bytes][:MAX_BLOCK_TXS]
        self._crash(CrashPoint.AFTER_PREPARE)
        return pb.Response(prepare_proposal=pb.ResponsePrepareProposal(txs=fit))

    def _time_is_old(self) -> bool:
        """B-26: whether a block proposed now would bear a time long past, and an empty one should come before it.

        A block's time is that of the votes for the block before it, and where nothing happens none are cast. At most
        once between two blocks with transactions: if all takes long here, that is no reason to make no progress.
        """
        if self._refreshed or self._monotonic_s() - self._committed_s < OLD_S:
            return False
        self._refreshed = True
        return True

    def _process(self, request: pb.RequestProcessProposal) -> pb.Response:
        self._crash(CrashPoint.BEFORE_PROCESS)
        self._order.decide("ProcessProposal", request.height)
        reason = self._judge(self._header(request), request.txs)
        if reason:
            _LOG.warning(
                "%s: refuses the block of %s: %s", self._config.node, request.proposer_address.hex()[:16], reason
            )
        self._crash(CrashPoint.AFTER_PROCESS)
        status = pb.VERDICT_REJECT if reason else pb.VERDICT_ACCEPT
        return pb.Response(process_proposal=pb.ResponseProcessProposal(status=status))

    def _judge(self, header: Header, txs: Sequence[bytes]) -> str:
        """Why a proposed block is refused, "" if it is not."""
        where = f"block {header.height}"
        if len(txs) > MAX_BLOCK_TXS:
            return f"{where} holds {len(txs)} transactions, at most {MAX_BLOCK_TXS} are accepted"
        if len(set(txs)) != len(txs):
            return f"{where} holds a transaction twice"
        for index, tx in enumerate(txs):
            if len(tx) > MAX_TX_BYTES:
                return f"{where}, transaction {index}: {len(tx)} bytes, at most {MAX_TX_BYTES} are accepted"
            ordered = self._store.find(sha256(tx), upto=self.height)
            if ordered is not None:
                return f"{where}, transaction {index}: in block {ordered[0]} already"
        return self._app.accept(header, txs)

    def _extend(self, request: pb.RequestExtendVote) -> pb.Response:
        self._order.decide("ExtendVote", request.height)
        return pb.Response(extend_vote=pb.ResponseExtendVote())

    def _verify_extension(self, request: pb.RequestVerifyVoteExtension) -> pb.Response:
        self._order.decide("VerifyVoteExtension", request.height)
        status = pb.VERDICT_REJECT if request.vote_extension else pb.VERDICT_ACCEPT
        return pb.Response(verify_vote_extension=pb.ResponseVerifyVoteExtension(status=status))

    # --- executing --------------------------------------------------------------------------------------------

    def _finalize(self, request: pb.RequestFinalizeBlock) -> pb.Response:
        self._crash(CrashPoint.BEFORE_APPLY)
        self._order.finalize(request.height)
        txs = tuple(request.txs)
        before = _keys(self._app.validators().values())
        applied = self._app.apply(self._header(request), txs, _misbehaviour(request.misbehavior))
        if len(applied.results) != len(txs) or len(applied.app_hash) != 32:
            raise Broken(
                f"block {request.height}: the application gave {len(applied.results)} results and a hash of "
                f"{len(applied.app_hash)} bytes; expected {len(txs)} and 32"
            )
        after = before if applied.validators is None else _keys(applied.validators)
        if not after:
            raise Broken(f"block {request.height}: the application leaves no validators; the network could not go on")
        self._pending = Pending(height=request.height, txs=txs, applied=applied)
        self._crash(CrashPoint.AFTER_APPLY)
        updates = [_update(key, 0) for key in sorted(before - after)]
        updates += [_update(key, POWER) for key in sorted(after - before)]
        return pb.Response(
            finalize_block=pb.ResponseFinalizeBlock(
                tx_results=[pb.ExecTxResult(code=result.code, log=result.log) for result in applied.results],
                validator_updates=updates,
                app_hash=applied.app_hash,
            )
        )

    def _commit(self, _: pb.RequestCommit) -> pb.Response:
        self._crash(CrashPoint.BEFORE_COMMIT)
        self._order.commit()
        pending, self._pending = self._pending, None
        if pending is None:
            raise Broken("commit without a block")
        self._store.write(pending.height, pending.applied.app_hash, pending.txs, pending.applied.results)
        self._crash(CrashPoint.AFTER_STORED)
        self._app.commit()
        self._committed_s = self._monotonic_s()
        self._refreshed = self._refreshed and not pending.txs
        self.pool.forget()
        self._crash(CrashPoint.AFTER_COMMIT)
        for tx, result in zip(pending.txs, pending.applied.results, strict=True):
            first = self._store.find(sha256(tx), upto=pending.height)
            self._waiting.tell(sha256(tx), first or (pending.height, result))
        self._waiting.announce()
        if pending.applied.validators is not None:
            self._members_changed()
        self._crash(CrashPoint.AFTER_TOLD)
        keep = self._config.retain_blocks
        retain_height = pending.height - keep + 1 if 0 < keep <= pending.height else 0
        return pb.Response(commit=pb.ResponseCommit(retain_height=retain_height))

    def _header(self, request: pb.RequestProcessProposal | pb.RequestFinalizeBlock) -> Header:
        return Header(
            height=request.height,
            time_ms=_time_ms(request.time),
            previous_hash=self._app.info().app_hash,
            proposer=request.proposer_address.hex(),
        )

    # --- peers ------------------------------------------------------------------------------------------------

    @property
    def allowed_peers(self) -> frozenset[str]:
        """Who may connect: the committed validators, and those of a join ticket until we have caught up with it."""
        return frozenset(member.peer for member in self.members)

    @property
    def members(self) -> tuple[Validator, ...]:
        """Those who may connect."""
        committed = tuple(self._app.validators().values())
        if self._app.info().height >= self._config.introduced_at:
            return committed
        known = {member.peer for member in committed}
        return committed + tuple(member for member in self._config.introduced if member.peer not in known)

    def _query(self, request: pb.RequestQuery) -> pb.Response:
        kind, _, value = request.path.removeprefix(_FILTER).partition("/")
        if not request.path.startswith(_FILTER) or kind not in ("id", "addr"):
            return _queried(1, f"query path {request.path[:80]!r}: expected {_FILTER}id/ or {_FILTER}addr/")
        # An address says nothing (who dials does so from any port, behind any router); the id follows from a handshake
        # in which the peer proves its key, and is asked for before the peer is listened to.
        if kind == "id" and value not in self.allowed_peers:
            return _queried(1, f"peer {value[:40]} is no validator's")
        return _queried(0, "")


def _loop_s() -> float:
    return asyncio.get_running_loop().time()


# --- what needs no state -----------------------------------------------------------------------------------------


def _echo(request: pb.RequestEcho) -> pb.Response:
    return pb.Response(echo=pb.ResponseEcho(message=request.message))


def _flush(_: pb.RequestFlush) -> pb.Response:
    return pb.Response(flush=pb.ResponseFlush())


def _keys(members: Iterable[Validator]) -> set[bytes]:
    return {member.key for member in members}


def _update(key: bytes, power: int) -> pb.ValidatorUpdate:
    return pb.ValidatorUpdate(pub_key=pb.PublicKey(ed25519=key), power=power)


def _queried(code: int, log: str) -> pb.Response:
    return pb.Response(query=pb.ResponseQuery(code=code, log=log))


def _time_ms(time: pb.Timestamp) -> int:
    return time.seconds * 1000 + time.nanos // 1_000_000


def _misbehaviour(found: Iterable[pb.Misbehavior]) -> tuple[Misbehaviour, ...]:
    return tuple(
        Misbehaviour(
            kind=_KINDS[each.type],
            address=each.validator.address,
            height=each.height,
            time_ms=_time_ms(each.time),
        )
        for each in found
        if each.type in _KINDS
    )
