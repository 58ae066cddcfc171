"""The planner: situations and what they ask for. Spec: docs/spec/round.md."""

from typing import Any

import pytest
from msgspec.structs import replace
from sl_world import SETTINGS, checked_in, merging, node, peer, result, training

from swarmlearning.contracts.records import Commit, Dropped, Holding, PeerState, Phase, Round, Training
from swarmlearning.sl.plan import (
    Action,
    CatchUp,
    CheckInNow,
    Deliver,
    End,
    GuardShard,
    GuardStore,
    Local,
    MeasureShard,
    MergeShard,
    SayFinished,
    SayHere,
    SayLost,
    StoreResult,
    TellShares,
    TickLater,
    plan,
)

ROUND_MAX = SETTINGS.round_max_ms


def local(index: int = 0, **changes: Any) -> Local:
    promised = bytes([index + 1]) * 32
    mine = Local(node=node(index), run=1, demand="sync", adopted=-1, offered=promised, stored=frozenset())
    return replace(mine, **changes)


def collecting(**changes: Any) -> Round:
    return replace(Round(number=0, attempt=0, opened_ms=0, quorum_ms=None), **changes)


FINISHED = [peer(0, PeerState.FINISHED), peer(1), peer(2)]
ALL = (node(0), node(1), node(2))
STORED = frozenset([(0, b"s" * 32)])
ROOT = b"m" * 32
APART = replace(SETTINGS, merge_method="geomedian", needs="distances")
PAST = replace(SETTINGS, merge_method="fedavgm", needs="history")
BEFORE, LAST = result(sha256=b"b" * 32), result(round_=1)

