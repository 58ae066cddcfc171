"""The other side of the SN's API: look at the network, follow a training, submit signed transactions."""

import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable

from swarmlearning.contracts.messages import TX_DOMAIN, AnyMessage, Payload, Tx
from swarmlearning.contracts.records import MAX_HISTORY, RoundSummary, Training
from swarmlearning.contracts.task_records import Task, Taskrunner
from swarmlearning.encoding import decode, encode
from swarmlearning.errors import DecodeError, Refused
from swarmlearning.identity.signing import SigningKey
from swarmlearning.ledger.boundary import StoredBlock
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
    CALL_TICKET,
    KEEPALIVE_S,
    STREAM_BLOCKS,
    STREAM_CHANGES,
    STREAM_PROOF,
    STREAM_WATCH,
    BlocksRequest,
    Changes,
    Directory,
    Governance,
    HistoryRequest,
    Notice,
    Presence,
    PresenceRequest,
    ProofRequest,
    RunnersRequest,
    Status,
    Submitted,
    TasksRequest,
    WatchRequest,
    WholeTask,
)
from swarmlearning.transport.api import Address, Client
from swarmlearning.transport.carrying import Carrier
from swarmlearning.types import Code, ContractName, NodeId, RunnerName, TaskName

CALL_TIMEOUT_S = 15.0
SUBMIT_TIMEOUT_S = 40.0
"""Longer than the SN's own limit, so that its explanation arrives."""

MAX_RECORD_BYTES = 64 << 20
EXPIRY_BLOCKS = 500
"""How many blocks ahead our transactions expire."""


