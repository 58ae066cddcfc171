"""Becomes another program, which the kernel ends together with whoever started this one, even if that is killed.

A program of its own, started by file name with `-I -S`; it imports nothing but the standard library. Linux only: on
other systems it merely becomes the other program, which then ends when its connection to us breaks.

Arguments: process id of who starts it, then the other program and its arguments.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that this process gets when the thread that started it ends."""

GONE = 1


def main() -> int:
    """Bind this process to its parent and become the program; returns only if that is of no use."""
    parent, *argv = sys.argv[1:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            sys.stderr.write(f"ERROR: prctl: {os.strerror(ctypes.get_errno())}\n")
            return GONE
    if os.getppid() != int(parent):
        return GONE  # it ended before the kernel knew
    # Python ignores this one, and what is ignored stays so in the program.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execv(argv[0], argv)  # noqa: S606 - no shell: a list, from our own supervisor
    except OSError as error:
        sys.stderr.write(f"ERROR: {argv[0]} cannot be started: {error.strerror}\n")
    return GONE


if __name__ == "__main__":
    sys.exit(main())
