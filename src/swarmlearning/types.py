"""Identifiers and small records that every room shares.

Does not: validate X.509 material (`identity`), interpret ledger messages (`contracts`).
"""

import enum
import re
from typing import Final, Literal, NewType, Self
from urllib.parse import urlsplit

import msgspec

from swarmlearning.encoding import Record, sha256
from swarmlearning.errors import InvalidName

TrustDomain = NewType("TrustDomain", str)
"""An organisation: the trust domain of its SPIFFE-style identities, such as `cleveland.example`."""

NodeId = NewType("NodeId", str)
"""A node: `spiffe://<trust domain>/<network>/<role>/<name>`, exactly the URI SAN of its certificate."""

ContractName = NewType("ContractName", str)
"""A training contract's name, such as `defaultbb.cqdb.sml.hpe`."""

TaskName = NewType("TaskName", str)
"""A task's name, such as `user_env_build_task`."""

RunnerName = NewType("RunnerName", str)
"""A taskrunner's name, such as `defaulttaskbb.taskdb.sml.hpe`."""

LedgerKind = Literal["embedded", "cometbft"]
"""Who orders transactions: one sentinel, or the organisations' validators by more than two thirds."""

DEFAULT_CONTRACT: Final = ContractName("defaultbb.cqdb.sml.hpe")
"""The contract a program trains under when it names none."""

DEFAULT_RUNNER: Final = RunnerName("defaulttaskbb.taskdb.sml.hpe")
"""The taskrunner that is always there."""

SN_P2P_PORT: Final = 30303
SN_API_PORT: Final = 30304
SL_PORT: Final = 30305
CI_PORT: Final = 30306

MAX_SOCKET_PATH: Final = 100
"""Longest path of a Unix socket that is used, bytes; it may have 107 on Linux, 103 on macOS."""

MAX_NAME_BYTES: Final = 64
"""Longest part of a name (a label of a trust domain, a network, a node name)."""

_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9_.-]{0,62}[a-z0-9])?")
_PEER: Final = re.compile(r"[0-9a-f]{40}")
_CONTRACT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,127}")


class Role(enum.StrEnum):
    """What a certificate entitles its holder to be; a role counts only if the ledger lets the organisation hold it."""

    SN = "sn"
    SL = "sl"
    SWOP = "swop"
    OPERATOR = "operator"
    AUDITOR = "auditor"


