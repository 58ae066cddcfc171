"""CREATE, RESET, GET and LIST of contracts, PERFDATA, LIST PEERS, GET CONTRACT HISTORY: docs/spec/swci-looking.md."""

import json
from pathlib import Path

import pytest
from chain_world import member
from contracts_world import node_of
from looking_world import OPERATOR, STUDY, Network, PlayedSn, answer_of, ask, on_a_network
from msgspec.structs import replace
from status_records import SHOWN, dropped, open_round, peer, summary, training

from swarmlearning.contracts.messages import CreateContract
from swarmlearning.contracts.records import PeerState, Phase, Progress, Settings, Target, Training
from swarmlearning.errors import ExitCode
from swarmlearning.reports.nodes import node_uuid
from swarmlearning.swci.running import write_lines
from swarmlearning.types import ContractName, NodeId, TrustDomain

HEART = training(peer(0, progress=SHOWN), peer(1), version=3)
EMPTY = Training(name=ContractName("lung"), creator=TrustDomain("org1.example"), created_height=7)
COMPLETE = replace(HEART, phase=Phase.COMPLETED, round=None)


# --- creating and resetting -----------------------------------------------------------------------------------------


def test_ci40_a_contract_is_created_and_a_second_of_its_name_is_refused(tmp_path: Path) -> None:
    async def work(network: Network) -> None:
        desk = network.desk()
        assert await desk.lines("create contract study/1") == ["Contract Created : study/1"]
        assert await desk.lines("LIST CONTRACTS") == ["defaultbb.cqdb.sml.hpe", "study/1"]
        again = await desk.run("CREATE CONTRACT study/1")
        assert (again.status, "study/1" in again.error) == (ExitCode.PEER, True)
        found = await network.registry.client(OPERATOR).training(ContractName("study/1"))
        assert found is not None
        assert (found.creator, found.settings) == (OPERATOR.domain, None)

    on_a_network(tmp_path, work)


def test_ci40_a_reset_by_the_creator_starts_the_next_run(tmp_path: Path) -> None:
    async def work(network: Network) -> None:
        desk = network.desk()
        await desk.run(f"CREATE CONTRACT {STUDY}")
        await network.enrol(0)
        assert await desk.lines(f"RESET CONTRACT {STUDY}") == [
            "Contract Reset : study",
            "study is reset: run 2 begins when peers enrol",
        ]
        assert (await desk.run(f"RESET CONTRACT {STUDY}")).answer.run == 3
        missing = await desk.run("RESET CONTRACT studi")
        assert missing.error.startswith("there is no contract studi; did you mean study?")

    on_a_network(tmp_path, work)


def test_ci40_who_is_not_enrolled_cannot_reset_a_running_training_and_is_told_whose_votes_it_takes(
    tmp_path: Path,
) -> None:
    async def work(network: Network) -> None:
        desk = network.desk()
        await desk.run(f"CREATE CONTRACT {STUDY}")
        await network.enrol(0, 1, 2)
        assert await desk.lines(f"RESET CONTRACT {STUDY}") == [
            (
                "ERROR study is collecting: a majority of its enrolled peers resets it, each as its SL: 0 of the 2 "
                "votes that it needs are there; not yet asked for by sl0@org0.example, sl1@org1.example, "
                "sl2@org2.example"
            )
        ]

    on_a_network(tmp_path, work)


def test_ci40_a_reset_that_counts_as_a_vote_fails_and_says_what_it_still_needs(tmp_path: Path) -> None:
    async def work(network: Network) -> None:
        await network.desk().run(f"CREATE CONTRACT {STUDY}")
        await network.enrol(0, 1, 2)
        desk = network.desk(member(0))
        assert await desk.lines(f"RESET CONTRACT {STUDY}") == [
            (
                "ERROR study is not reset yet, this was a vote: 1 of the 2 votes that it needs are there; not yet "
                "asked for by sl1@org1.example, sl2@org2.example"
            )
        ]
        training_before = await network.registry.client(OPERATOR).training(STUDY)
        assert training_before is not None
        assert (training_before.run, training_before.reset_votes) == (1, (member(0).id,))

    on_a_network(tmp_path, work)


# --- looking --------------------------------------------------------------------------------------------------------


def test_ci41_info_of_a_contract_that_nobody_has_enrolled_in(tmp_path: Path) -> None:
    limited = replace(EMPTY, organisations=(TrustDomain("org1.example"), TrustDomain("org2.example")))
    assert ask(PlayedSn(limited), "GET CONTRACT INFO lung", tmp_path) == [
        "CONTRACT : lung",
        "CREATOR : org1.example, at height 7",
        "MAY ENROL : org1.example, org2.example",
        "RUN : 1",
        "SETTINGS : none yet: the first peer that enrols brings them",
    ]
    assert ask(PlayedSn(EMPTY), "GET CONTRACT STATUS lung", tmp_path) == [
        "CONTRACT : lung, run 1",
        "PHASE : uninitialized",
        "WAITING : nobody has enrolled yet",
        "PEERS : 0",
        "NEWEST : no result yet",
    ]


