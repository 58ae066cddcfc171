"""Regenerates the golden vectors: `python tests/contracts/make_contracts_golden.py`.

One file a version of the transition. A changed vector means that nodes of two releases would disagree about the state
of one ledger: raise the version instead. Transactions are given whole, so that a reader in another language can check.
"""

import json
import struct
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parent))

from chain_world import START_MS, Chain, authority, certificate, key_of, member, registration, validator_of
from msgspec.structs import replace

from swarmlearning.contracts import membership, taskrunners, tasks
from swarmlearning.contracts.draw import draw_order
from swarmlearning.contracts.messages import (
    AnyMessage,
    AppendTask,
    ApproveTask,
    AssignTask,
    CheckIn,
    CreateContract,
    CreateTask,
    CreateTaskrunner,
    DeleteTask,
    Enrol,
    FinalizeTask,
    Finish,
    Here,
    Leave,
    LeaveNetwork,
    ListenToRunner,
    Measure,
    MergeCommit,
    Propose,
    ReportTask,
    ResetContract,
    ResetTaskrunner,
    RevokeCertificate,
    RotateValidator,
    Stored,
    Suspect,
    TakeTask,
    Tick,
    Unreachable,
    Vote,
    Withdraw,
)
from swarmlearning.contracts.proposals import (
    AdmitOrganisation,
    AnyChange,
    ChangeRoles,
    ExpelOrganisation,
    ReplaceIssuers,
    ReplaceValidator,
    RevokeForeign,
    hash_change,
)
from swarmlearning.contracts.records import Manifested, Progress, Settings, Training
from swarmlearning.contracts.task_records import ROOT_TASK, Evidence, Taskrunner, TaskType, Unit, WorkState, hash_task
from swarmlearning.contracts.transition import VERSION
from swarmlearning.encoding import encode, sha256
from swarmlearning.identity.verify import fingerprint
from swarmlearning.ledger.boundary import Misbehaviour
from swarmlearning.parameters.chunks import result_root
from swarmlearning.sn.state import Overlay
from swarmlearning.types import ContractName, Endpoint, NodeName, Role, RunnerName, TaskName

GOLDEN = Path(__file__).parent / "golden" / f"transition-v{VERSION}.json"
STUDY = ContractName("study")
FAR = ContractName("far")
RUNNER = RunnerName("ward")
SETTINGS = Settings(sync_frequency=16, start="merge", topology="sharded", witnesses=1, round_max_ms=60_000)


