"""Watching a training through an SN that stops and comes back; and commands that cannot work end in one line."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace
from status_records import open_round, peer, summary, training

from swarmlearning.cli.main import main
from swarmlearning.contracts.records import Phase, RoundSummary, Training
from swarmlearning.errors import ConfigurationError, ExitCode, Unreachable, WaitExpired
from swarmlearning.reports import watching
from swarmlearning.reports.status import ContractReport
from swarmlearning.reports.watching import JsonShow, LineShow, follow, look
from swarmlearning.sn.api import Status
from swarmlearning.sn.asking import explain_unknown
from swarmlearning.sn.client import SnClient
from swarmlearning.transport.api import Address
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import ContractName, Endpoint, NodeId, NodeName

SN = NodeId("spiffe://org0.example/heart/sn/sn0")
HERE = Address(node=SN, endpoint=Endpoint(host="10.0.0.1", port=30304))
HEART = ContractName("heart")


def at(number: int, finals: int, **changes: object) -> Training:
    return training(peer(0), peer(1), round=open_round(number=number), finals=finals, **changes)


OVER = training(peer(0), peer(1), round=None, phase=Phase.COMPLETED, finals=9)


class ScriptedSn(SnClient):
    """Plays parts of a watch; each but the last ends as when the SN falls silent."""

    def __init__(self, *parts: list[Training], others: tuple[Training, ...] = ()) -> None:
        super().__init__(MemoryNetwork().client(NodeName.parse(SN)), HERE)
        self.parts = list(parts)
        self.others = others
        self.asked: list[int] = []

    async def watch(self, name: ContractName, after_version: int = 0) -> AsyncIterator[Training]:
        assert name == HEART
        for record in self.parts.pop(0) if self.parts else []:
            if record.version > after_version:
                yield record
        raise Unreachable("10.0.0.1:30304: connection lost")

    async def history(self, name: ContractName, most: int = 1_000) -> list[RoundSummary]:
        self.asked.append(most)
        return [summary(number) for number in range(20)][-most:]

    async def training(self, name: ContractName) -> Training | None:
        return next((record for record in self.others if record.name == name), None)

    async def contracts(self) -> tuple[ContractName, ...]:
        return tuple(record.name for record in self.others)

    async def status(self) -> Status:
        return Status(
            node=SN,
            network="heart",
            sentinel=SN,
            height=1,
            transactions=2,
            app_hash=bytes(32),
            time_ms=3,
            clock_ms=3,
            problem="",
            version="1",
        )


class Screen:
    def __init__(self) -> None:
        self.reports: list[ContractReport] = []
        self.told: list[str] = []

    def update(self, report: ContractReport) -> None:
        self.reports.append(report)

    def tell(self, text: str) -> None:
        self.told.append(text)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_AGAIN_S", 0)


def test_a_watch_shows_every_record_and_ends_when_the_training_is_complete() -> None:
    screen, sn = Screen(), ScriptedSn([at(7, 7), at(8, 8), OVER, at(0, 9)])
    asyncio.run(follow(sn, HEART, 10, screen))
    assert [report.phase for report in screen.reports] == [Phase.COLLECTING, Phase.COLLECTING, Phase.COMPLETED]
    assert screen.told == []


def test_a_record_that_nobody_has_changed_yet_is_shown_too() -> None:
    screen, sn = Screen(), ScriptedSn([replace(OVER, version=0)])
    asyncio.run(follow(sn, HEART, 10, screen))
    assert len(screen.reports) == 1


def test_the_history_is_asked_for_when_a_round_is_final_and_for_all_that_are_new() -> None:
    sn = ScriptedSn([at(7, 7), at(7, 7), at(12, 12), OVER])
    asyncio.run(follow(sn, HEART, 2, Screen()))
    assert sn.asked == [2, 5, 2]
    nothing = ScriptedSn([at(7, 7), OVER])
    asyncio.run(follow(nothing, HEART, 0, Screen()))
    assert nothing.asked == [2]


def test_an_sn_that_falls_silent_is_told_and_the_watch_goes_on_when_it_is_back() -> None:
    screen, sn = Screen(), ScriptedSn([at(7, 7)], [at(8, 8), OVER])
    asyncio.run(follow(sn, HEART, 10, screen))
    assert [report.round for report in screen.reports] == [7, 8, None]
    assert screen.told == ["10.0.0.1:30304: connection lost; trying again, for 120 s at most"]


def test_an_sn_that_stays_silent_ends_the_watch_with_its_address_and_for_how_long() -> None:
    with pytest.raises(WaitExpired, match=r"SN 10\.0\.0\.1:30304 has not answered for 0 s: .*connection lost"):
        asyncio.run(follow(ScriptedSn([at(7, 7)]), HEART, 10, Screen(), give_up_s=0))


def test_without_a_terminal_a_watch_is_a_line_a_change(capsys: pytest.CaptureFixture[str]) -> None:
    # Silent twice in a row, which is said once.
    sn = ScriptedSn([at(7, 7), at(7, 7)], [], [at(7, 7), OVER])
    asyncio.run(follow(sn, HEART, 1, LineShow(lambda: 3_723_000)))
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("01:02:03 UTC  ") for line in lines)
    assert [line[14:].split(":")[0] for line in lines] == [
        "round 19 final at 22",
        "heart, run 1",
        "10.0.0.1",
        "heart, run 1",
    ]
    assert lines[-1].endswith("completed: the training is complete")


def test_as_json_a_watch_is_a_document_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(follow(ScriptedSn([at(7, 7)], [OVER]), HEART, 1, JsonShow()))
    out, err = capsys.readouterr()
    assert [json.loads(line)["phase"] for line in out.splitlines()] == ["collecting", "completed"]
    assert "connection lost" in err


# --- once -----------------------------------------------------------------------------------------------------------

IDLE = replace(OVER, name=ContractName("idle"), phase=Phase.UNINITIALIZED, last=None, peers=(), finals=0)


def test_the_only_contract_in_use_is_shown_in_full_and_of_several_none() -> None:
    only = asyncio.run(look(ScriptedSn(others=(IDLE, OVER)), None, 3))
    assert only.contract is not None
    assert (only.contract.name, len(only.contract.rounds)) == (HEART, 3)
    assert [line.name for line in only.contracts] == ["idle", "heart"]
    two = (OVER, replace(OVER, name=ContractName("lung")))
    assert asyncio.run(look(ScriptedSn(others=two), None, 3)).contract is None
    named = asyncio.run(look(ScriptedSn(others=two), ContractName("lung"), 0)).contract
    assert named is not None
    assert (named.name, named.rounds) == ("lung", ())


def test_a_contract_that_is_not_there_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigurationError, match="no contract hart; did you mean heart\\? There are: idle, heart"):
        asyncio.run(look(ScriptedSn(others=(IDLE, OVER)), ContractName("hart"), 3))
    assert explain_unknown("xyz", [HEART]) == "there is no contract xyz; there are: heart"
    many = explain_unknown("xyz", [ContractName(f"study-{number}") for number in range(25)])
    assert many.endswith("study-19 and 5 more")


def test_a_watch_needs_a_name_where_several_contracts_are_in_use() -> None:
    two = (IDLE, OVER, replace(OVER, name=ContractName("lung")))
    with pytest.raises(ConfigurationError, match="Name one of: heart, lung"):
        asyncio.run(watching.only_contract(ScriptedSn(others=two)))
    assert asyncio.run(watching.only_contract(ScriptedSn(others=(IDLE, OVER)))) is OVER


def test_without_an_identity_the_command_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("SWARM_ID_CERT", "SWARM_ID_KEY", "SWARM_ID_CACERT", "SWARM_ID_CAPATH"):
        monkeypatch.delenv(name, raising=False)
    assert main(["status", "--sn", "127.0.0.1:1"]) == ExitCode.CONFIGURATION
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "SWARM_ID_CERT" in err
