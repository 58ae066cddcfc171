"""A CometBFT home: keys that are made once, a genesis that is the same everywhere, and a program that takes them."""

import base64
import json
import os
import signal
import stat
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cometbft_support import cometbft, free_port, needs_cometbft

from swarmlearning.encoding import sha256
from swarmlearning.errors import ConfigurationError, IdentityError
from swarmlearning.ledger.cometbft.home import Keys, StateSync, has_keys, load_keys, load_or_create_keys, write_home
from swarmlearning.types import Endpoint, Validator

APP_STATE = sha256(b"founding file")


def validator(number: int) -> Validator:
    return Validator(
        key=bytes([number]) * 32, peer=f"{number:040x}", endpoint=Endpoint(host=f"10.0.0.{number}", port=26656)
    )


def write(home: Path, **changes: Any) -> None:
    arguments: dict[str, Any] = {
        "chain_id": "pilot",
        "genesis_time_ms": 1_700_000_000_050,
        "app_state": APP_STATE,
        "initial": [validator(1), validator(2)],
        "peers": [validator(1), validator(2)],
        "listen": Endpoint(host="127.0.0.1", port=26656),
        "external": None,
        "abci": "unix:///run/a.sock",
        "rpc": "unix:///run/r.sock",
    }
    write_home(home, **(arguments | changes))


def config(home: Path) -> dict[str, Any]:
    return tomllib.loads((home / "config" / "config.toml").read_text())


# --- keys --------------------------------------------------------------------------------------------------------


def test_keys_are_made_once_for_nobody_else_to_read(tmp_path: Path) -> None:
    home = tmp_path / "cometbft"
    assert not has_keys(home)
    keys = load_or_create_keys(home)
    assert has_keys(home)
    assert load_or_create_keys(home) == keys == load_keys(home)
    assert load_or_create_keys(tmp_path / "another") != keys
    files = [path for path in home.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"priv_validator_key.json", "node_key.json", "priv_validator_state.json"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (home, home / "config", home / "data")} == {0o700}


@needs_cometbft
def test_cometbft_reads_the_same_public_keys(tmp_path: Path) -> None:
    keys = load_or_create_keys(tmp_path)
    write(tmp_path)

    def ask(command: str) -> str:
        argv: list[str | Path] = [cometbft(), command, "--home", tmp_path]
        return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout

    assert base64.b64decode(json.loads(ask("show-validator"))["value"]) == keys.key
    assert ask("show-node-id").strip() == keys.peer


