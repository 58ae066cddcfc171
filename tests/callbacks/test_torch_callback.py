"""`swarmlearning.pyt.SwarmCallback` with real modules."""

import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_sl import FakeSl, failed
from kept_lines import Lines

from swarmlearning.callbacks.exchange import model_hash
from swarmlearning.callbacks.torch_model import TorchModel, unwrap
from swarmlearning.contracts.records import Progress, Target
from swarmlearning.errors import ConfigurationError, NonFinite, WaitExpired
from swarmlearning.pyt import SwarmCallback
from swarmlearning.sl.control import Finish, Leave, Open, Sync

torch.manual_seed(5)
X = torch.randn(48, 4)
Y = (X[:, 0] > 0).long()
BATCH = 4
SCORED: dict[str, Any] = {
    "adsValData": (X, Y),
    "lossFunction": "CrossEntropyLoss",
    "metricFunction": "Accuracy",
    "metricFunctionArgs": {"task": "multiclass", "num_classes": 2},
}

Module: Any = torch.nn.Module


def build(**given: Any) -> Any:
    torch.manual_seed(3)
    layers = [torch.nn.Linear(4, 6, **given), torch.nn.BatchNorm1d(6, **given), torch.nn.ReLU()]
    return torch.nn.Sequential(*layers, torch.nn.Dropout(0.1), torch.nn.Linear(6, 2, **given))


def train(model: Any, callback: Any, epochs: int = 1, x: Any = X, optimizer: Any = None) -> None:
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.1)
    if callback is not None:
        callback.on_train_begin()
    for _ in range(epochs):
        model.train()
        for start in range(0, len(x), BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[start : start + BATCH]), Y[start : start + BATCH]).backward()
            optimizer.step()
            if callback is not None:
                callback.on_batch_end()
                if callback.over:
                    break
        if callback is not None:
            callback.on_epoch_end()
    if callback is not None:
        callback.on_train_end()


def halve(_: int, arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: array if array.dtype.kind == "i" else array * array.dtype.type(0.5) for name, array in arrays.items()}


def state(model: Any) -> dict[str, Any]:
    return {name: tensor.numpy(force=True).copy() for name, tensor in model.state_dict().items()}


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


@pytest.fixture
def swarm(control: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeSl]:
    monkeypatch.setenv("SWARM_SL", str(control))
    return lambda **given: FakeSl(control, **given)


def test_a_training_syncs_and_ends_with_the_final_model(swarm: Callable[..., FakeSl]) -> None:
    model = build()
    start = state(model)
    with swarm(merge=halve) as sl:
        callback = SwarmCallback(syncFrequency=5, minPeers=2, model=model, totalEpochs=2)
        train(model, callback, epochs=2)
    assert same(sl.offered[0], start)
    assert [request.progress.batch for request in sl.of(Sync)] == [0, 5, 10, 15, 20]
    assert [request.progress.epoch for request in sl.of(Sync)] == [1, 1, 1, 2, 2]
    assert (sl.of(Finish)[0].progress.epoch, sl.of(Finish)[0].progress.batch) == (2, 24)
    assert same(state(model), halve(0, sl.offered[-1]))
    assert callback.final_sha256 == sl.results[-1].hex() == model_hash(state(model))


def test_buffers_go_along_and_integers_stay_integers(swarm: Callable[..., FakeSl]) -> None:
    model = build()
    with swarm() as sl:
        train(model, SwarmCallback(5, 2, model=model))
    counter = sl.offered[-1]["1.num_batches_tracked"]
    assert (counter.dtype, counter.shape, int(counter)) == (np.int64, (), 12)
    assert "1.running_var" in sl.offered[-1]
    assert model[1].num_batches_tracked.dtype == torch.int64


def test_what_is_adopted_is_what_training_goes_on_from(swarm: Callable[..., FakeSl]) -> None:
    model = torch.nn.Linear(4, 2)
    other = {"weight": np.full((2, 4), 0.25, np.float32), "bias": np.zeros(2, np.float32)}
    with swarm(merge=lambda number, arrays: other if number == 1 else arrays) as sl:
        train(model, SwarmCallback(5, 2, model=model), x=X[: 8 * BATCH])
    fresh = torch.nn.Linear(4, 2)
    with torch.no_grad():
        fresh.weight.fill_(0.25)
        fresh.bias.zero_()
    optimizer = torch.optim.SGD(fresh.parameters(), 0.1)
    for at in range(5 * BATCH, 8 * BATCH, BATCH):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(fresh(X[at : at + BATCH]), Y[at : at + BATCH]).backward()
        optimizer.step()
    assert same(sl.offered[-1], state(fresh))