TABLE: dict[str, tuple[Training, Local, list[Action]]] = {
    # collecting
    "a program that trains asks for nothing": (training(), local(demand=""), []),
    "a sync is checked in": (training(), local(), [CheckInNow(round=0, attempt=0, mode="active")]),
    "a collected-again round is checked in anew": (
        training(round_=collecting(attempt=3)),
        local(offered=b"\x01" * 32),
        [CheckInNow(round=0, attempt=3, mode="active")],
    ),
    # an offer that stands
    "an offer that stands is not made again": (
        training(round_=collecting(checkins=(checked_in(0),))),
        local(offered=b"\x01" * 32),
        [],
    ),
    "an offer that a restart lost is made anew": (
        training(round_=collecting(checkins=(checked_in(0),))),
        local(offered=b""),
        [CheckInNow(round=0, attempt=0, mode="active")],
    ),
    "a finished peer's empty offer stands": (
        training(peers=FINISHED, round_=collecting(checkins=(checked_in(0, mode="inactive"),))),
        local(demand="finish", offered=b"\x05" * 32),
        [],
    ),
    # waits
    "once a round could close, somebody says when the wait is over": (
        training(round_=collecting(checkins=(checked_in(0), checked_in(1)), quorum_ms=5)),
        local(offered=b"\x01" * 32),
        [TickLater(round=0, attempt=0, after_ms=SETTINGS.grace_ms)],
    ),
    # results
    "a result that is not here is fetched before anything is offered": (
        training(last=result()),
        local(),
        [CatchUp(result=result())],
    ),
    "a result that is here is delivered before anything is offered": (
        training(last=result()),
        local(stored=STORED),
        [Deliver(result=result())],
    ),
    "another result of that round on disk is not the one": (
        training(last=result()),
        local(stored=frozenset([(0, b"x" * 32)])),
        [CatchUp(result=result())],
    ),
    "the same model again is delivered again": (
        training(last=result(round_=1)),
        local(adopted=0, stored=frozenset([(1, b"s" * 32)])),
        [Deliver(result=result(round_=1))],
    ),
    "whoever has the newest result checks in": (
        training(last=result()),
        local(adopted=0, stored=STORED),
        [CheckInNow(round=1, attempt=0, mode="active")],
    ),
    "a program that trains is given nothing": (training(last=result()), local(demand=""), []),
    # finishing
    "a program that finishes says so first": (training(), local(demand="finish"), [SayFinished()]),
    "a paused peer that finishes says so": (
        training(peers=[peer(0, PeerState.PAUSED), peer(1)]),
        local(demand="finish"),
        [SayFinished()],
    ),
    "a finished peer offers its snapshot": (
        training(peers=FINISHED),
        local(demand="finish"),
        [CheckInNow(round=0, attempt=0, mode="snapshot")],
    ),
    "a finished peer offers nothing where the contract says inactive": (
        training(peers=FINISHED, settings=replace(SETTINGS, checkin_mode="inactive")),
        local(demand="finish"),
        [CheckInNow(round=0, attempt=0, mode="inactive")],
    ),
    "a finished peer offers the last merged where the contract says active": (
        training(peers=FINISHED, last=result(), settings=replace(SETTINGS, checkin_mode="active")),
        local(demand="finish", adopted=0, stored=STORED),
        [CheckInNow(round=1, attempt=0, mode="last")],
    ),
    "there is no last merged before the first round": (
        training(peers=FINISHED, settings=replace(SETTINGS, checkin_mode="active")),
        local(demand="finish"),
        [CheckInNow(round=0, attempt=0, mode="inactive")],
    ),
    # merging
    "a leader merges": (
        training(phase=Phase.MERGING, round_=merging()),
        local(),
        [TickLater(round=0, attempt=1, after_ms=ROUND_MAX), MergeShard(round=0, shard=0, contributors=ALL)],
    ),
    "a leader that has committed does not merge again": (
        training(
            phase=Phase.MERGING,
            round_=merging(commits=(Commit(shard=0, node=node(0), root=ROOT),), witnesses=((node(1),),)),
        ),
        local(),
        [
            TickLater(round=0, attempt=1, after_ms=ROUND_MAX),
            GuardShard(round=0, attempt=1, shard=0, suspect=node(1)),
        ],
    ),
    "a witness merges too, and watches the leader": (
        training(phase=Phase.MERGING, round_=merging(witnesses=((node(1),),))),
        local(1),
        [
            TickLater(round=0, attempt=1, after_ms=ROUND_MAX),
            MergeShard(round=0, shard=0, contributors=ALL),
            GuardShard(round=0, attempt=1, shard=0, suspect=node(0)),
        ],
    ),
    # distances
    "while a round measures its leaders measure, and are watched": (
        training(phase=Phase.MERGING, round_=merging(shards=2, measuring=True), settings=APART),
        local(),
        [
            TickLater(round=0, attempt=1, after_ms=ROUND_MAX),
            MeasureShard(round=0, shard=0, contributors=ALL),
            GuardShard(round=0, attempt=1, shard=1, suspect=node(1), measuring=True),
        ],
    ),
    "who has measured waits for the others": (
        training(
            phase=Phase.MERGING,
            round_=merging(
                shards=2,
                measuring=True,
                merged=(ROOT, b""),
                commits=(Commit(shard=0, node=node(0), root=ROOT),),
            ),
            settings=APART,
        ),
        local(),
        [
            TickLater(round=0, attempt=1, after_ms=ROUND_MAX),
            GuardShard(round=0, attempt=1, shard=1, suspect=node(1), measuring=True),
        ],
    ),
    #
    "a measured round is merged, and its weights are told": (
        training(phase=Phase.MERGING, round_=merging(distances=bytes(24)), settings=APART),
        local(),
        [
            TickLater(round=0, attempt=1, after_ms=ROUND_MAX),
            MergeShard(round=0, shard=0, contributors=ALL),
            TellShares(round=0, contributors=ALL, distances=bytes(24)),
        ],
    ),
    # the past
    "a leader fetches the newest result before the one before": (
        training(phase=Phase.MERGING, round_=merging(number=2), settings=PAST, last=LAST, previous=BEFORE),
        local(demand="", adopted=0, stored=frozenset()),
        [TickLater(round=2, attempt=1, after_ms=ROUND_MAX), CatchUp(result=LAST)],
    ),
    "a leader fetches the result before the newest too": (
        training(phase=Phase.MERGING, round_=merging(number=2), settings=PAST, last=LAST, previous=BEFORE),
        local(demand="", adopted=1, stored=frozenset([(1, b"s" * 32)])),
        [TickLater(round=2, attempt=1, after_ms=ROUND_MAX), CatchUp(result=BEFORE)],
    ),
    "a leader that has both merges": (
        training(phase=Phase.MERGING, round_=merging(number=2), settings=PAST, last=LAST, previous=BEFORE),
        local(demand="", adopted=1, stored=frozenset([(1, b"s" * 32), (0, b"b" * 32)])),
        [TickLater(round=2, attempt=1, after_ms=ROUND_MAX), MergeShard(round=2, shard=0, contributors=ALL)],
    ),
    "before the first result a leader needs none": (
        training(phase=Phase.MERGING, round_=merging(), settings=PAST),
        local(),
        [TickLater(round=0, attempt=1, after_ms=ROUND_MAX), MergeShard(round=0, shard=0, contributors=ALL)],
    ),
    "whoever is in charge of nothing fetches nothing of the past": (
        training(phase=Phase.MERGING, round_=merging(number=2), settings=PAST, last=LAST, previous=BEFORE),
        local(2, demand="", adopted=1, stored=frozenset()),
        [
            TickLater(round=2, attempt=1, after_ms=ROUND_MAX),
            GuardShard(round=2, attempt=1, shard=0, suspect=node(0)),
        ],
    ),
    "a leader needs nothing of the past for other methods": (
        training(phase=Phase.MERGING, round_=merging(number=2), last=LAST),
        local(demand="", adopted=0, stored=frozenset()),
        [TickLater(round=2, attempt=1, after_ms=ROUND_MAX), MergeShard(round=2, shard=0, contributors=ALL)],
    ),
    # guarding
    "whoever does not lead watches": (
        training(phase=Phase.MERGING, round_=merging(shards=2)),
        local(2),
        [
            TickLater(round=0, attempt=1, after_ms=ROUND_MAX),
            GuardShard(round=0, attempt=1, shard=0, suspect=node(0)),
            GuardShard(round=0, attempt=1, shard=1, suspect=node(1)),
        ],
    ),
    "a dropped contributor watches nobody": (
        training(
            phase=Phase.MERGING,
            round_=merging(contributors=ALL[:2], dropped=(Dropped(node=node(2), reason="nonfinite"),)),
        ),
        local(2),
        [TickLater(round=0, attempt=1, after_ms=ROUND_MAX)],
    ),
    "whoever is not in the round only keeps the time": (
        training(peers=[*FINISHED, peer(3)], phase=Phase.MERGING, round_=merging()),
        local(3),
        [TickLater(round=0, attempt=1, after_ms=ROUND_MAX)],
    ),
    "whoever restarted says that its offer is gone": (
        training(phase=Phase.MERGING, round_=merging()),
        local(2, offered=b""),
        [
            TickLater(round=0, attempt=1, after_ms=ROUND_MAX),
            SayLost(round=0, attempt=1),
            GuardShard(round=0, attempt=1, shard=0, suspect=node(0)),
        ],
    ),
    "whoever has been dropped has nothing to say of its offer": (
        training(
            phase=Phase.MERGING,
            round_=merging(contributors=ALL[:2], dropped=(Dropped(node=node(2), reason="unreachable"),)),
        ),
        local(2, offered=b""),
        [TickLater(round=0, attempt=1, after_ms=ROUND_MAX)],
    ),
    # storing
    # T-19: a peer that a round closed without
    #
    "a paused program that trains says so before the others end without it": (
        training(peers=(peer(0, PeerState.PAUSED), peer(1, PeerState.FINISHED), peer(2, PeerState.LEFT))),
        local(demand=""),
        [SayHere()],
    ),
    "a paused program that does not sync after that is not spoken for again": (
        training(peers=(peer(0, PeerState.PAUSED), peer(1, PeerState.FINISHED), peer(2, PeerState.LEFT))),
        local(demand="", vouched=True),
        [],
    ),
    "a paused program is silent while others train": (
        training(peers=(peer(0, PeerState.PAUSED), peer(1), peer(2, PeerState.FINISHED))),
        local(demand=""),
        [],
    ),
    "a paused program that syncs says so by its check-in": (
        training(peers=(peer(0, PeerState.PAUSED), peer(1, PeerState.FINISHED), peer(2, PeerState.FINISHED))),
        local(),
        [CheckInNow(round=0, attempt=0, mode="active")],
    ),
    "a merged round is stored": (
        training(phase=Phase.MERGING, round_=merging(merged=(ROOT,))),
        local(2),
        [
            TickLater(round=0, attempt=1, after_ms=ROUND_MAX),
            StoreResult(round=0, roots=(ROOT,), attempt=1),
        ],
    ),
    "a half-merged round is not": (
        training(phase=Phase.MERGING, round_=merging(shards=2, merged=(ROOT, b""))),
        local(2),
        [
            TickLater(round=0, attempt=1, after_ms=ROUND_MAX),
            GuardShard(round=0, attempt=1, shard=1, suspect=node(1)),
        ],
    ),
    "whoever has stored says it once": (
        training(
            phase=Phase.MERGING, round_=merging(merged=(ROOT,), holdings=(Holding(node=node(2), sha256=b"s" * 32),))
        ),
        local(2),
        [
            TickLater(round=0, attempt=1, after_ms=ROUND_MAX),
            GuardStore(round=0, attempt=1, suspect=node(0)),
            GuardStore(round=0, attempt=1, suspect=node(1)),
        ],
    ),
    # leaving, R-19: the end
    "a peer that left does nothing": (
        training(peers=[peer(0, PeerState.LEFT), peer(1)], phase=Phase.MERGING, round_=merging()),
        local(),
        [],
    ),
    "another run is not ours": (training(run=2), local(), []),
    "the end is handed over": (
        training(phase=Phase.COMPLETED, last=result()),
        local(demand="finish", stored=STORED),
        [End(result=result())],
    ),
    "the end is fetched if it is not here": (
        training(phase=Phase.COMPLETED, last=result()),
        local(demand="finish"),
        [CatchUp(result=result())],
    ),
    "an end without any result is an end": (
        training(phase=Phase.COMPLETED),
        local(demand="finish"),
        [End(result=None)],
    ),
    "a sync after the end gets the end": (
        training(phase=Phase.COMPLETED, last=result()),
        local(adopted=0, stored=STORED),
        [End(result=result())],
    ),
    "a program that trains is not told of the end before it asks": (
        training(phase=Phase.COMPLETED, last=result()),
        local(demand="", stored=STORED),
        [],
    ),
}


@pytest.mark.parametrize("situation", TABLE)
def test_what_a_situation_asks_for(situation: str) -> None:
    """R-2: the record and what we hold decide, nothing else."""
    record, mine, expected = TABLE[situation]
    assert plan(record, mine) == expected
