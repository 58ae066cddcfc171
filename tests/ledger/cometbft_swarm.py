"""Networks of real `cometbft` processes on loopback, each with an application in this process."""

import asyncio
import contextlib
import os
import re
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import msgspec
from cometbft_support import BINARY
from ledger_support import GENESIS, NETWORK, START_MS, Died, KvApplication, sn

from swarmlearning.ledger.boundary import Applied, Header, Misbehaviour, Snapshots
from swarmlearning.ledger.cometbft import abci_pb2 as pb
from swarmlearning.ledger.cometbft.config import CometConfig
from swarmlearning.ledger.cometbft.crash import CrashPoint
from swarmlearning.ledger.cometbft.engine import CometLedger
from swarmlearning.ledger.cometbft.home import HOME, load_or_create_keys
from swarmlearning.ledger.cometbft.parts import Parts
from swarmlearning.types import Endpoint, TrustDomain, Validator

LIMIT_S = 60.0


def free_ports(count: int) -> list[int]:
    """Ports of this machine on which nobody listens."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def domain(index: int) -> TrustDomain:
    """The organisation of test node `index`."""
    return sn(index).domain


class VotingApplication(KvApplication):
    """Besides, `+<domain>=<key> <peer> <host:port>` lets somebody vote, and `-<domain>=` nobody any more."""

    def _fold(self, txs: Sequence[bytes]) -> dict[TrustDomain, Validator]:
        members = dict(self.members)
        for tx in txs:
            name, _, value = tx[1:].decode().partition("=")
            if tx.startswith(b"+"):
                key, peer, endpoint = value.split()
                members[TrustDomain(name)] = Validator(
                    key=bytes.fromhex(key), peer=peer, endpoint=Endpoint.parse(endpoint, 1)
                )
            elif tx.startswith(b"-"):
                members.pop(TrustDomain(name), None)
        return members

    def validators(self) -> dict[TrustDomain, Validator]:
        return self._fold(self.log)

    def apply(self, header: Header, txs: Sequence[bytes], misbehaviour: Sequence[Misbehaviour] = ()) -> Applied:
        applied = super().apply(header, txs, misbehaviour)
        before, after = self.validators(), self._fold([*self.log, *txs])
        return applied if before == after else msgspec.structs.replace(applied, validators=tuple(after.values()))


class CrashAt:
    """Dies the first time that `point` is reached once armed."""

    def __init__(self) -> None:
        self.point: CrashPoint | None = None
        self.fired: CrashPoint | None = None

    def __call__(self, point: CrashPoint) -> None:
        if point is self.point:
            self.point, self.fired = None, point
            raise Died(f"died at {point.name}")


LETTERS = {
    "info": "i",
    "init_chain": "c",
    "prepare_proposal": "p",
    "process_proposal": "q",
    "extend_vote": "e",
    "verify_vote_extension": "v",
    "finalize_block": "f",
    "commit": "m",
    "offer_snapshot": "o",
    "apply_snapshot_chunk": "a",
}
"""ABCI's calls that the grammar speaks of."""

LIFE = re.compile(r"i?(c|(oa*)+)?([pqev]*fm)*[pqev]*f?")
"""The grammar of `spec/abci/abci++_comet_expected_behavior.md` of a life that may end anywhere:

    start = info [init-chain / 1*(offer-snapshot *apply-chunk)] *(*consensus-round finalize-block commit)

As every part of a round may be left out, any sequence of its calls is a sequence of rounds. `Info` may also be asked at
any time, and counts only at first."""


class Recorder:
    """Every call of a node's children, life by life."""

    def __init__(self) -> None:
        self.lives: list[list[str]] = []
        self.queries: dict[str, int] = {}
        """Path of each query to the code of its answer."""

    def attach(self, parts: Parts) -> None:
        """Record from now on."""
        begin, answer = parts.server._begin, parts.server._answer

        def recorded_begin() -> None:
            self.lives.append([])
            begin()

        def recorded(request: pb.Request) -> pb.Response:
            kind = request.WhichOneof("value")
            self.lives[-1].append(str(kind))
            response = answer(request)
            if kind == "query":
                self.queries[request.query.path] = response.query.code
            return response

        parts.server._begin, parts.server._answer = recorded_begin, recorded

    def check(self) -> None:
        """Every life follows the grammar."""
        for life in self.lives:
            letters = "".join(LETTERS.get(call, "") for call in life)
            word = letters[:1] + letters[1:].replace("i", "")
            assert LIFE.fullmatch(word), f"not a word of ABCI's grammar: {word}"


