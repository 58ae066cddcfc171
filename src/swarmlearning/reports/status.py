"""What `swarm status` tells, as records: from a contract's record and history. Pure; asks nobody, draws nothing.

The same records are its `--json`: docs/how-to/watch-a-training.md. Texts that peers set are made printable here, once.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from swarmlearning.contracts.closing import explain_wait
from swarmlearning.contracts.figures import recent_share
from swarmlearning.contracts.proposals import DAY_MS, describe_offence
from swarmlearning.contracts.records import (
    MICRO,
    RECENT_ROUNDS,
    Adaptive,
    Peer,
    PeerState,
    Phase,
    RoundSummary,
    Training,
    wanted_witnesses,
)
from swarmlearning.contracts.rounds import required_peers
from swarmlearning.sn.api import Status
from swarmlearning.types import ContractName, NodeId, TrustDomain, short_name


class NetworkReport(msgspec.Struct, frozen=True, kw_only=True):
    """Where the SN that was asked stands."""

    sn: NodeId
    address: str
    network: str
    version: str
    height: int
    transactions: int
    ledger: str
    sentinel: NodeId
    """Who orders; empty where validators vote."""
    validators: int
    last_block_ms: int
    """Milliseconds since the epoch; an idle network makes no blocks."""
    asked_ms: int
    """By this machine's clock."""
    problem: str
    """What keeps the SN from following the ledger; empty while nothing does."""
    away: tuple[str, ...] = ()
    """Members whose validator is not connected to this SN's."""
    open_proposals: int = 0
    """About membership, on which members vote."""
    offences: tuple[str, ...] = ()
    """What validators have been accused of lately."""


class ContractLine(msgspec.Struct, frozen=True, kw_only=True):
    """A contract in short."""

    name: ContractName
    run: int
    phase: Phase
    round: int | None
    """The open one."""
    peers: int
    newest_round: int | None
    newest_model: str
    """SHA-256, hexadecimal; empty while there is none."""


class PeerReport(msgspec.Struct, frozen=True, kw_only=True):
    """An enrolled peer; None where it is not known, or the peer chooses not to show it."""

    node: NodeId
    name: str
    state: PeerState
    activity: str
    """`training`, `waiting` or `merging` while it is live, else its state."""
    epoch: int | None
    total_epochs: int | None
    eta_s: int | None
    loss: float | None
    metric: float | None
    metric_name: str
    figures_round: int | None
    """Of which round's merged model loss and metric are."""
    contributed: int
    """Rounds, of the `offered` that became final while it was enrolled."""
    offered: int
    recent_contributed: int
    recent_offered: int
    """The same of its last rounds, at most ten."""


class DroppedReport(msgspec.Struct, frozen=True, kw_only=True):
    """Whom a round went on without, and why."""

    node: NodeId
    name: str
    reason: str


class RoundReport(msgspec.Struct, frozen=True, kw_only=True):
    """A final round."""

    run: int
    round: int
    time_ms: int
    """When it became final, milliseconds since the epoch."""
    model: str
    """SHA-256, hexadecimal."""
    participants: tuple[NodeId, ...]
    contributors: tuple[NodeId, ...]
    drawn: bool
    """All adopted the one contributor's parameters."""
    missing: tuple[NodeId, ...]
    """Peers of this run, enrolled by then and not left, that did not check in to it."""
    dropped: tuple[DroppedReport, ...]
    attempts: int
    height: int
    collect_ms: int
    merge_ms: int
    interval: int
    """Batches between merges from then on."""
    mean_loss: float | None
    """Over the peers that showed theirs when they checked in: of the model of the round before."""
    mean_metric: float | None


class TargetReport(msgspec.Struct, frozen=True, kw_only=True):
    """When the training is good enough."""

    loss: float | None
    metric: float | None
    metric_falls: bool
    patience: int
    streak: int
    """Models in a row that have reached it."""
    reached: bool


class Warned(msgspec.Struct, frozen=True, kw_only=True):
    """Something that people should look at."""

    kind: Literal["share", "paused", "distrusted", "setback", "attempts", "dropped", "quorum"]
    text: str


class ContractReport(msgspec.Struct, frozen=True, kw_only=True):
    """A contract in full."""

    name: ContractName
    creator: TrustDomain
    created_height: int
    organisations: tuple[TrustDomain, ...]
    """Who may enrol; empty: every member."""
    run: int
    version: int
    """Of the record: grows with every change."""
    phase: Phase
    round: int | None
    attempt: int | None
    waits_for: str
    min_peers: int
    settings_given: bool
    """When it was created, and not by the first enrolment."""
    sync_frequency: int | None
    """None until the settings are fixed."""
    merge_method: str
    merge_options: dict[str, float]
    """As the contract has them: what is not in it is as the method has it."""
    method_source: str
    """Of a method that a plug-in brings: its distribution, version and the SHA-256 of its files; empty if built in."""
    wire: str
    """How parameters travel; empty until the settings are fixed."""
    topology: str
    """Empty until the settings are fixed."""
    witnesses: int | None
    """How many others recompute each shard."""
    interval: int
    """Batches between merges now; 0 before the first enrolment."""
    adaptive: Adaptive | None
    target: TargetReport | None
    manifest: str
    """SHA-256 of the model's manifest, hexadecimal; empty until the model is fixed."""
    model_bytes: int | None
    newest_round: int | None
    newest_model: str
    finals: int
    """Final rounds of all runs."""
    voids: int
    """Rounds of this run that closed without a merge."""
    warnings: tuple[Warned, ...]
    peers: tuple[PeerReport, ...]
    rounds: tuple[RoundReport, ...]
    """The newest, the oldest of them first."""


class StatusReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `swarm status` tells."""

    network: NetworkReport
    contracts: tuple[ContractLine, ...]
    contract: ContractReport | None
    """The one that was asked for, or the only one in use."""


NOT_PRINTABLE: Final = "?"

RECENT_MS: Final = 7 * DAY_MS
"""How long a status tells of an accusation, milliseconds."""


def make_printable(text: str) -> str:
    """`text` without characters that would steer a terminal or turn the direction of writing."""
    return "".join(c if c.isprintable() else NOT_PRINTABLE for c in text)


def report_network(status: Status, address: str, asked_ms: int) -> NetworkReport:
    """The network in short."""
    return NetworkReport(
        sn=status.node,
        address=address,
        network=make_printable(status.network),
        version=make_printable(status.version),
        height=status.height,
        transactions=status.transactions,
        ledger=status.ledger,
        sentinel=status.sentinel,
        validators=status.validators,
        last_block_ms=status.time_ms,
        asked_ms=asked_ms,
        problem=make_printable(status.problem),
        away=status.away,
        open_proposals=status.open_proposals,
        offences=tuple(_newest_offences(status, asked_ms)),
    )


def _newest_offences(status: Status, asked_ms: int) -> Iterator[str]:
    """Of each organisation the newest of those that are recent; a copied key may be found out at every height."""
    recent = [offence for offence in status.offences if asked_ms - offence.recorded_ms < RECENT_MS]
    newest = {offence.domain or offence.address: offence for offence in recent}
    for who, offence in newest.items():
        more = sum((each.domain or each.address) == who for each in recent) - 1
        yield describe_offence(offence) + (f", and {more} more like it" if more else "")


def is_used(training: Training) -> bool:
    """Whether anybody has enrolled in a contract's run."""
    return training.phase is not Phase.UNINITIALIZED


def report_line(training: Training) -> ContractLine:
    """A contract in short."""
    return ContractLine(
        name=training.name,
        run=training.run,
        phase=training.phase,
        round=training.round.number if training.round else None,
        peers=len(training.peers),
        newest_round=training.last.round if training.last else None,
        newest_model=training.last.sha256.hex() if training.last else "",
    )


def report_contract(training: Training, history: Sequence[RoundSummary] = ()) -> ContractReport:
    """A contract in full, with those of its rounds that `history` has, the oldest first."""
    settings, round_ = training.settings, training.round
    line = report_line(training)
    return ContractReport(
        name=training.name,
        creator=training.creator,
        created_height=training.created_height,
        organisations=training.organisations,
        run=training.run,
        version=training.version,
        phase=training.phase,
        round=line.round,
        attempt=round_.attempt if round_ else None,
        waits_for=make_printable(explain_wait(training)),
        min_peers=required_peers(training),
        settings_given=training.settings_fixed,
        sync_frequency=settings.sync_frequency if settings else None,
        merge_method=make_printable(settings.merge_method) if settings else "",
        merge_options={make_printable(k): v / MICRO for k, v in settings.merge_options} if settings else {},
        method_source=make_printable(settings.method_source) if settings else "",
        wire=settings.wire if settings else "",
        topology=settings.topology if settings else "",
        witnesses=wanted_witnesses(settings) if settings else None,
        interval=training.interval,
        adaptive=settings.adaptive if settings else None,
        target=_report_target(training),
        manifest=training.manifest.hash.hex() if training.manifest else "",
        model_bytes=training.manifest.size if training.manifest else None,
        newest_round=line.newest_round,
        newest_model=line.newest_model,
        finals=training.finals,
        voids=training.voids,
        warnings=tuple(find_warnings(training)),
        peers=tuple(_report_peer(peer, training) for peer in training.peers),
        rounds=tuple(_report_round(summary, training) for summary in history),
    )


def _report_target(training: Training) -> TargetReport | None:
    target = training.settings.target if training.settings else None
    if target is None:
        return None
    return TargetReport(
        loss=_from_micro(target.loss_micro),
        metric=_from_micro(target.metric_micro),
        metric_falls=target.metric_falls,
        patience=target.patience,
        streak=training.streak,
        reached=training.reached,
    )


