"""Saying on the ledger that a peer leaves. Spec: docs/spec/control.md, C-6."""

import asyncio

import pytest
from sl_world import CONTRACT, name

from swarmlearning.contracts.messages import Leave, Payload, Tx
from swarmlearning.encoding import decode, encode
from swarmlearning.errors import Refused, WaitExpired
from swarmlearning.identity.signing import SigningKey
from swarmlearning.sl.leaving import Farewell
from swarmlearning.sn.api import CALL_STATUS, CALL_SUBMIT, Status, Submitted
from swarmlearning.sn.client import SnClient, Submitter
from swarmlearning.transport.api import Address, Caller
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import Code, Endpoint, Role


class Answering:
    """An SN whose answers to submissions the test gives: a result code, or None for silence."""

    def __init__(self, *answers: Code | None) -> None:
        self.answers = list(answers)
        self.height = 10
        self.taken: list[bytes] = []
        self.calls = {CALL_STATUS: self._status, CALL_SUBMIT: self._submit}
        self.streams = {}
        network, sn = MemoryNetwork(), name(0, Role.SN)
        endpoint = Endpoint(host="sn", port=1)
        network.serve(sn, endpoint, self)
        client = SnClient(network.client(name(0)), Address(node=sn.id, endpoint=endpoint))
        self.farewell = Farewell(Submitter(client, "testnet", SigningKey.create()), CONTRACT, 3, "x" * 500)

    async def _status(self, caller: Caller, body: bytes) -> bytes:
        sn = name(0, Role.SN).id
        status = Status(
            node=sn,
            network="testnet",
            sentinel=sn,
            height=self.height,
            transactions=0,
            app_hash=b"",
            time_ms=0,
            clock_ms=0,
            problem="",
            version="0",
        )
        return encode(status)

    async def _submit(self, caller: Caller, body: bytes) -> bytes:
        self.taken.append(body)
        await asyncio.sleep(0)
        code = self.answers.pop(0)
        if code is None:
            raise WaitExpired("no answer in time")
        return encode(Submitted(height=11, code=code, log=""))

    def payloads(self) -> list[Payload]:
        return [decode(decode(tx, Tx).payload, Payload) for tx in self.taken]


def test_c6_a_farewell_that_nobody_answered_is_said_again_in_the_same_bytes() -> None:
    sn = Answering(None, Code.OK)

    async def go() -> None:
        with pytest.raises(Refused, match="no answer"):
            await sn.farewell.say()
        assert not sn.farewell.is_heard
        await sn.farewell.say()

    asyncio.run(go())
    assert sn.farewell.is_heard
    assert sn.taken[0] == sn.taken[1]
    assert sn.payloads()[0].message == Leave(contract=CONTRACT, run=3, reason="x" * 200)


def test_c6_a_refusal_by_the_ledger_is_an_answer_too() -> None:
    sn = Answering(Code.STALE)
    asyncio.run(sn.farewell.say())
    assert sn.farewell.is_heard


def test_c6_one_that_expired_is_said_anew_from_where_the_ledger_stands() -> None:
    sn = Answering(Code.EXPIRED, Code.OK)
    asyncio.run(sn.farewell.say())
    first, second = sn.payloads()
    assert first.nonce != second.nonce
    assert sn.farewell.is_heard


def test_c6_two_that_say_it_at_once_say_it_once() -> None:
    sn = Answering(Code.OK)

    async def go() -> None:
        await asyncio.gather(sn.farewell.say(), sn.farewell.say())

    asyncio.run(go())
    assert len(sn.taken) == 1
