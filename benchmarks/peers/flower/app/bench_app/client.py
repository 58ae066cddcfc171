"""The client's side: mark what came, train next to nothing, send it back."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from bench_app.payload import Marks, train

app = ClientApp()


@app.train()
def on_train(message: Message, context: Context) -> Message:
    """One round of this client."""
    peer, peers = int(context.node_config["peer"]), int(context.run_config["peers"])
    arrays = message.content["arrays"].to_numpy_ndarrays()
    Marks(peer).write(arrays, peers)
    content = RecordDict({"arrays": ArrayRecord(train(arrays, peer)), "metrics": MetricRecord({"num-examples": 1})})
    return Message(content=content, reply_to=message)
