"""Who agreed to a task and what ran: docs/spec/tasks.md, W-17, each with its attack; and how large that may become."""

from typing import Any

import pytest
from contracts_world import name_of
from msgspec.structs import replace
from task_world import PULL, RUN, RUNNER, Ward, op, swop, unit, ward_with

from swarmlearning.contracts import membership, taskrunners
from swarmlearning.contracts.messages import MAX_TX_BYTES, Payload, ReportTask, Tx
from swarmlearning.contracts.task_records import (
    MAX_AGENTS,
    MAX_APPROVED_BY,
    MAX_DESCRIPTION,
    MAX_IMAGE,
    MAX_MANAGER,
    MAX_UID,
    MAX_UNITS,
    Evidence,
    Taskrunner,
    WorkState,
)
from swarmlearning.encoding import decode, encode
from swarmlearning.transport.api import MAX_BODY_BYTES
from swarmlearning.types import Code, NodeId, NodeName, Role, RunnerName, TaskName, TrustDomain

DONE, FAILED, BUSY = WorkState.COMPLETE, WorkState.ERROR, WorkState.RUNNING


def taken(task: TaskName, *, planned: int = 1) -> Ward:
    """A task that the agent of organisation 0 has taken."""
    ward = ward_with(0)
    ward.must(op(0), ward.assigning(task, planned))
    ward.take(0, planned=planned)
    return ward


RAN = Evidence(manager="PROCESS with bubblewrap 0.8.0", image="sha256:7f", exit_status=0, log_hash=bytes(range(32)))


def test_w17_who_agreed_and_what_ran_stands_with_the_agent_and_of_a_swarm_with_its_peers() -> None:
    ward = taken(PULL)
    ward.must(swop(0), replace(ward.reporting(DONE), approved_by=op(0).id, evidence=RAN))
    assert (ward.agent(0).approved_by, ward.agent(0).evidence) == (op(0).id, RAN)
    ward = taken(RUN, planned=2)
    never = Evidence(manager="DOCKER 27.1")
    ward.must(swop(0), ward.reporting(FAILED, (unit("a", DONE, evidence=RAN), unit("b", BUSY, evidence=never))))
    assert [(peer.evidence, peer.state) for peer in ward.agent(0).units] == [(RAN, DONE), (never, FAILED)]
    assert ward.agent(0).evidence is None


def test_w17_evidence_comes_with_what_ran() -> None:
    ward = taken(RUN)
    message = replace(ward.reporting(BUSY, (unit("a", BUSY),)), evidence=RAN)
    assert "expected evidence with each of them" in ward.refusal(swop(0), message, Code.MALFORMED)


def test_w17_the_newest_report_counts_as_a_whole() -> None:
    ward = taken(PULL)
    ward.must(swop(0), replace(ward.reporting(BUSY), approved_by="policy images", evidence=RAN))
    ward.must(swop(0), ward.reporting(BUSY))
    assert (ward.agent(0).approved_by, ward.agent(0).evidence) == ("", None)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"exit_status": -1}, "expected 0 to 255"),
        ({"exit_status": 256}, "expected 0 to 255"),
        ({"log_hash": bytes(31)}, "of 31 bytes"),
        ({"log_hash": bytes(60_000)}, "of 60000 bytes"),
    ],
)
def test_w17_an_exit_status_and_a_hash_are_what_they_say(wrong: dict[str, Any], why: str) -> None:
    ward = taken(PULL)
    assert why in ward.refusal(swop(0), replace(ward.reporting(DONE), evidence=replace(RAN, **wrong)), Code.MALFORMED)
    swarm = taken(RUN)
    peer = unit("a", DONE, evidence=replace(RAN, **wrong))
    assert why in swarm.refusal(swop(0), swarm.reporting(DONE, (peer,)), Code.MALFORMED)


def test_w17_texts_are_never_refused_but_cut_and_cleaned() -> None:
    ward = taken(PULL)
    nasty = "\x1b[2J\n" + "\U0001f600" * 100
    said = replace(RAN, manager=nasty, image=nasty)
    ward.must(swop(0), replace(ward.reporting(DONE), approved_by=nasty, evidence=said))
    agent = ward.agent(0)
    assert agent.evidence is not None
    texts = (agent.approved_by, agent.evidence.manager, agent.evidence.image)
    assert all(text.startswith("?[2J?\U0001f600") for text in texts)
    # What is left of the room is too little for a character of four bytes.
    assert [len(text.encode()) for text in texts] == [253, 97, 157]


def test_w17_a_node_that_agreed_is_named_in_full() -> None:
    longest = NodeName(domain=TrustDomain("o" * 64), network="n" * 64, role=Role.OPERATOR, name="x" * 64).id
    ward = taken(PULL)
    ward.must(swop(0), replace(ward.reporting(BUSY), approved_by=longest))
    assert ward.agent(0).approved_by == longest


def test_w17_a_report_of_all_peers_with_all_evidence_fits_into_a_transaction() -> None:
    full = Evidence(manager="m" * MAX_MANAGER, image="i" * MAX_IMAGE, exit_status=255, log_hash=bytes(32))
    peers = [
        unit(f"{index:02d}".ljust(128, "u"), WorkState.AWAITING_APPROVAL, "d" * MAX_DESCRIPTION, full)
        for index in range(MAX_UNITS)
    ]
    message = ReportTask(
        runner=RunnerName("r" * 128),
        number=1 << 31,
        state=WorkState.AWAITING_APPROVAL,
        description="d" * MAX_DESCRIPTION,
        units=tuple(peers),
        approved_by="a" * MAX_APPROVED_BY,
    )
    payload = Payload(network="n" * 64, nonce=bytes(16), expires=1 << 40, message=message)
    assert len(encode(Tx(payload=encode(payload), signer=bytes(32), signature=bytes(64)))) <= MAX_TX_BYTES


def test_the_largest_record_of_a_runner_fits_into_one_reply() -> None:
    """Long names, all peers planned, every description as long as it may be, in characters of four bytes."""
    ward = taken(RUN)
    node = NodeId(name_of(0).id.ljust(212, "x"))
    state, long = WorkState.AWAITING_APPROVAL, "\U0001f600" * 500
    full = Evidence(manager=long, image=long, exit_status=255, log_hash=bytes(32))
    agents = []
    for index in range(MAX_AGENTS):
        # As it is remembered once it has been reported.
        uid = f"{index:03d}".ljust(MAX_UID, "\U0001f600")
        ward.must(swop(0), replace(ward.reporting(state, (unit(uid, state, long, full),), long), approved_by=long))
        agents.append(replace(ward.agent(0), node=node))
    sizes = {len(agent.description) for agent in agents} | {len(agent.units[0].description) for agent in agents}
    assert sizes == {MAX_DESCRIPTION // 4}
    chosen = replace(ward.assignment, chosen=(node,) * 2 * MAX_AGENTS, targets=())
    largest = replace(
        ward.runner, listeners=(node,) * MAX_AGENTS, agents=tuple(agents), assignment=chosen, reason="x" * 1000
    )
    data = encode(largest)
    assert len(data) < MAX_BODY_BYTES
    assert decode(data, Taskrunner) == largest
    assert membership.load_record(ward.state, taskrunners.runner_key(RUNNER), Taskrunner) is not None
