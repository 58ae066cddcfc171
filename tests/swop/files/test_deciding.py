"""Who decides whether a task runs here: operators, the policy, a person. Rules SW-34 to SW-36."""

import time
from typing import Any

import pytest
from decision_world import (
    BUILD,
    CONTENT,
    DAY,
    IMAGE_TASK,
    NIGHT,
    OTHER,
    OTHERS_NODE,
    OWN,
    OWN_NODE,
    OWN_SN,
    PROFILE,
    PULL,
    RUN,
    approve,
    decided,
    make_profile,
    make_task,
    mounting,
    policy,
    request,
)
from msgspec.structs import replace

from swarmlearning.contracts.task_records import TaskType
from swarmlearning.swop.deciding import MAX_REASON
from swarmlearning.swop.policy import NO_POLICY, Hours, Limits, Rule, Verdict
from swarmlearning.types import NodeId, TaskName, TrustDomain

ALLOW, ASK, DENY = Verdict.ALLOW, Verdict.ASK, Verdict.DENY
ANY = Rule(name="any", private_data=True)
PRIVATE = replace(RUN, private_content="/data")


# --- the order in which is decided ----------------------------------------------------------------------------------


def test_sw34_what_an_operator_denied_is_denied_whatever_the_policy_says() -> None:
    asked = approve(request(), granted=False)
    found = decided(policy(ANY), asked)
    assert (found.verdict, found.reason) == (DENY, "ward@own.example denied it")
    assert decided(policy(ANY), request()).verdict is ALLOW


def test_sw34_the_newest_word_counts_and_no_before_yes_in_one_block() -> None:
    denied = approve(request(), granted=False, height=5)
    assert decided(policy(), approve(denied, height=6)).verdict is ALLOW
    assert decided(policy(ANY), approve(approve(request(), height=5), granted=False, height=6)).verdict is DENY
    assert decided(policy(ANY), approve(denied, height=5)).verdict is DENY
    assert decided(policy(ANY), approve(approve(request(), height=5), granted=False, height=5)).verdict is DENY


def test_sw34_another_organisations_task_needs_a_sandbox() -> None:
    asked = request(isolated=False)
    told = decided(policy(ANY), asked)
    assert told.verdict is DENY
    assert told.reason == (
        "it is other.example's, and nothing keeps its programs apart from this host: install bubblewrap, use DOCKER or "
        "PODMAN, or say allow_unsandboxed: true in the policy"
    )
    assert decided(NO_POLICY, asked).reason.endswith("or say allow_unsandboxed: true in a policy (policyuri)")
    assert decided(policy(), approve(asked)).verdict is DENY
    assert decided(policy(ANY, allow_unsandboxed=True), asked).verdict is ALLOW
    assert decided(policy(allow_unsandboxed=True), approve(asked)).verdict is ALLOW
    assert decided(policy(ANY), request(isolated=True)).verdict is ALLOW
    own = request(isolated=False, task=make_task(RUN, creator=OWN_NODE))
    assert decided(policy(ANY), own).verdict is ALLOW
    nobody = request(isolated=False, task=make_task(RUN, creator=NodeId("nobody")))
    assert decided(policy(ANY), nobody).verdict is DENY


def test_sw34_what_an_operator_approved_runs_without_any_rule() -> None:
    asked = approve(request(PRIVATE))
    for found in (NO_POLICY, policy(), policy(ask=False)):
        decision = decided(found, asked)
        assert (decision.verdict, decision.approved_by) == (ALLOW, OWN_NODE)
        assert (decision.reason, decision.network) == ("ward@own.example approved it", False)
    assert decided(policy(network=True), asked).network
    behalf = approve(request(PRIVATE), by=OWN_SN, caller=OWN_NODE)
    assert decided(NO_POLICY, behalf).approved_by == OWN_NODE


@pytest.mark.parametrize("other", [{"domain": OTHER}, {"hash": b"\x07" * 32}, {"hash": b""}])
def test_sw34_an_approval_of_another_organisation_or_of_another_text_counts_for_nothing(other: dict[str, Any]) -> None:
    assert decided(NO_POLICY, approve(request(), **other)).verdict is ASK
    assert decided(policy(ANY), approve(request(), granted=False, **other)).verdict is ALLOW


