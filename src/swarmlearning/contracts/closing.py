"""When a round closes, and what it waits for until then. Spec: docs/spec/training.md, T-12 to T-19 and T-33.

Pure: every function takes a training and gives back the next one.
"""

from msgspec.structs import replace

from swarmlearning.contracts.context import Context, Rejected
from swarmlearning.contracts.figures import judge_figures
from swarmlearning.contracts.messages import Tick
from swarmlearning.contracts.records import PeerState, Phase, Round, Training
from swarmlearning.contracts.rounds import (
    collect_again,
    declining_nodes,
    dropped_nodes,
    get_settings,
    is_barred,
    is_drawing,
    merge_peers,
    open_next_round,
    open_round,
    pause_peers,
    pending_nodes,
    required_peers,
    start_merging,
)
from swarmlearning.types import Code, NodeId, short_name


def is_over(training: Training) -> bool:
    """Whether nobody trains any more: every peer has finished, left or is paused."""
    return all(peer.state is not PeerState.LIVE for peer in training.peers)


def grace_ms(training: Training) -> int:
    """T-13: how long a round waits for the others: the longest time that any peer that has not left wants.

    A peer that wants nothing else wants what the settings say.
    """
    settings = get_settings(training)
    wishes = [peer.grace_ms for peer in training.peers if peer.state is not PeerState.LEFT]
    return max((settings.grace_ms if wish is None else wish for wish in wishes), default=settings.grace_ms)


def missing_peers(training: Training) -> list[NodeId]:
    """Who is expected to check in to the open round and has not."""
    if training.round is None:
        return []
    checked = {c.node for c in training.round.checkins}
    expected = (PeerState.LIVE, PeerState.FINISHED)
    return [peer.node for peer in training.peers if peer.state in expected and peer.node not in checked]


def has_quorum(training: Training, round_: Round) -> bool:
    """T-12: enough have checked in, and among them one that still trains, if any does."""
    checked = {c.node for c in round_.checkins}
    return len(checked) >= required_peers(training) and (is_over(training) or _has_trainer(training, round_))


def _has_trainer(training: Training, round_: Round) -> bool:
    checked = {c.node for c in round_.checkins}
    return any(peer.node in checked and peer.state is PeerState.LIVE for peer in training.peers)


def close_if_ready(training: Training, context: Context, *, waited: bool) -> Training:
    """T-13: close the round when all have checked in, or when a wait for the others is over."""
    round_ = training.round
    if training.phase is not Phase.COLLECTING or round_ is None:
        return training
    quorum = has_quorum(training, round_)
    full = bool(round_.checkins) and not missing_peers(training)
    settled = quorum or (full and is_over(training))
    since = round_.quorum_ms if round_.quorum_ms is not None else context.elapsed_ms
    training = replace(training, round=replace(round_, quorum_ms=since if settled else None))
    paused = any(peer.state is PeerState.PAUSED for peer in training.peers)
    # The last rounds give those who missed the one before the grace period to say that they still train; where too few
    # have come and all others left, nobody can come whom it would be given.
    if full and settled and not (paused and is_over(training)):
        return _close(training, context)
    return _close(training, context) if waited and _is_wait_over(training, context) else training


def _is_patient(training: Training, round_: Round) -> bool:
    """T-13: whether the round closes at its time limit: enough have come, or nobody trains any more."""
    return bool(round_.checkins) and (is_over(training) or len(round_.checkins) >= required_peers(training))


def wait_ms(training: Training) -> int | None:
    """How long the wait that now runs lasts at most; None where a round waits for check-ins or enrolments alone."""
    round_ = training.round
    if round_ is None or training.settings is None:
        return None
    if training.phase is Phase.COLLECTING and round_.quorum_ms is not None:
        return min(grace_ms(training), training.settings.round_max_ms)
    if training.phase is Phase.MERGING or _is_patient(training, round_):
        return training.settings.round_max_ms
    return None


def _is_wait_over(training: Training, context: Context) -> bool:
    round_, settings = open_round(training), get_settings(training)
    if round_.quorum_ms is not None and context.elapsed_ms - round_.quorum_ms >= grace_ms(training):
        return True
    return _is_patient(training, round_) and context.elapsed_ms - round_.opened_ms >= settings.round_max_ms


