"""Judges the transactions that wait for a block in the child's pool.

CometBFT sends a transaction to each validator once, also to one that lags a block behind the state that the transaction
was made for. Were it refused there for good, too few might ever have it to order it, and it would wait for ever. So
what the application refuses only for now is kept until the next block, up to a bound, but not proposed.

Does not: hold the transactions, the child does. Spec: docs/spec/ledger-cometbft.md, section 3.
"""

from typing import Final

from swarmlearning.encoding import sha256
from swarmlearning.ledger.boundary import Application, TxResult
from swarmlearning.ledger.cometbft import abci_pb2 as pb
from swarmlearning.ledger.cometbft.home import MAX_TX_BYTES
from swarmlearning.ledger.cometbft.store import OrderedStore
from swarmlearning.ledger.waiting import Waiting
from swarmlearning.types import Code

ENGINE: Final = "engine"
"""Codespace of what the engine refuses itself; the application's is empty."""

ORDERED: Final = 1
"""The engine's code for a transaction that is in a block already."""

MAX_DOUBTFUL: Final = 256
"""Most transactions that are kept until the next block though the application refuses them now."""

_MAY_HEAL: Final = frozenset(
    {Code.UNKNOWN_SIGNER, Code.NOT_ALLOWED, Code.STALE, Code.CONFLICT, Code.NOT_FOUND, Code.TOO_EARLY}
)
"""Refusals that a block which is on its way may make void."""


class Pool:
    """Judges what waits.

    Args:
        app: the application.
        store: knows what is in a block.
        waiting: whoever waits for a transaction.
    """

    def __init__(self, app: Application, store: OrderedStore, waiting: Waiting) -> None:
        self._app = app
        self._store = store
        self._waiting = waiting
        self._doubtful: set[bytes] = set()
        """Hashes of what is kept until the next block."""

    def judge(self, tx: bytes) -> TxResult:
        """What the application says of a transaction that is in no block yet."""
        if len(tx) > MAX_TX_BYTES:
            return TxResult(
                code=Code.MALFORMED, log=f"transaction of {len(tx)} bytes: at most {MAX_TX_BYTES} are accepted"
            )
        return self._app.check(tx)

    def check(self, request: pb.RequestCheckTx) -> pb.Response:
        """Answer `CheckTx`: of a transaction that comes, or, after a block, of one that waits."""
        tx_hash = sha256(request.tx)
        if self._is_ordered(tx_hash):
            return _checked(ORDERED, "the transaction is in a block already", ENGINE)
        result = self.judge(request.tx)
        if result.code is Code.OK:
            return _checked(0, "", "")
        if request.type == pb.RECHECK:
            # It was offered, and leaves the pool unordered.
            self._waiting.tell(tx_hash, (0, result))
        elif result.code in _MAY_HEAL and len(self._doubtful) < MAX_DOUBTFUL:
            self._doubtful.add(tx_hash)
            return _checked(0, result.log, "")
        return _checked(result.code, result.log, "")

    def may_propose(self, tx: bytes) -> bool:
        """Whether a transaction that waits may be in the next block."""
        tx_hash = sha256(tx)
        return tx_hash not in self._doubtful and not self._is_ordered(tx_hash)

    def _is_ordered(self, tx_hash: bytes) -> bool:
        return self._store.find(tx_hash, upto=self._app.info().height) is not None

    def forget(self) -> None:
        """A block was committed, after which all that waits is checked again; or the child begins with nothing."""
        self._doubtful.clear()


def _checked(code: int, log: str, codespace: str) -> pb.Response:
    return pb.Response(check_tx=pb.ResponseCheckTx(code=code, log=log, codespace=codespace))
