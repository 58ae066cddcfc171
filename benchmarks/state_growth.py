"""What a long training leaves in an SN's state: the file's size, and which records it is.

    python benchmarks/state_growth.py [--rounds 10000] [--peers 10] [--json]

Peers of as many organisations play honest rounds through the real application: signed transactions, a model of 10 MB
dealt to all, figures with every check-in. A wave of transactions is one block, as the embedded ledger makes them, so
that as many nonces as can be are remembered at once. No network, no ledger engine: blocks are another file.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from swarmlearning.contracts import membership
from swarmlearning.contracts.messages import (
    AnyMessage,
    CheckIn,
    Enrol,
    MergeCommit,
    RegisterNode,
    Stored,
    registration_bytes,
)
from swarmlearning.contracts.records import (
    Genesis,
    Manifested,
    Organisation,
    Progress,
    Round,
    Settings,
    Training,
)
from swarmlearning.encoding import encode, sha256, to_json
from swarmlearning.identity.authority import create_ca, issue_certificate
from swarmlearning.identity.signing import SigningKey
from swarmlearning.identity.source import PemSource
from swarmlearning.ledger.boundary import Header
from swarmlearning.parameters.chunks import result_root
from swarmlearning.sn.application import SwarmApplication
from swarmlearning.sn.client import sign_message
from swarmlearning.sn.state import Overlay, StateStore
from swarmlearning.types import DEFAULT_CONTRACT, Code, Endpoint, NodeName, Role, TrustDomain

NETWORK = "growth"
START_MS = 1_800_000_000_000
STEP_MS = 5_000
SETTINGS = Settings(sync_frequency=100, start="merge")
MODEL = Manifested(hash=bytes(32), size=10 << 20)


class Swarm:
    """Peers that play rounds on one application."""

    def __init__(self, directory: Path, peers: int) -> None:
        self.sls = [
            NodeName(domain=TrustDomain(f"hospital-{i:02}.example"), network=NETWORK, role=Role.SL, name="sl-1")
            for i in range(peers)
        ]
        self.keys = {sl.id: SigningKey.load_or_create(directory / f"{sl.domain}.sign.pem") for sl in self.sls}
        authorities = {sl.domain: create_ca(directory / sl.domain, sl.domain, at_ms=START_MS) for sl in self.sls}
        sentinel = NodeName(domain=self.sls[0].domain, network=NETWORK, role=Role.SN, name="sn-1")
        genesis = Genesis(
            network=NETWORK,
            version=1,
            created_ms=START_MS,
            sentinel=sentinel.id,
            sentinel_key=bytes(32),
            organisations=tuple(
                Organisation(domain=domain, issuers=(authority.certificate,))
                for domain, authority in authorities.items()
            ),
        )
        self.path = directory / "state.sqlite"
        self.store = StateStore(self.path)
        self.app = SwarmApplication(self.store)
        self.app.init(encode(genesis))
        self.sentinel = sentinel
        registrations: list[tuple[NodeName, AnyMessage]] = []
        for sl in self.sls:
            issued = issue_certificate(authorities[sl.domain], sl, ("10.0.0.1",), directory / sl.domain, at_ms=START_MS)
            credential = PemSource(issued.certificate, issued.key, issued.issuer).load(START_MS)
            proof = credential.sign_proof(registration_bytes(NETWORK, sl.id, self.keys[sl.id].public))
            message = RegisterNode(node=sl.id, certificate=credential.certificate_der, proof=proof)
            registrations.append((sl, message))
        self.block(registrations)
        self.block([(sl, self._enrolment()) for sl in self.sls])

    def _enrolment(self) -> Enrol:
        return Enrol(
            contract=DEFAULT_CONTRACT,
            run=1,
            settings=SETTINGS,
            manifest=MODEL,
            min_peers=len(self.sls),
            weight=1,
            endpoint=Endpoint(host="10.0.0.1", port=30305),
        )

    @property
    def training(self) -> Training:
        """The one that is played."""
        found = membership.load_training(Overlay(self.store), DEFAULT_CONTRACT)
        if found is None:
            raise LookupError("the default contract is gone")
        return found

    @property
    def round(self) -> Round:
        """The open one."""
        found = self.training.round
        if found is None:
            raise LookupError("no round is open")
        return found

    def block(self, said: list[tuple[NodeName, AnyMessage]]) -> None:
        """One block, executed and written."""
        height = self.app.info().height
        txs = [sign_message(self.keys[name.id], NETWORK, message, height) for name, message in said]
        header = Header(
            height=height + 1,
            time_ms=START_MS + height * STEP_MS,
            previous_hash=sha256(str(height).encode()),
            proposer=self.sentinel.id,
        )
        applied = self.app.apply(header, txs)
        bad = [result for result in applied.results if result.code not in (Code.OK, Code.STALE)]
        if bad:
            raise RuntimeError(f"block {header.height}: {bad[0].log}")
        self.app.commit()

    def play_round(self) -> None:
        """Everybody checks in, merges and stores."""
        last, number = self.training.last, self.round.number
        base = last.sha256 if last else b""
        progress = Progress(
            epoch=3, total_epochs=10, eta_s=749, batch=number * 100, loss_micro=312_345, metric_micro=912_345,
            metric_name="accuracy", figures_round=number - 1, bytes_received=1 << 33, bytes_sent=1 << 33,
        )  # fmt: skip
        at: dict[str, Any] = {"contract": DEFAULT_CONTRACT, "run": 1, "round": number, "attempt": self.round.attempt}
        offer: dict[str, Any] = at | {"base": base, "weight": 1, "mode": "active", "progress": progress}
        self.block([(sl, CheckIn(**offer, commitment=sha256(sl.id.encode()))) for sl in self.sls])
        at["attempt"] = self.round.attempt
        by_id = {sl.id: sl for sl in self.sls}
        leaders = [by_id[leader] for leader in self.round.leaders]
        roots = [sha256(f"{number} {shard}".encode()) for shard in range(len(leaders))]
        self.block([(leader, MergeCommit(**at, shard=i, root=roots[i])) for i, leader in enumerate(leaders)])
        root = result_root(self.round.merged)
        self.block([(sl, Stored(**at, result_root=root, sha256=sha256(root))) for sl in self.sls])
        if self.round.number != number + 1:
            raise RuntimeError(f"round {number} did not become final")

    def file_bytes(self) -> int:
        """The state's file with its log, as it lies on the disk."""
        return sum(path.stat().st_size for path in self.path.parent.glob("state.sqlite*"))

    def by_kind(self) -> dict[str, int]:
        """Bytes of keys and values, by what they are."""
        found: Counter[str] = Counter()
        for key in self.store.keys(""):
            found[key.partition("/")[0]] += len(key.encode()) + len(self.store.get(key) or b"")
        return dict(found.most_common())


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """What was left."""

    rounds: int
    peers: int
    largest_bytes: int
    """Of the file with its log, ever."""
    by_kind: dict[str, int]
    """Bytes of keys and values at the end, by what they are."""
    seconds: float


def measure(rounds: int, peers: int) -> Growth:
    """Play `rounds` and weigh what is left."""
    with tempfile.TemporaryDirectory() as directory:
        swarm = Swarm(Path(directory), peers)
        largest, begun = 0, time.monotonic()
        for number in range(rounds):
            swarm.play_round()
            if number % 100 == 99:
                largest = max(largest, swarm.file_bytes())
                print(f"\r{number + 1} rounds, {largest / 1e6:.1f} MB", end="", file=sys.stderr)
        print(file=sys.stderr)
        return Growth(
            rounds=rounds,
            peers=peers,
            largest_bytes=max(largest, swarm.file_bytes()),
            by_kind=swarm.by_kind(),
            seconds=round(time.monotonic() - begun, 1),
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--peers", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.rounds, options.peers)
    if options.json:
        print(to_json(found).decode())
        return
    print(f"{found.rounds} rounds of {found.peers} peers: {found.largest_bytes / 1e6:.1f} MB at most")
    for kind, size in found.by_kind.items():
        print(f"  {kind:<12} {size / 1e3:10.1f} kB")


if __name__ == "__main__":
    main()
