"""Where each training stands, what it waits for, and whose part in it is in doubt."""

from swarmlearning.contracts.closing import explain_wait
from swarmlearning.contracts.records import PeerState, Phase, Training
from swarmlearning.doctor.findings import Finding, Topic, ok, warning
from swarmlearning.types import short_name


def judge_training(training: Training) -> list[Finding]:
    """A contract's findings: first what it waits for."""
    where = f", round {training.round.number}" if training.round is not None else ""
    text = f"run {training.run}, {training.phase.value}{where}"
    if training.phase is not Phase.COMPLETED:
        text += f": {explain_wait(training)}"
    found = [ok(Topic.TRAININGS, training.name, text)]
    paused = [short_name(peer.node) for peer in training.peers if peer.state is PeerState.PAUSED]
    if paused and training.phase is not Phase.COMPLETED:
        found.append(
            warning(
                Topic.TRAININGS,
                training.name,
                f"paused, having missed the close of a round: {', '.join(paused)}",
                "see above whether its SL is reached, and there whether its program runs; its next check-in counts",
            )
        )
    if training.distrusted:
        names = ", ".join(short_name(node) for node in training.distrusted)
        found.append(
            warning(
                Topic.TRAININGS,
                training.name,
                f"others contradicted what these merged, so that they lead no more in this run: {names}",
                "let that organisation look at the SL's release, memory and disk before the next run",
            )
        )
    return found


def largest_model(trainings: tuple[Training, ...]) -> int | None:
    """Bytes of the largest model of any contract; None if there is no contract with one."""
    return max((t.manifest.size for t in trainings if t.manifest is not None), default=None)