class SnClient:
    """Asks one SN."""

    def __init__(self, client: Client, address: Address, *, timeout_s: float = CALL_TIMEOUT_S) -> None:
        """Ask the SN at `address` through `client`; what is no submission is answered within `timeout_s` seconds."""
        self._client = client
        self._timeout_s = timeout_s
        self.address = address
        self.height = 0
        """Newest height this SN has told us of."""
        self.problem = ""
        """What keeps this SN from following the ledger, as it last said in a watch."""

    async def _call(self, method: str, body: bytes, timeout_s: float | None = None) -> bytes:
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        return await self._client.call(self.address, method, body, timeout_s=limit_s)

    async def status(self) -> Status:
        """Where the SN stands.

        Raises:
            Unreachable, VerificationError, Refused: see `transport.api.Client.call`.
        """
        status = decode(await self._call(CALL_STATUS, b""), Status)
        self.height = max(self.height, status.height)
        return status

    async def training(self, name: ContractName) -> Training | None:
        """A training contract, or None if there is none of that name.

        Raises:
            Unreachable, VerificationError, Refused: see `transport.api.Client.call`.
        """
        data = await self._call(CALL_CONTRACT, encode(name))
        return decode(data, Training, limit=MAX_RECORD_BYTES) if data else None

    async def contracts(self) -> tuple[ContractName, ...]:
        """Names of all training contracts.

        Raises:
            Unreachable, VerificationError, Refused: see `transport.api.Client.call`.
        """
        names = decode(await self._call(CALL_CONTRACTS, b""), tuple[str, ...], limit=MAX_RECORD_BYTES)
        return tuple(ContractName(name) for name in names)

    async def history(self, name: ContractName, most: int = MAX_HISTORY) -> list[RoundSummary]:
        """The newest summaries of a contract's final rounds that fit into a reply, the oldest first.

        Raises:
            Unreachable, VerificationError, Refused: see `transport.api.Client.call`.
        """
        data = await self._call(CALL_HISTORY, encode(HistoryRequest(contract=name, most=most)))
        summaries = decode(data, tuple[bytes, ...], limit=MAX_RECORD_BYTES)
        return [decode(summary, RoundSummary, limit=MAX_RECORD_BYTES) for summary in summaries]

    async def directory(self) -> Directory:
        """Members and nodes.

        Raises:
            Unreachable, VerificationError, Refused: see `transport.api.Client.call`.
        """
        return decode(await self._call(CALL_DIRECTORY, b""), Directory, limit=MAX_RECORD_BYTES)

    async def governance(self) -> Governance:
        """Proposals, and what validators have been accused of.

        Raises:
            Unreachable, VerificationError, Refused: see `transport.api.Client.call`.
        """
        return decode(await self._call(CALL_GOVERNANCE, b""), Governance, limit=MAX_RECORD_BYTES)

    async def tasks(self) -> tuple[Task, ...]:
        """All tasks, by name.

        Raises:
            Unreachable, VerificationError, Refused: see `transport.api.Client.call`.
        """
        found: list[Task] = []
        while True:
            after = found[-1].name if found else TaskName("")
            data = await self._call(CALL_TASKS, encode(TasksRequest(after=after)))
            page = decode(data, tuple[Task, ...], limit=MAX_RECORD_BYTES)
            found += page
            if not page:
                return tuple(found)

    async def task(self, name: TaskName) -> WholeTask | None:
        """A task with its body, or None if there is none of that name.

        Raises:
            Unreachable, VerificationError, Refused: see `transport.api.Client.call`.
        """
        data = await self._call(CALL_TASK, encode(name))
        return decode(data, WholeTask, limit=MAX_RECORD_BYTES) if data else None

    async def runners(self) -> tuple[RunnerName, ...]:
        """Names of all taskrunners.

        Raises:
            Unreachable, VerificationError, Refused: see `transport.api.Client.call`.
        """
        found: list[RunnerName] = []
        while True:
            request = RunnersRequest(after=found[-1] if found else RunnerName(""))
            names = decode(await self._call(CALL_RUNNERS, encode(request)), tuple[str, ...], limit=MAX_RECORD_BYTES)
            found += map(RunnerName, names)
            if not names:
                return tuple(found)

    async def runner(self, name: RunnerName) -> Taskrunner | None:
        """A taskrunner, or None if there is none of that name.

        Raises:
            Unreachable, VerificationError, Refused: see `transport.api.Client.call`.
        """
        data = await self._call(CALL_RUNNER, encode(name))
        return decode(data, Taskrunner, limit=MAX_RECORD_BYTES) if data else None

    async def presence(self) -> tuple[Presence, ...]:
        """When the SN last heard of each registered node, by node id.

        Raises:
            Unreachable, VerificationError, Refused: see `transport.api.Client.call`.
        """
        found: list[Presence] = []
        while True:
            request = PresenceRequest(after=found[-1].node if found else NodeId(""))
            data = await self._call(CALL_PRESENCE, encode(request))
            page = decode(data, tuple[Presence, ...], limit=MAX_RECORD_BYTES)
            found += page
            if not page:
                return tuple(found)

    async def changes(self) -> AsyncIterator[Changes]:
        """What changes on the ledger from now on, until closed; the first one comes at once: look at everything.

        Raises:
            Unreachable: the SN fell silent.
            VerificationError, Refused: see `transport.api.Client.call`.
        """
        frames = self._client.stream(self.address, STREAM_CHANGES, b"", idle_s=3 * KEEPALIVE_S)
        async with contextlib.aclosing(frames):  # type: ignore[type-var]  # AsyncIterator of the seam has aclose
            async for frame in frames:
                notice = decode(frame, Changes, limit=MAX_RECORD_BYTES)
                self.height = max(self.height, notice.height)
                self.problem = notice.problem
                yield notice

    async def ticket(self) -> bytes:
        """A join ticket, signed by the SN: see `sn.tickets`.

        Raises:
            Unreachable, VerificationError, Refused: see `transport.api.Client.call`.
        """
        return await self._call(CALL_TICKET, b"")

    async def submit(self, tx: bytes) -> Submitted:
        """Submit a transaction and wait until the SN has committed the block that holds it.

        Raises:
            Unreachable: not known to be ordered in time; it still may be.
            VerificationError, Refused: see `transport.api.Client.call`.
        """
        submitted = decode(await self._call(CALL_SUBMIT, tx, SUBMIT_TIMEOUT_S), Submitted)
        self.height = max(self.height, submitted.height)
        return submitted

    async def watch(self, name: ContractName, after_version: int = 0) -> AsyncIterator[Training]:
        """Follow a training: its newest record now and after every change, until closed.

        Raises:
            Unreachable: the SN fell silent; call again with the last version seen.
            VerificationError, Refused: see `transport.api.Client.call`.
        """
        body = encode(WatchRequest(contract=name, version=after_version))
        frames = self._client.stream(self.address, STREAM_WATCH, body, idle_s=3 * KEEPALIVE_S)
        async with contextlib.aclosing(frames):  # type: ignore[type-var]  # AsyncIterator of the seam has aclose
            async for frame in frames:
                notice = decode(frame, Notice, limit=MAX_RECORD_BYTES)
                self.height = max(self.height, notice.height)
                self.problem = notice.problem
                if notice.training:
                    yield decode(notice.training, Training, limit=MAX_RECORD_BYTES)

    async def blocks(self, first: int = 1) -> AsyncIterator[StoredBlock]:
        """All blocks from height `first` to the one that is the last now, in order.

        Raises:
            Unreachable: the SN fell silent.
            VerificationError, Refused: see `transport.api.Client.call`.
            DecodeError: what comes is no gapless sequence of blocks.
        """
        body = encode(BlocksRequest(first=first))
        expected = first
        async with contextlib.aclosing(self._frames(STREAM_BLOCKS, body)) as frames:
            async for frame in frames:
                block = decode(frame, StoredBlock, limit=MAX_RECORD_BYTES)
                if block.height != expected or len(block.results) != len(block.txs):
                    raise DecodeError(
                        f"the SN sent block {block.height} with {len(block.results)} results for {len(block.txs)} "
                        f"transactions; expected block {expected} with as many"
                    )
                yield block
                expected += 1

    async def proof(self, *, tx: bytes = b"", height: int = 0) -> bytes:
        """The encoded `sn.proofs.ProofFile` of the transaction with the SHA-256 `tx`, or of block `height`; unverified.

        Raises:
            Unreachable, VerificationError, Refused: see `transport.api.Client.call`.
            DecodeError: nothing came.
        """
        body = encode(ProofRequest(tx=tx, height=height))
        async with contextlib.aclosing(self._frames(STREAM_PROOF, body)) as frames:
            async for frame in frames:
                return bytes(frame)
        raise DecodeError("the SN sent an empty reply; expected a proof")

    async def _frames(self, method: str, body: bytes) -> AsyncGenerator[memoryview, None]:
        frames = self._client.stream(self.address, method, body, idle_s=self._timeout_s)
        async with contextlib.aclosing(frames):  # type: ignore[type-var]  # AsyncIterator of the seam has aclose
            async for frame in frames:
                yield frame


