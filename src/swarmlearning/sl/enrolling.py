"""Joining a training: create the contract if there is none, enrol, and say clearly what does not fit."""

import asyncio
import contextlib
from typing import Final

from swarmlearning.contracts.messages import CreateContract, Enrol
from swarmlearning.contracts.records import Manifested, PeerState, Training
from swarmlearning.encoding import decode, encode
from swarmlearning.errors import Broken, ModelMismatch, PeerError, Refused, SettingsMismatch, SwarmError, Unreachable
from swarmlearning.parameters.manifest import decode_manifest, describe_difference
from swarmlearning.sl.control import Open
from swarmlearning.sl.desk import Desk, log
from swarmlearning.sl.exchange import CALL_MANIFEST, ManifestRequest
from swarmlearning.sn.client import SnClient
from swarmlearning.types import Code, Endpoint, short_name

ASK_MANIFEST_S = 5.0
"""How long a peer may take to show its manifest, seconds."""


SHOWN_S: Final = 10.0
"""How long our SN may take to have what another one has ordered, seconds."""

_LOOK_S: Final = 0.05

PASSING: Final = frozenset({"stale", "busy", "Closed", "Unreachable", "WaitExpired"})
"""Codes of refusals that may not be repeated: the record moved on, or the SN itself waits for the ledger."""


def is_passing(error: SwarmError) -> bool:
    """Whether the same request may succeed a little later."""
    return isinstance(error, Unreachable) or (isinstance(error, Refused) and error.code in PASSING)


async def find_contract(desk: Desk, sn: SnClient) -> Training:
    """The contract, created if there is none.

    Raises:
        Refused: the ledger refused to create it.
        Unreachable: the SN does not answer, or does not have the block yet that created it.
    """
    record = await sn.training(desk.contract)
    if record is not None:
        return record
    refused: Refused | None = None
    try:
        await desk.submitter.require(CreateContract(contract=desk.contract))
        log.info("created contract %s", desk.contract)
    except Refused as error:
        if error.code != Code.CONFLICT.name.lower():
            raise
        refused = error  # another peer was faster; our SN may have yet to hear of it
    loop = asyncio.get_running_loop()
    end_s = loop.time() + SHOWN_S
    while (record := await sn.training(desk.contract)) is None:
        if loop.time() > end_s:
            raise refused or Unreachable(f"our SN has not shown contract {desk.contract} within {SHOWN_S:.0f} s")
        await asyncio.sleep(_LOOK_S)
    return record


async def enrol(desk: Desk, sn: SnClient, run: int, request: Open, endpoint: Endpoint) -> Training:
    """Enrol in a run; returns the record in which we are a peer.

    Args:
        desk: identity and tools.
        sn: our organisation's SN.
        run: of the contract.
        request: what the program asked for.
        endpoint: where other SLs reach us.

    Raises:
        SettingsMismatch, ModelMismatch: this program differs from the contract; says in what.
        Refused: the ledger refused the enrolment.
        Unreachable: the SN does not answer.
    """
    enrolment = Enrol(
        contract=desk.contract,
        run=run,
        settings=request.settings,
        manifest=Manifested(hash=desk.manifest.hash, size=desk.size),
        min_peers=request.min_peers,
        weight=request.weight,
        endpoint=endpoint,
        restored=request.restored,
        grace_ms=desk.grace_ms,
        leads=desk.leads,
    )
    try:
        await desk.submitter.require(enrolment)
    except Refused as refused:
        raise await _explain_refusal(desk, sn, refused) from refused
    record = await sn.training(desk.contract)
    if record is None:
        raise Broken(f"contract {desk.contract} is gone")
    return record


async def _explain_refusal(desk: Desk, sn: SnClient, refused: Refused) -> SwarmError:
    """The error for the user: what differs, on both sides."""
    text = str(refused)
    if refused.code != "conflict":
        return refused
    if text.startswith("settings: "):
        return SettingsMismatch(f"contract {desk.contract}: {text.removeprefix('settings: ')}")
    if not text.startswith("model: "):
        return refused
    difference = await _compare_manifests(desk, sn)
    return ModelMismatch(f"contract {desk.contract}: {difference or text.removeprefix('model: ')}")


async def _compare_manifests(desk: Desk, sn: SnClient) -> str:
    """The first tensor that differs from an enrolled peer's, or "" where none answers."""
    record = await sn.training(desk.contract)
    if record is None or record.manifest is None:
        return ""
    desk.training = record
    body = encode(ManifestRequest(contract=desk.contract))
    for peer in record.peers:
        if peer.state is PeerState.LEFT or peer.node == desk.node:
            continue
        with contextlib.suppress(Unreachable, PeerError):
            data = await desk.client.call(desk.address_of(peer.node), CALL_MANIFEST, body, timeout_s=ASK_MANIFEST_S)
            theirs = decode_manifest(decode(data, bytes))
            if theirs.hash == record.manifest.hash:
                return f"{describe_difference(desk.manifest, theirs)} ({short_name(peer.node)})"
    return ""
