"""The ledger's history for auditors: one JSON object for each block, with every transaction decoded.

Bytes are written as hexadecimal digits. Does not: verify anything; a proof does (`sn.proofs`).
"""

import datetime as dt
from collections.abc import Iterable
from typing import Any

import msgspec

from swarmlearning.contracts.context import Rejected
from swarmlearning.contracts.messages import RegisterNode
from swarmlearning.contracts.records import Node
from swarmlearning.contracts.transition import open_tx
from swarmlearning.encoding import sha256
from swarmlearning.ledger.boundary import StoredBlock, TxResult
from swarmlearning.types import Code, NodeId


class History:
    """Writes blocks in their order, and learns from their registrations which node signs with which key.

    Args:
        known: nodes that are registered today: for keys whose registration is in no block that is written.
    """

    def __init__(self, known: Iterable[Node] = ()) -> None:
        self._nodes: dict[bytes, NodeId] = {node.key: node.node for node in known}

    def line(self, block: StoredBlock) -> bytes:
        """A block as one line of JSON, without its end."""
        pairs = zip(block.txs, block.results, strict=True)
        return msgspec.json.encode(
            {
                "height": block.height,
                "time": show_instant(block.time_ms),
                "time_ms": block.time_ms,
                "hash": block.hash.hex(),
                "proposer": block.proposer,
                "transactions": [self._transaction(tx, result) for tx, result in pairs],
            }
        )

    def _transaction(self, tx: bytes, result: TxResult) -> dict[str, object]:
        outcome = {"code": result.code.name, "log": result.log}
        try:
            signed = open_tx(tx)
        except Rejected:
            return {"hash": sha256(tx).hex(), "raw": tx.hex(), **outcome}
        payload = signed.payload
        if isinstance(payload.message, RegisterNode) and result.code is Code.OK:
            self._nodes[signed.signer] = payload.message.node
        return {
            "hash": sha256(tx).hex(),
            "signer": signed.signer.hex(),
            "node": self._nodes.get(signed.signer),
            "caller": payload.caller or None,
            "nonce": payload.nonce.hex(),
            "expires": payload.expires,
            "message": _plain(msgspec.to_builtins(payload.message, builtin_types=(bytes,))),
            **outcome,
        }


def show_instant(ms: int) -> str:
    """Milliseconds since the epoch as ISO 8601, UTC, with milliseconds."""
    seconds, rest = divmod(ms, 1000)
    try:
        return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"
    except (OverflowError, ValueError, OSError):
        return f"{ms} ms"


def _plain(value: Any) -> Any:  # noqa: ANN401  # whatever a message holds
    """`value` with its bytes as hexadecimal digits."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
