"""`swarm bench`: how fast this machine is at what a swarm does, beside what it could be."""

import click

from swarmlearning.cli.bench_round import round_


@click.group()
def bench() -> None:
    """Measure this machine: merging alone, or whole rounds of a swarm.

    Machines differ and shared ones are noisy: compare the ratios within a run rather than figures between runs.
    """


bench.add_command(round_)
