"""Replacing a sentinel as operators do it, on data directories of stopped SNs (docs/spec/ledger.md, L-25 and L-26).

Real processes do it in tests/e2e/test_handover.py.
"""

import asyncio
import random
import shutil
from pathlib import Path

import pytest
from chain_world import Chain, certificate, genesis_of, key_of, member, registration

from swarmlearning.cli.main import main
from swarmlearning.contracts.messages import RevokeCertificate
from swarmlearning.contracts.records import Genesis
from swarmlearning.encoding import encode
from swarmlearning.errors import ConfigurationError, ExitCode
from swarmlearning.identity.verify import fingerprint
from swarmlearning.ledger.embedded import EmbeddedLedger
from swarmlearning.sn.application import SwarmApplication
from swarmlearning.sn.client import sign_message
from swarmlearning.sn.engines import embedded_config
from swarmlearning.sn.handing_over import (
    StoppedSn,
    apply_handover,
    load_handover,
    propose_handover,
    read_standing,
    save_handover,
    sign_handover,
)
from swarmlearning.sn.state import StateStore
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import Code, Role

SNS = [member(index, Role.SN) for index in range(3)]


def test_l25_registered_sns_vote_and_nobody_else() -> None:
    chain = Chain(3)
    assert chain.app.voters() == {}
    chain.register(*SNS, member(0), member(1, Role.OPERATOR))
    assert chain.app.voters() == {name.id: key_of(name).public for name in SNS}
    chain.do(SNS[1], registration(SNS[1]), salt="")
    chain.do(SNS[2], registration(SNS[2], salt="another key"), salt="another key")
    assert chain.app.voters()[SNS[2].id] == key_of(SNS[2], "another key").public


def test_l25_an_sn_whose_certificate_is_revoked_neither_votes_nor_counts() -> None:
    chain = Chain(3)
    chain.register(*SNS)
    mark = fingerprint(certificate(SNS[1], SNS[1].domain))
    assert chain.do(SNS[1], RevokeCertificate(fingerprint=mark)).code is Code.OK
    assert set(chain.app.voters()) == {SNS[0].id, SNS[2].id}


