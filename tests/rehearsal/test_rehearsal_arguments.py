"""`swarm rehearse` refuses what cannot work before it asks anybody."""

import pytest

from swarmlearning.cli.main import main
from swarmlearning.cli.rehearse import DEFAULT, MAX_MEGABYTES, PREFIX, check_arguments
from swarmlearning.errors import ConfigurationError, ExitCode, SwarmError
from swarmlearning.sl.drills import REHEARSAL


def test_a_command_line_becomes_a_plan() -> None:
    plan = check_arguments(3, DEFAULT, "kill,slow", 4, "5m")
    assert (plan.peers, plan.contract, plan.megabytes, plan.wait_s) == (3, DEFAULT, 4, 300.0)
    assert plan.drills == ("slow", "kill")
    assert check_arguments(3, DEFAULT, "none", 4, "5m").drills == ()


def test_the_names_of_rehearsals_are_those_in_which_sls_carry_out_drills() -> None:
    assert PREFIX == REHEARSAL
    assert DEFAULT.startswith(REHEARSAL)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peers": 1}, "--peers 1: expected 2 to 256"),
        ({"peers": 257}, "--peers 257"),
        ({"contract": "heart"}, "begins with rehearsal/"),
        ({"contract": "rehearsal/ a"}, "contract name"),
        ({"drills": "slow,fire"}, "--drills slow,fire: expected none, or any of slow, cut, kill"),
        ({"drills": ""}, "--drills"),
        ({"drills": "none,slow"}, "--drills"),
        ({"megabytes": 0}, "--megabytes 0"),
        ({"megabytes": MAX_MEGABYTES + 1}, "--megabytes"),
        ({"wait": "soon"}, "duration 'soon'"),
    ],
)
def test_what_cannot_work_is_said(changes: dict[str, object], says: str) -> None:
    arguments: dict[str, object] = {
        "peers": 3,
        "contract": DEFAULT,
        "drills": "slow",
        "megabytes": 1,
        "wait": "1m",
    } | changes
    with pytest.raises(SwarmError) as refusal:
        check_arguments(**arguments)  # type: ignore[arg-type]  # as the parameters say
    assert isinstance(refusal.value, ConfigurationError)
    assert says in str(refusal.value)


def test_a_name_has_room_for_the_contract_of_each_rehearsal() -> None:
    """The rounds' contract is named after the roll call's; a name that leaves no room is refused before it begins."""
    check_arguments(3, PREFIX + "x" * 80, "none", 1, "1m")
    with pytest.raises(ConfigurationError, match="at most 90 characters"):
        check_arguments(3, PREFIX + "x" * 81, "none", 1, "1m")


def test_without_an_sl_it_says_how_to_name_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SWARM_SL", raising=False)
    assert main(["rehearse", "--peers", "2"]) == ExitCode.CONFIGURATION
    assert "--sl, or SWARM_SL" in capsys.readouterr().err


def test_an_sl_that_is_not_there_is_named(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rehearse", "--peers", "2", "--sl", f"{tmp_path}/none"]) == ExitCode.FAILED
    out = capsys.readouterr().out
    assert f"{tmp_path}/none" in out.replace("\n  ", "")
    assert out.splitlines()[-1].startswith("verdict: not ready: 1 fault")
