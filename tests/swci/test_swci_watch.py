"""WATCH CONTRACT: lines for scripts, a live view on a terminal, an end in every case. Rule CI-44."""

import asyncio
import functools
import io
import re
from pathlib import Path

import pytest
from looking_world import STUDY, Desk, Network, PlayedSn, Said, answer_of, ask, on_a_network
from msgspec.structs import replace
from rich.console import Console
from status_records import open_round, peer, summary, training

from swarmlearning.contracts.records import Phase, Training
from swarmlearning.errors import ExitCode
from swarmlearning.reports import watching

HISTORY = [summary(number, mean_loss_micro=500_000) for number in range(9)]


def at(number: int, **changes: object) -> Training:
    return training(peer(0), peer(1), round=open_round(number=number), finals=number, **changes)


OVER = replace(at(9), phase=Phase.COMPLETED, round=None, finals=9)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_AGAIN_S", 0)


def test_ci44_in_a_script_a_watch_is_a_line_a_change_and_ends_with_the_training(tmp_path: Path) -> None:
    sn = PlayedSn(at(8), history=HISTORY, watched=[at(8), at(8), at(9), OVER])
    lines = ask(sn, "WATCH CONTRACT heart", tmp_path)
    assert all(re.match(r"\d\d:\d\d:\d\d UTC  ", line) for line in lines)
    texts = [line[14:] for line in lines]
    # The newest rounds at first, then what is new; the second record says nothing new.
    assert [text.split(" final")[0] for text in texts if " final" in text] == [f"round {number}" for number in range(9)]
    assert texts[-3].startswith("heart, run 1: collecting, round 8: 0 of at least 2 peers have checked in")
    assert texts[-2].startswith("heart, run 1: collecting, round 9: ")
    assert texts[-1] == "heart, run 1: completed: the training is complete"


def test_ci44_an_sn_that_stays_silent_ends_the_watch_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient = functools.partial(watching.follow, give_up_s=0)
    monkeypatch.setattr("swarmlearning.swci.commands.contracts.follow", impatient)
    lines = ask(PlayedSn(at(8), watched=[at(8)]), "WATCH CONTRACT heart", tmp_path)
    assert lines[-1].startswith("ERROR SN sn:30304 has not answered for 0 s: 10.0.0.1:30304: connection lost")


def test_ci44_its_answer_is_the_last_report_with_the_newest_rounds(tmp_path: Path) -> None:
    done = answer_of(PlayedSn(at(8), history=HISTORY, watched=[at(9), OVER]), "WATCH CONTRACT heart", tmp_path)
    assert (done.status, done.answer.phase, done.answer.rounds[-1].round) == (ExitCode.OK, Phase.COMPLETED, 8)


def watch_on_a_terminal(columns: int, tmp_path: Path, *, as_json: bool = False) -> tuple[str, list[str]]:
    """What a terminal got, and what was said as lines."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=columns, height=60, highlight=False, color_system=None)
    said = Said(console)

    async def main() -> None:
        desk = Desk(PlayedSn(at(8), history=HISTORY, watched=[at(8), OVER]), root=tmp_path, said=said)
        desk.as_json = as_json
        await desk.run("WATCH CONTRACT heart")

    asyncio.run(main())
    return out.getvalue(), said.lines


@pytest.mark.parametrize("columns", [80, 120])
def test_ci44_on_a_terminal_it_is_drawn_anew_and_what_it_showed_last_stays(columns: int, tmp_path: Path) -> None:
    drawn, lines = watch_on_a_terminal(columns, tmp_path)
    assert lines == [], "nothing is said beside the view"
    assert drawn.count("\x1b[?25l") == drawn.count("\x1b[?25h") == 1, "the cursor is back"
    stays = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.split("\x1b[?25h")[1])
    assert "phase      completed" in stays
    assert "the newest 9 of 9 final rounds" in stays
    assert all(len(line) <= columns for line in stays.splitlines())


def test_ci44_for_programs_it_says_lines_on_a_terminal_too(tmp_path: Path) -> None:
    drawn, lines = watch_on_a_terminal(80, tmp_path, as_json=True)
    assert drawn == ""
    assert lines[-1].endswith("the training is complete")


def test_ci44_an_interrupted_watch_leaves_the_session_usable(tmp_path: Path) -> None:
    async def work(network: Network) -> None:
        desk = network.desk()
        await desk.run(f"CREATE CONTRACT {STUDY}")
        watch = asyncio.ensure_future(desk.run(f"WATCH CONTRACT {STUDY}"))
        await desk.said.spoke.wait()
        watch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watch
        assert desk.said.lines[0].endswith("study, run 1: uninitialized: nobody has enrolled yet")
        assert await desk.lines("LIST CONTRACTS") == ["defaultbb.cqdb.sml.hpe", "study"]

    on_a_network(tmp_path, work)
