"""The callback's documented arguments: parsed, checked, explained. Reference: docs/reference/callback.md.

The product's camelCase stands here and in `tf` and `pyt` only. Does not act on anything.
"""

import difflib
import enum
import logging
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

import msgspec

from swarmlearning.callbacks.checks import (
    UNBOUNDED,
    choice,
    class_name,
    flag,
    integer,
    keywords,
    optional_integer,
    real,
    word,
)
from swarmlearning.callbacks.evaluation import LARGEST, figures_needed, to_micro
from swarmlearning.callbacks.logs import default_logger
from swarmlearning.contracts.limits import MAX_OPTIONS
from swarmlearning.contracts.records import MAX_PEERS, MICRO, Adaptive, Settings, Target
from swarmlearning.errors import ConfigurationError
from swarmlearning.parameters.wire import Wire
from swarmlearning.types import DEFAULT_CONTRACT, ContractName, check_contract_name

_DAY_S: Final = 86_400.0

_WIRES: Final[Mapping[str, Wire]] = {wire: wire for wire in get_args(Wire)}

_MAX_METHOD: Final = 64
"""Longest name of a merge method, characters."""

_OPTION: Final = re.compile("[a-z][a-z0-9_]{0,31}")


class CheckinModel(enum.IntEnum):
    """What a finished peer offers until all have finished; numbers as in the product."""

    inactive = 1  # nothing
    active = 2  # the last merged parameters
    snapshot = 3  # its last local parameters


class SLMergeMethod(enum.IntEnum):
    """How parameters are merged; numbers as in the product. Other methods are named by text."""

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
    share: bool = True
    """`shareProgress`."""
    resume: bool = False
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
    """
    logger = _logger(given.get("logger"))
    _warn_unknown(given, logger)
    _check_platform(platforms, given)
    if given.get("hfMode") is not None:
        choice("hfMode", given["hfMode"], HFMode)
    contract = given.get("trainingContract", DEFAULT_CONTRACT)
    if not isinstance(contract, str):
        raise ConfigurationError(f"trainingContract: expected a contract's name, got {contract!r}")
    arguments = Arguments(
        settings=_settings(sync_frequency, given),
        min_peers=integer("minPeers", min_peers, 1, MAX_PEERS),
        contract=check_contract_name(contract),
        weight=integer("nodeWeightage", given.get("nodeWeightage", 1), 1, 100),
        data=given.get("adsValData"),
        batch_size=optional_integer("adsValBatchSize", given.get("adsValBatchSize")),
        total_epochs=optional_integer("totalEpochs", given.get("totalEpochs")),
        share=flag("shareProgress", given.get("shareProgress", True)),
        resume=flag("resume", given.get("resume", False)),
        loss_name=class_name("lossFunction", given.get("lossFunction")),
        loss_args=keywords("lossFunctionArgs", given.get("lossFunctionArgs")),
        metric_name=class_name("metricFunction", given.get("metricFunction")),
        metric_args=keywords("metricFunctionArgs", given.get("metricFunctionArgs")),
        model=given.get("model"),
        logger=logger,
    )
    _warn_idle(arguments, given)
    return arguments


KNOWN: Final = (
    *("syncFrequency", "minPeers", "trainingContract", "nodeWeightage", "mergeMethod", "mergeOptions", "witnesses"),
    "checkinModelOnTrainEnd",
    *("useAdaptiveSync", "adaptiveMin", "adaptiveMax", "adaptiveFactor", "adaptiveWindow"),
    *("targetLoss", "targetMetric", "targetMode", "patience", "leaseS", "graceS", "shareProgress", "resume"),
    *("adsValData", "adsValBatchSize", "totalEpochs", "lossFunction", "lossFunctionArgs"),
    *("metricFunction", "metricFunctionArgs", "model", "mlPlatform", "ml_platform", "hfMode", "logger", "wire"),
)
"""Every documented argument."""


# --- what all peers must agree on -------------------------------------------------------------------------------


def _settings(sync_frequency: object, given: Mapping[str, Any]) -> Settings:
    checkin = choice("checkinModelOnTrainEnd", given.get("checkinModelOnTrainEnd", "snapshot"), CheckinModel)
    modes: dict[CheckinModel, Literal["inactive", "snapshot", "active"]] = {
        CheckinModel.inactive: "inactive",
        CheckinModel.snapshot: "snapshot",
        CheckinModel.active: "active",
    }
    frequency = integer("syncFrequency", sync_frequency, 1, UNBOUNDED)
    lease_s = real("leaseS", _or_default(given, "leaseS", 10.0), 0.1, _DAY_S)
    grace_s = real("graceS", _or_default(given, "graceS", 30.0), 0.0, _DAY_S)
    return Settings(
        sync_frequency=frequency,
        merge_method=_merge_method(_or_default(given, "mergeMethod", "mean")),
        merge_options=_merge_options(given.get("mergeOptions")),
        witnesses=-1 if given.get("witnesses") is None else integer("witnesses", given["witnesses"], 0, 2),
        checkin_mode=modes[checkin],
        lease_ms=round(lease_s * 1000),
        grace_ms=round(grace_s * 1000),
        adaptive=_adaptive(frequency, given),
        target=_target(given),
        wire=_WIRES[word("wire", _or_default(given, "wire", "float32"), list(_WIRES))],
    )


def _merge_method(value: object) -> str:
    """A method's name in lower case. The SL knows which there are: plug-ins are installed beside it, not here."""
    if isinstance(value, enum.Enum) or not isinstance(value, str):
        return choice("mergeMethod", value, SLMergeMethod).name
    name = value.strip().lower()
    if not 1 <= len(name) <= _MAX_METHOD or any(not 33 <= ord(c) <= 126 for c in name):
        raise ConfigurationError(
            f"mergeMethod: expected a method's name of 1-{_MAX_METHOD} printable ASCII characters, got {value[:80]!r}"
        )
    return name


