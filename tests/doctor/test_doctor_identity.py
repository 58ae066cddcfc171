"""The check of our own certificate, key and CA: each fault by itself, and no fault hides another."""

from pathlib import Path

import pytest
from doctor_world import DAY_MS, A, B, World, advises, name, only, pick
from msgspec.structs import replace

from swarmlearning.clock import system_clock
from swarmlearning.doctor.credentials import Paths, check_identity
from swarmlearning.doctor.findings import Finding, Verdict
from swarmlearning.types import Role


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def look(paths: Paths, host_ip: str = "", days: int = 0) -> tuple[Finding, ...]:
    return check_identity(paths, host_ip, system_clock() + days * DAY_MS).findings


def test_an_identity_in_order_is_told_with_its_end_and_can_be_used(world: World) -> None:
    found = check_identity(world.paths(), "", system_clock())
    assert found.source is not None
    assert {f.verdict for f in found.findings} == {Verdict.OK}
    assert "names operator@a.example; valid until" in found.findings[0].text
    assert "operator of the network net" in found.findings[-1].text


@pytest.mark.parametrize(("left", "verdict"), [(31, Verdict.OK), (29, Verdict.WARNING), (-1, Verdict.PROBLEM)])
def test_the_end_of_a_certificate_is_warned_of_from_thirty_days_on(world: World, left: int, verdict: Verdict) -> None:
    found = look(world.paths(), days=365 - left)
    assert only(found, subject="operator.cert.pem").verdict is verdict
    assert only(found, subject="CA certificate").verdict is Verdict.OK
    assert advises(found)


def test_an_expired_certificate_cannot_be_used(world: World) -> None:
    assert check_identity(world.paths(), "", system_clock() + 366 * DAY_MS).source is None


def test_a_clock_that_is_behind_is_suspected_of_a_certificate_from_the_future(world: World) -> None:
    found = look(world.paths(), days=-10)
    assert "not valid before" in only(found, subject="operator.cert.pem").text
    assert "clock" in only(found, subject="operator.cert.pem").advice


def test_the_end_of_the_ca_is_told_too(world: World) -> None:
    world.operator = world.issue(name(A, Role.OPERATOR), 1_000)
    found = look(world.paths(), days=390)
    assert "expires in" in only(found, subject="CA certificate", verdict=Verdict.WARNING).text


def test_the_ca_of_another_organisation_is_told(world: World) -> None:
    other = world.issue(name(B, Role.SL))
    found = look(replace(world.paths(), cacert=str(other.issuer)))
    assert "none of the 1 authorities of a.example" in only(found, verdict=Verdict.PROBLEM).text


def test_the_key_of_another_certificate_is_told(world: World) -> None:
    other = world.issue(name(B, Role.SL))
    found = only(look(replace(world.paths(), key=str(other.key))), verdict=Verdict.PROBLEM)
    assert "is not the key of certificate" in found.text
    assert "issued together" in found.advice


def test_a_key_that_others_may_read_is_a_problem_told_once_and_a_group_is_not(world: World) -> None:
    world.operator.key.chmod(0o644)
    found = only(look(world.paths()), verdict=Verdict.PROBLEM)
    assert f"chmod 600 {world.operator.key}" in found.text
    world.operator.key.chmod(0o640)
    assert "its group may read it too" in only(look(world.paths()), subject="operator.key.pem").text
    world.operator.key.chmod(0o660)
    assert only(look(world.paths()), subject="operator.key.pem").verdict is Verdict.WARNING


def test_a_ca_file_that_others_may_replace_is_warned_of(world: World) -> None:
    world.operator.issuer.chmod(0o666)
    found = only(look(world.paths()), verdict=Verdict.WARNING)
    assert "every user of this machine may replace it" in found.text


def test_each_missing_file_is_told_by_itself(world: World, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    found = pick(look(Paths(cert=gone, key=gone, cacert=gone)), verdict=Verdict.PROBLEM)
    assert [f.subject.split()[0] for f in found] == ["certificate", "key", "CA"]
    assert all(f.text.startswith("cannot be read (No such file") for f in found)


def test_what_is_no_certificate_or_no_nodes_is_told(world: World) -> None:
    for wrong in (world.operator.key, world.operator.issuer):
        found = look(replace(world.paths(), cert=str(wrong)))
        assert pick(found, subject=f"certificate {wrong}", verdict=Verdict.PROBLEM)


def test_a_leaf_given_as_ca_is_told(world: World) -> None:
    found = look(replace(world.paths(), cacert=str(world.operator.certificate)))
    assert "may not issue certificates" in only(found, subject="CA certificate").text


def test_what_was_not_given_is_named(world: World) -> None:
    found = only(look(Paths(cert=str(world.operator.certificate))), subject="identity")
    assert found.verdict is Verdict.PROBLEM
    assert "--key (SWARM_ID_KEY), --cacert or --capath" in found.text


def test_a_directory_of_cas_will_do_if_ours_is_in_it(world: World, tmp_path: Path) -> None:
    directory = tmp_path / "cas"
    directory.mkdir()
    theirs, ours = world.issue(name(B, Role.SL)).issuer, world.operator.issuer
    (directory / theirs.name).write_bytes(theirs.read_bytes())
    paths = replace(world.paths(), cacert="", capath=str(directory))
    assert "none of the 1 authorities" in look(paths)[-1].text
    (directory / ours.name).write_bytes(ours.read_bytes())
    assert look(paths)[-1].verdict is Verdict.OK


def test_a_host_that_a_nodes_certificate_does_not_name_is_warned_of(world: World) -> None:
    made = world.issue(name(A, Role.SL), hosts=["sl.a.example", "10.0.0.1"])
    paths = Paths(cert=str(made.certificate), key=str(made.key), cacert=str(made.issuer))
    assert pick(look(paths, "10.0.0.1"), verdict=Verdict.WARNING) == []
    found = only(look(paths, "10.0.0.2"), verdict=Verdict.WARNING)
    assert "names sl.a.example, 10.0.0.1, not --host-ip 10.0.0.2" in found.text
    assert pick(look(world.paths(), "10.0.0.2"), verdict=Verdict.WARNING) == [], "an operator listens nowhere"
