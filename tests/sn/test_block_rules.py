"""What may stand in a block and what may wait for one: transactions.md, TX-18 to TX-20, each with its attack."""

import asyncio
import random
from collections.abc import Sequence

import pytest
from chain_world import Chain, certificate, key_of, member, registration, sign_payload
from governance_world import Parliament
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sim_loop import run_virtual, wall_clock

from swarmlearning.contracts import ordering
from swarmlearning.contracts.messages import EXPIRY_WINDOW, CreateContract, Payload, RevokeCertificate
from swarmlearning.encoding import encode
from swarmlearning.identity.verify import fingerprint
from swarmlearning.ledger.embedded import EmbeddedConfig, EmbeddedLedger
from swarmlearning.sn import fairness
from swarmlearning.sn.application import SwarmApplication
from swarmlearning.sn.fairness import WaitingBook
from swarmlearning.sn.state import StateStore
from swarmlearning.transport.memory import MemoryNetwork
from swarmlearning.types import Code, ContractName, NodeName, Role

SLS = [member(i) for i in range(3)]


def create(name: str) -> CreateContract:
    return CreateContract(contract=ContractName(name))


class Offered:
    """A chain with members of every standing, and a transaction of every kind that may be offered for a block."""

    def __init__(self) -> None:
        parliament = Parliament(4)
        chain = self.chain = parliament.chain
        revoked, expelled, used = member(1, Role.SWOP), member(3), member(2)
        chain.register(*SLS[:3], revoked, expelled)
        parliament.must(1, RevokeCertificate(fingerprint=fingerprint(certificate(revoked, revoked.domain))))
        late = chain.sign(expelled, create("expelled"))
        parliament.expel(3, 0, 1, 2)
        replayed = chain.sign(used, create("used"))
        chain.apply(replayed)
        good = [chain.sign(sl, create(f"c{sl.name}{i}")) for sl in SLS[:2] for i in range(5)]
        one_nonce = Payload(network="heart", nonce=b"sixteen bytes...", expires=chain.height + 9, message=create("n"))
        expires_later = Payload(
            network="heart", nonce=b"sixteen bytes...", expires=chain.height + 8, message=create("m")
        )
        flipped = good[0][:-1] + bytes([good[0][-1] ^ 1])
        self.bad = [
            b"", b"rubbish", flipped, late, replayed,
            chain.sign(SLS[0], create("x"), network="other"),
            chain.sign(SLS[0], create("x"), expires=chain.height),
            chain.sign(SLS[0], create("x"), expires=chain.height + 2 + EXPIRY_WINDOW),
            chain.sign(member(0, Role.AUDITOR), create("unknown signer")),
            chain.sign(revoked, create("revoked")),
            chain.sign(member(9), registration(member(9))),
            chain.sign(expelled, registration(expelled)),
            chain.sign(SLS[0], registration(SLS[1])),
            chain.sign(member(0, Role.SWOP), registration(member(0, Role.SWOP), certificate(SLS[0], SLS[0].domain))),
        ]  # fmt: skip
        self.good = [
            *good,
            chain.sign(SLS[2], create("-malformed, which only carrying it out shows")),
            sign_payload(key_of(SLS[2]), encode(one_nonce)),
            sign_payload(key_of(SLS[2]), encode(expires_later)),
            chain.sign(member(2, Role.SN), registration(member(2, Role.SN))),
            chain.sign(member(2, Role.AUDITOR), registration(member(2, Role.AUDITOR))),
        ]


OFFERED = Offered()
"""Never committed to: what is proposed and accepted changes nothing."""

LISTS = st.lists(st.sampled_from(OFFERED.good + OFFERED.bad), max_size=30)


@pytest.mark.parametrize("tx", OFFERED.bad)
def test_tx18_no_correct_node_accepts_a_block_with_it_nor_proposes_it(tx: bytes) -> None:
    chain = OFFERED.chain
    first = OFFERED.good[0]
    assert chain.app.accept(chain.header(), [first, tx]).startswith(f"block {chain.height + 1}, transaction 1: ")
    assert chain.app.propose([tx, first, tx], 1 << 20) == [first]


@pytest.mark.parametrize("tx", OFFERED.good)
def test_tx18_whether_a_message_can_be_carried_out_is_not_asked(tx: bytes) -> None:
    chain = OFFERED.chain
    assert chain.app.accept(chain.header(), [tx]) == ""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LISTS, st.integers(0, 6_000))
