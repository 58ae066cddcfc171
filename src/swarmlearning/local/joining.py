"""An organisation joins a network: its SN's directory gets the founding file, and CometBFT's home where there is one.

First it is made sure that the founding file means this organisation: an SN that started with another one, or with
other keys, would wait for ever. An organisation that was admitted later shows a member's ticket (`sn.tickets`). Does
not start anything, and asks nobody.
"""

import ipaddress
from pathlib import Path
from typing import Final

import msgspec

from swarmlearning.contracts.records import Genesis
from swarmlearning.encoding import encode, sha256
from swarmlearning.errors import ConfigurationError
from swarmlearning.identity.files import PUBLIC_MODE, make_directory, read_file, write_file
from swarmlearning.identity.verify import read_node, verify_leaf
from swarmlearning.ledger.cometbft.home import HOME, Keys, has_keys, load_keys, write_home
from swarmlearning.sn.application import decode_genesis
from swarmlearning.sn.tickets import TICKET_FILE, Ticket, save_ticket, verify_ticket
from swarmlearning.types import Endpoint, NodeName, Role, TrustDomain, Validator, short_name

GENESIS_FILE: Final = "genesis.bin"
"""The founding file within an SN's data directory."""


class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """What was found and written."""

    genesis: Genesis
    domain: TrustDomain
    part: str
    """What this SN is in the order, for people."""
    command: str
    """What starts it, up to the certificate's options."""


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """A join ticket, and whom the newcomer believes."""

    ticket: bytes
    """Signed."""
    issuers: tuple[bytes, ...]
    """CA certificates (DER) of the member whose SN signed it."""


class _Members(msgspec.Struct, frozen=True, kw_only=True):
    """Whom the network has, as far as the joining organisation knows."""

    genesis: Genesis
    ticket: Ticket | None
    validators: dict[TrustDomain, Validator]
    domains: tuple[TrustDomain, ...]

    @property
    def source(self) -> str:
        """What names them, for people."""
        return "the founding file" if self.ticket is None else "the join ticket"

    @property
    def advice(self) -> str:
        """What else may help, for people."""
        later = "an organisation that was admitted later joins with a member's ticket, --ticket FILE"
        return f"{later} (swarm network ticket)" if self.ticket is None else "ask the member for a new ticket"


def join_network(
    data: Path, founding_file: Path, certificate: bytes | None, now_ms: int, invitation: Invitation | None = None
) -> Joined:
    """Prepare an SN's data directory for a network that this organisation is a member of.

    Args:
        data: the directory; on CometBFT the one in which its keys were made.
        founding_file: as all founders have it.
        certificate: of the SN, DER; on CometBFT it may be left out, the keys say who this is.
        now_ms: milliseconds since the epoch.
        invitation: of an organisation that the founding file does not name, or not with its present keys.

    Raises:
        ConfigurationError: this organisation is no member, its keys are other ones than the member's, or the directory
            is another network's.
        DecodeError: the founding file or the ticket is malformed.
        VerificationError: the ticket does not hold, or the certificate is not issued by this organisation's CA, or is
            not valid now.
        IdentityError: a file cannot be read or written.
    """
    founding = read_file(founding_file, "genesis")
    members = _members(decode_genesis(founding), founding, invitation, now_ms)
    node = None if certificate is None else _verify_node(members, certificate, now_ms)
    if members.genesis.ledger == "cometbft":
        joined = _with_validator(data, members, node)
    elif node is None:
        raise ConfigurationError("give this SN's certificate with --cert: it says which organisation this is")
    else:
        joined = _with_sentinel(data, members, node)
    _keep(data, founding)
    if invitation is not None:
        save_ticket(data / TICKET_FILE, invitation.ticket, force=True)
    if members.genesis.ledger == "cometbft":
        _prepare_home(data / HOME, members)
    return joined


def _members(genesis: Genesis, founding: bytes, invitation: Invitation | None, now_ms: int) -> _Members:
    if invitation is not None:
        ticket = verify_ticket(invitation.ticket, invitation.issuers, founding, genesis, now_ms)
        domains = tuple(member.domain for member in ticket.members)
        return _Members(genesis=genesis, ticket=ticket, validators=ticket.validators, domains=domains)
    founders = {found.domain: found.validator for found in genesis.organisations}
    validators = {domain: validator for domain, validator in founders.items() if validator is not None}
    return _Members(genesis=genesis, ticket=None, validators=validators, domains=tuple(founders))


