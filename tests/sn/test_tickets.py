"""Join tickets (A-12): only a member's SN, lately, and for this network, introduces anybody."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from swarmlearning.clock import system_clock
from swarmlearning.contracts.records import Genesis, Organisation
from swarmlearning.encoding import decode, encode, sha256
from swarmlearning.errors import (
    ConfigurationError,
    DecodeError,
    ForkDetected,
    PeerError,
    Refused,
    Unreachable,
    VerificationError,
    WaitExpired,
)
from swarmlearning.identity.authority import Authority, create_ca, issue_certificate
from swarmlearning.identity.source import Credential, PemSource
from swarmlearning.sn.tickets import (
    MAX_AHEAD_MS,
    TICKET_FILE,
    TICKET_HOURS,
    Member,
    SignedTicket,
    Ticket,
    catch_up,
    describe_ticket,
    find_snapshot_hash,
    find_ticket,
    forget_ticket,
    save_ticket,
    sign_ticket,
    verify_ticket,
)
from swarmlearning.types import Endpoint, NodeId, NodeName, Role, TrustDomain, Validator

NOW = system_clock()
A, B = TrustDomain("a.example"), TrustDomain("b.example")


def validator(number: int) -> Validator:
    return Validator(key=bytes([number]) * 32, peer=f"{number:040x}", endpoint=Endpoint(host="192.0.2.1", port=number))


class World:
    """Two organisations; the first one's SN gives tickets."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.authorities = {domain: create_ca(base / domain, domain, at_ms=NOW) for domain in (A, B)}
        self.genesis = Genesis(
            network="pilot",
            version=1,
            created_ms=NOW,
            ledger="cometbft",
            sentinel=NodeId(""),
            sentinel_key=b"",
            organisations=(Organisation(domain=A, issuers=(self.authorities[A].certificate,), validator=validator(1)),),
        )
        self.founding = encode(self.genesis)
        self.ticket = Ticket(
            network="pilot",
            genesis=sha256(self.founding),
            ledger="cometbft",
            made_ms=NOW,
            height=7,
            block_hash=bytes(32),
            sentinel=NodeId(""),
            members=(Member(domain=A, validator=validator(1)), Member(domain=B, validator=validator(2))),
            sn=NodeId(f"spiffe://{A}/pilot/sn/one"),
            api=Endpoint(host="192.0.2.1", port=30304),
        )

    def credential(
        self, domain: TrustDomain = A, role: Role = Role.SN, network: str = "pilot", authority: Authority | None = None
    ) -> Credential:
        node = NodeName(domain=domain, network=network, role=role, name="one")
        folder = self.base / f"{domain}-{role}-{network}-{authority is None}"
        issued = issue_certificate(
            authority or self.authorities[domain], node, ("127.0.0.1",), folder, at_ms=NOW, force=True
        )
        return PemSource(issued.certificate, issued.key, issued.issuer).load(NOW)

    def verify(self, data: bytes, **changes: Any) -> Ticket:
        arguments: dict[str, Any] = {
            "issuers": (self.authorities[A].certificate,),
            "founding": self.founding,
            "genesis": self.genesis,
            "now_ms": NOW,
        }
        return verify_ticket(data, **(arguments | changes))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a12_a_members_ticket_is_believed(world: World) -> None:
    ticket = world.verify(sign_ticket(world.ticket, world.credential()))
    assert ticket == world.ticket
    assert ticket.validators == {A: validator(1), B: validator(2)}
    assert describe_ticket(ticket) == "pilot, block 7, 2 members, 2 validators"
    snapshot = replace(ticket, snapshot=5, snapshot_hash=b"\xab" * 32)
    assert describe_ticket(snapshot).endswith(f", 2 validators, snapshot of block 5, {'ab' * 32}")