class NodeName(msgspec.Struct, frozen=True, kw_only=True):
    """The four parts of a `NodeId`."""

    domain: TrustDomain
    network: str
    role: Role
    name: str

    def __post_init__(self) -> None:
        for what, value in (("trust domain", self.domain), ("network", self.network), ("node name", self.name)):
            check_label(what, value)

    @property
    def id(self) -> NodeId:
        """The identity as a URI, the form that certificates and the ledger carry."""
        return NodeId(f"spiffe://{self.domain}/{self.network}/{self.role.value}/{self.name}")

    @property
    def short(self) -> str:
        """`name@domain`, for people."""
        return f"{self.name}@{self.domain}"

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Parse a node id.

        Args:
            uri: `spiffe://<trust domain>/<network>/<role>/<name>`.

        Raises:
            InvalidName: the text is not such an identity.
        """
        expected = "expected spiffe://<trust domain>/<network>/<role>/<name>"
        if len(uri) > 512:
            raise InvalidName(f"node identity of {len(uri)} characters; {expected}, at most 512 characters")
        try:
            parts = urlsplit(uri)
        except ValueError as error:
            raise InvalidName(f"node identity {uri!r} is not a URI; {expected}") from error
        path = parts.path.split("/")
        if parts.scheme != "spiffe" or parts.query or parts.fragment or len(path) != 4 or path[0]:
            raise InvalidName(f"node identity {uri!r} is not a swarm identity; {expected}")
        try:
            role = Role(path[2])
        except ValueError as error:
            known = ", ".join(r.value for r in Role)
            raise InvalidName(f"node identity {uri!r} has the unknown role {path[2]!r}; roles: {known}") from error
        parsed = cls(domain=TrustDomain(parts.netloc), network=path[1], role=role, name=path[3])
        if parsed.id != uri:
            raise InvalidName(f"node identity {uri!r} is not in canonical form; expected {parsed.id}")
        return parsed


def check_label(what: str, value: str) -> str:
    """Return `value` if it may stand as one part of an identity.

    Raises:
        InvalidName: it has other characters than `a-z 0-9 . _ -`, or is empty or longer than 64.
    """
    if not _LABEL.fullmatch(value):
        shown = value if len(value) <= 80 else value[:77] + "..."
        raise InvalidName(f"{what} {shown!r}: expected 1-{MAX_NAME_BYTES} characters of a-z 0-9 . _ - (no capitals)")
    return value


def _check_name(what: str, value: str) -> str:
    if not _CONTRACT.fullmatch(value):
        shown = value if len(value) <= 80 else value[:77] + "..."
        raise InvalidName(f"{what} name {shown!r}: expected 1-128 characters of A-Z a-z 0-9 . _ / -")
    return value


def check_contract_name(value: str) -> ContractName:
    """Return `value` as a contract name.

    Raises:
        InvalidName: it has other characters than `A-Z a-z 0-9 . _ / -`, or is empty or longer than 128.
    """
    return ContractName(_check_name("contract", value))


def check_task_name(value: str) -> TaskName:
    """Return `value` as a task's name.

    Raises:
        InvalidName: as for `check_contract_name`.
    """
    return TaskName(_check_name("task", value))


def check_runner_name(value: str) -> RunnerName:
    """Return `value` as a taskrunner's name.

    Raises:
        InvalidName: as for `check_contract_name`.
    """
    return RunnerName(_check_name("taskrunner", value))


def short_name(node: NodeId) -> str:
    """`name@domain` of a node id, for people.

    Raises:
        InvalidName: `node` is not a node id.
    """
    return NodeName.parse(node).short


def decimal(millionths: int) -> str:
    """A number of millionths for people: `0.25`."""
    whole, rest = divmod(abs(millionths), 1_000_000)
    text = f"{whole}.{rest:06}".rstrip("0").rstrip(".")
    return f"-{text}" if millionths < 0 else text


class Endpoint(Record, frozen=True, kw_only=True):
    """Where a node can be reached.

    `via` names the SN through which an outbound-only node is reached (TLS end to end); empty means directly.
    """

    host: str
    port: int
    via: str = ""

    def __post_init__(self) -> None:
        if not self.host or len(self.host) > 253 or self.host.split() != [self.host] or min(self.host) < "!":
            raise InvalidName(f"host {self.host[:80]!r}: expected a DNS name or an IP address")
        if not 1 <= self.port <= 65535:
            raise InvalidName(f"port {self.port}: expected 1-65535")

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" + (f" via {self.via}" if self.via else "")

    @classmethod
    def parse(cls, text: str, default_port: int) -> Self:
        """Parse `host`, `host:port`, `[v6]` or `[v6]:port`.

        Raises:
            InvalidName: the text is none of these.
        """
        host, port = text, str(default_port)
        if text.startswith("["):
            host, _, rest = text[1:].partition("]")
            if rest:
                port = rest.removeprefix(":")
        elif text.count(":") == 1:
            host, port = text.split(":")
        if not port.isascii() or not port.isdigit():
            raise InvalidName(f"address {text!r}: expected host:port with a port of 1-65535, got port {port!r}")
        return cls(host=host, port=int(port))


class Validator(Record, frozen=True, kw_only=True):
    """Who proposes blocks and votes on them for an organisation (CometBFT engine)."""

    key: bytes
    """Ed25519 public key with which it votes, 32 bytes."""
    peer: str
    """Its peer-to-peer identity: the first 20 bytes of the SHA-256 of its node key, as 40 hexadecimal digits."""
    endpoint: Endpoint
    """Where other validators reach it."""

    def __post_init__(self) -> None:
        if len(self.key) != 32:
            raise InvalidName(f"validator key of {len(self.key)} bytes: expected an Ed25519 public key of 32")
        if not _PEER.fullmatch(self.peer):
            raise InvalidName(f"validator's peer id {self.peer[:80]!r}: expected 40 hexadecimal digits in lower case")
        if self.endpoint.via:
            raise InvalidName("a validator is reached directly, not through another SN")

    @property
    def address(self) -> bytes:
        """How votes and evidence name it, 20 bytes."""
        return sha256(self.key)[:20]


class Code(enum.IntEnum):
    """Why a transaction was or was not carried out."""

    OK = 0
    MALFORMED = 1  # not decodable, not canonical, too large
    SIGNATURE = 2  # signature does not hold
    NETWORK = 3  # made for another network
    EXPIRED = 4  # its expiry height has passed, or lies too far ahead
    REPLAYED = 5  # (signer, nonce) was seen before
    UNKNOWN_SIGNER = 6  # the signing key is not registered
    NOT_ALLOWED = 7  # the signer's role or organisation may not send this message
    STALE = 8  # names another run, round or attempt than the current one
    CONFLICT = 9  # contradicts what is on the ledger (settings, manifest, an earlier message)
    NOT_FOUND = 10  # names a contract or node that does not exist
    TOO_EARLY = 11  # block time does not yet agree that a wait is over
    BUSY = 12  # its organisation has as many transactions waiting here as it may have; the same may be sent again later
