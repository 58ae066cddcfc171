"""Every documented argument is accepted, checked and explained."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kept_lines import Lines

from swarmlearning.callbacks.arguments import (
    KNOWN,
    OLDER_NAMES,
    Arguments,
    CheckinModel,
    SLMergeMethod,
    SLPlatforms,
    parse_arguments,
)
from swarmlearning.callbacks.evaluation import Measured, WeightedMean, explain_missing, to_micro
from swarmlearning.callbacks.schedule import SyncSchedule
from swarmlearning.contracts.limits import check_settings
from swarmlearning.contracts.records import MAX_PEERS, Adaptive, Target
from swarmlearning.errors import ConfigurationError, InvalidName

DOCS = Path(__file__).parents[2] / "docs"


def parse(sync: Any = 128, peers: Any = 3, **given: Any) -> Arguments:
    return parse_arguments((SLPlatforms.KERAS, SLPlatforms.TF), sync, peers, given)


def test_defaults_are_the_documented_ones() -> None:
    arguments = parse()
    assert (arguments.settings.sync_frequency, arguments.min_peers) == (128, 3)
    assert (arguments.contract, arguments.weight) == ("defaultbb.cqdb.sml.hpe", 1)
    assert (arguments.settings.merge_method, arguments.settings.checkin_mode) == ("mean", "snapshot")
    assert arguments.settings.start == "draw"
    assert (arguments.settings.adaptive, arguments.settings.target) == (None, None)
    assert (arguments.settings.lease_ms, arguments.settings.grace_ms) == (10_000, 30_000)
    assert (arguments.share, arguments.resume) == (True, False)
    assert arguments.settings.wire == "float32"
    assert (arguments.data, arguments.batch_size, arguments.total_epochs) == (None, None, None)
    assert arguments.logger.name == "SwarmCallback"


def test_every_documented_argument_is_accepted_without_a_word(lines: Lines) -> None:
    arguments = parse(
        trainingContract="mine",
        nodeWeightage=100,
        mergeMethod="MEAN",
        mergeOptions={},
        witnesses=1,
        checkinModelOnTrainEnd="Inactive",
        useAdaptiveSync=True,
        adaptiveMin=16,
        adaptiveMax=np.int64(1024),
        adaptiveFactor=2,
        adaptiveWindow=5,
        targetLoss=np.float32(0.25),
        targetMetric=0.9,
        targetMode="MIN",
        patience=3,
        leaseS=2.5,
        graceS=0,
        shareProgress=True,
        resume="true",
        adsValData=(1, 2),
        adsValBatchSize=np.int64(8),
        totalEpochs=5,
        lossFunction="CrossEntropyLoss",
        lossFunctionArgs={"reduction": "sum"},
        metricFunction="F1Score",
        metricFunctionArgs={"num_classes": 10},
        model=object(),
        mlPlatform="keras",
        ml_platform=SLPlatforms.TF,
        hfMode="full",
        logger=logging.getLogger("SwarmCallback"),
        wire="INT8",
    )
    assert lines.records == []
    assert arguments.settings.wire == "int8"
    assert (arguments.contract, arguments.weight, arguments.batch_size) == ("mine", 100, 8)
    assert arguments.settings.checkin_mode == "inactive"
    assert arguments.settings.adaptive == Adaptive(shortest=16, longest=1024, factor_percent=200, window=5)
    target = Target(loss_micro=250_000, metric_micro=900_000, metric_falls=True, patience=3)
    assert arguments.settings.target == target
    assert (arguments.settings.lease_ms, arguments.settings.grace_ms) == (2_500, 0)
    assert (arguments.share, arguments.resume) == (True, True)
    assert (arguments.loss_name, dict(arguments.loss_args)) == ("CrossEntropyLoss", {"reduction": "sum"})


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"sync": 0}, "syncFrequency: expected an integer above 0, got 0"),
        ({"sync": "128"}, r"syncFrequency: .* got '128'; convert it with int"),
        ({"sync": 1.5}, "syncFrequency"),
        ({"sync": True}, "syncFrequency: .* got True"),
        ({"peers": 0}, f"minPeers: expected an integer from 1 to {MAX_PEERS}, got 0"),
        ({"peers": None}, "minPeers"),
        ({"nodeWeightage": 0}, "nodeWeightage: expected an integer from 1 to 100, got 0"),
        ({"nodeWeightage": 101}, "nodeWeightage"),
        ({"mergeMethod": ""}, "mergeMethod: expected a method's name of 1-64 printable ASCII characters, got ''"),
        ({"mergeMethod": "two words"}, "mergeMethod: .* got 'two words'"),
        ({"mergeMethod": 7}, "mergeMethod: expected one of mean, coordmedian, geomedian, got 7"),
        ({"mergeOptions": 0.2}, "mergeOptions: expected a dict"),
        ({"mergeOptions": {"Trim": 0.2}}, "mergeOptions: expected names of 1-32 of a-z, 0-9 and _.* got 'Trim'"),
        ({"mergeOptions": {"trim": "0.2"}}, r"mergeOptions\['trim'\]: expected a number .* convert it with float"),
        ({"mergeOptions": {"trim": float("nan")}}, r"mergeOptions\['trim'\]: expected a number"),
        ({"mergeOptions": dict.fromkeys("abcdefghi", 1)}, "mergeOptions: expected at most 8 options, got 9"),
        ({"witnesses": 3}, "witnesses: expected an integer from 0 to 2, got 3"),
        ({"witnesses": -1}, "witnesses"),
        ({"witnesses": True}, "witnesses"),
        ({"checkinModelOnTrainEnd": "never"}, "checkinModelOnTrainEnd: expected one of inactive, active, snapshot"),
        ({"useAdaptiveSync": "perhaps"}, "useAdaptiveSync: expected True or False"),
        ({"adaptiveMin": 0}, "adaptiveMin: expected an integer from 1 to 128, got 0"),
        ({"adaptiveMin": 129}, "adaptiveMin: expected an integer from 1 to 128, got 129"),
        ({"adaptiveMax": 127}, "adaptiveMax: expected an integer of at least 128, got 127"),
        ({"adaptiveMax": 200.5}, "adaptiveMax"),
        ({"adaptiveFactor": 1}, r"adaptiveFactor: expected a number from 1\.01 to 10, got 1"),
        ({"adaptiveFactor": "2"}, r"adaptiveFactor: .* got '2'; convert it with float"),
        ({"adaptiveFactor": True}, "adaptiveFactor: .* got True"),
        ({"adaptiveWindow": 101}, "adaptiveWindow: expected an integer from 1 to 100"),
        ({"targetLoss": float("nan")}, "targetLoss: expected a number from -1e\\+12 to 1e\\+12, got nan"),
        ({"targetLoss": "low"}, "targetLoss"),
        ({"targetMetric": float("inf")}, "targetMetric"),
        ({"targetMetric": 2e12}, "targetMetric"),
        ({"targetMode": "up"}, "targetMode: expected one of max, min, got 'up'"),
        ({"targetMode": 1}, "targetMode"),
        ({"wire": "int4"}, "wire: expected one of float32, bf16, fp16, int8, got 'int4'"),
        ({"wire": 8}, "wire"),
        ({"patience": 0}, "patience: expected an integer from 1 to 1000, got 0"),
        ({"leaseS": 0.05}, r"leaseS: expected a number from 0\.1 to 86400, got 0\.05"),
        ({"leaseS": "10"}, r"leaseS: .*convert it with float"),
        ({"graceS": -1}, "graceS: expected a number from 0 to 86400, got -1"),
        ({"graceS": 86_401}, "graceS"),
        ({"shareProgress": "no"}, "shareProgress: expected True or False, got 'no'"),
        ({"resume": 2}, "resume: expected True or False, got 2"),
        ({"adsValBatchSize": -1}, "adsValBatchSize"),
        ({"totalEpochs": 2.0}, "totalEpochs"),
        ({"lossFunction": "os.system('x')"}, "lossFunction: expected the name of a class"),
        ({"lossFunctionArgs": ["sum"]}, "lossFunctionArgs: expected a dict"),
        ({"metricFunctionArgs": {1: 2}}, "metricFunctionArgs: expected a dict"),
        ({"trainingContract": 5}, "trainingContract: expected a contract's name"),
        ({"mlPlatform": "CAFFE"}, "mlPlatform: expected one of TF, KERAS, PYTORCH, HF_TRANSFORMER"),
        ({"ml_platform": "PYTORCH"}, "this SwarmCallback is for KERAS or TF"),
        ({"hfMode": "half"}, "hfMode: expected one of full, peft"),
        ({"logger": "root"}, "logger: expected a logging.Logger"),
    ],
)
def test_wrong_values_are_told_with_what_was_expected(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        parse(**given)


def test_a_contract_name_with_spaces_is_refused() -> None:
    with pytest.raises(InvalidName):
        parse(trainingContract="my contract")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("CoordMedian", "coordmedian"),
        (SLMergeMethod.geomedian, "geomedian"),
        (2, "coordmedian"),
        (" Trimmed_Mean ", "trimmed_mean"),
        ("acme.Median", "acme.median"),
        (None, "mean"),
    ],
)
def test_a_merge_method_is_named_by_text_enum_or_number_and_the_sl_knows_which_there_are(
    given: object, name: str
) -> None:
    settings = parse(mergeMethod=given).settings
    assert settings.merge_method == name
    check_settings(settings)


def test_options_of_the_merge_method_travel_in_millionths_and_in_one_order() -> None:
    settings = parse(mergeMethod="fedavgm", mergeOptions={"rate": 1, "momentum": np.float32(0.5)}, witnesses=2).settings
    assert settings.merge_options == (("momentum", 500_000), ("rate", 1_000_000))
    assert settings.witnesses == 2
    check_settings(settings)
    assert parse(mergeOptions={"trim": 0.1}).settings.merge_options == (("trim", 100_000),)
    plain = parse(mergeOptions=None, witnesses=None).settings
    assert (plain.merge_options, plain.witnesses) == ((), -1)
    check_settings(parse(mergeOptions={"huge": 1e12}).settings)


@pytest.mark.parametrize(
    ("sync", "bounds"), [(128, (32, 512)), (3, (1, 12)), (1, (1, 4)), (1_000_000_000, (250_000_000, 1_000_000_000))]
)
def test_an_adaptive_interval_stays_near_the_sync_frequency_by_default(sync: int, bounds: tuple[int, int]) -> None:
    """T-36: within the ledger's limits (T-2) whatever the frequency is."""
    settings = parse(sync, useAdaptiveSync=True, adsValData=(1, 2)).settings
    adaptive = settings.adaptive
    assert adaptive is not None
    assert (adaptive.shortest, adaptive.longest) == bounds
    assert (adaptive.factor_percent, adaptive.window) == (150, 10)
    check_settings(settings)


