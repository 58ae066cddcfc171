"""`transition(version, state, …)`: one message carried out on the state. Spec: docs/spec/transactions.md."""

from functools import lru_cache
from typing import Final, assert_never

import msgspec

from swarmlearning.contracts import (
    approvals,
    closing,
    disputes,
    governance,
    measuring,
    membership,
    rounds,
    taskrunners,
    tasks,
    training,
)
from swarmlearning.contracts.context import Context, Rejected, State
from swarmlearning.contracts.figures import summarise_round
from swarmlearning.contracts.messages import (
    EXPIRY_WINDOW,
    MAX_TX_BYTES,
    TX_DOMAIN,
    AnyMessage,
    AppendTask,
    ApproveTask,
    AssignTask,
    CheckIn,
    CreateContract,
    CreateTask,
    CreateTaskrunner,
    DeleteTask,
    Enrol,
    FinalizeTask,
    Finish,
    Here,
    Leave,
    LeaveNetwork,
    ListenToRunner,
    Measure,
    MergeCommit,
    Payload,
    Propose,
    RegisterNode,
    ReportTask,
    ResetContract,
    ResetTaskrunner,
    RevokeCertificate,
    RotateValidator,
    Stored,
    Suspect,
    TakeTask,
    Tick,
    TrainingMessage,
    Tx,
    Unreachable,
    Vote,
    Withdraw,
)
from swarmlearning.contracts.records import Genesis, Phase, Training
from swarmlearning.contracts.task_records import Task, Taskrunner
from swarmlearning.encoding import decode, encode
from swarmlearning.errors import DecodeError, InvalidName, VerificationError
from swarmlearning.identity.certificate import parse_certificate
from swarmlearning.identity.signing import verify_signature
from swarmlearning.types import Code, NodeId, NodeName, Role

VERSION: Final = 1
"""Newest version of `transition` that this release knows."""

MAX_CONTRACTS: Final = 1000
"""Most training contracts that one organisation creates."""

OPENED: Final = 256
"""Transactions that a process remembers to have verified; 16 MiB at most, at 64 KiB each."""

