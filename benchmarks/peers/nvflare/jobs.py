"""The two jobs: FLARE's FedAvg, and its swarm workflow with the clients as aggregators in turn."""

import json
from pathlib import Path

SWARM = "nvflare.app_common.ccwf"


def _component(name: str, path: str, **arguments: object) -> dict[str, object]:
    return {"id": name, "path": path, "args": arguments}


def _persistor(megabytes: float) -> dict[str, object]:
    return _component("persistor", "bench_parts.ArraysPersistor", megabytes=megabytes)


def _trainer(peers: int) -> dict[str, object]:
    return {"tasks": ["train"], "executor": {"path": "bench_parts.MarkingTrainer", "args": {"peers": peers}}}


def _make_fedavg(megabytes: float, peers: int, rounds: int) -> tuple[dict[str, object], dict[str, object]]:
    """Configuration of the server and of the clients."""
    arguments = {"num_clients": peers, "num_rounds": rounds, "persistor_id": "persistor"}
    workflow = _component("fedavg", "nvflare.app_common.workflows.fedavg.FedAvg", **arguments)
    return {"workflows": [workflow], "components": [_persistor(megabytes)]}, {"executors": [_trainer(peers)]}


def _make_swarm(megabytes: float, peers: int, rounds: int) -> tuple[dict[str, object], dict[str, object]]:
    """Configuration of the server and of the clients; time-outs and quorum as FLARE's recipe sets them."""
    workflow = _component(
        "swarm",
        f"{SWARM}.SwarmServerController",
        num_rounds=rounds,
        min_clients=peers,
        start_task_timeout=300,
        max_status_report_interval=300,
    )
    controller = {
        "path": f"{SWARM}.SwarmClientController",
        "args": {
            "aggregator_id": "aggregator",
            "persistor_id": "persistor",
            "shareable_generator_id": "generator",
            "learn_task_ack_timeout": 3600,
            "final_result_ack_timeout": 3600,
            "min_responses_required": peers,
        },
    }
    aggregator = "nvflare.app_common.aggregators.intime_accumulate_model_aggregator.InTimeAccumulateWeightedAggregator"
    components = [
        _persistor(megabytes),
        _component("aggregator", aggregator, expected_data_kind="WEIGHTS"),
        _component("generator", f"{SWARM}.comps.simple_model_shareable_generator.SimpleModelShareableGenerator"),
    ]
    executors = [_trainer(peers), {"tasks": ["swarm_*"], "executor": controller}]
    return {"workflows": [workflow]}, {"executors": executors, "components": components}


def write_job(folder: Path, workflow: str, *, megabytes: float, peers: int, rounds: int) -> None:
    """Write the job `workflow` ("fedavg" or "swarm") as a folder that FLARE takes."""
    make = {"fedavg": _make_fedavg, "swarm": _make_swarm}[workflow]
    server, client = make(megabytes, peers, rounds)
    meta = {"name": workflow, "min_clients": peers, "resource_spec": {}, "deploy_map": {"app": ["@ALL"]}}
    config = folder / "app" / "config"
    config.mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps(meta))
    (config / "config_fed_server.json").write_text(json.dumps({"format_version": 2, **server}))
    (config / "config_fed_client.json").write_text(json.dumps({"format_version": 2, **client}))
