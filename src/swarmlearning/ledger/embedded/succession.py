"""The operators' steps when a sentinel is replaced: propose, sign, install; each on an SN that is stopped.

The SN is stopped because what it signs depends on what it holds: the ledger's file is locked, so nothing comes in
between. Spec: docs/spec/ledger.md, section 6.

Does not: read or write the file that operators send each other (`sn.handing_over`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from swarmlearning.encoding import encode
from swarmlearning.errors import ConfigurationError, VerificationError
from swarmlearning.identity.signing import SigningKey
from swarmlearning.ledger.boundary import Application
from swarmlearning.ledger.embedded.blocks import hash_header, verify_header
from swarmlearning.ledger.embedded.chain import Chain
from swarmlearning.ledger.embedded.config import EmbeddedConfig
from swarmlearning.ledger.embedded.crash import Crash, never_crash
from swarmlearning.ledger.embedded.handovers import (
    MAX_HANDOVER_BYTES,
    Handover,
    Reign,
    SignedHandover,
    Voters,
    approve,
    is_tip,
    merge_approvals,
    signers_of,
    verify_successor,
)
from swarmlearning.types import NodeId

MAX_STEP: Final = 100
"""How far above the highest number that an SN knows a handover's may lie: nobody is talked into using them up."""


class Succession:
    """What one stopped SN says about who orders; made by `open_succession`."""

    def __init__(self, config: EmbeddedConfig, chain: Chain) -> None:
        self._config = config
        self._chain = chain

    @property
    def height(self) -> int:
        """Height at which this SN stands."""
        return self._chain.height

    @property
    def tip_hash(self) -> bytes:
        """Hash of its last block, 32 bytes."""
        return self._chain.tip_hash

    @property
    def reign(self) -> Reign:
        """Who orders the next block."""
        return self._chain.reigns.current

    @property
    def promised(self) -> Handover | None:
        """The newest handover that this SN has promised to sign."""
        return self._chain.reigning.promised

    @property
    def voters(self) -> Voters:
        """The SNs that count at its last block."""
        return self._chain.reigning.voters()

    def signers(self, signed: SignedHandover) -> list[NodeId]:
        """The SNs registered at our last block whose signature is there and holds."""
        return signers_of(signed, self.voters)

    def propose(self, key: SigningKey, sentinel: NodeId | None, number: int | None) -> SignedHandover:
        """Propose that from the next block on `sentinel` orders (None: this SN), and sign it.

        Done again after a crash it gives the same handover.

        Args:
            key: this SN's signing key.
            sentinel: the SN that is to order.
            number: the handover's; None: the one after the highest that this SN knows.

        Raises:
            ConfigurationError: no SN is registered, this one or `sentinel` is not, or the number is taken.
            Broken: the disk failed.
        """
        tip, voters = self._chain.tip, self.voters
        if tip is None or not voters:
            raise ConfigurationError("no SN is registered on this ledger yet: found the network anew instead")
        chosen = sentinel if sentinel is not None else self._me(key)
        successor_key = voters.get(chosen)
        if successor_key is None:
            raise ConfigurationError(f"{chosen} is not registered; expected one of: {', '.join(sorted(voters))}")
        promised = self.promised
        known = max(self.reign.epoch, promised.epoch if promised is not None else 0)
        handover = Handover(
            network=self._config.network,
            epoch=known + 1 if number is None else number,
            tip=tip.signed_header,
            sentinel=chosen,
            key=successor_key,
        )
        if promised is not None and number is None and promised.epoch > self.reign.epoch:
            again = Handover(
                network=handover.network,
                epoch=promised.epoch,
                tip=handover.tip,
                sentinel=handover.sentinel,
                key=handover.key,
            )
            handover = again if again == promised else handover
        return self.sign(key, SignedHandover(handover=handover, approvals=()))

    def _me(self, key: SigningKey) -> NodeId:
        for node, registered in self.voters.items():
            if registered == key.public:
                return node
        raise ConfigurationError(
            f"signing key {key.public.hex()[:16]} is no registered SN's at block {self.height}: give --sign-key of "
            "this SN; one that is not registered does not vote"
        )

    def sign(self, key: SigningKey, signed: SignedHandover) -> SignedHandover:
        """Add this SN's signature; the promise that it stands for is on disk before it is made.

        Raises:
            VerificationError: the handover is another network's, or its tip or its new sentinel is not what this SN
                knows.
            ConfigurationError: this SN may not sign it: it signed another one, or stands elsewhere. Says what to do.
            Broken: the disk failed.
        """
        handover = signed.handover
        if not handover.network == handover.tip.header.network == self._config.network:
            raise VerificationError(f"handover of network {handover.network!r}; this SN's is {self._config.network!r}")
        self._check_number(handover)
        self._check_place(handover)
        verify_successor(handover, self.voters)
        me = self._me(key)
        self._chain.reigning.promise(handover)
        approval = approve(handover, me, key)
        self._chain.reigning.hand_out()
        return merge_approvals(handover, [*signed.approvals, approval])

    def _check_number(self, handover: Handover) -> None:
        """One handover of a number, and none below one that was signed."""
        promised, number = self.promised, handover.epoch
        if number <= self.reign.epoch:
            raise ConfigurationError(
                f"handover {number} is past: handover {self.reign.epoch} made {self.reign.sentinel} the sentinel"
            )
        known = max(self.reign.epoch, promised.epoch if promised is not None else 0)
        if promised is not None and (number < promised.epoch or (number == promised.epoch and handover != promised)):
            raise ConfigurationError(
                f"this SN signed handover {promised.epoch} to {promised.sentinel} after block {promised.height}, and "
                f"signs no other one of a number up to {promised.epoch}; agree on one proposal: if it is to be another "
                f"one, make it with swarm network handover propose --number {promised.epoch + 1}"
            )
        if number > known + MAX_STEP:
            raise ConfigurationError(f"handover {number}: expected a number of {known + 1} to {known + MAX_STEP}")

    def _check_place(self, handover: Handover) -> None:
        """Its tip is our last block: nothing that we have is lost, and we know who was registered there."""
        height = handover.height
        if height < self.height:
            raise ConfigurationError(
                f"this SN stands at block {self.height}, the handover is after block {height}: it would lose "
                f"blocks {height + 1}-{self.height}; propose here instead"
            )
        if height == self.height:
            if not is_tip(handover, self.tip_hash):
                raise VerificationError(
                    f"block {height} is {self.tip_hash.hex()[:16]} here, {hash_header(handover.tip.header).hex()[:16]} "
                    "in the handover: the sentinel told two stories; the SNs that hold the same block are to agree, "
                    "the others replicate anew"
                )
            return
        reign = self._chain.reigns.at(height)
        header = handover.tip.header
        if header.proposer != reign.sentinel:
            raise ConfigurationError(
                f"block {height} is {header.proposer[:512]}'s, but this SN, at block {self.height}, knows of no "
                "handover to it: start it, let it follow, and sign then"
            )
        verify_header(handover.tip, self._config.network, reign.key)
        try:
            self._chain.reigning.check_promise(height)
        except VerificationError:
            # An older promise would keep it from ever getting there.
            self._chain.reigning.promise(handover)
        raise ConfigurationError(
            f"this SN stands at block {self.height}, the handover is after block {height}: start it with --sentinel "
            f"HOST:PORT of the SN that proposes (which must run too) until it stands there, stop it, and sign then"
        )

    def install(self, parts: Sequence[SignedHandover]) -> SignedHandover:
        """Go by a handover, whose signatures may be spread over `parts`; done again, nothing happens.

        Raises:
            ConfigurationError: the parts are of different handovers, or this SN does not stand at its tip.
            VerificationError: it lacks signatures, or does not follow what this SN knows.
            Broken: the disk failed.
        """
        handover = parts[0].handover
        if any(part.handover != handover for part in parts):
            raise ConfigurationError("these files are of different handovers: give those of one")
        known = self._chain.reigning.handovers.get(handover.epoch)
        if known is not None and known.handover == handover:
            return known
        if handover.height > self.height:
            raise ConfigurationError(
                f"this SN stands at block {self.height}, the handover is after block {handover.height}: start it with "
                f"--sentinel HOST:PORT of an SN that stands there, stop it, and apply then"
            )
        together = merge_approvals(handover, [approval for part in parts for approval in part.approvals])
        counted = set(self.signers(together))
        kept = merge_approvals(handover, [approval for approval in together.approvals if approval.node in counted])
        if len(encode(kept)) > MAX_HANDOVER_BYTES:
            raise ConfigurationError(f"the handover takes more than {MAX_HANDOVER_BYTES} bytes: apply fewer signatures")
        self._chain.install(kept)
        return kept


@contextmanager
def open_succession(config: EmbeddedConfig, app: Application, crash: Crash = never_crash) -> Iterator[Succession]:
    """Open the ledger of a stopped SN, also where a fork stopped it.

    Raises:
        ConfigurationError: the SN runs, or the ledger is of another genesis.
        Broken: the ledger is damaged, or does not belong to the application.
    """
    chain = Chain(config, app, crash)
    chain.open(despite_fork=True)
    try:
        yield Succession(config, chain)
    finally:
        chain.close()
