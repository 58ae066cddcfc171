"""The command interface beside a training of real nodes: watched, told of, voted on; docs/spec/swci-looking.md."""

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_network import ask_swarm, running_network
from real_peers import Peer, finish, play, train
from swci_world import A, B, Swarm, process_environment, status_of, text_of

from swarmlearning.errors import ExitCode
from swarmlearning.local.network import Site
from swarmlearning.reports.nodes import node_uuid
from swarmlearning.swci.running import Done
from swarmlearning.types import Role

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(110)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """Two organisations with an SN and an SL each."""
    sites = (Site(domain=A, sls=1), Site(domain=B, sls=1))
    with running_network(tmp_path_factory.mktemp("looking") / "w", sites) as made:
        yield Swarm(made)


def lines_of(done: Done | None) -> list[str]:
    return text_of(done).splitlines()


def begin(pair: Swarm, contract: str, rounds: int) -> list[Peer]:
    return train(pair.network, contract, rounds)


def test_ci42_ci43_a_training_is_told_of_while_it_runs_and_when_it_is_over(pair: Swarm) -> None:
    peers = begin(pair, "told", 3)
    try:
        figures, listed, during = pair.say("PERFDATA told", "LIST PEERS told", "GET CONTRACT STATUS told")
        shown, silent = list(csv.DictReader(lines_of(figures)))
        first, second = (sl.node for sl in pair.network.sls)
        assert (shown["UID"], shown["Name"]) == (node_uuid(first), "sl-0@a.example")
        assert (shown["Loss"], shown["Metric"], shown["TotalEpochs"], shown["CompletedEpochs"]) == (
            "0.5000", "0.9100", "3", "2",
        )  # fmt: skip
        assert (silent["UID"], silent["Loss"], silent["CompletedEpochs"]) == (node_uuid(second), "-", "-")
        assert "metric: auc" in lines_of(listed)
        assert "sl-0@a.example,training,3/3,12 min,0.5000,0.9100,1,3/3,3/3" in lines_of(listed)
        assert "PHASE : collecting, round 3" in lines_of(during)
        # Whoever asks another organisation's SN is told the same.
        assert pair.say("PERFDATA told", domain=B)[0] == figures
    finally:
        finish(peers)
    status, history = pair.say("GET CONTRACT STATUS told", "GET CONTRACT HISTORY told 2")
    assert "ENDED : the training is complete" in lines_of(status)
    assert history is not None
    assert [(each.round, len(each.contributors)) for each in history.answer.rounds] == [(2, 2), (3, 2)]
    assert f"MODEL : {history.answer.rounds[-1].model}" in lines_of(status)
    assert "ROUNDS : the newest 2 of 4 final rounds" in lines_of(history)
    assert "rounds 2 to 3: sl-0@a.example, sl-0@b.example contributed" in lines_of(history)


def test_ci44_a_watch_on_a_real_terminal_ends_with_the_training(pair: Swarm, tmp_path: Path) -> None:
    peers = begin(pair, "live", 1)
    arguments = [*pair.options(), "--sn", str(pair.sn()), "-c", "WATCH CONTRACT live"]
    watch = pair.spawn(*arguments, config=tmp_path, columns=80, rows=80)
    try:
        watch.expect_exact("the newest 1 of 1 final rounds")
        play(peers, 1)
        watch.expect_exact("the newest 2 of 2 final rounds")
    finally:
        finish(peers)
    watch.expect_exact("the training is complete")
    watch.expect(watch.delimiter)
    watch.close()
    assert watch.exitstatus == ExitCode.OK


def test_ci44_a_watch_in_a_script_says_lines_and_goes_on_with_the_next_command(pair: Swarm, tmp_path: Path) -> None:
    peers = begin(pair, "lines", 1)
    command = [sys.executable, "-m", "swarmlearning", "ci", *pair.options(), "--sn", str(pair.sn()), "--script", "-"]
    script = "watch contract lines\nGET CONTRACT STATUS lines\n"
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=process_environment(tmp_path)
    ) as run:
        try:
            assert run.stdin is not None
            assert run.stdout is not None
            run.stdin.write(script)
            run.stdin.close()
            assert run.stdout.readline() == "SWCI:1 > watch contract lines\n"
            assert "round 0 final" in run.stdout.readline()
            play(peers, 1)
        finally:
            finish(peers)
        rest = run.stdout.read().splitlines()
        assert run.wait(30) == ExitCode.OK
    assert any("round 1 final" in line and "2 of 2 contributed" in line for line in rest)
    asked = rest.index("SWCI:2 > GET CONTRACT STATUS lines")
    assert rest[asked - 1].endswith("lines, run 1: completed: the training is complete")
    assert "    PHASE : completed" in rest[asked:]


