"""The server's side: Flower's own FedAvg."""

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from bench_app.payload import make_arrays

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds. The last one only brings the result of the one before to the clients."""
    config = context.run_config
    peers, megabytes, rounds = int(config["peers"]), float(config["megabytes"]), int(config["rounds"])
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=peers, min_available_nodes=peers)
    strategy.start(grid, ArrayRecord(make_arrays(megabytes)), num_rounds=rounds + 1)
