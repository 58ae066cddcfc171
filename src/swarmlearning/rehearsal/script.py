"""What a rehearsal tries, in which order, with whom; and whether what came of it is what was expected. Pure.

All sites have the same node ids and the same rehearsal, so that each knows who has which part without asking.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, Literal

import msgspec

from swarmlearning.contracts.records import Dropped
from swarmlearning.types import NodeId, short_name

Kind = Literal["canary", "slow", "cut", "kill", "last"]
DrillKind = Literal["slow", "cut", "kill"]

DRILLS: Final[tuple[DrillKind, ...]] = ("slow", "cut", "kill")
"""In the order in which they are tried."""

LEASE_MS: Final = 3_000
"""Silence after which a peer is suspected in a rehearsal: short, so that a drill takes seconds."""

GRACE_MS: Final = 10_000
"""How long its rounds wait for a site that is late."""

MARGIN_S: Final = 2.0
"""A round without one that died ends within a lease and this."""

LEAST: Final[Mapping[Kind, int]] = {"cut": 3, "kill": 3}
"""Sites that a drill needs: fewer, and there would be no two left that can reach each other."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One round of a rehearsal."""

    number: int
    """Of the script, from 0."""
    kind: Kind
    victim: NodeId = NodeId("")
    """Whose SL something is wrong with; empty: with nobody's."""
    peer: NodeId = NodeId("")
    """With `cut`: the other end of the link."""
    skipped: str = ""
    """Why it is not tried; empty: it is."""

    @property
    def tried(self) -> str:
        """What is done, for people."""
        who, other = self.victim and short_name(self.victim), self.peer and short_name(self.peer)
        pause_s = LEASE_MS / 4000
        return {
            "canary": "a plain round, with everybody",
            "slow": f"{who} sends one frame (256 KiB) each {pause_s:g} s for {seconds_of('slow')} s",
            "cut": f"nothing passes between {who} and {other}",
            "kill": f"{who} falls silent while the round merges, and comes back after it",
            "last": "a plain round, with everybody, those that came back included",
        }[self.kind]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a round brought at one site."""

    round: int
    """On the ledger."""
    seconds: float
    bytes_moved: int
    """Received and sent by this SL for this round."""
    contributors: tuple[NodeId, ...]
    participants: tuple[NodeId, ...]
    dropped: tuple[Dropped, ...]
    attempts: int
    differing: int
    """Numbers of the merged model that are not what they must be; -1: not the same tensors."""
    sha256: str
    """Of the merged model, as the ledger has it; empty: the round was void."""
    expected_sha256: str
    """Of what it must be."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one site says of one step."""

    step: Step
    outcome: Outcome | None
    """None: skipped."""
    expected: str
    problems: tuple[str, ...] = ()
    """Each a line; none: passed."""
    fired: int = 0
    """How often the victim's SL held something back, as its own site says."""

    @property
    def passed(self) -> bool:
        """Whether it went as it should; a drill that was skipped did."""
        return not self.problems


def write_script(nodes: Collection[NodeId], rehearsal: bytes, drills: Collection[str]) -> tuple[Step, ...]:
    """The steps of a rehearsal; the victims are others from one rehearsal to the next.

    Args:
        nodes: of all sites, at least two.
        rehearsal: 32 bytes that are the same at all sites.
        drills: which of `DRILLS` are asked for.
    """
    ordered = sorted(nodes)
    first = int.from_bytes(rehearsal[:8], "big") % len(ordered)
    turn = ordered[first:] + ordered[:first]
    victims: dict[str, tuple[NodeId, NodeId]] = {
        "slow": (turn[0], NodeId("")),
        "cut": (turn[1], turn[2 % len(turn)]),
        "kill": (turn[2 % len(turn)], NodeId("")),
    }
    steps = [Step(number=0, kind="canary")]
    for kind in DRILLS:
        if kind not in drills:
            continue
        least, (victim, peer) = LEAST.get(kind, 2), victims[kind]
        if len(ordered) < least:
            why = f"needs {least} sites, here are {len(ordered)}: no two would be left that can reach each other"
            steps.append(Step(number=len(steps), kind=kind, skipped=why))
        else:
            steps.append(Step(number=len(steps), kind=kind, victim=victim, peer=peer))
    return (*steps, Step(number=len(steps), kind="last"))


def seconds_of(kind: Kind) -> int:
    """How long a drill lasts at most; the round is over long before, or has failed."""
    return {"slow": 3 * LEASE_MS // 1000, "cut": 60, "kill": 60}.get(kind, 0)


def weight_of(nodes: Collection[NodeId]) -> dict[NodeId, int]:
    """Each site's weight: another one each, so that a merge that forgets them is found."""
    return {node: rank + 1 for rank, node in enumerate(sorted(nodes))}


def kill_limit_s(canary_s: float) -> float:
    """Within how long a round ends although one has died: its lease, the margin, and what a plain round takes."""
    return LEASE_MS / 1000 + MARGIN_S + canary_s


def expect(step: Step, limit_s: float) -> str:
    """What a step is to bring, for people."""
    return {
        "canary": "everybody contributes; value and hash are what this site computes",
        "slow": "nobody is dropped, the slow one included: who moves is left alone",
        "cut": "the round ends; all who can be reached by all contribute",
        "kill": f"the others end the round within {limit_s:.1f} s; then the victim has its model",
        "last": "everybody contributes; value and hash are what this site computes",
    }[step.kind]


def judge(step: Step, nodes: Collection[NodeId], me: NodeId, outcome: Outcome, limit_s: float) -> tuple[str, ...]:
    """What is wrong with an outcome; nothing if the step went as it should.

    Args:
        step: what was tried.
        nodes: of all sites.
        me: this site's.
        outcome: what came.
        limit_s: with `kill`: longest time for all but the victim, seconds.
    """
    if not outcome.sha256:
        return ("the round closed void: too few had checked in",)
    problems: list[str] = []
    if outcome.differing:
        what = "the merged model has other tensors than it must"
        if outcome.differing > 0:
            what = f"in {outcome.differing} places the merged model is not the weighted mean of its contributors"
        problems.append(what)
    if outcome.sha256 != outcome.expected_sha256:
        ledger, here = outcome.sha256[:16], outcome.expected_sha256[:16]
        problems.append(f"the ledger's hash is {ledger}, that of the right merge is {here}")
    excused = {"cut": {step.victim, step.peer}, "kill": {step.victim}}.get(step.kind, set())
    reasons = {dropped.node: dropped.reason for dropped in outcome.dropped}
    problems += [
        f"{short_name(node)} did not contribute: {reasons.get(node, 'it did not check in')}"
        for node in sorted(set(nodes) - set(outcome.contributors) - excused)
    ]
    if step.kind == "kill":
        if step.victim in outcome.contributors:
            problems.append(f"{short_name(step.victim)} contributed although it was silent")
        if me != step.victim and outcome.seconds > limit_s:
            late = f"the round took {outcome.seconds:.1f} s, expected at most {limit_s:.1f} s"
            problems.append(f"{late} (longer where SLs run with --leader-failure-timeout)")
    return tuple(problems)


def absent_nodes(step: Step, nodes: Sequence[NodeId], outcome: Outcome) -> list[NodeId]:
    """Who was not even there, against the script: the rehearsal ends, at all sites alike."""
    here = {*outcome.participants, *outcome.contributors, *(dropped.node for dropped in outcome.dropped)}
    excused = {step.victim} if step.kind == "kill" else set()
    return sorted(set(nodes) - here - excused)
