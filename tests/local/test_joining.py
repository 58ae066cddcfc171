"""Joining: the founding file must mean this organisation, and these keys, or nothing is written."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from cometbft_support import cometbft, needs_cometbft
from founding_support import DOMAINS, NOW, Founders, found
from msgspec.structs import replace

from swarmlearning.encoding import encode, sha256
from swarmlearning.errors import ConfigurationError, DecodeError, VerificationError
from swarmlearning.identity.authority import create_ca, issue_certificate
from swarmlearning.identity.pem import read_certificates
from swarmlearning.identity.source import PemSource
from swarmlearning.ledger.cometbft.home import load_keys
from swarmlearning.local.genesis import create_genesis, save_genesis
from swarmlearning.local.joining import Invitation, join_network
from swarmlearning.local.validators import make_card
from swarmlearning.sn.tickets import Member, Ticket, find_ticket, sign_ticket
from swarmlearning.types import Endpoint, NodeId, NodeName, Role, TrustDomain, Validator

A, B, C, D = DOMAINS
E = TrustDomain("e.example")


@pytest.fixture
def founders(tmp_path: Path) -> Founders:
    return found(tmp_path)


def test_every_founder_gets_the_same_genesis_and_his_own_peers(founders: Founders) -> None:
    written = []
    for domain in DOMAINS:
        data = founders.data(domain)
        joined = join_network(data, founders.genesis_file, founders.certificate(domain), NOW)
        assert joined.domain == domain
        port = founders.cards[domain].validator.endpoint.port
        assert joined.command.startswith(f"swarm sn --data {data} --genesis {data}/genesis.bin --host-ip 127.0.0.")
        assert joined.command.endswith(f"--sn-p2p-port {port}")
        assert (data / "genesis.bin").read_bytes() == founders.genesis_file.read_bytes()
        config = (data / "cometbft" / "config" / "config.toml").read_text()
        peers = {other: card.validator.peer in config for other, card in founders.cards.items()}
        assert peers == {other: other != domain for other in DOMAINS}
        written.append((data / "cometbft" / "config" / "genesis.json").read_bytes())
    assert len(set(written)) == 1
    assert sha256(founders.genesis_file.read_bytes()).hex().encode() in written[0]


def test_joining_again_changes_nothing_and_the_keys_alone_will_do(founders: Founders) -> None:
    data = founders.data(A)
    join_network(data, founders.genesis_file, founders.certificate(A), NOW)
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    assert join_network(data, data / "genesis.bin", None, NOW).domain == A
    assert {path: path.read_bytes() for path in data.rglob("*") if path.is_file()} == before


def is_untouched(data: Path) -> bool:
    return not (data / "genesis.bin").exists() and not (data / "cometbft" / "config" / "genesis.json").exists()


def test_other_keys_than_the_founding_file_names_are_refused(founders: Founders, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    with pytest.raises(ConfigurationError, match=r"holds no keys; give the directory in which"):
        join_network(fresh, founders.genesis_file, founders.certificate(A), NOW)
    make_card(fresh, A, "127.0.0.1")
    with pytest.raises(ConfigurationError, match=r"names the key .* for a\.example, this directory holds"):
        join_network(fresh, founders.genesis_file, founders.certificate(A), NOW)
    with pytest.raises(ConfigurationError, match=r"does not name the key"):
        join_network(fresh, founders.genesis_file, None, NOW)
    assert is_untouched(fresh)


def test_a_node_key_that_was_exchanged_is_refused(founders: Founders) -> None:
    mine, others = founders.data(A) / "cometbft", founders.data(B) / "cometbft"
    (mine / "config" / "node_key.json").write_bytes((others / "config" / "node_key.json").read_bytes())
    with pytest.raises(ConfigurationError, match=f"is peer {load_keys(others).peer}"):
        join_network(founders.data(A), founders.genesis_file, None, NOW)
    assert is_untouched(founders.data(A))


def test_a_directory_of_another_network_is_refused(founders: Founders) -> None:
    data = founders.data(A)
    (data / "genesis.bin").write_bytes(b"another")
    with pytest.raises(ConfigurationError, match=r"genesis\.bin is another network's"):
        join_network(data, founders.genesis_file, None, NOW)
    assert (data / "genesis.bin").read_bytes() == b"another"


def test_what_is_no_founding_file_is_refused(founders: Founders, tmp_path: Path) -> None:
    path = tmp_path / "broken"
    path.write_bytes(founders.genesis_file.read_bytes()[:-1])
    with pytest.raises(DecodeError):
        join_network(founders.data(A), path, None, NOW)
    assert is_untouched(founders.data(A))


def test_a_certificate_of_another_organisation_role_or_network_is_refused(founders: Founders) -> None:
    data = founders.data(A)
    for certificate, message in (
        (founders.certificate(B), r"certificate is b\.example's, but the keys in .* are those of a\.example"),
        (founders.certificate(A, Role.SL), r"expected an SN's of the network pilot"),
        (founders.certificate(A, network="other"), r"expected an SN's of the network pilot"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            join_network(data, founders.genesis_file, certificate, NOW)
    assert is_untouched(data)


def stranger(tmp_path: Path, domain: TrustDomain) -> bytes:
    """A certificate of `domain` by a CA that the network does not know."""
    authority = create_ca(tmp_path / "stranger" / "ca", domain, at_ms=NOW)
    node = NodeName(domain=domain, network="pilot", role=Role.SN, name="one")
    issued = issue_certificate(authority, node, ("127.0.0.1",), tmp_path / "stranger" / "pki", at_ms=NOW)
    return read_certificates(issued.certificate, "certificate")[0]


def test_a_certificate_that_the_organisations_ca_did_not_issue_is_refused(founders: Founders, tmp_path: Path) -> None:
    with pytest.raises(VerificationError):
        join_network(founders.data(A), founders.genesis_file, stranger(tmp_path, A), NOW)
    assert is_untouched(founders.data(A))


def test_who_is_no_founder_is_told_about_the_ticket(founders: Founders, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"e\.example is not among the members of pilot by the founding file: a\.example.*--ticket FILE",
    ):
        join_network(tmp_path / "new", founders.genesis_file, stranger(tmp_path, E), NOW)
    assert not (tmp_path / "new").exists()


# --- with a ticket -----------------------------------------------------------------------------------------------


def ticket_of(founders: Founders, members: dict[TrustDomain, Validator], **changes: Any) -> Invitation:
    """Signed by A's SN."""
    issued = founders.issue(A)
    ticket = Ticket(
        network="pilot",
        genesis=sha256(founders.genesis_file.read_bytes()),
        ledger="cometbft",
        made_ms=NOW,
        height=9,
        block_hash=bytes(32),
        sentinel=NodeId(""),
        members=tuple(Member(domain=domain, validator=validator) for domain, validator in members.items()),
        sn=issued.node.id,
        api=Endpoint(host="192.0.2.1", port=30304),
    )
    credential = PemSource(issued.certificate, issued.key, issued.issuer).load(NOW)
    issuers = (founders.authorities[A].certificate,)
    return Invitation(ticket=sign_ticket(replace(ticket, **changes), credential), issuers=issuers)


