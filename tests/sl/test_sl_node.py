"""The SL process's part: programs' files, one program a contract, what is left behind. Spec: docs/spec/control.md."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from sl_world import CONTRACT, SETTINGS, address, model, name, peer, training

from swarmlearning.clock import system_clock
from swarmlearning.contracts.messages import Leave, Payload, Tx
from swarmlearning.contracts.records import Manifested, Peer, PeerState, Progress
from swarmlearning.encoding import decode, encode
from swarmlearning.errors import ConfigurationError, Refused, SwarmError, WaitExpired
from swarmlearning.identity.authority import create_ca, issue_certificate
from swarmlearning.identity.signing import SigningKey
from swarmlearning.identity.source import PemSource
from swarmlearning.parameters.manifest import lay_out
from swarmlearning.sl import participation as participation_module
from swarmlearning.sl.control import CONTROL_VERSION, Open
from swarmlearning.sl.journal import Journals
from swarmlearning.sl.node import SlConfig, SlNode, keep_manifest, map_program_file, run_small
from swarmlearning.sl.offering import promise
from swarmlearning.sl.participation import Participation
from swarmlearning.sl.store import ResultStore
from swarmlearning.sl.trainings import Trainings
from swarmlearning.sn.api import CALL_CONTRACT, CALL_STATUS, CALL_SUBMIT, Status, Submitted
from swarmlearning.sn.client import SnClient, Submitter
from swarmlearning.transport.api import Address, Caller
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import Code, Endpoint, Role

SIZE = 4096


def test_a_programs_file_is_mapped(tmp_path: Path) -> None:
    (tmp_path / "own").write_bytes(b"x" * SIZE)
    assert bytes(map_program_file(tmp_path, "own", SIZE)) == b"x" * SIZE
    (tmp_path / "empty").touch()
    assert len(map_program_file(tmp_path, "empty", 0)) == 0


def of_size(size: int) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(b"x" * size)


def link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def nothing(path: Path) -> None:
    assert not path.exists()


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a missing one": (nothing, "No such file"),
    "a smaller one": (of_size(SIZE - 1), "4095 bytes, the manifest says 4096"),
    "a larger one": (of_size(SIZE + 1), "4097 bytes"),
    "a symbolic link": (link, "symbolic link"),
    "a directory": (Path.mkdir, "expected a regular file"),
    "a pipe": (os.mkfifo, "expected a regular file"),
}


@pytest.mark.parametrize("what", FILES)
@pytest.mark.timeout(20)
def test_another_file_than_agreed_is_refused(tmp_path: Path, what: str) -> None:
    """C-8, C-9."""
    make, said = FILES[what]
    make(tmp_path / "own")
    with pytest.raises(ConfigurationError, match=said):
        map_program_file(tmp_path, "own", SIZE)


@pytest.mark.parametrize("file", ["../own", "/etc/passwd", "", ".", "..", "a/b", "nul\0", "x" * 256])
def test_only_a_plain_name_is_a_file_name(tmp_path: Path, file: str) -> None:
    """C-9."""
    inner = tmp_path / "exchange"
    inner.mkdir()
    (tmp_path / "own").write_bytes(b"x" * SIZE)
    with pytest.raises(ConfigurationError, match="expected a plain file name"):
        map_program_file(inner, file, SIZE)


class OneSn:
    """An SN that knows one contract and takes every transaction."""

    def __init__(self) -> None:
        self.submitted: list[str] = []
        self.farewells: list[bytes] = []
        """Every `Leave` that came, whether it was ordered or not."""
        self.orders = True
        """Whether a `Leave` is ordered; else, once `late` is set, it is said that this takes too long."""
        self.late = asyncio.Event()
        self.run = 1
        self.peers: tuple[Peer, ...] = ()
        self.calls = {CALL_CONTRACT: self._contract, CALL_STATUS: self._status, CALL_SUBMIT: self._submit}
        self.streams: dict[str, Any] = {}

    async def _contract(self, caller: Caller, body: bytes) -> bytes:
        manifest, _ = model(SIZE // 4)
        record = training(peers=self.peers, run=self.run)
        return encode(replace(record, manifest=Manifested(hash=manifest.hash, size=manifest.size)))

    async def _status(self, caller: Caller, body: bytes) -> bytes:
        sn = name(0, Role.SN).id
        return encode(
            Status(
                node=sn,
                network="testnet",
                sentinel=sn,
                height=1,
                transactions=0,
                app_hash=b"",
                time_ms=0,
                clock_ms=0,
                problem="",
                version="0",
            )
        )

    async def _submit(self, caller: Caller, body: bytes) -> bytes:
        message = decode(decode(body, Tx).payload, Payload).message
        if isinstance(message, Leave):
            self.farewells.append(body)
            if not self.orders:
                await self.late.wait()
                raise WaitExpired("the transaction was not committed here within 30 s: the sentinel has not answered")
        self.submitted.append(type(message).__name__)
        return encode(Submitted(height=1, code=Code.OK, log=""))


def request(file: str = "own", **changes: Any) -> Open:
    manifest, _ = model(SIZE // 4)
    made = Open(
        version=CONTROL_VERSION,
        program="train.py",
        contract=CONTRACT,
        settings=SETTINGS,
        min_peers=2,
        weight=1,
        restored=False,
        manifest=encode(manifest),
        file=file,
    )
    return replace(made, **changes)


def with_node(tmp: Path, work: Callable[[SlNode, OneSn], Coroutine[Any, Any, None]]) -> None:
    """Run `work` with an SL whose SN is on a network in memory."""

    async def go() -> None:
        authority = create_ca(tmp / "ca", "org0.example", at_ms=system_clock())
        issued = issue_certificate(authority, name(0), ["127.0.0.1"], tmp / "id", at_ms=system_clock())
        identity = PemSource(issued.certificate, issued.key, cacert=issued.issuer)
        config = SlConfig(
            data=tmp / "data",
            control=tmp / "control",
            exchange=tmp / "exchange",
            host="127.0.0.1",
            port=0,
            sn=Endpoint(host="sn", port=1),
            wait_max_s=60,
            exit_when_done=False,
        )
        node, sn, network = SlNode(config, identity), OneSn(), MemoryNetwork()
        sn_name = name(0, Role.SN)
        network.serve(sn_name, config.sn, sn)
        node._sn = SnClient(network.client(name(0)), Address(node=sn_name.id, endpoint=config.sn))
        node._submitter = Submitter(node._sn, "testnet", SigningKey.create())
        node._endpoint = address(0).endpoint
        for file in ("own", "other"):
            (config.exchange / file).write_bytes(bytes(SIZE))
        try:
            await work(node, sn)
        finally:
            await node.stop()

    asyncio.run(go())


async def begun(node: SlNode, open_: Open) -> Participation:
    return await node._begin(open_)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event of its own
            await asyncio.sleep(0.001)


def own_of(participation: Participation) -> memoryview:
    assert participation.program.own is not None
    return participation.program.own


def test_sw72_an_sl_tells_others_of_the_service_by_which_it_is_reached_and_listens_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_sn(node: SlNode) -> None:
        raise WaitExpired("waited for the SN")

    monkeypatch.setattr(SlNode, "_find_sn", no_sn)

    async def work(node: SlNode, sn: OneSn) -> None:
        service = Endpoint(host="proxy.example", port=443)
        for reached in (None, service):
            one = SlNode(replace(node.config, reached=reached), node._identity)
            with pytest.raises(WaitExpired):
                await one.start()
            listens = Endpoint(host="127.0.0.1", port=one._server._sockets[0].getsockname()[1])
            assert one._endpoint == (reached or listens)
            await one.stop()

    with_node(tmp_path, work)


def test_one_program_at_a_time_takes_part_in_a_contract(tmp_path: Path) -> None:
    """C-3."""

    async def work(node: SlNode, sn: OneSn) -> None:
        first = await begun(node, request())
        with pytest.raises(ConfigurationError, match="another program already takes part in heart"):
            await begun(node, request("other"))
        await begun(node, request("other", contract="lung"))
        await first.leave("done")
        assert sn.submitted == []  # it had not asked to enrol
        await begun(node, request("other"))

    with_node(tmp_path, work)


def test_the_next_program_keeps_what_the_last_one_promised(tmp_path: Path) -> None:
    """R-16: its offer stands until its round is over, though another program has the contract now."""

    async def work(node: SlNode, sn: OneSn) -> None:
        first = await begun(node, request())
        first.desk.run = 1
        first.desk.offer = await promise(first.desk, own_of(first))
        await first.leave("done")
        assert sn.submitted == ["Leave"]
        second = await begun(node, request("other"))
        assert second.desk.offer is first.desk.offer
        assert node._trainings.desks[CONTRACT] is second.desk
        assert len(node._trainings.running) == 1

    with_node(tmp_path, work)


def test_c6_the_next_program_enrols_only_when_the_ledger_has_heard_that_the_last_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `Leave` that came after its enrolment would throw it out."""
    monkeypatch.setattr(participation_module, "RETRY_S", 0.01)

    async def work(node: SlNode, sn: OneSn) -> None:
        sn.peers = (peer(0),)
        first = await begun(node, request())
        await first.open()
        sn.submitted, sn.orders = [], False
        parting = asyncio.ensure_future(first.part("died"))
        await until(lambda: sn.farewells)
        second = await begun(node, request("other"))  # at once, and not "another program already takes part"
        opening = asyncio.ensure_future(second.open())
        sn.late.set()
        with pytest.raises(Refused, match="the sentinel has not answered"):
            await parting
        await until(lambda: len(sn.farewells) >= 3)
        assert not opening.done()
        assert sn.submitted == []
        assert "this peer's program before has left" in second.explain()
        sn.orders = True
        await asyncio.wait_for(opening, 10)
        assert sn.submitted == ["Leave", "Enrol"]
        assert set(sn.farewells) == {sn.farewells[0]}  # the same bytes, which are ordered once at most

    with_node(tmp_path, work)


