"""Saying on the ledger that a peer leaves, so that its next program is safe from it. Spec: docs/spec/control.md, C-6.

A `Leave` that nobody answered may still be ordered, and after the next program's enrolment it would throw that one out.
So the next program waits until the ledger has answered: the same bytes are submitted again, which counts once at most.
"""

import asyncio
from typing import Final

from swarmlearning.contracts.messages import Leave
from swarmlearning.sn.client import Submitter
from swarmlearning.types import Code, ContractName

MAX_REASON: Final = 200
"""Characters of a reason that go on the ledger."""


class Farewell:
    """One `Leave`, until the ledger has answered it."""

    def __init__(self, submitter: Submitter, contract: ContractName, run: int, reason: str) -> None:
        """Prepare to leave a run, for a reason that people read; nothing is said yet."""
        self._submitter = submitter
        self._message = Leave(contract=contract, run=run, reason=reason[:MAX_REASON])
        self._signed = b""
        self._lock = asyncio.Lock()
        self.is_heard = False
        """Whether the ledger has answered, whatever it said: nothing of it is on its way any more."""

    async def say(self) -> None:
        """Have it ordered, unless it has been; who asks while another does waits for that.

        Raises:
            Refused: the SN cannot pass it on.
            Unreachable: the SN does not answer. It may still be ordered.
        """
        async with self._lock:
            while not self.is_heard:
                self._signed = self._signed or await self._submitter.prepare(self._message)
                submitted = await self._submitter.repeat(self._signed)
                # An expired one will never be ordered; another is needed.
                self._signed = b""
                self.is_heard = submitted.code is not Code.EXPIRED
