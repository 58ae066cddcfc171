"""Asks every registered SN and SL: reachable, who it proves to be, which release, what time it has.

Of an SN only the handshake is seen: its port for others answers SNs alone. Spec: docs/spec/exchange.md, E-10.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from swarmlearning.clock import WallClock
from swarmlearning.contracts.records import Node
from swarmlearning.doctor.clocks import Skew, measure
from swarmlearning.doctor.credentials import judge_period
from swarmlearning.doctor.failures import explain_failure
from swarmlearning.doctor.findings import Finding, Topic, ok, problem, skipped, warning
from swarmlearning.encoding import decode
from swarmlearning.errors import Refused, SwarmError, Unreachable, VerificationError
from swarmlearning.identity.certificate import parse_certificate
from swarmlearning.identity.trust import TrustStore
from swarmlearning.sl.exchange import CALL_ABOUT, About
from swarmlearning.transport.api import Address, Client
from swarmlearning.transport.discover import fetch_certificate
from swarmlearning.transport.tls import Source
from swarmlearning.transport.wire import UNKNOWN_METHOD
from swarmlearning.types import Endpoint, LedgerKind, NodeName, Role


class Asker(msgspec.Struct, frozen=True, kw_only=True):
    """With what others are asked."""

    trust: TrustStore
    source: Source
    client: Client
    clock: WallClock
    role: Role
    """Our own."""
    timeout_s: float
    """For everything that one node is asked."""


class Limit:
    """The time left of a limit that several steps share."""

    def __init__(self, seconds: float) -> None:
        """Begin now."""
        self._end = asyncio.get_running_loop().time() + seconds

    def left(self) -> float:
        """Seconds; never 0, so that a step that begins too late says so itself."""
        return max(0.05, self._end - asyncio.get_running_loop().time())


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of asking one node."""

    node: NodeName
    endpoint: Endpoint
    certificate: bytes = b""
    """What it showed, DER; verified."""
    is_open: bool = False
    """Somebody listens there; who it is was not asked."""
    error: SwarmError | None = None
    """Why it was not reached, or is not who it should be."""
    about: About | None = None
    silence: SwarmError | None = None
    """Why, although reached, it did not say version and clock."""
    skew: Skew | None = None


async def ask_member(asker: Asker, node: NodeName, endpoint: Endpoint, ledger: LedgerKind = "embedded") -> Answer:
    """Ask one registered node.

    Where validators vote, an SN has registered its CometBFT's port, which speaks no TLS: whether it is open is all that
    can be found out from outside.
    """
    limit = Limit(asker.timeout_s)
    if node.role is Role.SN and ledger == "cometbft":
        try:
            await _knock(endpoint, limit.left())
        except Unreachable as error:
            return Answer(node=node, endpoint=endpoint, error=error)
        return Answer(node=node, endpoint=endpoint, is_open=True)
    try:
        leaf = await fetch_certificate(asker.trust, asker.source, endpoint, timeout_s=limit.left())
        found = asker.trust.verify(leaf)
        if found != node:
            raise VerificationError(f"{found.id} answers there")
    except SwarmError as error:
        return Answer(node=node, endpoint=endpoint, error=error)
    if node.role is not Role.SL or asker.role is Role.SWOP:
        return Answer(node=node, endpoint=endpoint, certificate=leaf)
    try:
        about, skew = await _ask_about(asker, Address(node=node.id, endpoint=endpoint), limit)
    except SwarmError as error:
        return Answer(node=node, endpoint=endpoint, certificate=leaf, silence=error)
    return Answer(node=node, endpoint=endpoint, certificate=leaf, about=about, skew=skew)


async def _knock(endpoint: Endpoint, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    except TimeoutError as error:
        raise Unreachable(f"no answer within {timeout_s:.0f} s") from error
    except OSError as error:
        raise Unreachable(error.strerror or str(error)) from error
    writer.close()


async def _ask_about(asker: Asker, to: Address, limit: Limit) -> tuple[About, Skew]:
    # Once for the connection: the second answer has only the way there and back in it.
    await asker.client.call(to, CALL_ABOUT, b"", timeout_s=limit.left())
    loop = asyncio.get_running_loop()
    asked_ms, began_s = asker.clock(), loop.time()
    raw = await asker.client.call(to, CALL_ABOUT, b"", timeout_s=limit.left())
    about = decode(raw, About)
    return about, measure(asked_ms, round((loop.time() - began_s) * 1000), about.clock_ms)


def choose_members(
    nodes: Sequence[Node], without: Sequence[str]
) -> tuple[list[tuple[NodeName, Endpoint]], list[Finding]]:
    """Whom to ask, and what is said of those who are not: `without` are names (`NAME@DOMAIN`) or identities."""
    asked: list[tuple[NodeName, Endpoint]] = []
    found: list[Finding] = []
    known: set[str] = set()
    for node in nodes:
        name = NodeName.parse(node.node)
        known |= {name.id, name.short}
        if name.role not in (Role.SN, Role.SL) or node.endpoint is None:
            continue
        if {name.id, name.short} & set(without):
            found.append(
                skipped(Topic.MEMBERS, show_member(name), "left out by --without", "leave --without out to ask it")
            )
        elif node.endpoint.via:
            reason = f"is reached via {node.endpoint.via}, which arrives in a later release"
            found.append(skipped(Topic.MEMBERS, show_member(name), reason, "ask its operator to run this there"))
        else:
            asked.append((name, node.endpoint))
    for wrong in sorted(set(without) - known):
        advice = "give NAME@DOMAIN of a registered node"
        found.append(warning(Topic.MEMBERS, f"--without {wrong}", "no node of that name is registered", advice))
    return asked, found


def judge_member(answer: Answer, at_ms: int) -> list[Finding]:
    """Findings about one node: one line, and more only where something is to be done."""
    subject, where = show_member(answer.node), str(answer.endpoint)
    if answer.error is not None:
        what, advice = explain_failure(answer.error, answer.endpoint.host)
        if isinstance(answer.error, Unreachable):
            what = f"not reached at {where}: {what}"
            advice += "; an SL that a program starts runs only with it" if answer.node.role is Role.SL else ""
        else:
            what = f"at {where}: {what}"
        advice += f"; if it is gone for good: --without {answer.node.short}"
        return [problem(Topic.MEMBERS, subject, what, advice)]
    if answer.is_open:
        return [ok(Topic.MEMBERS, subject, f"{where}, its CometBFT's port is open")]
    text = f"{where}, is who it should be"
    if answer.about is not None:
        text += f", version {answer.about.version}"
    renew = f"let {answer.node.domain} renew it (`swarm cert renew`)"
    facts = parse_certificate(answer.certificate)
    found = [judge_period(Topic.MEMBERS, subject, facts, at_ms, f"{text}; certificate", renew)]
    if answer.silence is not None:
        found.append(_judge_silence(subject, answer.silence))
    return found


def _judge_silence(subject: str, error: SwarmError) -> Finding:
    if isinstance(error, Refused) and error.code == UNKNOWN_METHOD:
        text = "does not tell version and clock: an older release"
        return warning(Topic.MEMBERS, subject, text, "install the same release everywhere")
    what, advice = explain_failure(error, "")
    return problem(Topic.MEMBERS, subject, f"reached, but did not answer: {what}", advice)


def show_member(name: NodeName) -> str:
    """A node for people, with its role: two of one organisation may differ in that alone."""
    return f"{name.role.value.upper()} {name.short}"
