"""`examine` against nodes that answer over real TLS, in order and in every kind of disorder."""

import asyncio
import socket
from pathlib import Path

import pytest
from doctor_world import HOST, A, B, World, advises, name, only, pick
from msgspec.structs import replace

from swarmlearning.clock import system_clock
from swarmlearning.contracts.records import Manifested, Training
from swarmlearning.doctor.disk import GIB
from swarmlearning.doctor.examine import Plan, examine
from swarmlearning.doctor.findings import Report, Topic, Verdict
from swarmlearning.doctor.ports import is_own_address
from swarmlearning.identity.pem import read_certificates
from swarmlearning.identity.verify import fingerprints
from swarmlearning.types import ContractName, Endpoint, Role


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def look(world: World, *, own_ahead_ms: int = 0, free: int = 100 * GIB, **plan: object) -> Report:
    """The report of organisation A's operator; `own_ahead_ms` moves the operator's clock."""

    async def story() -> Report:
        async with world.running():
            made = Plan(paths=world.paths(), sn=world.api, timeout_s=5.0, **plan)  # type: ignore[arg-type]  # any option
            return await examine(made, clock=lambda: system_clock() + own_ahead_ms, free=lambda _: free)

    return asyncio.run(story())


def test_a_network_in_order_is_all_ok_and_every_node_is_named(world: World) -> None:
    report = look(world)
    assert report.verdict is Verdict.OK
    assert {f.subject for f in pick(report, topic=Topic.MEMBERS)} == {
        "SN sn@a.example",
        "SL sl@a.example",
        "SN sn@b.example",
        "SL sl@b.example",
    }
    sn = pick(report, topic=Topic.SN)
    assert f"{world.api}, version 0.1.0, height 7, last block 2 min ago" in sn[0].text
    assert sn[1].text == "follows the sentinel sn@b.example"
    assert "run the same minor release" in only(report, topic=Topic.VERSIONS, subject="other nodes").text
    assert only(report, topic=Topic.CLOCKS).subject == "SN sn@a.example, SL sl@a.example, SL sl@b.example"
    assert advises(report)


def test_where_validators_vote_an_sns_port_is_cometbfts_and_only_knocked_at(world: World) -> None:
    world.ledger = "cometbft"
    # Who listens there is CometBFT's affair: it finds that out itself.
    world.impostors[name(B, Role.SN)] = name(A, Role.SN)
    report = look(world)
    assert report.verdict is Verdict.OK
    assert pick(report, topic=Topic.SN)[1].text == "orders together with the others, 2 validators in all"
    assert only(report, topic=Topic.MEMBERS, subject="SN sn@b.example").text.endswith("its CometBFT's port is open")
    assert not pick(report, topic=Topic.PORTS, subject="registered SN sn@a.example")


def test_a_validator_that_is_not_reached_and_what_keeps_ours_from_making_blocks(world: World) -> None:
    world.ledger, world.problem = "cometbft", "1 of 2 validators are connected here"
    world.stopped = [name(B, Role.SN)]
    report = look(world)
    found = pick(report, verdict=Verdict.PROBLEM)
    assert [f.subject for f in found] == ["SN sn@a.example", "SN sn@b.example"]
    assert found[0].text == "makes no blocks: 1 of 2 validators are connected here"
    assert "nothing listens there" in found[1].text
    assert advises(report)


def test_a_stopped_sl_is_a_problem_that_names_it_and_its_address(world: World) -> None:
    world.stopped = [name(B, Role.SL)]
    report = look(world)
    assert report.verdict is Verdict.PROBLEM
    found = only(report, verdict=Verdict.PROBLEM)
    assert found.subject == "SL sl@b.example"
    assert f"not reached at {world.endpoints[name(B, Role.SL)]}: the connection was refused" in found.text
    assert "--without sl@b.example" in found.advice


def test_a_node_that_is_gone_for_good_is_left_out(world: World) -> None:
    world.stopped = [name(B, Role.SL)]
    report = look(world, without=("sl@b.example", "sl@c.example"))
    assert report.verdict is Verdict.WARNING
    assert only(report, topic=Topic.MEMBERS, subject="SL sl@b.example").verdict is Verdict.SKIPPED
    assert "no node of that name" in only(report, verdict=Verdict.WARNING).text


def test_a_silent_machine_is_given_up_after_the_time_given_and_the_others_are_told(world: World) -> None:
    async def story() -> Report:
        async with world.running():
            with socket.socket() as deaf:  # takes connections, never shakes hands
                deaf.bind((HOST, 0))
                deaf.listen()
                world.endpoints[name(B, Role.SL)] = Endpoint(host=HOST, port=deaf.getsockname()[1])
                return await examine(Plan(paths=world.paths(), sn=world.api, timeout_s=0.5))

    async def within() -> Report:
        return await asyncio.wait_for(story(), 10)

    report = asyncio.run(within())
    found = only(report, topic=Topic.MEMBERS, verdict=Verdict.PROBLEM)
    assert found.subject == "SL sl@b.example"
    assert "no connection or no answer in time" in found.text
    assert "firewall" in found.advice
    assert len(pick(report, topic=Topic.MEMBERS, verdict=Verdict.OK)) == 3