def test_ci40_an_sl_votes_for_a_reset_as_an_enrolled_peer_and_the_operator_is_told_what_it_takes(
    pair: Swarm, tmp_path: Path
) -> None:
    # Its creator resets it alone in the end: peers that begin at once would race for who creates it.
    pair.say("CREATE CONTRACT voted")
    peers = begin(pair, "voted", 1)
    try:
        (refused,) = pair.say("RESET CONTRACT voted")
        assert status_of(refused) is ExitCode.PEER
        assert "0 of the 2 votes that it needs are there; not yet asked for by sl-0@a.example, sl-0@b.example" in (
            text_of(refused)
        )
        voted = say_as_sl(pair, tmp_path, "RESET CONTRACT voted")
        assert voted.returncode == ExitCode.PEER
        assert b"1 of the 2 votes that it needs are there; not yet asked for by sl-0@b.example" in voted.stderr
        created = say_as_sl(pair, tmp_path, "CREATE CONTRACT mine")
        assert b"has the role sl; this needs the role operator" in created.stderr
    finally:
        finish(peers)
    (reset,) = pair.say("RESET CONTRACT voted")
    assert lines_of(reset) == ["Contract Reset : voted", "voted is reset: run 2 begins when peers enrol"]


def say_as_sl(pair: Swarm, config: Path, line: str) -> subprocess.CompletedProcess[bytes]:
    """As the SL of organisation A itself."""
    pki = pair.workdir / A / "pki"
    own = ["--cert", pki / "sl-0.cert.pem", "--key", pki / "sl-0.key.pem", "--cacert", pki / f"{A}.ca.pem"]
    own += ["--sign-key", pair.network.sls[0].data / "signing.key", "--sn", pair.sn(), "-c", line]
    return pair.ci(*map(str, own), config=config)


# --- the network ----------------------------------------------------------------------------------------------------


def test_ci45_nodes_of_a_real_network_are_a_table_and_their_uuids_lead_to_one_another(pair: Swarm) -> None:
    (done,) = pair.say("list nodes")
    found = list(csv.DictReader(lines_of(done)))
    assert list(found[0]) == ["NodeType", "HostIP", "Port", "ContainerName", "UUID", "ParentUUID", "i-am-alive"]
    assert [(row["NodeType"], row["ContainerName"]) for row in found] == [
        ("SENTINEL", "sn@a.example"), ("SN", "sn@b.example"), ("SL", "sl-0@a.example"), ("SL", "sl-0@b.example"),
    ]  # fmt: skip
    sentinel, follower, first, second = (row["UUID"] for row in found)
    assert [row["ParentUUID"] for row in found] == ["-", sentinel, sentinel, follower]
    assert all(row["HostIP"] == "127.0.0.1" and int(row["Port"]) > 0 for row in found)
    assert all(row["i-am-alive"].startswith("20") for row in found)
    assert len({sentinel, follower, first, second}) == 4


def test_ci47_two_organisations_vote_on_a_real_network(pair: Swarm) -> None:
    asked = ask_swarm(pair.network, "network", "propose", "roles", B, "sn,sl,operator")
    assert asked.returncode == ExitCode.OK, asked.stderr
    seen, listed = pair.say("SHOW STATUS", "LIST PROPOSALS", domain=B)
    assert "VOTE : 1 proposal is open: see LIST PROPOSALS" in lines_of(seen)
    assert "  missing  b.example; 13 d 23 h left" in lines_of(listed)
    (voted,) = pair.say("VOTE 1 YES", domain=B)
    assert lines_of(voted)[0] == f"proposal 1: {B} may hold the roles sn, sl, operator (carried)"
    members, everything = pair.say("LIST MEMBERS", "LIST PROPOSALS ALL")
    assert f"{B},sn sl operator,1,1,0,-" in lines_of(members)
    shown = ask_swarm(pair.network, "network", "proposals", "--all")
    assert lines_of(everything) == shown.stdout.splitlines(), "both doors say the same"


def test_who_may_only_look_is_told_which_role_it_needs(pair: Swarm, tmp_path: Path) -> None:
    created, voted, listed = pair.say("CREATE CONTRACT no", "VOTE 1 YES", "LIST MEMBERS", role=Role.AUDITOR)
    for done in (created, voted):
        assert status_of(done) is ExitCode.CONFIGURATION
        assert "has the role auditor; this needs the role operator" in text_of(done)
    assert lines_of(listed)[0] == "Organisation,Roles,SNs,SLs,Agents,Validator"
    arguments = [*pair.options(Role.AUDITOR), "--sn", str(pair.sn()), "--usr-dir", str(tmp_path)]
    exported = pair.ci(*arguments, "--json", "-c", "EXPORT LEDGER history.jsonl", config=tmp_path / "c", cwd=tmp_path)
    answer = json.loads(exported.stdout.splitlines()[-1])["answer"]
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == answer["blocks"] > 0


def test_the_one_off_commands_say_the_same_of_a_contract(pair: Swarm) -> None:
    (created, info, status) = pair.say("CREATE CONTRACT same", "GET CONTRACT INFO same", "GET CONTRACT STATUS same")
    assert lines_of(created) == ["Contract Created : same"]
    said = {tuple(line.split(" : ", 1)) for line in [*lines_of(info), *lines_of(status)]}
    shown = ask_swarm(pair.network, "contract", "show", "same").stdout.splitlines()
    assert len(shown) > 5
    assert {(line[:12].strip().upper(), line[12:]) for line in shown} <= said
