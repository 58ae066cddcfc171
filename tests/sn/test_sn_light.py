"""What an SN tells another member's light client, and what a newcomer's CometBFT is told: docs/spec/access.md, A-13."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
from chain_world import Chain, member
from test_sn_access import HERE, SN, OneNodeLedger

from swarmlearning.encoding import encode
from swarmlearning.errors import PeerError, Refused, Unreachable
from swarmlearning.sn.api import CALL_LIGHT
from swarmlearning.sn.light import LightProxy, LightRequest
from swarmlearning.sn.service import MAX_LIGHT, MAX_LIGHT_ALL, SnService
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import NodeName, Role

ASKED = LightRequest(method="validators", params={"height": "7", "page": "1"})


class Office:
    """An SN of organisation 0, whose CometBFT answers with the question."""

    def __init__(self, crowd: int = MAX_LIGHT) -> None:
        chain = Chain(2)
        self._crowd = crowd
        self.network = MemoryNetwork()
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.crowded = asyncio.Event()
        self.held = asyncio.Event()
        self.held.set()
        self.service = SnService(SN, chain.app, OneNodeLedger(chain), lambda: chain.time_ms, light=self.light)
        self.network.serve(SN, HERE.endpoint, self.service)

    async def light(self, method: str, params: dict[str, str]) -> bytes:
        self.asked.append((method, params))
        if len(self.asked) == self._crowd:
            self.crowded.set()
        await self.held.wait()
        if method == "commit":
            raise Unreachable("CometBFT does not run")
        return json.dumps({"height": params["height"]}).encode()

    async def ask(self, name: NodeName, request: LightRequest | bytes = ASKED) -> bytes:
        body = request if isinstance(request, bytes) else encode(request)
        return await self.network.client(name).call(HERE, CALL_LIGHT, body, timeout_s=5)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


def test_a13_the_sns_of_all_members_are_answered_and_nobody_else() -> None:
    async def story() -> None:
        office = Office()
        for organisation in (0, 1):
            for role in Role:
                if role is Role.SN:
                    assert await office.ask(member(organisation, role)) == b'{"height": "7"}'
                else:
                    with pytest.raises(Refused, match="needs the role sn"):
                        await office.ask(member(organisation, role))
        assert office.asked == [("validators", {"height": "7", "page": "1"})] * 2

    run(story())


@pytest.mark.parametrize(
    "request_",
    [
        LightRequest(method="broadcast_tx_sync", params={"tx": "1"}),
        LightRequest(method="dial_peers", params={}),
        LightRequest(method="commit", params={"height": "7", "prove": "1"}),
        LightRequest(method="commit", params={"height": "7; x"}),
        LightRequest(method="commit", params={"height": "-1"}),
        LightRequest(method="commit", params={"height": "9" * 20}),
        b"rubbish",
    ],
)
def test_a13_nothing_else_is_asked_on(request_: LightRequest | bytes) -> None:
    async def story() -> None:
        office = Office()
        with pytest.raises(PeerError):
            await office.ask(member(1, Role.SN), request_)
        assert office.asked == []

    run(story())


def test_a13_one_organisation_has_so_many_questions_open_and_no_more_whatever_its_sns_are_called() -> None:
    async def story() -> None:
        office = Office()
        office.held.clear()
        names = [msgspec.structs.replace(member(1, Role.SN), name=f"sn{n}") for n in range(MAX_LIGHT + 1)]
        waiting = [asyncio.ensure_future(office.ask(name)) for name in names[:-1]]
        await office.crowded.wait()
        with pytest.raises(Refused, match="open already"):
            await office.ask(names[-1])
        office.held.set()
        assert await office.ask(member(0, Role.SN))
        assert len(await asyncio.gather(*waiting)) == MAX_LIGHT
        assert await office.ask(names[-1])
        assert not office.service._light_busy, "nothing is remembered of who asked once"

    run(story())


def test_a13_all_organisations_together_leave_connections_for_our_own_transactions() -> None:
    async def story() -> None:
        office = Office(crowd=MAX_LIGHT_ALL)
        office.held.clear()
        askers = [member(n, Role.SN) for n in range(MAX_LIGHT_ALL // MAX_LIGHT) for _ in range(MAX_LIGHT)]
        waiting = [asyncio.ensure_future(office.ask(name)) for name in askers]
        await office.crowded.wait()
        with pytest.raises(Refused, match=f"{MAX_LIGHT_ALL} in all"):
            await office.ask(member(MAX_LIGHT_ALL, Role.SN))
        office.held.set()
        await asyncio.gather(*waiting)

    run(story())


def test_a13_an_sn_of_the_embedded_ledger_has_nothing_to_say() -> None:
    async def story() -> None:
        chain, network = Chain(2), MemoryNetwork()
        network.serve(SN, HERE.endpoint, SnService(SN, chain.app, OneNodeLedger(chain), lambda: 0))
        with pytest.raises(Refused, match="no CometBFT here"):
            await network.client(member(1, Role.SN)).call(HERE, CALL_LIGHT, encode(ASKED), timeout_s=5)

    run(story())


@asynccontextmanager
async def proxy(office: Office) -> AsyncIterator[aiohttp.ClientSession]:
    """What a newcomer's CometBFT talks to."""
    made = LightProxy(office.network.client(member(1, Role.SN)), HERE)
    await made.start()
    try:
        connector = aiohttp.UnixConnector(made.url.removeprefix("unix://"))
        async with aiohttp.ClientSession(connector=connector) as session:
            yield session
    finally:
        await made.stop()


def test_a13_a_newcomers_cometbft_is_answered_what_the_member_answers() -> None:
    async def story() -> None:
        async with proxy(Office()) as session:
            question = {"jsonrpc": "2.0", "id": 5, "method": "validators", "params": {"height": 7, "page": None}}
            async with session.post("http://light/", json=question) as response:
                assert await response.json() == {"jsonrpc": "2.0", "id": 5, "result": {"height": "7"}}

    run(story())


@pytest.mark.parametrize(
    ("method", "says"), [("commit", "CometBFT does not run"), ("unsafe_flush_mempool", "expected one of commit")]
)
def test_a13_what_is_not_answered_is_an_error_of_json_rpc(method: str, says: str) -> None:
    async def story() -> None:
        async with proxy(Office()) as session:
            question = {"jsonrpc": "2.0", "id": 0, "method": method, "params": {"height": "7"}}
            async with session.post("http://light/", json=question) as response:
                answer = await response.json()
            assert says in answer["error"]["data"]
            assert "result" not in answer
            async with session.post("http://light/", data=b"rubbish") as response:
                assert response.status == 400

    run(story())
