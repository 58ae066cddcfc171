"""A training contract for people, line by line."""

from swarmlearning.contracts.closing import explain_wait
from swarmlearning.contracts.records import MICRO, Phase, Training
from swarmlearning.reports.status import report_contract
from swarmlearning.reports.view import describe_exchange, describe_merging
from swarmlearning.types import short_name


def describe_newest(training: Training) -> str:
    """The newest result in a few words."""
    if training.last is None:
        return "no result yet"
    return f"round {training.last.round}, model {training.last.sha256.hex()[:16]}"


def describe_training(training: Training) -> list[str]:
    """A contract for people, line by line."""
    allowed = ", ".join(training.organisations) or "every member"
    lines = [
        f"contract    {training.name} (created by {training.creator}; may enrol: {allowed})",
        f"run         {training.run}",
        f"phase       {training.phase.value}" + (f", round {training.round.number}" if training.round else ""),
        f"newest      {describe_newest(training)}",
    ]
    if training.phase is not Phase.COMPLETED:
        lines.insert(3, f"waiting     {explain_wait(training)}")
    if training.settings is not None:
        report = report_contract(training)
        lines.append(f"merging     {describe_merging(report)}")
        lines.append(f"exchange    {describe_exchange(report)}")
        if report.method_source:
            lines.append(f"plug-in     {report.method_source}")
    for peer in training.peers:
        figures = f"{peer.rounds_contributed} of {peer.rounds_offered} rounds"
        if peer.progress.loss_micro is not None:
            figures += f", loss {peer.progress.loss_micro / MICRO:.4f}"
        lines.append(f"peer        {short_name(peer.node)}  {peer.state.value}  {figures}")
    return lines
