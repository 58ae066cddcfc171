"""Our own organisation's SN: is it there, is it ours, does it follow the sentinel, and what does the ledger tell."""

import asyncio

import msgspec

from swarmlearning.contracts.records import Training
from swarmlearning.doctor.clocks import Skew, measure
from swarmlearning.doctor.credentials import judge_period
from swarmlearning.doctor.failures import explain_failure
from swarmlearning.doctor.findings import Finding, Topic, ok, problem
from swarmlearning.doctor.members import Asker, Limit, show_member
from swarmlearning.errors import Refused, SwarmError, Unreachable, VerificationError
from swarmlearning.identity.certificate import parse_certificate
from swarmlearning.sn.api import Directory, Status
from swarmlearning.sn.client import SnClient
from swarmlearning.transport.api import Address
from swarmlearning.transport.discover import fetch_certificate
from swarmlearning.transport.wire import UNKNOWN_METHOD
from swarmlearning.types import Endpoint, NodeName, Role, short_name


class OwnSn(msgspec.Struct, frozen=True, kw_only=True):
    """What our SN told."""

    node: NodeName
    endpoint: Endpoint
    certificate: bytes
    """Verified, DER."""
    status: Status
    skew: Skew
    directory: Directory


async def ask_sn(asker: Asker, endpoint: Endpoint) -> OwnSn:
    """Ask the SN at `endpoint`, which must be of an organisation that `asker` trusts now: our own.

    Raises:
        Unreachable: not there, or no answer in time.
        VerificationError: not one of our organisation's nodes, or no SN.
        Refused, DecodeError: it does not answer as an SN's API does.
    """
    limit = Limit(asker.timeout_s)
    leaf = await fetch_certificate(asker.trust, asker.source, endpoint, timeout_s=limit.left())
    name = asker.trust.verify(leaf)
    if name.role is not Role.SN:
        raise VerificationError(f"{show_member(name)} answers there, expected an SN")
    address = Address(node=name.id, endpoint=endpoint)
    directory = await SnClient(asker.client, address, timeout_s=limit.left()).directory()
    # Asked last, over a connection that is there: its time is only the way there and back.
    loop = asyncio.get_running_loop()
    sn = SnClient(asker.client, address, timeout_s=limit.left())
    asked_ms, began_s = asker.clock(), loop.time()
    status = await sn.status()
    skew = measure(asked_ms, round((loop.time() - began_s) * 1000), status.clock_ms)
    return OwnSn(node=name, endpoint=endpoint, certificate=leaf, status=status, skew=skew, directory=directory)


async def ask_trainings(asker: Asker, sn: OwnSn) -> tuple[Training, ...]:
    """All training contracts.

    Raises:
        Unreachable, VerificationError, Refused, DecodeError: as for `ask_sn`.
    """
    limit = Limit(asker.timeout_s)
    address = Address(node=sn.node.id, endpoint=sn.endpoint)
    found = []
    for name in await SnClient(asker.client, address, timeout_s=limit.left()).contracts():
        training = await SnClient(asker.client, address, timeout_s=limit.left()).training(name)
        if training is not None:
            found.append(training)
    return tuple(found)


def judge_failure(endpoint: Endpoint, error: SwarmError) -> Finding:
    """Our SN was not reached, or is not what answers there."""
    what, advice = explain_failure(error, endpoint.host)
    match error:
        case Unreachable():
            what = f"not reached: {what}"
        case Refused() if error.code != UNKNOWN_METHOD:
            pass  # it is an SN's API, and says why it does not answer
        case _:
            what = f"no SN's API of ours: {what}"
    return problem(Topic.SN, str(endpoint), what, f"{advice}; --sn (SWARM_SN) is HOST:PORT of its API, port 30304")


def judge_sn(sn: OwnSn, at_ms: int) -> list[Finding]:
    """Findings about our SN: certificate, height, and whether it follows."""
    subject, status = show_member(sn.node), sn.status
    text = f"{sn.endpoint}, version {status.version}, height {status.height}"
    if status.time_ms:
        text += f", last block {show_age(status.clock_ms - status.time_ms)} ago"
    renew = "renew it (`swarm cert renew`); the SN takes it over while it runs"
    found = [judge_period(Topic.SN, subject, parse_certificate(sn.certificate), at_ms, f"{text}; certificate", renew)]
    if status.ledger == "cometbft":
        return [*found, _judge_validator(subject, status)]
    sentinel = short_name(status.sentinel)
    if status.problem:
        text = f"does not follow the sentinel {sentinel}: {status.problem}"
        advice = f"see below whether SN {sentinel} is reached: until then nothing new is agreed on here"
        found.append(problem(Topic.SN, subject, text, advice))
    elif status.sentinel == status.node:
        found.append(ok(Topic.SN, subject, "is the sentinel: it orders what the network agrees on"))
    else:
        found.append(ok(Topic.SN, subject, f"follows the sentinel {sentinel}"))
    return found


def _judge_validator(subject: str, status: Status) -> Finding:
    if status.problem:
        text = f"makes no blocks: {status.problem}"
        return problem(Topic.SN, subject, text, "see below which SNs are reached; their operators run this there")
    return ok(Topic.SN, subject, f"orders together with the others, {status.validators} validators in all")


def show_age(ms: int) -> str:
    """A time span for people, in its largest unit."""
    seconds = max(0, ms) // 1000
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