def test_c6_who_dies_while_it_waits_for_that_hands_the_wait_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(participation_module, "RETRY_S", 0.01)

    async def work(node: SlNode, sn: OneSn) -> None:
        sn.peers = (peer(0),)
        first = await begun(node, request())
        await first.open()
        sn.submitted, sn.orders = [], False
        sn.late.set()
        with pytest.raises(Refused, match="the sentinel has not answered"):
            await first.part("died")
        second = await begun(node, request("other"))
        opening = asyncio.ensure_future(second.open())
        await until(lambda: len(sn.farewells) >= 2)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        await second.part("died too")
        (tmp_path / "exchange" / "third").write_bytes(bytes(SIZE))
        third = await begun(node, request("third"))
        sn.orders = True
        await third.open()
        assert sn.submitted == ["Leave", "Enrol"]

    with_node(tmp_path, work)


def test_the_programs_file_goes_when_the_training_is_over(tmp_path: Path) -> None:
    """C-12: also where the program died and could not delete it."""

    async def work(node: SlNode, sn: OneSn) -> None:
        participation = await begun(node, request())
        assert (tmp_path / "exchange" / "own").exists()
        await participation.leave("died")
        await asyncio.wait_for(node._trainings.running[CONTRACT], 5)
        assert not (tmp_path / "exchange" / "own").exists()
        assert (tmp_path / "exchange" / "other").exists()

    with_node(tmp_path, work)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"contract": "no spaces"}, ConfigurationError, "contract name"),
        ({"manifest": b"garbage"}, ConfigurationError, "Manifest"),
        ({"file": "../own"}, ConfigurationError, "plain file name"),
        ({"file": "missing"}, ConfigurationError, "same SWARM_EXCHANGE_DIR"),
        (
            {"settings": replace(SETTINGS, merge_method="krum", merge_options=(("trim", 1),))},
            ConfigurationError,
            "trim",
        ),
        ({"settings": replace(SETTINGS, merge_method="maen")}, ConfigurationError, "did you mean 'mean'"),
    ],
)
def test_a_malformed_open_is_explained_and_leaves_nothing(
    tmp_path: Path, changes: dict[str, Any], error: type[SwarmError], said: str
) -> None:
    async def work(node: SlNode, sn: OneSn) -> None:
        with pytest.raises(error, match=said):
            await begun(node, request(**changes))
        assert node._trainings.desks == {}
        assert node._trainings.running == {}
        await begun(node, request())  # the next one is welcome

    with_node(tmp_path, work)