def _verify_node(members: _Members, certificate: bytes, now_ms: int) -> NodeName:
    """See that a certificate is an SN's of a member, in this network."""
    genesis, node = members.genesis, read_node(certificate)
    if node.domain not in members.domains:
        raise ConfigurationError(
            f"{node.domain} is not among the members of {genesis.network} by {members.source}: "
            f"{', '.join(members.domains)}; {members.advice}"
        )
    founder = next((found for found in genesis.organisations if found.domain == node.domain), None)
    if founder is not None and members.ticket is None:
        # A ticket does not say whose CAs the members have agreed upon since; the others will refuse a wrong one.
        verify_leaf(certificate, founder.issuers, now_ms)
    if node.role is not Role.SN or node.network != genesis.network:
        raise ConfigurationError(f"the certificate is of {node.id}; expected an SN's of the network {genesis.network}")
    return node


def _with_sentinel(data: Path, members: _Members, node: NodeName) -> Joined:
    genesis = members.genesis
    sentinel = genesis.sentinel if members.ticket is None else members.ticket.sentinel
    command = f"swarm sn --data {data} --genesis {data / GENESIS_FILE} --host-ip IP"
    if node.id == sentinel:
        return Joined(genesis=genesis, domain=node.domain, part="this SN is the sentinel", command=command)
    return Joined(
        genesis=genesis,
        domain=node.domain,
        part=f"this SN follows the sentinel {short_name(sentinel)}",
        command=f"{command} --sentinel HOST:PORT",
    )


def _with_validator(data: Path, members: _Members, node: NodeName | None) -> Joined:
    home = data / HOME
    if not has_keys(home):
        raise ConfigurationError(
            f"{home} holds no keys; give the directory in which this organisation made them (swarm network keys)"
        )
    keys = load_keys(home)
    domain = _owner(members, keys, node)
    if node is not None and node.domain != domain:
        raise ConfigurationError(f"the certificate is {node.domain}'s, but the keys in {home} are those of {domain}")
    validator = members.validators[domain]
    if validator.peer != keys.peer:
        raise ConfigurationError(
            f"{home / 'config' / 'node_key.json'} is peer {keys.peer}, but {members.source} names {validator.peer} "
            f"for {domain}; restore the file"
        )
    host, port = validator.endpoint.host, validator.endpoint.port
    return Joined(
        genesis=members.genesis,
        domain=domain,
        part=f"its validator is reached at {validator.endpoint}",
        command=f"swarm sn --data {data} --genesis {data / GENESIS_FILE} --host-ip {host} --sn-p2p-port {port}",
    )


def _owner(members: _Members, keys: Keys, node: NodeName | None) -> TrustDomain:
    """Whose keys these are."""
    for domain, validator in members.validators.items():
        if validator.key == keys.key:
            return domain
    named = None if node is None else members.validators.get(node.domain)
    if node is not None and named is not None:
        raise ConfigurationError(
            f"{members.source} names the key {named.key.hex()[:16]}... for {node.domain}, this directory holds "
            f"{keys.key.hex()[:16]}...; give the directory whose card was handed in; {members.advice}"
        )
    raise ConfigurationError(
        f"{members.source} of {members.genesis.network} does not name the key {keys.key.hex()[:16]}... of this "
        f"directory; give the directory whose card was handed in; {members.advice}"
    )


def _keep(data: Path, founding: bytes) -> None:
    """Put the founding file into the data directory, never over another one."""
    make_directory(data, mode=0o700)
    path = data / GENESIS_FILE
    if path.exists():
        if read_file(path, "genesis") != founding:
            raise ConfigurationError(f"{path} is another network's; choose another directory, or remove it")
        return
    write_file(path, founding, mode=PUBLIC_MODE)


def _prepare_home(home: Path, members: _Members) -> None:
    """What an operator who starts CometBFT himself needs; `swarm sn` writes it again when it starts one."""
    genesis, own = members.genesis, load_keys(home)
    initial = [founder.validator for founder in genesis.organisations if founder.validator is not None]
    endpoint = next(validator.endpoint for validator in members.validators.values() if validator.key == own.key)
    sockets = (home / "run").absolute()
    make_directory(sockets, mode=0o700)
    write_home(
        home,
        chain_id=genesis.network,
        genesis_time_ms=genesis.created_ms,
        app_state=sha256(encode(genesis)),
        initial=initial,
        peers=tuple(members.validators.values()),
        listen=_to_listen_at(endpoint),
        external=None,
        abci=f"unix://{sockets}/abci.sock",
        rpc=f"unix://{sockets}/rpc.sock",
    )


def _to_listen_at(endpoint: Endpoint) -> Endpoint:
    try:
        ipaddress.ip_address(endpoint.host)
    except ValueError:
        # A name says where others find this host, not which of its addresses that is.
        return Endpoint(host="0.0.0.0", port=endpoint.port)  # noqa: S104 - members alone pass `filter_peers`
    return endpoint
