"""The two components that the jobs of the comparison bring: the model at the start, and the training of a client."""

from pathlib import Path

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.model import ModelLearnable, ModelLearnableKey, make_model_learnable
from nvflare.app_common.abstract.model_persistor import ModelPersistor
from payload import Marks, make_arrays, train


class ArraysPersistor(ModelPersistor):
    """The arrays to start from. Saves the newest model in the job's folder, as FLARE's own NumPy persistor does."""

    def __init__(self, megabytes: float) -> None:
        super().__init__()
        self._megabytes = megabytes

    def load_model(self, _fl_ctx: FLContext) -> ModelLearnable:
        """The first model."""
        arrays = {str(index): array for index, array in enumerate(make_arrays(self._megabytes))}
        return make_model_learnable(weights=arrays, meta_props={})

    def save_model(self, model: ModelLearnable, fl_ctx: FLContext) -> None:
        """Write the model to the job's folder."""
        folder = Path(fl_ctx.get_workspace().get_run_dir(fl_ctx.get_job_id()))
        np.savez(folder / "model.npz", **model[ModelLearnableKey.WEIGHTS])


class MarkingTrainer(Executor):
    """Marks the model it is to train, and trains next to nothing."""

    def __init__(self, peers: int) -> None:
        super().__init__()
        self._peers = peers

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, _abort_signal: Signal) -> Shareable:
        """One round of this client."""
        if task_name != "train":
            return make_reply(ReturnCode.TASK_UNKNOWN)
        peer = int(fl_ctx.get_identity_name().rpartition("-")[2]) - 1
        weights = from_shareable(shareable).data
        arrays = [np.asarray(weights[str(index)]) for index in range(len(weights))]
        Marks(peer).write(arrays, self._peers)
        trained = {str(index): array for index, array in enumerate(train(arrays, peer))}
        meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: 1}
        return DXO(data_kind=DataKind.WEIGHTS, data=trained, meta=meta).to_shareable()