class Submitter:
    """Signs messages as one node and submits them through its SN."""

    def __init__(
        self,
        sn: SnClient,
        network: str,
        key: SigningKey,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        carrier: Carrier | None = None,
        caller: NodeId = NodeId(""),  # noqa: B008  # a str
    ) -> None:
        """Sign with `key`.

        Args:
            sn: through which it is submitted.
            network: that it is for.
            key: signs.
            random_bytes: gives nonces.
            carrier: carries submissions, if there is one.
            caller: on whose behalf it is said; empty for ourselves.
        """
        self._caller = caller
        self._carrier = carrier
        self._sn = sn
        self._network = network
        self._key = key
        self._random = random_bytes

    def carried(self, carrier: Carrier) -> "Submitter":
        """The same, but what is sent through it is not cancelled with those who wait for its outcome."""
        return Submitter(self._sn, self._network, self._key, self._random, carrier, self._caller)

    def on_behalf_of(self, caller: NodeId) -> "Submitter":
        """The same, but what it signs says that `caller` asked for it."""
        return Submitter(self._sn, self._network, self._key, self._random, self._carrier, caller)

    async def _submit(self, tx: bytes) -> Submitted:
        submission = self._sn.submit(tx)
        return await (submission if self._carrier is None else self._carrier.carry(submission))

    @property
    def public(self) -> bytes:
        """The signing key's public half, 32 bytes."""
        return self._key.public

    def sign(self, message: AnyMessage) -> bytes:
        """A signed transaction that expires some blocks from now."""
        return sign_message(self._key, self._network, message, self._sn.height, self._random, self._caller)

    async def prepare(self, message: AnyMessage) -> bytes:
        """A signed transaction for `repeat`, which expires some blocks from where the SN stands.

        Raises:
            Unreachable, VerificationError, Refused: see `SnClient.status`.
        """
        await self._sn.status()
        return self.sign(message)

    async def repeat(self, tx: bytes) -> Submitted:
        """Submit a signed transaction, for the first time or again, and return what became of it.

        Raises:
            Unreachable, VerificationError, Refused: see `SnClient.submit`.
        """
        return await self._submit(tx)

    async def send(self, message: AnyMessage) -> Submitted:
        """Submit a message, and return what became of it.

        Raises:
            Unreachable, VerificationError, Refused: see `SnClient.submit`.
        """
        if self._sn.height == 0:
            await self._sn.status()
        submitted = await self._submit(self.sign(message))
        if submitted.code is Code.EXPIRED:
            # The network ran far ahead while we trained: learn the height and say it again.
            await self._sn.status()
            submitted = await self._submit(self.sign(message))
        return submitted

    async def require(self, message: AnyMessage) -> int:
        """Submit a message that must be carried out, and return its height.

        Raises:
            Refused: the ledger refused it, and says why; `code` is the lower-case name of the result code.
            Unreachable, VerificationError: see `SnClient.submit`.
        """
        submitted = await self.send(message)
        if submitted.code is not Code.OK:
            raise Refused(submitted.log, code=submitted.code.name.lower())
        return submitted.height


def sign_message(
    key: SigningKey,
    network: str,
    message: AnyMessage,
    height: int,
    random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    caller: NodeId = NodeId(""),  # noqa: B008  # a str
) -> bytes:
    """A signed transaction for `network`, on behalf of `caller` if given, that expires some blocks after `height`."""
    expires = height + EXPIRY_BLOCKS
    payload = encode(Payload(network=network, nonce=random_bytes(16), expires=expires, message=message, caller=caller))
    return encode(Tx(payload=payload, signer=key.public, signature=key.sign(TX_DOMAIN, payload)))