def test_tx18_accept_takes_exactly_what_propose_makes(
    monkeypatch: pytest.MonkeyPatch, offered: list[bytes], room: int
) -> None:
    monkeypatch.setattr(ordering, "MAX_IN_BLOCK", 3)
    chain = OFFERED.chain
    chosen = chain.app.propose(offered, room)
    assert chain.app.accept(chain.header(), chosen) == ""
    assert sum(map(len, chosen)) <= room
    rest = iter(offered)
    assert all(tx in rest for tx in chosen), "in the order in which they were offered"
    # What is left out with room to spare, nobody would have accepted.
    left = [tx for tx in offered if tx not in chosen and len(tx) <= room - sum(map(len, chosen))]
    assert all(chain.app.accept(chain.header(), [*chosen, tx]) != "" for tx in left)
    # A block is accepted if and only if an honest node would have proposed just it.
    assert (chain.app.accept(chain.header(), offered) == "") == (chain.app.propose(offered, 1 << 20) == offered)


@pytest.mark.parametrize("step_ms", [0, 1, 10**12])
def test_tx18_the_blocks_time_plays_no_part(step_ms: int) -> None:
    """Who proposes does not know it: a certificate that has expired by then is ordered, and fails."""
    chain = Chain()
    tx = chain.sign(SLS[0], registration(SLS[0]))
    assert chain.app.accept(chain.header(step_ms), [tx]) == ""
    assert chain.apply(tx, step_ms=step_ms)[0].code is (Code.OK if step_ms < 10**12 else Code.NOT_ALLOWED)


def test_tx18_a_block_of_another_height_is_refused() -> None:
    chain = Chain()
    header = chain.header()
    assert chain.app.accept(header, []) == ""
    chain.apply()
    assert "does not follow" in chain.app.accept(header, [])


def test_tx18_what_needs_a_registration_of_the_same_block_waits_for_the_next() -> None:
    chain = Chain()
    early = [chain.sign(SLS[0], registration(SLS[0])), chain.sign(SLS[0], create("a"))]
    assert chain.app.propose(early, 1 << 20) == early[:1]
    assert [result.code for result in chain.order(*early)] == [Code.OK]
    assert [result.code for result in chain.order(early[1])] == [Code.OK]


def test_tx19_one_organisation_leaves_room_for_the_others() -> None:
    chain = Chain(2)
    names = [member(0), member(0, Role.SN), member(0, Role.OPERATOR)]
    chain.register(*names, member(1))
    flood = [chain.sign(names[i % 3], create(f"f{i}")) for i in range(ordering.MAX_IN_BLOCK + 5)]
    other = chain.sign(member(1), create("other"))
    chosen = chain.app.propose([*flood, other], 1 << 20)
    assert chosen == [*flood[: ordering.MAX_IN_BLOCK], other]
    assert chain.app.accept(chain.header(), chosen) == ""
    assert "may stand there" in chain.app.accept(chain.header(), flood)


def test_tx19_one_organisations_large_transactions_leave_room_for_the_others() -> None:
    """A block has 1 MiB: by number alone, seventeen of these would be all of it."""
    chain = Chain(2)
    chain.register(member(0), member(1))
    flood = [chain.sign(member(0), create("x" * 60_000)) for _ in range(18)]
    other = chain.sign(member(1), create("other"))
    chosen = chain.app.propose([*flood, other], 1 << 20)
    assert chosen == [*flood[:4], other]
    assert chain.app.accept(chain.header(), chosen) == ""
    assert "may stand there" in chain.app.accept(chain.header(), flood[:5])


def test_tx19_registrations_count_as_their_organisations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering, "MAX_IN_BLOCK", 2)
    chain = Chain(2)
    names = [member(0, role) for role in (Role.SN, Role.SL, Role.SWOP)]
    txs = [chain.sign(name, registration(name)) for name in (*names, member(1))]
    assert chain.app.propose(txs, 1 << 20) == [txs[0], txs[1], txs[3]]


def test_tx19_what_a_full_block_leaves_out_is_in_the_next_and_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering, "MAX_IN_BLOCK", 4)
    chain = Chain(2)
    app = SwarmApplication(StateStore(None))
    sn = member(0, Role.SN)
    config = EmbeddedConfig(
        network="heart", genesis=chain.genesis, data_dir=None, node=sn.id, sentinel=sn.id,
        sentinel_key=key_of(sn).public, sentinel_address=None,
    )  # fmt: skip

    async def story() -> list[tuple[int, Code]]:
        client = MemoryNetwork().client(sn)
        ledger = EmbeddedLedger(config, app, key_of(sn), client, wall_clock, random.Random(1))
        await ledger.start()
        running = asyncio.ensure_future(ledger.run())

        async def submit(tx: bytes) -> tuple[int, Code]:
            height, result = await ledger.submit(tx, timeout_s=20)
            return height, result.code

        assert (await submit(chain.sign(SLS[0], registration(SLS[0]), expires=50)))[1] is Code.OK
        txs = [chain.sign(SLS[0], create(f"c{i}"), expires=50) for i in range(10)]
        done = await asyncio.gather(*map(submit, txs))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await ledger.stop()
        return list(done)

    done = run_virtual(story())
    assert [code for _, code in done] == [Code.OK] * 10
    assert [height for height, _ in done] == [2] * 4 + [3] * 4 + [4] * 2


