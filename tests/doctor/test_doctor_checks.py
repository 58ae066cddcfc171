"""The checks one by one, in good and in bad cases."""

import os
import re
import socket
import threading
from pathlib import Path

import pytest
from doctor_world import A, name, only, pick

from swarmlearning.cli.doctor import show_report
from swarmlearning.contracts.records import Manifested, Peer, PeerState, Phase, Training
from swarmlearning.doctor import program
from swarmlearning.doctor.clocks import Skew, judge_clocks, measure
from swarmlearning.doctor.disk import FULL_BYTES, GIB, check_directory, check_disks, free_space, show_bytes
from swarmlearning.doctor.failures import explain_failure
from swarmlearning.doctor.findings import Finding, Report, Topic, Verdict, ok, problem, skipped, warning, worst
from swarmlearning.doctor.own_sn import show_age
from swarmlearning.doctor.program import check_program, check_socket
from swarmlearning.doctor.trainings import judge_training, largest_model
from swarmlearning.doctor.variables import KNOWN, check_names, nearest
from swarmlearning.doctor.versions import check_here, judge_versions
from swarmlearning.errors import DecodeError, Refused, Unreachable
from swarmlearning.types import ContractName, Endpoint, Role

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "environment.md"


# --- findings ---------------------------------------------------------------------------------------------------


def test_the_gravest_verdict_is_the_reports_and_what_was_skipped_counts_for_nothing() -> None:
    good, doubt = ok(Topic.DISK, "a", "b"), warning(Topic.DISK, "a", "b", "c")
    bad, left = problem(Topic.DISK, "a", "b", "c"), skipped(Topic.DISK, "a", "b", "c")
    assert worst([good, left]) is Verdict.OK
    assert worst([good, doubt, left]) is Verdict.WARNING
    assert worst([bad, doubt, good]) is Verdict.PROBLEM


# --- environment ------------------------------------------------------------------------------------------------


def test_the_known_variables_are_those_of_the_reference_page() -> None:
    rows = [line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    names = {found for row in rows for found in re.findall(r"`(SWARM_[A-Z_]+)`", row)}
    assert names == KNOWN


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("SWARM_EXCHANGEDIR", "SWARM_EXCHANGE_DIR"),
        ("SWARM_ID_CA_CERT", "SWARM_ID_CACERT"),
        ("swarm_sn", "SWARM_SN"),
        ("SWARM_LOOP_BACK", "SWARM_LOOPBACK"),
    ],
)
def test_a_misspelt_variable_is_told_with_the_nearest_known_one(wrong: str, meant: str) -> None:
    found = only(check_names({wrong: "x", "SWARM_SL": "y", "HOME": "z"}))
    assert (found.subject, found.verdict) == (wrong, Verdict.WARNING)
    assert meant in found.advice


def test_a_variable_like_none_of_ours_is_told_without_a_guess() -> None:
    assert nearest("SWARM_QQQQQQQQQQQQQQQQ") == ""
    assert "environment.md" in only(check_names({"SWARM_QQQQQQQQQQQQQQQQ": ""})).advice


def test_loopback_beside_a_swarms_variables_is_a_contradiction() -> None:
    found = only(check_program({"SWARM_LOOPBACK": "true"}, 1))
    assert found.verdict is Verdict.WARNING
    assert "trains alone" in found.text
    both = check_program({"SWARM_LOOPBACK": "1", "SWARM_SL": "/nowhere", "SWARM_SN": "h"}, 1)
    assert "SWARM_SL, SWARM_SN are set too and ignored" in only(both, subject="SWARM_LOOPBACK").text
    assert only(both, subject="SWARM_SL").verdict is Verdict.PROBLEM
    assert check_program({"SWARM_LOOPBACK": "no"}, 1)[0].verdict is Verdict.SKIPPED


def test_a_loopback_value_that_means_nothing_is_told() -> None:
    assert "counts as no" in check_program({"SWARM_LOOPBACK": "on"}, 1)[0].text


def test_an_sl_to_be_started_without_an_identity_is_warned_of() -> None:
    found = only(check_program({"SWARM_SN": "127.0.0.1"}, 1))
    assert found.verdict is Verdict.WARNING
    assert "SWARM_ID_CERT" in found.text
    whole = {"SWARM_SN": "127.0.0.1", "SWARM_ID_CERT": "c", "SWARM_ID_KEY": "k", "SWARM_SL_DATA": "/d"}
    assert only(check_program(whole, 1)).text == "a program started here starts an SL at 127.0.0.1:30305, in /d"


def test_an_exchange_directory_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    assert pick(check_program({"SWARM_EXCHANGE_DIR": str(tmp_path)}, 1), verdict=Verdict.OK)
    assert pick(check_program({"SWARM_EXCHANGE_DIR": str(tmp_path / "x")}, 1), verdict=Verdict.PROBLEM)


