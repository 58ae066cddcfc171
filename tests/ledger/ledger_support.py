"""What the ledger's tests stand on: virtual time, a small application, and a network of nodes that can be killed."""

import asyncio
import itertools
import random
import selectors
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from swarmlearning.encoding import Record, decode, encode, sha256
from swarmlearning.errors import DecodeError, Refused, SwarmError
from swarmlearning.identity.signing import SigningKey
from swarmlearning.ledger.boundary import Applied, Header, Info, Misbehaviour, TxResult
from swarmlearning.ledger.embedded import Block, BlockHeader, CrashPoint, EmbeddedConfig, EmbeddedLedger
from swarmlearning.ledger.embedded.blocks import execution_header, hash_header, hash_txs, sign_block
from swarmlearning.ledger.embedded.crash import HandoverPoint
from swarmlearning.ledger.embedded.succession import Succession, open_succession
from swarmlearning.ledger.embedded.wire import (
    BLOCKS,
    HEADER,
    SUBMIT,
    BlocksReply,
    BlocksRequest,
    HeaderReply,
    HeaderRequest,
    SubmitReply,
)
from swarmlearning.transport.api import Address, Call, Caller, Stream
from swarmlearning.transport.memory import Faults, MemoryNetwork
from swarmlearning.types import Code, Endpoint, NodeId, NodeName, Role, TrustDomain, Validator

T = TypeVar("T")

NETWORK = "testnet"
GENESIS = b"genesis of the test network"
START_MS = 1_700_000_000_000


class _VirtualSelector(selectors.DefaultSelector):
    """Instead of waiting, moves the loop's clock on."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("deadlock: every task waits for something that no timer will bring")
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on which waiting takes no time."""

    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        return self._virtual.now


def run_virtual(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on a loop with virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)


def virtual_clock() -> int:
    """A wall clock that goes with the running loop."""
    return START_MS + int(asyncio.get_running_loop().time() * 1000)


class KvState(Record, frozen=True, kw_only=True):
    """What the test application keeps."""

    height: int
    app_hash: bytes
    log: tuple[tuple[int, bytes], ...]
    """Every transaction carried out, with the height of its block."""


