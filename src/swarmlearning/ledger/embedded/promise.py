"""What this node has promised by signing a handover: no other of its number, and no former sentinel's block beyond it.

One small file beside the signing key, not in the ledger's: a ledger that is copied from another node, restored from a
backup or replicated anew must not take back what this node's key has signed. Spec: docs/spec/ledger.md, section 6.
"""

import os
from pathlib import Path
from typing import Final

from swarmlearning.encoding import decode, encode
from swarmlearning.errors import Broken, DecodeError
from swarmlearning.ledger.embedded.handovers import Handover

FILE_NAME: Final = "handover.promise"
"""The file within the data directory."""


class PromiseFile:
    """Remembers the newest handover that this node promised.

    Args:
        directory: where the file lies; None keeps it in memory.
    """

    def __init__(self, directory: Path | None) -> None:
        self._path = None if directory is None else directory / FILE_NAME
        self._memory: Handover | None = None

    def load(self) -> Handover | None:
        """What was promised last, None if nothing was.

        Raises:
            Broken: the file is damaged or cannot be read.
        """
        if self._path is None:
            return self._memory
        try:
            return decode(self._path.read_bytes(), Handover)
        except FileNotFoundError:
            return None
        except (OSError, DecodeError) as error:
            raise Broken(
                f"{self._path} cannot be used ({error}): it says which handover this SN signed; restore the file"
            ) from error

    def save(self, handover: Handover) -> None:
        """Promise, durably: after a power cut the file is the new or the old one, whole.

        Raises:
            Broken: the disk failed; nothing is promised.
        """
        self._memory = handover
        if self._path is None:
            return
        fresh = self._path.with_name(f".{FILE_NAME}.new")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(encode(handover))
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._path)
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except OSError as error:
            raise Broken(f"{self._path} cannot be written ({error.strerror}): nothing was signed") from error
