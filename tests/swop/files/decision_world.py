"""Tasks, profiles and policies to decide about."""

from datetime import datetime
from typing import Any, Final

from msgspec.structs import replace

from swarmlearning.contracts.task_records import ROOT_TASK, Approval, Task, TaskType, hash_task
from swarmlearning.swop.deciding import decide
from swarmlearning.swop.policy import Decision, Policy, Request, Rule
from swarmlearning.swop.profile import Attribute, IdentityPart, PeerNode, PrivateData, Profile
from swarmlearning.swop.requesting import make_request
from swarmlearning.tasks.bodies import Body, MakeContent, MakeUserContainer, Mount, Operation, PullImage, RunSwarm
from swarmlearning.types import DEFAULT_RUNNER, NodeId, TaskName, TrustDomain

OWN: Final = TrustDomain("own.example")
OTHER: Final = TrustDomain("other.example")
OTHERS_NODE: Final = NodeId("spiffe://other.example/heart/operator/lead")
OWN_NODE: Final = NodeId("spiffe://own.example/heart/operator/ward")
OWN_SN: Final = NodeId("spiffe://own.example/heart/sn/sn1")

NIGHT: Final = datetime(2026, 3, 2, 22, 0)  # noqa: DTZ001 - local time; a Monday
DAY: Final = datetime(2026, 3, 2, 12, 0)  # noqa: DTZ001

RUN: Final = RunSwarm(command="model/heart.py", entrypoint="python3 -u", working_dir="/tmp/work")
BUILD: Final = MakeUserContainer(build_steps=("FROM python:3.12-slim", "RUN pip install numpy"))
PULL: Final = PullImage(registry="registry.example/heart/", repository="tools", tag="2.7.0")
CONTENT: Final = MakeContent(
    content_type="BUILDCONTENT",
    operations=(Operation(operation="DOWNLOAD", target="https://models.example/heart/a.tar"),),
)

KINDS: Final = {
    RunSwarm: TaskType.RUN_SWARM,
    MakeUserContainer: TaskType.MAKE_USER_CONTAINER,
    PullImage: TaskType.PULL_IMAGE,
    MakeContent: TaskType.MAKE_SWARM_USER_CONTENT,
}

IMAGE_TASK: Final = Task(
    name=TaskName("image"),
    kind=TaskType.MAKE_USER_CONTAINER,
    author="x",
    prereq=ROOT_TASK,
    outcome="user-env-1.0",
    creator=OTHERS_NODE,
    created_height=1,
)


def make_task(body: Body, creator: NodeId = OTHERS_NODE, **other: Any) -> Task:
    task = Task(
        name=TaskName("heart_1"),
        kind=KINDS[type(body)],
        author="Heart-Team",
        prereq=TaskName("image"),
        outcome="o",
        creator=creator,
        created_height=2,
        **other,
    )
    return replace(task, hash=hash_task(task, (repr(body),)))


def mounting(*sources: str, kind: str = "BIND") -> RunSwarm:
    mounts = tuple(
        Mount(source=source, target=f"/m{n}", kind="BIND" if kind == "BIND" else "VOLUME")
        for n, source in enumerate(sources)
    )
    return replace(RUN, shared_content=mounts)


def make_profile(private: PrivateData | None = None, key: str = "/pki/key.pem") -> Profile:
    identity = (Attribute(part=IdentityPart.KEY, kind="BIND", source=key, target="/key.pem"),)
    node = PeerNode(idx=0, line=1, identity=identity, private_data=private)
    return Profile(group="g", runners=(DEFAULT_RUNNER,), nodes=(node,))


PROFILE: Final = make_profile(PrivateData(source="/data/heart", kind="BIND"))


def request(body: Body = RUN, **other: Any) -> Request:
    options: dict[str, Any] = {
        "prerequisite": IMAGE_TASK,
        "profile": PROFILE,
        "isolated": True,
        "own": OWN,
        "approvals": (),
    }
    task = other.pop("task", None) or make_task(body)
    return make_request(task, body, **(options | other))


def approve(asked: Request, granted: bool = True, **other: Any) -> Request:
    """The same request with one more approval."""
    options: dict[str, Any] = {"domain": OWN, "hash": asked.task.hash, "by": OWN_NODE, "height": 5, "time_ms": 0}
    said = Approval(task=asked.task.name, granted=granted, **(options | other))
    return replace(asked, approvals=(*asked.approvals, said))


def policy(*rules: Rule, **other: Any) -> Policy:
    return Policy(digest=b"\x01" * 32, rules=rules, **other)


def decided(found: Policy, asked: Request, now: datetime = NIGHT) -> Decision:
    decision = decide(found, asked, now)
    assert decision.reason.isprintable()
    assert len(decision.reason) <= 480
    return decision