def test_sw34_an_approval_of_another_task_counts_for_nothing() -> None:
    asked = request()
    assert (
        decided(NO_POLICY, replace(approve(asked), task=replace(asked.task, name=TaskName("heart_2")))).verdict is ASK
    )


def test_sw34_a_task_that_is_not_final_was_approved_by_nobody() -> None:
    task = replace(make_task(RUN), hash=b"")
    asked = approve(request(task=task), hash=b"")
    assert decided(NO_POLICY, asked).verdict is ASK
    assert decided(policy(Rule(name="r", hashes=(b"",))), asked).verdict is ASK


def test_sw34_the_first_rule_that_holds_decides() -> None:
    first = Rule(name="first", types=(TaskType.PULL_IMAGE,))
    second, third = Rule(name="second rule", network=True), Rule(name="third")
    found = decided(policy(first, second, third, network=False), request())
    assert (found.verdict, found.network) == (ALLOW, True)
    assert found.approved_by == f"policy second rule {'01' * 8}"
    assert found.reason == "rule 'second rule' of the policy allows it"
    assert not decided(policy(third, network=True), request()).network


def test_sw34_who_is_asked_and_who_is_not() -> None:
    assert decided(NO_POLICY, request()).reason == ("a person has to decide: there is no policy")
    told = decided(policy(), request(PRIVATE))
    assert told.verdict is ASK
    assert told.reason.endswith(": no rule of the policy allows it; it would read private data")
    told = decided(policy(ask=False), request())
    assert (told.verdict, told.reason) == (DENY, "no rule of the policy allows it; nobody is asked (ask: false)")
    assert told.approved_by == ""


def test_sw36_limits_are_the_policys_whoever_allowed() -> None:
    limits = Limits(memory=1 << 30)
    assert decided(policy(ANY, limits=limits), request()).limits == limits
    assert decided(policy(limits=limits), approve(request())).limits == limits
    assert decided(NO_POLICY, approve(request())).limits == Limits()


# --- what a rule asks for -------------------------------------------------------------------------------------------


NIGHTS = Hours(days=(0,), begin=1080, end=360)
HASH = make_task(RUN).hash
RULES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"organisations": (OTHER,)}, {"organisations": (OWN,)}, "its organisation"),
    ({"authors": ("Heart-Team",)}, {"authors": ("heart-team", "Heart-*")}, "its author"),
    ({"tasks": ("x", "heart_*")}, {"tasks": ("heart",)}, "its name"),
    ({"hashes": (HASH,)}, {"hashes": (b"\x05" * 32,)}, "its hash"),
    ({"types": (TaskType.RUN_SWARM,)}, {"types": (TaskType.PULL_IMAGE,)}, "its type"),
    ({"images": ("user-env-*",)}, {"images": ("user-env",)}, "its image"),
    ({"entrypoints": ("python3",)}, {"entrypoints": ("python3 -u", "python", "*")}, "its entry point"),
    ({"hours": (NIGHTS,)}, {"hours": (replace(NIGHTS, days=(5,)),)}, "the time"),
]


@pytest.mark.parametrize(("fits", "misses", "told"), RULES)
def test_sw35_a_condition_holds_or_is_told(fits: dict[str, Any], misses: dict[str, Any], told: str) -> None:
    assert decided(policy(Rule(name="r", **fits)), request()).verdict is ALLOW
    found = decided(policy(Rule(name="r", **misses)), request())
    assert found.verdict is ASK
    assert found.reason.endswith(f"; 'r' comes nearest, but for {told}")


