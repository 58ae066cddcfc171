"""The home directory of a `cometbft` process: its keys, the genesis that all share, and how it is configured.

    HOME/config/priv_validator_key.json    with what this organisation votes; a secret
    HOME/config/node_key.json              as whom it meets other validators' processes; a secret
    HOME/config/genesis.json               follows from the founding file alone: the same bytes everywhere
    HOME/config/config.toml                follows from this node's options; written anew at every start
    HOME/data/priv_validator_state.json    what the key has signed last, so that it never signs twice
    HOME/data/                             else: CometBFT's own

Does not read the founding file, nor start anything. Spec: docs/spec/ledger-cometbft.md.
"""

import base64
import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from swarmlearning.encoding import sha256
from swarmlearning.errors import ConfigurationError
from swarmlearning.identity.files import (
    PUBLIC_MODE,
    SECRET_MODE,
    make_directory,
    read_file,
    read_secret,
    write_file,
)
from swarmlearning.types import Endpoint, Validator

T = TypeVar("T")

HOME: Final = "cometbft"
"""The home within an SN's data directory."""

POWER: Final = 10
"""Voting power of every validator: organisations are equal."""

MAX_CHAIN_ID: Final = 50
"""Longest network name that CometBFT takes, characters."""

MAX_TX_BYTES: Final = 64 << 10
"""Largest transaction, bytes, as in the embedded ledger; all nodes must agree on it, so it is no setting."""

MAX_BLOCK_BYTES: Final = 1 << 20
MAX_EVIDENCE_BYTES: Final = 64 << 10

EVIDENCE_BLOCKS: Final = 100_000
EVIDENCE_HOURS: Final = 48
"""Evidence of a validator's misbehaviour counts while it is younger than either."""

TRUST_HOURS: Final = 10 * 365 * 24
"""How old the block may be from which a snapshot is verified.

In a network that makes few blocks the newest snapshot's is days or weeks old. That validators who left long ago could
sign another history is no concern here: who names the block, lately, also answers what it is verified by.
"""

_PUBLIC_TYPE: Final = "tendermint/PubKeyEd25519"
_PRIVATE_TYPE: Final = "tendermint/PrivKeyEd25519"


class Keys(msgspec.Struct, frozen=True, kw_only=True):
    """The public side of a home's keys."""

    key: bytes
    """Ed25519 public key with which it votes, 32 bytes."""
    peer: str
    """Its peer-to-peer identity, 40 hexadecimal digits."""


class StateSync(msgspec.Struct, frozen=True, kw_only=True):
    """How a new node gets the state from a snapshot instead of executing every block."""

    servers: tuple[str, ...]
    """RPC addresses of two or more nodes, such as `http://127.0.0.1:26657`."""
    height: int
    """Of a block that is known to be right."""
    block_hash: bytes
    """That block's, 32 bytes."""


class _Typed(msgspec.Struct, frozen=True):
    type: str
    value: str


class _ValidatorKey(msgspec.Struct, frozen=True):
    address: str
    pub_key: _Typed
    priv_key: _Typed


class _NodeKey(msgspec.Struct, frozen=True):
    priv_key: _Typed


class _SignState(msgspec.Struct, frozen=True):
    height: str
    round: int
    step: int


# --- keys --------------------------------------------------------------------------------------------------------


def has_keys(home: Path) -> bool:
    """Whether `load_or_create_keys` would find a key, rather than make one."""
    return _validator_path(home).exists()


def load_or_create_keys(home: Path) -> Keys:
    """Read the validator's key and the node key of a home; where there are none, make them, durable and 0600.

    Nothing that is there is ever overwritten, and no part of what is lost is made anew: another validator key would
    have no vote, and a key whose record of what it has signed is lost could sign twice.

    Raises:
        ConfigurationError: a file is missing beside the others, malformed, or cannot be written.
        IdentityError: a key can be read by every user of this machine.
    """
    make_directory(home, mode=0o700)
    for directory in (home / "config", home / "data"):
        make_directory(directory, mode=0o700)
    validator, node, state = _validator_path(home), _node_path(home), _state_path(home)
    if not validator.exists():
        # The validator's key comes last: where it is, the others were. So a crash in between is not taken for a loss.
        if not state.exists():
            _write(state, {"height": "0", "round": 0, "step": 0})
        elif _read_state(state) > 0:
            raise ConfigurationError(
                f"{validator} is lost, though its key has signed blocks ({state}); restore it, or have the members "
                "vote for a new key with an empty directory"
            )
        if not node.exists():
            _write(node, {"priv_key": _private_json(Ed25519PrivateKey.generate())})
        _write(validator, _validator_json(Ed25519PrivateKey.generate()))
    return load_keys(home)


