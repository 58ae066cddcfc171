"""Parts of the agent by themselves: journal, what pairs are run with, what trainings tell. docs/spec/swop.md."""

import logging
import os
import stat
from pathlib import Path

import pytest
from contracts_world import World, name_of
from msgspec.structs import replace
from swci_world import A, Swarm
from test_swop_logs import put

from swarmlearning.contracts.records import Training
from swarmlearning.errors import ConfigurationError
from swarmlearning.local.network import NETWORK
from swarmlearning.swop.journal import KEPT, Journal, Stage, make_id
from swarmlearning.swop.pairs import is_loopback, merge_variables, read_uid
from swarmlearning.swop.profile import Attribute, IdentityPart, PeerNode
from swarmlearning.swop.starting import find_address
from swarmlearning.swop.trainings import describe_progress, find_standings, has_joined, has_merged, is_done
from swarmlearning.types import Endpoint, Role, RunnerName, TrustDomain

# --- the journal -------------------------------------------------------------


def test_sw5_the_journal_is_its_owners_alone(tmp_path: Path) -> None:
    """It holds the variables of programs, passwords among them."""
    before = os.umask(0)
    try:
        put(tmp_path / "data", "first", 1)
    finally:
        os.umask(before)
    data = tmp_path / "data"
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (data, *data.rglob("*")) if path.suffix != ".log"}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


def test_sw5_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    entry = put(tmp_path, "first", 1, pairs=2)
    assert Journal(tmp_path).entries() == (entry,)
    changed = replace(entry, description="Ende \u2028 gut", pairs=entry.pairs[:1])
    journal = Journal(tmp_path)
    journal.save(changed)
    assert Journal(tmp_path).entries() == (changed,) == journal.entries()


