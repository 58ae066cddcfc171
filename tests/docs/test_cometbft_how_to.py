"""The commands of `run-on-cometbft.md`, as they stand on the page, found a network of four; its table is true."""

import re
import shlex
import shutil
from pathlib import Path

import click
import pytest

from swarmlearning.cli.main import main, swarm
from swarmlearning.ledger.cometbft.binary import INSTALL
from swarmlearning.local.genesis import load_genesis, tolerated

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "run-on-cometbft.md").read_text(encoding="utf-8")
LETTERS = "abcd"


def commands(section: str) -> list[str]:
    """What is typed after hospital A's prompt in a section, without `swarm`."""
    text = PAGE.partition(f"## {section}")[2].partition("\n## ")[0]
    return re.findall(r"^hospital-[ae]\$ swarm (.*)$", text, flags=re.MULTILINE)


def at(letter: str, command: str) -> list[str]:
    """Hospital A's command as another hospital types it."""
    number = LETTERS.index(letter) + 1
    return shlex.split(command.replace("hospital-a", f"hospital-{letter}").replace("10.0.0.1", f"10.0.0.{number}"))


def test_the_page_founds_a_network_that_each_can_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for letter in LETTERS:
        (tmp_path / letter).mkdir()
        monkeypatch.chdir(tmp_path / letter)
        for command in commands("2. "):
            assert main(at(letter, command)) == 0
        if letter != "a":
            handed_in = tmp_path / "a" / f"from-{letter}"
            handed_in.mkdir()
            shutil.copy(f"pki/hospital-{letter}.example.ca.pem", handed_in)
            shutil.copy(f"hospital-{letter}.example.validator.json", handed_in)
    monkeypatch.chdir(tmp_path / "a")
    (create,) = commands("3. ")
    assert main(shlex.split(create)) == 0
    assert len(load_genesis(Path("genesis.bin")).organisations) == 4
    for letter in LETTERS:
        monkeypatch.chdir(tmp_path / letter)
        if letter != "a":
            shutil.copy(tmp_path / "a" / "genesis.bin", ".")
        show, join, start = commands("4. ")
        assert main(at(letter, show)) == 0
        assert main(at(letter, join)) == 0
        _parse(at(letter, start))
        assert Path("sn/genesis.bin").exists()


def _parse(words: list[str]) -> None:
    """See that a command has these options, without running it."""
    # With its own settings: click remembers what a command was first asked with.
    with click.Context(swarm, **swarm.context_settings) as context:
        command = swarm.get_command(context, words.pop(0))
        while isinstance(command, click.Group):
            command = command.get_command(context, words.pop(0))
        assert command is not None
        command.make_context(command.name, words, parent=context)


def test_the_commands_of_an_attached_process_are_commands() -> None:
    (start,) = commands("Run CometBFT yourself")
    assert "--cometbft-abci" in start
    _parse(shlex.split(start))


def test_the_commands_of_who_joins_later_are_commands() -> None:
    propose, ticket, join = commands("When an organisation is admitted later")
    assert "--ticket" in join
    for command in (propose, ticket, join):
        _parse(shlex.split(command))


def test_the_page_installs_the_release_that_is_tested() -> None:
    assert f"$ {INSTALL}\n" in PAGE


def test_the_table_says_how_many_may_fail_and_how_many_are_needed() -> None:
    rows = re.findall(r"^\| (\d+)(?: to (\d+))? \| (\d+) \| (.*) \|$", PAGE, flags=re.MULTILINE)
    assert [int(first) for first, *_ in rows] == [1, 4, 7, 10]
    for first, last, may_fail, needed in rows:
        for number in range(int(first), int(last or first) + 1):
            assert tolerated(number) == int(may_fail)
            if needed != "all":
                need = 2 * number // 3 + 1
                assert f"{need} of {number}" in needed or needed.split(",")[0] == str(need)
