"""The SL process: its identity, its port for other SLs, its SN, and the local door for ML programs."""

import asyncio
import contextlib
import mmap
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from msgspec.structs import replace

from swarmlearning.clock import system_clock
from swarmlearning.contracts.membership import is_registered
from swarmlearning.contracts.messages import RegisterNode, registration_bytes
from swarmlearning.errors import (
    ConfigurationError,
    DecodeError,
    PeerError,
    Refused,
    Unreachable,
    WaitExpired,
)
from swarmlearning.identity.signing import SigningKey
from swarmlearning.identity.source import Credential, PemSource
from swarmlearning.identity.trust import Trust, TrustStore
from swarmlearning.parameters.manifest import Manifest, decode_manifest
from swarmlearning.sl import drills
from swarmlearning.sl.control import Open
from swarmlearning.sl.desk import Desk, log
from swarmlearning.sl.door import Door
from swarmlearning.sl.journal import Journals
from swarmlearning.sl.methods import complete, method_of
from swarmlearning.sl.participation import Participation
from swarmlearning.sl.serving import ExchangeService
from swarmlearning.sl.store import ResultStore
from swarmlearning.sl.trainings import Trainings
from swarmlearning.sn.api import Directory
from swarmlearning.sn.client import SnClient, Submitter
from swarmlearning.transport.api import Address
from swarmlearning.transport.client import HttpClient
from swarmlearning.transport.discover import discover
from swarmlearning.transport.server import Server
from swarmlearning.types import Endpoint, Role, TrustDomain, check_contract_name

T = TypeVar("T")

SMALL_BYTES: Final = 1 << 20
"""Up to this many bytes of parameters are hashed and merged without a thread: about a millisecond."""

REFRESH_S: Final = 5.0
"""How often the members' authorities are read from the SN, seconds."""

SN_WAIT_S: Final = 120.0
"""How long the SN may take to answer at start, seconds."""

LINGER_S: Final = 30.0
"""With `exit_when_done`: how long after the last program and training the SL still serves others, seconds."""

MAX_NAME: Final = 255


class SlConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What an SL is started with."""

    data: Path
    control: Path
    exchange: Path
    host: str
    """Address we listen on and, without `reached`, the one that other SLs reach us at."""
    port: int
    sn: Endpoint
    wait_max_s: float
    exit_when_done: bool
    lease_ms: int | None = None
    """Silence after which this SL suspects another, milliseconds; None: as the training's settings say."""
    grace_ms: int | None = None
    """How long it wants rounds to wait for the others; None: as the training's settings say."""
    leads: bool = True
    """Whether it may be in charge of merging."""
    reached: Endpoint | None = None
    """Where other SLs reach us: behind a reverse proxy, or a container's published port."""


async def to_thread(function: Callable[..., T], *args: Any) -> T:  # noqa: ANN401  # forwarded as is
    """Run `function` in a worker thread: hashing, merging and disks release the interpreter's lock."""
    return await asyncio.to_thread(function, *args)


async def run_small(function: Callable[..., T], *args: Any) -> T:  # noqa: ANN401  # forwarded as is
    """Run `function`, which works on a model of at most `SMALL_BYTES`: in a thread only if it waits for the disk.

    Handing work over and back takes longer than the work itself then. What waits for the disk are the stores.
    """
    if isinstance(getattr(function, "__self__", None), ResultStore | Journals):
        return await to_thread(function, *args)
    return function(*args)


def own_trust(credential: Credential) -> dict[TrustDomain, Trust]:
    """Before the ledger is known only our own organisation counts."""
    return {credential.node.domain: Trust(issuers=credential.issuers, roles=tuple(Role))}


