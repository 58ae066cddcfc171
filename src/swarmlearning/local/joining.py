"""An organisation joins a network: its SN's directory gets the founding file, and CometBFT's home where there is one.

First it is made sure that the founding file means this organisation: an SN that started with another one, or with
other keys, would wait for ever. Does not start anything, and asks nobody.
"""

import ipaddress
from pathlib import Path
from typing import Final

import msgspec

from swarmlearning.contracts.records import Genesis, Organisation
from swarmlearning.encoding import encode, sha256
from swarmlearning.errors import ConfigurationError
from swarmlearning.identity.files import PUBLIC_MODE, make_directory, read_file, write_file
from swarmlearning.identity.verify import read_node, verify_leaf
from swarmlearning.ledger.cometbft.home import HOME, Keys, has_keys, load_keys, write_home
from swarmlearning.sn.application import decode_genesis
from swarmlearning.types import Endpoint, NodeId, NodeName, Role, TrustDomain, Validator

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


def join_network(data: Path, founding_file: Path, certificate: bytes | None, now_ms: int) -> Joined:
    """Prepare an SN's data directory for a network that this organisation founded with others.

    Args:
        data: the directory; on CometBFT the one in which its keys were made.
        founding_file: as all founders have it.
        certificate: of the SN, DER; on CometBFT it may be left out, the keys say who this is.
        now_ms: milliseconds since the epoch.

    Raises:
        ConfigurationError: this organisation is not among the founders, its keys are other ones than the founding file
            names, or the directory is another network's.
        DecodeError: the founding file is malformed.
        VerificationError: the certificate is not issued by this organisation's CA, or is not valid now.
        IdentityError: a file cannot be read or written.
    """
    founding = read_file(founding_file, "genesis")
    genesis = decode_genesis(founding)
    node = None if certificate is None else _verify_node(genesis, certificate, now_ms)
    if genesis.ledger == "cometbft":
        joined = _with_validator(data, genesis, node)
    elif node is None:
        raise ConfigurationError("give this SN's certificate with --cert: it says which organisation this is")
    else:
        joined = _with_sentinel(data, genesis, node)
    _keep(data, founding)
    if genesis.ledger == "cometbft":
        _prepare_home(data / HOME, genesis)
    return joined


def _verify_node(genesis: Genesis, certificate: bytes, now_ms: int) -> NodeName:
    """See that a certificate is an SN's of a founder, in this network."""
    claimed = read_node(certificate)
    founder = _organisation(genesis, claimed.domain)
    if founder is None:
        raise ConfigurationError(
            f"{claimed.domain} is not among the founders of {genesis.network}: "
            f"{', '.join(organisation.domain for organisation in genesis.organisations)}; one that was admitted "
            "later joins with a ticket of a member, --ticket FILE (swarm network ticket)"
        )
    node = verify_leaf(certificate, founder.issuers, now_ms)
    if node.role is not Role.SN or node.network != genesis.network:
        raise ConfigurationError(f"the certificate is of {node.id}; expected an SN's of the network {genesis.network}")
    return node


def _organisation(genesis: Genesis, domain: TrustDomain) -> Organisation | None:
    return next((found for found in genesis.organisations if found.domain == domain), None)


def _with_sentinel(data: Path, genesis: Genesis, node: NodeName) -> Joined:
    command = f"swarm sn --data {data} --genesis {data / GENESIS_FILE} --host-ip IP"
    if node.id == genesis.sentinel:
        return Joined(genesis=genesis, domain=node.domain, part="this SN is the sentinel", command=command)
    return Joined(
        genesis=genesis,
        domain=node.domain,
        part=f"this SN follows the sentinel {NodeName.parse(NodeId(genesis.sentinel)).short}",
        command=f"{command} --sentinel HOST:PORT",
    )


def _with_validator(data: Path, genesis: Genesis, node: NodeName | None) -> Joined:
    home = data / HOME
    if not has_keys(home):
        raise ConfigurationError(
            f"{home} holds no keys; give the directory in which this organisation made them (swarm network keys)"
        )
    keys = load_keys(home)
    organisation = _founder(genesis, keys, node)
    if node is not None and node.domain != organisation.domain:
        raise ConfigurationError(
            f"the certificate is {node.domain}'s, but the keys in {home} are those of {organisation.domain}"
        )
    validator = _validator(organisation)
    if validator.peer != keys.peer:
        raise ConfigurationError(
            f"{home / 'config' / 'node_key.json'} is peer {keys.peer}, but the founding file names {validator.peer} "
            f"for {organisation.domain}; restore the file"
        )
    host, port = validator.endpoint.host, validator.endpoint.port
    return Joined(
        genesis=genesis,
        domain=organisation.domain,
        part=f"its validator is reached at {validator.endpoint}",
        command=f"swarm sn --data {data} --genesis {data / GENESIS_FILE} --host-ip {host} --sn-p2p-port {port}",
    )


def _founder(genesis: Genesis, keys: Keys, node: NodeName | None) -> Organisation:
    for organisation in genesis.organisations:
        if _validator(organisation).key == keys.key:
            return organisation
    named = None if node is None else _organisation(genesis, node.domain)
    if named is not None:
        raise ConfigurationError(
            f"the founding file names the key {_validator(named).key.hex()[:16]}... for {named.domain}, this directory "
            f"holds {keys.key.hex()[:16]}...; give the directory whose card was handed in, or found the network anew"
        )
    raise ConfigurationError(
        f"the founding file of {genesis.network} does not name the key {keys.key.hex()[:16]}... of this directory; "
        "give the directory whose card was handed in; an organisation that was admitted later joins with --ticket FILE "
        "(swarm network ticket)"
    )


def _validator(organisation: Organisation) -> Validator:
    assert organisation.validator is not None  # M-8, which decode_genesis has verified
    return organisation.validator


def _keep(data: Path, founding: bytes) -> None:
    """Put the founding file into the data directory, never over another one."""
    make_directory(data, mode=0o700)
    path = data / GENESIS_FILE
    if path.exists():
        if read_file(path, "genesis") != founding:
            raise ConfigurationError(f"{path} is another network's; choose another directory, or remove it")
        return
    write_file(path, founding, mode=PUBLIC_MODE)


def _prepare_home(home: Path, genesis: Genesis) -> None:
    """What an operator who starts CometBFT himself needs; `swarm sn` writes it again when it starts one."""
    own = load_keys(home)
    validators = [_validator(organisation) for organisation in genesis.organisations]
    endpoint = next(validator.endpoint for validator in validators if validator.key == own.key)
    sockets = (home / "run").absolute()
    make_directory(sockets, mode=0o700)
    write_home(
        home,
        chain_id=genesis.network,
        genesis_time_ms=genesis.created_ms,
        app_state=sha256(encode(genesis)),
        initial=validators,
        peers=validators,
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
