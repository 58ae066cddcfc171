"""The `swarm` command: one door for people, whose rooms are opened only when asked for.

Does not hold what the commands do; each of them is a thin shell over the room that does it.
"""


def examples(*commands: str) -> str:
    """The `epilog` of a command's help: examples, one a line, which click does not wrap."""
    return "\b\n" + "\n".join(["Examples:" if len(commands) > 1 else "Example:", *(f"  {line}" for line in commands)])
