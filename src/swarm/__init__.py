"""`from swarm import SwarmCallback`: the callback under its older import path and with the older argument names.

Picks Keras or PyTorch when the callback is made: by `model`, else by what the program has imported.
"""

import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from swarmlearning.callbacks.arguments import OLDER_NAMES
from swarmlearning.errors import ConfigurationError

if TYPE_CHECKING:
    from swarmlearning import pyt, tf

__all__ = ["SwarmCallback"]


def SwarmCallback(**arguments: object) -> "tf.SwarmCallback | pyt.SwarmCallback":  # noqa: N802  # the name of a class that it stands for
    """Make a `swarmlearning.tf.SwarmCallback`, or a `swarmlearning.pyt.SwarmCallback` for a PyTorch program.

    Args:
        **arguments: as in docs/reference/callback.md; also by their older names, such as `rv_interval`.

    Raises:
        ConfigurationError: an argument is missing, given under two names, or does not fit.
    """
    present: dict[str, Any] = {}
    for name, value in arguments.items():
        current = OLDER_NAMES.get(name, name)
        if current in present:
            raise ConfigurationError(f"SwarmCallback: {current} is given twice, also under an older name: keep one")
        present[current] = value
    for required, older in (("syncFrequency", "rv_interval"), ("minPeers", "min_peers")):
        if required not in present:
            raise ConfigurationError(f"SwarmCallback: {required} (formerly {older}) is missing")
    if _is_torch(present.get("model")):
        from swarmlearning.pyt import SwarmCallback as Chosen
    else:
        from swarmlearning.tf import SwarmCallback as Chosen  # type: ignore[assignment]  # either one
    return Chosen(**present)


def _is_torch(model: object) -> bool:
    """Whether the program is a PyTorch one."""
    if model is not None:
        # By name, as looking must not import a framework. A Keras model on the torch backend is also a torch module.
        roots = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
        return "torch" in roots and not roots & {"keras", "tf_keras", "tensorflow"}
    for root in ("keras", "tensorflow"):
        if root in sys.modules:
            return False
    if "torch" in sys.modules:
        return True
    return importlib.util.find_spec("keras") is None and importlib.util.find_spec("torch") is not None