def load_keys(home: Path) -> Keys:
    """Read the keys of a home.

    Raises:
        ConfigurationError: a file is missing or malformed.
        IdentityError: a key can be read by every user of this machine.
    """
    validator, node, state = _validator_path(home), _node_path(home), _state_path(home)
    for path in (validator, node, state):
        if not path.exists():
            raise ConfigurationError(
                f"{path} is missing; restore it with the others from one backup, or begin with an empty directory "
                "and have the members vote for the new key"
            )
    _read_state(state)
    key = _private_key(_decoded(validator, read_secret(validator, "validator key"), _ValidatorKey).priv_key, validator)
    peer = _private_key(_decoded(node, read_secret(node, "node key"), _NodeKey).priv_key, node)
    return Keys(key=_public(key), peer=sha256(_public(peer))[:20].hex())


def _validator_path(home: Path) -> Path:
    return home / "config" / "priv_validator_key.json"


def _node_path(home: Path) -> Path:
    return home / "config" / "node_key.json"


def _state_path(home: Path) -> Path:
    return home / "data" / "priv_validator_state.json"


def _public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _private_json(key: Ed25519PrivateKey) -> dict[str, str]:
    # Go's form of a private key: the seed, then the public key.
    value = key.private_bytes_raw() + _public(key)
    return {"type": _PRIVATE_TYPE, "value": base64.b64encode(value).decode()}


def _public_json(key: bytes) -> dict[str, str]:
    return {"type": _PUBLIC_TYPE, "value": base64.b64encode(key).decode()}


def _validator_json(key: Ed25519PrivateKey) -> dict[str, Any]:
    public = _public(key)
    return {
        "address": sha256(public)[:20].hex().upper(),
        "pub_key": _public_json(public),
        "priv_key": _private_json(key),
    }


def _private_key(found: _Typed, path: Path) -> Ed25519PrivateKey:
    try:
        value = base64.b64decode(found.value, validate=True)
    except ValueError:
        value = b""
    if found.type != _PRIVATE_TYPE or len(value) != 64:
        raise ConfigurationError(f"{path}: expected an Ed25519 key as cometbft writes it, got {found.type[:80]!r}")
    key = Ed25519PrivateKey.from_private_bytes(value[:32])
    if _public(key) != value[32:]:
        raise ConfigurationError(f"{path}: the private key does not belong to the public key beside it")
    return key


def _read_state(path: Path) -> int:
    height = _decoded(path, read_file(path, "sign state"), _SignState).height
    if not (height.isascii() and height.isdigit()):
        raise ConfigurationError(f"{path}: the height {height[:80]!r} is none; restore the file from a backup")
    return int(height)