# --- what goes on without a program ---------------------------------------------------------------------------------


def finish(node: SlNode, run: int = 1) -> None:
    """As if the program had told its SL that it has finished, in `run`."""
    node._journals.begin(CONTRACT, run, request())
    entry = node._journals.get(CONTRACT, run)
    assert entry is not None
    node._journals.finish(entry, Progress(epoch=5), memoryview(bytes(SIZE)))


def test_an_sl_goes_on_for_a_program_that_had_finished(tmp_path: Path) -> None:
    """R-18: also with --exit-when-done it is busy with it."""

    async def work(node: SlNode, sn: OneSn) -> None:
        finish(node)
        sn.peers = (replace(peer(0), state=PeerState.FINISHED),)
        await node._trainings.resume()
        participation = node._trainings.participations[CONTRACT]
        assert node._trainings.is_busy
        assert not participation.attended
        await until(lambda: participation.program.demand is not None)
        assert participation.program.demand is not None
        assert participation.program.demand.kind == "finish"
        assert participation.program.demand.progress == Progress(epoch=5)
        assert participation.desk.run == 1
        assert "Enrol" not in sn.submitted
        assert participation.program.own is not None
        assert bytes(participation.program.own) == bytes(SIZE)

    with_node(tmp_path, work)


@pytest.mark.parametrize("run", [0, 1])
def test_a_program_takes_over_what_its_sl_did_alone(tmp_path: Path, run: int) -> None:
    """C-17: the one that comes back, and a new one."""

    async def work(node: SlNode, sn: OneSn) -> None:
        finish(node)
        sn.peers = (replace(peer(0), state=PeerState.FINISHED),)
        await node._trainings.resume()
        alone = node._trainings.participations[CONTRACT]
        await until(lambda: alone.program.demand is not None)
        alone.desk.offer = await promise(alone.desk, own_of(alone))
        taken = await begun(node, request("other", run=run, adopted=-1))
        assert alone.ended.is_set()
        assert taken.desk.offer is alone.desk.offer
        await taken.open()
        assert ("Enrol" in sn.submitted) is (run == 0)
        entry = node._journals.get(CONTRACT, 1)
        assert entry is not None
        assert entry.finished is (run == 1)
        assert entry.progress == Progress(epoch=5)
        if run:
            await taken.part("died")  # it had finished: its SL goes on for it once more
            assert not taken.ended.is_set()
            assert not taken.attended
        else:
            await taken.part("died")
            assert taken.ended.is_set()
            assert "Leave" in sn.submitted

    with_node(tmp_path, work)


