"""A transaction comes to a block through a child that forgets, is full, or not there (docs/spec/ledger-cometbft.md)."""

import asyncio
import base64
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from ledger_support import GENESIS, NETWORK, START_MS, KvApplication, sn
from test_cometbft_driver import MEMBERS, validator

from swarmlearning.encoding import sha256
from swarmlearning.errors import Broken, Closed, ConfigurationError, DecodeError, Refused, Unreachable, WaitExpired
from swarmlearning.ledger.boundary import TxResult
from swarmlearning.ledger.cometbft import rpc
from swarmlearning.ledger.cometbft.config import CometConfig
from swarmlearning.ledger.cometbft.crash import never_crash
from swarmlearning.ledger.cometbft.driver import Driver
from swarmlearning.ledger.cometbft.pool import ENGINE, ORDERED
from swarmlearning.ledger.cometbft.rpc import MAX_REPLY_BYTES, Rpc
from swarmlearning.ledger.cometbft.store import OrderedStore
from swarmlearning.ledger.cometbft.submitting import Submitter
from swarmlearning.ledger.cometbft.watch import STARTING, Watch
from swarmlearning.ledger.waiting import Waiting
from swarmlearning.types import Code

ACCEPTED: dict[str, Any] = {"result": {"code": 0, "data": "", "log": "", "codespace": "", "hash": "00"}}


def error(data: str) -> dict[str, Any]:
    return {"error": {"code": -32603, "message": "Internal error", "data": data}}


CACHED = error("tx already exists in cache")
FULL = error("mempool is full: number of txs 5000 (max: 5000), total txs bytes 1 (max: 2)")