def test_loading_is_in_place_so_the_optimiser_keeps_its_references(swarm: Callable[..., FakeSl]) -> None:
    model = build()
    before = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    with swarm(merge=halve):
        train(model, SwarmCallback(5, 2, model=model))
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == before
    assert all(parameter.requires_grad and parameter.is_leaf for parameter in model.parameters())


def test_bfloat16_goes_both_ways_bit_for_bit(swarm: Callable[..., FakeSl]) -> None:
    model = build(dtype=torch.bfloat16)
    with swarm(merge=halve) as sl:
        train(model, SwarmCallback(100, 2, model=model), x=X.bfloat16())
    assert str(sl.offered[-1]["0.weight"].dtype) == "bfloat16"
    expected = halve(0, sl.offered[-1])
    for name, tensor in model.state_dict().items():
        if tensor.dtype == torch.bfloat16:
            assert np.array_equal(tensor.view(torch.int16).numpy(), expected[name].view(np.int16))


class Tied(Module):  # type: ignore[misc]  # torch is not looked at by mypy
    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Linear(4, 4, bias=False)
        self.head = torch.nn.Linear(4, 4, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Any) -> Any:
        return self.head(torch.tanh(self.embed(x)))


def test_tied_weights_stay_tied_and_equal(swarm: Callable[..., FakeSl]) -> None:
    model = Tied()
    with swarm(merge=halve) as sl:
        train(model, SwarmCallback(5, 2, model=model))
    assert sorted(sl.offered[-1]) == ["embed.weight", "head.weight"]
    assert model.head.weight is model.embed.weight
    assert np.array_equal(model.head.weight.numpy(force=True), halve(0, sl.offered[-1])["embed.weight"])


