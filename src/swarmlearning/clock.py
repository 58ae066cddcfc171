"""Time, as something that can be handed in.

Wall-clock time is for block headers, certificates and people; waiting and leases use the event loop's monotonic
clock (`asyncio.get_running_loop().time()`), which the simulator replaces by a virtual one. Also: durations as
people write them.
"""

import time
from collections.abc import Callable

from swarmlearning.errors import ConfigurationError

WallClock = Callable[[], int]
"""Returns milliseconds since the Unix epoch."""


def system_clock() -> int:
    """Milliseconds since the Unix epoch, by this machine's clock."""
    return time.time_ns() // 1_000_000


def parse_duration(text: str) -> float:
    """`7200`, `120s`, `90m` or `2h` in seconds.

    Raises:
        ConfigurationError: none of these.
    """
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 0)
    try:
        value = float(text[:-1]) * unit if unit else float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise ConfigurationError(f"duration {text!r}: expected seconds, or a number with s, m or h such as 2h")
    return value
