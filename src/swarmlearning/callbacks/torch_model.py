"""A PyTorch model as the loop sees it: its state_dict, in place, and its scores. Imports torch; the core does not."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import torch

from swarmlearning.callbacks.arguments import Arguments
from swarmlearning.callbacks.evaluation import Measured, WeightedMean
from swarmlearning.callbacks.exchange import Arrays
from swarmlearning.errors import ConfigurationError
from swarmlearning.parameters.dtypes import BFLOAT16, Array

# torch is looked at neither by mypy (it is an extra) nor by us: these say what is meant.
Module = Any
Tensor = Any
Device = Any

DEFAULT_BATCH_SIZE: Final = 32

_METRIC_MODULES: Final = ("torchmetrics", "torchmetrics.classification", "torchmetrics.regression")


class TorchModel:
    """Parameters and buffers of a module, under the names that it has without wrappers (DDP, `torch.compile`)."""

    def __init__(self, model: object, arguments: Arguments) -> None:
        """Wrap a model.

        Raises:
            ConfigurationError: it is no module, or a loss or metric is not one of torch.nn or torchmetrics.
        """
        if not isinstance(model, torch.nn.Module):
            raise ConfigurationError(f"model: expected a torch.nn.Module, got {type(model).__name__}: give model=")
        self.module: Module = unwrap(model)
        self._arguments = arguments
        self._loss = _make("lossFunction", arguments.loss_name, arguments.loss_args, ("torch.nn",), torch.nn.Module)
        self._metric = self._make_metric() if arguments.metric_name else None
        if arguments.data is not None and self._loss is None and self._metric is None:
            arguments.logger.warning(
                "adsValData is given but neither lossFunction nor metricFunction: nothing is measured"
            )
        if arguments.data is None and (self._loss is not None or self._metric is not None):
            arguments.logger.warning("lossFunction or metricFunction is given but no adsValData: nothing is measured")

    @property
    def device(self) -> Device:
        """Where the model's first tensor is."""
        return next(iter(self.tensors().values())).device

    def tensors(self) -> dict[str, Tensor]:
        """The module's own tensors by name; writing into them changes the module.

        Raises:
            ConfigurationError: a tensor is of a kind that cannot be exchanged.
        """
        found: dict[str, Tensor] = {}
        for key, value in self.module.state_dict().items():
            if not isinstance(value, torch.Tensor):
                continue  # `get_extra_state`: anything at all, not parameters
            plain = value.layout == torch.strided and not value.is_meta and not value.is_quantized
            if not plain or type(value) not in (torch.Tensor, torch.nn.Parameter):
                raise ConfigurationError(
                    f"tensor {key!r} is a {type(value).__name__} ({value.layout}, on {value.device}): only whole, "
                    "dense tensors can be merged; sharded (FSDP), sparse, quantised and meta tensors cannot"
                )
            # A submodule that was compiled on its own stands under this name.
            found[key.replace("_orig_mod.", "")] = value
        if not found:
            raise ConfigurationError("the model has no parameters, nothing can be merged")
        return found

    def read(self) -> dict[str, Array]:
        """Parameters and buffers by name, each in its own type."""
        return {name: _to_numpy(name, tensor) for name, tensor in self.tensors().items()}

    def write(self, arrays: Arrays) -> None:
        """Copy into the module's tensors in place: the optimiser keeps its references, tied weights stay tied."""
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                tensor.copy_(_from_numpy(arrays[name]))

    def measure(self) -> Measured:
        """Score on `adsValData` in evaluation mode, without gradients; modes are restored.

        Raises:
            ConfigurationError: the model cannot be evaluated on that data.
        """
        if self._arguments.data is None or (self._loss is None and self._metric is None):
            return Measured()
        modes = [(module, module.training) for module in self.module.modules()]
        self.module.eval()
        try:
            with torch.no_grad():
                return self._score()
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            text = " ".join(str(error).split())
            raise ConfigurationError(f"adsValData: the model cannot be evaluated on it: {text}") from error
        finally:
            for module, mode in modes:
                module.training = mode

    def _score(self) -> Measured:
        device = self.device
        mean = WeightedMean()
        if self._metric is not None:
            self._metric.to(device).reset()
        if self._loss is not None:
            self._loss.to(device)
        samples = 0
        for inputs, target in self._batches():
            output = self.module(*(self._place(part, device) for part in inputs))
            target = torch.as_tensor(target).to(device)
            samples += len(target)
            if self._loss is not None:
                _add(mean, self._loss, self._loss(output, target), len(target))
            if self._metric is not None:
                self._metric.update(output, target)
        metric = None
        if self._metric is not None and samples:
            value = self._metric.compute()
            if not isinstance(value, torch.Tensor) or value.numel() != 1:
                raise ConfigurationError(
                    f"metricFunction {self._arguments.metric_name} gives more than one number; choose its arguments so "
                    "that it gives one (such as average='macro')"
                )
            metric = float(value)
        return Measured(loss=mean.value, metric=metric, metric_name=self._arguments.metric_name)

    def _batches(self) -> Iterator[tuple[tuple[Any, ...], Any]]:
        data = self._arguments.data
        if isinstance(data, tuple):
            if len(data) != 2:
                raise ConfigurationError(f"adsValData: expected (x, y) or a DataLoader, got a tuple of {len(data)}")
            size = self._arguments.batch_size or DEFAULT_BATCH_SIZE
            for start in range(0, len(data[1]), size):
                yield (data[0][start : start + size],), data[1][start : start + size]
            return
        for batch in data:
            if not isinstance(batch, tuple | list) or len(batch) < 2:
                raise ConfigurationError(
                    f"adsValData: expected batches of (inputs, targets), got {type(batch).__name__}"
                )
            yield tuple(batch[:-1]), batch[-1]

    def _place(self, part: object, device: Device) -> Tensor:
        tensor = torch.as_tensor(part).to(device)
        wanted = next((p.dtype for p in self.module.parameters() if p.is_floating_point()), tensor.dtype)
        return tensor.to(wanted) if tensor.is_floating_point() else tensor

    def _make_metric(self) -> Module:
        try:
            base = importlib.import_module("torchmetrics").Metric
        except ImportError as error:
            raise ConfigurationError(
                "metricFunction needs torchmetrics: pip install 'swarmlearning[torch]' or, from a clone, '.[torch]'"
            ) from error
        return _make("metricFunction", self._arguments.metric_name, self._arguments.metric_args, _METRIC_MODULES, base)


