"""The classes of abci.proto, built at import from the descriptor that tools/make_abci.py compiled.

Types are in the stub beside this module. Not protoc's own Python code: that works with the one major release of
`protobuf` which made it. The pool is our own, so that no other library's messages can clash with these.
"""

from pathlib import Path

from swarmlearning.errors import ConfigurationError

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
except ImportError as error:
    raise ConfigurationError(
        f"the ledger on CometBFT needs protobuf ({error}): pip install 'swarmlearning[cometbft]'"
    ) from error


def _build() -> dict[str, object]:
    files = descriptor_pb2.FileDescriptorSet.FromString(Path(__file__).with_name("abci.binpb").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.AddSerializedFile(file.SerializeToString())
    found: dict[str, object] = {}
    for file in files.file:
        described = pool.FindFileByName(file.name)
        for name, message in described.message_types_by_name.items():
            found[name] = message_factory.GetMessageClass(message)
        for name, enum in described.enum_types_by_name.items():
            found[name] = EnumTypeWrapper(enum)
            found.update({value.name: value.number for value in enum.values})
    return found


globals().update(_build())
