"""ABCI's messages are what CometBFT writes and reads (docs/spec/ledger-cometbft.md, section 1)."""

import asyncio
import importlib.util
import sys
from importlib import metadata
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st

from swarmlearning.errors import DecodeError
from swarmlearning.ledger.cometbft import abci_pb2 as pb
from swarmlearning.ledger.cometbft.framing import frame, read_frame

ROOT = Path(__file__).parents[2]
ROOM = ROOT / "src" / "swarmlearning" / "ledger" / "cometbft"


def compiled() -> dict[str, bytes]:
    """What tools/make_abci.py would write."""
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed")
    if not (Path(sys.executable).parent / "protoc-gen-mypy").exists():
        pytest.skip("mypy-protobuf is not installed")
    spec = importlib.util.spec_from_file_location("make_abci", ROOT / "tools" / "make_abci.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    files: dict[str, bytes] = tool.compile_proto()
    return files


def test_the_committed_messages_are_those_of_the_proto_file() -> None:
    files = compiled()
    made = descriptor_pb2.FileDescriptorSet.FromString(files["abci.binpb"])
    kept = descriptor_pb2.FileDescriptorSet.FromString((ROOM / "abci.binpb").read_bytes())
    assert made == kept, "run python tools/make_abci.py"
    if metadata.version("mypy-protobuf").startswith("5.1."):  # others may write the same types differently
        assert files["abci_pb2.pyi"] == (ROOM / "abci_pb2.pyi").read_bytes(), "run python tools/make_abci.py"


def test_every_message_and_enum_of_the_proto_file_can_be_imported() -> None:
    kept = descriptor_pb2.FileDescriptorSet.FromString((ROOM / "abci.binpb").read_bytes())
    for file in kept.file:
        for message in file.message_type:
            assert getattr(pb, message.name)().SerializeToString() == b""
        for enum in file.enum_type:
            for value in enum.value:
                assert getattr(pb, value.name) == value.number


def test_b1_messages_are_the_bytes_that_cometbft_writes() -> None:
    """Golden: as `protoc --encode=tendermint.abci.Request` of CometBFT 0.40's own description gives them."""
    check = pb.Request(check_tx=pb.RequestCheckTx(tx=b"a=1", type=pb.RECHECK))
    assert check.SerializeToString().hex() == "42070a03613d311001"
    update = pb.ValidatorUpdate(pub_key=pb.PublicKey(ed25519=b"\x01" * 2), power=10)
    result = pb.ExecTxResult(code=9, log="fails")
    done = pb.Response(
        finalize_block=pb.ResponseFinalizeBlock(tx_results=[result], validator_updates=[update], app_hash=b"\x02")
    )
    assert done.SerializeToString().hex() == "aa0118120908091a056661696c731a080a040a020101100a2a0102"
    info = pb.Response(info=pb.ResponseInfo(data="d", app_version=1, last_block_height=7, last_block_app_hash=b"\x03"))
    assert info.SerializeToString().hex() == "220a0a0164180120072a0103"


def test_b1_fields_that_we_do_not_know_are_skipped() -> None:
    """Golden, likewise: with votes, power and hashes that we never read."""
    data = bytes.fromhex(
        "a2012d0a03613d311a13080112050a0101180a1805220408071008282822010428063206080910c0843d3a0105420106"
    )
    block = pb.Request.FromString(data).finalize_block
    assert (list(block.txs), block.height, block.proposer_address) == ([b"a=1"], 6, b"\x06")
    assert (block.time.seconds, block.time.nanos) == (9, 1_000_000)
    [evidence] = block.misbehavior
    assert (evidence.type, evidence.validator.address, evidence.height) == (pb.DUPLICATE_VOTE, b"\x01", 5)


def read(data: bytes, limit: int = 1 << 20) -> bytes | None:
    async def work() -> bytes | None:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await read_frame(reader, limit=limit)

    return asyncio.run(work())


@given(st.binary(max_size=400))
def test_b1_a_frame_is_read_as_it_was_written(message: bytes) -> None:
    assert read(frame(message)) == message


def test_b1_lengths_are_varints() -> None:
    assert frame(b"x" * 300)[:2] == b"\xac\x02"
    assert read(frame(b"x" * 300) + b"more") == b"x" * 300
    assert read(b"") is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\xff" * 5, "length of more than 5 bytes"),
        (b"\xff\xff\xff\xff\x7f", "a message of 34359738367 bytes, at most 1048576"),
        (b"\x81", "ended within a message's length"),
        (b"\x05abc", "ended after 3 of 5 bytes"),
        (frame(b"x" * ((1 << 20) + 1)), "a message of 1048577 bytes"),
    ],
)
def test_b2_a_malformed_or_endless_length_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(DecodeError, match=why):
        read(data)
