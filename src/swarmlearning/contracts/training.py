"""The training contract: creation, enrolment, check-in, finishing, leaving. Spec: docs/spec/training.md, T-1 to T-16.

Pure: every function takes a training and gives back the next one. When a round closes is in `closing`, how it merges
in `rounds`.
"""

from collections.abc import Set as AbstractSet
from typing import Final

from msgspec.structs import replace

from swarmlearning.contracts.closing import close_if_ready
from swarmlearning.contracts.context import Context, Rejected
from swarmlearning.contracts.limits import (
    HASH_BYTES,
    MAX_GRACE_MS,
    MAX_TEXT,
    check_endpoint,
    check_manifest,
    check_progress,
    check_settings,
)
from swarmlearning.contracts.messages import CheckIn, CreateContract, Enrol, Finish, Here, Leave, ResetContract
from swarmlearning.contracts.records import (
    MAX_MEASURED_PEERS,
    MAX_PEERS,
    MAX_WEIGHT,
    CheckedIn,
    Peer,
    PeerState,
    Phase,
    Progress,
    Settings,
    Training,
)
from swarmlearning.contracts.rounds import (
    MAX_STRIKES,
    collect_again,
    get_settings,
    is_barred,
    merge_peers,
    open_next_round,
)
from swarmlearning.errors import InvalidName
from swarmlearning.types import Code, NodeId, check_contract_name, check_label, decimal, short_name

_MAX_NAMES: Final = 5
"""Most names in a refusal."""

_BARRED: Final = f"its parameters did not verify, or were not finite, {MAX_STRIKES} times"

# --- creation and reset ---------------------------------------------------------------------------------------------


def create_contract(context: Context, message: CreateContract) -> Training:
    """T-1: a new training contract, with settings or leaving them to the first enrolment.

    Raises:
        Rejected: malformed name or settings.
    """
    if len(message.organisations) > MAX_PEERS:
        raise Rejected(Code.MALFORMED, f"{len(message.organisations)} organisations, at most {MAX_PEERS}")
    try:
        check_contract_name(message.contract)
        for domain in message.organisations:
            check_label("trust domain", domain)
    except InvalidName as error:
        raise Rejected(Code.MALFORMED, str(error)) from error
    if message.settings is not None:
        check_settings(message.settings)
    return Training(
        name=message.contract,
        creator=context.name.domain,
        created_height=context.height,
        organisations=tuple(sorted(set(message.organisations))),
        settings=message.settings,
        settings_fixed=message.settings is not None,
    )


def reset_contract(training: Training, context: Context, message: ResetContract) -> Training:
    """T-3: a new run. By the creator's organisation while fewer than two train, else by a majority of the enrolled.

    Raises:
        Rejected: stale run, or not the sender's to say.
    """
    require_run(training, message.run)
    enrolled = _enrolled(training)
    running = training.phase in (Phase.COLLECTING, Phase.MERGING) and len(enrolled) > 1
    if context.name.domain == training.creator and not running:
        return new_run(training)
    if context.sender not in enrolled:
        who = f"{training.creator}, who created it, resets it"
        if running:
            who = f"a majority of its enrolled peers resets it, each as its SL: {explain_votes(training)}"
        raise Rejected(Code.NOT_ALLOWED, f"{training.name} is {training.phase.value}: {who}")
    votes = {*training.reset_votes, context.sender} & enrolled
    if 2 * len(votes) > len(enrolled):
        return new_run(training)
    return replace(training, reset_votes=tuple(sorted(votes)))


def _enrolled(training: Training) -> set[NodeId]:
    return {peer.node for peer in training.peers if peer.state is not PeerState.LEFT}


def explain_votes(training: Training) -> str:
    """T-3: what a reset still needs that enrolled peers vote on, for people."""
    enrolled = _enrolled(training)
    votes = enrolled.intersection(training.reset_votes)
    waiting = [short_name(node) for node in sorted(enrolled - votes)]
    names = ", ".join(waiting[:_MAX_NAMES]) + (f" and {len(waiting) - _MAX_NAMES} more" * (len(waiting) > _MAX_NAMES))
    return f"{len(votes)} of the {len(enrolled) // 2 + 1} votes that it needs are there; not yet asked for by {names}"


