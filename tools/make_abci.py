"""Compiles src/swarmlearning/ledger/cometbft/abci.proto: to a descriptor that is read at import, and to types for mypy.

Run `python tools/make_abci.py` after a change of the .proto; a test compares what it would write with what is there.
Needs grpcio-tools (protoc) and mypy-protobuf. Classes are built from the descriptor rather than from protoc's Python
code, which works with the one major release of the `protobuf` package that made it.
"""

import sys
import tempfile
from pathlib import Path

ROOM = Path(__file__).parent.parent / "src" / "swarmlearning" / "ledger" / "cometbft"

HEADER = '"""Types of the classes that `abci_pb2.py` builds; made from abci.proto by tools/make_abci.py."""\n'


def compile_proto() -> dict[str, bytes]:
    """The name of each file that follows from abci.proto, and its bytes.

    Raises:
        ImportError: grpcio-tools is not installed.
        RuntimeError: protoc refuses the file, or mypy-protobuf is not installed.
    """
    from grpc_tools import protoc

    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        arguments = [
            "protoc",
            f"--proto_path={ROOM}",
            f"--descriptor_set_out={out / 'abci.binpb'}",
            f"--plugin=protoc-gen-mypy={Path(sys.executable).parent / 'protoc-gen-mypy'}",
            f"--mypy_out=quiet:{out}",
            "abci.proto",
        ]
        if protoc.main(arguments) != 0:
            raise RuntimeError(f"protoc cannot compile {ROOM / 'abci.proto'} (its message is above)")
        types = (out / "abci_pb2.pyi").read_text()
        return {
            "abci.binpb": (out / "abci.binpb").read_bytes(),
            "abci_pb2.pyi": types.encode(),
        }


def main() -> None:
    """Write both files."""
    for name, data in compile_proto().items():
        (ROOM / name).write_bytes(data)
        sys.stdout.write(f"{ROOM / name}\n")


if __name__ == "__main__":
    main()
