"""The same payloads through other systems and through ours, one after another on this machine.

    python benchmarks/peers/run.py [--only ours,hivemind] [--sizes 0.25,10,100] [--rounds 5] [--markdown] [--json FILE]

Each system has a folder here with its driver and its pinned requirements, and gets an environment of its own in
build/bench-peers/ at the first run (network needed then, and a few GB of disk). What is counted as a round stands in
docs/benchmarks.md, and how it is taken in protocol/payload.py. A system that fails or takes longer than `--limit`
seconds at one size is shown with its reason.
"""

import argparse
import hashlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE)]

from harness import Outcome, run_driver  # noqa: E402
from table import format_markdown, format_text, make_rows  # noqa: E402

OURS = "ours"
ENVIRONMENTS = ROOT / "build" / "bench-peers"
INSTALL_LIMIT_S = 1800


@dataclass(frozen=True, kw_only=True)
class System:
    """One measured system: its key for `--only`, its title, its folder and further arguments of its driver.

    `ignored`: texts in the command lines of processes that belong to the measurement, not to the system.
    """

    key: str
    title: str
    folder: str
    arguments: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ("driver.py",)


SYSTEMS = (
    System(
        key=OURS,
        title="Swarm Learning",
        folder="swarm",
        ignored=("driver.py", "swarmlearning bench round", "swarmlearning.bench.floor"),
    ),
    System(key="hivemind", title="hivemind", folder="hivemind"),
    System(key="nvflare", title="NVIDIA FLARE, FedAvg", folder="nvflare", arguments=("--workflow", "fedavg")),
    System(key="nvflare-swarm", title="NVIDIA FLARE, swarm", folder="nvflare", arguments=("--workflow", "swarm")),
    System(key="flower", title="Flower", folder="flower"),
    System(key="p2pfl", title="p2pfl", folder="p2pfl"),
)


def make_environment(folder: str) -> Path:
    """The interpreter of a system's own environment, made anew when its requirements changed.

    Raises:
        OSError, subprocess.SubprocessError: it could not be made.
    """
    requirements = HERE / folder / "requirements.txt"
    if not requirements.exists():
        return Path(sys.executable)
    target = ENVIRONMENTS / folder
    python = target / "bin" / "python"
    stamp = target / "requirements.sha256"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"Setting up {target.relative_to(ROOT)}; this may take minutes.", file=sys.stderr, flush=True)
        shutil.rmtree(target, ignore_errors=True)
        install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", requirements]
        for command in ([sys.executable, "-m", "venv", target], install):
            subprocess.run(command, check=True, timeout=INSTALL_LIMIT_S)
        stamp.write_text(wanted)
    return python


def measure(system: System, megabytes: float, options: argparse.Namespace, folder: Path) -> Outcome:
    """One system at one size."""
    try:
        python = make_environment(system.folder)
    except (OSError, subprocess.SubprocessError) as error:
        return Outcome(system=system.title, megabytes=megabytes, reason=f"no environment: {error}")
    task = ["--megabytes", f"{megabytes:g}", "--peers", str(options.peers), "--rounds", str(options.rounds)]
    work = folder / f"{system.key}-{megabytes:g}"
    command = [str(python), str(HERE / system.folder / "driver.py"), *system.arguments, *task, "--folder", str(work)]
    path = ":".join(map(str, (HERE / "protocol", ROOT / "src")))
    log = folder / f"{system.key}-{megabytes:g}.log"
    outcome = run_driver(
        system.title,
        command,
        megabytes=megabytes,
        limit_s=options.limit,
        log=log,
        path=path,
        ignored=system.ignored,
    )
    done = count_rounds(work / "marks", options.peers)
    if outcome.spread or done is None:
        return outcome
    return replace(outcome, reason=f"{outcome.reason}; rounds that ended at all peers: {done}")


def count_rounds(marks: Path, peers: int) -> int | None:
    """How many rounds ended at all peers, by their marks, with the one that does not count; None without marks."""
    files = [marks / f"{peer}.jsonl" for peer in range(peers)]
    if not any(file.exists() for file in files):
        return None
    return max(0, min(len(file.read_text().splitlines()) if file.exists() else 0 for file in files) - 1)


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(system.key for system in SYSTEMS), help="systems, default: all")
    parser.add_argument("--sizes", default="0.25,10,100", help="MB (10^6 bytes) of float32 parameters")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds, after one that does not count")
    parser.add_argument("--peers", type=int, default=4)
    parser.add_argument("--limit", type=float, default=300, help="seconds that one system may take at one size")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--keep", action="store_true", help="keep the logs, and say where they are")
    options = parser.parse_args(arguments)
    options.only = options.only.split(",")
    unknown = sorted(set(options.only) - {system.key for system in SYSTEMS})
    if unknown:
        known = ", ".join(system.key for system in SYSTEMS)
        parser.error(f"--only: expected some of {known}; got {', '.join(unknown)}")
    options.sizes = [float(size) for size in options.sizes.split(",")]
    return options


def main() -> None:
    """Run all in turn, then print the table."""
    options = read_options()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: sys.exit(128 + number))  # an exception: processes are ended then
    outcomes = []
    folder = Path(tempfile.mkdtemp(prefix="bench-peers-"))
    try:
        for megabytes in options.sizes:
            for system in SYSTEMS:
                if system.key in options.only:
                    outcome = measure(system, megabytes, options, folder)
                    outcomes.append(outcome)
                    said = f"{outcome.spread.median:.2f} s" if outcome.spread else outcome.reason
                    print(f"{megabytes:g} MB, {system.title}: {said}", file=sys.stderr, flush=True)
    finally:
        if options.keep:
            print(f"logs: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    rows = make_rows(outcomes, SYSTEMS[0].title)
    print(format_markdown(rows) if options.markdown else format_text(rows))
    if options.json:
        record = {"peers": options.peers, "outcomes": [outcome.to_json() for outcome in outcomes]}
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
