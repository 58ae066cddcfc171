"""The learning node (SL): takes part in merge rounds for ML programs on its host.

`control` is the local door for the ML program; `node` the process; the rest is a round, step by step.
"""
