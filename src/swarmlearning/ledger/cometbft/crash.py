"""Where tests let a node die: the numbered points between and within ABCI's calls. Spec: section 4."""

import enum
from collections.abc import Callable


class CrashPoint(enum.IntEnum):
    """Where tests let a node die; what lies on disk is what its comment says."""

    BEFORE_INFO = 1  # the child has connected and asks where we stand
    BEFORE_INIT_CHAIN = 2  # the application is initialised, the chain not yet
    AFTER_INIT_CHAIN = 3  # the same; the child has no answer
    BEFORE_PREPARE = 4  # we are to propose
    AFTER_PREPARE = 5  # chosen, the child has no answer
    BEFORE_PROCESS = 6  # a proposal is here
    AFTER_PROCESS = 7  # judged, the child has no answer
    BEFORE_APPLY = 8  # the block is decided, and in the child's store
    AFTER_APPLY = 9  # executed in memory, the child has no answer
    BEFORE_COMMIT = 10  # the child has the outcome; nothing of ours is written
    AFTER_STORED = 11  # our file has the block's results, the application not its state
    AFTER_COMMIT = 12  # both are written; nobody here has heard of it, the child has no answer
    AFTER_TOLD = 13  # whoever submitted knows, the child has no answer


Crash = Callable[[CrashPoint], None]


def never_crash(point: CrashPoint) -> None:
    """What production runs with."""
    del point
