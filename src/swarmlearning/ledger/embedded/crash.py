"""Where tests let a node die: the numbered points of a block's life and of a handover's. Spec: sections 3 and 6."""

import enum
from collections.abc import Callable


class CrashPoint(enum.IntEnum):
    """Where tests let a node die."""

    BEFORE_APPLY = 1  # nothing of the block exists
    AFTER_APPLY = 2  # executed in memory
    AFTER_STORED = 3  # the block is on disk, the application's state is not
    AFTER_COMMIT = 4  # both are on disk, nobody has heard of it
    BEFORE_ACKNOWLEDGE = 5  # followers may have it, whoever submitted has not been told


class HandoverPoint(enum.IntEnum):
    """Where tests let a node die around a handover."""

    BEFORE_PROMISE = 1  # an SN is to sign; nothing is written
    AFTER_PROMISE = 2  # the promise is on disk, nothing is signed
    AFTER_SIGNED = 3  # signed; nobody has the signature
    BEFORE_INSTALLED = 4  # a handover was verified here; nothing is written
    AFTER_INSTALLED = 5  # it is on disk; nobody orders or follows by it yet


Crash = Callable[[CrashPoint | HandoverPoint], None]


def never_crash(point: CrashPoint | HandoverPoint) -> None:
    """What production runs with."""
    del point
