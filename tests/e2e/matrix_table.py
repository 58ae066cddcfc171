"""The fault matrix: all scenarios, and the short slice that runs with every `make test`."""

from matrix_scenario import Action, Moment, Scenario, Target

ACTIONS: tuple[Action, ...] = ("kill", "kill-restart", "freeze", "freeze-thaw")
LASTING: tuple[Action, ...] = ("kill-restart", "freeze-thaw")
OUTSIDE: tuple[Moment, ...] = ("opening", "training", "collecting", "finished")
INSIDE: tuple[Moment, ...] = ("merging", "merged", "stored", "final")

MEGABYTES: dict[Moment, int] = {"merging": 16, "merged": 16, "stored": 16, "final": 8}
"""Model sizes with which the moments last long enough to be hit; elsewhere small ones do."""


def _cross(targets: tuple[Target, ...], moments: tuple[Moment, ...], actions: tuple[Action, ...]) -> list[Scenario]:
    return [
        Scenario(target=target, moment=moment, action=action, megabytes=MEGABYTES.get(moment, 2))
        for target in targets
        for moment in moments
        for action in actions
    ]


GOALS: list[Scenario] = [
    Scenario(
        target="leader",
        moment="merging",
        action="kill",
        megabytes=32,
        lease_ms=lease_ms,
        goal_s=lease_ms / 1000 + 2,
    )
    for lease_ms in (2_000, 10_000)
]
"""A leader killed while it merges: the round completes within a lease and two seconds."""

SCENARIOS: list[Scenario] = [
    *_cross(("leader", "follower"), INSIDE, ACTIONS),
    *_cross(("sl",), OUTSIDE, ACTIONS),
    *_cross(("host",), OUTSIDE + INSIDE, ("kill", "kill-restart")),
    # Without its sentinel a network waits, so this one always comes back.
    *_cross(("sentinel",), OUTSIDE + INSIDE, LASTING),
    *_cross(("sn",), OUTSIDE + INSIDE, ACTIONS),
    *_cross(("program",), OUTSIDE + INSIDE, ACTIONS),
    *_cross(("blackout",), ("training", "collecting", "merging"), ("kill-restart",)),
    *_cross(("everything",), OUTSIDE + INSIDE, ("kill-restart",)),
    *_cross(("leader", "follower", "sentinel", "sn"), ("merging", "merged", "stored"), ("blink",)),
    *(
        Scenario(target=target, moment=moment, action=action, megabytes=32, topology="sharded")
        for target in ("leader", "sentinel")
        for moment in ("merging", "merged")
        for action in ("kill", "freeze-thaw")
        if (target, action) != ("sentinel", "kill")
    ),
    # With the lease that is the default, to be measured.
    *(
        Scenario(target=target, moment="merging", action="kill", megabytes=32, lease_ms=10_000)
        for target in ("leader", "follower")
    ),
    *GOALS,
]

SLICE: frozenset[str] = frozenset(
    {
        "leader-merging-kill",
        "follower-merged-freeze-thaw",
        "follower-merging-kill-restart",
        "host-collecting-kill-restart",
        "sentinel-merging-kill-restart",
        "sn-stored-kill",
        "program-training-kill-restart",
    }
)
"""What `make test` plays: each kind of process and fault once."""