def test_a_target_is_a_loss_or_a_metric() -> None:
    """T-35. What says nothing is left out, so that peers that mean the same agree."""
    assert parse(targetLoss=0.5).settings.target == Target(loss_micro=500_000)
    assert parse(targetMetric=1).settings.target == Target(metric_micro=1_000_000)
    assert parse(targetLoss=0.0, targetMode="min").settings.target == Target(loss_micro=0)
    assert parse(patience=4, targetMode="min").settings.target is None
    check_settings(parse(targetLoss=1e12, targetMetric=-1e12).settings)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (
            {"adaptiveMin": 5, "adaptiveWindow": 3},
            "adaptiveMin, adaptiveWindow: without useAdaptiveSync=True this has no",
        ),
        ({"patience": 2}, "patience: without targetLoss or targetMetric this has no effect"),
        ({"targetMode": "min", "targetLoss": 1, "adsValData": (1, 2)}, "targetMode: without targetMetric this has no"),
        (
            {"useAdaptiveSync": True},
            "useAdaptiveSync: without adsValData nothing is measured here, so only the figures",
        ),
        ({"targetLoss": 1, "targetMetric": 2}, "targetLoss, targetMetric: without adsValData nothing is measured here"),
        ({"targetLoss": 1, "adsValData": (1, 2), "shareProgress": False}, "targetLoss: with shareProgress=False only"),
    ],
)
def test_arguments_that_do_nothing_here_are_pointed_out(given: dict[str, Any], text: str, lines: Lines) -> None:
    parse(**given)
    (warning,) = lines.of(logging.WARNING)
    assert warning.startswith(text)