def test_a_socket_is_connected_to_and_told_when_nobody_is_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "sl.sock"
    assert "no SL listens" in only(check_program({"SWARM_SL": str(tmp_path)}, 1)).text
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        assert only(check_program({"SWARM_SL": str(tmp_path)}, 1)).verdict is Verdict.OK
    assert "no SL listens" in check_socket(path, 1).text, "the file outlives its process"


def test_a_socket_of_another_user_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sl.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        monkeypatch.setattr(program, "_user_of", lambda *_: os.geteuid() + 1)
        found = check_socket(path, 1)
    assert found.verdict is Verdict.PROBLEM
    assert "same user" in found.advice


def test_a_socket_that_takes_no_connection_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "sl.sock"
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as first:
        listening.bind(str(path))
        listening.listen(0)
        first.connect(str(path))  # fills the queue
        found: list[Finding] = []
        asking = threading.Thread(target=lambda: found.append(check_socket(path, 0.2)), daemon=True)
        asking.start()
        asking.join(10)
    assert found
    assert found[0].verdict is Verdict.PROBLEM


def test_a_path_that_cannot_be_a_sockets_is_told(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    for path in (tmp_path / ("x" * 200), tmp_path / "plain" / "sl.sock"):
        assert check_socket(path, 1).verdict is Verdict.PROBLEM


# --- disk -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("free", "model", "verdict"),
    [
        (10 * GIB, None, Verdict.OK),
        (10 * GIB - 1, None, Verdict.WARNING),
        (10 * GIB, 2 * GIB, Verdict.OK),
        (11 * GIB, 3 * GIB, Verdict.WARNING),
        (12 * GIB, 3 * GIB, Verdict.OK),
        (3 * GIB - 1, 3 * GIB, Verdict.PROBLEM),
        (FULL_BYTES, 1000, Verdict.WARNING),
        (FULL_BYTES - 1, None, Verdict.PROBLEM),
        (0, 1000, Verdict.PROBLEM),
    ],
)
def test_space_for_four_models_and_at_least_ten_gib_is_wanted(
    tmp_path: Path, free: int, model: int | None, verdict: Verdict
) -> None:
    tmp_path.chmod(0o700)
    found = check_directory("--data", tmp_path, model, lambda _: free)
    assert only(found).verdict is verdict
    assert show_bytes(free) in found[0].text


def test_a_directory_that_is_not_there_or_is_a_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, told in (
        (tmp_path / "x", "is not there"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "x", ""),
    ):
        found = only(check_directory("--control", path, None))
        assert found.verdict is Verdict.PROBLEM
        assert told in found.text


def test_a_disk_that_fails_is_told_in_one_line(tmp_path: Path) -> None:
    def broken(_: Path) -> int:
        raise OSError(5, "Input/output error")

    assert "Input/output error" in only(check_directory("--data", tmp_path, None, broken)).text