class Hospitals:
    """Three organisations' SNs, stopped, that hold the same ledger; node 0 was the sentinel."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.genesis: Genesis = genesis_of(3)
        (directory / "genesis.bin").write_bytes(encode(self.genesis))
        for index in range(3):
            self.sn(index).data.mkdir()
            self.sn(index).sign_key.write_bytes(key_of(SNS[index]).pem())
            self.sn(index).sign_key.chmod(0o600)
        asyncio.run(self._found())
        # A copy of one SN's ledger is enough: the state is computed from it.
        for index in (1, 2):
            shutil.copy(self.sn(0).data / "ledger.sqlite", self.sn(index).data)

    def sn(self, index: int) -> StoppedSn:
        data = self.directory / f"sn{index}"
        return StoppedSn(data=data, genesis=self.directory / "genesis.bin", sign_key=data / "signing.key")

    async def _found(self) -> None:
        ledger, store = self.open_sentinel()
        await ledger.start()
        task = asyncio.ensure_future(ledger.run())
        for name in SNS:
            tx = sign_message(key_of(name), self.genesis.network, registration(name), ledger.height)
            _, result = await ledger.submit(tx, timeout_s=10)
            assert result.code is Code.OK
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await ledger.stop()
        store.close()

    def open_sentinel(self) -> tuple[EmbeddedLedger, StateStore]:
        store = StateStore(self.sn(0).data / "state.sqlite")
        config = embedded_config(self.genesis, encode(self.genesis), self.sn(0).data, SNS[0].id, None)
        client = MemoryNetwork().client(SNS[0])
        app = SwarmApplication(store)
        # The chain's clock, so that certificates are valid.
        clock = Chain(3).time_ms
        return EmbeddedLedger(config, app, key_of(SNS[0]), client, lambda: clock, random.Random(1)), store

    def options(self, index: int) -> list[str]:
        return ["--data", str(self.sn(index).data), "--genesis", str(self.directory / "genesis.bin")]


@pytest.fixture
def hospitals(tmp_path: Path) -> Hospitals:
    return Hospitals(tmp_path)


def test_two_of_three_hospitals_hand_over_and_the_lost_one_is_told(
    hospitals: Hospitals, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "handover.bin")
    handover = ["network", "handover"]
    assert main([*handover, "standing", *hospitals.options(1)]) == 0
    assert "SNs that vote 3: sn0@org0.example, sn1@org1.example, sn2@org2.example" in capsys.readouterr().out
    assert main([*handover, "propose", *hospitals.options(1), "--out", file]) == 0
    out = capsys.readouterr().out
    assert f"new sentinel  {SNS[1].id}" in out
    assert "1 of 3 SNs have signed, 2 are needed: send" in out
    assert main([*handover, "apply", file, *hospitals.options(1)]) == ExitCode.PEER
    assert "signed by 1 of the 3 SNs registered at block 3; expected at least 2" in capsys.readouterr().err
    assert main([*handover, "sign", file, *hospitals.options(2)]) == 0
    assert f"2 of 3 SNs have signed, 2 are needed: send {file} to the new sentinel" in capsys.readouterr().out
    for _ in range(2):
        assert main([*handover, "apply", file, *hospitals.options(1)]) == 0
        assert "from block 4 on sn1@org1.example orders: start that SN without --sentinel" in capsys.readouterr().out
    assert main([*handover, "show", file]) == 0
    assert f"signed by     {SNS[1].id}, {SNS[2].id}" in capsys.readouterr().out
    assert main([*handover, "standing", *hospitals.options(1)]) == 0
    assert f"sentinel      {SNS[1].id} (handover 1)" in capsys.readouterr().out
    assert main([*handover, "standing", *hospitals.options(2)]) == 0
    assert f"signed        handover 1 to {SNS[1].id} after block 3" in capsys.readouterr().out


def test_signatures_on_copies_of_the_file_are_counted_together(hospitals: Hospitals, tmp_path: Path) -> None:
    first, second = tmp_path / "first.bin", tmp_path / "second.bin"
    propose_handover(hospitals.sn(0), SNS[2].id, None, first)
    shutil.copy(first, second)
    sign_handover(hospitals.sn(1), first)
    progress = sign_handover(hospitals.sn(2), second)
    assert set(progress.signers) == {SNS[0].id, SNS[2].id}
    done = apply_handover(hospitals.sn(2), [first, second])
    assert set(done.signers) == {name.id for name in SNS}
    assert done.has_majority


def test_while_its_sn_runs_nothing_is_signed(hospitals: Hospitals, tmp_path: Path) -> None:
    async def work() -> None:
        ledger, store = hospitals.open_sentinel()
        await ledger.start()
        with pytest.raises(ConfigurationError, match="in use by another process: stop that one"):
            propose_handover(hospitals.sn(0), None, None, tmp_path / "handover.bin")
        await ledger.stop()
        store.close()

    asyncio.run(work())


def test_what_operators_get_wrong_is_one_clear_line(hospitals: Hospitals, tmp_path: Path) -> None:
    file = tmp_path / "handover.bin"
    with pytest.raises(ConfigurationError, match="sl0 is not registered; expected one of: spiffe://org0"):
        propose_handover(hospitals.sn(0), member(0).id, None, file)
    stranger = StoppedSn(data=hospitals.sn(0).data, genesis=hospitals.sn(0).genesis, sign_key=tmp_path / "stranger.key")
    stranger.sign_key.write_bytes(key_of(member(1)).pem())
    stranger.sign_key.chmod(0o600)
    with pytest.raises(ConfigurationError, match="is no registered SN's at block 3: give --sign-key"):
        propose_handover(stranger, SNS[0].id, None, file)
    empty = StoppedSn(data=tmp_path, genesis=hospitals.sn(0).genesis, sign_key=hospitals.sn(0).sign_key)
    with pytest.raises(ConfigurationError, match="holds no ledger: give --data"):
        read_standing(empty)
    assert not file.exists()
    file.write_bytes(b"something else")
    with pytest.raises(ConfigurationError, match="is no handover as `swarm network handover propose` makes it"):
        load_handover(file)
    propose_handover(hospitals.sn(0), SNS[1].id, None, tmp_path / "one.bin")
    other = propose_handover(hospitals.sn(1), SNS[1].id, 2, tmp_path / "two.bin")
    with pytest.raises(ConfigurationError, match="holds another handover: choose another name"):
        save_handover(tmp_path / "one.bin", other.signed)
    with pytest.raises(ConfigurationError, match="these files are of different handovers"):
        apply_handover(hospitals.sn(1), [tmp_path / "one.bin", tmp_path / "two.bin"])
