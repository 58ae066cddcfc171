"""SWCI, the command interface: one table of commands, and a shell, scripts, a REST service and a Python class over it.

`Swci` is the Python class; it is imported when it is asked for, so that nothing else needs what it needs.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarmlearning.swci.client import Swci as Swci
    from swarmlearning.swci.client import SwciError as SwciError
else:

    def __getattr__(name: str) -> object:
        if name not in ("Swci", "SwciError"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from swarmlearning.swci import client

        return getattr(client, name)
