"""One p2pfl node in a process of its own: its FedAvg over NumPy arrays, its gossip over gRPC, its default settings."""

import argparse
import copy
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from p2pfl.settings import Settings
from payload import Marks, make_arrays, train

# Ray is for p2pfl's simulations; the choice is read when p2pfl's other modules are imported.
Settings.general.DISABLE_RAY = True

from p2pfl.exceptions import NodeRunningException  # noqa: E402
from p2pfl.learning.frameworks.learner import Learner  # noqa: E402
from p2pfl.learning.frameworks.p2pfl_model import P2PFLModel  # noqa: E402
from p2pfl.node import Node  # noqa: E402


class ArraysModel(P2PFLModel):
    """A list of arrays as a model of p2pfl."""

    def get_parameters(self) -> list[np.ndarray]:
        """The arrays."""
        return self.model

    def set_parameters(self, params: list[np.ndarray] | bytes) -> None:
        """Take arrays, or what `encode_parameters` made of some."""
        if isinstance(params, bytes):
            params, self.additional_info = self.decode_parameters(params)
        self.model = params

    def build_copy(self, **kwargs: object) -> "ArraysModel":
        """Another model; p2pfl gives it its parameters."""
        return ArraysModel([] if "params" in kwargs else copy.deepcopy(self.model), **kwargs)

    def get_framework(self) -> str:
        """A name of no framework that p2pfl knows, for it must add no callbacks."""
        return "arrays"


class MarkingLearner(Learner):
    """Marks the model it is to train, and trains next to nothing."""

    def __init__(self, peer: int, peers: int) -> None:
        super().__init__()
        self._peer, self._peers, self._marks = peer, peers, Marks(peer)

    def fit(self) -> P2PFLModel:
        """One round of this peer."""
        model = self.get_model()
        self._marks.write(model.get_parameters(), self._peers)
        model.set_parameters(train(model.get_parameters(), self._peer))
        model.set_contribution([self.addr], 1)
        return model

    def interrupt_fit(self) -> None:
        """There is nothing to interrupt."""

    def evaluate(self) -> dict[str, float]:
        """No evaluation."""
        return {}

    def get_framework(self) -> str:
        """As the model's."""
        return "arrays"


def main() -> None:
    """Join the others; the first node starts the learning when everybody is connected."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", type=int)
    parser.add_argument("--ports", type=lambda text: [int(port) for port in text.split(",")])
    parser.add_argument("--megabytes", type=float)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--tls", type=Path)
    options = parser.parse_args()
    peers = len(options.ports)
    Settings.ssl.CA_CRT = str(options.tls / "ca.pem")
    Settings.ssl.SERVER_CRT = Settings.ssl.CLIENT_CRT = str(options.tls / "s.pem")
    Settings.ssl.SERVER_KEY = Settings.ssl.CLIENT_KEY = str(options.tls / "s.key")
    node = Node(
        ArraysModel(make_arrays(options.megabytes)),
        SimpleNamespace(dataset_name="none", batch_size=1),
        addr=f"127.0.0.1:{options.ports[options.peer]}",
        learner=MarkingLearner(options.peer, peers),
    )
    node.start()
    waiting = [f"127.0.0.1:{port}" for port in options.ports[: options.peer]]
    while waiting or len(node.get_neighbors(only_direct=True)) < peers - 1:
        waiting = [address for address in waiting if not node.connect(address)]
        time.sleep(0.2)
    if options.peer == 0:
        node.set_start_learning(rounds=options.rounds, epochs=1, trainset_size=peers)
    while True:  # the driver's end ends us, or an error that stopped the node
        try:
            node.assert_running(True)
        except NodeRunningException:
            sys.exit("p2pfl stopped this node after an error of its own")
        time.sleep(1)


if __name__ == "__main__":
    main()