def _close(training: Training, context: Context) -> Training:
    """T-13, T-14: whoever is missing is paused; the round merges, or is void where it cannot.

    T-35: a target that the newest model has reached ends the training with that model.
    """
    round_ = open_round(training)
    training = replace(training, peers=pause_peers(training.peers, missing_peers(training)))
    training = judge_figures(training, round_)
    if training.reached:
        peers = tuple(replace(p, state=PeerState.FINISHED) if p.state is PeerState.LIVE else p for p in training.peers)
        return open_next_round(replace(training, peers=peers), context, complete=True)
    over = is_over(training)
    needed = required_peers(training)
    weighted = sum(1 for c in round_.checkins if c.weight > 0)
    void = ""
    if len(round_.checkins) < needed:
        void = f"{len(round_.checkins)} of at least {needed} peers had checked in"
    elif weighted < (1 if is_drawing(training) else 2):
        void = f"{weighted} of its {len(round_.checkins)} peers offered parameters"
    elif all(c.node in declining_nodes(training) for c in round_.checkins):
        void = "each of its peers has declined to lead, or others had contradicted its results"
    if void:
        training = replace(training, voids=training.voids + 1)
        return open_next_round(training, context, complete=over, setback=f"round {round_.number} closed void: {void}")
    return start_merging(training, context, closing=over)


def tick(training: Training, context: Context, message: Tick) -> Training:
    """T-17, T-18: somebody's wait is over; block time must agree.

    Raises:
        Rejected: stale, not running, or too early.
    """
    round_ = training.round
    if (
        message.run != training.run
        or round_ is None
        or (message.round, message.attempt)
        != (
            round_.number,
            round_.attempt,
        )
    ):
        where = f"run {training.run}" + (f", round {round_.number}, attempt {round_.attempt}" if round_ else "")
        raise Rejected(Code.STALE, f"{training.name} is at {where}: the wait that is said to be over is not running")
    if training.phase is Phase.COLLECTING:
        after = close_if_ready(training, context, waited=True)
        if after == training:
            raise Rejected(Code.TOO_EARLY, f"round {round_.number}: {explain_wait(training)}")
        return after
    waited = context.elapsed_ms - round_.attempt_ms
    if waited < get_settings(training).round_max_ms:
        raise Rejected(Code.TOO_EARLY, f"round {round_.number}, attempt {round_.attempt}: {waited} ms since it began")
    stored = {holding.node for holding in round_.holdings}
    reason = f"the attempt took longer than {get_settings(training).round_max_ms // 1000} s"
    absent = frozenset(round_.participants) - stored if stored else frozenset[NodeId]()
    return collect_again(training, context, reason, absent)


def wake_peer(training: Training, node: NodeId) -> Training:
    """T-19: a paused peer's message makes it live again, if it is accepted."""
    if any(peer.node == node and peer.state is PeerState.PAUSED for peer in training.peers):
        return replace(training, peers=merge_peers(training.peers, node, state=PeerState.LIVE))
    return training


def explain_wait(training: Training) -> str:
    """T-33: what the training waits for, for people."""
    round_ = training.round
    if training.phase is Phase.UNINITIALIZED:
        return "nobody has enrolled yet"
    if training.phase is Phase.COMPLETED or round_ is None:
        return "the training is complete" + (": its target was reached" if training.reached else "")
    if training.phase is Phase.MERGING:
        return _explain_merging(round_)
    text = _explain_collecting(training, round_)
    return f"{text} ({round_.setback})" if round_.setback else text


def _explain_collecting(training: Training, round_: Round) -> str:
    checked, needed = len(round_.checkins), required_peers(training)
    here = [peer for peer in training.peers if peer.state is not PeerState.LEFT]
    if len(here) < needed:
        names = ", ".join(short_name(peer.node) for peer in here)
        return f"{len(here)} of at least {needed} peers have enrolled" + (f" ({names})" if names else "")
    expected = [short_name(node) for node in missing_peers(training)]
    came = {c.node for c in round_.checkins}
    absent = [peer.node for peer in here if peer.state is PeerState.PAUSED and peer.node not in came]
    why = {node: "its parameters were dropped too often" if is_barred(round_, node) else "paused" for node in absent}
    paused = [f"{short_name(node)} ({why[node]})" for node in absent]
    text = f"{checked} of at least {needed} peers have checked in"
    if checked < needed:
        names = ", ".join([*expected, *paused])
        return f"{text}; missing: {names}"
    if not is_over(training) and not _has_trainer(training, round_):
        text += ", none of them still training"
    if expected and round_.quorum_ms is not None:
        return f"{text}; waiting {grace_ms(training) / 1000:g} s at most for {', '.join(expected)}"
    return f"{text}; missing: {', '.join(expected)}" if expected else text


def _explain_merging(round_: Round) -> str:
    waiting = sorted({node for shard in range(round_.shards) for node in pending_nodes(round_, shard)})
    if waiting:
        done, what = sum(bool(root) for root in round_.merged), "measured" if round_.measuring else "merged"
        names = ", ".join(short_name(node) for node in waiting)
        return f"{done} of {round_.shards} shards are {what}; to be {what} by {names}"
    held = {*dropped_nodes(round_), *(holding.node for holding in round_.holdings)}
    names = ", ".join(short_name(node) for node in round_.participants if node not in held)
    stored = f"stored by {len(round_.holdings)} of {len(round_.participants)} participants"
    return f"merged; {stored}; to be stored by {names}"