class FakeComet:
    """Answers JSON-RPC as the test says: the answers to a method in turn, the last one for ever."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Any]] = {}
        self.asked: list[tuple[str, Any]] = []
        self.on_broadcast: Callable[[bytes], None] = lambda _: None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        call = json.loads(await request.read())
        self.asked.append((call["method"], call["params"]))
        answers = self.answers.get(call["method"], [error("Method not found")])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if call["method"] == "broadcast_tx_sync":
            self.on_broadcast(base64.b64decode(call["params"]["tx"]))
        if isinstance(answer, bytes):
            return web.Response(body=answer)
        if answer == "hang":
            await asyncio.sleep(3600)
        if answer == "close":
            assert request.transport is not None
            request.transport.close()
        return web.json_response({"jsonrpc": "2.0", "id": 1, **answer})

    def count(self, method: str) -> int:
        return sum(asked == method for asked, _ in self.asked)


@contextlib.asynccontextmanager
async def served(control: Path) -> AsyncIterator[tuple[FakeComet, Rpc]]:
    comet = FakeComet()
    app = web.Application()
    app.router.add_post("/", comet.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.UnixSite(runner, str(control / "rpc.sock")).start()
    asking = Rpc(f"unix://{control / 'rpc.sock'}")
    try:
        yield comet, asking
    finally:
        await asking.close()
        await runner.cleanup()


class Submitting:
    """A submitter with its application, on a fake child."""

    def __init__(self, directory: Path, asking: Rpc, **changes: float) -> None:
        config = CometConfig(
            network=NETWORK,
            genesis=GENESIS,
            genesis_time_ms=START_MS,
            initial=tuple(MEMBERS.values()),
            data_dir=directory,
            node=sn(0).id,
            retry_min_s=0.01,
            retry_max_s=0.02,
            offer_again_s=0.02,
        )
        config = msgspec.structs.replace(config, **changes)
        self.app = KvApplication()
        self.app.init(GENESIS)
        self.store = OrderedStore(None, GENESIS)
        self.waiting = Waiting()
        self.problem = ""
        driver = Driver(config, self.app, self.store, self.waiting, never_crash)
        self.submitter = Submitter(config, driver, self.store, asking, self.waiting, lambda: self.problem)

    def commit(self, tx: bytes) -> None:
        """As if a block came that holds it."""
        self.waiting.tell(sha256(tx), (7, TxResult(code=Code.OK, log="at 7")))


DONE = (7, TxResult(code=Code.OK, log="at 7"))


@pytest.mark.parametrize(
    ("answer", "has_it"),
    [
        (ACCEPTED, True),
        (CACHED, True),
        ({"result": {"code": ORDERED, "log": "in a block already", "codespace": ENGINE}}, True),
        (FULL, False),
        (error("mempool is still rechecking after a new committed block"), False),
        (error("endpoint is closed while node is catching up"), False),
        ("close", False),
        (b"no json", False),
    ],
    ids=["accepted", "cached", "ordered", "full", "rechecking", "catching-up", "closed", "garbage"],
)
def test_b7_a_transaction_is_offered_until_the_child_has_it_and_then_from_time_to_time(
    answer: Any, has_it: bool, control: Path
) -> None:
    async def work() -> None:
        async with served(control) as (comet, asking):
            # One of the two waits has no end here, so the other one is taken.
            waits = {"retry_min_s": 3600.0, "retry_max_s": 3600.0} if has_it else {"offer_again_s": 3600.0}
            it = Submitting(control, asking, **waits)
            comet.answers["broadcast_tx_sync"] = [answer]
            offered = asyncio.Event()

            def on_broadcast(tx: bytes) -> None:
                assert tx == b"a=1"
                if comet.count("broadcast_tx_sync") >= 4:
                    offered.set()

            comet.on_broadcast = on_broadcast
            submitting = asyncio.ensure_future(it.submitter.submit(b"a=1", 20))
            await asyncio.wait_for(offered.wait(), 20)
            assert not submitting.done()
            it.commit(b"a=1")
            assert await submitting == DONE
            assert it.submitter.waiting_s == 0

    asyncio.run(work())


def test_b7_a_transaction_that_the_child_has_lost_is_offered_again(control: Path) -> None:
    async def work() -> None:
        async with served(control) as (comet, asking):
            it = Submitting(control, asking)
            comet.answers["broadcast_tx_sync"] = [ACCEPTED]
            comet.on_broadcast = lambda tx: it.commit(tx) if comet.count("broadcast_tx_sync") == 3 else None
            assert await it.submitter.submit(b"a=1", 20) == DONE

    asyncio.run(work())


def test_b7_a_block_that_comes_before_the_childs_answer_is_enough(control: Path) -> None:
    async def work() -> None:
        async with served(control) as (comet, asking):
            it = Submitting(control, asking)
            comet.answers["broadcast_tx_sync"] = ["hang"]
            comet.on_broadcast = it.commit
            assert await asyncio.wait_for(it.submitter.submit(b"a=1", 20), 5) == DONE

    asyncio.run(work())


def test_b12_a_refusal_is_the_answer_and_comes_with_height_0(control: Path) -> None:
    async def work() -> None:
        async with served(control) as (comet, asking):
            it = Submitting(control, asking)
            # Our own application refuses: the child is not even asked.
            expected = TxResult(code=Code.MALFORMED, log="expected key=value")
            assert await it.submitter.submit(b"nonsense", 20) == (0, expected)
            assert comet.asked == []
            comet.answers["broadcast_tx_sync"] = [{"result": {"code": 8, "log": "too late", "codespace": ""}}]
            assert await it.submitter.submit(b"a=1", 20) == (0, TxResult(code=Code.STALE, log="too late"))
            comet.answers["broadcast_tx_sync"] = [{"result": {"code": 99, "log": "", "codespace": ""}}]
            with pytest.raises(DecodeError, match="99, which is none of ours"):
                await it.submitter.submit(b"b=1", 20)

    asyncio.run(work())


def test_b12_one_that_is_refused_while_it_waits_is_answered(control: Path) -> None:
    async def work() -> None:
        async with served(control) as (comet, asking):
            it = Submitting(control, asking)
            refused = (0, TxResult(code=Code.STALE, log="too late"))
            comet.answers["broadcast_tx_sync"] = [ACCEPTED]
            comet.on_broadcast = lambda tx: it.waiting.tell(sha256(tx), refused)
            assert await it.submitter.submit(b"a=1", 20) == refused

    asyncio.run(work())


def test_b8_what_is_in_a_block_is_not_offered_again(control: Path) -> None:
    async def work() -> None:
        async with served(control) as (comet, asking):
            it = Submitting(control, asking)
            it.store.write(1, bytes(32), [b"a=1"], [TxResult(code=Code.OK, log="at 1")])
            assert it.app.state is not None
            it.app.state = msgspec.structs.replace(it.app.state, height=1)
            assert await it.submitter.submit(b"a=1", 20) == (1, TxResult(code=Code.OK, log="at 1"))
            assert comet.asked == []

    asyncio.run(work())


def test_b18_an_outcome_that_the_application_does_not_have_yet_is_not_told(control: Path) -> None:
    """After a crash our file may be a block ahead."""

    async def work() -> None:
        async with served(control) as (comet, asking):
            it = Submitting(control, asking)
            it.store.write(1, bytes(32), [b"a=1"], [TxResult(code=Code.OK, log="at 1")])
            comet.answers["broadcast_tx_sync"] = [CACHED]
            comet.on_broadcast = it.commit
            assert await it.submitter.submit(b"a=1", 20) == DONE

    asyncio.run(work())


@pytest.mark.parametrize("blocks_come", [False, True])
def test_b29_the_childs_pool_is_emptied_where_no_block_comes_so_that_all_peers_get_it_anew(
    blocks_come: bool, control: Path
) -> None:
    async def work() -> None:
        async with served(control) as (comet, asking):
            it = Submitting(control, asking)
            comet.answers.update(broadcast_tx_sync=[ACCEPTED], unsafe_flush_mempool=[{"result": {}}])

            def on_broadcast(tx: bytes) -> None:
                count = comet.count("broadcast_tx_sync")
                if blocks_come:
                    assert it.app.state is not None
                    it.app.state = msgspec.structs.replace(it.app.state, height=count)
                if count == 6:
                    it.commit(tx)

            comet.on_broadcast = on_broadcast
            assert await it.submitter.submit(b"a=1", 20) == DONE
            methods = [method for method, _ in comet.asked]
            if blocks_come:
                assert methods == ["broadcast_tx_sync"] * 6
            else:
                assert methods[:3] == ["broadcast_tx_sync", "unsafe_flush_mempool", "broadcast_tx_sync"]

    asyncio.run(work())


@pytest.mark.parametrize(
    ("answers", "problem", "why"),
    [
        ([ACCEPTED], "", "it waits for a block"),
        ([CACHED], "", "CometBFT has it, no block does"),
        ([FULL], "", "too many transactions wait for a block"),
        (["hang"], "", "it was not offered yet"),
        (["close"], "", "CometBFT cannot be asked"),
        ([ACCEPTED], "1 of 4 validators are connected here", "1 of 4 validators are connected here"),
    ],
    ids=["waits", "cached", "full", "hangs", "gone", "quorum"],
)
def test_b24_whoever_gives_up_is_told_why(answers: list[Any], problem: str, why: str, control: Path) -> None:
    async def work() -> None:
        async with served(control) as (comet, asking):
            it = Submitting(control, asking)
            it.problem = problem
            comet.answers["broadcast_tx_sync"] = list(answers)
            with pytest.raises(WaitExpired, match=f"within 0.2 s: {why}.*it may still be ordered"):
                await it.submitter.submit(b"a=1", 0.2)
            assert it.submitter.waiting_s == 0

    asyncio.run(work())


def test_whoever_waits_hears_that_the_engine_halted(control: Path) -> None:
    async def work() -> None:
        async with served(control) as (comet, asking):
            it = Submitting(control, asking)
            comet.answers["broadcast_tx_sync"] = [ACCEPTED]
            comet.on_broadcast = lambda _: it.waiting.halt(Broken("the disk is gone"))
            with pytest.raises(Broken, match="the disk is gone"):
                await it.submitter.submit(b"a=1", 20)
            with pytest.raises(Broken, match="the disk is gone"):
                await it.submitter.submit(b"b=1", 20)
            assert not isinstance(it.waiting.halted, Closed)

    asyncio.run(work())


# --- the child's RPC ---------------------------------------------------------------------------------------------


def test_an_answer_is_bounded_in_size_and_time(control: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with served(control) as (comet, asking):
            comet.answers["status"] = [b"[" * (MAX_REPLY_BYTES + 1), "hang"]
            with pytest.raises(DecodeError, match="more than 8388608 bytes"):
                await asking.status()
            monkeypatch.setattr(rpc, "_CALL_S", 0.1)
            with pytest.raises(Unreachable, match=r"did not answer status at unix://.* within 0.1 s"):
                await asking.status()

    asyncio.run(work())


@pytest.mark.parametrize(
    "answer",
    [b"", b"{}", b"[1]", b"[" * 100_000, b'{"result": {"sync_info": 1}}', b"\xff"],
    ids=["empty", "no-result", "list", "nested", "other", "no-text"],
)
def test_an_answer_of_another_form_is_refused(answer: bytes, control: Path) -> None:
    async def work() -> None:
        async with served(control) as (comet, asking):
            comet.answers["status"] = [answer]
            with pytest.raises(DecodeError, match=r"not what 0\.38 to 0.40 give"):
                await asking.status()

    asyncio.run(work())


def test_an_error_of_the_child_is_a_refusal_with_its_reason(control: Path) -> None:
    async def work() -> None:
        async with served(control) as (_, asking):
            with pytest.raises(Refused, match=r"CometBFT refuses net_info: Method not found"):
                await asking.peers()
        with pytest.raises(
            Unreachable, match=r"CometBFT cannot be asked at unix://.*: (Connection refused|No such file or directory)"
        ):
            await asking.peers()
        await asking.close()

    asyncio.run(work())


@pytest.mark.parametrize(
    "url",
    ["http://192.0.2.1:26657", "http://example.com:26657", "http://127.0.0.1", "https://127.0.0.1:1", "unix:", ""],
)
def test_b3_an_rpc_that_others_could_reach_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="must not be reachable from elsewhere"):
        Rpc(url)


# --- what is seen of the child -----------------------------------------------------------------------------------


def status(height: int = 5, own: int = 0, *, catching_up: bool = False) -> dict[str, Any]:
    info = {"latest_block_height": str(height), "catching_up": catching_up}
    return {"result": {"node_info": {"id": f"{own:040x}"}, "sync_info": info}}


def peers(*indices: int) -> dict[str, Any]:
    return {"result": {"n_peers": "0", "peers": [{"node_info": {"id": f"{index:040x}"}} for index in indices]}}


@pytest.mark.parametrize(
    ("told", "connected", "stalled", "problem"),
    [
        (status(), peers(1, 2, 3), "", ""),
        (status(), peers(1, 2), "", ""),
        (status(), peers(1), "", r"^2 of 4 validators are connected here, 3 must be .*; missing: hospital2.example, "),
        (status(), peers(1, 7, 8), "", "^2 of 4 validators"),
        (status(own=9), peers(1, 2), "", r"^2 of 4 .*\(this node is no validator's: not admitted yet, or expelled\)"),
        (status(own=9), peers(1, 2, 3), "", ""),
        (status(catching_up=True), peers(1, 2, 3), "", "^catching up with the other validators: at block 5"),
        (status(), peers(1, 2, 3), "nothing comes", "^nothing comes"),
        (error("out of order"), peers(), "", "^CometBFT refuses status: out of order"),
    ],
)
def test_b24_what_keeps_blocks_from_being_made_is_named(
    told: dict[str, Any], connected: dict[str, Any], stalled: str, problem: str, control: Path
) -> None:
    async def work() -> None:
        async with served(control) as (comet, asking):
            watch = Watch(asking, lambda: MEMBERS, lambda: stalled, 10)
            assert watch.sight.problem == STARTING
            comet.answers.update(status=[told], net_info=[connected])
            found = (await watch.look()).problem
            if problem:
                assert msgspec.structs.asdict(watch.sight)["problem"] == found
                assert re.search(problem, found), found
            else:
                assert found == ""

    asyncio.run(work())


def test_b24_a_child_that_does_not_answer_yet_is_starting_and_later_gone(control: Path) -> None:
    async def work() -> None:
        async with served(control) as (comet, asking):
            watch = Watch(asking, lambda: MEMBERS, lambda: "", 10)
            comet.answers.update(status=["close", status(), "close"], net_info=[peers(1, 2, 3)])
            assert (await watch.look()).problem == STARTING
            assert (await watch.look()).problem == ""
            assert "cannot be asked" in (await watch.look()).problem
            watch.forget()
            assert (await watch.look()).problem == STARTING

    asyncio.run(work())


def test_b22_members_are_dialled_again_while_one_is_missing_but_not_without_end(control: Path) -> None:
    async def work() -> None:
        async with served(control) as (comet, asking):
            comet.answers.update(status=[status()], net_info=[peers(1, 3)], dial_peers=[{"result": {"log": "dialing"}}])
            for dial_s, expected in ((3600, 0), (0, 1)):
                watch = Watch(asking, lambda: MEMBERS, lambda: "", dial_s)
                await watch.look()
                await watch.dial()
                assert comet.count("dial_peers") == expected
            assert comet.asked[-1] == (
                "dial_peers",
                {
                    "peers": [f"{index:040x}@{validator(index).endpoint}" for index in (1, 2, 3)],
                    "persistent": True,
                },
            )
            comet.answers["net_info"] = [peers(1, 2, 3)]
            await watch.look()
            await watch.dial()
            assert comet.count("dial_peers") == 1
            # A child that may not be told so is left alone.
            comet.answers.update(net_info=[peers(1, 3)], dial_peers=[error("Method not found")])
            await watch.look()
            await watch.dial()
            assert comet.count("dial_peers") == 2

    asyncio.run(work())
