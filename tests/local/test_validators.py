"""Founding a network on CometBFT: M-8 holds before anything is written, and a card says what it seems to say."""

import json
from pathlib import Path
from typing import Any

import pytest
from founding_support import DOMAINS, NOW, Founders, found
from msgspec.structs import replace

from swarmlearning.encoding import encode
from swarmlearning.errors import ConfigurationError, IdentityError, InvalidName, SwarmError
from swarmlearning.local.genesis import describe_genesis, load_genesis, tolerated
from swarmlearning.local.validators import Card, create_voting_genesis, load_card, make_card, save_card
from swarmlearning.sn.application import decode_genesis
from swarmlearning.types import Endpoint, TrustDomain

A, B, C, D = DOMAINS


@pytest.fixture
def founders(tmp_path: Path) -> Founders:
    return found(tmp_path)


# --- cards -------------------------------------------------------------------------------------------------------


def test_a_card_is_read_as_it_was_written_and_made_again_is_the_same(tmp_path: Path) -> None:
    card = make_card(tmp_path / "sn", "a.example", "[2001:db8::1]:7")
    save_card(tmp_path / "card", card)
    assert load_card(tmp_path / "card") == card
    assert make_card(tmp_path / "sn", "a.example", "[2001:db8::1]:7") == card
    assert json.loads((tmp_path / "card").read_text()) == {
        "domain": "a.example",
        "key": card.validator.key.hex(),
        "peer": card.validator.peer,
        "address": "[2001:db8::1]:7",
    }
    assert make_card(tmp_path / "sn", "a.example", "sn.a.example").validator.endpoint.port == 30303


def test_a_card_is_not_overwritten_unasked(tmp_path: Path) -> None:
    card = make_card(tmp_path / "sn", "a.example", "192.0.2.1")
    (tmp_path / "card").write_text("mine")
    with pytest.raises(IdentityError, match="exists"):
        save_card(tmp_path / "card", card)
    assert (tmp_path / "card").read_text() == "mine"
    save_card(tmp_path / "card", card, force=True)
    assert load_card(tmp_path / "card") == card


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]", "224.0.0.1", "a b", "host:0", "h\u00f6st", ""])
def test_an_address_that_is_not_one_host_for_everybody_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(InvalidName):
        make_card(tmp_path / "sn", "a.example", address)
    assert not (tmp_path / "sn").exists(), "keys were made for a card that was not"


@pytest.mark.parametrize(
    "change",
    [
        {"domain": "A.example"},
        {"key": "00"},
        {"key": "zz" * 32},
        {"peer": "AB" * 20},
        {"peer": ""},
        {"address": "0.0.0.0:1"},
        {"address": "host:99999"},
        {"extra": 1},
        {"domain": 7},
    ],
)
def test_a_malformed_card_is_one_line_that_names_the_file(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "card"
    save_card(path, make_card(tmp_path / "sn", "a.example", "192.0.2.1"))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigurationError) as caught:
        load_card(path)
    assert str(caught.value).startswith(f"{path} is no validator card")
    assert "\n" not in str(caught.value)


# --- founding ----------------------------------------------------------------------------------------------------


def test_the_founding_file_names_validators_and_no_sentinel(founders: Founders) -> None:
    genesis = load_genesis(founders.genesis_file)
    assert decode_genesis(encode(genesis)) == genesis
    assert (genesis.ledger, genesis.sentinel, genesis.sentinel_key) == ("cometbft", "", b"")
    assert {o.domain: o.validator for o in genesis.organisations} == {
        domain: card.validator for domain, card in founders.cards.items()
    }


def test_the_same_is_founded_whatever_the_order(founders: Founders) -> None:
    turned = replace(
        founders,
        authorities=dict(reversed(founders.authorities.items())),
        cards=dict(reversed(founders.cards.items())),
    )
    assert encode(turned.genesis()) == encode(founders.genesis())


def test_what_is_shown_names_ledger_validators_and_how_many_may_fail(founders: Founders) -> None:
    shown = describe_genesis(founders.genesis())
    assert "ledger       cometbft" in shown
    assert "validators   4, of which 1 may fail or cheat" in shown
    assert "sentinel" not in shown
    for card in founders.cards.values():
        assert f"votes with {card.validator.key.hex()}" in shown
        assert f"reached at {card.validator.endpoint}, peer {card.validator.peer}" in shown


def test_fewer_than_a_third_may_fail() -> None:
    assert [tolerated(n) for n in range(1, 11)] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]


def without(founders: Founders, *domains: TrustDomain) -> dict[str, Any]:
    return {
        "network": "pilot",
        "organisations": {d: (a.certificate,) for d, a in founders.authorities.items() if d not in domains},
        "cards": [card for d, card in founders.cards.items() if d not in domains],
        "now_ms": NOW,
    }


def test_fewer_than_four_found_a_network_only_with_open_eyes(founders: Founders) -> None:
    arguments = without(founders, D)
    with pytest.raises(ConfigurationError, match=r"expected at least 4 organisations.*got 3.*--no-fault-tolerance"):
        create_voting_genesis(**arguments)
    genesis = create_voting_genesis(**arguments, no_fault_tolerance=True)
    assert "3, none of which may fail or cheat" in describe_genesis(genesis)
    assert decode_genesis(encode(genesis)) == genesis


def changed(card: Card, **changes: Any) -> Card:
    return replace(card, validator=replace(card.validator, **changes))


def refusals(founders: Founders) -> dict[str, dict[str, Any]]:
    cards = founders.cards
    first, second = cards[A].validator, cards[B].validator
    rest = [cards[C], cards[D]]
    full = without(founders)
    return {
        r"no validator card of b\.example, c\.example": full | {"cards": [cards[A], cards[D]]},
        r"a validator card of d\.example, of which no --organisation": without(founders, D)
        | {"cards": cards.values(), "no_fault_tolerance": True},
        r"two validator cards of a\.example": full | {"cards": [*cards.values(), cards[A]]},
        r"a\.example and b\.example name the same key": full
        | {"cards": [cards[A], changed(cards[B], key=first.key), *rest]},
        r"a\.example and b\.example name the same peer id": full
        | {"cards": [cards[A], changed(cards[B], peer=first.peer), *rest]},
        r"b\.example and a\.example name the same address": full
        | {"cards": [cards[B], changed(cards[A], endpoint=second.endpoint), *rest]},
        r"51 characters, CometBFT takes at most 50": full | {"network": "n" * 51},
        r"a network needs at least one organisation": full | {"organisations": {}},
    }


def test_what_breaks_m8_or_cometbfts_limits_is_refused(founders: Founders) -> None:
    for message, arguments in refusals(founders).items():
        with pytest.raises(SwarmError, match=message):
            create_voting_genesis(**arguments)


def test_an_address_in_another_spelling_is_the_same_address(founders: Founders) -> None:
    """A host's name in capitals, or its port left out, leads to the same place."""
    cards = dict(founders.cards)
    cards[A] = changed(cards[A], endpoint=Endpoint(host="SN.example", port=30303))
    cards[B] = changed(cards[B], endpoint=Endpoint.parse("sn.example", 30303))
    with pytest.raises(ConfigurationError, match="name the same address"):
        create_voting_genesis(**(without(founders) | {"cards": cards.values()}))