_FAR_AHEAD_MS: Final = 1 << 40


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction whose form and signature hold."""

    payload: Payload
    signer: bytes


@lru_cache(maxsize=OPENED)
def open_tx(data: bytes) -> Signed:
    """TX-1 to TX-3: decode a transaction and verify its signature over the exact payload bytes.

    A node meets a transaction several times on its way into a block: the same bytes are verified once.

    Raises:
        Rejected: too large, malformed, not canonical, or the signature does not hold.
    """
    try:
        tx = decode(data, Tx, limit=MAX_TX_BYTES)
        payload = decode(tx.payload, Payload, limit=MAX_TX_BYTES)
    except DecodeError as error:
        raise Rejected(Code.MALFORMED, f"transaction: {error}") from error
    if len(tx.signer) != 32 or len(tx.signature) != 64 or len(payload.nonce) != 16:
        raise Rejected(Code.MALFORMED, "transaction: expected a key of 32, a signature of 64, a nonce of 16 bytes")
    try:
        verify_signature(tx.signer, TX_DOMAIN, tx.payload, tx.signature)
    except VerificationError as error:
        raise Rejected(Code.SIGNATURE, "transaction: the signature does not hold") from error
    return Signed(payload=payload, signer=tx.signer)


def nonce_key(signed: Signed) -> str:
    """State key that marks (signer, nonce) as used until the transaction expires."""
    return f"nonce/{signed.payload.expires:016d}/{signed.signer.hex()}/{signed.payload.nonce.hex()}"


def admit(state: State, genesis: Genesis, signed: Signed, height: int) -> None:
    """TX-4 to TX-6: made for this network, not expired, not expiring too far ahead, not seen before.

    Raises:
        Rejected: one of these does not hold.
    """
    payload = signed.payload
    if payload.network != genesis.network:
        raise Rejected(Code.NETWORK, f"transaction for network {payload.network!r}, this one is {genesis.network!r}")
    if not height <= payload.expires <= height + EXPIRY_WINDOW:
        raise Rejected(
            Code.EXPIRED,
            f"transaction expires at height {payload.expires}, the block is {height}; "
            f"expected {height} to {height + EXPIRY_WINDOW}",
        )
    if state.get(nonce_key(signed)) is not None:
        raise Rejected(Code.REPLAYED, "transaction: its nonce was used before by this signer")


def forget_nonces(state: State, last: int, height: int) -> None:
    """TX-8: remove the marks of transactions that expired before `height`: expiry itself refuses them now.

    Those up to `last`, the block before that was not empty, were removed with it, except its own; and none expires more
    than a window after it. So few heights are looked at, however many empty blocks lie between and marks there are.
    """
    for expired in range(last, min(height, last + EXPIRY_WINDOW + 1)):
        for key in list(state.keys(f"nonce/{expired:016d}/")):
            state.delete(key)


def identify(
    state: State,
    signed: Signed,
    height: int,
    times: tuple[int, int],
    previous_hash: bytes,
    sentinel: NodeId = NodeId(""),  # noqa: B008  # a str
) -> Context:
    """TX-7, TX-21: who sent it, by registered key (or, for a registration, by the identity that registers), for whom.

    Args:
        state: the state before the transaction.
        signed: the transaction.
        height: of the block.
        times: block time and elapsed time, milliseconds.
        previous_hash: of the previous block.
        sentinel: who orders the block; empty where validators do, or nobody knows yet.

    Raises:
        Rejected: the key is not registered, or may not sign any more; or the caller that it names is none.
    """
    message, caller = signed.payload.message, signed.payload.caller
    # A registration proves its sender itself (M-2).
    signer = message if isinstance(message, RegisterNode) else membership.require_signer(state, signed.signer)
    sender = signer.node
    try:
        name = NodeName.parse(sender)
        if caller:
            _check_caller(name, NodeName.parse(caller))
    except InvalidName as error:
        raise Rejected(Code.MALFORMED, str(error)) from error
    return Context(
        height=height,
        time_ms=times[0],
        elapsed_ms=times[1],
        previous_hash=previous_hash,
        sentinel=sentinel,
        sender=sender,
        name=name,
        caller=caller,
    )


def _check_caller(signer: NodeName, caller: NodeName) -> None:
    """TX-21: nodes speak for operators of their own organisation, in their own network, and for nobody else."""
    if (caller.domain, caller.network, caller.role) != (signer.domain, signer.network, Role.OPERATOR):
        raise Rejected(
            Code.NOT_ALLOWED,
            f"{signer.short} cannot speak for {caller.id}: expected an {Role.OPERATOR.value} of {signer.domain} in "
            f"network {signer.network}",
        )


Changed = Training | Task | Taskrunner | None
"""What a message was about; None: membership."""


def transition(version: int, state: State, context: Context, signed: Signed, network: str) -> Changed:
    """Carry out one message on `state`, and return what it was about, as it is now.

    Raises:
        Rejected: the message cannot be carried out; `state` may be half written and must be discarded.
    """
    if version != VERSION:
        raise Rejected(Code.NOT_ALLOWED, f"transition version {version} is not known to this release")
    message = signed.payload.message
    match message:
        case RegisterNode():
            membership.register_node(state, context, message, signed.signer, network)
            return None
        case RevokeCertificate():
            membership.revoke_certificate(state, context, message)
            return None
        case Propose() | Vote() | Withdraw() | LeaveNetwork() | RotateValidator():
            governance.govern(state, context, message)
            return None
        case CreateTask() | AppendTask() | FinalizeTask() | DeleteTask():
            return tasks.change_task(state, context, message)
        case ApproveTask():
            return approvals.approve_task(state, context, message)
        case CreateTaskrunner() | AssignTask() | ResetTaskrunner() | ListenToRunner() | TakeTask() | ReportTask():
            return taskrunners.change_runner(state, context, message)
        case CreateContract():
            membership.require_role(context, Role.SL, Role.SN, Role.OPERATOR)
            if state.get(membership.training_key(message.contract)) is not None:
                raise Rejected(Code.CONFLICT, f"contract {message.contract} exists already")
            created = training.create_contract(context, message)
            membership.count_up(state, "contracts", context.name.domain, MAX_CONTRACTS)
            return membership.save_training(state, created)
        case _:
            before = membership.load_training(state, message.contract)
            if before is None:
                raise Rejected(Code.NOT_FOUND, f"there is no contract {message.contract}")
            after = _advance(before, context, message)
            summary = summarise_round(before, after)
            if summary is not None:
                state.put(membership.history_key(after.name, before.finals), encode(summary))
            return before if after == before else membership.save_training(state, after)


def _advance(before: Training, context: Context, message: TrainingMessage) -> Training:
    """Hand a message to its rule."""
    allowed = {ResetContract: (Role.SL, Role.SN, Role.OPERATOR), Tick: (Role.SL, Role.SN)}
    membership.require_role(context, *allowed.get(type(message), (Role.SL,)))
    if before.phase not in (Phase.UNINITIALIZED, Phase.COMPLETED) and message.run == before.run:
        before = closing.wake_peer(before, context.sender)
    match message:
        case ResetContract():
            return training.reset_contract(before, context, message)
        case Enrol():
            return training.enrol(before, context, message)
        case CheckIn():
            return training.check_in(before, context, message)
        case Tick():
            return closing.tick(before, context, message)
        case Measure():
            return measuring.commit_distances(before, context, message)
        case MergeCommit():
            return rounds.commit_merge(before, context, message)
        case Stored():
            return rounds.record_stored(before, context, message)
        case Unreachable():
            return disputes.report_unreachable(before, context, message)
        case Suspect():
            return disputes.suspect_leader(before, context, message)
        case Here():
            return training.stay(before, context, message)
        case Finish():
            return training.finish(before, context, message)
        case Leave():
            return training.leave(before, context, message)
        case _:
            assert_never(message)


def hopeful_times(message: AnyMessage, time_ms: int, elapsed_ms: int) -> tuple[int, int]:
    """TX-9: block time and elapsed time by which a message is judged before it is ordered, milliseconds.

    Nobody knows yet the time of the block it will be in. So a wait counts as over, a certificate as begun, and what may
    be in the way of a proposal or a rotation as past: in a network where nothing else happens only the blocks that such
    messages are in let time pass.

    Args:
        message: to be judged.
        time_ms: of the last block.
        elapsed_ms: at the last block.
    """
    if isinstance(message, Tick):
        return time_ms, elapsed_ms + _FAR_AHEAD_MS
    if isinstance(message, Propose | RotateValidator):
        return time_ms + _FAR_AHEAD_MS, elapsed_ms
    if isinstance(message, RegisterNode):
        try:
            return max(time_ms, parse_certificate(message.certificate).not_before_ms), elapsed_ms
        except VerificationError:
            return time_ms, elapsed_ms  # refused, whatever the time
    return time_ms, elapsed_ms
