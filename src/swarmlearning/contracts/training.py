"""The training contract: creation, enrolment, check-in, close, end. Spec: docs/spec/training.md, T-1 to T-19.

Pure: every function takes a training and gives back the next one. The merging phase is in `rounds`.
"""

from typing import Final

import msgspec
from msgspec.structs import replace

from swarmlearning.contracts.context import Context, Rejected
from swarmlearning.contracts.messages import CheckIn, CreateContract, Enrol, Finish, Leave, ResetContract, Tick
from swarmlearning.contracts.records import (
    MAX_PEERS,
    MAX_WEIGHT,
    CheckedIn,
    Peer,
    PeerState,
    Phase,
    Progress,
    Round,
    Settings,
    Training,
)
from swarmlearning.contracts.rounds import (
    HASH_BYTES,
    collect_again,
    get_settings,
    merge_peers,
    open_next_round,
    required_peers,
    start_merging,
)
from swarmlearning.errors import InvalidName
from swarmlearning.types import Code, NodeId, check_contract_name, short_name

MAX_TEXT: Final = 200
_INT_LIMIT: Final = 1 << 62


# --- creation and reset ---------------------------------------------------------------------------------------------


def create_contract(context: Context, message: CreateContract) -> Training:
    """T-1: a new training contract, with settings or leaving them to the first enrolment.

    Raises:
        Rejected: malformed name or settings.
    """
    try:
        check_contract_name(message.contract)
    except InvalidName as error:
        raise Rejected(Code.MALFORMED, str(error)) from error
    if message.settings is not None:
        check_settings(message.settings)
    if len(message.organisations) > MAX_PEERS:
        raise Rejected(Code.MALFORMED, f"{len(message.organisations)} organisations, at most {MAX_PEERS}")
    return Training(
        name=message.contract,
        creator=context.name.domain,
        created_height=context.height,
        organisations=tuple(sorted(set(message.organisations))),
        settings=message.settings,
        settings_fixed=message.settings is not None,
    )


def check_settings(settings: Settings) -> None:
    """T-2: settings lie within their limits.

    Raises:
        Rejected: one does not; the log names it.
    """
    limits = (
        ("sync_frequency", settings.sync_frequency, 1, 1_000_000_000),
        ("witnesses", settings.witnesses, 0, 2),
        ("grace_ms", settings.grace_ms, 0, 86_400_000),
        ("lease_ms", settings.lease_ms, 100, 86_400_000),
        ("round_max_ms", settings.round_max_ms, 1_000, 7 * 86_400_000),
    )
    for name, value, low, high in limits:
        if not low <= value <= high:
            raise Rejected(Code.MALFORMED, f"setting {name} = {value}: expected {low} to {high}")
    if not settings.merge_method or len(settings.merge_method) > 64 or not settings.merge_method.isascii():
        raise Rejected(Code.MALFORMED, "setting merge_method: expected a name of 1-64 ASCII characters")


def reset_contract(training: Training, context: Context, message: ResetContract) -> Training:
    """T-3: a new run. The creator's organisation alone; while a training runs, a majority of the enrolled.

    Raises:
        Rejected: stale run, or not the sender's to say.
    """
    if message.run != training.run:
        raise Rejected(Code.STALE, f"{training.name} is at run {training.run}, not {message.run}")
    enrolled = [peer.node for peer in training.peers if peer.state is not PeerState.LEFT]
    if training.phase in (Phase.COLLECTING, Phase.MERGING) and enrolled:
        if context.sender not in enrolled:
            raise Rejected(Code.NOT_ALLOWED, f"{training.name} is running: a majority of its enrolled peers resets it")
        votes = {*training.reset_votes, context.sender} & set(enrolled)
        if 2 * len(votes) <= len(enrolled):
            return replace(training, reset_votes=tuple(sorted(votes)))
    elif context.name.domain != training.creator:
        raise Rejected(Code.NOT_ALLOWED, f"{training.name} was created by {training.creator}, only it resets it")
    return _new_run(training)


