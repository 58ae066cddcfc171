"""Who orders which block, as far as this node knows, and what it has promised about it.

Verifies handovers against the SNs registered at their tip, keeps them with the blocks, and judges evidence by the
reign that it falls into. Does not: ask other nodes (`following`), or guide operators (`succession`). Spec: section 6.
"""

import logging
from typing import Final

from swarmlearning.errors import Broken, ConfigurationError, ForkDetected, VerificationError
from swarmlearning.ledger.boundary import Application
from swarmlearning.ledger.embedded.blocks import (
    Evidence,
    hash_header,
    is_contradiction,
    verify_evidence,
    verify_header,
)
from swarmlearning.ledger.embedded.config import EmbeddedConfig
from swarmlearning.ledger.embedded.crash import Crash, HandoverPoint
from swarmlearning.ledger.embedded.handovers import (
    Handover,
    Reign,
    Reigns,
    SignedHandover,
    Voters,
    is_majority,
    is_tip,
    signers_of,
    verify_handover,
)
from swarmlearning.ledger.embedded.promise import PromiseFile
from swarmlearning.ledger.embedded.store import BlockStore

_LOG: Final = logging.getLogger("swarmlearning.ledger")


class Reigning:
    """The reigns, from the genesis's sentinel on.

    Attributes:
        reigns: who orders which block.
        promised: the newest handover that this node signed or is to sign.
        handovers: those in force here, by epoch, as they are handed to other nodes.

    Args:
        config: the first sentinel, and where the promise lies.
        app: tells which SNs are registered.
        crash: called at each point where tests want the node to die.
    """

    def __init__(self, config: EmbeddedConfig, app: Application, crash: Crash) -> None:
        self._config = config
        self._app = app
        self._crash = crash
        self._promise = PromiseFile(config.data_dir)
        self._store: BlockStore | None = None
        self._counted: dict[int, Voters] = {}
        self.reigns = Reigns(Reign(epoch=0, after=0, sentinel=config.sentinel, key=config.sentinel_key))
        self.promised: Handover | None = None
        self.handovers: dict[int, SignedHandover] = {}

    def open(self, store: BlockStore) -> None:
        """Take up what is on disk; every stored handover is verified anew.

        Raises:
            Broken: one does not hold, or the promise cannot be read.
        """
        self._store = store
        self.promised = self._promise.load()
        for signed, voters in store.load_handovers():
            handover, before = signed.handover, self.reigns.current
            try:
                if handover.epoch <= before.epoch or handover.height < before.after:
                    raise VerificationError(f"handover {handover.epoch} does not follow handover {before.epoch}")
                block = store.read(handover.height)
                if block is None or not is_tip(handover, hash_header(block.header)):
                    raise VerificationError(f"handover {handover.epoch} does not follow its block {handover.height}")
                verify_handover(signed, self._config.network, voters)
            except VerificationError as error:
                raise Broken(f"the stored ledger cannot be used: {error}; replicate it anew") from error
            self._enter(signed, voters)

    def _enter(self, signed: SignedHandover, voters: Voters) -> None:
        self.reigns.add(signed.handover)
        self.handovers[signed.handover.epoch] = signed
        self._counted[signed.handover.epoch] = voters

    def check_voters(self, height: int) -> None:
        """Where a replay passes a handover, learn at first hand who counted.

        Raises:
            Broken: the stored handover was counted by others than the SNs registered at its tip.
        """
        for epoch, signed in self.handovers.items():
            if signed.handover.height == height and self._app.voters() != self._counted[epoch]:
                raise Broken(
                    f"the stored ledger cannot be used: handover {epoch} was counted by other SNs than those that are "
                    f"registered at block {height}; replicate it anew"
                )

    def voters(self) -> Voters:
        """The SNs that count at the committed height, with their keys."""
        return dict(self._app.voters())

    # --- promises ---------------------------------------------------------------------------------------------

    def promise(self, handover: Handover) -> None:
        """Promise, durably, to sign no other handover of its epoch and to follow no former sentinel beyond its tip.

        Raises:
            Broken: the disk failed.
        """
        self._crash(HandoverPoint.BEFORE_PROMISE)
        self._promise.save(handover)
        self.promised = handover
        self._crash(HandoverPoint.AFTER_PROMISE)

    def hand_out(self) -> None:
        """This node has signed what it promised, and is about to hand the signature out."""
        self._crash(HandoverPoint.AFTER_SIGNED)

    def check_promise(self, height: int) -> None:
        """Do nothing if this node may still have a block of this height from whoever is known to order it.

        Raises:
            VerificationError: it signed that this sentinel orders no block of this height any more.
        """
        promised, reign = self.promised, self.reigns.at(height)
        if promised is None or reign.epoch >= promised.epoch or height <= promised.height:
            return
        raise VerificationError(
            f"this SN signed handover {promised.epoch} to {promised.sentinel} after block {promised.height}: it takes "
            f"no block {height} of {reign.sentinel}; complete that handover, or propose another one "
            "(swarm network handover)"
        )

    # --- handovers --------------------------------------------------------------------------------------------

    def install(self, signed: SignedHandover, height: int, tip_hash: bytes) -> None:
        """Go by a handover after the block at which this node stands.

        Raises:
            VerificationError: it does not follow what is known, is not after our last block, or lacks signatures.
            Broken: the disk failed.
        """
        handover, current = signed.handover, self.reigns.current
        # 1. its epoch is a new one
        if handover.epoch <= current.epoch:
            raise VerificationError(f"handover {handover.epoch} is past: handover {current.epoch} is in force")
        # 2. its tip is our last block
        if handover.height != height or not is_tip(handover, tip_hash):
            tip = hash_header(handover.tip.header).hex()[:16]
            raise VerificationError(
                f"handover {handover.epoch} is after block {handover.height}, {tip}; this node stands at block "
                f"{height}, {tip_hash.hex()[:16]}"
            )
        # 3. network, new sentinel, majority
        voters = self.voters()
        verify_handover(signed, self._config.network, voters)
        if self._store is None:
            raise Broken("a handover came before the store was opened")
        self._crash(HandoverPoint.BEFORE_INSTALLED)
        self._store.save_handover(signed, voters)
        self._crash(HandoverPoint.AFTER_INSTALLED)
        self._enter(signed, voters)
        _LOG.info("%s: %s orders after block %d (handover %d)", self._config.node, handover.sentinel, height,
                     handover.epoch)  # fmt: skip

    def check_rival(self, signed: SignedHandover) -> None:
        """Compare another node's handover of our current epoch with ours.

        Raises:
            ForkDetected: they differ and both have a majority: some SN signed two of one epoch.
        """
        theirs, epoch = signed.handover, self.reigns.current.epoch
        kept = self.handovers.get(theirs.epoch)
        if kept is None or theirs.epoch != epoch or kept.handover == theirs:
            return
        ours, voters = kept.handover, self._counted[epoch]
        signers = signers_of(signed, voters)
        if not is_majority(len(signers), len(voters)):
            return
        twice = ", ".join(sorted(set(signers) & set(signers_of(kept, voters))))
        raise ForkDetected(
            f"two handovers {epoch} have a majority, to {ours.sentinel} after block {ours.height} and to "
            f"{theirs.sentinel} after block {theirs.height}; signed both: {twice}. The network stops; agree on one "
            "sentinel (swarm network handover propose --number)"
        )

    def check_void(self, signed: SignedHandover, height: int) -> None:
        """Find out whether a handover elsewhere than at our last block, `height`, ended the reign that stands here.

        Who was registered at its tip is not known here: it counts if a majority of the SNs registered at our own last
        block signed it.

        Raises:
            ConfigurationError: it does; says what the operator has to do.
        """
        handover, voters = signed.handover, self.voters()
        if handover.epoch <= self.reigns.current.epoch or handover.network != self._config.network:
            return
        if is_majority(len(signers_of(signed, voters)), len(voters)):
            raise self.deposed(handover, void=height >= handover.height)

    def deposed(self, handover: Handover, *, void: bool) -> ConfigurationError:
        """What the operator of a node hears that cannot go on because of a handover; `void`: it holds other blocks."""
        steps: list[str] = []
        if void:
            steps.append(
                "this SN holds other blocks than those handed over, which are void: move ledger.sqlite* and "
                f"state.sqlite* away from {self._config.data_dir} (keep the keys and handover.promise)"
            )
        if self._config.is_sentinel:
            steps.append("start this SN with --sentinel HOST:PORT of the new sentinel")
        return ConfigurationError(
            f"a majority of the SNs made {handover.sentinel} the sentinel after block {handover.height} (handover "
            f"{handover.epoch}); {', then '.join(steps) or 'start this SN again'}"
        )

    # --- evidence ---------------------------------------------------------------------------------------------

    def verify_evidence(self, evidence: Evidence) -> None:
        """Check that `evidence` convicts the reigning sentinel: what was signed before the handover is settled by it.

        Raises:
            VerificationError: it does not.
        """
        reign, network = self.reigns.current, self._config.network
        promised = self.promised
        if promised is not None and promised.epoch > reign.epoch:
            raise VerificationError(
                f"no evidence counts against {reign.sentinel}: this SN signed handover {promised.epoch}, which ends "
                "its reign"
            )
        low, high = sorted((evidence.first, evidence.second), key=lambda signed: signed.header.height)
        height = low.header.height
        if height > reign.after:
            verify_evidence(evidence, network, reign.key)
            return
        tip = self.handovers[reign.epoch].handover.tip if reign.epoch else None
        is_next = high.header.height == height + 1
        if tip is None or low.header != tip.header or not is_next or not is_contradiction(evidence):
            raise VerificationError(
                f"headers {height} and {high.header.height} are no evidence: handover {reign.epoch} after block "
                f"{reign.after} settled what was signed up to there"
            )
        # Its first block does not go on from the one at which it took over.
        verify_header(high, network, reign.key)

    def is_settled(self, evidence: Evidence) -> bool:
        """Whether a handover has replaced the sentinel that kept evidence convicts, or this SN signed one that will."""
        try:
            self.verify_evidence(evidence)
        except VerificationError:
            return self.reigns.current.epoch > 0 or self.promised is not None
        return False