def present_members(founders: Founders, newcomer: Validator) -> dict[TrustDomain, Validator]:
    """B has left, C has a new address, E was admitted."""
    now = {domain: card.validator for domain, card in founders.cards.items() if domain != B}
    now[C] = replace(now[C], endpoint=Endpoint(host="192.0.2.33", port=1))
    return now | {E: newcomer}


def test_who_was_admitted_later_joins_with_a_ticket_and_dials_the_present_members(
    founders: Founders, tmp_path: Path
) -> None:
    data = tmp_path / "new"
    card = make_card(data, E, "192.0.2.5")
    invitation = ticket_of(founders, present_members(founders, card.validator))
    certificate = stranger(tmp_path, E)
    joined = join_network(data, founders.genesis_file, certificate, NOW, invitation)
    assert joined.domain == E
    assert joined.command.endswith("--host-ip 192.0.2.5 --sn-p2p-port 30303")
    config = (data / "cometbft" / "config" / "config.toml").read_text()
    assert "@192.0.2.33:1" in config
    assert founders.cards[B].validator.peer not in config
    ticket = find_ticket(data, founders.genesis_file.read_bytes())
    assert ticket is not None
    assert (ticket.height, ticket.validators[E]) == (9, card.validator)
    # The genesis is what it has been from the founding on.
    other = founders.data(A)
    join_network(other, founders.genesis_file, None, NOW)
    genesis = Path("cometbft", "config", "genesis.json")
    assert (data / genesis).read_bytes() == (other / genesis).read_bytes()