def new_run(training: Training) -> Training:
    """T-3: the contract as it begins anew."""
    return Training(
        name=training.name,
        creator=training.creator,
        created_height=training.created_height,
        organisations=training.organisations,
        run=training.run + 1,
        settings=training.settings if training.settings_fixed else None,
        settings_fixed=training.settings_fixed,
        finals=training.finals,
        version=training.version,
    )


# --- peers ----------------------------------------------------------------------------------------------------------


def enrol(training: Training, context: Context, message: Enrol) -> Training:
    """T-5 to T-8: an SL joins a run; the first one fixes settings and model, later ones must equal them.

    Raises:
        Rejected: stale run, complete, organisation not allowed, or other settings or model than the contract's.
    """
    require_run(training, message.run)
    if training.phase is Phase.COMPLETED:
        raise Rejected(
            Code.CONFLICT, f"{training.name} has completed run {training.run}; `swarm contract reset` starts a new one"
        )
    if training.organisations and context.name.domain not in training.organisations:
        raise Rejected(Code.NOT_ALLOWED, f"{context.name.domain} is not among those that may enrol in {training.name}")
    check_settings(message.settings)
    most = MAX_MEASURED_PEERS if message.settings.needs == "distances" else MAX_PEERS
    if not 1 <= message.min_peers <= most:
        raise Rejected(Code.MALFORMED, f"min_peers = {message.min_peers}: expected 1 to {most}")
    if not 1 <= message.weight <= MAX_WEIGHT:
        raise Rejected(Code.MALFORMED, f"weight = {message.weight}: expected 1 to {MAX_WEIGHT}")
    if message.grace_ms is not None and not 0 <= message.grace_ms <= MAX_GRACE_MS:
        raise Rejected(Code.MALFORMED, f"grace_ms = {message.grace_ms}: expected 0 to {MAX_GRACE_MS}")
    check_manifest(message.manifest)
    check_endpoint(message.endpoint)
    if training.settings is not None and training.settings != message.settings:
        raise Rejected(Code.CONFLICT, "settings: " + describe_settings(training.settings, message.settings))
    if training.manifest is not None and training.manifest != message.manifest:
        raise Rejected(
            Code.CONFLICT,
            f"model: the contract's manifest is {training.manifest.hash.hex()[:16]} ({training.manifest.size} bytes), "
            f"this peer's is {message.manifest.hash.hex()[:16]} ({message.manifest.size} bytes)",
        )
    before = next((peer for peer in training.peers if peer.node == context.sender), None)
    if before is None and len(training.peers) >= most:
        method = message.settings.merge_method
        raise Rejected(Code.CONFLICT, f"{training.name} has {most} peers, the most there can be with {method}")
    interval = training.interval or message.settings.sync_frequency
    training = replace(training, settings=message.settings, manifest=message.manifest, interval=interval)
    return _seat(training, context, message, before)


def _seat(training: Training, context: Context, message: Enrol, before: Peer | None) -> Training:
    """T-8: write down the enrolment. A program that enrols anew has started anew: its check-in is taken back."""
    current = training.round.number if training.round else 0
    peer = Peer(
        node=context.sender,
        endpoint=message.endpoint,
        state=PeerState.LIVE,
        min_peers=message.min_peers,
        weight=message.weight,
        restored=message.restored,
        enrolled_round=before.enrolled_round if before else current,
        grace_ms=message.grace_ms,
        leads=message.leads,
        recent=before.recent if before else 0,
        rounds_offered=before.rounds_offered if before else 0,
        rounds_contributed=before.rounds_contributed if before else 0,
        progress=before.progress if before else Progress(),
    )
    others = [other for other in training.peers if other.node != context.sender]
    training = replace(training, peers=tuple(sorted([*others, peer], key=lambda p: p.node)))
    if training.phase is Phase.UNINITIALIZED:
        return open_next_round(training, context, complete=False)
    if training.phase is Phase.MERGING:
        return training
    return close_if_ready(_withdraw_offer(training, context.sender), context, waited=False)


