"""The fault matrix: all scenarios, those that wait for a fix, and the short slice that runs with every `make test`."""

from matrix_world import Action, Moment, Scenario, Target

ACTIONS: tuple[Action, ...] = ("kill", "kill-restart", "freeze", "freeze-thaw")
LASTING: tuple[Action, ...] = ("kill-restart", "freeze-thaw")
OUTSIDE: tuple[Moment, ...] = ("opening", "training", "collecting", "finished")
INSIDE: tuple[Moment, ...] = ("merging", "merged", "stored", "final")

MEGABYTES: dict[Moment, int] = {"merging": 32, "merged": 32, "stored": 32, "final": 8}
"""Model sizes with which the moments last long enough to be hit; elsewhere small ones do."""


def _cross(targets: tuple[Target, ...], moments: tuple[Moment, ...], actions: tuple[Action, ...]) -> list[Scenario]:
    return [
        Scenario(target=target, moment=moment, action=action, megabytes=MEGABYTES.get(moment, 2))
        for target in targets
        for moment in moments
        for action in actions
    ]


SCENARIOS: list[Scenario] = [
    *_cross(("leader", "follower"), INSIDE, ACTIONS),
    *_cross(("sl",), OUTSIDE, ACTIONS),
    *_cross(("host",), OUTSIDE + INSIDE, ("kill", "kill-restart")),
    # Without its sentinel a network waits, so this one always comes back.
    *_cross(("sentinel",), OUTSIDE + INSIDE, LASTING),
    *_cross(("sn",), OUTSIDE + INSIDE, ACTIONS),
    *_cross(("program",), OUTSIDE + INSIDE, ACTIONS),
]

AWAITS: dict[str, str] = {}
SLICE: frozenset[str] = frozenset()