def test_another_node_at_a_registered_address_is_named(world: World) -> None:
    world.impostors = {name(B, Role.SL): name(B, Role.SL, "other")}
    found = only(look(world), topic=Topic.MEMBERS, verdict=Verdict.PROBLEM)
    assert found.subject == "SL sl@b.example"
    assert "spiffe://b.example/net/sl/other answers there" in found.text
    assert "not reached" not in found.text


def test_a_members_certificate_that_ends_soon_is_warned_of(world: World) -> None:
    world.days = {name(B, Role.SN): 5}
    found = only(look(world), verdict=Verdict.WARNING)
    assert found.subject == "SN sn@b.example"
    assert "expires in 4 days" in found.text
    assert "let b.example renew it" in found.advice


def test_an_sl_of_another_minor_release_is_warned_of(world: World) -> None:
    world.sl_version = "9.4.0"
    found = pick(look(world), topic=Topic.VERSIONS, verdict=Verdict.WARNING)
    assert [f.subject for f in found] == ["SL sl@a.example", "SL sl@b.example"]
    assert "9.4.0" in found[0].text


def test_an_sl_that_cannot_tell_its_version_is_of_an_older_release(world: World) -> None:
    world.sl_calls = False
    found = pick(look(world), topic=Topic.MEMBERS, verdict=Verdict.WARNING)
    assert len(found) == 2
    assert "an older release" in found[0].text


def test_the_clock_of_an_sl_that_is_off_is_a_problem_of_that_sl(world: World) -> None:
    world.sl_ahead_ms = -8_000
    found = pick(look(world), topic=Topic.CLOCKS, verdict=Verdict.PROBLEM)
    assert [f.subject for f in found] == ["SL sl@a.example", "SL sl@b.example"]
    assert "8.0 s behind this machine's clock" in found[0].text


def test_our_own_clock_that_is_off_differs_from_all_others_alike(world: World) -> None:
    found = pick(look(world, own_ahead_ms=3_000), topic=Topic.CLOCKS)
    assert [f.verdict for f in found] == [Verdict.WARNING] * 3
    assert all("3.0 s behind" in f.text and "if all others differ alike" in f.advice for f in found)


def test_an_sn_that_does_not_follow_says_why(world: World) -> None:
    world.problem = "block 8 is 9.0 s ahead of this node's clock"
    found = only(look(world), topic=Topic.SN, verdict=Verdict.PROBLEM)
    assert "does not follow the sentinel sn@b.example: block 8 is 9.0 s ahead" in found.text


def test_an_sn_that_is_not_there_is_told_once_and_what_hangs_on_it_is_skipped(world: World) -> None:
    async def story() -> Report:
        async with world.running():
            nobody = world.api
        return await examine(Plan(paths=world.paths(), sn=nobody))

    report = asyncio.run(story())
    found = only(report, verdict=Verdict.PROBLEM)
    assert found.subject == str(world.api)
    assert "not reached: the connection was refused" in found.text
    assert only(report, topic=Topic.MEMBERS).verdict is Verdict.SKIPPED
    assert advises(report)


@pytest.mark.parametrize(
    ("who", "told"),
    [
        (name(A, Role.SL), "SL sl@a.example answers there, expected an SN"),
        (name(A, Role.SN), "offers no call 'directory' here"),  # its port for other SNs
        (name(B, Role.SN), "its certificate does not hold"),
    ],
)
def test_an_address_that_is_not_our_sns_api_is_said_to_be_none(world: World, who: object, told: str) -> None:
    async def story() -> Report:
        async with world.running():
            return await examine(Plan(paths=world.paths(), sn=world.endpoints[who]))  # type: ignore[index]  # a name

    found = only(asyncio.run(story()), verdict=Verdict.PROBLEM)
    assert found.topic is Topic.SN
    assert told in found.text
    assert "--sn (SWARM_SN)" in found.advice


def test_a_certificate_of_ours_that_was_revoked_is_told_as_the_sn_says_it(world: World) -> None:
    world.revoked = fingerprints(read_certificates(world.operator.certificate, "certificate")[0])
    found = only(look(world), topic=Topic.SN)
    assert found.verdict is Verdict.PROBLEM
    assert "refused our certificate" in found.text
    assert "was revoked by a.example" in found.text


