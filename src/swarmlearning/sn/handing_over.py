"""Replacing a lost sentinel, as its operators do it: one small file that goes from SN to SN and collects signatures.

Works on the data directory of a stopped SN. The steps and their rules are the ledger's (`ledger.embedded.succession`);
who may vote is the application's. Guide: docs/how-to/replace-the-sentinel.md.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from swarmlearning.encoding import decode, encode
from swarmlearning.errors import ConfigurationError, DecodeError
from swarmlearning.identity.signing import SigningKey
from swarmlearning.ledger.embedded import SignedHandover, Succession, open_succession
from swarmlearning.ledger.embedded.blocks import hash_header
from swarmlearning.ledger.embedded.handovers import MAX_HANDOVER_BYTES, is_majority
from swarmlearning.sn.application import SwarmApplication, decode_genesis
from swarmlearning.sn.engines import embedded_config
from swarmlearning.sn.state import StateStore
from swarmlearning.types import NodeId, short_name


class StoppedSn(msgspec.Struct, frozen=True, kw_only=True):
    """Where a stopped SN keeps what it is."""

    data: Path
    genesis: Path
    sign_key: Path


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a handover is, as one SN sees it."""

    signed: SignedHandover
    signers: tuple[NodeId, ...]
    """Whose signature is there, holds and counts."""
    voters: tuple[NodeId, ...]
    """Whose majority is needed."""

    @property
    def has_majority(self) -> bool:
        """Whether more than half have signed."""
        return is_majority(len(self.signers), len(self.voters))


@contextmanager
def _opened(sn: StoppedSn) -> Iterator[Succession]:
    try:
        data = sn.genesis.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"genesis {sn.genesis}: {error.strerror}") from error
    genesis = decode_genesis(data)
    if not (sn.data / "ledger.sqlite").is_file():
        raise ConfigurationError(f"{sn.data} holds no ledger: give --data as the SN is started with")
    store = StateStore(sn.data / "state.sqlite")
    try:
        config = embedded_config(genesis, data, sn.data, genesis.sentinel, None)
        with open_succession(config, SwarmApplication(store)) as succession:
            yield succession
    finally:
        store.close()


def _progress(succession: Succession, signed: SignedHandover) -> Progress:
    return Progress(
        signed=signed,
        signers=tuple(succession.signers(signed)),
        voters=tuple(sorted(succession.voters)),
    )


def propose_handover(sn: StoppedSn, sentinel: NodeId | None, number: int | None, out: Path) -> Progress:
    """Propose that `sentinel` (None: this SN) orders from this SN's next block on, sign it, and write the file.

    Raises:
        ConfigurationError: this SN runs, is not registered, stands elsewhere, or signed another one.
        VerificationError: the proposal does not fit what this SN knows.
        Broken: the ledger is damaged or the disk failed.
    """
    key = SigningKey.load(sn.sign_key)
    with _opened(sn) as succession:
        signed = succession.propose(key, sentinel, number)
        save_handover(out, signed)
        return _progress(succession, signed)


def sign_handover(sn: StoppedSn, file: Path) -> Progress:
    """Add this SN's signature to the file.

    Raises:
        ConfigurationError, VerificationError, Broken: as for `propose_handover`.
    """
    key = SigningKey.load(sn.sign_key)
    before = load_handover(file)
    with _opened(sn) as succession:
        signed = succession.sign(key, before)
        save_handover(file, signed)
        return _progress(succession, signed)


def apply_handover(sn: StoppedSn, files: Sequence[Path]) -> Progress:
    """Go by a handover from now on; its signatures may be spread over copies of its file.

    Raises:
        ConfigurationError: this SN runs or stands elsewhere, or the files are of different handovers.
        VerificationError: signatures are missing, or it does not follow what this SN knows.
        Broken: the ledger is damaged or the disk failed.
    """
    parts = [load_handover(file) for file in files]
    with _opened(sn) as succession:
        installed = succession.install(parts)
        return _progress(succession, installed)


def read_standing(sn: StoppedSn) -> str:
    """Where a stopped SN stands, for the telephone, in one line for each matter.

    Raises:
        ConfigurationError, Broken: as for `propose_handover`.
    """
    with _opened(sn) as succession:
        reign, promised = succession.reign, succession.promised
        lines = [
            f"last block    {succession.height} {succession.tip_hash.hex()[:16]}",
            f"sentinel      {reign.sentinel}" + (f" (handover {reign.epoch})" if reign.epoch else " (genesis)"),
            f"SNs that vote {len(succession.voters)}: {', '.join(map(short_name, sorted(succession.voters)))}",
        ]
        if promised is not None and promised.epoch > reign.epoch:
            lines.append(
                f"signed        handover {promised.epoch} to {promised.sentinel} after block {promised.height}"
            )
        return "\n".join(lines)


def describe_handover(signed: SignedHandover) -> str:
    """A handover's file for people; what it claims, not verified."""
    handover = signed.handover
    header = handover.tip.header
    return "\n".join(
        (
            f"network       {handover.network}",
            f"handover      {handover.epoch}, fingerprint {handover.fingerprint.hex()}",
            f"after block   {handover.height} {hash_header(header).hex()[:16]}, of {header.proposer}",
            f"new sentinel  {handover.sentinel}",
            f"              signs blocks with {handover.key.hex()}",
            f"signed by     {', '.join(approval.node for approval in signed.approvals) or 'nobody'}",
        )
    )


def load_handover(file: Path) -> SignedHandover:
    """Read a handover's file; nothing in it is verified yet.

    Raises:
        ConfigurationError: it cannot be read, or is no such file.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_HANDOVER_BYTES + 1)
        return decode(data, SignedHandover, limit=MAX_HANDOVER_BYTES)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise ConfigurationError(
            f"{file} is no handover as `swarm network handover propose` makes it ({error})"
        ) from error


def save_handover(file: Path, signed: SignedHandover) -> None:
    """Write a handover's file, over an older copy of the same handover only.

    Raises:
        ConfigurationError: something else lies there, or it cannot be written.
    """
    if file.exists() and load_handover(file).handover != signed.handover:
        raise ConfigurationError(f"{file} holds another handover: choose another name, or remove it")
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        fresh.write_bytes(encode(signed))
        fresh.replace(file)
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}; sign again to another place") from error
