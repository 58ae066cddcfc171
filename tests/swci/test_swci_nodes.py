"""LIST NODES, SHOW STATUS, LIST MEMBERS: docs/spec/swci-looking.md, CI-45 and CI-46."""

import csv
import json
import uuid
from pathlib import Path

import pytest
from chain_world import authority, certificate, member, validator_of
from looking_world import Network, PlayedSn, answer_of, ask, on_a_network
from msgspec.structs import replace
from status_records import peer, training

from swarmlearning.contracts.records import Node, Organisation
from swarmlearning.encoding import sha256
from swarmlearning.identity.verify import fingerprints
from swarmlearning.sn.api import Directory, Presence, Status
from swarmlearning.swci.running import write_lines
from swarmlearning.types import Endpoint, NodeId, NodeName, Role

HEADER = "NodeType,HostIP,Port,ContainerName,UUID,ParentUUID,i-am-alive"
SN0, SN1 = member(0, Role.SN), member(1, Role.SN)


def node(name: NodeName, port: int | None = 30303, host: str = "10.0.0.1") -> Node:
    leaf = certificate(name, name.domain)
    endpoint = Endpoint(host=host, port=port) if port else None
    return Node(
        node=name.id, key=bytes(32), certificates=fingerprints(leaf), issuer=sha256(authority(name.domain)),
        endpoint=endpoint, registered_height=1,
    )  # fmt: skip


def organisation(index: int) -> Organisation:
    domain = member(index).domain
    return Organisation(domain=domain, issuers=(authority(domain),))


def directory(*nodes: Node, members: tuple[Organisation, ...] = (organisation(0), organisation(1))) -> Directory:
    return Directory(network="heart", height=9, organisations=members, nodes=tuple(nodes))


STATUS = Status(
    node=SN0.id, network="heart", sentinel=SN0.id, height=9, transactions=12, app_hash=bytes(32), time_ms=1,
    clock_ms=1, problem="", version="1",
)  # fmt: skip
VOTING = replace(STATUS, ledger="cometbft", sentinel=NodeId(""), validators=2)


def uid(name: NodeName) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name.id))


def heard(name: NodeName, seen_ms: int = 0, parent: NodeName | None = None) -> Presence:
    return Presence(node=name.id, seen_ms=seen_ms, parent=parent.id if parent is not None else NodeId(""))


def rows(sn: PlayedSn, tmp_path: Path) -> list[list[str]]:
    header, *lines = ask(sn, "LIST NODES", tmp_path)
    assert header == HEADER
    return list(csv.reader(lines))


def test_ci45_nodes_are_a_table_with_the_documented_header_sns_first(tmp_path: Path) -> None:
    swop = member(1, Role.SWOP)
    known = [node(member(1), 30305), node(swop, None), node(SN1), node(member(0), 30305), node(SN0)]
    presence = [
        heard(SN0, 1_700_000_000_000), heard(SN1, 1_700_000_060_000, SN0), heard(member(0), 1_700_000_001_999, SN0),
        heard(member(1), 0, SN1), heard(swop, 0),
    ]  # fmt: skip
    sn = PlayedSn(directory=directory(*known), status=STATUS, presence=presence)
    assert rows(sn, tmp_path) == [
        ["SENTINEL", "10.0.0.1", "30303", "sn0@org0.example", uid(SN0), "-", "2023-11-14T22:13:20Z"],
        ["SN", "10.0.0.1", "30303", "sn1@org1.example", uid(SN1), uid(SN0), "2023-11-14T22:14:20Z"],
        ["SWOP", "-", "-", "swop1@org1.example", uid(swop), "-", "-"],
        ["SL", "10.0.0.1", "30305", "sl0@org0.example", uid(member(0)), uid(SN0), "2023-11-14T22:13:21Z"],
        ["SL", "10.0.0.1", "30305", "sl1@org1.example", uid(member(1)), uid(SN1), "-"],
    ]


def test_ci45_operators_and_auditors_are_no_nodes(tmp_path: Path) -> None:
    known = [node(SN0), node(member(0, Role.OPERATOR), None), node(member(0, Role.AUDITOR), None)]
    sn = PlayedSn(directory=directory(*known), status=STATUS)
    assert [row[0] for row in rows(sn, tmp_path)] == ["SENTINEL"]


def test_ci45_a_node_that_does_not_count_any_more_is_not_listed(tmp_path: Path) -> None:
    expelled, revoked, foreign, barred = member(2), member(0), member(1), member(0, Role.SWOP)
    home = replace(
        organisation(0), revoked=fingerprints(certificate(revoked, revoked.domain))[:1], roles=(Role.SN, Role.SL)
    )
    issued = replace(node(foreign), issuer=bytes(32))
    known = [node(SN0), node(expelled), node(revoked), issued, node(barred)]
    sn = PlayedSn(directory=directory(*known, members=(home, organisation(1))), status=STATUS)
    assert [row[3] for row in rows(sn, tmp_path)] == ["sn0@org0.example"]