def test_sw35_all_conditions_have_to_hold_and_the_nearest_rule_is_told() -> None:
    everything: dict[str, Any] = {}
    for fits, _, _ in RULES:
        everything |= fits
    assert decided(policy(Rule(name="r", **everything)), request()).verdict is ALLOW
    for _, misses, told in RULES:
        far = Rule(name="far", organisations=(OWN,), tasks=("y",))
        found = decided(policy(far, Rule(name="r", **(everything | misses))), request())
        assert found.verdict is ASK
        assert found.reason.endswith(f"; 'r' comes nearest, but for {told}")
    alike = (Rule(name="one", tasks=("y",)), Rule(name="two", tasks=("z",)))
    assert "; 'one' comes nearest" in decided(policy(*alike), request()).reason
    several = Rule(name="r", organisations=(OWN,), tasks=("y",), authors=("z",))
    assert "but for its organisation, its author and its name" in decided(policy(several), request()).reason
    assert decided(policy(Rule(name="r", **everything)), request(), DAY).verdict is ASK


def test_sw35_reasons_tell_nothing_of_the_policys_values() -> None:
    secret = Rule(
        name="r",
        organisations=(TrustDomain("secret.example"),),
        authors=("secret",),
        tasks=("secret",),
        images=("secret",),
        entrypoints=("secret",),
        mounts=("/secret",),
        urls=("https://secret.example/",),
    )
    assert "secret" not in decided(policy(secret), request(mounting("/opt"))).reason


def test_sw35_private_data_needs_a_rule_that_says_so() -> None:
    plain = Rule(name="r", hashes=(make_task(PRIVATE).hash,))
    found = decided(policy(plain), request(PRIVATE))
    assert found.verdict is ASK
    assert found.reason.endswith("; it would read private data; 'r' comes nearest, but for private data")
    assert decided(policy(replace(plain, private_data=True)), request(PRIVATE)).verdict is ALLOW
    nothing_private = request(PRIVATE, profile=make_profile(None))
    assert decided(policy(plain), nothing_private).verdict is ALLOW
    assert decided(policy(plain), request(PRIVATE, profile=None)).verdict is ASK
    assert decided(policy(Rule(name="r")), request(RUN)).verdict is ALLOW


def test_sw35_mounts_are_allowed_by_name_or_by_the_tasks_hash() -> None:
    body = mounting("/opt/heart/model", "/opt/heart/tools")
    asked = request(body)
    assert decided(policy(Rule(name="r")), asked).verdict is ASK
    assert "but for its mounts" in decided(policy(Rule(name="r")), asked).reason
    assert decided(policy(Rule(name="r", mounts=("/opt/heart",))), asked).verdict is ALLOW
    assert decided(policy(Rule(name="r", mounts=("/opt/heart/model",))), asked).verdict is ASK
    assert decided(policy(Rule(name="r", hashes=(asked.task.hash,))), asked).verdict is ALLOW
    both = Rule(name="r", hashes=(asked.task.hash,), mounts=("/srv",))
    assert decided(policy(both), asked).verdict is ASK
    volume = request(mounting("program", kind="VOLUME"))
    assert decided(policy(Rule(name="r", mounts=("program",))), volume).verdict is ALLOW
    assert decided(policy(Rule(name="r")), volume).verdict is ASK
    context = request(replace(BUILD, build_context="wheels"))
    assert decided(policy(Rule(name="r")), context).verdict is ASK
    assert decided(policy(Rule(name="r", mounts=("wheels",))), context).verdict is ALLOW


def test_sw35_downloads_are_allowed_by_url_or_by_the_tasks_hash() -> None:
    asked = request(CONTENT)
    assert decided(policy(Rule(name="r")), asked).verdict is ASK
    assert (
        decided(policy(Rule(name="r", urls=("https://models.example/heart/",), mounts=("o",))), asked).verdict is ALLOW
    )
    assert decided(policy(Rule(name="r", urls=("https://models.example/lung/",), mounts=("o",))), asked).verdict is ASK
    assert decided(policy(Rule(name="r", urls=("https://models.example/heart/",))), asked).verdict is ASK, "its volume"
    assert decided(policy(Rule(name="r", hashes=(asked.task.hash,))), asked).verdict is ALLOW


