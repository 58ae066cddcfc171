"""The `swarm` command: one door for people, whose rooms are opened only when asked for.

Does not hold what the commands do; each of them is a thin shell over the room that does it.
"""
