"""Comparing signed headers among nodes, so that a sentinel cannot tell two of them different things.

Blocks are hash-chained: if two nodes agree on the header at the lower of their heights, they agree on all below.
Spec: docs/spec/ledger.md, section 4.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from swarmlearning.encoding import decode, encode
from swarmlearning.errors import Broken, ForkDetected, PeerError, Unreachable, VerificationError
from swarmlearning.ledger.embedded.blocks import Evidence, is_contradiction, verify_header
from swarmlearning.ledger.embedded.chain import Chain
from swarmlearning.ledger.embedded.config import EmbeddedConfig
from swarmlearning.ledger.embedded.following import Following
from swarmlearning.ledger.embedded.wire import HEADER, HeaderReply, HeaderRequest
from swarmlearning.transport.api import Address, Client

_LOG: Final = logging.getLogger("swarmlearning.ledger")


async def compare_headers(
    config: EmbeddedConfig, chain: Chain, client: Client, following: Following, peers: Sequence[Address]
) -> None:
    """Compare handovers and headers with each of `peers`; one that does not answer, or talks nonsense, is passed over.

    Raises:
        ConfigurationError: a handover ended our sentinel's reign elsewhere than where we stand, or our own.
        ForkDetected: the sentinel signed two headers that cannot stand in one chain. The engine has halted.
    """
    tasks = [asyncio.ensure_future(_compare_or_log(config, chain, client, following, peer)) for peer in peers]
    try:
        for task in tasks:
            await task
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _compare_or_log(
    config: EmbeddedConfig, chain: Chain, client: Client, following: Following, peer: Address
) -> None:
    try:
        await following.learn(peer, config.reply_margin_s, is_source=False)
        await compare_header(config, chain, client, peer)
    except ForkDetected:
        raise
    except (Unreachable, PeerError) as error:
        _LOG.info("%s could not compare headers with %s: %s", config.node, peer.node, error)


async def compare_header(config: EmbeddedConfig, chain: Chain, client: Client, peer: Address) -> int:
    """Compare with one node, and return its height or ours, whichever is lower.

    Raises:
        Unreachable: it does not answer.
        Refused: it refuses us.
        DecodeError: its answer is malformed.
        VerificationError: its header or its evidence does not hold.
        ForkDetected: the sentinel lied. The engine has halted.
    """
    asked = chain.height
    body = encode(HeaderRequest(height=asked))
    reply = decode(await client.call(peer, HEADER, body, timeout_s=config.reply_margin_s), HeaderReply)
    if reply.evidence is not None:
        raise chain.convict(reply.evidence)
    if reply.header is None:
        return 0
    theirs = reply.header
    # 1. it is the sentinel's, and 2. one that we asked for
    verify_header(theirs, config.network, chain.reigns.at(theirs.header.height).key)
    if theirs.header.height > asked:
        raise VerificationError(f"{peer.node} answered with header {theirs.header.height}; asked was {asked} at most")
    # 3. it is the one that we hold
    ours = chain.read(theirs.header.height)
    if ours is None:
        raise Broken(f"block {theirs.header.height} is missing from the ledger of {config.node}")
    evidence = Evidence(first=ours.signed_header, second=theirs)
    if is_contradiction(evidence):
        raise chain.convict(evidence)
    return theirs.header.height
