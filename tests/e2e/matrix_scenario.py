"""What a scenario of the fault matrix is: what is done to whom, and when; and what is measured."""

from typing import Literal

import msgspec

from swarmlearning.contracts.records import Settings

PEERS = 3
MIN_PEERS = 2

Target = Literal["sl", "host", "leader", "follower", "sentinel", "sn", "program", "blackout", "everything"]
"""`sl`: a peer's SL. `host`: SL and program of a peer at once (in a round: of its leader). `leader`, `follower`: the SL
that leads the round, or another one. `sn`: an SN that follows (in a round: its leader's, if that follows).
`blackout`: a program and the sentinel, which comes back only long after the program. `everything`: every node and
every program at once, as at night."""

Moment = Literal["opening", "training", "collecting", "merging", "merged", "stored", "final", "finished"]
"""`opening`: enrolled as the first. `training`: between two rounds. `collecting`: its check-in is there, others are
not. `merging`: chunks are pulled. `merged`: the root is there, nobody has stored. `stored`: the leader has stored, no
majority. `final`: final, and nobody has checked in to the next round. `finished`: it has, others train."""

Action = Literal["kill", "kill-restart", "freeze", "freeze-thaw", "blink"]
"""Without repair, or with: started again at once, thawed once the others have gone on. `blink`: frozen for a quarter
of a lease, which nobody may be accused for."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """What is done to whom, and when."""

    target: Target
    moment: Moment
    action: Action
    megabytes: int = 8
    topology: Literal["leader", "sharded"] = "leader"
    lease_ms: int = 2000
    goal_s: float | None = None
    """Longest that the next final round may take, seconds."""

    @property
    def id(self) -> str:
        """For people, and for `pytest -k`."""
        parts: list[str] = [self.target, self.moment, self.action]
        if self.topology != "leader":
            parts.append(self.topology)
        if self.lease_ms != 2000:
            parts.append(f"lease{self.lease_ms // 1000}s")
        if self.goal_s is not None:
            parts.append(f"within{self.goal_s:g}s")
        return "-".join(parts)

    @property
    def settings(self) -> Settings:
        """Of its training."""
        # A program that is frozen for ever holds up the end for this long, else nothing does.
        is_held = self.target == "program" and self.action == "freeze"
        return Settings(
            sync_frequency=1,
            start="merge",
            topology=self.topology,
            grace_ms=1000,
            lease_ms=self.lease_ms,
            round_max_ms=8_000 if is_held else Settings(sync_frequency=1).round_max_ms,
        )

    @property
    def is_in_round(self) -> bool:
        """Whether the moment passes by itself, so that it has to be caught."""
        return self.moment in ("merging", "merged", "stored", "final")


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured."""

    scenario: str
    struck_round: int
    """The newest final round when it struck; -1: none."""
    next_final_s: float
    """From the fault to the next final round."""
    repaired_s: float | None
    """From the fault until what was hit ran again; None: never."""
    attempts: int
    """Of the next final round."""
    contributors: int
    """Of the next final round."""
