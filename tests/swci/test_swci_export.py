"""EXPORT LEDGER: the ledger's history in a file of the session's. Rules CI-48 and PF-10."""

import json
from pathlib import Path

import pytest
from looking_world import Network, on_a_network

from swarmlearning.errors import ExitCode
from swarmlearning.sn import exporting


def test_ci48_the_whole_history_comes_into_a_new_file_below_the_root(tmp_path: Path) -> None:
    (tmp_path / "audit").mkdir()

    async def work(network: Network) -> None:
        desk = network.desk()
        await desk.run("CD audit")
        await desk.run("CREATE CONTRACT study")
        lines = await desk.lines("EXPORT LEDGER history.jsonl")
        blocks = [json.loads(line) for line in (tmp_path / "audit" / "history.jsonl").read_text().splitlines()]
        count = sum(len(block["transactions"]) for block in blocks)
        assert lines == [
            f"Ledger Exported : {tmp_path}/audit/history.jsonl, {len(blocks)} blocks, {count} transactions"
        ]
        assert [block["height"] for block in blocks] == list(range(1, len(blocks) + 1))
        newest = blocks[-1]["transactions"][-1]
        assert (newest["message"]["type"], newest["code"]) == ("CreateContract", "OK")

        some = await desk.run(f"EXPORT LEDGER some.jsonl {len(blocks)}")
        assert (some.answer.blocks, some.answer.transactions) == (1, 1)
        again = await desk.run("EXPORT LEDGER history.jsonl")
        assert again.error == f"{tmp_path}/audit/history.jsonl exists; choose another place"
        assert sorted(path.name for path in (tmp_path / "audit").iterdir()) == ["history.jsonl", "some.jsonl"]

    on_a_network(tmp_path, work)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ("../out.jsonl", "lies outside"),
        ("/etc/out.jsonl", "lies outside"),
        ("no/such/out.jsonl", "cannot be written"),
        (".", "exists"),
        ("out.jsonl 0", "expected a block's height"),
    ],
)
def test_ci48_what_cannot_be_written_or_is_not_there_leaves_nothing_behind(
    arguments: str, error: str, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()

    async def work(network: Network) -> None:
        done = await network.desk().run(f"EXPORT LEDGER {arguments}")
        assert done.status in (ExitCode.CONFIGURATION, ExitCode.PEER)
        assert error in done.error

    on_a_network(root, work)
    assert list(tmp_path.rglob("*")) == [root]


def test_ci48_an_export_says_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "TELL_EVERY_S", 0.0)

    async def work(network: Network) -> None:
        desk = network.desk()
        done = await desk.run("EXPORT LEDGER history.jsonl")
        last = done.answer.blocks
        assert desk.said.lines == [f"block {height} of {last}" for height in range(1, last + 1)]

    on_a_network(tmp_path, work)