def test_validation_data_that_lacks_a_needed_figure_is_explained() -> None:
    settings = parse(useAdaptiveSync=True, targetLoss=1, targetMetric=0.5).settings
    assert explain_missing(settings, Measured(loss=1.0, metric=0.25)) == ""
    text = explain_missing(settings, Measured(metric=float("nan")))
    assert text.startswith("useAdaptiveSync, targetLoss, targetMetric: no loss and no metric was measured")
    assert explain_missing(settings, Measured(loss=1.0)).startswith("targetMetric: no metric was measured")
    assert explain_missing(parse().settings, Measured()) == ""


def test_an_unknown_argument_is_warned_about_once_with_the_nearest_name(lines: Lines) -> None:
    parse(nodeweight=5)
    parse(nodeweight=5)
    parse(zzz=1)
    warnings = lines.of(logging.WARNING)
    assert len(warnings) == 2
    assert "'nodeweight'" in warnings[0]
    assert "did you mean 'nodeWeightage'?" in warnings[0]
    assert "known: syncFrequency" in warnings[1]


def test_enums_have_the_products_numbers() -> None:
    assert [(m.name, m.value) for m in CheckinModel] == [("inactive", 1), ("active", 2), ("snapshot", 3)]
    assert [(m.name, m.value) for m in SLMergeMethod] == [("mean", 1), ("coordmedian", 2), ("geomedian", 3)]
    assert [(m.name, m.value) for m in SLPlatforms] == [("TF", 1), ("KERAS", 2), ("PYTORCH", 3), ("HF_TRANSFORMER", 4)]
    assert parse(checkinModelOnTrainEnd=2).settings.checkin_mode == "active"
    assert parse(checkinModelOnTrainEnd=CheckinModel.active).settings.checkin_mode == "active"


