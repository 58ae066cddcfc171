"""Asking a running SN as a person's tool does: connecting, signing, finding what was named, a reset, a vote."""

import asyncio
import difflib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

from swarmlearning.clock import system_clock
from swarmlearning.contracts.membership import is_registered
from swarmlearning.contracts.messages import RegisterNode, ResetContract, Vote, Withdraw, registration_bytes
from swarmlearning.contracts.proposals import Proposal, ProposalState, hash_change
from swarmlearning.contracts.records import Training
from swarmlearning.contracts.training import explain_votes
from swarmlearning.errors import ConfigurationError, NotFound, Refused
from swarmlearning.identity.signing import SigningKey
from swarmlearning.identity.source import PemSource
from swarmlearning.identity.trust import Trust, TrustStore
from swarmlearning.sn.api import Governance
from swarmlearning.sn.client import SnClient, Submitter
from swarmlearning.transport.api import Address
from swarmlearning.transport.client import HttpClient
from swarmlearning.transport.discover import discover
from swarmlearning.types import SN_API_PORT, ContractName, Endpoint, Role, check_contract_name

T = TypeVar("T")

CONNECT_S: Final = 10.0
"""How long an SN may take to shake hands, seconds."""

_MAX_NAMES: Final = 20


@asynccontextmanager
async def open_sn(identity: PemSource, sn: str) -> AsyncIterator[tuple[SnClient, HttpClient]]:
    """The SN at an address, verified to be our own organisation's.

    Raises:
        IdentityError: our own identity is missing, expired or does not match.
        ConfigurationError: the address is malformed, or another node's.
        Unreachable: nobody shakes hands there within `CONNECT_S` seconds.
        VerificationError: who does is no node of our organisation.
    """
    credential = identity.load(system_clock())
    own = {credential.node.domain: Trust(issuers=credential.issuers, roles=tuple(Role))}
    trust = TrustStore(credential.node.network, system_clock, own)
    endpoint = Endpoint.parse(sn, SN_API_PORT)
    name = await discover(trust, identity, endpoint, timeout_s=CONNECT_S)
    if name.role is not Role.SN:
        raise ConfigurationError(f"{endpoint} is {name.short}, whose role is {name.role.value}; expected an SN's API")
    client = HttpClient(trust, identity)
    try:
        yield SnClient(client, Address(node=name.id, endpoint=endpoint)), client
    finally:
        await client.close()


def ask_sn(identity: PemSource, sn: str, question: Callable[[SnClient], Awaitable[T]]) -> T:
    """What the SN at an address answers to `question`.

    Raises:
        SwarmError: see `open_sn`, and whatever `question` raises.
    """

    async def main() -> T:
        async with open_sn(identity, sn) as (client, _):
            return await question(client)

    return asyncio.run(main())


async def open_submitter(client: SnClient, identity: PemSource, sign_key: str | None) -> Submitter:
    """Who signs as ourselves, with a key that is registered; registered now if it was not.

    Args:
        client: asks our organisation's SN.
        identity: ours.
        sign_key: file of the signing key; None: beside the certificate. Made if there is none.

    Raises:
        IdentityError: our identity or key cannot be used.
        Refused: the ledger refused the registration.
        Unreachable, VerificationError: see `SnClient.directory`.
    """
    credential = identity.load(system_clock())
    beside = credential.certificate_path.with_name(f"{credential.node.name}.sign.pem")
    key = SigningKey.load_or_create(Path(sign_key) if sign_key else beside)
    directory = await client.directory()
    submitter = Submitter(client, directory.network, key)
    node = credential.node.id
    known = next((known for known in directory.nodes if known.node == node), None)
    if not is_registered(known, key.public, credential.certificate_der):
        proof = credential.sign_proof(registration_bytes(directory.network, node, key.public))
        await submitter.require(RegisterNode(node=node, certificate=credential.certificate_der, proof=proof))
    return submitter


async def find_training(client: SnClient, name: str) -> Training:
    """The contract of a name that a person gave.

    Raises:
        InvalidName: it is no contract's name.
        NotFound: there is none; the message names the nearest, and those that there are.
        Unreachable, VerificationError, Refused: see `SnClient.training`.
    """
    training = await client.training(check_contract_name(name))
    if training is None:
        raise NotFound(explain_unknown(name, await client.contracts()))
    return training


def explain_unknown(name: str, known: Sequence[ContractName]) -> str:
    """That there is no contract `name`, which was probably meant, and which there are."""
    nearest = difflib.get_close_matches(name, known, n=1)
    listed = ", ".join(known[:_MAX_NAMES]) or "none"
    more = f" and {len(known) - _MAX_NAMES} more" if len(known) > _MAX_NAMES else ""
    meant = f"; did you mean {nearest[0]}? There are" if nearest else "; there are"
    return f"there is no contract {name}{meant}: {listed}{more}"


def find_proposal(found: Governance, number: int) -> Proposal:
    """The proposal of a number that a person gave.

    Raises:
        ConfigurationError: there is none; the message names the open ones.
    """
    for proposal in found.proposals:
        if proposal.number == number:
            return proposal
    waiting = [str(p.number) for p in found.proposals if p.state is ProposalState.OPEN]
    raise NotFound(f"there is no proposal {number}; open are: {', '.join(waiting) or 'none'}")


async def cast_vote(client: SnClient, submitter: Submitter, number: int, *, yes: bool) -> Governance:
    """Vote for the own organisation on what the proposal says now, and return how things stand then.

    Raises:
        ConfigurationError: there is no such proposal.
        Refused: the ledger refused it, and says why.
        Unreachable, VerificationError: see `SnClient.governance` and `Submitter.require`.
    """
    proposal = find_proposal(await client.governance(), number)
    await submitter.require(Vote(proposal=number, change=hash_change(proposal.change), yes=yes))
    return await client.governance()


async def withdraw_proposal(client: SnClient, submitter: Submitter, number: int) -> Governance:
    """Take back what the own organisation has proposed, and return how things stand then.

    Raises:
        Refused: the ledger refused it, and says why.
        Unreachable, VerificationError: see `SnClient.governance` and `Submitter.require`.
    """
    await submitter.require(Withdraw(proposal=number))
    return await client.governance()


async def reset_training(client: SnClient, submitter: Submitter, name: str) -> Training:
    """Start a new run of a contract, and return the contract as it is then.

    Raises:
        ConfigurationError: there is no such contract.
        Refused: the ledger refused it, or took it as a vote (T-3); says what is still needed.
        Unreachable, VerificationError: see `SnClient.training` and `Submitter.require`.
    """
    before = await find_training(client, name)
    await submitter.require(ResetContract(contract=before.name, run=before.run))
    after = await find_training(client, name)
    if after.run == before.run:
        raise Refused(f"{name} is not reset yet, this was a vote: {explain_votes(after)}", code="vote")
    return after