class KvApplication:
    """`key=value` transactions; the log of them is the state. `!...` is ordered but fails; anything else is malformed.

    Args:
        path: file of the state; None keeps it in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._next: KvState | None = None
        self.calls: list[str] = []
        self.salt = b""
        """Set to make this application disagree with the others."""
        self.refuse = ""
        """Set to make it refuse every block, saying so."""
        self.explode = False
        """Set to make `apply` fail."""
        self.leave_out: set[bytes] = set()
        """Transactions that it proposes for no block."""
        self.smuggle: list[bytes] = []
        """Transactions that it proposes though nobody offered them."""
        self.wave = 0
        """So many transactions it expects to come together."""
        self.members: dict[TrustDomain, Validator] = {}
        """Who votes; stays as it is."""
        self.state: KvState | None = None
        if path is not None and path.exists():
            self.state = decode(path.read_bytes(), KvState, limit=1 << 30)

    @property
    def log(self) -> list[bytes]:
        return [tx for _, tx in self.state.log] if self.state is not None else []

    def info(self) -> Info:
        if self.state is None:
            return Info(height=0, app_hash=b"", initialised=False)
        return Info(height=self.state.height, app_hash=self.state.app_hash, initialised=True)

    def init(self, genesis: bytes) -> bytes:
        self.calls.append("init")
        if not genesis:
            raise DecodeError("genesis is empty")
        self.state = KvState(height=0, app_hash=sha256(genesis), log=())
        self._save()
        return self.state.app_hash

    def check(self, tx: bytes) -> TxResult:
        if b"=" in tx or tx.startswith(b"!"):
            return TxResult(code=Code.OK)
        return TxResult(code=Code.MALFORMED, log="expected key=value")

    def propose(self, txs: Sequence[bytes], max_bytes: int) -> list[bytes]:
        sizes = itertools.accumulate(len(tx) for tx in txs)
        fits = [tx for tx, size in zip(txs, sizes, strict=True) if size <= max_bytes and tx not in self.leave_out]
        return fits + self.smuggle

    def expects_more(self, txs: Sequence[bytes]) -> bool:
        return self.wave > len(txs)

    def accept(self, header: Header, txs: Sequence[bytes]) -> str:
        self.calls.append(f"accept {header.height}")
        return self.refuse

    def apply(self, header: Header, txs: Sequence[bytes], misbehaviour: Sequence[Misbehaviour] = ()) -> Applied:
        assert self.state is not None
        assert header.height == self.state.height + 1
        self.calls.append(f"apply {header.height}")
        if self.explode:
            raise ZeroDivisionError("a bug in the application")
        good = [not tx.startswith(b"!") for tx in txs]
        # A block without either leaves the state's hash as it was (TX-17): else there would be no end of such blocks.
        same = not txs and not misbehaviour and not self.salt
        app_hash = self.state.app_hash
        if not same:
            app_hash = sha256(self.state.app_hash, encode(header), encode(tuple(txs)), self.salt)
        done = tuple((header.height, tx) for tx, ok in zip(txs, good, strict=True) if ok)
        self._next = KvState(height=header.height, app_hash=app_hash, log=self.state.log + done)
        results = tuple(
            TxResult(code=Code.OK, log=f"at {header.height}") if ok else TxResult(code=Code.CONFLICT, log="fails")
            for ok in good
        )
        return Applied(results=results, app_hash=app_hash, events=())

    def commit(self) -> None:
        assert self._next is not None
        self.calls.append(f"commit {self._next.height}")
        self.state, self._next = self._next, None
        self._save()

    def voters(self) -> dict[NodeId, bytes]:
        """`sn <node id>=<key in hex>` registers an SN."""
        parts = [tx[3:].split(b"=") for tx in self.log if tx.startswith(b"sn ")]
        return {NodeId(node.decode()): bytes.fromhex(key.decode()) for node, key in parts}

    def validators(self) -> dict[TrustDomain, Validator]:
        return self.members

    def query(self, path: str, argument: bytes) -> bytes:
        raise Refused("the test application answers no queries")

    def _save(self) -> None:
        if self._path is not None:
            # Atomic, and survives the death of the process; a power cut is not simulated.
            fresh = self._path.with_suffix(".new")
            fresh.write_bytes(encode(self.state))
            fresh.replace(self._path)


class Died(BaseException):
    """A node died at a crash point."""


Point = CrashPoint | HandoverPoint


class CrashAt:
    """Dies the first time that `point` is reached once armed."""

    def __init__(self, point: Point | None = None) -> None:
        self.point = point
        self.fired: Point | None = None

    def __call__(self, point: Point) -> None:
        if point is self.point:
            self.point, self.fired = None, point
            raise Died(f"died at {point.name}")


def sn(index: int, network: str = NETWORK, role: Role = Role.SN) -> NodeName:
    """The name of test node `index`; node 0 is the sentinel."""
    return NodeName(domain=TrustDomain(f"hospital{index}.example"), network=network, role=role, name=f"node{index}")


def address(index: int) -> Address:
    """Where test node `index` is reached."""
    return Address(node=sn(index).id, endpoint=Endpoint(host=f"hospital{index}", port=30303))


def caller(index: int, network: str = NETWORK, role: Role = Role.SN) -> Caller:
    """Test node `index` as a server sees it."""
    name = sn(index, network, role)
    return Caller(node=name.id, name=name)


class _Service:
    def __init__(self, calls: dict[str, Call]) -> None:
        self.calls = calls
        self.streams: dict[str, Stream] = {}


class TestNode:
    """One node: its engine, its application, and the task that runs it."""

    __test__ = False

    def __init__(self, swarm: "EmbeddedSwarm", index: int) -> None:
        self._swarm = swarm
        self.index = index
        self.app = KvApplication()
        self.crash = CrashAt()
        self.follows: int | None = 0 if index else None
        """Whom it is told to follow; None: it is to order."""
        self.ledger: EmbeddedLedger = self._make()
        self.task: asyncio.Task[None] | None = None

    @property
    def directory(self) -> Path | None:
        return None if self._swarm.directory is None else self._swarm.directory / f"node{self.index}"

    @property
    def key(self) -> SigningKey:
        return self._swarm.key if self.index == 0 else self._swarm.keys[self.index]

    def _config(self) -> EmbeddedConfig:
        swarm, directory = self._swarm, self.directory
        if directory is not None:
            directory.mkdir(exist_ok=True)
            self.app = KvApplication(directory / "app.msgpack")
        config = EmbeddedConfig(
            network=NETWORK,
            genesis=GENESIS,
            data_dir=directory,
            node=sn(self.index).id,
            sentinel=sn(0).id,
            sentinel_key=swarm.key.public,
            sentinel_address=None if self.follows is None else address(self.follows),
        )
        return msgspec.structs.replace(config, **swarm.changes)

    @contextmanager
    def succession(self) -> Iterator[Succession]:
        """The operator's steps, while the node is stopped."""
        with open_succession(self._config(), self.app, self.crash) as succession:
            yield succession

    def _make(self) -> EmbeddedLedger:
        swarm, index = self._swarm, self.index
        config = self._config()
        return EmbeddedLedger(
            config,
            self.app,
            self.key if self.follows is None else None,
            swarm.network.client(sn(index)),
            swarm.clocks.get(index, virtual_clock),
            random.Random(index),
            peers=swarm.peers,
            crash=self.crash,
        )

    async def start(self) -> None:
        """Start the engine anew on what is on disk, serve it and run it."""
        self.ledger = self._make()
        await self.ledger.start()
        self._swarm.network.serve(sn(self.index), address(self.index).endpoint, _Service(dict(self.ledger.calls)))
        self.task = asyncio.ensure_future(self.ledger.run())

    async def kill(self) -> None:
        """End at once; only what is on disk stays."""
        self._swarm.network.stop(sn(self.index))
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            self.task = None
        await self.ledger.stop()

    async def ended(self) -> SwarmError:
        """Wait until the engine ends by itself, and return why."""
        assert self.task is not None
        try:
            await asyncio.wait_for(self.task, 600)
        except SwarmError as error:
            return error
        except TimeoutError as error:
            raise AssertionError("ten minutes passed, and the engine still runs") from error
        raise AssertionError("the engine ended without an error")


