"""Records of a training as `swarm status` gets them, and what of them reaches the screen."""

import io

from contracts_world import HOME, node_of
from msgspec.structs import replace
from rich.console import Console, RenderableType

from swarmlearning.contracts.records import (
    Dropped,
    Manifested,
    Peer,
    PeerState,
    Phase,
    Progress,
    Result,
    Round,
    RoundSummary,
    Settings,
    Training,
)
from swarmlearning.types import ContractName, NodeId, TrustDomain

SHOWN = Progress(
    epoch=3, total_epochs=10, eta_s=749, loss_micro=312_345, metric_micro=912_345, metric_name="auc", figures_round=6
)


def peer(node: NodeId | int, **changes: object) -> Peer:
    found = Peer(
        node=node_of(node) if isinstance(node, int) else node, endpoint=HOME, state=PeerState.LIVE, min_peers=2,
        weight=1, restored=False, enrolled_round=0, rounds_offered=7, rounds_contributed=6, recent=0b1111110,
    )  # fmt: skip
    return replace(found, **changes)


def open_round(**changes: object) -> Round:
    return replace(Round(number=7, attempt=0, opened_ms=0, quorum_ms=None), **changes)


def training(*peers: Peer, **changes: object) -> Training:
    last = Result(
        round=6, roots=(), result_root=bytes(32), sha256=b"\xab" * 32, holders=(), participants=(), contributors=(),
        dropped=(), attempts=1, height=9, time_ms=1,
    )  # fmt: skip
    found = Training(
        name=ContractName("heart"), creator=TrustDomain("org0.example"), created_height=1, phase=Phase.COLLECTING,
        settings=Settings(sync_frequency=50), manifest=Manifested(hash=bytes(32), size=1), peers=peers,
        round=open_round(), last=last, interval=50, finals=7, version=40,
    )  # fmt: skip
    return replace(found, **changes)


def summary(number: int, **changes: object) -> RoundSummary:
    nodes = (node_of(0), node_of(1))
    found = RoundSummary(
        run=1, round=number, sha256=bytes([number % 256]) * 32, participants=nodes, contributors=nodes, dropped=(),
        attempts=1, height=number, time_ms=1_700_000_000_000 + number, collect_ms=95_000, merge_ms=700, interval=50,
        mean_loss_micro=None, mean_metric_micro=None, figures=(),
    )  # fmt: skip
    return replace(found, **changes)


def dropped(node: int, reason: str) -> Dropped:
    return Dropped(node=node_of(node), reason=reason)


def draw(renderable: RenderableType, columns: int, lines: int = 500) -> list[str]:
    """What a terminal without colours shows, line by line."""
    out = io.StringIO()
    Console(file=out, width=columns, height=lines, highlight=False).print(renderable)
    return [line.rstrip() for line in out.getvalue().splitlines()]
