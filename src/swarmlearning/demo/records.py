"""The demo's seam: what the launcher hands over when all hospitals have finished, and what comes out.

The launcher (`demo.runner`) starts one `demo.hospital` program per hospital, gathers what they wrote with
`load_site_run`, and calls `demo.report.finish_demo(out, DemoRun(...)) -> Summary`. Nothing here does I/O except the
two functions that read and write a hospital's results, so that both sides share one file layout:

    DIR/<site key>/seed-<n>.json    a `SeedRun`
    DIR/<site key>/seed-<n>.npz     arrays `alone/<i>` and `swarm/<i>`: both models' weights in the model's own order
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from swarmlearning.encoding import Record, from_json, to_json
from swarmlearning.errors import ConfigurationError
from swarmlearning.types import ContractName, TrustDomain

Dataset = Literal["heart", "xray"]
Framework = Literal["keras", "pytorch"]

MAX_RESULT_BYTES: Final = 16 << 20
"""Largest results file of a hospital that is read back, bytes."""


class Hospital(Record, frozen=True, kw_only=True):
    """One institution of the demo: its own organisation, CA, nodes and rows."""

    key: str
    """Short name for directories, certificates and prefixes, such as `cleveland`."""
    title: str
    """For people."""
    domain: TrustDomain


HOSPITALS: Final[dict[Dataset, tuple[Hospital, ...]]] = {
    "heart": (
        Hospital(key="cleveland", title="Cleveland", domain=TrustDomain("cleveland.example")),
        Hospital(key="hungary", title="Hungary", domain=TrustDomain("hungary.example")),
        Hospital(key="switzerland", title="Switzerland", domain=TrustDomain("switzerland.example")),
        Hospital(key="va-long-beach", title="VA Long Beach", domain=TrustDomain("va-long-beach.example")),
    ),
    "xray": (
        Hospital(key="north", title="North", domain=TrustDomain("north.example")),
        Hospital(key="coast", title="Coast", domain=TrustDomain("coast.example")),
        Hospital(key="valley", title="Valley", domain=TrustDomain("valley.example")),
    ),
}
"""The hospitals of each dataset, in the order of `--site N` (from 0). The X-ray hospitals are made up."""


def contract_name(dataset: Dataset, seed: int) -> ContractName:
    """The training contract that the hospitals train under for one seed, such as `heart-0`."""
    return ContractName(f"{dataset}-{seed}")


class RoundLoss(Record, frozen=True, kw_only=True):
    """A hospital's loss on its own hold-out rows right after it adopted a round's result (or trained up to it)."""

    round: int
    loss: float


class ColumnStatistics(Record, frozen=True, kw_only=True):
    """What the hospitals agreed on for scaling: of each column sums and counts over all their training rows."""

    mean: dict[str, float]
    std: dict[str, float]
    category_counts: dict[str, dict[str, int]]
    contributors: int


class SeedRun(Record, frozen=True, kw_only=True):
    """What one hospital reports of one seed. No rows, no parameters: those are in the `.npz` file beside it."""

    seed: int
    n_train: int
    n_test: int
    rounds: int
    """Rounds whose merged result this hospital adopted."""
    seconds: float
    """Wall-clock time from the first statistics to the final swarm model."""
    model_sha256: str
    """The final swarm model as the swarm names it (hex); empty in a run without a swarm (`SWARM_LOOPBACK`)."""
    losses: tuple[RoundLoss, ...]
    statistics: ColumnStatistics | None
    """None where nothing had to be agreed on (X-rays)."""


class SiteRun(Record, frozen=True, kw_only=True):
    """One hospital's results over all seeds."""

    hospital: Hospital
    seeds: tuple[SeedRun, ...]


class LedgerFacts(Record, frozen=True, kw_only=True):
    """What the ledger says after the demo, asked of any SN."""

    height: int
    transactions: int
    models: dict[str, str]
    """For each training contract the SHA-256 (hex) of its final result."""