# --- TX-20: what waits ----------------------------------------------------------------------------------------------


def codes(chain: Chain, txs: Sequence[bytes]) -> list[Code]:
    return [chain.app.check(tx).code for tx in txs]


def waiting_for(chain: Chain, name: NodeName, count: int) -> list[bytes]:
    return [chain.sign(name, create(f"{name.name}-{chain.nonce}")) for _ in range(count)]


def test_tx20_one_organisation_cannot_take_the_room_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "MAX_WAITING", 3)
    chain = Chain(2)
    chain.register(member(0), member(0, Role.OPERATOR), member(1))
    flood = [*waiting_for(chain, member(0), 3), *waiting_for(chain, member(0, Role.OPERATOR), 2)]
    assert codes(chain, flood) == [Code.OK] * 3 + [Code.BUSY] * 2
    assert codes(chain, flood) == [Code.OK] * 3 + [Code.BUSY] * 2, "asked again, they are counted once"
    assert codes(chain, waiting_for(chain, member(1), 3)) == [Code.OK] * 3


def test_tx20_nor_by_large_transactions() -> None:
    """CometBFT keeps 64 MiB of all: by number alone, one organisation's would fill that."""
    book, size, one, other = WaitingBook(), 64 << 10, member(0).domain, member(1).domain
    most = fairness.MAX_WAITING_BYTES // size
    large = [bytes([i % 256, i // 256]) * (size // 2) for i in range(most + 1)]
    assert [book.enter(one, tx, 1) for tx in large] == [True] * most + [False]
    assert [book.enter(one, tx, 2) for tx in large] == [True] * most + [False], "asked again, they are counted once"
    assert book.enter(other, large[-1], 2)
    book.leave(one, large[0])
    assert book.enter(one, large[-1], 2)
    book.settle(large[1:3], 3)
    assert [book.enter(one, tx, 3) for tx in large[:3]] == [True, True, False]
    book.settle([], 3 + fairness.FORGOTTEN_AFTER + 1)
    assert all(book.enter(one, tx, 99) for tx in large[:most])


def test_tx20_what_was_ordered_waits_no_more_and_what_is_left_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "MAX_WAITING", 3)
    chain = Chain(2)
    chain.register(member(0))
    txs = waiting_for(chain, member(0), 5)
    codes(chain, txs[:3])
    chain.order(txs[0])
    assert codes(chain, txs[1:]) == [Code.OK, Code.OK, Code.OK, Code.BUSY]


def test_tx20_what_is_refused_when_it_is_judged_anew_gives_its_place_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairness, "MAX_WAITING", 1)
    chain = Chain(2)
    chain.register(member(0), member(1))
    doomed, other = chain.sign(member(0), create("a")), chain.sign(member(0), create("b"))
    assert codes(chain, [doomed, other]) == [Code.OK, Code.BUSY]
    chain.do(member(1), create("a"))
    assert codes(chain, [doomed, other]) == [Code.CONFLICT, Code.OK]


def test_tx20_what_nothing_is_heard_of_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine may drop what it was told to keep, without a word."""
    monkeypatch.setattr(fairness, "MAX_WAITING", 1)
    chain = Chain(2)
    chain.register(member(0))
    lost, other = (chain.sign(member(0), create(name)) for name in "ab")
    assert codes(chain, [lost]) == [Code.OK]
    for _ in range(fairness.FORGOTTEN_AFTER):
        chain.apply()
        assert codes(chain, [other]) == [Code.BUSY]
    chain.apply()
    assert codes(chain, [other]) == [Code.OK]


def test_tx20_strangers_take_no_room_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[bytes] = []

    def enter(_self: WaitingBook, _domain: str, tx: bytes, _height: int) -> bool:
        entered.append(tx)
        return True

    monkeypatch.setattr(WaitingBook, "enter", enter)
    chain = OFFERED.chain
    assert all(chain.app.check(tx).code is not Code.OK for tx in OFFERED.bad)
    assert entered == []
