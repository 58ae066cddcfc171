"""The engine on CometBFT keeps what every engine promises (docs/spec/ledger-cometbft.md: B-7, B-8, B-13)."""

from contextlib import AbstractAsyncContextManager
from pathlib import Path

from cometbft_support import needs_cometbft
from cometbft_swarm import CometSwarm
from ledger_conformance import LedgerConformance, Swarm


@needs_cometbft
class TestCometLedger(LedgerConformance):
    spare = 4

    def swarm(self, size: int, directory: Path) -> AbstractAsyncContextManager[Swarm]:
        return CometSwarm(size, directory)
