"""The engine on CometBFT: validators vote, safe with fewer than a third dishonest. Spec: docs/spec/ledger-cometbft.md.

Modules, downwards: `engine` has `parts`: `submitting` brings transactions to the child, `watch` says whether it is
well, `child`, `home` and `binary` run it, `rpc` asks it; `server` (with `framing` and `abci_pb2`) takes its calls,
`driver` answers them in an `order` that is legal, and `store` keeps what was ordered.
"""

from swarmlearning.ledger.cometbft.config import Attach, CometConfig
from swarmlearning.ledger.cometbft.crash import CrashPoint
from swarmlearning.ledger.cometbft.engine import CometLedger

__all__ = ["Attach", "CometConfig", "CometLedger", "CrashPoint"]
