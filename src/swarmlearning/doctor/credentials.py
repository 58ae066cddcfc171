"""Our own certificate, key and CA certificates: there, safe, fitting each other, and for how long.

`PemSource.load` has the last word on whether they are an identity; the checks before it find what it does not tell,
and each on its own, so that one bad file does not hide the others. Spec: docs/spec/identity.md.
"""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from swarmlearning.doctor.findings import Finding, Topic, Verdict, ok, problem, skipped, warning, worst
from swarmlearning.encoding import Record
from swarmlearning.errors import IdentityError, SwarmError, VerificationError
from swarmlearning.identity.certificate import Certificate, parse_certificate, show_name, show_time
from swarmlearning.identity.describe import WARN_DAYS
from swarmlearning.identity.files import read_secret
from swarmlearning.identity.pem import read_certificates
from swarmlearning.identity.source import Credential, PemSource
from swarmlearning.identity.verify import read_node, verify_issuer
from swarmlearning.types import Role

_DAY_MS: Final = 86_400_000
_GIVE: Final = "give --cert, --key and --cacert (SWARM_ID_CERT, SWARM_ID_KEY, SWARM_ID_CACERT) of a node or operator"

Make = Callable[[Topic, str, str, str], Finding]


class Paths(Record, frozen=True, kw_only=True):
    """Where the files are, as the user said it; empty: not said."""

    cert: str = ""
    key: str = ""
    cacert: str = ""
    capath: str = ""

    @property
    def given(self) -> bool:
        """Whether anything was said."""
        return bool(self.cert or self.key or self.cacert or self.capath)


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What the check gave: the findings, and the identity itself if it can be used."""

    findings: tuple[Finding, ...]
    source: PemSource | None = None
    credential: Credential | None = None


def check_identity(paths: Paths, host_ip: str, at_ms: int) -> Identity:
    """Check the files, each by itself and together.

    Args:
        paths: where they are.
        host_ip: address that the node is to be reached at; empty if not said.
        at_ms: now.
    """
    if not paths.given:
        return Identity(findings=(skipped(Topic.IDENTITY, "certificate", "no identity was given", _GIVE),))
    found: list[Finding] = []
    if paths.cert:
        found += check_certificate(Path(paths.cert), host_ip, at_ms)
    if paths.key:
        found += check_key(Path(paths.key))
    if paths.cacert:
        found += check_authorities(Path(paths.cacert), at_ms)
    try:
        source = PemSource.from_paths(paths.cert, paths.key, paths.cacert, paths.capath)
        credential = source.load(at_ms)
    except IdentityError as error:
        together = "give certificate, key and CA certificate that were issued together (`swarm cert issue`)"
        advice = "see above" if worst(found) is Verdict.PROBLEM else together
        if not any(finding.verdict is Verdict.PROBLEM and str(error).endswith(finding.text) for finding in found):
            found.append(problem(Topic.IDENTITY, "identity", str(error), advice))
        return Identity(findings=tuple(found))
    node = credential.node
    text = f"{node.short}, {node.role.value} of the network {node.network}; certificate, key and CA belong together"
    return Identity(findings=(*found, ok(Topic.IDENTITY, "identity", text)), source=source, credential=credential)


def check_certificate(path: Path, host_ip: str, at_ms: int) -> list[Finding]:
    """A node's certificate: readable, whose, for how long, for which hosts, and who may replace it."""
    subject = f"certificate {path}"
    try:
        der = read_certificates(path, "certificate")[0]
        facts = parse_certificate(der)
        node = read_node(der)
    except (IdentityError, VerificationError) as error:
        return [
            problem(
                Topic.IDENTITY,
                subject,
                _without(subject, error),
                "give a node's certificate with --cert (SWARM_ID_CERT)",
            )
        ]
    renew = f"renew it: swarm cert renew --ca CA {path}"
    found = [judge_period(Topic.IDENTITY, subject, facts, at_ms, f"names {node.short};", renew)]
    # Operators and auditors listen nowhere.
    if host_ip and host_ip not in facts.hosts and node.role in (Role.SN, Role.SL):
        text = f"names {', '.join(facts.hosts) or 'no host'}, not --host-ip {host_ip}"
        advice = f"swarm nodes go by the identity and do not mind; others do: issue it with --host {host_ip}"
        found.append(warning(Topic.IDENTITY, subject, text, advice))
    return found + _check_writable(subject, path)


def check_key(path: Path) -> list[Finding]:
    """A private key: readable by us and by nobody whom it does not concern."""
    subject = f"key {path}"
    try:
        read_secret(path, "key")
        mode = stat.S_IMODE(path.stat().st_mode)
    except IdentityError as error:
        return [
            problem(
                Topic.IDENTITY, subject, _without(subject, error), "give the key with --key (SWARM_ID_KEY), mode 0600"
            )
        ]
    except OSError as error:
        return [problem(Topic.IDENTITY, subject, str(error.strerror or error), "check the path and its rights")]
    if mode & 0o020:
        text = f"its group may replace it (mode {mode:04o})"
        return [warning(Topic.IDENTITY, subject, text, f"run: chmod 600 {path}")]
    group = "its group may read it too" if mode & 0o040 else "only its owner may read it"
    return [ok(Topic.IDENTITY, subject, f"readable; {group} (mode {mode:04o})")]


def check_authorities(path: Path, at_ms: int) -> list[Finding]:
    """The CA certificates of our own organisation: readable, CAs, for how long, and who may replace them."""
    subject = f"CA certificate {path}"
    try:
        found = []
        for der in read_certificates(path, "CA certificate"):
            verify_issuer(der)
            facts = parse_certificate(der)
            renew = "agree on a new CA with the other members before it ends"
            name = show_name(facts.subject)
            found.append(judge_period(Topic.IDENTITY, subject, facts, at_ms, f"is {name};", renew))
    except (IdentityError, VerificationError) as error:
        advice = "give the PEM file of your organisation's CA with --cacert (SWARM_ID_CACERT)"
        return [problem(Topic.IDENTITY, subject, _without(subject, error), advice)]
    return found + _check_writable(subject, path)


def judge_period(topic: Topic, subject: str, facts: Certificate, at_ms: int, text: str, renew: str) -> Finding:
    """Whether a certificate is valid, and for long enough; `text` comes before, `renew` is what to do at its end."""
    if at_ms < facts.not_before_ms:
        early = f"{text} not valid before {show_time(facts.not_before_ms)}, it is {show_time(at_ms)} here"
        return problem(
            topic, subject, early, "set this machine's clock (NTP); if it is right, issue the certificate anew"
        )
    if at_ms > facts.not_after_ms:
        return problem(topic, subject, f"{text} expired on {show_time(facts.not_after_ms)}", renew)
    days = (facts.not_after_ms - at_ms) // _DAY_MS
    if days < WARN_DAYS:
        return warning(topic, subject, f"{text} expires in {days} days, on {show_time(facts.not_after_ms)}", renew)
    return ok(topic, subject, f"{text} valid until {show_time(facts.not_after_ms)}")


def _without(subject: str, error: SwarmError) -> str:
    """An error's message without the subject that it begins with."""
    return str(error).removeprefix(f"{subject}: ")


def _check_writable(subject: str, path: Path) -> list[Finding]:
    """Whoever may replace a certificate chooses whom we are, or whom we believe."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if not mode & 0o022:
        return []
    who = "every user of this machine" if mode & 0o002 else "its group"
    advice = f"run: chmod go-w {path}"
    return [warning(Topic.IDENTITY, subject, f"{who} may replace it (mode {mode:04o})", advice)]
