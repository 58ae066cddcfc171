"""The agent (SWOP): carries out on its host what taskrunners on the ledger have, as far as its institution lets it.

`agent` follows the ledger, `deciding` says whether a task may run here, `managers` run it: as processes or containers.
"""
