"""What an agent's profile says: which peers this host can start, with which identities and data, and who decides.

Records only; `profile_file` reads them from the product's YAML. Spec: docs/spec/swop.md; for people:
docs/reference/profile.md.
"""

import enum
from typing import Literal

import msgspec

from swarmlearning.types import SL_PORT, Endpoint, RunnerName

Variables = tuple[tuple[str, str | None], ...]
"""Environment variables in the order in which they were written; None: not to be set."""


class ManagerKind(enum.StrEnum):
    """What runs pairs and builds images."""

    PROCESS = "PROCESS"
    DOCKER = "DOCKER"
    PODMAN = "PODMAN"


class IdentityPart(enum.StrEnum):
    """What an identity's attribute names."""

    KEY = "KEY"
    CERT = "CERT"
    CACERT = "CACERT"
    CAPATH = "CAPATH"
    SPIFFE_SOCKETPATH = "SPIFFE_SOCKETPATH"


class Attribute(msgspec.Struct, frozen=True, kw_only=True):
    """One part of a peer's identity: where it is on this host, and where its SL's container sees it."""

    part: IdentityPart
    kind: Literal["BIND", "VOLUME"]
    source: str
    """A file or directory of this host, or a volume."""
    target: str
    sub_path: str = ""
    """Within the source; empty: the source itself."""


class PrivateData(msgspec.Struct, frozen=True, kw_only=True):
    """What a peer's program may read and nobody else: a directory of this host, or a volume."""

    source: str
    kind: Literal["BIND", "VOLUME"]


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """An option of the program's container, such as `gpus: all`; which there are a manager knows."""

    name: str
    value: str
    line: int
    """In the profile, for messages."""


class PeerNode(msgspec.Struct, frozen=True, kw_only=True):
    """One peer that this host can start (`slnodedef`): an SL and an ML program beside it."""

    idx: int
    """From 0; each once in a profile."""
    line: int
    """In the profile, for messages."""
    identity: tuple[Attribute, ...]
    sl_hostname: str | None = None
    sl_host_ip: str | None = None
    """Where other SLs reach it; None: this host's address on the way to its SN."""
    sl_port: int = SL_PORT
    """0: any that is free."""
    sl_fs_service: str | None = None
    private_data: PrivateData | None = None
    sl_environment: Variables = ()
    sl_labels: tuple[tuple[str, str], ...] = ()
    sl_network_ip: str | None = None
    """A fixed address in the container network."""
    program_hostname: str | None = None
    program_environment: Variables = ()
    program_labels: tuple[tuple[str, str], ...] = ()
    program_network_ip: str | None = None
    program_options: tuple[Option, ...] = ()


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """An agent's profile."""

    group: str
    """Stands in the names of what is started."""
    runners: tuple[RunnerName, ...]
    """Taskrunners that the agent listens to; the product's profiles name one."""
    policy: str | None = None
    """File of the institution's policy; None: a person is asked each time."""
    manager: ManagerKind | None = None
    """None: whatever this host has."""
    network: str | None = None
    """The container network."""
    sn: Endpoint | None = None
    """Of the own organisation; None: `swarm swop --sn`."""
    environment: Variables = ()
    """For all SLs."""
    dns: tuple[str, ...] = ()
    nodes: tuple[PeerNode, ...]
    """By idx; at most 64 (`task_records.MAX_UNITS`)."""
    warnings: tuple[str, ...] = ()
    """What is read but has no effect, for people."""