class Wrapper(Module):  # type: ignore[misc]  # torch is not looked at by mypy
    """As `torch.compile` wraps, without compiling."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self._orig_mod = inner


def test_wrappers_leave_no_trace_in_the_names(swarm: Callable[..., FakeSl]) -> None:
    plain = build()
    names = set(plain.state_dict())
    for wrapped in (torch.nn.DataParallel(plain), Wrapper(plain), torch.nn.DataParallel(Wrapper(plain))):
        callback = SwarmCallback(5, 2, model=wrapped)
        assert set(callback._model.tensors()) == names
        assert unwrap(wrapped) is plain
    nested = torch.nn.Sequential(Wrapper(torch.nn.Linear(2, 2)))
    assert set(SwarmCallback(5, 2, model=nested)._model.tensors()) == {"0.weight", "0.bias"}


class OwnModule(Module):  # type: ignore[misc]  # torch is not looked at by mypy
    def __init__(self) -> None:
        super().__init__()
        self.module = torch.nn.Linear(2, 2)


def test_a_submodule_that_is_called_module_keeps_its_name(swarm: Callable[..., FakeSl]) -> None:
    assert set(SwarmCallback(5, 2, model=OwnModule())._model.tensors()) == {"module.weight", "module.bias"}


def test_when_the_swarm_is_over_the_program_is_told(swarm: Callable[..., FakeSl]) -> None:
    model = build()
    with swarm(merge=halve, over_at=1) as sl:
        callback = SwarmCallback(5, 2, model=model)
        train(model, callback)
    assert callback.over
    assert sl.of(Finish) == []
    assert callback.final_sha256 == model_hash(state(model)) == sl.results[-1].hex()


def test_training_on_after_the_end_still_ends_with_the_final_model(swarm: Callable[..., FakeSl]) -> None:
    model = build()
    with swarm(over_at=0):
        callback = SwarmCallback(5, 2, model=model)
        callback.on_train_begin()
        with torch.no_grad():
            model[0].weight.zero_()
        callback.on_batch_end()
        callback.on_train_end()
    assert model_hash(state(model)) == callback.final_sha256


def test_over_by_target_is_told(swarm: Callable[..., FakeSl], lines: Lines) -> None:
    """T-35, C-15."""
    model = build()
    with swarm(merge=halve, over_at=2, reached=True) as sl:
        callback = SwarmCallback(5, 2, model=model, targetMetric=0.9, **SCORED)
        train(model, callback)
    assert callback.over
    assert sl.of(Open)[0].settings.target == Target(metric_micro=900_000)
    assert callback.final_sha256 == model_hash(state(model)) == sl.results[-1].hex()
    assert any("its target was reached" in text for text in lines.of(logging.INFO))
    assert lines.of(logging.WARNING) == []


def test_an_sl_that_dies_in_the_middle_of_a_round_is_waited_for(swarm: Callable[..., FakeSl]) -> None:
    """C-17."""
    model = build()
    with swarm(merge=halve, dies={Sync: [0, 2]}) as sl:
        callback = SwarmCallback(5, 2, model=model)
        train(model, callback)
    assert [(request.run, request.adopted) for request in sl.of(Open)] == [(0, -1), (1, -1), (1, 0)]
    assert callback.final_sha256 == model_hash(state(model)) == sl.results[-1].hex()


def test_a_training_that_ends_with_an_error_leaves_its_tensors(swarm: Callable[..., FakeSl], tmp_path: Path) -> None:
    model = build(dtype=torch.bfloat16)
    told = r"nobody else finished; .* are in (\S+): numpy.load"
    with swarm(replies={Finish: failed("expired", "nobody else finished")}), pytest.raises(WaitExpired, match=told):
        train(model, SwarmCallback(5, 2, model=model), x=X.bfloat16())
    (path,) = (tmp_path / "swarm-saved").iterdir()
    with np.load(path) as loaded:
        saved = {name: torch.from_numpy(array) for name, array in loaded.items()}
    assert all(torch.equal(saved[name].to(tensor.dtype), tensor) for name, tensor in model.state_dict().items())
    assert saved.keys() == model.state_dict().keys()


def test_resume_tells_the_first_epoch_and_counts_on(swarm: Callable[..., FakeSl]) -> None:
    """C-18."""
    model, newest = build(), halve(0, state(build()))
    callback = SwarmCallback(5, 2, model=model, resume=True, totalEpochs=4)
    assert callback.first_epoch == 0
    trained = []
    with swarm(newest=newest, first_round=6, position=Progress(epoch=3, total_epochs=4, batch=29)) as sl:
        callback.on_train_begin()
        assert same(state(model), newest)
        for epoch in range(callback.first_epoch, 4):
            trained.append(epoch)
            for _ in range(12):
                callback.on_batch_end()
            callback.on_epoch_end()
        callback.on_train_end()
    assert trained == [2, 3]
    sent = [(r.progress.epoch, r.progress.batch) for r in sl.of(Sync)]
    assert sent == [(3, 34), (3, 39), (4, 44), (4, 49)]
    # Nobody says how long an epoch is: that is known from the second one on.
    assert [request.progress.eta_s >= 0 for request in sl.of(Sync)] == [False, False, True, True]
    finish = sl.of(Finish)[0].progress
    assert (finish.epoch, finish.batch, finish.eta_s) == (4, 53, 0)


def test_without_resume_or_in_a_new_run_training_begins_at_the_first_epoch(swarm: Callable[..., FakeSl]) -> None:
    for position, resume in ((Progress(epoch=3, batch=29), False), (Progress(epoch=1, batch=0), True)):
        with swarm(position=position) as sl:
            callback = SwarmCallback(5, 2, model=build(), resume=resume)
            callback.on_train_begin()
            assert callback.first_epoch == 0
            callback.session.close()
        assert sl.of(Sync)[0].progress.batch == 0


def test_a_checkpoint_of_the_program_gives_epoch_and_optimiser_and_the_swarm_the_weights(
    swarm: Callable[..., FakeSl], tmp_path: Path
) -> None:
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    with swarm():
        train(model, SwarmCallback(5, 2, model=model), optimizer=optimizer)
    checkpoint = {"epoch": 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(checkpoint, tmp_path / "checkpoint.pt")

    again, newest = build(), halve(0, state(build()))
    momentum = torch.optim.SGD(again.parameters(), 0.1, momentum=0.9)
    loaded = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    again.load_state_dict(loaded["model"])
    momentum.load_state_dict(loaded["optimizer"])
    with swarm(newest=newest, position=Progress(epoch=2, batch=14)) as sl:
        callback = SwarmCallback(5, 2, model=again)
        callback.on_train_begin()
        assert same(state(again), newest)
        kept = [entry["momentum_buffer"] for entry in momentum.state.values()]
        assert all(torch.equal(a, b["momentum_buffer"]) for a, b in zip(kept, optimizer.state.values(), strict=True))
        for _ in range(5):
            torch.nn.functional.cross_entropy(again(X[:BATCH]), Y[:BATCH]).backward()
            momentum.step()
            callback.on_batch_end()
        callback.on_train_end()
    # The optimiser that was restored trains the tensors that the swarm's weights were loaded into.
    assert not same(sl.offered[0], newest)


def test_who_leaves_trains_on_alone(swarm: Callable[..., FakeSl]) -> None:
    model = build()
    with swarm(merge=halve) as sl:
        callback = SwarmCallback(5, 2, model=model)
        callback.on_train_begin()
        callback.on_batch_end()
        callback.leave("had enough")
        callback.leave("twice is once")
        before = state(model)
        for _ in range(20):
            callback.on_batch_end()
        callback.on_epoch_end()
        callback.on_train_end()
    assert [type(request) for request in sl.requests] == [Open, Sync, Leave]
    assert same(state(model), before)
    assert (callback.over, callback.final_sha256) == (False, "")
    with pytest.raises(ConfigurationError, match="leave: expected a reason in words, got 5"):
        callback.leave(5)  # type: ignore[arg-type]  # what users do


@pytest.mark.parametrize("given", [{"useAdaptiveSync": True}, {"targetLoss": 0.5}])
def test_a_loss_that_is_needed_and_not_measured_is_pointed_out(
    given: dict[str, Any], swarm: Callable[..., FakeSl], lines: Lines
) -> None:
    without_loss = {name: value for name, value in SCORED.items() if not name.startswith("loss")}
    with swarm():
        callback = SwarmCallback(2, 2, model=build(), **without_loss, **given)
        callback.on_train_begin()
        for _ in range(4):
            callback.on_batch_end()
        callback.session.close()
    (warning,) = lines.of(logging.WARNING)
    assert warning.startswith(f"{next(iter(given))}: no loss was measured on adsValData")


LOADER = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=10)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("data", [LOADER, (X, Y)])
def test_loss_is_the_mean_over_samples_whatever_the_reduction(
    data: Any, reduction: str, swarm: Callable[..., FakeSl]
) -> None:
    model = build()
    model.train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    with swarm() as sl:
        callback = SwarmCallback(
            *(5, 2),
            model=model,
            adsValData=data,
            adsValBatchSize=7,
            lossFunction="CrossEntropyLoss",
            lossFunctionArgs={"reduction": reduction},
            metricFunction="Accuracy",
            metricFunctionArgs={"task": "multiclass", "num_classes": 2},
        )
        callback.on_train_begin()
        assert [module.training for module in model.modules()] == modes
        assert all(parameter.grad is None for parameter in model.parameters())
        for _ in range(5):
            callback.on_batch_end()
        callback.session.close()
    model.eval()
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(model(X), Y)
        accuracy = (model(X).argmax(1) == Y).float().mean()
    progress = sl.of(Sync)[1].progress
    assert progress.loss_micro == pytest.approx(float(expected) * 1e6, abs=2)
    assert progress.metric_micro == pytest.approx(float(accuracy) * 1e6, abs=1)
    assert progress.metric_name == "Accuracy"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"lossFunction": "NoSuchLoss"}, "lossFunction: torch.nn has no class 'NoSuchLoss'"),
        ({"lossFunction": "functional"}, "torch.nn has no class 'functional'"),
        ({"lossFunction": "MSELoss", "lossFunctionArgs": {"no": 1}}, "cannot make MSELoss"),
        ({"metricFunction": "NoSuchMetric"}, "metricFunction: torchmetrics has no class"),
        ({"model": None}, "model: expected a torch.nn.Module, got NoneType"),
        ({"ml_platform": "KERAS"}, "this SwarmCallback is for PYTORCH"),
    ],
)
def test_wrong_arguments_are_told_at_once(given: dict[str, Any], text: str, swarm: Callable[..., FakeSl]) -> None:
    with pytest.raises(ConfigurationError, match=text):
        SwarmCallback(5, 2, **({"model": build()} | given))


def test_validation_data_without_functions_is_pointed_out(swarm: Callable[..., FakeSl], lines: Lines) -> None:
    SwarmCallback(5, 2, model=build(), adsValData=(X, Y))
    SwarmCallback(5, 2, model=build(), lossFunction="MSELoss")
    assert ["nothing is measured" in text for text in lines.of(logging.WARNING)] == [True, True]


def test_validation_data_that_does_not_fit_is_named(swarm: Callable[..., FakeSl]) -> None:
    with swarm() as sl:
        callback = SwarmCallback(5, 2, model=build(), adsValData=(X[:, :2], Y), lossFunction="CrossEntropyLoss")
        with pytest.raises(ConfigurationError, match=r"adsValData: the model cannot be evaluated on it: .*mat1"):
            callback.on_train_begin()
        assert len(sl.of(Sync)) == 1


def test_tensors_that_cannot_be_merged_are_named() -> None:
    arguments: Any = SwarmArguments()
    sparse = Module()
    sparse.register_buffer("table", torch.eye(2).to_sparse())
    with pytest.raises(ConfigurationError, match="'table' is a Tensor"):
        TorchModel(sparse, arguments).tensors()
    with pytest.raises(ConfigurationError, match="meta"):
        TorchModel(torch.nn.Linear(2, 2, device="meta"), arguments).tensors()
    small = Module()
    small.register_buffer("f8", torch.zeros(2, dtype=torch.float8_e4m3fn))
    with pytest.raises(ConfigurationError, match=r"'f8' has the type torch\.float8_e4m3fn"):
        TorchModel(small, arguments).read()


class SwarmArguments:
    """Arguments of a callback without validation."""

    data = None
    loss_name = metric_name = ""
    loss_args: dict[str, Any] = {}  # noqa: RUF012  # a stand-in


def test_diverged_training_names_the_tensor(swarm: Callable[..., FakeSl]) -> None:
    """C-11."""
    model = build()
    with swarm(), pytest.raises(NonFinite, match="holds NaN or infinity before round 1"):
        train(model, SwarmCallback(3, 2, model=model), x=X * float("nan"))


def test_calls_before_the_begin_say_what_is_missing(swarm: Callable[..., FakeSl]) -> None:
    callback = SwarmCallback(5, 2, model=build())
    with pytest.raises(ConfigurationError, match="on_train_begin"):
        callback.on_batch_end()


def test_loopback_leaves_training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARM_LOOPBACK", "1")
    model, plain = build(), build()
    torch.manual_seed(1)
    train(plain, None)
    torch.manual_seed(1)
    callback = SwarmCallback(5, 2, model=model)
    train(model, callback)
    assert same(state(model), state(plain))
    assert callback.final_sha256 == ""


REPLICA = """
    import sys
    import torch, torch.distributed as dist
    from swarmlearning.pyt import SwarmCallback, SwarmError
    rank, rendezvous = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    torch.manual_seed(rank)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    model.register_buffer("scale", torch.full((2,), 0.5 + rank, dtype=torch.bfloat16))
    callback = SwarmCallback(2, 2, model=torch.nn.parallel.DistributedDataParallel(model), resume=True)
    callback.on_train_begin()
    for _ in range(2):
        callback.on_batch_end()
    callback.on_train_end()
    total = sum(float(t.double().sum()) for t in model.state_dict().values())
    print(f"{total:.12f} {float(model.scale[0])} {callback.final_sha256} {callback.first_epoch}")
    if rank == 0:
        with torch.no_grad():
            model[0].weight.fill_(float("nan"))
    try:
        callback.on_train_begin()
    except SwarmError as error:
        print(type(error).__name__, error)
    dist.destroy_process_group()
"""


def test_of_data_parallel_replicas_the_first_syncs_and_none_waits_for_it_if_it_fails(
    swarm: Callable[..., FakeSl], control: Path, tmp_path: Path
) -> None:
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-c", textwrap.dedent(REPLICA)]
    with swarm(merge=halve, position=Progress(epoch=4, batch=30)) as sl:
        running = [
            subprocess.Popen([*command, str(rank), str(tmp_path / "at")], env=environ, stdout=subprocess.PIPE)
            for rank in range(2)
        ]
        try:
            outputs = [process.communicate(timeout=110)[0].decode().splitlines() for process in running]
        finally:
            for process in running:
                process.kill()
                process.wait()
    first, second = (output[-2:] for output in outputs)
    assert len(sl.of(Open)) == len(sl.of(Finish)) == 1
    assert first[0] == second[0]
    assert second[0].endswith(f"{sl.results[-1].hex()} 3")
    assert first[1].startswith("NonFinite")
    assert second[1].startswith("Unreachable the first process of this data-parallel training could not sync")
