"""Time, as something that can be handed in.

Wall-clock time is for block headers, certificates and people; waiting and leases use the event loop's monotonic
clock (`asyncio.get_running_loop().time()`), which the simulator replaces by a virtual one.
"""

import time
from collections.abc import Callable

WallClock = Callable[[], int]
"""Returns milliseconds since the Unix epoch."""


def system_clock() -> int:
    """Milliseconds since the Unix epoch, by this machine's clock."""
    return time.time_ns() // 1_000_000