def test_a_ticket_that_does_not_name_this_organisation_or_its_key_is_refused(
    founders: Founders, tmp_path: Path
) -> None:
    data = tmp_path / "new"
    card = make_card(data, E, "192.0.2.5")
    members = present_members(founders, card.validator)
    with_other_key = ticket_of(founders, members | {E: replace(card.validator, key=bytes(32))})
    with pytest.raises(ConfigurationError, match=r"the join ticket names the key 0000.* ask the member for a new"):
        join_network(data, founders.genesis_file, stranger(tmp_path, E), NOW, with_other_key)
    del members[E]
    with pytest.raises(ConfigurationError, match=r"the join ticket of pilot does not name the key"):
        join_network(data, founders.genesis_file, None, NOW, ticket_of(founders, members))
    assert is_untouched(data)
    assert not (data / "ticket.bin").exists()


def test_a_ticket_that_does_not_hold_is_not_kept(founders: Founders, tmp_path: Path) -> None:
    data = tmp_path / "new"
    card = make_card(data, E, "192.0.2.5")
    invitation = ticket_of(founders, present_members(founders, card.validator), genesis=bytes(32))
    with pytest.raises(VerificationError, match="compare the founding files"):
        join_network(data, founders.genesis_file, None, NOW, invitation)
    assert is_untouched(data)
    assert not (data / "ticket.bin").exists()


# --- embedded ----------------------------------------------------------------------------------------------------


def test_founders_of_an_embedded_network_join_with_their_certificates(founders: Founders, tmp_path: Path) -> None:
    genesis = create_genesis(
        network="pilot",
        organisations={domain: (founders.authorities[domain].certificate,) for domain in (A, B)},
        sentinel_certificate=founders.certificate(A),
        sentinel_key=bytes(32),
        now_ms=NOW,
    )
    path = tmp_path / "embedded.bin"
    save_genesis(path, genesis)
    data = tmp_path / "data"
    assert join_network(data / "a", path, founders.certificate(A), NOW).part == "this SN is the sentinel"
    follower = join_network(data / "b", path, founders.certificate(B), NOW)
    assert follower.part == "this SN follows the sentinel one@a.example"
    assert follower.command.endswith("--sentinel HOST:PORT")
    assert (data / "b" / "genesis.bin").read_bytes() == encode(genesis)
    assert not (data / "b" / "cometbft").exists()
    with pytest.raises(ConfigurationError, match="--cert"):
        join_network(data / "c", path, None, NOW)
    with pytest.raises(ConfigurationError, match=r"c\.example is not among the members"):
        join_network(data / "c", path, founders.certificate(C), NOW)
    assert not (data / "c").exists()


@needs_cometbft
def test_cometbft_starts_from_a_home_as_join_leaves_it(founders: Founders) -> None:
    """For operators who start it themselves: it reads the files, and begins to look for the application."""
    data = founders.data(A)
    join_network(data, founders.genesis_file, None, NOW)
    argv: list[str | Path] = [cometbft(), "start", "--home", data / "cometbft", "--log_level", "info"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            said = next(line for line in process.stdout if "abci.sock" in line or "ERROR" in line)
            assert "failed to connect to unix:///" in said
        finally:
            process.kill()