def test_the_reference_lists_every_argument() -> None:
    text = (DOCS / "reference" / "callback.md").read_text()
    for name in (*KNOWN, *OLDER_NAMES):
        assert f"`{name}`" in text, name


# --- schedule ---------------------------------------------------------------------------------------------------


def syncs(schedule: SyncSchedule, indices: list[int | None], interval: int) -> list[int]:
    """The batches after which a sync was due."""
    found = []
    for index in indices:
        if schedule.count(index):
            found.append(schedule.batches)
            schedule.synced(interval)
    return found


def test_syncs_come_every_interval_through_epochs() -> None:
    assert syncs(SyncSchedule(4), [*range(6), *range(6)], 4) == [4, 8, 12]
    assert syncs(SyncSchedule(4), [None] * 9, 4) == [4, 8]


def test_steps_per_execution_counts_batches_not_calls() -> None:
    schedule = SyncSchedule(4)
    found = []
    for _ in range(2):
        schedule.begin_epoch()
        found += syncs(schedule, [2, 5, 7], 4)
    assert schedule.batches == 16
    assert found == [6, 11, 16]


def test_an_index_that_runs_through_epochs_is_not_counted_twice() -> None:
    schedule = SyncSchedule(100)
    syncs(schedule, list(range(12)), 100)
    assert schedule.batches == 12


def test_epochs_of_one_batch_count_one_each() -> None:
    schedule = SyncSchedule(100)
    syncs(schedule, [0, 0, 0], 100)
    assert schedule.batches == 3


def test_the_next_interval_is_what_the_swarm_says() -> None:
    schedule = SyncSchedule(2)
    assert schedule.count(1)
    schedule.synced(5)
    assert [schedule.count(index) for index in range(2, 7)] == [False] * 4 + [True]


@pytest.mark.parametrize("index", [-1, 1.5, "3"])
def test_what_is_no_index_is_refused(index: Any) -> None:
    with pytest.raises(ConfigurationError, match="batch: expected an index"):
        SyncSchedule(2).count(index)


# --- figures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "micro"),
    [
        (0.25, 250_000),
        (-1.0, -1_000_000),
        (None, None),
        (float("nan"), None),
        (float("inf"), None),
        (1e300, None),
    ],
)
def test_figures_go_out_in_millionths_or_not_at_all(value: float | None, micro: int | None) -> None:
    assert to_micro(value) == micro


@given(st.lists(st.lists(st.floats(-100, 100), min_size=1, max_size=7), min_size=1, max_size=5))
def test_a_mean_over_batches_does_not_depend_on_how_they_are_cut(batches: list[list[float]]) -> None:
    means, sums = WeightedMean(), WeightedMean()
    for batch in batches:
        means.add_mean(float(np.mean(batch)), len(batch))
        sums.add_sum(float(np.sum(batch)), len(batch))
    whole = np.mean([value for batch in batches for value in batch])
    assert means.value == pytest.approx(whole, abs=1e-9)
    assert sums.value == pytest.approx(whole, abs=1e-9)


def test_a_mean_over_nothing_is_not_measured() -> None:
    assert WeightedMean().value is None


def test_a_mistyped_required_argument_is_named() -> None:
    with pytest.raises(ConfigurationError, match="minPeers is missing: expected an integer from 1"):
        parse_arguments((SLPlatforms.KERAS,), 8, None, {"minPeer": 3})