class Replicas:
    """The processes of one data-parallel training on this site: the first one syncs, the others get what it got."""

    @staticmethod
    def exist() -> bool:
        """Whether `torch.distributed` runs with more than one process."""
        distributed = torch.distributed
        return bool(distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1)

    @staticmethod
    def lead() -> bool:
        """Whether this process is the one that syncs."""
        return not Replicas.exist() or torch.distributed.get_rank() == 0

    @staticmethod
    def broadcast_numbers(numbers: list[int], device: Device) -> list[int]:
        """The first process's `numbers`; all must give as many."""
        tensor = torch.tensor(numbers, dtype=torch.int64, device=device)
        torch.distributed.broadcast(tensor, src=0)
        return [int(value) for value in tensor.tolist()]

    @staticmethod
    def broadcast_model(model: TorchModel) -> None:
        """Give all replicas the first one's tensors, whatever their types, as bytes."""
        with torch.no_grad():
            for _, tensor in sorted(model.tensors().items()):
                if tensor.numel() == 0:
                    continue
                raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8).clone()
                torch.distributed.broadcast(raw, src=0)
                tensor.copy_(raw.view(tensor.dtype).reshape(tensor.shape))


def unwrap(model: Module) -> Module:
    """The module inside `DataParallel`, `DistributedDataParallel` and `torch.compile` wrappers."""
    wrappers = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(model, wrappers):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), torch.nn.Module):
            model = model._orig_mod  # noqa: SLF001  # torch.compile offers no other way to its module
        else:
            return model


def _to_numpy(name: str, tensor: Tensor) -> Array:
    plain = tensor.detach().to("cpu").contiguous()
    if plain.dtype == torch.bfloat16:
        array: Array = plain.view(torch.int16).numpy().view(BFLOAT16)  # numpy has no bfloat16 of its own
        return array
    try:
        return np.asarray(plain.numpy())
    except TypeError as error:
        raise ConfigurationError(f"tensor {name!r} has the type {plain.dtype}, which cannot be merged") from error


def _from_numpy(array: Array) -> Tensor:
    whole = np.require(array, requirements=["C", "W"])
    if whole.dtype == BFLOAT16:
        return torch.from_numpy(whole.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(whole)


def _add(mean: WeightedMean, loss: Module, value: Tensor, samples: int) -> None:
    if getattr(loss, "reduction", "mean") == "sum":
        mean.add_sum(float(value), samples)
    else:
        mean.add_mean(float(value.mean()), samples)  # of one number, or of one per sample with reduction='none'


def _make(argument: str, name: str, keywords: Mapping[str, Any], modules: tuple[str, ...], base: type) -> Module:
    """An instance of the class `name` of one of `modules`; None if no name is given."""
    if not name:
        return None
    kinds = (getattr(importlib.import_module(module), name, None) for module in modules)
    kind: Callable[..., Any] | None = next((k for k in kinds if isinstance(k, type) and issubclass(k, base)), None)
    if kind is None:
        raise ConfigurationError(f"{argument}: {modules[0]} has no class {name!r}")
    try:
        return kind(**keywords)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{argument}: cannot make {name} with {argument}Args={dict(keywords)!r}: {error}"
        ) from error
