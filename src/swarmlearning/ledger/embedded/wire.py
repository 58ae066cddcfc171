"""What nodes ask each other about the ledger. Spec: docs/spec/ledger.md, section 5."""

from typing import Annotated, Final

from msgspec import Meta

from swarmlearning.encoding import Record
from swarmlearning.ledger.boundary import TxResult
from swarmlearning.ledger.embedded.blocks import Evidence, SignedHeader
from swarmlearning.ledger.embedded.handovers import MAX_EPOCH

BLOCKS: Final = "ledger/blocks"
SUBMIT: Final = "ledger/submit"
HEADER: Final = "ledger/header"
HANDOVERS: Final = "ledger/handovers"

NOT_SENTINEL: Final = "not-sentinel"
"""Code of the refusal of a node that does not order."""

MAX_WAIT_MS: Final = 30_000
"""Longest that a node holds a request while there is nothing to answer."""

MAX_REPLY_BLOCK_BYTES: Final = 900 * 1024
"""Most bytes of blocks, or of handovers, in one reply."""

_Wait = Annotated[int, Meta(ge=0, le=MAX_WAIT_MS)]
_Height = Annotated[int, Meta(ge=0, le=2**62)]


class BlocksRequest(Record, frozen=True, kw_only=True):
    """Give me blocks from this height on; if there are none yet, wait for one so long."""

    from_height: Annotated[int, Meta(ge=1, le=2**62)]
    wait_ms: _Wait


class BlocksReply(Record, frozen=True, kw_only=True):
    """I stand at `height`; here are encoded blocks, as many as fit."""

    height: _Height
    blocks: tuple[bytes, ...]


class SubmitRequest(Record, frozen=True, kw_only=True):
    """Order this transaction, and tell me within the wait what came of it."""

    tx: bytes
    wait_ms: _Wait


class SubmitReply(Record, frozen=True, kw_only=True):
    """Block `height` holds it; or, with height 0, none ever will, or (without a result) none does yet."""

    height: _Height
    result: TxResult | None


class HeaderRequest(Record, frozen=True, kw_only=True):
    """Give me the header of this height, or your last one if you are not so far."""

    height: _Height


class HeaderReply(Record, frozen=True, kw_only=True):
    """The signed header; and if I know that the sentinel lied, the proof of it."""

    header: SignedHeader | None
    evidence: Evidence | None


class HandoversRequest(Record, frozen=True, kw_only=True):
    """Give me the handovers of higher epochs than this."""

    above: Annotated[int, Meta(ge=0, le=MAX_EPOCH)]


class HandoversReply(Record, frozen=True, kw_only=True):
    """I stand at `height`; here are encoded handovers with their signatures, by epoch, as many as fit."""

    height: _Height
    handovers: tuple[bytes, ...]
