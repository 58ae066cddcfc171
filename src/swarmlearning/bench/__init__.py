"""Measures a round of the swarm beside the floor of the machine: what the same bytes cost without us."""
