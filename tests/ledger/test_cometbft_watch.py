"""What the log is told of a child that is, or is not, connected to a quorum."""

import asyncio
import logging
from typing import cast

import pytest

from swarmlearning.ledger.cometbft.rpc import NodeInfo, Rpc, Status, SyncInfo
from swarmlearning.ledger.cometbft.watch import Watch
from swarmlearning.types import Endpoint, TrustDomain, Validator

MEMBERS = {
    TrustDomain(f"{name}.example"): Validator(
        key=bytes([number]) * 32, peer=name * 40, endpoint=Endpoint(host="192.0.2.1", port=number)
    )
    for number, name in enumerate("abcd", 1)
}


class Child:
    """Answers as the child of a.example."""

    def __init__(self) -> None:
        self.connected = ""
        self.is_behind = False

    async def status(self) -> Status:
        sync = SyncInfo(latest_block_height="7", catching_up=self.is_behind)
        return Status(node_info=NodeInfo(id="a" * 40), sync_info=sync)

    async def peers(self) -> frozenset[str]:
        return frozenset(name * 40 for name in self.connected)


def test_the_log_says_once_who_is_missing_and_when_nobody_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "swarmlearning.ledger")

    async def work() -> None:
        child = Child()
        watch = Watch(cast("Rpc", child), lambda: MEMBERS, lambda: "", 10)
        for connected, is_behind in (
            ("", True),
            ("", False),
            ("b", False),
            ("bc", True),
            ("bc", False),
            ("bcd", False),
        ):
            child.connected, child.is_behind = connected, is_behind
            await watch.look()
        child.connected = "d"
        await watch.look()

    asyncio.run(work())
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    need = "validators are connected here, 3 must be for blocks to be made; missing:"
    still = "the ledger stands still here:"
    assert told == [
        ("WARNING", f"{still} 1 of 4 {need} b.example, c.example, d.example"),
        ("WARNING", f"{still} 2 of 4 {need} c.example, d.example"),
        ("INFO", "nothing keeps the ledger from going on here any more"),
        ("WARNING", f"{still} 2 of 4 {need} b.example, c.example"),
    ]