def test_ci41_info_tells_what_was_agreed_on_and_by_whom(tmp_path: Path) -> None:
    settings = Settings(sync_frequency=50, method_source="acme 1.0 sha256:00", target=Target(loss_micro=100_000))
    lines = ask(PlayedSn(replace(HEART, settings=settings)), "GET CONTRACT INFO heart", tmp_path)
    assert lines[2:] == [
        "MAY ENROL : every member",
        "RUN : 1",
        "SETTINGS : those of the first peer that enrolled",
        "MERGING : mean of at least 2 peers, every 50 batches",
        "EXCHANGE : wire float32, topology auto, no witnesses",
        "PLUG-IN : acme 1.0 sha256:00",
        "TARGET : mean loss at most 0.1000; reached by 0 of 1 models in a row",
        f"LAYOUT : 1 bytes of parameters, manifest {'0' * 16}",
    ]
    given = ask(PlayedSn(replace(HEART, settings_fixed=True)), "GET CONTRACT INFO heart", tmp_path)
    assert "SETTINGS : given when it was created" in given


def test_ci41_status_tells_where_it_stands_with_the_whole_hash_and_every_warning(tmp_path: Path) -> None:
    paused = replace(HEART, peers=(*HEART.peers, peer(2, state=PeerState.PAUSED)))
    assert ask(PlayedSn(paused), "GET CONTRACT STATUS heart", tmp_path) == [
        "CONTRACT : heart, run 1",
        "PHASE : collecting, round 7",
        (
            "WAITING : 0 of at least 2 peers have checked in; missing: sl0@org0.example, sl1@org1.example, "
            "sl2@org2.example (paused)"
        ),
        "PEERS : 3: 1 paused, 2 training",
        "NEWEST : round 6",
        f"MODEL : {'ab' * 32}",
        (
            "WARNING : sl2@org2.example is paused: it missed the close of a round, and rounds do not wait for it until "
            "it is back"
        ),
    ]
    ended = ask(PlayedSn(COMPLETE), "GET CONTRACT STATUS heart", tmp_path)
    assert ended[1:3] == ["PHASE : completed", "ENDED : the training is complete"]


@pytest.mark.parametrize(
    "command", ["GET CONTRACT INFO", "GET CONTRACT STATUS", "PERFDATA", "LIST PEERS", "GET CONTRACT HISTORY",
                "WATCH CONTRACT", "RESET CONTRACT"]
)  # fmt: skip
def test_ci41_a_contract_that_is_not_there_is_told_with_the_nearest(command: str, tmp_path: Path) -> None:
    assert ask(PlayedSn(HEART, EMPTY), f"{command} hart", tmp_path) == [
        "ERROR there is no contract hart; did you mean heart? There are: heart, lung"
    ]


def test_ci41_as_json_a_contract_is_a_whole_report_with_hashes_as_digits(tmp_path: Path) -> None:
    done = answer_of(PlayedSn(HEART), "GET CONTRACT STATUS heart", tmp_path)
    answer = json.loads("\n".join(write_lines(done, as_json=True)))
    assert (answer["name"], answer["creator"], answer["created_height"]) == ("heart", "org0.example", 1)
    assert (answer["newest_model"], answer["manifest"]) == ("ab" * 32, "00" * 32)
    assert [each["name"] for each in answer["peers"]] == ["sl0@org0.example", "sl1@org1.example"]


# --- peers ----------------------------------------------------------------------------------------------------------


def test_ci42_perfdata_is_a_row_a_peer_with_figures_as_far_as_it_shows_them(tmp_path: Path) -> None:
    leads = replace(HEART, round=open_round(leaders=(node_of(1),), merging=True), phase=Phase.MERGING)
    assert ask(PlayedSn(leads), "PERFDATA heart", tmp_path) == [
        "UID,Admin,Loss,Metric,TotalEpochs,CompletedEpochs,Name",
        f"{node_uuid(node_of(0))},False,0.3123,0.9123,10,2,sl0@org0.example",
        f"{node_uuid(node_of(1))},True,-,-,-,-,sl1@org1.example",
    ]


@pytest.mark.parametrize(
    ("state", "epoch", "completed"),
    [(PeerState.LIVE, 0, "0"), (PeerState.LIVE, 1, "0"), (PeerState.PAUSED, 4, "3"), (PeerState.FINISHED, 4, "4")],
)
def test_ci42_an_epoch_is_completed_once_the_next_has_begun_or_the_peer_has_finished(
    state: PeerState, epoch: int, completed: str, tmp_path: Path
) -> None:
    only = training(peer(0, state=state, progress=Progress(epoch=epoch)))
    assert ask(PlayedSn(only), "PERFDATA heart", tmp_path)[1].split(",")[5] == completed


