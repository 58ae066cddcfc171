"""`swarm ledger` on files: exports that are whole or not there, proofs verified offline (docs/spec/proofs.md)."""

import asyncio
from functools import cache
from pathlib import Path

import pytest
from archive_world import SN, Registry, let_all_pass, member
from chain_world import genesis_of

from swarmlearning.cli.main import main
from swarmlearning.contracts.messages import CreateContract
from swarmlearning.encoding import encode, sha256
from swarmlearning.errors import ConfigurationError, ExitCode
from swarmlearning.sn.exporting import whole_file
from swarmlearning.types import ContractName


@cache
def proofs() -> tuple[bytes, bytes, bytes]:
    """The proofs of a transaction and of its block, and the transaction's hash."""

    async def work() -> tuple[bytes, bytes, bytes]:
        async with Registry.open() as registry:
            await registry.register(SN, member(0))
            tx = registry.sign(member(0), CreateContract(contract=ContractName("heart\x1b[2J")))
            # Such a name is not ordered; a dishonest sentinel might.
            let_all_pass(registry.app)
            ((height, _),) = await registry.order(tx)
            client = registry.client(member(0))
            return await client.proof(tx=sha256(tx)), await client.proof(height=height), sha256(tx)

    return asyncio.run(asyncio.wait_for(work(), 30))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "genesis.bin").write_bytes(encode(genesis_of(2)))
    (tmp_path / "proof.bin").write_bytes(proofs()[0])
    (tmp_path / "block.bin").write_bytes(proofs()[1])
    return tmp_path


def verify(files: Path, *names: str, genesis: str = "genesis.bin", more: tuple[str, ...] = ()) -> int:
    return main(["ledger", "verify", *(str(files / name) for name in names), "--genesis", str(files / genesis), *more])


def test_pf3_what_a_proof_proves_is_printed_a_line_each(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(files, "proof.bin") == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "transaction", "sent", "block", "height", "time", "proposer", "signed",
    ]  # fmt: skip
    assert proofs()[2].hex() in lines[0]
    assert "CreateContract in heart [2J" in lines[0], "no control characters reach the terminal"
    assert "spiffe://org0.example/heart/sl/sl0" in lines[1]
    assert "the sentinel spiffe://org0.example/heart/sn/sn0" in lines[-1]


def test_pf3_of_a_whole_block_it_is_said_that_there_are_no_other_transactions(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(files, "proof.bin", "block.bin") == ExitCode.OK
    out = capsys.readouterr().out
    assert out.count("no others") == 1
    assert f"{files / 'proof.bin'}:" in out


def test_pf2_a_file_that_proves_nothing_ends_with_the_reason_and_others_are_verified_all_the_same(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(proofs()[0])
    data[-20] ^= 1
    (files / "bad.bin").write_bytes(data)
    (files / "worse.bin").write_bytes(b"\xc1")
    assert verify(files, "bad.bin", "worse.bin", "block.bin") == ExitCode.PEER
    captured = capsys.readouterr()
    assert "no others" in captured.out
    assert captured.err.count("proves nothing: ") == captured.err.count("\n") == 2
    assert "bad.bin" in captured.err
    assert verify(files, "bad.bin") == ExitCode.PEER
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("names", "genesis", "more", "expected"),
    [
        (["missing.bin"], "genesis.bin", (), "cannot be read"),
        (["proof.bin"], "proof.bin", (), "is not a genesis"),
        (["proof.bin"], "genesis.bin", ("--handover", "12"), "expected a SHA-256"),
    ],
)
def test_what_cannot_be_verified_is_told_in_one_line(
    files: Path,
    names: list[str],
    genesis: str,
    more: tuple[str, ...],
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert verify(files, *names, genesis=genesis, more=more) == ExitCode.CONFIGURATION
    captured = capsys.readouterr()
    assert expected in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("wanted", [(), ("--tx", "00" * 32, "--height", "1")])
def test_a_proof_is_asked_for_by_one_of_hash_and_height(
    wanted: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    identity = ["--cert", "c.pem", "--key", "k.pem", "--cacert", "a.pem"]
    assert main(["ledger", "proof", "--sn", "127.0.0.1:1", "--out", "x", *identity, *wanted]) == ExitCode.CONFIGURATION
    assert "either --tx HASH or --height H" in capsys.readouterr().err


def break_off(out: Path, reason: BaseException, *, force: bool) -> None:
    with whole_file(out, force=force) as file:
        file.write(b"half\n")
        raise reason


def test_pf10_an_export_that_breaks_off_leaves_nothing_under_its_name(tmp_path: Path) -> None:
    out = tmp_path / "history.jsonl"
    with pytest.raises(KeyboardInterrupt):
        break_off(out, KeyboardInterrupt(), force=False)
    assert list(tmp_path.iterdir()) == []
    with whole_file(out, force=False) as file:
        file.write(b"whole\n")
        assert not out.exists()
    assert out.read_bytes() == b"whole\n"
    assert list(tmp_path.iterdir()) == [out]


def test_pf10_an_older_export_is_replaced_only_with_force_and_only_by_a_whole_one(tmp_path: Path) -> None:
    out = tmp_path / "history.jsonl"
    out.write_bytes(b"older\n")
    with (
        pytest.raises(ConfigurationError, match="place, or burn it"),
        whole_file(out, force=False, or_else=", or burn it"),
    ):
        raise AssertionError("nothing is written where it could not be kept")
    with pytest.raises(RuntimeError):
        break_off(out, RuntimeError("the SN fell silent"), force=True)
    assert out.read_bytes() == b"older\n"
    with whole_file(out, force=True) as file:
        file.write(b"newer\n")
    assert out.read_bytes() == b"newer\n"
    out.unlink()
    with pytest.raises(ConfigurationError, match="exists"), whole_file(out, force=False):
        out.write_bytes(b"somebody else's\n")
    assert out.read_bytes() == b"somebody else's\n"
    with pytest.raises(ConfigurationError, match="cannot be written"), whole_file(tmp_path / "no" / "x", force=False):
        raise AssertionError("there is no such directory")