class EmbeddedSwarm:
    """Embedded engines on one in-memory network. Use as an async context manager.

    Args:
        size: nodes; node 0 is the sentinel.
        directory: where nodes keep their data; None: in memory, so that a killed node forgets.
        faults: of the network.
        changes: fields of `EmbeddedConfig` that differ from the defaults.
    """

    def __init__(
        self, size: int, directory: Path | None = None, faults: Faults | None = None, **changes: object
    ) -> None:
        self.directory = directory
        self.network = MemoryNetwork(faults)
        self.key = SigningKey.create()
        self.keys = [SigningKey.create() for _ in range(size)]
        self.changes = changes
        self.clocks: dict[int, Callable[[], int]] = {}
        self.peers: Callable[[], Sequence[Address]] | None = None
        self.nodes = [TestNode(self, index) for index in range(size)]

    async def __aenter__(self) -> Self:
        for node in self.nodes:
            await node.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in self.nodes:
            await node.kill()
        assert self.network.failures == []

    @property
    def size(self) -> int:
        return len(self.nodes)

    def ledger(self, index: int) -> EmbeddedLedger:
        return self.nodes[index].ledger

    def log(self, index: int) -> list[bytes]:
        return self.nodes[index].app.log

    async def start(self, index: int) -> None:
        await self.nodes[index].start()

    async def kill(self, index: int) -> None:
        await self.nodes[index].kill()


async def until(condition: Callable[[], object], what: str) -> None:
    """Let virtual time pass until `condition` holds; at most two minutes."""
    for _ in range(1200):
        if condition():
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"two minutes passed, but never: {what}")


class Forger:
    """Makes blocks with the sentinel's key: a chain of its own, of which single blocks may be wrong."""

    def __init__(self, key: SigningKey) -> None:
        self.key = key
        self.app = KvApplication()
        self.app.init(GENESIS)
        self.blocks: list[Block] = []

    def block(self, txs: Sequence[bytes] = (b"a=1",), **changes: Any) -> Block:
        """The next block; `changes` are fields of the header that differ from the right ones."""
        tip = self.blocks[-1].header if self.blocks else None
        header = BlockHeader(
            network=NETWORK,
            height=len(self.blocks) + 1,
            time_ms=START_MS if tip is None else tip.time_ms,
            previous_hash=sha256(GENESIS) if tip is None else hash_header(tip),
            txs_root=hash_txs(txs),
            app_hash=bytes(32),
            proposer=sn(0).id,
        )
        header = msgspec.structs.replace(header, **{k: v for k, v in changes.items() if k != "app_hash"})
        copy = KvApplication()
        copy.state = self.app.state
        if copy.state is not None and header.height == copy.state.height + 1:
            applied = copy.apply(execution_header(header), txs)
            header = msgspec.structs.replace(header, app_hash=changes.get("app_hash", applied.app_hash))
        return sign_block(header, txs, self.key)

    def add(self, txs: Sequence[bytes] = (b"a=1",), **changes: Any) -> Block:
        """Make the next block and go on from it."""
        block = self.block(txs, **changes)
        self.app.apply(execution_header(block.header), txs)
        self.app.commit()
        self.blocks.append(block)
        return block


class ScriptedSentinel:
    """Serves, as node 0, whatever blocks it is told to, and whatever answers to `ledger/submit`."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.height: int | None = None
        self.submit_reply = SubmitReply(height=0, result=None)
        self.asked: list[float] = []
        self.calls: dict[str, Call] = {BLOCKS: self._blocks, SUBMIT: self._submit, HEADER: self._header}
        self.streams: dict[str, Stream] = {}

    async def _blocks(self, caller: Caller, body: bytes) -> bytes:
        request = decode(body, BlocksRequest)
        self.asked.append(asyncio.get_running_loop().time())
        found = self.blocks[request.from_height - 1 :]
        height = len(self.blocks) if self.height is None else self.height
        if not found and height >= request.from_height - 1:
            await asyncio.sleep(request.wait_ms / 1000)
        return encode(BlocksReply(height=height, blocks=tuple(encode(block) for block in found)))

    async def _submit(self, caller: Caller, body: bytes) -> bytes:
        return encode(self.submit_reply)

    async def _header(self, caller: Caller, body: bytes) -> bytes:
        request = decode(body, HeaderRequest)
        known = self.blocks[: self.height]
        at = min(request.height, len(known))
        return encode(HeaderReply(header=known[at - 1].signed_header if at else None, evidence=None))