def test_ci42_peers_are_listed_with_what_all_wait_for(tmp_path: Path) -> None:
    expected = [
        "CONTRACT : heart, run 1",
        "PHASE : collecting, round 7",
        "WAITING : 0 of at least 2 peers have checked in; missing: sl0@org0.example, sl1@org1.example",
        "metric: auc",
        "peer,state,epoch,ETA,loss,metric,of round,merged,last 10",
        "sl0@org0.example,training,3/10,12 min,0.3123,0.9123,6,6/7,6/7",
        "sl1@org1.example,training,-,-,-,-,-,6/7,6/7",
    ]
    assert ask(PlayedSn(HEART), "LIST PEERS heart", tmp_path) == expected
    assert ask(PlayedSn(EMPTY, HEART), "LIST PEERS", tmp_path) == expected, "the only one in use"


def test_ci42_of_several_contracts_in_use_one_has_to_be_named(tmp_path: Path) -> None:
    several = PlayedSn(HEART, replace(HEART, name=ContractName("lung")))
    assert ask(several, "LIST PEERS", tmp_path) == ["ERROR which contract is meant? Name one of: heart, lung"]


# --- history --------------------------------------------------------------------------------------------------------


def test_ci43_a_history_tells_who_contributed_who_did_not_and_why(tmp_path: Path) -> None:
    drawn = summary(0, contributors=(node_of(0),), sha256=b"\x01" * 32)
    without = summary(
        3,
        participants=tuple(map(node_of, (0, 1, 2))),
        contributors=(node_of(0), node_of(2)),
        attempts=2,
        dropped=(dropped(1, "its bytes did not\x1b verify"),),
        mean_loss_micro=250_000,
    )
    record = replace(HEART, finals=30)
    lines = ask(
        PlayedSn(record, history=[drawn, summary(1), summary(2), without]), "GET CONTRACT HISTORY heart", tmp_path
    )
    assert lines == [
        "CONTRACT : heart, run 1",
        "ROUNDS : the newest 4 of 30 final rounds",
        "rounds 1 to 2: sl0@org0.example, sl1@org1.example contributed",
        "round 3: sl0@org0.example, sl2@org2.example contributed",
        "round 0: all adopted the parameters of sl0@org0.example, which was drawn",
        "round 3: without sl1@org1.example: its bytes did not? verify",
        "round 3: final in attempt 2",
        "run,round,final at,merged,collect,merge,loss,metric,every,model",
        "1,0,11-14 22:13:20,drawn,95 s,0.7 s,-,-,50,010101010101",
        "1,1,11-14 22:13:20,2/2,95 s,0.7 s,-,-,50,010101010101",
        "1,2,11-14 22:13:20,2/2,95 s,0.7 s,-,-,50,020202020202",
        "1,3,11-14 22:13:20,2/3,95 s,0.7 s,0.2500,-,50,030303030303",
    ]


def test_ci43_as_many_rounds_are_told_as_were_asked_for_and_as_json_whole(tmp_path: Path) -> None:
    sn = PlayedSn(HEART, history=[summary(number) for number in range(20)])
    done = answer_of(sn, "GET CONTRACT HISTORY heart 2", tmp_path)
    assert [(each.round, each.model) for each in done.answer.rounds] == [(18, "12" * 32), (19, "13" * 32)]
    assert [each.contributors for each in done.answer.rounds] == [(node_of(0), node_of(1))] * 2
    answer_of(sn, "GET CONTRACT HISTORY heart", tmp_path)
    assert sn.most_asked == [2, 10]
    for wrong in ("0", "1001", "-1"):
        done = answer_of(sn, f"GET CONTRACT HISTORY heart {wrong}", tmp_path)
        assert done.error == f"<rounds> {wrong}; expected 1-1000"


def test_ci43_of_many_contributors_the_first_are_named_and_the_others_counted(tmp_path: Path) -> None:
    nodes = tuple(NodeId(f"spiffe://org{index:02}.example/heart/sl/sl0") for index in range(12))
    record = training(*map(peer, nodes))
    lines = ask(PlayedSn(record, history=[summary(1, contributors=nodes, participants=nodes)]),
                "GET CONTRACT HISTORY heart", tmp_path)  # fmt: skip
    assert lines[2].endswith("sl0@org07.example and 4 more contributed")


def test_ci49_what_peers_set_reaches_lines_and_tables_without_control_characters(tmp_path: Path) -> None:
    evil = replace(SHOWN, metric_name="auc\x1b[2J\n\u202e")
    sn = PlayedSn(training(peer(0, progress=evil), peer(1), round=open_round(setback="it \x1b[31m failed")))
    for command in ("LIST PEERS heart", "GET CONTRACT STATUS heart", "PERFDATA heart"):
        assert all(line.isprintable() for line in ask(sn, command, tmp_path)), command


def test_ci41_settings_that_were_given_at_creation_are_told_as_such(tmp_path: Path) -> None:
    async def work(network: Network) -> None:
        await network.must(
            member(1), CreateContract(contract=ContractName("fixed"), settings=Settings(sync_frequency=9))
        )
        lines = await network.desk().lines("GET CONTRACT INFO fixed")
        assert "SETTINGS : given when it was created" in lines
        assert "CREATOR : org1.example, at height" in lines[1]

    on_a_network(tmp_path, work)