def _new_run(training: Training) -> Training:
    return Training(
        name=training.name,
        creator=training.creator,
        created_height=training.created_height,
        organisations=training.organisations,
        run=training.run + 1,
        settings=training.settings if training.settings_fixed else None,
        settings_fixed=training.settings_fixed,
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
            Code.CONFLICT, f"{training.name} has completed run {training.run}; RESET CONTRACT starts a new one"
        )
    if training.organisations and context.name.domain not in training.organisations:
        raise Rejected(Code.NOT_ALLOWED, f"{context.name.domain} is not among those that may enrol in {training.name}")
    check_settings(message.settings)
    if not 1 <= message.min_peers <= MAX_PEERS:
        raise Rejected(Code.MALFORMED, f"min_peers = {message.min_peers}: expected 1 to {MAX_PEERS}")
    if not 1 <= message.weight <= MAX_WEIGHT:
        raise Rejected(Code.MALFORMED, f"weight = {message.weight}: expected 1 to {MAX_WEIGHT}")
    if len(message.manifest.hash) != HASH_BYTES or not 0 <= message.manifest.size <= 1 << 40:
        raise Rejected(Code.MALFORMED, "manifest: expected a hash of 32 bytes and a size of at most 2^40 bytes")
    if training.settings is not None and training.settings != message.settings:
        raise Rejected(Code.CONFLICT, "settings: " + describe_settings(training.settings, message.settings))
    if training.manifest is not None and training.manifest != message.manifest:
        raise Rejected(
            Code.CONFLICT,
            f"model: the contract's manifest is {training.manifest.hash.hex()[:16]} ({training.manifest.size} bytes), "
            f"this peer's is {message.manifest.hash.hex()[:16]} ({message.manifest.size} bytes)",
        )
    known = {peer.node: peer for peer in training.peers}
    before = known.get(context.sender)
    if before is None and len(known) >= MAX_PEERS:
        raise Rejected(Code.CONFLICT, f"{training.name} has {MAX_PEERS} peers, the most there can be")
    current = training.round.number if training.round else 0
    known[context.sender] = Peer(
        node=context.sender,
        endpoint=message.endpoint,
        state=PeerState.LIVE,
        min_peers=message.min_peers,
        weight=message.weight,
        restored=message.restored,
        enrolled_round=before.enrolled_round if before else current,
        rounds_offered=before.rounds_offered if before else 0,
        rounds_contributed=before.rounds_contributed if before else 0,
        progress=before.progress if before else Progress(),
    )
    training = replace(
        training,
        settings=message.settings,
        manifest=message.manifest,
        peers=tuple(known[node] for node in sorted(known)),
    )
    if training.phase is Phase.UNINITIALIZED:
        return open_next_round(training, context, complete=False)
    return training


def describe_settings(contract: Settings, mine: Settings) -> str:
    """Which settings differ, with both values."""
    names = [f for f in contract.__struct_fields__ if getattr(contract, f) != getattr(mine, f)]
    return "; ".join(f"{f} is {getattr(contract, f)!r} on the contract, {getattr(mine, f)!r} here" for f in names)


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


def check_progress(progress: Progress) -> None:
    """T-9: what a peer tells of itself stays within limits.

    Raises:
        Rejected: it does not.
    """
    numbers = [v for v in msgspec.structs.astuple(progress) if isinstance(v, int)]
    if any(abs(v) > _INT_LIMIT for v in numbers) or len(progress.metric_name) > 64:
        raise Rejected(Code.MALFORMED, "progress: numbers up to 2^62 and a metric name of at most 64 characters")


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
    """T-16: a peer leaves politely. In a merging round its offer stands as long as it can be fetched.

    Raises:
        Rejected: stale run or not enrolled.
    """
    require_run(training, message.run)
    require_peer(training, context)
    if len(message.reason) > MAX_TEXT:
        raise Rejected(Code.MALFORMED, f"reason of {len(message.reason)} characters, at most {MAX_TEXT}")
    if training.phase is Phase.COMPLETED:
        return training
    peers = merge_peers(training.peers, context.sender, state=PeerState.LEFT)
    training = replace(training, peers=peers)
    if all(peer.state is PeerState.LEFT for peer in peers):
        # Nobody is left: a training that never had a result starts over, one that had is complete.
        return _new_run(training) if training.last is None else open_next_round(training, context, complete=True)
    if training.phase is Phase.COLLECTING and training.round is not None:
        kept = tuple(c for c in training.round.checkins if c.node != context.sender)
        training = replace(training, round=replace(training.round, checkins=kept))
        return close_if_ready(training, context, waited=False)
    return training


# --- closing a round ------------------------------------------------------------------------------------------------