def test_an_unknown_name_is_told_as_such(world: World) -> None:
    report = asyncio.run(examine(Plan(paths=world.paths(), sn=Endpoint(host="no-such-host.invalid", port=1))))
    assert "the name no-such-host.invalid is not known here" in only(report, verdict=Verdict.PROBLEM).text


def test_each_training_is_told_with_what_it_waits_for_and_its_model_sets_the_space_wanted(
    world: World, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    training = Training(name=ContractName("heart"), creator=A, created_height=1)
    world.trainings = [
        training,
        replace(training, name=ContractName("lung"), manifest=Manifested(hash=b"", size=9 * GIB)),
    ]
    report = look(world, free=20 * GIB, directories=(("--data", tmp_path),))
    assert only(report, topic=Topic.TRAININGS, subject="heart").text == "run 1, uninitialized: nobody has enrolled yet"
    found = only(report, topic=Topic.DISK)
    assert found.verdict is Verdict.WARNING
    assert "20.0 GiB free, 36.0 GiB are wanted (4 times the largest model)" in found.text


# --- ports ------------------------------------------------------------------------------------------------------


def test_registered_nodes_of_our_own_at_this_machine_are_looked_for(world: World) -> None:
    world.stopped = [name(A, Role.SL)]
    report = look(world)
    assert only(report, topic=Topic.PORTS, subject="SN sn@a.example").verdict is Verdict.OK
    found = only(report, topic=Topic.PORTS, subject="SL sl@a.example")
    assert found.verdict is Verdict.PROBLEM
    assert f"no SL listens at {world.endpoints[name(A, Role.SL)]}" in found.text
    assert pick(report, topic=Topic.PORTS, subject="b.example") == [], "another organisation's are its own affair"


def test_a_port_that_another_node_has_is_told_with_who_has_it(world: World) -> None:
    async def story() -> Report:
        async with world.running():
            ours, theirs = world.endpoints[name(A, Role.SN)].port, world.endpoints[name(B, Role.SN)].port
            plan = Plan(
                paths=world.paths(), sn=world.api, sl_fs_port=ours, sn_p2p_port=theirs, sn_api_port=world.api.port
            )
            return await examine(plan)

    report = asyncio.run(story())
    assert "SN sn@a.example listens" in only(report, topic=Topic.PORTS, subject="--sl-fs-port").text
    assert "SN sn@b.example listens" in only(report, topic=Topic.PORTS, subject="--sn-p2p-port").text
    assert only(report, topic=Topic.PORTS, subject="--sn-api-port").verdict is Verdict.OK
    assert len(pick(report, topic=Topic.PORTS, verdict=Verdict.PROBLEM)) == 2


def test_a_port_that_a_stranger_has_is_told(world: World) -> None:
    async def story() -> Report:
        server = await asyncio.start_server(lambda _, writer: writer.close(), HOST, 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await examine(Plan(paths=world.paths(), sl_fs_port=port))

    found = only(asyncio.run(story()), topic=Topic.PORTS)
    assert found.verdict is Verdict.PROBLEM


def test_without_an_identity_only_whether_something_listens_is_told() -> None:
    async def story() -> Report:
        server = await asyncio.start_server(lambda _, writer: writer.close(), HOST, 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await examine(Plan(sl_fs_port=port, host_ip=HOST))

    report = asyncio.run(story())
    assert only(report, topic=Topic.PORTS, subject="--host-ip").verdict is Verdict.OK
    assert only(report, topic=Topic.PORTS, subject="--sl-fs-port").verdict is Verdict.WARNING


def test_a_port_at_which_nothing_listens_and_a_host_that_is_not_ours_are_problems() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))  # bound, not listening: nobody else gets it meanwhile
        report = asyncio.run(examine(Plan(sn_p2p_port=taken.getsockname()[1], host_ip=HOST)))
    found = only(report, topic=Topic.PORTS, subject="--sn-p2p-port")
    assert found.verdict is Verdict.PROBLEM
    assert "start `swarm sn`" in found.advice
    elsewhere = asyncio.run(examine(Plan(sn_p2p_port=1, host_ip="192.0.2.1")))
    assert only(elsewhere, topic=Topic.PORTS).text == "is no address of this machine"


def test_own_addresses_are_told_from_others() -> None:
    assert asyncio.run(is_own_address("localhost", 5))
    assert not asyncio.run(is_own_address("192.0.2.1", 5))
    assert not asyncio.run(is_own_address("x" * 300, 5))


def test_with_nothing_given_everything_is_skipped_with_how_to_have_it_checked() -> None:
    report = asyncio.run(examine(Plan()))
    assert report.verdict is Verdict.OK
    assert {f.topic for f in report.findings if f.verdict is Verdict.SKIPPED} == {
        Topic.IDENTITY,
        Topic.SN,
        Topic.PORTS,
        Topic.DISK,
        Topic.PROGRAM,
    }
    assert advises(report)