def test_a_directory_open_to_others_is_warned_of(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    found = only(check_directory("--data", tmp_path, None, lambda _: 99 * GIB), verdict=Verdict.WARNING)
    assert "mode 0750" in found.text
    assert found.advice == f"run: chmod 700 {tmp_path}"


def test_a_directory_that_cannot_be_written_or_is_anothers_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    found = only(check_directory("--data", tmp_path, None, lambda _: 99 * GIB), verdict=Verdict.WARNING)
    assert "not to 12345" in found.text
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = only(check_directory("--data", tmp_path, None, lambda _: 99 * GIB), verdict=Verdict.PROBLEM)
    assert "user 12345 cannot write there" in found.text


def test_free_space_is_what_the_system_says(tmp_path: Path) -> None:
    assert 0 < free_space(tmp_path) <= os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize
    assert only(check_disks([], None)).verdict is Verdict.SKIPPED


# --- clocks and versions ----------------------------------------------------------------------------------------


def test_half_of_the_round_trip_is_subtracted() -> None:
    assert measure(1_000_000, 600, 1_000_300) == Skew(ahead_ms=0, unsure_ms=300)
    assert measure(1_000_000, 600, 1_002_300).ahead_ms == 2_000
    assert measure(1_000_000, 600, 998_300).ahead_ms == -2_000


@pytest.mark.parametrize(
    ("ahead_ms", "unsure_ms", "verdict"),
    [
        (1_000, 0, Verdict.OK),
        (1_001, 0, Verdict.WARNING),
        (-1_001, 0, Verdict.WARNING),
        (5_000, 0, Verdict.WARNING),
        (5_001, 0, Verdict.PROBLEM),
        (-5_001, 0, Verdict.PROBLEM),
        (2_000, 1_500, Verdict.OK),
    ],
)
def test_a_clock_is_judged_by_what_is_sure(ahead_ms: int, unsure_ms: int, verdict: Verdict) -> None:
    assert only(judge_clocks([("sl", Skew(ahead_ms=ahead_ms, unsure_ms=unsure_ms))])).verdict is verdict


def test_many_clocks_that_agree_are_one_line() -> None:
    found = judge_clocks([(f"n{i}", Skew(ahead_ms=i, unsure_ms=0)) for i in range(9)])
    assert only(found).subject == "n0, n1, n2 and 6 more"


def test_only_another_minor_release_is_warned_of() -> None:
    found = judge_versions([("a", "1.2.9"), ("b", "1.3.0"), ("c", "2.2.0"), ("d", "strange")], "1.2.3")
    assert [f.subject for f in pick(found, verdict=Verdict.WARNING)] == ["b", "c", "d"]
    assert "1 of 4" in only(found, verdict=Verdict.OK).text


def test_a_python_that_we_are_not_tested_with_is_warned_of() -> None:
    assert check_here((3, 12, 1))[0].verdict is Verdict.OK
    assert check_here((3, 99, 0))[0].verdict is Verdict.WARNING


# --- trainings --------------------------------------------------------------------------------------------------


def peer(label: str, state: PeerState) -> Peer:
    return Peer(
        node=name(A, Role.SL, label).id,
        endpoint=Endpoint(host="h", port=1),
        state=state,
        min_peers=2,
        weight=1,
        restored=False,
        enrolled_round=0,
    )


def test_paused_and_distrusted_peers_are_warned_of_by_name() -> None:
    peers = (peer("x", PeerState.PAUSED), peer("y", PeerState.LIVE))
    training = Training(
        name=ContractName("heart"),
        creator=A,
        created_height=1,
        phase=Phase.COLLECTING,
        peers=peers,
        distrusted=(name(A, Role.SL, "y").id,),
    )
    first, paused, distrusted = judge_training(training)
    assert first.verdict is Verdict.OK
    assert "x@a.example" in paused.text
    assert "y@a.example" not in paused.text
    assert "y@a.example" in distrusted.text
    assert {paused.verdict, distrusted.verdict} == {Verdict.WARNING}


def test_a_completed_training_waits_for_nobody() -> None:
    done = Training(
        name=ContractName("heart"),
        creator=A,
        created_height=1,
        phase=Phase.COMPLETED,
        peers=(peer("x", PeerState.PAUSED),),
    )
    assert only(judge_training(done)).text == "run 1, completed"


def test_the_largest_model_of_all_contracts_counts() -> None:
    def of(size: int) -> Training:
        model = Manifested(hash=b"", size=size)
        return Training(name=ContractName("c"), creator=A, created_height=1, manifest=model)

    assert largest_model((of(5), of(9), Training(name=ContractName("d"), creator=A, created_height=1))) == 9
    assert largest_model(()) is None


# --- failures ---------------------------------------------------------------------------------------------------


def caused(error: Exception) -> Unreachable:
    """As after two wrappings, of which the outer type says less."""
    made, middle = Unreachable("x"), OSError("wrapped")
    made.__cause__, middle.__cause__ = middle, error
    return made


def test_each_way_of_not_being_reached_is_told_apart() -> None:
    refused, _ = explain_failure(caused(ConnectionRefusedError(111, "x")), "h")
    assert "refused" in refused
    several, _ = explain_failure(caused(OSError("Multiple exceptions: [Errno 111] x, [Errno 111] y")), "h")
    assert several == refused
    assert "in time" in explain_failure(caused(TimeoutError()), "h")[0]
    assert "name h is not known" in explain_failure(caused(socket.gaierror(-2, "x")), "h")[0]
    assert "No route to host" in explain_failure(caused(OSError(113, "No route to host")), "h")[0]
    assert "same release" in explain_failure(DecodeError("x"), "h")[1]
    assert explain_failure(Refused("no"), "h")[0] == "no"


# --- what people see --------------------------------------------------------------------------------------------


def test_ages_and_sizes_are_for_people() -> None:
    assert [show_age(ms) for ms in (-5, 90_000, 150_000, 7_200_000, 172_800_000)] == [
        "0 s",
        "90 s",
        "2 min",
        "2 h",
        "2 days",
    ]
    assert [show_bytes(n) for n in (3, 2048, 5 * GIB)] == ["3 bytes", "2.0 KiB", "5.0 GiB"]


def test_a_report_is_read_without_colours_and_no_control_character_reaches_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from rich.console import Console

    findings = (ok(Topic.SN, "sn", "well"), problem(Topic.MEMBERS, "sl \x1b[31m", "gone\n[bold]", "start it"))
    show_report(
        Report(verdict=Verdict.PROBLEM, version="1", at_ms=0, findings=findings), Console(highlight=False, width=20)
    )
    shown = capsys.readouterr().out
    assert shown.splitlines() == [
        "Own SN",
        "  ok       sn: well",
        "Members",
        "  problem  sl  [31m: gone [bold]",
        "           -> start it",
        "",
        "1 problem, 0 warnings, 1 ok, 0 skipped",
    ]
