"""Whether a task runs on this host: what operators said, then the policy, then a person.

Pure. Spec: docs/spec/swop-files.md, SW-34 to SW-36; for people: docs/reference/policy.md.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

from swarmlearning.contracts.task_records import Approval, TaskType
from swarmlearning.errors import InvalidName
from swarmlearning.reports.status import make_printable
from swarmlearning.swop.matching import covers_image, covers_mount, covers_text, covers_time, covers_url
from swarmlearning.swop.policy import NO_POLICY, Decision, Policy, Request, Rule, Verdict
from swarmlearning.swop.requesting import find_entrypoint, find_urls
from swarmlearning.tasks.faults import show_text
from swarmlearning.types import NodeId, NodeName, TrustDomain, short_name

MAX_REASON: Final = 480
"""Longest reason, characters: so many of a description are on the ledger."""

_HAVE_IMAGES: Final = frozenset({TaskType.RUN_SWARM, TaskType.MAKE_USER_CONTAINER, TaskType.PULL_IMAGE})


def decide(policy: Policy, request: Request, now: datetime) -> Decision:
    """Whether a task runs here; `now` is local time."""
    said = find_approval(request)
    if said is not None and not said.granted:
        return Decision(verdict=Verdict.DENY, reason=f"{_show_node(_who(said))} denied it", limits=policy.limits)
    owner = _owner(request.task.creator)
    if owner != request.own and not request.isolated and not policy.allow_unsandboxed:
        return Decision(verdict=Verdict.DENY, reason=_explain_unsandboxed(owner, policy), limits=policy.limits)
    if said is not None:
        who = _who(said)
        return Decision(
            verdict=Verdict.ALLOW,
            reason=f"{_show_node(who)} approved it",
            approved_by=who,
            network=policy.network,
            limits=policy.limits,
        )
    nearest: tuple[Rule, list[str]] | None = None
    # Once for all rules: a task may be long.
    entrypoint, urls = find_entrypoint(request.body), find_urls(request.body)
    for rule in policy.rules:
        missing = find_missing(rule, request, entrypoint, urls, now)
        if not missing:
            return _allow(rule, policy)
        if nearest is None or len(missing) < len(nearest[1]):
            nearest = (rule, missing)
    return _ask(policy, request, nearest)


def find_approval(request: Request) -> Approval | None:
    """What the own organisation said last of exactly this task; where it said both at once, no."""
    said = [
        approval
        for approval in request.approvals
        if approval.domain == request.own
        and approval.task == request.task.name
        and request.task.is_final
        and approval.hash == request.task.hash
    ]
    return max(said, key=lambda approval: (approval.height, not approval.granted), default=None)


def find_missing(
    rule: Rule, request: Request, entrypoint: str | None, urls: tuple[str, ...], now: datetime
) -> list[str]:
    """What keeps a rule from allowing a task, for people and without the policy's values; empty: it does."""
    task = request.task
    holds = {
        "its organisation": not rule.organisations or _owner(task.creator) in rule.organisations,
        "its author": not rule.authors or task.author in rule.authors,
        "its name": not rule.tasks or covers_text(rule.tasks, task.name),
        "its hash": not rule.hashes or (task.is_final and task.hash in rule.hashes),
        "its type": not rule.types or task.kind in rule.types,
        "its image": not rule.images or _covers_images(rule, request),
        "its entry point": not rule.entrypoints or entrypoint is None or entrypoint in rule.entrypoints,
        "its mounts": _covers_all(rule, rule.mounts, request.mounts, covers_mount),
        "its downloads": _covers_all(rule, rule.urls, urls, covers_url),
        "the time": not rule.hours or covers_time(rule.hours, now),
        "private data": not request.private_data or rule.private_data,
        # What a task does not say of itself is allowed by its hash, or by the very directory.
        "private data in its mounts": not request.exposed or bool(rule.hashes or rule.mounts),
    }
    return [what for what, held in holds.items() if not held]


def _covers_all(
    rule: Rule, allowed: tuple[str, ...], wanted: tuple[str, ...], covers: Callable[[Iterable[str], str], bool]
) -> bool:
    """Where nothing is named, nothing is allowed, unless it is the task's hash that is."""
    if not allowed and rule.hashes:
        return True
    return all(covers(allowed, item) for item in wanted)


def _covers_images(rule: Rule, request: Request) -> bool:
    if not request.images:
        return request.task.kind not in _HAVE_IMAGES
    return all(covers_image(rule.images, image) for image in request.images)


def _allow(rule: Rule, policy: Policy) -> Decision:
    return Decision(
        verdict=Verdict.ALLOW,
        reason=f"rule {show_text(rule.name)} of the policy allows it",
        approved_by=f"policy {rule.name} {policy.digest.hex()[:16]}",
        network=rule.network,
        urls=None if rule.hashes and not rule.urls else rule.urls,
        limits=policy.limits,
    )


def _ask(policy: Policy, request: Request, nearest: tuple[Rule, list[str]] | None) -> Decision:
    why = "there is no policy" if policy == NO_POLICY else "no rule of the policy allows it"
    if request.exposed:
        why += f"; through its mount {show_text(request.exposed[0])} it would see private data or keys"
    elif request.private_data:
        why += "; it would read private data"
    if nearest is not None:
        rule, missing = nearest
        why += f"; {show_text(rule.name)} comes nearest, but for {_join(missing)}"
    if not policy.ask:
        return Decision(verdict=Verdict.DENY, reason=_cut(f"{why}; nobody is asked (ask: false)"), limits=policy.limits)
    return Decision(verdict=Verdict.ASK, reason=_cut(f"a person has to decide: {why}"), limits=policy.limits)


def _cut(reason: str) -> str:
    return reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 1] + "…"


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _explain_unsandboxed(owner: TrustDomain | None, policy: Policy) -> str:
    where = "a policy (policyuri)" if policy == NO_POLICY else "the policy"
    return (
        f"it is {owner or 'nobody'}'s, and nothing keeps its programs apart from this host: install bubblewrap, use "
        f"DOCKER or PODMAN, or say allow_unsandboxed: true in {where}"
    )


def _who(approval: Approval) -> NodeId:
    return approval.caller or approval.by


def _owner(creator: NodeId) -> TrustDomain | None:
    try:
        return NodeName.parse(creator).domain
    except InvalidName:
        return None


def _show_node(node: NodeId) -> str:
    try:
        return short_name(node)
    except InvalidName:
        return make_printable(node)
