"""A training contract for people: what was agreed on, where it stands, its peers and rounds, line by line."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from swarmlearning.contracts.records import PeerState, Training
from swarmlearning.reports.nodes import node_uuid
from swarmlearning.reports.status import ContractReport, PeerReport, RoundReport, report_contract
from swarmlearning.reports.view import describe_place, describe_remarks, describe_result, describe_terms, show_figure
from swarmlearning.types import ContractName, NodeId, short_name

_MAX_NAMES: Final = 8
"""Most contributors that are named in a line."""


class PairReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `PERFDATA` tells of a peer: an SL and its ML program. None where it is not known or not shown."""

    uid: str
    """As LIST NODES shows it."""
    node: NodeId
    name: str
    admin: bool
    """It leads the merge of the open round."""
    loss: float | None
    metric: float | None
    metric_name: str
    total_epochs: int | None
    completed_epochs: int | None


def describe_newest(training: Training) -> str:
    """The newest result in a few words."""
    if training.last is None:
        return "no result yet"
    return f"round {training.last.round}, model {training.last.sha256.hex()[:16]}"


def describe_info(report: ContractReport) -> Iterator[tuple[str, str]]:
    """What a contract is and what was agreed on: labels and texts."""
    yield "contract", report.name
    yield "creator", f"{report.creator}, at height {report.created_height}"
    yield "may enrol", ", ".join(report.organisations) or "every member"
    yield "run", str(report.run)
    if report.settings_given:
        yield "settings", "given when it was created"
    elif report.sync_frequency is None:
        yield "settings", "none yet: the first peer that enrols brings them"
    else:
        yield "settings", "those of the first peer that enrolled"
    yield from describe_terms(report)
    if report.manifest:
        yield "layout", f"{report.model_bytes} bytes of parameters, manifest {report.manifest[:16]}"


def describe_status(report: ContractReport) -> Iterator[tuple[str, str]]:
    """Where a contract stands: labels and texts."""
    yield "contract", f"{report.name}, run {report.run}"
    yield from describe_place(report)
    counts = Counter(peer.activity for peer in report.peers)
    listed = ", ".join(f"{count} {activity}" for activity, count in sorted(counts.items()))
    yield "peers", f"{len(report.peers)}" + (f": {listed}" if listed else "")
    yield from describe_result(report) if report.newest_model else [("newest", "no result yet")]
    for warning in report.warnings:
        yield "WARNING", warning.text


def describe_training(training: Training) -> list[str]:
    """A contract for people, line by line: what it is, where it stands, its peers."""
    report = report_contract(training)
    stands = (pair for pair in describe_status(report) if pair[0] not in ("contract", "peers"))
    lines = [f"{label:<11} {text}" for label, text in (*describe_info(report), *stands)]
    return lines + [f"{'peer':<11} {_describe_peer(peer)}" for peer in report.peers]


def _describe_peer(peer: PeerReport) -> str:
    loss = f", loss {show_figure(peer.loss)}" if peer.loss is not None else ""
    return f"{peer.name}  {peer.state.value}  {peer.contributed} of {peer.offered} rounds{loss}"


def report_pairs(training: Training) -> tuple[PairReport, ...]:
    """The figures of a contract's peers, by node id."""
    leaders = training.round.leaders if training.round is not None else ()
    report = report_contract(training)
    return tuple(
        PairReport(
            uid=node_uuid(peer.node),
            node=peer.node,
            name=peer.name,
            admin=peer.node in leaders,
            loss=peer.loss,
            metric=peer.metric,
            metric_name=peer.metric_name,
            total_epochs=peer.total_epochs,
            completed_epochs=_count_completed(peer),
        )
        for peer in report.peers
    )


def _count_completed(peer: PeerReport) -> int | None:
    """A peer tells which epoch it has begun: that one is complete once the peer has finished."""
    if peer.epoch is None or peer.state is PeerState.FINISHED:
        return peer.epoch
    return max(0, peer.epoch - 1)


def describe_history(rounds: Sequence[RoundReport]) -> list[str]:
    """Who contributed to rounds, and who did not and why; the same of several in a row once."""
    return [*describe_remarks(rounds, _describe_contributors), *describe_remarks(rounds)]


def _describe_contributors(round_: RoundReport) -> list[str]:
    if round_.drawn:
        return []
    names = [short_name(node) for node in round_.contributors]
    more = len(names) - _MAX_NAMES
    return [f"{', '.join(names[:_MAX_NAMES])}{f' and {more} more' if more > 0 else ''} contributed"]


def describe_reset(name: ContractName, run: int) -> str:
    """That a contract was reset."""
    return f"{name} is reset: run {run} begins when peers enrol"
