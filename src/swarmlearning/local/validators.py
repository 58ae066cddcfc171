"""Founding a network on CometBFT: each organisation hands in a card of its validator, and one puts them together.

A card is public, and proves nothing by itself: all founders compare the founding file's fingerprint, and each sees that
it names its own keys when it joins. Spec: docs/spec/membership.md, M-8.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from swarmlearning.contracts.context import Rejected
from swarmlearning.contracts.limits import check_endpoint
from swarmlearning.contracts.records import Genesis, Organisation
from swarmlearning.encoding import Record, from_json, to_json
from swarmlearning.errors import ConfigurationError, DecodeError, InvalidName
from swarmlearning.identity.files import PUBLIC_MODE, read_file, write_file
from swarmlearning.ledger.cometbft.home import HOME, MAX_CHAIN_ID, load_or_create_keys
from swarmlearning.local.genesis import GENESIS_VERSION, verify_founders
from swarmlearning.types import SN_P2P_PORT, Endpoint, NodeId, TrustDomain, Validator, check_label

MIN_VALIDATORS: Final = 4
"""Fewer cannot outvote a single one that is faulty."""


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What an organisation says of its validator."""

    domain: TrustDomain
    validator: Validator


class _CardFile(Record, frozen=True, kw_only=True):
    """A card as JSON, to be read over the telephone."""

    domain: str
    key: str
    """32 bytes in hexadecimal digits."""
    peer: str
    address: str
    """`HOST:PORT`."""


def make_card(data: Path, domain: str, address: str) -> Card:
    """The card for an SN's data directory, whose keys are made unless they are there.

    Args:
        data: the directory.
        domain: the organisation.
        address: `HOST[:PORT]` at which the other organisations' validators reach it.

    Raises:
        ConfigurationError: a name or the address is malformed or not an address of one host, or the keys are damaged.
    """
    name = TrustDomain(check_label("trust domain", domain))
    endpoint = _reachable(Endpoint.parse(address, SN_P2P_PORT))
    keys = load_or_create_keys(data / HOME)
    return Card(domain=name, validator=Validator(key=keys.key, peer=keys.peer, endpoint=endpoint))


def save_card(path: Path, card: Card, *, force: bool = False) -> None:
    """Write a card; over another file only with `force`.

    Raises:
        IdentityError: it exists and `force` is not given, or it cannot be written.
    """
    validator = card.validator
    file = _CardFile(domain=card.domain, key=validator.key.hex(), peer=validator.peer, address=str(validator.endpoint))
    write_file(path, to_json(file) + b"\n", mode=PUBLIC_MODE, force=force)


def load_card(path: Path) -> Card:
    """Read a card that another organisation handed in.

    Raises:
        IdentityError: it cannot be read.
        ConfigurationError: it is none, or something in it is malformed.
    """
    try:
        file = from_json(read_file(path, "validator card"), _CardFile, "card")
        validator = Validator(
            key=bytes.fromhex(file.key), peer=file.peer, endpoint=_reachable(Endpoint.parse(file.address, SN_P2P_PORT))
        )
        return Card(domain=TrustDomain(check_label("trust domain", file.domain)), validator=validator)
    except (DecodeError, ValueError, InvalidName) as error:
        raise ConfigurationError(f"{path} is no validator card as `swarm network keys` writes it: {error}") from error


def _reachable(endpoint: Endpoint) -> Endpoint:
    """An address that means one host to everybody.

    Raises:
        InvalidName: it does not.
    """
    try:
        check_endpoint(endpoint)
    except Rejected as error:
        raise InvalidName(error.log) from error
    try:
        address = ipaddress.ip_address(endpoint.host)
    except ValueError:
        return endpoint  # a DNS name
    if address.is_unspecified or address.is_multicast:
        raise InvalidName(f"{endpoint}: expected the address at which other organisations reach this host")
    return endpoint


def create_voting_genesis(
    *,
    network: str,
    organisations: Mapping[TrustDomain, Sequence[bytes]],
    cards: Iterable[Card],
    now_ms: int,
    no_fault_tolerance: bool = False,
) -> Genesis:
    """Found a network whose organisations' validators order transactions, each with the same vote.

    Args:
        network: its name, a part of every identity and CometBFT's chain id.
        organisations: for each trust domain the CA certificates (DER) that issue its nodes' certificates.
        cards: one for each of them.
        now_ms: milliseconds since the epoch.
        no_fault_tolerance: fewer organisations than could outvote one that is faulty will do.

    Raises:
        ConfigurationError: too few organisations; a card is missing, one too many, or says what another says too; or
            as for `verify_founders`.
        InvalidName: a name is malformed.
        VerificationError: a certificate is no CA's.
    """
    verify_founders(network, organisations)
    if len(network) > MAX_CHAIN_ID:
        raise ConfigurationError(
            f"network name {network!r}: {len(network)} characters, CometBFT takes at most {MAX_CHAIN_ID}"
        )
    validators = _one_each(organisations, cards)
    if len(organisations) < MIN_VALIDATORS and not no_fault_tolerance:
        raise ConfigurationError(
            f"expected at least {MIN_VALIDATORS} organisations, which outvote one that fails or cheats, got "
            f"{len(organisations)}; found the network with more, or accept that none may with --no-fault-tolerance"
        )
    return Genesis(
        network=network,
        version=GENESIS_VERSION,
        created_ms=now_ms,
        ledger="cometbft",
        sentinel=NodeId(""),
        sentinel_key=b"",
        organisations=tuple(
            Organisation(domain=domain, issuers=tuple(sorted(set(organisations[domain]))), validator=validators[domain])
            for domain in sorted(organisations)
        ),
    )


def _one_each(domains: Iterable[TrustDomain], cards: Iterable[Card]) -> dict[TrustDomain, Validator]:
    """M-8: each organisation has one validator, that shares nothing with another's."""
    found: dict[TrustDomain, Validator] = {}
    said: dict[object, TrustDomain] = {}
    for card in cards:
        if card.domain in found:
            raise ConfigurationError(f"two validator cards of {card.domain}; expected one of each organisation")
        found[card.domain] = card.validator
        for what, value in (
            ("key", card.validator.key),
            ("peer id", card.validator.peer),
            ("address", str(card.validator.endpoint).lower()),
        ):
            other = said.setdefault((what, value), card.domain)
            if other != card.domain:
                raise ConfigurationError(f"the validator cards of {other} and {card.domain} name the same {what}")
    expected = set(domains)
    if missing := sorted(expected - found.keys()):
        raise ConfigurationError(
            f"no validator card of {', '.join(missing)}: give --validator FILE, which `swarm network keys` makes there"
        )
    if strange := sorted(found.keys() - expected):
        raise ConfigurationError(f"a validator card of {', '.join(strange)}, of which no --organisation is given")
    return found
