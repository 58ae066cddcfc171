"""Trainings that a seed makes up: sizes, settings, programs and faults. `SWARM_SIM_SEEDS=500` runs so many.

`SWARM_SIM_FIRST` is the first seed. `SWARM_SIM_REPORT=FILE` adds what was run and which faults fired, one line a seed.
"""

import json
import os
from pathlib import Path

import pytest
from sim_checks import check_any_end
from sim_plans import make_up

SEEDS = int(os.environ.get("SWARM_SIM_SEEDS", "200"))
FIRST = int(os.environ.get("SWARM_SIM_FIRST", "1000"))
REPORT = os.environ.get("SWARM_SIM_REPORT", "")

ONCE_FAILED = [5225, 5510, 5548, 50066, 101586, 103319]
"""Seeds that showed a fault once."""


@pytest.mark.parametrize("seed", [*ONCE_FAILED, *range(FIRST, FIRST + SEEDS)])
def test_whatever_the_seed_makes_up_ends_well(tmp_path: Path, seed: int) -> None:
    schedule = make_up(seed, "mean" if seed in ONCE_FAILED else "")
    swarm = schedule.build(tmp_path)
    try:
        swarm.run()
        check_any_end(swarm, schedule)
    except BaseException as error:
        error.add_note(f"{schedule}")
        error.add_note(
            f"to repeat it: SWARM_SIM_FIRST={seed} SWARM_SIM_SEEDS=1 "
            "python -m pytest tests/simulator/test_swarm_fuzz.py -k ends_well"
        )
        raise
    if REPORT:
        line = {"seed": seed, "rounds": swarm.last.finals, "fired": {f.name: n for f, n in swarm.fired.items() if n}}
        with Path(REPORT).open("a") as file:
            file.write(json.dumps(line) + "\n")