def test_sw35_a_request_of_which_nobody_looked_for_mounts_is_covered_by_no_rule() -> None:
    asked = request(RUN)
    blank = replace(
        asked,
        mounts=type(asked)(
            **{
                name: getattr(asked, name)
                for name in ("task", "body", "images", "private_data", "isolated", "own", "approvals")
            }
        ).mounts,
    )
    assert decided(policy(Rule(name="r", mounts=("/",))), blank).verdict is ASK


def test_sw35_images_of_every_type_are_compared() -> None:
    rule = Rule(name="r", images=("python:3.*", "registry.example/heart/*"))
    assert decided(policy(rule), request(BUILD)).verdict is ALLOW
    assert decided(policy(rule), request(PULL)).verdict is ALLOW
    assert decided(policy(rule), request(replace(BUILD, build_steps=("FROM evil/x",)))).verdict is ASK
    assert decided(policy(rule), request(replace(PULL, registry="registry.example"))).verdict is ASK
    # Where there is no image to compare, a rule that names some does not hold; a volume has none.
    assert decided(policy(rule), request(RUN, prerequisite=None)).verdict is ASK
    assert (
        decided(policy(replace(rule, urls=("https://models.example/",), mounts=("o",))), request(CONTENT)).verdict
        is ALLOW
    )


def test_sw35_an_entry_point_that_cannot_be_read_is_none_that_is_allowed() -> None:
    rule = Rule(name="r", entrypoints=("python3", ""))
    assert (
        decided(policy(replace(rule, entrypoints=("python3",))), request(replace(RUN, entrypoint="python3 '"))).verdict
        is ASK
    )
    assert decided(policy(rule), request(BUILD)).verdict is ALLOW


def test_sw35_what_a_task_sees_without_saying_so_needs_its_hash_or_the_directory() -> None:
    body = mounting("/data")
    asked = request(body)
    assert (asked.private_data, asked.exposed) == (True, ("/data",))
    found = decided(policy(replace(ANY, urls=("https://x.example",))), asked)
    assert found.verdict is ASK
    assert "allows it; through its mount '/data' it would see private data or keys; 'any' comes" in found.reason
    assert decided(policy(Rule(name="r", mounts=("/data",))), asked).verdict is ASK
    assert decided(policy(Rule(name="r", mounts=("/data",), private_data=True)), asked).verdict is ALLOW
    assert decided(policy(Rule(name="r", hashes=(asked.task.hash,), private_data=True)), asked).verdict is ALLOW
    assert decided(NO_POLICY, asked).reason.endswith("it would see private data or keys")


def test_sw36_long_names_keep_reasons_short_enough_for_the_ledger() -> None:
    body = mounting("/data/" + "x" * 100)
    asked = request(body)
    asked = replace(asked, task=replace(asked.task, name=TaskName("t" * 128)), exposed=("/" + "x" * 100,))
    rule = Rule(name="r" * 60, organisations=(OWN,), authors=("z",), tasks=("y",), types=(TaskType.PULL_IMAGE,))
    found = decided(policy(rule), asked)
    assert found.verdict is ASK
    assert len(found.reason) <= MAX_REASON


def test_sw36_long_tasks_are_decided_soon_whatever_the_number_of_rules() -> None:
    """The attack: each rule split the entry point anew, each COPY listed all stages anew."""
    rules = tuple(Rule(name=f"r{number}", entrypoints=("python3",)) for number in range(500))
    stages = ("FROM a", *(f"FROM a{number} AS b{number}" for number in range(4000)))
    copies = tuple("COPY --from=b1 x y" for _ in range(4000))
    began_s = time.monotonic()
    asked = request(replace(RUN, entrypoint="a b " * 20_000))
    assert decided(policy(*rules), asked).verdict is ASK
    assert len(request(replace(BUILD, build_steps=(*stages, *copies))).images) == 4001
    assert time.monotonic() - began_s < 2.5


def test_these_tests_ask_about_what_they_think() -> None:
    assert PROFILE.nodes[0].private_data is not None
    assert request().images == (IMAGE_TASK.outcome,)
    assert OTHERS_NODE.startswith(f"spiffe://{OTHER}/")
    assert (NIGHT.weekday(), OWN) == (0, "own.example")