def test_a12_another_cas_word_counts_nothing(world: World, tmp_path: Path) -> None:
    impostor = create_ca(tmp_path / "impostor", A, at_ms=NOW)
    with pytest.raises(VerificationError):
        world.verify(sign_ticket(world.ticket, world.credential(authority=impostor)))
    with pytest.raises(VerificationError):
        world.verify(sign_ticket(world.ticket, world.credential(B)))  # a member, but not whom the newcomer asked
    by_b = replace(world.ticket, sn=world.credential(B).node.id)
    assert world.verify(sign_ticket(by_b, world.credential(B)), issuers=(world.authorities[B].certificate,))
    with pytest.raises(VerificationError, match="is named as who gave it"):
        world.verify(sign_ticket(world.ticket, world.credential(B)), issuers=(world.authorities[B].certificate,))


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.SN])
def test_a12_only_an_sn_signs(world: World, role: Role) -> None:
    with pytest.raises(VerificationError, match="expected an SN of the network pilot"):
        world.verify(sign_ticket(world.ticket, world.credential(role=role)))


def test_a12_an_sn_of_another_network_does_not_sign(world: World) -> None:
    with pytest.raises(VerificationError, match="expected an SN of the network pilot"):
        world.verify(sign_ticket(world.ticket, world.credential(network="other")))


def test_a12_every_byte_of_it_is_signed(world: World) -> None:
    signed = decode(sign_ticket(world.ticket, world.credential()), SignedTicket)
    other = encode(replace(world.ticket, members=(Member(domain=A, validator=validator(9)),)))
    with pytest.raises(VerificationError, match="the signature does not hold"):
        world.verify(encode(replace(signed, ticket=other)))
    with pytest.raises(VerificationError, match="the signature does not hold"):
        world.verify(encode(replace(signed, signature=bytes(64))))


def test_a12_a_signature_for_something_else_is_none(world: World) -> None:
    credential = world.credential()
    data = encode(world.ticket)
    signed = SignedTicket(ticket=data, certificate=credential.certificate_der, signature=credential.sign_proof(data))
    with pytest.raises(VerificationError, match="the signature does not hold"):
        world.verify(encode(signed))


@pytest.mark.parametrize("change", [{"network": "other"}, {"ledger": "embedded"}, {"genesis": bytes(32)}])
def test_a12_a_ticket_of_another_network_is_refused(world: World, change: dict[str, Any]) -> None:
    with pytest.raises(VerificationError, match="compare the founding files"):
        world.verify(sign_ticket(replace(world.ticket, **change), world.credential()))


def test_a12_who_is_no_member_by_its_own_word_introduces_nobody(world: World) -> None:
    ticket = replace(world.ticket, members=world.ticket.members[1:])
    with pytest.raises(VerificationError, match=r"a\.example, which signed it, is no member"):
        world.verify(sign_ticket(ticket, world.credential()))


def test_a12_a_ticket_is_good_for_two_days(world: World) -> None:
    data = sign_ticket(world.ticket, world.credential())
    last = NOW + TICKET_HOURS * 3_600_000
    assert world.verify(data, now_ms=last)
    with pytest.raises(VerificationError, match=r"made 48\.0 hours ago by this clock"):
        world.verify(data, now_ms=last + 1)
    early = sign_ticket(replace(world.ticket, made_ms=NOW + MAX_AHEAD_MS + 1), world.credential())
    with pytest.raises(VerificationError, match="hours ago by this clock"):
        world.verify(early)


@pytest.mark.parametrize(
    "change",
    [
        {"genesis": b""},
        {"block_hash": bytes(31)},
        {"height": 0},
        {"snapshot": 8, "snapshot_hash": bytes(32)},
        {"snapshot": 3},
    ],
)
def test_a12_a_malformed_ticket_is_refused(world: World, change: dict[str, Any]) -> None:
    with pytest.raises(PeerError):
        world.verify(sign_ticket(replace(world.ticket, **change), world.credential()))
    with pytest.raises(DecodeError):
        world.verify(b"no ticket")


