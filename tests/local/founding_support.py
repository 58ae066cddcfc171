"""Four organisations that found a network on CometBFT."""

from pathlib import Path

import msgspec

from swarmlearning.clock import system_clock
from swarmlearning.contracts.records import Genesis
from swarmlearning.identity.authority import Authority, Issued, create_ca, issue_certificate
from swarmlearning.identity.pem import read_certificates
from swarmlearning.local.genesis import save_genesis
from swarmlearning.local.validators import Card, create_voting_genesis, make_card
from swarmlearning.types import NodeName, Role, TrustDomain

NOW = system_clock()
DOMAINS = tuple(TrustDomain(f"{letter}.example") for letter in "abcd")


class Founders(msgspec.Struct, frozen=True):
    """Where everything of theirs is: below `base/DOMAIN`, the founding file in `base`."""

    base: Path
    authorities: dict[TrustDomain, Authority]
    cards: dict[TrustDomain, Card]

    @property
    def genesis_file(self) -> Path:
        return self.base / "genesis.bin"

    def data(self, domain: TrustDomain) -> Path:
        return self.base / domain / "sn"

    def genesis(self) -> Genesis:
        return create_voting_genesis(
            network="pilot",
            organisations={domain: (authority.certificate,) for domain, authority in self.authorities.items()},
            cards=self.cards.values(),
            now_ms=NOW,
        )

    def issue(self, domain: TrustDomain, role: Role = Role.SN, network: str = "pilot") -> Issued:
        node = NodeName(domain=domain, network=network, role=role, name="one")
        folder = self.base / domain / f"{role}-{network}"
        return issue_certificate(self.authorities[domain], node, ("127.0.0.1",), folder, at_ms=NOW, force=True)

    def certificate(self, domain: TrustDomain, role: Role = Role.SN, network: str = "pilot") -> bytes:
        return read_certificates(self.issue(domain, role, network).certificate, "certificate")[0]


def found(base: Path) -> Founders:
    """Make CAs, keys, cards and the founding file."""
    founders = Founders(
        base=base,
        authorities={domain: create_ca(base / domain / "ca", domain, at_ms=NOW) for domain in DOMAINS},
        cards={
            domain: make_card(base / domain / "sn", domain, f"127.0.0.{number}")
            for number, domain in enumerate(DOMAINS, 1)
        },
    )
    save_genesis(founders.genesis_file, founders.genesis())
    return founders
