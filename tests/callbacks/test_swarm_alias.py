"""`from swarm import SwarmCallback`: the older path and names."""

import sys
from typing import Any

import keras
import pytest
import torch

import swarm
from swarm import SwarmCallback
from swarmlearning import pyt, tf
from swarmlearning.errors import ConfigurationError


@pytest.fixture(autouse=True)
def _loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARM_LOOPBACK", "TRUE")


def test_older_names_mean_the_present_ones() -> None:
    callback = SwarmCallback(rv_interval=5, min_peers=2, num_epochs=3, val_data=([1], [2]), val_batch_size=4)
    assert isinstance(callback, tf.SwarmCallback)
    arguments = callback._arguments
    assert (arguments.settings.sync_frequency, arguments.min_peers, arguments.total_epochs) == (5, 2, 3)
    assert (arguments.data, arguments.batch_size) == (([1], [2]), 4)


def test_the_model_decides_the_framework() -> None:
    model = torch.nn.Linear(2, 2)
    assert isinstance(SwarmCallback(syncFrequency=5, minPeers=2, model=model), pyt.SwarmCallback)
    keras_model: Any = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    assert isinstance(SwarmCallback(syncFrequency=5, minPeers=2, model=keras_model), tf.SwarmCallback)


def test_without_a_model_what_is_imported_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert swarm._is_torch(None) is False
    for name in ("keras", "tensorflow"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert swarm._is_torch(None) is True


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"min_peers": 2}, r"syncFrequency \(formerly rv_interval\) is missing"),
        ({"syncFrequency": 2}, "minPeers"),
        ({"rv_interval": 2, "syncFrequency": 2, "minPeers": 2}, "syncFrequency is given twice"),
    ],
)
def test_missing_and_doubled_arguments_are_told(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        SwarmCallback(**given)