def _report_peer(peer: Peer, training: Training) -> PeerReport:
    progress = peer.progress
    recent_contributed, recent_offered = recent_share(peer)
    shown = progress.loss_micro is not None or progress.metric_micro is not None
    return PeerReport(
        node=peer.node,
        name=short_name(peer.node),
        state=peer.state,
        activity=describe_activity(peer, training),
        epoch=_given(progress.epoch),
        total_epochs=_given(progress.total_epochs),
        eta_s=_given(progress.eta_s),
        loss=_from_micro(progress.loss_micro),
        metric=_from_micro(progress.metric_micro),
        metric_name=make_printable(progress.metric_name),
        figures_round=_given(progress.figures_round) if shown else None,
        contributed=peer.rounds_contributed,
        offered=peer.rounds_offered,
        recent_contributed=recent_contributed,
        recent_offered=recent_offered,
    )


def _report_round(summary: RoundSummary, training: Training) -> RoundReport:
    expected = (
        peer.node
        for peer in training.peers
        if summary.run == training.run and peer.state is not PeerState.LEFT and peer.enrolled_round <= summary.round
    )
    dropped = tuple(
        DroppedReport(node=d.node, name=short_name(d.node), reason=make_printable(d.reason)) for d in summary.dropped
    )
    known = {*summary.participants, *(d.node for d in dropped)}
    return RoundReport(
        run=summary.run,
        round=summary.round,
        time_ms=summary.time_ms,
        model=summary.sha256.hex(),
        participants=summary.participants,
        contributors=summary.contributors,
        drawn=len(summary.contributors) == 1,  # every other round needs two: T-14, T-28
        missing=tuple(node for node in expected if node not in known),
        dropped=dropped,
        attempts=summary.attempts,
        height=summary.height,
        collect_ms=summary.collect_ms,
        merge_ms=summary.merge_ms,
        interval=summary.interval,
        mean_loss=_from_micro(summary.mean_loss_micro),
        mean_metric=_from_micro(summary.mean_metric_micro),
    )


def find_warnings(training: Training) -> list[Warned]:
    """What is not as it should be, most urgent first."""
    if training.phase in (Phase.COMPLETED, Phase.UNINITIALIZED):
        return []
    warnings = [*_warn_of_round(training)]
    for peer in training.peers:
        name = short_name(peer.node)
        contributed, offered = recent_share(peer)
        if peer.state is PeerState.PAUSED:
            text = f"{name} is paused: it missed the close of a round, and rounds do not wait for it until it is back"
            warnings.append(Warned(kind="paused", text=text))
        # While fewer are counted the share says little: in round 0 the parameters of one peer are drawn.
        counted = peer.state in (PeerState.LIVE, PeerState.PAUSED) and offered == RECENT_ROUNDS
        if counted and 2 * contributed < offered:
            text = (
                f"{name} contributed to {contributed} of its last {offered} rounds: if it is slow, let rounds wait "
                "longer (a longer grace period); else see its log"
            )
            warnings.append(Warned(kind="share", text=text))
    for node in training.distrusted:
        text = f"{short_name(node)} contradicted a result that others agreed on: it leads nothing more in this run"
        warnings.append(Warned(kind="distrusted", text=text))
    return [replace(warning, text=make_printable(warning.text)) for warning in warnings]


def _warn_of_round(training: Training) -> list[Warned]:
    round_ = training.round
    if round_ is None:
        return []
    warnings = []
    needed = required_peers(training)
    came = {c.node for c in round_.checkins}
    here = [
        peer
        for peer in training.peers
        if peer.state in (PeerState.LIVE, PeerState.FINISHED) or (peer.node in came and peer.state is PeerState.PAUSED)
    ]
    if training.phase is Phase.COLLECTING and len(here) < needed:
        paused = [
            short_name(peer.node) for peer in training.peers if peer.state is PeerState.PAUSED and peer not in here
        ]
        waited = (
            f"waits for {', '.join(paused)} (paused)" if paused else f"waits for {needed - len(here)} more to enrol"
        )
        text = f"round {round_.number} cannot close: {len(here)} of at least {needed} peers are there; it {waited}"
        warnings.append(Warned(kind="quorum", text=text))
    if round_.setback:
        again = f"round {round_.number} collects check-ins again: " if round_.attempt else ""
        warnings.append(Warned(kind="setback", text=f"{again}{round_.setback}"))
    if training.phase is Phase.MERGING and round_.attempt > 1:
        text = f"round {round_.number} merges in attempt {round_.attempt}: somebody did not serve, lead or store"
        warnings.append(Warned(kind="attempts", text=text))
    for dropped in round_.dropped:
        text = f"round {round_.number} goes on without {short_name(dropped.node)}: {dropped.reason}"
        warnings.append(Warned(kind="dropped", text=text))
    return warnings


def _given(value: int) -> int | None:
    return value if value >= 0 else None


def _from_micro(value: int | None) -> float | None:
    return value / MICRO if value is not None else None


def describe_activity(peer: Peer, training: Training) -> str:
    """What a peer is doing, in one word."""
    if peer.state is not PeerState.LIVE:
        return peer.state.value
    if training.round is None:
        return "live"
    if training.phase is Phase.MERGING:
        return "merging" if peer.node in training.round.participants else "training"
    return "waiting" if any(c.node == peer.node for c in training.round.checkins) else "training"