class CometNode:
    """One node: its engine, its application, the task that runs it, and its child."""

    def __init__(self, swarm: "CometSwarm", index: int, port: int) -> None:
        self._swarm = swarm
        self.index = index
        self.directory = swarm.directory / f"n{index}"
        (self.directory / HOME).mkdir(mode=0o700, parents=True, exist_ok=True)
        keys = load_or_create_keys(self.directory / HOME)
        self.endpoint = Endpoint(host="127.0.0.1", port=port)
        self.validator = Validator(key=keys.key, peer=keys.peer, endpoint=self.endpoint)
        self.changes: dict[str, object] = {}
        """Fields of its `CometConfig` that differ from the others'."""
        self.crash = CrashAt()
        self.recorder = Recorder()
        self.app = VotingApplication()
        self.ledger: CometLedger | None = None
        self.task: asyncio.Task[None] | None = None

    @property
    def parts(self) -> Parts:
        """Of the running engine."""
        assert self.ledger is not None
        assert self.ledger._parts is not None
        return self.ledger._parts

    def config(self) -> CometConfig:
        config = CometConfig(
            network=NETWORK,
            genesis=GENESIS,
            genesis_time_ms=START_MS,
            initial=tuple(self._swarm.members.values()),
            data_dir=self.directory,
            node=sn(self.index).id,
            listen=self.endpoint,
            binary=BINARY,
            watch_every_s=0.5,
            dial_again_s=1.0,
        )
        return msgspec.structs.replace(config, **(self._swarm.changes | self.changes))

    async def start(self) -> None:
        """Start the engine anew on what is on disk, and run it."""
        self.app = self._swarm.make_app(self.directory / "app.msgpack")
        self.app.members = dict(self._swarm.members)
        snapshots = None if self._swarm.make_snapshots is None else self._swarm.make_snapshots(self.app)
        self.ledger = CometLedger(self.config(), self.app, snapshots=snapshots, crash=self.crash)
        await self.ledger.start()
        self.recorder.attach(self.parts)
        self.task = asyncio.ensure_future(self.ledger.run())

    async def kill(self) -> None:
        """End at once, the child by SIGKILL; only what is on disk stays."""
        if self.ledger is None:
            return
        child = self.ledger.child
        if child is not None and child.pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            self.task = None
        await self.ledger.stop()


class CometSwarm:
    """Engines on CometBFT, each with its own child process. Use as an async context manager.

    Args:
        size: validators.
        directory: where nodes keep their data.
        more: nodes that are made, but neither vote nor are started.
        make_app: makes a node's application, given its file.
        make_snapshots: makes what gives and takes an application's state; None: nothing does.
        changes: fields of `CometConfig` that differ from the defaults.
    """

    def __init__(
        self,
        size: int,
        directory: Path,
        more: int = 0,
        make_app: Callable[[Path], VotingApplication] = VotingApplication,
        make_snapshots: Callable[[VotingApplication], Snapshots] | None = None,
        **changes: object,
    ) -> None:
        self.directory = directory
        self.size = size
        self.make_app = make_app
        self.make_snapshots = make_snapshots
        self.changes = changes
        self.members: dict[TrustDomain, Validator] = {}
        self.nodes = [CometNode(self, index, port) for index, port in enumerate(free_ports(size + more))]
        self.members = {domain(node.index): node.validator for node in self.nodes[:size]}

    async def __aenter__(self) -> Self:
        try:
            await asyncio.gather(*(node.start() for node in self.nodes[: self.size]))
            # Block 1 comes without a transaction: then the network stands.
            for index in range(self.size):
                await self.until(index, 1)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(node.kill() for node in self.nodes))
        for node in self.nodes:
            node.recorder.check()

    def ledger(self, index: int) -> CometLedger:
        ledger = self.nodes[index].ledger
        assert ledger is not None
        return ledger

    def log(self, index: int) -> list[bytes]:
        return self.nodes[index].app.log

    async def start(self, index: int) -> None:
        await self.nodes[index].start()

    async def kill(self, index: int) -> None:
        await self.nodes[index].kill()

    async def until(self, index: int, height: int) -> None:
        """Wait until a node has committed the block of `height`; says what is wrong if it does not."""
        try:
            await asyncio.wait_for(self.ledger(index).wait_height(height - 1), LIMIT_S)
        except TimeoutError as error:
            raise AssertionError(
                f"node {index} stands at {self.ledger(index).height}, not at {height}: {self.ledger(index).problem}"
            ) from error

    async def settle(self, *nodes: int) -> None:
        """Wait until the given nodes, all if none is given, are as far as the furthest."""
        chosen = nodes or tuple(range(self.size))
        top = max(self.ledger(index).height for index in chosen)
        for index in chosen:
            await self.until(index, top)


async def eventually(condition: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
    """Wait until `condition` holds, looking again and again: for what other processes do."""
    loop = asyncio.get_running_loop()
    end = loop.time() + limit_s
    while not condition():
        assert loop.time() < end, f"{limit_s:g} s passed, but never: {what}"
        await asyncio.sleep(0.02)