class DemoRun(Record, frozen=True, kw_only=True):
    """Everything the report is made of."""

    dataset: Dataset
    framework: Framework
    seeds: tuple[int, ...]
    seconds: float
    """Wall-clock time of the whole demo so far, from starting the first node."""
    results: str
    """The directory that holds one directory per hospital."""
    data: str = ""
    """The X-ray file, where the user named one."""
    sites: tuple[SiteRun, ...]
    """In the order of `HOSPITALS`."""
    ledger: LedgerFacts


# --- what comes out: summary.json -------------------------------------------------------------------------------


class SeedFigures(Record, frozen=True, kw_only=True):
    """One hospital's figures of one seed; None where the figure is undefined."""

    seed: int
    auc_alone: float | None
    auc_swarm: float | None
    auc_alone_own: float | None
    auc_swarm_own: float | None
    model_sha256: str


class SiteFigures(Record, frozen=True, kw_only=True):
    """One hospital's figures, means over the seeds in which they are defined."""

    name: str
    n_train: int
    n_test: int
    auc_alone: float | None
    auc_swarm: float | None
    auc_alone_own: float | None
    auc_swarm_own: float | None
    auc_alone_std: float | None
    auc_swarm_std: float | None
    auc_alone_own_std: float | None
    auc_swarm_own_std: float | None
    undefined: str
    """Why a figure is missing; empty if none is."""
    caution: str
    """Why a figure that is there says little; empty if nothing speaks against it."""
    model_sha256: str
    """Of the last seed's swarm model."""
    per_seed: tuple[SeedFigures, ...]


class SummaryLedger(Record, frozen=True, kw_only=True):
    """The ledger after the demo."""

    height: int
    transactions: int


class Summary(Record, frozen=True, kw_only=True):
    """`summary.json`. Where `measure` is balanced accuracy, the `auc_*` fields hold that; the names stay."""

    dataset: Dataset
    framework: Framework
    measure: Literal["auc", "balanced_accuracy"]
    seeds: int
    rounds: int
    """Merge rounds over all seeds."""
    seconds: float
    sites: tuple[SiteFigures, ...]
    auc_pooled: float | None
    auc_pooled_std: float | None
    models_equal: bool
    """For every seed all hospitals ended with one model, and it is the one on the ledger."""
    ledger: SummaryLedger


# --- the hospitals' files ---------------------------------------------------------------------------------------


def weights_path(results: Path, key: str, seed: int) -> Path:
    """Where the hospital `key` puts its two models of `seed`."""
    return results / key / f"seed-{seed}.npz"


def save_seed_run(results: Path, key: str, run: SeedRun) -> None:
    """Write a hospital's report of one seed; its directory must exist.

    Raises:
        OSError: the file cannot be written.
    """
    (results / key / f"seed-{run.seed}.json").write_bytes(to_json(run) + b"\n")


def load_site_run(results: Path, hospital: Hospital, seeds: Sequence[int]) -> SiteRun:
    """Read what one hospital wrote.

    Raises:
        ConfigurationError: it did not write a result for one of the `seeds`.
        DecodeError: a file is not what `save_seed_run` writes.
    """
    runs = []
    for seed in seeds:
        path = results / hospital.key / f"seed-{seed}.json"
        if not path.is_file() or not weights_path(results, hospital.key, seed).is_file():
            raise ConfigurationError(f"{hospital.title} wrote no result for seed {seed}: expected {path} and its .npz")
        if path.stat().st_size > MAX_RESULT_BYTES:
            raise ConfigurationError(f"{path}: larger than {MAX_RESULT_BYTES} bytes, not a hospital's result")
        runs.append(from_json(path.read_bytes(), SeedRun, str(path)))
    return SiteRun(hospital=hospital, seeds=tuple(runs))


def save_summary(path: Path, summary: Summary) -> None:
    """Write `summary.json`.

    Raises:
        OSError: the file cannot be written.
    """
    path.write_bytes(to_json(summary) + b"\n")
