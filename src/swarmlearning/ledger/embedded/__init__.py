"""The embedded engine: one writer, many verified replicas. Spec: docs/spec/ledger.md, docs/adr/0004-embedded-ledger.md.

Modules, downwards: `engine` joins `sentinel` | `replica` and `service`, which take over blocks by `following`; these
share `chain` (commit path and recovery), which has `store` (SQLite) and `reigning` (who orders which block);
`blocks` and `handovers` hold the records everything is about. `succession` is for stopped nodes.
"""

from swarmlearning.ledger.embedded.blocks import Block, BlockHeader, Evidence, SignedHeader
from swarmlearning.ledger.embedded.config import EmbeddedConfig
from swarmlearning.ledger.embedded.crash import CrashPoint
from swarmlearning.ledger.embedded.engine import EmbeddedLedger
from swarmlearning.ledger.embedded.handovers import SignedHandover
from swarmlearning.ledger.embedded.succession import Succession, open_succession

__all__ = [
    "Block",
    "BlockHeader",
    "CrashPoint",
    "EmbeddedConfig",
    "EmbeddedLedger",
    "Evidence",
    "SignedHandover",
    "SignedHeader",
    "Succession",
    "open_succession",
]
