"""The callback's documented arguments: parsed, checked, explained. Reference: docs/reference/callback.md.

The product's camelCase stands here and in `tf` and `pyt` only. Does not act on anything.
"""

import difflib
import enum
import logging
import operator
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar

import msgspec

from swarmlearning.callbacks.logs import default_logger
from swarmlearning.contracts.records import MAX_PEERS, Settings
from swarmlearning.errors import ConfigurationError, NotYetAvailable
from swarmlearning.types import DEFAULT_CONTRACT, ContractName, check_contract_name

_Member = TypeVar("_Member", bound=enum.IntEnum)


class CheckinModel(enum.IntEnum):
    """What a finished peer offers until all have finished; numbers as in the product."""

    inactive = 1  # nothing
    active = 2  # the last merged parameters
    snapshot = 3  # its last local parameters


class SLMergeMethod(enum.IntEnum):
    """How parameters are merged; numbers as in the product."""

    mean = 1
    coordmedian = 2
    geomedian = 3


class SLPlatforms(enum.IntEnum):
    """Machine-learning platforms; numbers as in the product."""

    TF = 1
    KERAS = 2
    PYTORCH = 3
    HF_TRANSFORMER = 4


class HFMode(enum.IntEnum):
    """What of a Hugging Face model is merged."""

    full = 1
    peft = 2


class Arguments(msgspec.Struct, frozen=True, kw_only=True):
    """A callback's checked arguments."""

    settings: Settings
    min_peers: int
    contract: ContractName = DEFAULT_CONTRACT
    weight: int = 1
    data: Any = None
    """`adsValData`, as given."""
    batch_size: int | None = None
    """`adsValBatchSize`."""
    total_epochs: int | None = None
    loss_name: str = ""
    loss_args: Mapping[str, Any] = {}
    metric_name: str = ""
    metric_args: Mapping[str, Any] = {}
    model: Any = None
    logger: logging.Logger


OLDER_NAMES: Final[Mapping[str, str]] = {
    "rv_interval": "syncFrequency",
    "sync_interval": "syncFrequency",
    "min_peers": "minPeers",
    "num_epochs": "totalEpochs",
    "val_data": "adsValData",
    "val_batch_size": "adsValBatchSize",
    "use_adaptive_rv": "useAdaptiveSync",
    "use_adaptive_sync": "useAdaptiveSync",
    "node_weightage": "nodeWeightage",
    "checkin_model_on_train_end": "checkinModelOnTrainEnd",
    "training_contract": "trainingContract",
}
"""Names that `from swarm import SwarmCallback` takes besides the present ones."""

# Warned about once each: a program may build many callbacks.
_warned: set[str] = set()


def parse_arguments(
    platforms: tuple[SLPlatforms, ...], sync_frequency: object, min_peers: object, given: Mapping[str, Any]
) -> Arguments:
    """Check what a `SwarmCallback` was given.

    Args:
        platforms: those that the callback serves, its own first.
        sync_frequency: `syncFrequency`.
        min_peers: `minPeers`.
        given: all other arguments, by the product's names; unknown ones are warned about, once.

    Raises:
        ConfigurationError: an argument has another type or range than documented.
        NotYetAvailable: an option that arrives in a later release.
    """
    logger = _logger(given.get("logger"))
    _warn_unknown(given, logger)
    _check_platform(platforms, given)
    if given.get("hfMode") is not None:
        _choice("hfMode", given["hfMode"], HFMode)
    if _flag("useAdaptiveSync", given.get("useAdaptiveSync", False)):
        raise NotYetAvailable(
            "useAdaptiveSync=True arrives in a later release: leave it out to merge every syncFrequency"
        )
    method = _choice("mergeMethod", given.get("mergeMethod", "mean"), SLMergeMethod)
    if method is not SLMergeMethod.mean:
        raise NotYetAvailable(f"mergeMethod={method.name!r} arrives in a later release: use 'mean'")
    checkin = _choice("checkinModelOnTrainEnd", given.get("checkinModelOnTrainEnd", "snapshot"), CheckinModel)
    modes: dict[CheckinModel, Literal["inactive", "snapshot", "active"]] = {
        CheckinModel.inactive: "inactive",
        CheckinModel.snapshot: "snapshot",
        CheckinModel.active: "active",
    }
    frequency = _integer("syncFrequency", sync_frequency, 1, 1_000_000_000)
    contract = given.get("trainingContract", DEFAULT_CONTRACT)
    if not isinstance(contract, str):
        raise ConfigurationError(f"trainingContract: expected a contract's name, got {contract!r}")
    return Arguments(
        settings=Settings(sync_frequency=frequency, merge_method=method.name, checkin_mode=modes[checkin]),
        min_peers=_integer("minPeers", min_peers, 1, MAX_PEERS),
        contract=check_contract_name(contract),
        weight=_integer("nodeWeightage", given.get("nodeWeightage", 1), 1, 100),
        data=given.get("adsValData"),
        batch_size=_optional("adsValBatchSize", given.get("adsValBatchSize")),
        total_epochs=_optional("totalEpochs", given.get("totalEpochs")),
        loss_name=_name("lossFunction", given.get("lossFunction")),
        loss_args=_keywords("lossFunctionArgs", given.get("lossFunctionArgs")),
        metric_name=_name("metricFunction", given.get("metricFunction")),
        metric_args=_keywords("metricFunctionArgs", given.get("metricFunctionArgs")),
        model=given.get("model"),
        logger=logger,
    )