def _decoded(path: Path, data: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not as cometbft writes it ({error})") from error


def _write(path: Path, value: object, *, mode: int = SECRET_MODE) -> None:
    write_file(path, _json(value), mode=mode)


def _json(value: object) -> bytes:
    return json.dumps(value, indent=2).encode() + b"\n"


# --- genesis and configuration -----------------------------------------------------------------------------------


def write_home(
    home: Path,
    *,
    chain_id: str,
    genesis_time_ms: int,
    app_state: bytes,
    initial: Sequence[Validator],
    peers: Sequence[Validator],
    listen: Endpoint,
    external: Endpoint | None,
    abci: str,
    rpc: str,
    state_sync: StateSync | None = None,
) -> None:
    """Write what `cometbft start --home` needs besides the keys, which must be there.

    Args:
        home: the directory.
        chain_id: the network's name.
        genesis_time_ms: when the network was founded, milliseconds since the epoch.
        app_state: stands in the genesis as a JSON string of hexadecimal digits; the application gets it with quotes.
        initial: who votes from the first block on, in any order.
        peers: whose processes to keep a connection to; this home's own is left out.
        listen: where to listen for them.
        external: where they reach this one, if that is elsewhere; an IP address.
        abci: address of the application, such as `unix:///run/swarm/abci.sock`.
        rpc: address to serve the RPC at; it has no protection of its own, so a Unix socket in a private directory.
        state_sync: where a new node gets the state from; None executes every block.

    Raises:
        ConfigurationError: the network's name is too long, no keys, or the home is another network's.
    """
    if len(chain_id) > MAX_CHAIN_ID:
        raise ConfigurationError(
            f"network name {chain_id!r}: {len(chain_id)} characters, CometBFT takes at most {MAX_CHAIN_ID}"
        )
    own = load_keys(home).peer
    others = sorted((peer for peer in peers if peer.peer != own), key=lambda peer: peer.peer)
    _write_genesis(home / "config" / "genesis.json", _genesis(chain_id, genesis_time_ms, app_state, initial))
    config = _config(others, listen=listen, external=external, abci=abci, rpc=rpc) + _state_sync(state_sync)
    write_file(home / "config" / "config.toml", config.encode(), mode=PUBLIC_MODE, force=True)


def check_home(
    home: Path, *, chain_id: str, genesis_time_ms: int, app_state: bytes, initial: Sequence[Validator]
) -> None:
    """See that a home, if it has been written, is of this network; changes nothing. Arguments: as for `write_home`.

    Raises:
        ConfigurationError: it is another network's.
        IdentityError: it cannot be read.
    """
    _check_genesis(home / "config" / "genesis.json", _genesis(chain_id, genesis_time_ms, app_state, initial))


def _genesis(chain_id: str, time_ms: int, app_state: bytes, initial: Sequence[Validator]) -> bytes:
    seconds, milliseconds = divmod(time_ms, 1000)
    time = dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return _json(
        {
            "genesis_time": f"{time}.{milliseconds:03}Z",
            "chain_id": chain_id,
            "initial_height": "1",
            "consensus_params": {
                "block": {"max_bytes": str(MAX_BLOCK_BYTES), "max_gas": "-1"},
                "evidence": {
                    "max_age_num_blocks": str(EVIDENCE_BLOCKS),
                    "max_age_duration": str(EVIDENCE_HOURS * 3600 * 10**9),
                    "max_bytes": str(MAX_EVIDENCE_BYTES),
                },
                "validator": {"pub_key_types": ["ed25519"]},
                "version": {"app": "0"},
                "abci": {"vote_extensions_enable_height": "0"},
            },
            "validators": [
                {
                    "address": validator.address.hex().upper(),
                    "pub_key": _public_json(validator.key),
                    "power": str(POWER),
                    "name": "",
                }
                for validator in sorted(initial, key=lambda validator: validator.address)
            ],
            "app_hash": "",
            "app_state": app_state.hex(),
        }
    )


def _check_genesis(path: Path, genesis: bytes) -> None:
    if path.exists() and read_file(path, "genesis") != genesis:
        raise ConfigurationError(
            f"{path} is another network's; start with the founding file that this directory was made with, or "
            "with another directory"
        )


def _write_genesis(path: Path, genesis: bytes) -> None:
    _check_genesis(path, genesis)
    if not path.exists():
        write_file(path, genesis, mode=PUBLIC_MODE)


def _text(value: str) -> str:
    # A TOML basic string; JSON's escapes are a part of TOML's.
    return json.dumps(value, ensure_ascii=False)


def _config(others: Sequence[Validator], *, listen: Endpoint, external: Endpoint | None, abci: str, rpc: str) -> str:
    """`config.toml`; what is not named is as CometBFT has it, and what opens a port is named."""
    addresses = ",".join(f"{peer.peer}@{peer.endpoint}" for peer in others)
    return f"""\
# Written by swarm at every start; changes are lost.
proxy_app = {_text(abci)}
abci = "socket"
moniker = "swarm"
log_level = "main:info,state:error,*:error"
log_format = "plain"
# Whoever is no validator is refused when it connects.
filter_peers = true

[rpc]
laddr = {_text(rpc)}
grpc_laddr = ""
pprof_laddr = ""
# Lets the engine have it dial members anew; nobody else reaches this RPC.
unsafe = true
max_open_connections = 64

[p2p]
laddr = {_text(f"tcp://{listen}")}
external_address = {_text(str(external) if external is not None else "")}
persistent_peers = {_text(addresses)}
unconditional_peer_ids = {_text(",".join(peer.peer for peer in others))}
# Members are known by name: nobody is introduced by others, nor introduces others.
pex = false
addr_book_strict = false
# Several validators may stand behind one address.
allow_duplicate_ip = true
max_num_inbound_peers = 40
max_num_outbound_peers = 0
flush_throttle_timeout = "5ms"

[mempool]
type = "flood"
recheck_timeout = "5s"
max_tx_bytes = {MAX_TX_BYTES}
max_txs_bytes = {64 << 20}

[consensus]
create_empty_blocks = false
create_empty_blocks_interval = "0s"
timeout_propose = "1s"
timeout_propose_delta = "500ms"
timeout_prevote = "500ms"
timeout_prevote_delta = "500ms"
timeout_precommit = "500ms"
timeout_precommit_delta = "500ms"
# The next block begins at once when all have voted, else after this.
timeout_commit = "50ms"
skip_timeout_commit = true
peer_gossip_sleep_duration = "10ms"

[storage]
discard_abci_responses = true

[tx_index]
indexer = "null"

[instrumentation]
prometheus = false
"""


def _state_sync(sync: StateSync | None) -> str:
    if sync is None:
        return ""
    return f"""
[statesync]
enable = true
rpc_servers = {_text(",".join(sync.servers))}
trust_height = {sync.height}
trust_hash = {_text(sync.block_hash.hex().upper())}
trust_period = "{TRUST_HOURS}h0m0s"
discovery_time = "5s"
"""
