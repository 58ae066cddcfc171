"""The embedded engine keeps what every engine promises (docs/spec/ledger.md: L-3, L-7, L-8, L-9, L-16)."""

from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from ledger_conformance import LedgerConformance, Swarm
from ledger_support import EmbeddedSwarm, run_virtual


class TestEmbeddedLedger(LedgerConformance):
    def swarm(self, size: int, directory: Path) -> AbstractAsyncContextManager[Swarm]:
        return EmbeddedSwarm(size, directory)

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        run_virtual(work)
