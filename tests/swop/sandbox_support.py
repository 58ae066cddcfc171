"""Whether programs can be kept apart from this machine: tests that need it are skipped where the system forbids it."""

import functools
import shutil
import subprocess
from typing import Final

import pytest

_TRY: Final = ("bwrap", "--unshare-user", "--unshare-pid", "--unshare-net", "--ro-bind", "/", "/", "--proc", "/proc")


@functools.cache
def has_bubblewrap() -> bool:
    """Whether bubblewrap is installed and may make what it needs; not whether ours is used rightly."""
    if shutil.which("bwrap") is None:
        return False
    return subprocess.run([*_TRY, "true"], check=False, capture_output=True).returncode == 0


NEEDS_SANDBOX: Final = pytest.mark.skipif(
    not has_bubblewrap(), reason="bubblewrap (bwrap) is not installed, or this system does not let it work"
)