class Story:
    """Hospitals, and everything that the contracts can do, block by block."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.sls = [member(i) for i in range(3)]
        self.blocks: list[dict[str, object]] = []
        self.number = 0
        """Of the newest proposal."""

    def training(self, contract: ContractName = STUDY) -> Training:
        found = membership.load_training(Overlay(self.chain.app.store), contract)
        assert found is not None
        return found

    def by_id(self, node: str) -> NodeName:
        return NodeName.parse(node)

    def block(
        self,
        *said: tuple[NodeName, AnyMessage],
        step_ms: int = 1000,
        misbehaviour: tuple[Misbehaviour, ...] = (),
        caller: str = "",
    ) -> None:
        chain = self.chain
        txs = [chain.sign(name, message, caller=caller) for name, message in said]
        results = chain.apply(*txs, step_ms=step_ms, misbehaviour=misbehaviour)
        self.blocks.append(
            {
                "messages": [type(message).__name__ for _, message in said],
                "txs": [tx.hex() for tx in txs],
                "codes": [int(result.code) for result in results],
                "app_hash": chain.blocks[-1][2].app_hash.hex(),
            }
        )

    def at(self, contract: ContractName = STUDY) -> dict[str, Any]:
        """What messages of the open round name."""
        training = self.training(contract)
        round_ = training.round
        assert round_ is not None
        return {"contract": contract, "run": training.run, "round": round_.number, "attempt": round_.attempt}

    def check_in(self) -> None:
        last = self.training().last
        base = last.sha256 if last else b""
        progress = Progress(epoch=1, loss_micro=250_000, metric_name="auc")
        for sl in self.sls:
            offer = CheckIn(**self.at(), base=base, commitment=sha256(sl.id.encode()), weight=1, mode="active",
                            progress=progress)  # fmt: skip
            self.block((sl, offer))

    def merge(self) -> None:
        """Everybody in charge commits; the witnesses of shard 0 too."""
        round_ = self.training().round
        assert round_ is not None
        for shard in range(round_.shards):
            for node in (round_.leaders[shard], *round_.witnesses[shard]):
                commit = MergeCommit(**self.at(), shard=shard, root=sha256(b"shard %d" % shard))
                self.block((self.by_id(node), commit))

    def measure(self) -> None:
        """Another contract, whose method needs distances: two shards, three contributors, three distances."""
        settings = replace(SETTINGS, merge_method="krum", merge_options=(("faulty", 1_000_000),), needs="distances")
        manifest = Manifested(hash=bytes(range(32)), size=100_000)
        self.block((self.sls[0], CreateContract(contract=FAR)))
        for sl in self.sls:
            enrol = Enrol(contract=FAR, run=1, settings=settings, manifest=manifest, min_peers=2, weight=1,
                          endpoint=Endpoint(host="127.0.0.1", port=30305))  # fmt: skip
            self.block((sl, enrol))
        for sl in self.sls:
            offer = CheckIn(**self.at(FAR), base=b"", commitment=sha256(sl.id.encode()), weight=1, mode="active")
            self.block((sl, offer))
        round_ = self.training(FAR).round
        assert round_ is not None
        for shard in range(round_.shards):
            part = struct.pack("<3d", 0.1 + shard, 0.2 / (shard + 1), 1e300)
            for node in (round_.leaders[shard], *round_.witnesses[shard]):
                self.block((self.by_id(node), Measure(**self.at(FAR), shard=shard, distances=part)))

    def tell(self) -> None:
        operator = member(0, Role.OPERATOR)
        self.block(*((name, registration(name)) for name in (*self.sls, operator)))
        self.block((self.sls[0], CreateContract(contract=STUDY, settings=SETTINGS)))
        manifest = Manifested(hash=bytes(range(32)), size=1_000_000)
        for sl in self.sls:
            enrol = Enrol(contract=STUDY, run=1, settings=SETTINGS, manifest=manifest, min_peers=2, weight=1,
                          endpoint=Endpoint(host="127.0.0.1", port=30305))  # fmt: skip
            self.block((sl, enrol))
        self.check_in()
        round_ = self.training().round
        assert round_ is not None
        accuser = round_.leaders[0]
        accused = next(node for node in round_.contributors if node != accuser)
        report = Unreachable(**self.at(), shard=0, contributor=accused, reason="unreachable", detail="no route")
        self.block((self.by_id(accuser), report))
        round_ = self.training().round
        assert round_ is not None
        suspect = Suspect(**self.at(), shard=1, leader=round_.leaders[1])
        self.block(*((sl, suspect) for sl in self.sls))
        self.merge()
        merged = self.training().round
        assert merged is not None
        stored = Stored(**self.at(), result_root=result_root(merged.merged), sha256=sha256(b"model"))
        self.block(*((sl, stored) for sl in self.sls))
        self.check_in()
        self.block((self.sls[0], Tick(**self.at())), step_ms=90_000)
        self.block((self.sls[0], Finish(contract=STUDY, run=1)), (self.sls[1], ResetContract(contract=STUDY, run=1)))
        self.block((self.sls[1], Here(contract=STUDY, run=1)))
        self.block(*((sl, Leave(contract=STUDY, run=1, reason="done")) for sl in self.sls))
        self.block((self.sls[0], ResetContract(contract=STUDY, run=1)))
        self.measure()
        mark = fingerprint(certificate(self.sls[0], self.sls[0].domain))
        self.block((operator, RevokeCertificate(fingerprint=mark)))

    @property
    def runner(self) -> Taskrunner:
        found = taskrunners.load_runner(Overlay(self.chain.app.store), RUNNER)
        assert found is not None
        return found

    def write_task(self, name: str, kind: TaskType, prereq: str, outcome: str) -> bytes:
        """A final task of two lines, by its author on behalf of another operator; its hash."""
        author, task = member(0, Role.SN), TaskName(name)
        created = CreateTask(task=task, kind=kind, author="Anna Müller", prereq=TaskName(prereq), outcome=outcome)
        self.block((author, created), caller=member(0, Role.OPERATOR).id)
        self.block((author, AppendTask(task=task, first=1, lines=("first", "second\tline"))))
        self.block((author, AppendTask(task=task, first=1, lines=("FROM base",))))
        state = Overlay(self.chain.app.store)
        digest = hash_task(tasks.require_task(state, task), tasks.load_body(state, task))
        self.block((author, FinalizeTask(task=task, hash=digest)))
        return digest

    def work(self) -> None:
        """A swarm is built and run by two agents: one fails, tries again, and completes."""
        author, swops = member(0, Role.SN), [member(i, Role.SWOP) for i in range(2)]
        self.block(*((name, registration(name)) for name in (author, *swops)))
        self.write_task("build", TaskType.MAKE_USER_CONTAINER, ROOT_TASK, "image")
        digest = self.write_task("run", TaskType.RUN_SWARM, "build", "model")
        draft = CreateTask(task=TaskName("draft"), kind=TaskType.PULL_IMAGE, author="", prereq=ROOT_TASK, outcome="")
        self.block((author, draft), (author, DeleteTask(task=TaskName("draft"))))
        self.block((swops[0], CreateTaskrunner(runner=RUNNER)))
        self.block(*((swop, ListenToRunner(runner=RUNNER, listening=True)) for swop in swops))
        deny = ApproveTask(task=TaskName("run"), hash=digest, granted=False)
        self.block((author, deny), (author, replace(deny, granted=True)), caller=member(0, Role.OPERATOR).id)
        assign = AssignTask(runner=RUNNER, task=TaskName("run"), hash=digest, mode="peers", peers=3)
        self.block((author, assign), caller=member(0, Role.OPERATOR).id)
        self.block(*((swop, TakeTask(runner=RUNNER, number=1, planned=2)) for swop in swops))
        ran = Evidence(manager="PROCESS", image="sha256:7f", exit_status=0, log_hash=sha256(b"log"))
        done = tuple(Unit(uid=f"sl{n}", state=WorkState.COMPLETE, evidence=ran) for n in range(2))
        failed = (
            replace(done[0], state=WorkState.RUNNING),
            replace(done[1], state=WorkState.ERROR, description="lost"),
        )
        ended = ReportTask(
            runner=RUNNER, number=1, state=WorkState.COMPLETE, units=done, approved_by=member(0, Role.OPERATOR).id
        )
        self.block((swops[0], ended))
        self.block((swops[1], replace(ended, state=WorkState.ERROR, description="no space", units=failed)))
        again = AssignTask(runner=RUNNER, task=TaskName("run"), hash=digest, mode="target", target=swops[1].id)
        self.block((author, again), (swops[1], TakeTask(runner=RUNNER, number=1, planned=2)))
        self.block((swops[1], ended))
        self.block((author, ResetTaskrunner(runner=RUNNER, number=1)))
        self.block((author, replace(assign, mode="all", peers=0)))

    def decide(self, change: AnyChange, *voters: NodeName) -> None:
        """The first proposes, the others agree, in one block."""
        self.number += 1
        vote = Vote(proposal=self.number, change=hash_change(change), yes=True)
        self.block((voters[0], Propose(change=change, reason="agreed by telephone")))
        self.block(*((voter, vote) for voter in voters[1:]))

    def govern(self) -> None:
        """Members whose validators order decide about each other, and one of these signs twice."""
        ops = [member(i, Role.OPERATOR) for i in range(5)]
        self.block(*((name, registration(name)) for name in (*self.sls, *ops[:4])))
        domains = [op.domain for op in ops]
        newcomer = AdmitOrganisation(domain=domains[4], issuers=(authority(domains[4]),), validator=validator_of(4))
        self.decide(newcomer, *ops[:3])
        self.block((ops[4], registration(ops[4])))
        self.block((ops[1], RotateValidator(validator=validator_of(1, "new"))))
        mark = fingerprint(certificate(self.sls[2], domains[2]))
        self.decide(RevokeForeign(domain=domains[2], fingerprint=mark), *ops[:4])
        self.decide(ChangeRoles(domain=domains[2], roles=(Role.SN, Role.OPERATOR)), *ops[:4])
        issuers = tuple(sorted((authority(domains[3]), authority("new.example"))))
        self.decide(ReplaceIssuers(domain=domains[3], issuers=issuers), *ops[:4])
        self.decide(ReplaceValidator(domain=domains[3], validator=validator_of(3, "new")), *ops[:4])
        signed_twice = Misbehaviour(
            kind="duplicate_vote", address=validator_of(1).address, height=2, time_ms=START_MS + 2000
        )
        self.block(misbehaviour=(signed_twice,))
        self.block()
        self.block((ops[2], Propose(change=ExpelOrganisation(domain=domains[0]))))
        self.block((ops[2], Withdraw(proposal=self.number + 1)))
        self.number += 1
        self.decide(ExpelOrganisation(domain=domains[1]), ops[0], ops[2], ops[3])
        self.block((ops[4], LeaveNetwork()))


def vectors() -> dict[str, object]:
    """The stories, their hashes, and the final state of the trainings."""
    story, voting = Story(Chain(3)), Story(Chain(4, voting=True))
    before, first = story.chain.app.info().app_hash, voting.chain.app.info().app_hash
    story.work()
    story.tell()
    voting.govern()
    nodes = [sl.id for sl in story.sls]
    return {
        "version": VERSION,
        "start_ms": START_MS,
        "genesis": story.chain.genesis.hex(),
        "genesis_app_hash": before.hex(),
        "signing_keys": [key_of(sl).public.hex() for sl in story.sls],
        "draw_of_zeros": draw_order(bytes(32), nodes),
        "blocks": story.blocks,
        "training_sha256": sha256(encode(story.training())).hex(),
        "runner_sha256": sha256(encode(story.runner)).hex(),
        "measured_sha256": sha256(encode(story.training(FAR))).hex(),
        "voting_genesis": voting.chain.genesis.hex(),
        "voting_genesis_app_hash": first.hex(),
        "voting_blocks": voting.blocks,
        "distances": story.training(FAR).round.distances.hex(),  # type: ignore[union-attr]  # it merges
    }


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(vectors(), indent=1) + "\n")