def _withdraw_offer(training: Training, node: NodeId) -> Training:
    if training.round is None:
        return training
    kept = tuple(c for c in training.round.checkins if c.node != node)
    return replace(training, round=replace(training.round, checkins=kept))


def describe_settings(contract: Settings, mine: Settings) -> str:
    """Which settings differ, with both values; of different methods not what follows from them."""
    names = [name for name in contract.__struct_fields__ if getattr(contract, name) != getattr(mine, name)]
    if "merge_method" in names:
        names = [name for name in names if name not in ("method_source", "needs")]
    return "; ".join(f"{name} is {_tell(contract, name)} on the contract, {_tell(mine, name)} here" for name in names)


def _tell(settings: Settings, name: str) -> str:
    if name != "merge_options":
        return repr(getattr(settings, name))
    return ", ".join(f"{option} {decimal(value)}" for option, value in settings.merge_options) or "none"


def require_run(training: Training, run: int) -> None:
    """T-4: refuse a message of another run.

    Raises:
        Rejected: it names another run than the current one.
    """
    if run != training.run:
        raise Rejected(Code.STALE, f"{training.name} is at run {training.run}; the message names run {run}")


def require_peer(training: Training, context: Context) -> Peer:
    """The sender's enrolment.

    Raises:
        Rejected: it has not enrolled, or has left.
    """
    for peer in training.peers:
        if peer.node == context.sender and peer.state is not PeerState.LEFT:
            return peer
    raise Rejected(Code.NOT_ALLOWED, f"{context.name.short} is not enrolled in {training.name}")


def check_in(training: Training, context: Context, message: CheckIn) -> Training:
    """T-10, T-11: a peer offers parameters for the open round; it may replace its own offer until the round closes.

    Raises:
        Rejected: stale, not enrolled, not at the newest result, or an offer its mode does not allow.
    """
    require_run(training, message.run)
    peer = require_peer(training, context)
    round_ = training.round
    if training.phase is not Phase.COLLECTING or round_ is None:
        raise Rejected(Code.STALE, f"{training.name} is {training.phase.value}, not collecting check-ins")
    if (message.round, message.attempt) != (round_.number, round_.attempt):
        raise Rejected(
            Code.STALE,
            f"{training.name} collects for round {round_.number}, attempt {round_.attempt}; "
            f"the message names round {message.round}, attempt {message.attempt}",
        )
    if is_barred(round_, context.sender):
        raise Rejected(Code.NOT_ALLOWED, f"round {round_.number} goes on without {context.name.short}: {_BARRED}")
    newest = training.last.sha256 if training.last else b""
    if message.base != newest:
        raise Rejected(Code.STALE, f"{context.name.short} has not adopted the newest result {newest.hex()[:16]}")
    finished = peer.state is PeerState.FINISHED
    _check_offer(training, message, peer, finished)
    check_progress(message.progress)
    offer = CheckedIn(
        node=context.sender,
        commitment=message.commitment,
        weight=message.weight,
        mode=message.mode,
        finished=finished,
        at_ms=context.elapsed_ms,
    )
    offers = {c.node: c for c in round_.checkins} | {context.sender: offer}
    training = replace(
        training,
        round=replace(round_, checkins=tuple(offers[node] for node in sorted(offers))),
        peers=merge_peers(training.peers, context.sender, progress=message.progress),
    )
    return close_if_ready(training, context, waited=False)


