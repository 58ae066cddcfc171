"""Ours: `swarm bench round`, the command as everybody has it; mean, mutual TLS, a ledger with one SN.

The command itself, and the processes with which it measures the floor of the machine after the swarm has stopped, are
no part of the swarm: `run.py` leaves their memory out, as it does that of all drivers.
"""

import json
import subprocess
import sys

import driving
import payload


def main() -> None:
    """Run the command, pass on what it found."""
    task = driving.read_task(__doc__)
    swarm = [sys.executable, "-m", "swarmlearning"]
    command = [*swarm, "bench", "round", "--json", "--merge", "mean"]
    command += ["--peers", str(task.peers), "--megabytes", f"{task.megabytes:g}", "--rounds", str(task.rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise SystemExit(f"`swarm bench round` of this checkout failed: {said}")
    found = json.loads(done.stdout)
    version = subprocess.run([*swarm, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    payload.report(
        "Swarm Learning",
        version,
        megabytes=task.megabytes,
        peers=task.peers,
        tls="mutual",
        rounds=found["round_seconds"],
        note=f"{found['ratio']:.1f} times the floor of {found['floor_seconds']:.3f} s",
    )


if __name__ == "__main__":
    main()
