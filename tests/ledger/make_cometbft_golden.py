"""Writes golden/cometbft.json: what a real network of four `cometbft` processes says of its first blocks.

    PYTHONPATH=src python tests/ledger/make_cometbft_golden.py [path of cometbft]

The application is CometBFT's own `kvstore`, so that nothing of ours has a part in it. Validator 3 falls silent; 2 and 3
leave in one block, then 2 comes back. Keys are new each time; a test needs no network to use the file.
"""

import base64
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from hashlib import sha256
from pathlib import Path
from typing import Any

GOLDEN = Path(__file__).parent / "golden" / "cometbft.json"
CHAIN = "golden"
POWER = 10
VALIDATORS = 4
P2P, RPC = 36656, 36657


def ask(method: str, node: int = 0, **params: str) -> Any:
    query = urllib.parse.urlencode(params)
    with urllib.request.urlopen(f"http://127.0.0.{node + 1}:{RPC}/{method}?{query}", timeout=20) as reply:
        answer = json.load(reply)
    if "error" in answer:
        raise RuntimeError(f"{method}: {answer['error']}")
    return answer["result"]


def found(directory: Path, binary: str) -> list[bytes]:
    """Make the nodes' homes, and return the validators' keys."""
    command = [binary, "testnet", "--v", str(VALIDATORS), "--o", str(directory), "--p2p-port", str(P2P)]
    subprocess.run([*command, "--starting-ip-address", "127.0.0.1"], check=True, stdout=subprocess.DEVNULL)
    genesis = json.loads((directory / "node0/config/genesis.json").read_text())
    genesis["chain_id"] = CHAIN
    for validator in genesis["validators"]:
        validator["power"] = str(POWER)
    keys = []
    for node in range(VALIDATORS):
        (directory / f"node{node}/config/genesis.json").write_text(json.dumps(genesis))
        own = json.loads((directory / f"node{node}/config/priv_validator_key.json").read_text())
        keys.append(base64.b64decode(own["pub_key"]["value"]))
        path = directory / f"node{node}/config/config.toml"
        text = path.read_text().replace("create_empty_blocks = true", "create_empty_blocks = false")
        path.write_text(text.replace('timeout_commit = "1s"', 'timeout_commit = "100ms"'))
    return keys


def start(directory: Path, binary: str, node: int, stack: contextlib.ExitStack) -> "subprocess.Popen[bytes]":
    host = f"127.0.0.{node + 1}"
    log = stack.enter_context((directory / f"node{node}.log").open("wb"))
    command = [binary, "node", "--home", str(directory / f"node{node}"), "--proxy_app", "kvstore"]
    command += ["--rpc.laddr", f"tcp://{host}:{RPC}", "--p2p.laddr", f"tcp://{host}:{P2P}"]
    process = subprocess.Popen(command, stdout=log, stderr=log)

    def stop() -> None:
        process.terminate()
        process.wait(20)

    stack.callback(stop)
    return process


def wait_for(height: int) -> None:
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        with contextlib.suppress(OSError):
            if int(ask("status")["sync_info"]["latest_block_height"]) >= height:
                return
        time.sleep(0.05)
    raise RuntimeError(f"there was no block {height} within a minute")


def order(*txs: bytes) -> None:
    """Offer transactions at once, and wait for the block after the last one's."""
    for tx in txs:
        ask("broadcast_tx_sync", tx="0x" + tx.hex())
    limit = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError):
            height = max(int(ask("tx", hash="0x" + sha256(tx).hexdigest())["height"]) for tx in txs)
            break
        if time.monotonic() > limit:
            raise RuntimeError("a transaction was in no block within a minute")
        time.sleep(0.05)
    wait_for(height + 1)


def change(key: bytes, power: int) -> bytes:
    return f"val=ed25519!{base64.b64encode(key).decode()}!{power}".encode()


def collect(keys: list[bytes], last: int) -> dict[str, Any]:
    blocks: dict[str, Any] = {}
    for height in range(1, last + 1):
        block = ask("block", height=str(height))
        txs = [base64.b64decode(tx) for tx in block["block"]["data"]["txs"] or []]
        proofs = [ask("tx", hash="0x" + sha256(tx).hexdigest(), prove="true")["proof"]["proof"] for tx in txs]
        blocks[str(height)] = {
            "block": {"block_id": block["block_id"], "block": {k: block["block"][k] for k in ("header", "data")}},
            "commit": ask("commit", height=str(height)),
            "validators": ask("validators", height=str(height), per_page="100"),
            "tx_proofs": proofs,
        }
    return {
        "version": ask("status")["node_info"]["version"],
        "chain_id": CHAIN,
        "power": POWER,
        "keys": [key.hex() for key in keys],
        "blocks": blocks,
    }


def main() -> None:
    """Run the network and write the file."""
    binary = sys.argv[1] if len(sys.argv) > 1 else shutil.which("cometbft") or str(Path.home() / "go/bin/cometbft")
    with tempfile.TemporaryDirectory(prefix="golden-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        keys = found(directory, binary)
        processes = [start(directory, binary, node, stack) for node in range(VALIDATORS)]
        wait_for(1)
        order(*(b"key%d=value" % number for number in range(5)))
        processes[3].terminate()
        processes[3].wait(20)
        order(change(keys[2], 0), change(keys[3], 0))
        order(b"between=1", b"between=2", b"between=3")
        order(change(keys[2], POWER))
        order(b"after=1")
        order(b"last=1", b"last=2")
        last = int(ask("status")["sync_info"]["latest_block_height"]) - 1
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_text(json.dumps(collect(keys, last), indent=1) + "\n")
    sys.stdout.write(f"{GOLDEN}: blocks 1 to {last}\n")


if __name__ == "__main__":
    main()