def test_a_run_that_is_over_is_forgotten(tmp_path: Path) -> None:
    """R-21: the contract was reset while the SL was down."""

    async def work(node: SlNode, sn: OneSn) -> None:
        finish(node)
        sn.run = 2
        await node._trainings.resume()
        participation = node._trainings.participations[CONTRACT]
        await asyncio.wait_for(participation.ended.wait(), 5)
        assert node._journals.entries() == ()
        assert "Enrol" not in sn.submitted

    with_node(tmp_path, work)


@pytest.mark.parametrize(
    "changes", [{"weight": 2}, {"min_peers": 3}, {"settings": replace(SETTINGS, sync_frequency=2)}]
)
def test_a_program_that_comes_back_otherwise_enrols_anew(tmp_path: Path, changes: dict[str, Any]) -> None:
    """C-17: only an enrolment that still says what the program says stands."""

    async def work(node: SlNode, sn: OneSn) -> None:
        sn.peers = (peer(0),)
        same = await begun(node, request(run=1))
        await same.open()
        assert sn.submitted == []
        await same.leave("")
        other = await begun(node, request("other", run=1, **changes))
        await other.open()
        assert "Enrol" in sn.submitted

    with_node(tmp_path, work)


def test_a_program_of_a_run_that_was_reset_is_told(tmp_path: Path) -> None:
    async def work(node: SlNode, sn: OneSn) -> None:
        sn.run = 3
        participation = await begun(node, request(run=2))
        with pytest.raises(Refused, match="run 3 has begun, this program is in run 2"):
            await participation.open()

    with_node(tmp_path, work)


def test_an_sl_that_stops_leaves_its_programs_their_files(tmp_path: Path) -> None:
    """C-17: they go on with the next process; it deletes only what a program that died with it had left (C-12)."""

    async def work(node: SlNode, sn: OneSn) -> None:
        await (await begun(node, request())).open()
        await node._trainings.stop()
        assert (tmp_path / "exchange" / "own").exists()
        assert "Leave" not in sn.submitted
        again = Trainings(node._make, node._journals, lambda file: (tmp_path / "exchange" / file).unlink())
        manifest, own = model(SIZE // 4)
        await again.begin(request("own", run=1), manifest, own)
        assert (tmp_path / "exchange" / "own").exists()
        await again.stop()
        last = Trainings(node._make, node._journals, lambda file: (tmp_path / "exchange" / file).unlink())
        await last.begin(request("other"), manifest, own)
        assert not (tmp_path / "exchange" / "own").exists()
        await last.stop()

    with_node(tmp_path, work)


def test_what_a_small_model_needs_is_computed_at_once_and_what_waits_for_the_disk_is_not(tmp_path: Path) -> None:
    threads: list[bool] = []

    def note() -> int:
        threads.append(threading.current_thread() is threading.main_thread())
        return 7

    class Noting(ResultStore):
        def save_nothing(self) -> int:
            return note()

    class NotingJournals(Journals):
        def write_nothing(self) -> int:
            return note()

    async def work() -> None:
        store = Noting(tmp_path, name(0).id)
        journals = NotingJournals(tmp_path)
        for function in (note, store.save_nothing, journals.write_nothing):
            assert await run_small(function) == 7

    asyncio.run(work())
    assert threads == [True, False, False]


def test_the_manifest_is_not_written_through_a_link_that_a_program_has_put_in_its_place(tmp_path: Path) -> None:
    """The exchange directory is a sandboxed program's, too: by a link it would write wherever this SL may."""
    manifest = lay_out({"w": np.zeros(4, np.float32)})
    encoded = encode(manifest)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    exchange = tmp_path / "exchange"
    exchange.mkdir()
    part = exchange / f"manifest-{manifest.hash.hex()[:24]}.part"
    part.symlink_to(victim)
    with pytest.raises(ConfigurationError, match="cannot be written: Too many levels of symbolic links"):
        keep_manifest(exchange, encoded, manifest)
    assert victim.read_text() == "precious"
    part.unlink()
    keep_manifest(exchange, encoded, manifest)
    assert part.with_suffix(".bin").read_bytes() == encoded