class Blocks:
    """An engine that gets one block at a time, up to `last`."""

    def __init__(self, last: int, block_hash: bytes = bytes(32), silent: int = 0) -> None:
        self.height = 3
        self.problem = "the others are away"
        self._last = last
        self._hash = block_hash
        self._silent = silent
        """So often it does not answer first."""
        self.lowest = 1
        self.asked: list[int] = []

    async def wait_height(self, above: int) -> int:
        assert above == self.height
        if self.height == self._last:
            await asyncio.Event().wait()
        self.height += 1
        return self.height

    async def block_hash(self, height: int) -> bytes:
        assert height <= self.height
        self.asked.append(height)
        if len(self.asked) <= self._silent:
            raise Unreachable("CometBFT is starting")
        if height < self.lowest:
            raise Refused(f"height {height} is not available, lowest height is {self.lowest}", code="rpc")
        return self._hash


def test_a12_a_newcomer_catches_up_and_compares_the_tickets_block(world: World) -> None:
    blocks = Blocks(20, silent=1)
    asyncio.run(catch_up(blocks, world.ticket, 60))
    assert (blocks.height, blocks.asked) == (7, [7, 7])
    past = Blocks(20)
    past.height = 15  # started again, before the block was compared
    asyncio.run(catch_up(past, world.ticket, 60))
    assert past.asked == [7]


def test_a12_a_block_before_the_snapshot_that_was_restored_is_not_here_to_be_compared(world: World) -> None:
    for begun_at in (8, 7, 0):
        blocks = Blocks(20)
        blocks.height, blocks.lowest = 15, 8
        waiting = catch_up(blocks, world.ticket, 60, begun_at=lambda height=begun_at: height)  # type: ignore[misc]
        if begun_at == 8:
            asyncio.run(waiting)
        else:
            with pytest.raises(Refused, match="lowest height is 8"):
                asyncio.run(waiting)


def test_a12_another_history_than_the_members_stops_the_newcomer(world: World) -> None:
    with pytest.raises(ForkDetected, match=r"block 7 is 0101.* here, the join ticket says 0000"):
        asyncio.run(catch_up(Blocks(20, b"\x01" * 32), world.ticket, 60))


def test_a12_a_newcomer_to_whom_nobody_sends_blocks_says_so(world: World) -> None:
    with pytest.raises(WaitExpired, match=r"at block 5 of 7 .* no further one for 0 s: the others are away"):
        asyncio.run(catch_up(Blocks(5), world.ticket, 0.01))
    there = Blocks(20, silent=1000)
    there.height = 7
    with pytest.raises(WaitExpired, match=r"the hash of block 7.*CometBFT is starting"):
        asyncio.run(catch_up(there, world.ticket, 0))


def test_a13_a_ticket_names_no_snapshot_whose_block_is_not_kept_any_more(caplog: pytest.LogCaptureFixture) -> None:
    blocks = Blocks(20, b"\x05" * 32)
    assert asyncio.run(find_snapshot_hash(blocks, 0)) == b""
    assert blocks.asked == []
    assert asyncio.run(find_snapshot_hash(blocks, 2)) == b"\x05" * 32
    blocks.lowest = 3
    assert asyncio.run(find_snapshot_hash(blocks, 2)) == b""
    assert "--keep-blocks" in caplog.text


def test_an_sn_takes_up_the_ticket_that_was_put_beside_its_founding_file(world: World, tmp_path: Path) -> None:
    directory = tmp_path / "sn"
    directory.mkdir()
    assert find_ticket(directory, world.founding) is None
    save_ticket(directory / TICKET_FILE, sign_ticket(world.ticket, world.credential()))
    assert find_ticket(directory, world.founding) == world.ticket
    with pytest.raises(ConfigurationError, match="for another network than the founding file"):
        find_ticket(directory, b"another")
    (directory / TICKET_FILE).write_bytes(b"damaged")
    with pytest.raises(ConfigurationError, match="join again with a new ticket"):
        find_ticket(directory, world.founding)
    forget_ticket(directory)
    forget_ticket(directory)
    assert find_ticket(directory, world.founding) is None
