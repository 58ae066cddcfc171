"""How long commands wait: variables of a context or of the environment, as the product we re-create has them."""

from collections.abc import Callable
from typing import Final

from swarmlearning.errors import ConfigurationError

RUN_LIMIT: Final = "SWCI_RUN_TASK_MAX_WAIT_TIME"
"""How long WAIT FOR TASKRUNNER waits for a RUN_SWARM task, minutes."""

OTHER_LIMIT: Final = "SWCI_GENERIC_TASK_MAX_WAIT_TIME"
"""The same for tasks of other types."""

OLD_LIMIT: Final = "SWCI_TASK_MAX_WAIT_TIME"
"""Older releases of the product have this one for all types; it counts where the type's own is not set."""

DEFAULT_MINUTES: Final = 120

MAX_MINUTES: Final = 527_040
"""A year."""


def check_limit(variable: str, text: str) -> None:
    """Refuse what could not be waited by; other variables and an empty text, which unsets one, are not looked at.

    Raises:
        ConfigurationError: it is no number of minutes.
    """
    if variable in (RUN_LIMIT, OTHER_LIMIT, OLD_LIMIT) and text:
        read_minutes(variable, text)


def read_minutes(variable: str, text: str) -> float:
    """Minutes as a person wrote them.

    Raises:
        ConfigurationError: it is no number, or none that can be waited.
    """
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes <= MAX_MINUTES:
        raise ConfigurationError(f"{variable} {text[:40]!r}: expected minutes, more than 0 and at most a year's")
    return minutes


def wait_limit(value_of: Callable[[str, str], str], *, is_run: bool) -> tuple[float, str]:
    """How long a task is waited for, seconds, and which variable says so.

    Args:
        value_of: a variable's value, or the default that is given with its name.
        is_run: the task is a RUN_SWARM.

    Raises:
        ConfigurationError: the variable is no number, or none that can be waited.
    """
    own = RUN_LIMIT if is_run else OTHER_LIMIT
    for variable in (own, OLD_LIMIT):
        if text := value_of(variable, ""):
            return read_minutes(variable, text) * 60, variable
    return DEFAULT_MINUTES * 60, own
