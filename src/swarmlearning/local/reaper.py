"""Ends process groups when whoever started them is gone, however that came about.

A program of its own, started by file name with `-I -S`: it imports nothing but the standard library and costs a few
milliseconds. Its standard input is a pipe that only the supervisor holds; the kernel closes it when the supervisor
ends, even by SIGKILL, and then every group still on the list gets SIGTERM and, a little later, SIGKILL. No node or
user program has to cooperate. Does not reach processes that moved to a session of their own.

Lines on standard input: `+<group>` puts a process group on the list, `-<group>` takes it off.
"""

import os
import signal
import sys
import time
from collections.abc import Iterable

GRACE_S = 3.0
"""Between SIGTERM and SIGKILL."""


def signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; whether there was one."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def follow(lines: Iterable[bytes]) -> set[int]:
    """Keep the list until the supervisor is gone; return the groups still on it."""
    groups: set[int] = set()
    for line in lines:
        sign, number = line[:1], line[1:].strip()
        if not number.isdigit() or int(number) < 2:  # 0 and 1 would mean ourselves or everyone
            continue
        if sign == b"+":
            groups.add(int(number))
        elif sign == b"-":
            groups.discard(int(number))
    return groups


def end_groups(groups: set[int], grace_s: float = GRACE_S) -> None:
    """Ask the groups to end, and after `grace_s` seconds make them."""
    left = {group for group in groups if signal_group(group, signal.SIGTERM)}
    deadline = time.monotonic() + grace_s
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        left = {group for group in left if signal_group(group, 0)}
    for group in left:
        signal_group(group, signal.SIGKILL)


def main() -> None:
    """Run until standard input ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end_groups(follow(sys.stdin.buffer))


if __name__ == "__main__":
    main()