class SlNode:
    """A running SL."""

    def __init__(self, config: SlConfig, identity: PemSource) -> None:
        """Load the identity and prepare; nothing listens yet.

        Raises:
            IdentityError: the identity is missing, expired, or no SL's.
            ConfigurationError: a directory cannot be used.
        """
        self.config = config
        self.credential = identity.load(system_clock())
        if self.credential.node.role is not Role.SL:
            raise ConfigurationError(
                f"certificate {self.credential.certificate_path} is {self.credential.node.role.value}'s; expected sl's"
            )
        for directory in (config.data, config.exchange):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._key = SigningKey.load_or_create(config.data / "signing.key")
        self._trust = TrustStore(self.credential.node.network, system_clock, own_trust(self.credential))
        self._identity = identity
        self._client = HttpClient(self._trust, identity)
        self._store = ResultStore(config.exchange, self.credential.node.id)
        self._journals = Journals(config.data)
        self._trainings = Trainings(self._make, self._journals, lambda file: remove(config.exchange / file))
        self._server = Server(ExchangeService(self._trainings.desks), self._trust, identity)
        self._door = Door(config.control, self._begin, wait_max_s=config.wait_max_s)
        self._sn: SnClient
        self._submitter: Submitter
        self._endpoint: Endpoint

    async def start(self) -> int:
        """Listen, find the SN, register; returns the port for other SLs.

        Raises:
            AddressInUse: the port is taken, or another SL has the control directory.
            WaitExpired: the SN did not answer.
            Refused: the ledger refused our registration.
        """
        port = await self._server.start(self.config.host, self.config.port)
        self._endpoint = self.config.reached or Endpoint(host=self.config.host, port=port)
        directory = await self._find_sn()
        self._learn(directory)
        await self._register(directory)
        await self._trainings.resume()
        await self._door.start()
        return port

    async def _find_sn(self) -> Directory:
        """Connect to our SN, which may still be starting."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SN_WAIT_S
        told = ""
        while True:
            try:
                name = await discover(self._trust, self._identity, self.config.sn, timeout_s=10.0)
                if name.role is not Role.SN or name.domain != self.credential.node.domain:
                    raise Refused(f"{self.config.sn} is {name.id}, not the SN of {self.credential.node.domain}")
                self._sn = SnClient(self._client, Address(node=name.id, endpoint=self.config.sn))
                directory = await self._sn.directory()
                self._submitter = Submitter(self._sn, directory.network, self._key)
                return directory
            except Unreachable as error:
                if loop.time() > deadline:
                    raise WaitExpired(f"waited {SN_WAIT_S:.0f} s for the SN: {error}") from error
                if str(error) != told:
                    told = str(error)
                    log.info("waiting for the SN, %.0f s at most: %s", SN_WAIT_S, error)
                await asyncio.sleep(0.5)

    def _learn(self, directory: Directory) -> None:
        self._trust.update(
            {
                organisation.domain: Trust(
                    issuers=organisation.issuers, roles=organisation.roles, revoked=organisation.revoked
                )
                for organisation in directory.organisations
            }
        )

    async def _register(self, directory: Directory) -> None:
        """Register our signing key, unless the ledger knows it."""
        node = self.credential.node.id
        certificate = self.credential.certificate_der
        known = next((known for known in directory.nodes if known.node == node), None)
        registered = is_registered(known, self._key.public, certificate)
        if known is not None and registered and known.endpoint == self._endpoint:
            return
        proof = self.credential.sign_proof(registration_bytes(directory.network, node, self._key.public))
        await self._submitter.require(
            RegisterNode(node=node, certificate=certificate, proof=proof, endpoint=self._endpoint)
        )

    async def run(self) -> None:
        """Serve until cancelled; with `exit_when_done`, until every training is over."""
        try:
            async with asyncio.TaskGroup() as group:
                refresh = group.create_task(self._refresh_forever())
                if self.config.exit_when_done:
                    await self._wait_done()
                    refresh.cancel()
        finally:
            await self.stop()

    async def _refresh_forever(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                self._learn(await self._sn.directory())
            except (Unreachable, PeerError) as error:
                log.debug("cannot refresh the members: %s", error)

    async def _wait_done(self) -> None:
        """Until a program came, every training ended, and nobody has been connected for a while."""
        loop = asyncio.get_running_loop()
        idle_since = loop.time()
        while loop.time() - idle_since < LINGER_S:
            await asyncio.sleep(0.5)
            if self._door.programs or self._trainings.is_busy or not self._trainings.participations:
                idle_since = loop.time()

    async def stop(self) -> None:
        """Stop everything. Connected programs lose their connection, and wait for the next process (C-17)."""
        await self._door.stop()
        await self._trainings.stop()
        await self._server.stop()
        await self._client.close()

    async def _begin(self, request: Open) -> Participation:
        """Make a participation of a program's request, and keep it running.

        Raises:
            ConfigurationError: malformed name, file or manifest; a merge method that is not known or takes other
                options; or a program already takes part in that contract.
        """
        self._trainings.require_free(check_contract_name(request.contract))
        try:
            manifest = decode_manifest(request.manifest)
        except DecodeError as error:
            raise ConfigurationError(str(error)) from error
        own = map_program_file(self.config.exchange, request.file, manifest.size)
        request = replace(request, settings=complete(request.settings))
        keep_manifest(self.config.exchange, request.manifest, manifest)
        return await self._trainings.begin(request, manifest, own)

    def _make(self, request: Open, manifest: Manifest, own: memoryview | None) -> Participation:
        desk = Desk(
            node=self.credential.node.id,
            contract=request.contract,
            manifest=manifest,
            method=method_of(request.settings),
            client=self._client,
            submitter=self._submitter,
            store=self._store,
            journals=self._journals,
            scratch_dir=self.config.data,
            run_blocking=run_small if manifest.size <= SMALL_BYTES else to_thread,
        )
        desk.lease_ms, desk.grace_ms, desk.leads = self.config.lease_ms, self.config.grace_ms, self.config.leads
        drills.prepare(desk)
        return Participation(desk, self._sn, request, self._endpoint, own)


def keep_manifest(directory: Path, encoded: bytes, manifest: Manifest) -> None:
    """Leave the manifest beside the results, so that they can be read without the program.

    Raises:
        ConfigurationError: the directory cannot be written.
    """
    path = directory / f"manifest-{manifest.hash.hex()[:24]}.bin"
    partial = path.with_suffix(".part")
    try:
        # The directory is the program's, too: a link in the file's place must not be followed, nor a pipe waited for.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        with os.fdopen(os.open(partial, flags, 0o600), "wb") as file:
            file.write(encoded)
        partial.replace(path)
    except OSError as error:
        raise ConfigurationError(f"exchange directory {directory} cannot be written: {error.strerror}") from error


def remove(file: Path) -> None:
    """Delete a file that may be gone already."""
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)


def map_program_file(directory: Path, name: str, size: int) -> memoryview:
    """Map the file in which a program writes its parameters (C-8, C-9).

    Raises:
        ConfigurationError: not a plain name, not a regular file of ours, or of another size than the manifest says.
    """
    if not name or len(name) > MAX_NAME or name in (".", "..") or "/" in name or "\0" in name:
        raise ConfigurationError(f"parameter file {name[:80]!r}: expected a plain file name in the exchange directory")
    path = directory / name
    try:
        # Without blocking: a pipe in the file's place would stop the whole node.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigurationError(
            f"parameter file {path}: {error.strerror}; program and SL must name the same SWARM_EXCHANGE_DIR"
        ) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in (0, os.getuid()):
            raise ConfigurationError(f"parameter file {path}: expected a regular file of user {os.getuid()}")
        if status.st_size != size:
            raise ConfigurationError(f"parameter file {path}: {status.st_size} bytes, the manifest says {size}")
        if size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ))
    finally:
        os.close(descriptor)