def test_ci45_beside_which_sn_a_validator_runs_is_a_full_node(tmp_path: Path) -> None:
    voting = tuple(replace(organisation(index), validator=validator_of(index)) for index in range(2))
    second = replace(SN0, name="sn-b")
    known = [node(SN0, 26656, "v0.example"), node(second), node(SN1)]
    sn = PlayedSn(directory=directory(*known, members=voting), status=VOTING)
    # Of organisation 0 the one that is reached where the validator is; of organisation 1 the only one.
    assert [(row[0], row[3]) for row in rows(sn, tmp_path)] == [
        ("SN", "sn-b@org0.example"), ("FULLNODE", "sn0@org0.example"), ("FULLNODE", "sn1@org1.example"),
    ]  # fmt: skip


def test_ci45_an_sl_that_registered_no_endpoint_is_reached_where_it_enrolled(tmp_path: Path) -> None:
    enrolled = training(peer(0, endpoint=Endpoint(host="sl.example", port=16000)))
    sn = PlayedSn(enrolled, directory=directory(node(SN0), node(member(0), None)), status=STATUS)
    assert rows(sn, tmp_path)[1][:3] == ["SL", "sl.example", "16000"]


def test_ci45_as_json_what_is_not_known_is_null_or_empty(tmp_path: Path) -> None:
    sn = PlayedSn(directory=directory(node(SN0, None)), status=STATUS)
    (found,) = json.loads("\n".join(write_lines(answer_of(sn, "LIST NODES", tmp_path), as_json=True)))
    assert found == {
        "kind": "SENTINEL", "node": SN0.id, "name": "sn0@org0.example", "host": "", "port": None, "uuid": uid(SN0),
        "parent": "", "parent_uuid": "", "seen_ms": None,
    }  # fmt: skip


def test_ci45_a_real_sn_tells_of_its_nodes(tmp_path: Path) -> None:
    async def work(network: Network) -> None:
        lines = await network.desk().lines("LIST NODES")
        found = list(csv.DictReader(lines))
        assert [row["NodeType"] for row in found] == ["SENTINEL", "SL", "SL", "SL"]
        assert found[0]["ContainerName"] == "sn0@org0.example"
        assert [row["ParentUUID"] for row in found[:2]] == ["-", uid(SN0)]
        assert all(row["i-am-alive"].endswith("Z") for row in found), "their registrations are in blocks"

    on_a_network(tmp_path, work)


# --- status and members ---------------------------------------------------------------------------------------------


def test_ci46_status_is_the_network_its_warnings_and_a_table_of_contracts(tmp_path: Path) -> None:
    troubled = replace(STATUS, problem="the sentinel does not answer", open_proposals=2, time_ms=0)
    heart = training(peer(0), peer(1))
    sn = PlayedSn(heart, status=troubled)
    assert ask(sn, "SHOW STATUS", tmp_path) == [
        "NETWORK : heart (sentinel: itself)",
        "SN : sn0@org0.example at sn:30304, version 1",
        "HEIGHT : 9; no block yet; 12 transactions",
        "WARNING : the ledger stands still here: the sentinel does not answer",
        "VOTE : 2 proposals are open: see LIST PROPOSALS",
        "contract,run,phase,round,peers,newest model",
        "heart,1,collecting,7,2,round 6: abababababab",
    ]
    answer = answer_of(sn, "SHOW STATUS", tmp_path).answer
    assert (answer.network.height, answer.contract.name) == (9, "heart"), "the only one in use is there in full"


@pytest.mark.parametrize(("away", "shown"), [((), "connected"), ((member(1).domain,), "away")])
def test_ci46_members_are_listed_with_their_nodes_and_validators(
    away: tuple[str, ...], shown: str, tmp_path: Path
) -> None:
    voting = replace(organisation(1), validator=validator_of(1), roles=(Role.SN, Role.SL))
    known = [node(SN1), node(member(1)), node(member(1, Role.SWOP)), node(member(0, Role.SWOP))]
    sn = PlayedSn(directory=directory(*known, members=(organisation(0), voting)), status=replace(VOTING, away=away))
    assert ask(sn, "LIST MEMBERS", tmp_path) == [
        "Organisation,Roles,SNs,SLs,Agents,Validator",
        "org0.example,sn sl swop operator auditor,0,0,1,-",
        f"org1.example,sn sl,1,1,0,{shown}",
    ]
    second = answer_of(sn, "LIST MEMBERS", tmp_path).answer[1]
    assert (second.nodes, second.connected) == ({"sl": 1, "sn": 1}, shown == "connected")
    assert second.issuers == (sha256(authority("org1.example")).hex(),)
    assert second.validator == validator_of(1).key.hex()