@pytest.mark.parametrize("damage", [b"", b"{", b'{"id": "first"}', b"\xff" * 10, b"[" * 100_000])
def test_sw5_a_damaged_entry_is_put_aside_and_the_others_count(
    tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    put(tmp_path, "first", 1)
    entry = put(tmp_path, "second", 2)
    (tmp_path / "journal" / "first.json").write_bytes(damage)
    with caplog.at_level(logging.WARNING):
        assert Journal(tmp_path).entries() == (entry,)
    assert "first.damaged" in caplog.text
    assert (tmp_path / "journal" / "first.damaged").read_bytes() == damage
    assert Journal(tmp_path).entries() == (entry,)


def test_sw5_an_entry_under_anothers_name_does_not_count(tmp_path: Path) -> None:
    put(tmp_path, "first", 1)
    (tmp_path / "journal" / "first.json").rename(tmp_path / "journal" / "other.json")
    assert Journal(tmp_path).entries() == ()


def test_sw5_the_newest_that_are_over_are_kept_and_all_that_are_not(tmp_path: Path) -> None:
    put(tmp_path, "at-work", 0, pairs=1)
    for number in range(1, KEPT + 4):
        put(tmp_path, f"over-{number}", number, over=True)
    journal = Journal(tmp_path)
    journal.prune()
    kept = {"at-work", *(f"over-{number}" for number in range(4, KEPT + 4))}
    assert {entry.id for entry in journal.entries()} == kept
    assert {path.name for path in (tmp_path / "logs").iterdir()} == kept
    assert {entry.id for entry in Journal(tmp_path).entries()} == kept


def test_sw5_what_was_never_allowed_pushes_out_no_logs(tmp_path: Path) -> None:
    """The attack: any member assigns and resets a task, again and again, until the logs of a training are gone."""
    ran = put(tmp_path, "ran", 1, over=True)
    journal = Journal(tmp_path)
    journal.save(replace(ran, approved_by="policy rule 1234"))
    for number in range(2, 2 * KEPT):
        put(tmp_path, f"asked-{number}", number, over=True)
    journal = Journal(tmp_path)
    journal.prune()
    assert (tmp_path / "logs" / "ran").is_dir()
    assert len(journal.entries()) == KEPT + 1
    assert journal.get("ran") is not None


def test_sw5_pairs_of_what_was_cleaned_up_are_known_no_more(tmp_path: Path) -> None:
    put(tmp_path, "first", 1, pairs=1, over=True)
    put(tmp_path, "second", 2, pairs=1, stage=Stage.ENDED)
    assert Journal(tmp_path).pair_ids() == {"second-pair-0"}


def test_names_of_runners_cannot_lead_out_of_the_directory() -> None:
    for name in ("../../etc/passwd", "a/b", "." * 100, "ward.of/heart"):
        made = make_id(RunnerName(name), 3)
        assert "/" not in made
        assert not made.startswith(".")
        assert made.rpartition("-")[0].endswith("-3")


# --- what pairs are run with -------------------------------------------------------------


def test_sw7_a_later_layer_counts_and_can_leave_out() -> None:
    task = (("EPOCHS", "3"), ("DATA", "/d"), ("PROXY", "p"))
    profile = (("EPOCHS", "5"), ("PROXY", None), ("TOKEN", "t"))
    merged = dict(merge_variables(task, profile))
    assert merged == {"EPOCHS": "5", "DATA": "/d", "PROXY": None, "TOKEN": "t"}
    assert is_loopback((("SWARM_LOOPBACK", " True "),))
    assert not is_loopback((("SWARM_LOOPBACK", None),))
    assert not is_loopback(merge_variables((("SWARM_LOOPBACK", "TRUE"),), (("SWARM_LOOPBACK", "no"),)))


def node_with(*attributes: Attribute) -> PeerNode:
    return PeerNode(idx=3, line=1, identity=attributes)


def certificate(path: str, kind: str = "BIND", sub_path: str = "") -> Attribute:
    assert kind in ("BIND", "VOLUME")
    return Attribute(
        part=IdentityPart.CERT, kind="BIND" if kind == "BIND" else "VOLUME", source=path, target="/c", sub_path=sub_path
    )


def test_sw7_the_uid_is_what_the_sls_certificate_says(swarm: Swarm, tmp_path: Path) -> None:
    paths = swarm.identity(Role.SL, A, "uid-of-tests")
    assert paths.cert is not None
    uid = read_uid(node_with(certificate(paths.cert)), A, NETWORK, tmp_path)
    assert uid == f"spiffe://{A}/{NETWORK}/sl/uid-of-tests"
    volume = tmp_path / "certs"
    volume.mkdir()
    (volume / "a.pem").write_bytes(Path(paths.cert).read_bytes())
    assert read_uid(node_with(certificate("certs", "VOLUME", "a.pem")), A, NETWORK, tmp_path) == uid
    with pytest.raises(ConfigurationError, match=r"expected an sl of b\.example"):
        read_uid(node_with(certificate(paths.cert)), TrustDomain("b.example"), NETWORK, tmp_path)
    with pytest.raises(ConfigurationError, match="in the network other"):
        read_uid(node_with(certificate(paths.cert)), A, "other", tmp_path)
    agent = swarm.identity(Role.SWOP, A, "agent-of-tests")
    with pytest.raises(ConfigurationError, match="expected an sl"):
        read_uid(node_with(certificate(str(agent.cert))), A, NETWORK, tmp_path)
    with pytest.raises(ConfigurationError, match="node 3: no CERT"):
        read_uid(node_with(), A, NETWORK, tmp_path)
    with pytest.raises(ConfigurationError, match="node 3: the identity of its SL cannot be read"):
        read_uid(node_with(certificate("/nowhere")), A, NETWORK, tmp_path)


def test_this_hosts_address_is_the_one_on_the_way_to_the_sn() -> None:
    assert find_address(Endpoint(host="127.0.0.1", port=30304)) == "127.0.0.1"
    with pytest.raises(ConfigurationError, match="give --host-ip"):
        find_address(Endpoint(host="no-such-host.invalid", port=1))


# --- what trainings tell -------------------------------------------------------------


def progress(training: Training, index: int) -> str:
    return describe_progress(training, name_of(index).id)


def test_sw8_an_sl_takes_part_when_something_of_it_changed() -> None:
    """One that stood there from before has not joined by that."""
    world = World()
    uid = name_of(0).id
    assert find_standings([world.training], uid) == ()
    world.enrol(0, min_peers=2)
    before = find_standings([world.training], uid)
    assert [standing.contract for standing in before] == [world.training.name]
    assert has_joined(world.training, uid, ())
    assert not has_joined(world.training, uid, before)
    assert progress(world.training, 0) == f"waits for 1 more peer to join {world.training.name}"
    world.enrol(1, min_peers=2)
    assert progress(world.training, 0) == f"round 0 of {world.training.name}"
    assert not has_joined(world.training, uid, before)
    assert not is_done(world.training, uid)
    assert is_done(world.training, name_of(9).id)


def test_sw8_what_contributed_to_a_round_has_read_data() -> None:
    world = World()
    uid = name_of(0).id
    world.enrol(0, 1)
    before = find_standings([world.training], uid)
    world.check_in(0, 1)
    assert not has_merged(world.training, uid, before)
    world.finalise()
    assert has_merged(world.training, uid, before)
    assert not has_merged(world.training, uid, find_standings([world.training], uid))
    again = find_standings([replace(world.training, run=world.training.run - 1)], uid)
    assert has_merged(world.training, uid, again), "what an earlier run had counts no more"
    assert not has_merged(world.training, name_of(7).id, ())


def test_sw8_a_training_that_is_complete_leaves_nothing_to_do() -> None:
    world = World()
    uid = name_of(0).id
    world.enrol(0, 1)
    world.play_round([0, 1])
    world.must(0, world.finishing())
    assert "has finished; waits for the other peers" in progress(world.training, 0)
    world.complete([0, 1])
    assert is_done(world.training, uid)
    assert progress(world.training, 0) == f"the training {world.training.name} is complete"
