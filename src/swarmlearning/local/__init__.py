"""Throw-away networks on one machine: certificates, genesis, node processes, and the programs that train over them.

`genesis` makes and reads a network's founding file; `network` lays out and starts one; `process` and `reaper` keep
watch over processes so that none outlives its parent; `live` shows a training while it runs; `check` judges its end.
Nothing here is used between real institutions.
"""