def has_quorum(training: Training, round_: Round) -> bool:
    """T-12: enough have checked in, and among them one that still trains, if any does."""
    live = [peer for peer in training.peers if peer.state is PeerState.LIVE]
    checked = {c.node for c in round_.checkins}
    training_in = not live or any(peer.node in checked for peer in live)
    return len(checked) >= required_peers(training) and training_in


def missing_peers(training: Training) -> list[NodeId]:
    """Who is live and has not checked in to the open round."""
    if training.round is None:
        return []
    checked = {c.node for c in training.round.checkins}
    present = (PeerState.LIVE, PeerState.FINISHED)
    return [peer.node for peer in training.peers if peer.state in present and peer.node not in checked]


def close_if_ready(training: Training, context: Context, *, waited: bool) -> Training:
    """T-13, T-14: close the round when all live peers have checked in, or enough have and the grace period is over."""
    round_ = training.round
    if training.phase is not Phase.COLLECTING or round_ is None:
        return training
    quorum = has_quorum(training, round_)
    if quorum and round_.quorum_ms is None:
        round_ = replace(round_, quorum_ms=context.elapsed_ms)
    elif not quorum:
        round_ = replace(round_, quorum_ms=None)
    training = replace(training, round=round_)
    everyone = not missing_peers(training) and bool(round_.checkins)
    over = all(peer.state is not PeerState.LIVE for peer in training.peers)
    since = context.elapsed_ms - (context.elapsed_ms if round_.quorum_ms is None else round_.quorum_ms)
    graced = quorum and waited and since >= get_settings(training).grace_ms
    if not (quorum and (everyone or graced)) and not (over and everyone):
        return training
    absent = set(missing_peers(training))
    peers = tuple(
        replace(peer, state=PeerState.PAUSED) if peer.node in absent and peer.state is PeerState.LIVE else peer
        for peer in training.peers
    )
    training = replace(training, peers=peers)
    weighted = sum(1 for c in round_.checkins if c.weight > 0)
    drawing = training.last is None and get_settings(training).start == "draw"
    if not quorum or weighted < (1 if drawing else 2):
        training = replace(training, voids=training.voids + 1)
        return open_next_round(training, context, complete=over)
    return start_merging(training, context, closing=over)


def tick(training: Training, context: Context, message: Tick) -> Training:
    """T-17, T-18: somebody's wait is over; block time must agree.

    Raises:
        Rejected: stale, not running, or too early.
    """
    require_run(training, message.run)
    round_ = training.round
    if round_ is None or (message.round, message.attempt) != (round_.number, round_.attempt):
        raise Rejected(Code.STALE, f"{training.name} is not at round {message.round}, attempt {message.attempt}")
    if training.phase is Phase.COLLECTING:
        after = close_if_ready(training, context, waited=True)
        if after.round == round_ and after.phase is Phase.COLLECTING:
            raise Rejected(Code.TOO_EARLY, f"round {round_.number}: {explain_wait(training)}")
        return after
    waited = context.elapsed_ms - round_.attempt_ms
    if waited < get_settings(training).round_max_ms:
        raise Rejected(Code.TOO_EARLY, f"round {round_.number}, attempt {round_.attempt}: {waited} ms since it began")
    stored = {holding.node for holding in round_.holdings}
    absent = frozenset(round_.participants) - stored
    return collect_again(training, context, "did not store the result in time", absent if stored else frozenset())


def explain_wait(training: Training) -> str:
    """What the open round waits for, for people."""
    round_ = training.round
    if round_ is None:
        return "no round is open"
    checked, needed = len(round_.checkins), required_peers(training)
    names = ", ".join(short_name(node) for node in missing_peers(training))
    enrolled = sum(1 for peer in training.peers if peer.state is not PeerState.LEFT)
    if enrolled < needed:
        here = ", ".join(short_name(peer.node) for peer in training.peers if peer.state is not PeerState.LEFT)
        return f"{enrolled} of at least {needed} peers have enrolled ({here})"
    text = f"{checked} of at least {needed} peers have checked in"
    return f"{text}; missing: {names}" if names else text


def wake_peer(training: Training, node: NodeId) -> Training:
    """T-19: a paused peer's message makes it live again."""
    if any(peer.node == node and peer.state is PeerState.PAUSED for peer in training.peers):
        return replace(training, peers=merge_peers(training.peers, node, state=PeerState.LIVE))
    return training
