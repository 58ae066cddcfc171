"""What peers' validation figures decide: the interval between merges, and the end. Spec: training.md, T-35 to T-38.

Pure, integers only. The figures that come with the check-ins to a round are of the merged model of the round before.
"""

from collections.abc import Iterable

from msgspec.structs import replace

from swarmlearning.contracts.records import (
    RECENT_ROUNDS,
    Adaptive,
    Peer,
    PeerFigures,
    Progress,
    Round,
    RoundSummary,
    Target,
    Training,
)

_RECENT_MASK = (1 << RECENT_ROUNDS) - 1


def mean_of(values: Iterable[int | None]) -> int | None:
    """Mean of those that are given, rounded down; None if none is."""
    given = [value for value in values if value is not None]
    return sum(given) // len(given) if given else None


def shown_figures(training: Training, round_: Round) -> list[Progress]:
    """What those who checked in to `round_` showed of the newest model."""
    came = {c.node for c in round_.checkins}
    newest = training.last.round if training.last else -1
    shown = [peer.progress for peer in training.peers if peer.node in came]
    return [progress for progress in shown if newest >= 0 and progress.figures_round == newest]


def judge_figures(training: Training, round_: Round) -> Training:
    """T-35, T-36: when a round closes, the newest model's figures count, once: for the interval and for the target."""
    settings = training.settings
    if training.last is None or settings is None or training.judged >= training.last.round:
        return training
    shown = shown_figures(training, round_)
    loss, metric = mean_of(p.loss_micro for p in shown), mean_of(p.metric_micro for p in shown)
    training = replace(training, judged=training.last.round)
    adaptive, target = settings.adaptive, settings.target
    if adaptive is not None and loss is not None:
        interval = adapt_interval(adaptive, training.interval, training.losses, loss)
        training = replace(training, interval=interval, losses=(*training.losses, loss)[-adaptive.window :])
    if target is None:
        return training
    streak = training.streak + 1 if is_reached(target, loss, metric) else 0
    return replace(training, streak=streak, reached=streak >= target.patience)


def adapt_interval(adaptive: Adaptive, interval: int, losses: tuple[int, ...], newest: int) -> int:
    """T-36: longer while the newest mean loss is below the mean of the earlier ones, else shorter; within bounds.

    The first loss decides nothing: there is none to compare it with.
    """
    if not losses:
        return interval
    if newest * len(losses) < sum(losses):
        return min(adaptive.longest, max(interval + 1, interval * adaptive.factor_percent // 100))
    return max(adaptive.shortest, min(interval - 1, interval * 100 // adaptive.factor_percent))


def is_reached(target: Target, loss: int | None, metric: int | None) -> bool:
    """T-35: whether means over the swarm are as good as the target says; a figure that nobody showed is not."""
    if target.loss_micro is not None and (loss is None or loss > target.loss_micro):
        return False
    if target.metric_micro is None:
        return True
    if metric is None:
        return False
    return metric <= target.metric_micro if target.metric_falls else metric >= target.metric_micro


def count_round(peer: Peer, *, offered: bool, contributed: bool) -> Peer:
    """T-31: a peer's share of rounds after one more became final, in all and of the last few."""
    if not offered:
        return peer
    return replace(
        peer,
        rounds_offered=peer.rounds_offered + 1,
        rounds_contributed=peer.rounds_contributed + contributed,
        recent=(peer.recent << 1 | contributed) & _RECENT_MASK,
    )


def recent_share(peer: Peer) -> tuple[int, int]:
    """To how many of its last rounds a peer contributed, and of how many, at most `RECENT_ROUNDS`."""
    return peer.recent.bit_count(), min(peer.rounds_offered, RECENT_ROUNDS)


def summarise_round(before: Training, after: Training) -> RoundSummary | None:
    """T-37: the summary of the round that became final between two records; None if none did."""
    round_, last = before.round, after.last
    if last is None or round_ is None or after.finals == before.finals:
        return None
    progress = {peer.node: peer.progress for peer in before.peers}
    shown = shown_figures(before, round_)
    silent = Progress()
    return RoundSummary(
        run=after.run,
        round=last.round,
        sha256=last.sha256,
        participants=last.participants,
        contributors=last.contributors,
        dropped=last.dropped,
        attempts=last.attempts,
        height=last.height,
        time_ms=last.time_ms,
        collect_ms=round_.closed_ms - round_.opened_ms,
        merge_ms=last.elapsed_ms - round_.closed_ms,
        interval=after.interval,
        mean_loss_micro=mean_of(p.loss_micro for p in shown),
        mean_metric_micro=mean_of(p.metric_micro for p in shown),
        figures=tuple(
            PeerFigures(node=node, progress=progress[node])
            for node in last.participants
            if progress.get(node, silent) != silent
        ),
    )
