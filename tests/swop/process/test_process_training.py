"""Whole pairs: real SLs of a real network, started by the manager, with programs in a sandbox that train together."""

import asyncio
import contextlib
import socket
from pathlib import Path

import msgspec
import pytest
from process_world import log_of, make_pair, open_manager, sl_log_of, wait_ended, wait_ready

from swarmlearning.clock import system_clock
from swarmlearning.contracts.records import Phase
from swarmlearning.identity.authority import Authority, Issued, issue_certificate
from swarmlearning.local.network import NETWORK, LocalNetwork, Site, prepare_workdir
from swarmlearning.swop.managers.boundary import Pair, Part, PartState
from swarmlearning.swop.managers.process import ProcessManager
from swarmlearning.swop.managers.process_sl import find_control
from swarmlearning.swop.profile import Attribute, IdentityPart, PeerNode
from swarmlearning.types import DEFAULT_CONTRACT, Endpoint, NodeName, Role, TrustDomain

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(110)]

A = TrustDomain("a.example")

PROGRAM = """
import os, sys
import numpy as np
from swarmlearning.callbacks.configuration import SessionConfig
from swarmlearning.callbacks.session import SwarmSession
from swarmlearning.contracts.records import Progress, Settings

rate = float(os.environ["RATE"])
session = SwarmSession(SessionConfig(min_peers=2, settings=Settings(sync_frequency=1, start="merge", grace_ms=2000)))
weights = {"w": np.zeros(4, np.float32)}
session.open(weights)
for batch in range(3):
    weights = session.sync({"w": weights["w"] + np.float32(rate)}, Progress(batch=batch)).arrays
final = session.finish(weights)
print("model", final.sha256, final.arrays["w"].tolist())
"""


def issue(workdir: Path, name: str) -> Issued:
    node = NodeName(domain=A, network=NETWORK, role=Role.SL, name=name)
    authority = Authority.load(workdir / A / "ca")
    return issue_certificate(authority, node, ("127.0.0.1",), workdir / "sls" / name, at_ms=system_clock(), days=30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def real_pair(data: Path, issued: Issued, sn: Endpoint, index: int, life: int = 0) -> Pair:
    """A pair with an identity as the product's profiles have it: directories, and files in them."""
    parts = {IdentityPart.KEY: issued.key, IdentityPart.CERT: issued.certificate, IdentityPart.CACERT: issued.issuer}
    identity = tuple(
        Attribute(part=part, kind="BIND", source=str(path.parent), target="/swarm/certs", sub_path=path.name)
        for part, path in parts.items()
    )
    pair = make_pair(
        data,
        PROGRAM,
        name=f"pair-{index}-{life}",
        uid=issued.node.id,
        node=PeerNode(idx=index, line=1, identity=identity, sl_port=free_port()),
        body_entrypoint="python3 -c",
        sn=sn,
        ml_environment=(("RATE", str(index)),),
        sl_environment=(("SL_LOG_LEVEL", "DEBUG"), ("HOME", None)),
    )
    return msgspec.structs.replace(pair, sandboxed=True)


async def start(manager: ProcessManager, pair: Pair) -> None:
    await manager.start_sl(pair)
    assert await wait_ready(manager, pair)  # it was not taken for ready before it was
    await manager.start_ml(pair)


def test_sw50_two_pairs_train_together_in_sandboxes(tmp_path: Path) -> None:
    manager = open_manager(tmp_path / "D", sandbox=True)

    async def main() -> None:
        workdir = prepare_workdir(tmp_path / "network")
        async with LocalNetwork([Site(domain=A, sls=0)], workdir) as network, network.open_client() as client:
            sn = network.sns[0].address.endpoint
            pairs = [real_pair(tmp_path / "D", issue(workdir, f"sl-{i}"), sn, i) for i in range(2)]
            async with asyncio.TaskGroup() as group:
                for pair in pairs:
                    group.create_task(start(manager, pair))
            for pair in pairs:
                status = await wait_ended(manager, pair, Part.ML, 60)
                assert status.exit_status == 0, log_of(pair) + sl_log_of(pair)
            training = await client.training(DEFAULT_CONTRACT)
            assert training is not None
            assert training.phase is Phase.COMPLETED
            said = {log_of(pair) for pair in pairs}
            assert len(said) == 1
            assert said.pop().strip().endswith("[1.5, 1.5, 1.5, 1.5]")
            keys = [(Path(pair.directory) / "sl" / "signing.key").read_bytes() for pair in pairs]
            for pair in pairs:
                await manager.stop(pair, Part.SL, 20)
                assert (await manager.look(pair)).sl.exit_status == 0
                await manager.remove(pair)
            assert await manager.find_pairs() == ()
            # SW-51: the next pair of the same identity signs with the same key.
            again = real_pair(tmp_path / "D", issue(workdir, "other"), sn, 0, life=1)
            again = msgspec.structs.replace(again, node=pairs[0].node, uid=pairs[0].uid)
            await manager.start_sl(again)
            assert (Path(again.directory) / "sl" / "signing.key").read_bytes() == keys[0]
            await manager.stop(again, Part.SL, 20)
            await manager.remove(again)

    asyncio.run(main())


def test_sw50_an_sl_that_cannot_start_ends_and_says_why(tmp_path: Path) -> None:
    """Its port is taken."""
    manager = open_manager(tmp_path / "D", sandbox=False)

    async def main() -> None:
        workdir = prepare_workdir(tmp_path / "network")
        async with LocalNetwork([Site(domain=A, sls=0)], workdir) as network:
            pair = real_pair(tmp_path / "D", issue(workdir, "sl-0"), network.sns[0].address.endpoint, 0)
            with contextlib.closing(socket.create_server(("127.0.0.1", pair.node.sl_port))):
                await manager.start_sl(pair)
                status = await wait_ended(manager, pair, Part.SL)
            assert status.exit_status == 4
            assert f"{pair.node.sl_port}" in sl_log_of(pair)
            # And again, now that it is free.
            await manager.start_sl(pair)
            await wait_ready(manager, pair)
            await manager.start_sl(pair)
            assert (await manager.look(pair)).sl.state is PartState.RUNNING  # it is still known to be ready
            await manager.remove(pair)

    asyncio.run(main())


def test_sw50_a_control_directory_whose_path_is_too_long_for_a_socket_is_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp")
    deep = tmp_path / ("d" * 60) / "D"
    manager = open_manager(deep, sandbox=True)

    async def main() -> Path:
        workdir = prepare_workdir(tmp_path / "network")
        async with LocalNetwork([Site(domain=A, sls=0)], workdir) as network:
            pair = real_pair(deep, issue(workdir, "sl-0"), network.sns[0].address.endpoint, 0)
            program = (
                "import os, socket; s = socket.socket(socket.AF_UNIX); s.connect(os.environ['SWARM_SL'] + '/sl.sock')"
            )
            words = f'"{program}; print(1)"'
            pair = msgspec.structs.replace(pair, body=msgspec.structs.replace(pair.body, command=words))
            await start(manager, pair)
            assert (await wait_ended(manager, pair, Part.ML)).exit_status == 0, log_of(pair)
            control = find_control(Path(pair.directory))
            assert control is not None
            assert control.parent == Path("/tmp")
            monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # another login
            await manager.stop(pair, Part.SL, 20)
            await manager.remove(pair)
            return control

    assert not asyncio.run(main()).exists()
