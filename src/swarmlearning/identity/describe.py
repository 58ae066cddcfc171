"""A certificate as people want to see it: whose, what for, how long, from whom. Verifies nothing.

What it shows of a file from elsewhere is that file's claim.
"""

from typing import Final, Literal

from swarmlearning.encoding import Record
from swarmlearning.errors import VerificationError
from swarmlearning.identity.certificate import fingerprint, parse_certificate, show_name, show_time
from swarmlearning.identity.verify import read_node

WARN_DAYS: Final = 30
"""A certificate that ends within so many days is pointed out."""

_DAY_MS: Final = 86_400_000


class Description(Record, frozen=True, kw_only=True):
    """What a certificate claims. Empty strings stand for "does not say"."""

    kind: Literal["node", "ca", "other"]
    identity: str
    organisation: str
    network: str
    role: str
    name: str
    key: str
    not_before: str
    not_after: str
    days_left: int
    """Whole days; negative once it has expired."""
    subject: str
    issuer: str
    hosts: tuple[str, ...]
    sha256: str
    warning: str


def describe_certificate(der: bytes, at_ms: int) -> Description:
    """Describe a DER certificate as of `at_ms`.

    Raises:
        VerificationError: it cannot be read.
    """
    facts = parse_certificate(der)
    uri = facts.uris[0] if len(facts.uris) == 1 else ""
    organisation = network = role = name = ""
    kind: Literal["node", "ca", "other"] = "ca" if facts.is_ca else "other"
    if facts.is_ca:
        organisation = uri.removeprefix("spiffe://") if uri.startswith("spiffe://") else ""
    else:
        try:
            node = read_node(der)
        except VerificationError:
            pass  # somebody else's kind of certificate: shown as such
        else:
            kind, organisation, network, role, name = "node", node.domain, node.network, node.role.value, node.name
    return Description(
        kind=kind,
        identity=uri,
        organisation=organisation,
        network=network,
        role=role,
        name=name,
        key=facts.key_type,
        not_before=show_time(facts.not_before_ms),
        not_after=show_time(facts.not_after_ms),
        days_left=(facts.not_after_ms - at_ms) // _DAY_MS,
        subject=show_name(facts.subject),
        issuer=show_name(facts.issuer),
        hosts=facts.hosts,
        sha256=fingerprint(der).hex(),
        warning=_warning(facts.not_before_ms, facts.not_after_ms, at_ms),
    )


def _warning(not_before_ms: int, not_after_ms: int, at_ms: int) -> str:
    if at_ms > not_after_ms:
        return f"expired on {show_time(not_after_ms)}; renew it with `swarm cert renew`"
    if at_ms < not_before_ms:
        return f"not valid before {show_time(not_before_ms)}; check the clocks"
    days = (not_after_ms - at_ms) // _DAY_MS
    if days < WARN_DAYS:
        return f"expires in {days} days; renew it with `swarm cert renew`"
    return ""
