"""Which merge methods there are, and how one is had by name.

Does not: know rounds, peers or files. Spec: docs/spec/merging.md, G-3 to G-6.
"""

import difflib
from typing import Final

from swarmlearning.errors import ConfigurationError
from swarmlearning.merge.base import MergeMethod, Options
from swarmlearning.merge.fedavgm import FedAvgM
from swarmlearning.merge.geomedian import GeoMedian
from swarmlearning.merge.krum import Krum, MultiKrum
from swarmlearning.merge.mean import Mean
from swarmlearning.merge.median import CoordMedian
from swarmlearning.merge.plugins import load_plugin, plugin_names
from swarmlearning.merge.trimmed import TrimmedMean

__all__ = ["BUILT_IN", "MergeMethod", "merge_method"]

BUILT_IN: Final[dict[str, type[MergeMethod]]] = {
    method.name: method for method in (Mean, CoordMedian, GeoMedian, TrimmedMean, Krum, MultiKrum, FedAvgM)
}
"""Every method of this release, by name."""

OTHERWISE_CALLED: Final = {
    "average": "'mean'",
    "avg": "'mean'",
    "fedavg": "'mean'",
    "median": "'coordmedian' or 'geomedian'",
}
"""What is meant by names that look like another method's."""


def merge_method(name: str, options: Options = (), source: str = "") -> MergeMethod:
    """The merge method called `name`, in any case.

    Args:
        name: of a built-in method, or of one that an installed distribution brings.
        options: by name, in millionths; what is not given is as the method has it.
        source: what the method must be of; empty: anything.

    Raises:
        ConfigurationError: no such method, options that it does not take, or another source.
    """
    wanted = name.lower()
    if wanted in BUILT_IN:
        method: MergeMethod | None = BUILT_IN[wanted](options)
    else:
        method = load_plugin(wanted, options)
    if method is None:
        available = (*BUILT_IN, *plugin_names())
        near = [repr(close) for close in difflib.get_close_matches(wanted[:80], available, n=1)]
        meant = OTHERWISE_CALLED.get(wanted, "".join(near))
        hint = f"did you mean {meant}? " if meant else ""
        raise ConfigurationError(f"merge method {name[:80]!r} is not known; {hint}available: {', '.join(available)}")
    if source and method.source != source:
        raise ConfigurationError(
            f"merge method {wanted!r} is of {method.source or 'this release'!r} here and of {source[:200]!r} in the "
            "contract: all peers must install the same distribution"
        )
    return method