def _check_offer(training: Training, message: CheckIn, peer: Peer, finished: bool) -> None:
    allowed: tuple[str, ...] = ("active",)
    if finished:
        mode = get_settings(training).checkin_mode
        allowed = {"inactive": ("inactive",), "snapshot": ("snapshot", "inactive"), "active": ("last", "inactive")}[
            mode
        ]
    if message.mode not in allowed:
        state = "finished" if finished else "training"
        raise Rejected(Code.NOT_ALLOWED, f"check-in mode {message.mode}: a {state} peer offers {' or '.join(allowed)}")
    empty = message.mode == "inactive"
    if len(message.commitment) != (0 if empty else HASH_BYTES) or message.weight != (0 if empty else peer.weight):
        got = f"weight {message.weight} and a commitment of {len(message.commitment)} bytes"
        expected = "0 and 0" if empty else f"{peer.weight} and {HASH_BYTES}"
        raise Rejected(Code.MALFORMED, f"check-in mode {message.mode} with {got}; expected {expected}")


def stay(training: Training, context: Context, message: Here) -> Training:
    """T-19: a peer that a round has closed without says that it still trains; the message itself has woken it.

    Raises:
        Rejected: stale run or not enrolled.
    """
    require_run(training, message.run)
    require_peer(training, context)
    return close_if_ready(training, context, waited=False)


def finish(training: Training, context: Context, message: Finish) -> Training:
    """T-15: a peer's own training is over; its SL goes on checking in as the settings say.

    Raises:
        Rejected: stale run or not enrolled.
    """
    require_run(training, message.run)
    require_peer(training, context)
    check_progress(message.progress)
    if training.phase is Phase.COMPLETED:
        return training
    peers = merge_peers(training.peers, context.sender, state=PeerState.FINISHED, progress=message.progress)
    return close_if_ready(replace(training, peers=peers), context, waited=False)


def leave(training: Training, context: Context, message: Leave) -> Training:
    """T-16: a peer leaves politely. In a merging round it stays a participant, whose offer and charge stand.

    Raises:
        Rejected: stale run, not enrolled, or a reason that is too long.
    """
    require_run(training, message.run)
    require_peer(training, context)
    if len(message.reason) > MAX_TEXT:
        raise Rejected(Code.MALFORMED, f"reason of {len(message.reason)} characters, at most {MAX_TEXT}")
    if training.phase is Phase.COMPLETED:
        return training
    training = replace(training, peers=merge_peers(training.peers, context.sender, state=PeerState.LEFT))
    if all(peer.state is PeerState.LEFT for peer in training.peers):
        # Nobody is left, and nobody finished: a training without a result starts over, one with a result waits for
        # whoever comes back and goes on from it.
        if training.last is None:
            return new_run(training)
        if training.phase is Phase.MERGING:
            return collect_again(training, context, "every peer left")
        return _withdraw_offer(training, context.sender)
    if training.phase is Phase.MERGING:
        return training
    return close_if_ready(_withdraw_offer(training, context.sender), context, waited=False)


def go_on_without(training: Training, context: Context, gone: AbstractSet[NodeId], reason: str) -> Training:
    """T-52: peers that cannot take part any more count as left, at once; a merging round collects again without them.

    Args:
        training: any.
        context: of the message that has put them out.
        gone: whose transactions and connections are refused from now on.
        reason: for people.
    """
    out = {peer.node for peer in training.peers if peer.state is not PeerState.LEFT and peer.node in gone}
    round_ = training.round
    if not out or round_ is None:
        return training
    peers = tuple(replace(p, state=PeerState.LEFT) if p.node in out else p for p in training.peers)
    training = replace(training, peers=peers)
    nobody = all(peer.state is PeerState.LEFT for peer in peers)
    if nobody and training.last is None:
        return new_run(training)
    if training.phase is Phase.MERGING:
        # Unlike who leaves politely (T-16) they serve nobody any more.
        absent = frozenset(out.intersection(round_.participants))
        return collect_again(training, context, reason, absent) if absent or nobody else training
    for node in sorted(out):
        training = _withdraw_offer(training, node)
    return close_if_ready(training, context, waited=False)
