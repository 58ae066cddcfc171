"""What a merge method is, and which there are.

Does not: know rounds, peers or files. Spec: docs/spec/merging.md, G-1 to G-5.
"""

import difflib
from collections.abc import Sequence
from typing import Final, Protocol

from swarmlearning.errors import ConfigurationError, NotYetAvailable
from swarmlearning.merge.mean import Mean
from swarmlearning.parameters.dtypes import Array


class MergeMethod(Protocol):
    """Arrays of several contributors in, one array out."""

    @property
    def name(self) -> str:
        """As settings and the ledger have it."""
        ...

    @property
    def coordinatewise(self) -> bool:
        """Whether an element of the result depends on nothing but that element of each contributor."""
        ...

    def merge_block(self, blocks: Sequence[Array], weights: Sequence[int], out: Array) -> None:
        """Merge flat arrays of one type and length into `out`.

        Args:
            blocks: one a contributor, in node-id order, native byte order.
            weights: one a contributor, at least 1 each.
            out: of the same type and length; not one of `blocks`.
        """
        ...


AVAILABLE: Final[dict[str, MergeMethod]] = {"mean": Mean()}
"""Every merge method of this release, by name."""

LATER: Final = ("coordmedian", "geomedian")
"""Documented methods that arrive in a later release."""


def merge_method(name: str) -> MergeMethod:
    """The merge method called `name`, in any case.

    Raises:
        NotYetAvailable: a documented method that this release lacks.
        ConfigurationError: no such method.
    """
    wanted = name.lower()
    if wanted in AVAILABLE:
        return AVAILABLE[wanted]
    available = ", ".join(AVAILABLE)
    if wanted in LATER:
        raise NotYetAvailable(f"merge method {wanted!r} arrives in a later release; available: {available}")
    near = difflib.get_close_matches(wanted[:80], (*AVAILABLE, *LATER), n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigurationError(f"merge method {name[:80]!r} is not known; {hint}available: {available}")
