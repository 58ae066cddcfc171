"""Checks of single arguments: a value in, the checked value out, or one line that says what was expected.

Knows no argument by name; `arguments` does.
"""

import enum
import math
import operator
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Final, TypeVar

from swarmlearning.errors import ConfigurationError

Member = TypeVar("Member", bound=enum.IntEnum)

UNBOUNDED: Final = 1_000_000_000
"""An upper limit that is there for the ledger's sake; a message does not mention it."""


def choice(name: str, value: object, kind: type[Member]) -> Member:
    """A member of `kind`, by name in any case, or itself, or by the product's number.

    Raises:
        ConfigurationError: no member is meant.
    """
    if isinstance(value, str):
        for member in kind:
            if member.name.casefold() == value.strip().casefold():
                return member
    elif isinstance(value, enum.Enum):
        # The product's own enum, if a program brings it along, has the same names.
        return choice(name, value.name, kind)
    elif isinstance(value, int) and not isinstance(value, bool) and value in list(kind):
        return kind(value)
    raise ConfigurationError(f"{name}: expected one of {', '.join(m.name for m in kind)}, got {value!r}")


def word(name: str, value: object, words: Sequence[str]) -> str:
    """One of `words`, in any case.

    Raises:
        ConfigurationError: it is none of them.
    """
    if isinstance(value, str) and value.strip().casefold() in words:
        return value.strip().casefold()
    raise ConfigurationError(f"{name}: expected one of {', '.join(words)}, got {value!r}")


def integer(name: str, value: object, low: int, high: int) -> int:
    """An integer from `low` to `high`, of any type that is one.

    Raises:
        ConfigurationError: it is missing, of another type or out of range.
    """
    if high < UNBOUNDED:
        what = f"an integer from {low} to {high}"
    else:
        what = "an integer above 0" if low == 1 else f"an integer of at least {low}"
    if value is None:
        raise ConfigurationError(f"{name} is missing: expected {what}")
    if isinstance(value, bool):
        raise ConfigurationError(f"{name}: expected {what}, got {value!r}")
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # raises TypeError for what is no integer
    except TypeError as error:
        hint = "; convert it with int()" if isinstance(value, str | float) else ""
        raise ConfigurationError(f"{name}: expected {what}, got {value!r}{hint}") from error
    if not low <= number <= high:
        raise ConfigurationError(f"{name}: expected {what}, got {number}")
    return number


def optional_integer(name: str, value: object, high: int = UNBOUNDED) -> int | None:
    """An integer from 1 on, or None.

    Raises:
        ConfigurationError: as `integer`.
    """
    return None if value is None else integer(name, value, 1, high)


def real(name: str, value: object, low: float, high: float) -> float:
    """A finite number from `low` to `high`.

    Raises:
        ConfigurationError: it is of another type, not finite or out of range.
    """
    if not isinstance(value, bool) and isinstance(value, Real):
        number = float(value)
        if math.isfinite(number) and low <= number <= high:
            return number
    hint = "; convert it with float()" if isinstance(value, str) else ""
    raise ConfigurationError(f"{name}: expected a number from {low:g} to {high:g}, got {value!r}{hint}")


def flag(name: str, value: object) -> bool:
    """True or False, also as text or 0 and 1; None is False.

    Raises:
        ConfigurationError: it is none of these.
    """
    if isinstance(value, str) and value.strip().casefold() in ("true", "false"):
        return value.strip().casefold() == "true"
    if value is None or (isinstance(value, bool | int) and value in (0, 1)):
        return bool(value)
    raise ConfigurationError(f"{name}: expected True or False, got {value!r}")


def class_name(argument: str, value: object) -> str:
    """The name of a class; empty for None.

    Raises:
        ConfigurationError: it is no name.
    """
    if value is None:
        return ""
    if not isinstance(value, str) or not value.isidentifier():
        raise ConfigurationError(f"{argument}: expected the name of a class, such as 'CrossEntropyLoss', got {value!r}")
    return value


def keywords(argument: str, value: object) -> Mapping[str, Any]:
    """Keyword arguments; none for None.

    Raises:
        ConfigurationError: it is no dict with names as keys.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigurationError(f"{argument}: expected a dict of keyword arguments, got {value!r}")
    return dict(value)
