"""The legal order of the calls that drive the application, by the grammar of `boundary` and CometBFT's specification.

One `CallOrder` is one life of the child: it begins when the child connects. Echo, Flush, Info, CheckTx, Query and the
reading of snapshots are legal at any time; everything else must follow the grammar. Whoever breaks it is no CometBFT
that we know, and nothing more is done for it.

Does not: judge blocks. Spec: docs/spec/ledger-cometbft.md, section 2.
"""

import enum

from swarmlearning.errors import Broken


class Step(enum.Enum):
    """What has happened in a child's life."""

    CONNECTED = enum.auto()  # it has said nothing yet
    INFORMED = enum.auto()  # it knows where we stand
    INITIALISED = enum.auto()  # the chain begins
    DECIDING = enum.auto()  # proposals may be made and judged
    APPLIED = enum.auto()  # a block was executed; it must be committed next
    RESTORING = enum.auto()  # a snapshot was offered, and its chunks come


class CallOrder:
    """Follows one child's calls.

    Args:
        height: of the last block that is committed here.
    """

    def __init__(self, height: int) -> None:
        self._height = height
        self._step = Step.CONNECTED

    @property
    def height(self) -> int:
        """Of the last block that was committed, as far as this life's calls say."""
        return self._height

    def info(self) -> None:
        """The child asks where we stand; what it does first of all, and may do at any time."""
        if self._step is Step.CONNECTED:
            self._step = Step.INFORMED

    def init_chain(self) -> None:
        """The chain begins.

        Raises:
            Broken: it began before.
        """
        if self._step is not Step.INFORMED or self._height != 0:
            raise self._illegal("InitChain", 0)
        self._step = Step.INITIALISED

    def offer_snapshot(self) -> None:
        """A snapshot is offered, instead of all blocks up to it.

        A height above 0 is one that was restored in a life before: whether it is, the application knows.

        Raises:
            Broken: the chain began in this life.
        """
        if self._step not in (Step.CONNECTED, Step.INFORMED, Step.RESTORING):
            raise self._illegal("OfferSnapshot", 0)
        self._step = Step.RESTORING

    def apply_chunk(self) -> None:
        """A chunk of the snapshot that was offered comes.

        Raises:
            Broken: none was.
        """
        if self._step is not Step.RESTORING:
            raise self._illegal("ApplySnapshotChunk", 0)

    def restored(self, height: int) -> None:
        """The last chunk was taken: this node stands at the snapshot's height."""
        self._height, self._step = height, Step.DECIDING

    def decide(self, call: str, height: int) -> None:
        """A proposal or a vote for the block of `height`; `call` is its name.

        Raises:
            Broken: that is not the block to be decided, or another one waits to be committed.
        """
        self._expect_next(call, height)
        self._step = Step.DECIDING

    def finalize(self, height: int) -> None:
        """A block is decided and to be executed.

        Raises:
            Broken: it is not the next one, or another one waits to be committed.
        """
        self._expect_next("FinalizeBlock", height)
        self._step = Step.APPLIED

    def commit(self) -> None:
        """The executed block is to be committed.

        Raises:
            Broken: none was executed.
        """
        if self._step is not Step.APPLIED:
            raise self._illegal("Commit", self._height)
        self._height += 1
        self._step = Step.DECIDING

    def _expect_next(self, call: str, height: int) -> None:
        begun = (self._step is Step.INFORMED and self._height > 0) or self._step in (Step.INITIALISED, Step.DECIDING)
        if not begun or height != self._height + 1:
            raise self._illegal(call, height)

    def _illegal(self, call: str, height: int) -> Broken:
        return Broken(
            f"CometBFT called {call} for height {height} when it had {self._step.name.lower()} and block "
            f"{self._height} was the last committed: no such order is legal; is it another program or release?"
        )