@pytest.mark.parametrize("lost", ["config/node_key.json", "data/priv_validator_state.json"])
def test_what_is_lost_beside_a_validators_key_is_not_made_anew(tmp_path: Path, lost: str) -> None:
    """Above all not the record of what the key has signed: it would sign twice."""
    load_or_create_keys(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(ConfigurationError, match=r"is missing; restore it with the others from one backup"):
        load_or_create_keys(tmp_path)
    assert not (tmp_path / lost).exists()


def test_a_lost_key_that_has_signed_is_not_replaced_silently(tmp_path: Path) -> None:
    load_or_create_keys(tmp_path)
    key, state = tmp_path / "config" / "priv_validator_key.json", tmp_path / "data" / "priv_validator_state.json"
    key.unlink()
    state.write_text('{"height": "7", "round": 0, "step": 3}')
    with pytest.raises(ConfigurationError, match=r"is lost, though its key has signed"):
        load_or_create_keys(tmp_path)
    assert not key.exists()


def test_a_crash_between_the_files_is_made_good(tmp_path: Path) -> None:
    peer = load_or_create_keys(tmp_path).peer
    (tmp_path / "config" / "priv_validator_key.json").unlink()
    assert load_or_create_keys(tmp_path).peer == peer


@pytest.mark.parametrize(
    "damage",
    [
        '{"priv_key": {"type": "tendermint/PrivKeySecp256k1", "value": "AAAA"}}',
        '{"priv_key": {"type": "tendermint/PrivKeyEd25519", "value": "AAAA"}}',
        '{"priv_key": {"type": "tendermint/PrivKeyEd25519", "value": "' + "A" * 86 + '=="}}',
        "{}",
        "no JSON",
    ],
)
def test_a_malformed_key_is_one_line_that_names_the_file(tmp_path: Path, damage: str) -> None:
    load_or_create_keys(tmp_path)
    path = tmp_path / "config" / "node_key.json"
    path.write_text(damage)
    with pytest.raises(ConfigurationError) as caught:
        load_keys(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    load_or_create_keys(tmp_path)
    (tmp_path / "config" / "priv_validator_key.json").chmod(0o644)
    with pytest.raises(IdentityError, match="chmod 600"):
        load_keys(tmp_path)


# --- genesis and configuration -----------------------------------------------------------------------------------


def test_the_genesis_is_the_same_bytes_at_every_member(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for home in (first, second):
        load_or_create_keys(home)
    write(first)
    write(
        second,
        initial=[validator(2), validator(1)],
        peers=[],
        listen=Endpoint(host="10.9.9.9", port=1),
        abci="unix:///elsewhere",
    )
    genesis = (first / "config" / "genesis.json").read_bytes()
    assert (second / "config" / "genesis.json").read_bytes() == genesis
    read = json.loads(genesis)
    assert read["app_state"] == APP_STATE.hex()
    assert read["genesis_time"] == "2023-11-14T22:13:20.050Z"
    assert [v["power"] for v in read["validators"]] == ["10", "10"]
    assert read["consensus_params"]["abci"]["vote_extensions_enable_height"] == "0"


def test_a_home_of_another_network_is_refused_and_left_alone(tmp_path: Path) -> None:
    load_or_create_keys(tmp_path)
    write(tmp_path)
    before = {path: path.read_bytes() for path in (tmp_path / "config").iterdir()}
    for change in ({"chain_id": "other"}, {"app_state": b"x"}, {"initial": [validator(1)]}):
        with pytest.raises(ConfigurationError, match="another network's"):
            write(tmp_path, **change)
    assert {path: path.read_bytes() for path in (tmp_path / "config").iterdir()} == before


def test_a_network_name_that_cometbft_would_refuse_is_refused_here(tmp_path: Path) -> None:
    load_or_create_keys(tmp_path)
    write(tmp_path, chain_id="n" * 50)
    with pytest.raises(ConfigurationError, match="51 characters, CometBFT takes at most 50"):
        write(tmp_path, chain_id="n" * 51)


def test_a_home_needs_its_keys_first(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is missing"):
        write(tmp_path)


def test_only_the_peer_to_peer_port_is_open_and_only_members_pass(tmp_path: Path) -> None:
    keys = load_or_create_keys(tmp_path)
    own = Validator(key=keys.key, peer=keys.peer, endpoint=Endpoint(host="10.0.0.3", port=26656))
    write(tmp_path, peers=[own, validator(2), validator(1)], external=Endpoint(host="2001:db8::1", port=4))
    found = config(tmp_path)
    assert found["filter_peers"] is True
    assert found["p2p"]["laddr"] == "tcp://127.0.0.1:26656"
    assert found["p2p"]["external_address"] == "[2001:db8::1]:4"
    assert found["p2p"]["persistent_peers"] == f"{1:040x}@10.0.0.1:26656,{2:040x}@10.0.0.2:26656"
    assert found["p2p"]["unconditional_peer_ids"] == f"{1:040x},{2:040x}"
    assert (found["p2p"]["pex"], found["p2p"]["addr_book_strict"]) == (False, False)
    assert found["rpc"]["laddr"] == "unix:///run/r.sock"
    assert (found["rpc"]["grpc_laddr"], found["rpc"]["pprof_laddr"], found["rpc"]["unsafe"]) == ("", "", True)
    assert found["instrumentation"]["prometheus"] is False
    assert found["consensus"]["create_empty_blocks"] is False


def test_options_of_a_later_start_count_and_nothing_breaks_out_of_its_quotes(tmp_path: Path) -> None:
    load_or_create_keys(tmp_path)
    write(tmp_path)
    odd = 'unix:///a "b"\n[rpc]\\laddr = é'
    write(tmp_path, abci=odd, peers=[])
    assert config(tmp_path)["proxy_app"] == odd
    assert config(tmp_path)["p2p"]["persistent_peers"] == ""


def test_state_sync_is_asked_for_only_where_it_is_wanted(tmp_path: Path) -> None:
    load_or_create_keys(tmp_path)
    write(tmp_path)
    assert "statesync" not in config(tmp_path)
    write(tmp_path, state_sync=StateSync(servers=("http://a:1", "http://b:2"), height=9, block_hash=b"\xab" * 32))
    found = config(tmp_path)["statesync"]
    assert (found["enable"], found["rpc_servers"], found["trust_height"]) == (True, "http://a:1,http://b:2", 9)
    assert found["trust_hash"] == "AB" * 32


# --- what cometbft itself makes of it ----------------------------------------------------------------------------


@needs_cometbft
def test_cometbft_makes_blocks_from_such_a_home(tmp_path: Path) -> None:
    """With its built-in application instead of ours: the files alone are what is tried here."""
    keys: Keys = load_or_create_keys(tmp_path)
    port = free_port()
    own = Validator(key=keys.key, peer=keys.peer, endpoint=Endpoint(host="127.0.0.1", port=port))
    write(
        tmp_path,
        initial=[own],
        peers=[own, validator(9)],
        listen=own.endpoint,
        abci="noop",
        rpc=f"unix://{tmp_path}/r.sock",
    )
    argv: list[str | Path] = [
        cometbft(),
        "start",
        "--home",
        tmp_path,
        "--consensus.create_empty_blocks=true",
        "--log_level",
        "info",
    ]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    state = tmp_path / "data" / "priv_validator_state.json"
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as process:
        assert process.stdout is not None
        try:
            said = b""
            deadline = time.monotonic() + 60
            for line in process.stdout:
                said += line
                if b"committed state" in line or time.monotonic() > deadline:
                    break
            assert b"committed state" in said, said.decode()
            assert (tmp_path / "r.sock").is_socket()
        finally:
            process.send_signal(signal.SIGTERM)
            process.stdout.read()
        process.wait(30)
    assert int(json.loads(state.read_text())["height"]) >= 1
    assert load_or_create_keys(tmp_path) == keys