def _merge_options(value: object) -> tuple[tuple[str, int], ...]:
    """By name, rising, in millionths."""
    options = keywords("mergeOptions", value)
    if len(options) > MAX_OPTIONS:
        raise ConfigurationError(f"mergeOptions: expected at most {MAX_OPTIONS} options, got {len(options)}")
    for name in options:
        if not _OPTION.fullmatch(name):
            raise ConfigurationError(
                f"mergeOptions: expected names of 1-32 of a-z, 0-9 and _, a letter first, got {name[:40]!r}"
            )
    return tuple(
        (name, round(real(f"mergeOptions[{name!r}]", options[name], -LARGEST, LARGEST) * MICRO))
        for name in sorted(options)
    )


def _adaptive(frequency: int, given: Mapping[str, Any]) -> Adaptive | None:
    """T-36. Checked also where it is switched off, so that a mistake shows before it is needed."""
    longest = min(4 * frequency, UNBOUNDED)
    factor = real("adaptiveFactor", _or_default(given, "adaptiveFactor", 1.5), 1.01, 10.0)
    adaptive = Adaptive(
        shortest=integer("adaptiveMin", _or_default(given, "adaptiveMin", max(1, frequency // 4)), 1, frequency),
        longest=integer("adaptiveMax", _or_default(given, "adaptiveMax", longest), frequency, UNBOUNDED),
        factor_percent=round(factor * 100),
        window=integer("adaptiveWindow", _or_default(given, "adaptiveWindow", 10), 1, 100),
    )
    return adaptive if flag("useAdaptiveSync", given.get("useAdaptiveSync", False)) else None


def _target(given: Mapping[str, Any]) -> Target | None:
    """T-35."""
    loss, metric = (
        None if given.get(name) is None else to_micro(real(name, given[name], -LARGEST, LARGEST))
        for name in ("targetLoss", "targetMetric")
    )
    falls = word("targetMode", _or_default(given, "targetMode", "max"), ("max", "min")) == "min"
    patience = integer("patience", _or_default(given, "patience", 1), 1, 1_000)
    if loss is None and metric is None:
        return None
    return Target(loss_micro=loss, metric_micro=metric, metric_falls=falls and metric is not None, patience=patience)


def _or_default(given: Mapping[str, Any], name: str, default: object) -> object:
    """An argument that may be left out or be None."""
    value = given.get(name)
    return default if value is None else value


# --- what is said, and not refused ------------------------------------------------------------------------------


def _warn_unknown(given: Mapping[str, Any], logger: logging.Logger) -> None:
    folded = {name.casefold(): name for name in KNOWN}
    for name in given:
        if name in KNOWN or name in _warned:
            continue
        _warned.add(name)
        near = difflib.get_close_matches(name.casefold(), folded, n=1)
        hint = f"did you mean {folded[near[0]]!r}?" if near else f"known: {', '.join(KNOWN)}"
        logger.warning("SwarmCallback does not know the argument %r and ignores it; %s", name, hint)


def _warn_idle(arguments: Arguments, given: Mapping[str, Any]) -> None:
    """Point out arguments that do nothing without another one."""
    settings, logger = arguments.settings, arguments.logger
    idle = (
        (("adaptiveMin", "adaptiveMax", "adaptiveFactor", "adaptiveWindow"), "useAdaptiveSync=True", settings.adaptive),
        (("patience",), "targetLoss or targetMetric", settings.target),
        (("targetMode",), "targetMetric", given.get("targetMetric")),
    )
    for names, needed, there in idle:
        found = [name for name in names if given.get(name) is not None]
        if found and there is None:
            logger.warning("%s: without %s this has no effect", ", ".join(found), needed)
    wanting = ", ".join(figures_needed(settings))
    if wanting and arguments.data is None:
        logger.warning(
            "%s: without adsValData nothing is measured here, so only the figures of other peers count; give it at "
            "every peer that can",
            wanting,
        )
    elif wanting and not arguments.share:
        logger.warning("%s: with shareProgress=False only the figures of other peers count", wanting)


def _check_platform(platforms: tuple[SLPlatforms, ...], given: Mapping[str, Any]) -> None:
    for name in ("mlPlatform", "ml_platform"):
        if given.get(name) is None:
            continue
        platform = choice(name, given[name], SLPlatforms)
        if platform not in platforms:
            raise ConfigurationError(
                f"{name}={platform.name!r}: this SwarmCallback is for {' or '.join(p.name for p in platforms)}; "
                f"import the one for {platform.name} or leave {name} out"
            )


def _logger(value: object) -> logging.Logger:
    if value is None:
        return default_logger()
    if not all(callable(getattr(value, name, None)) for name in ("debug", "info", "warning", "error")):
        raise ConfigurationError(f"logger: expected a logging.Logger, got {value!r}")
    return value  # type: ignore[return-value]  # anything that logs like one will do