KNOWN: Final = (
    *("syncFrequency", "minPeers", "trainingContract", "nodeWeightage", "mergeMethod", "checkinModelOnTrainEnd"),
    *("useAdaptiveSync", "adsValData", "adsValBatchSize", "totalEpochs", "lossFunction", "lossFunctionArgs"),
    *("metricFunction", "metricFunctionArgs", "model", "mlPlatform", "ml_platform", "hfMode", "logger"),
)
"""Every documented argument."""


def _warn_unknown(given: Mapping[str, Any], logger: logging.Logger) -> None:
    folded = {name.casefold(): name for name in KNOWN}
    for name in given:
        if name in KNOWN or name in _warned:
            continue
        _warned.add(name)
        near = difflib.get_close_matches(name.casefold(), folded, n=1)
        hint = f"did you mean {folded[near[0]]!r}?" if near else f"known: {', '.join(KNOWN)}"
        logger.warning("SwarmCallback does not know the argument %r and ignores it; %s", name, hint)


def _check_platform(platforms: tuple[SLPlatforms, ...], given: Mapping[str, Any]) -> None:
    for name in ("mlPlatform", "ml_platform"):
        if given.get(name) is None:
            continue
        platform = _choice(name, given[name], SLPlatforms)
        if platform not in platforms:
            raise ConfigurationError(
                f"{name}={platform.name!r}: this SwarmCallback is for {' or '.join(p.name for p in platforms)}; "
                f"import the one for {platform.name} or leave {name} out"
            )


def _choice(name: str, value: object, kind: type[_Member]) -> _Member:
    """A member of `kind`, by name in any case, or itself, or by the product's number."""
    if isinstance(value, str):
        for member in kind:
            if member.name.casefold() == value.strip().casefold():
                return member
    elif isinstance(value, enum.Enum):
        # The product's own enum, if a program brings it along, has the same names.
        return _choice(name, value.name, kind)
    elif isinstance(value, int) and not isinstance(value, bool) and value in list(kind):
        return kind(value)
    raise ConfigurationError(f"{name}: expected one of {', '.join(m.name for m in kind)}, got {value!r}")


def _integer(name: str, value: object, low: int, high: int) -> int:
    what = f"an integer from {low} to {high}" if high <= MAX_PEERS else "an integer above 0"
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


def _optional(name: str, value: object) -> int | None:
    return None if value is None else _integer(name, value, 1, 1_000_000_000)


def _flag(name: str, value: object) -> bool:
    if isinstance(value, str) and value.strip().casefold() in ("true", "false"):
        return value.strip().casefold() == "true"
    if value is None or (isinstance(value, bool | int) and value in (0, 1)):
        return bool(value)
    raise ConfigurationError(f"{name}: expected True or False, got {value!r}")


def _name(argument: str, value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or not value.isidentifier():
        raise ConfigurationError(f"{argument}: expected the name of a class, such as 'CrossEntropyLoss', got {value!r}")
    return value


def _keywords(argument: str, value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigurationError(f"{argument}: expected a dict of keyword arguments, got {value!r}")
    return dict(value)


def _logger(value: object) -> logging.Logger:
    if value is None:
        return default_logger()
    if not all(callable(getattr(value, name, None)) for name in ("debug", "info", "warning", "error")):
        raise ConfigurationError(f"logger: expected a logging.Logger, got {value!r}")
    return value  # type: ignore[return-value]  # anything that logs like one will do
