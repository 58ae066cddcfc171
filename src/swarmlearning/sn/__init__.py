"""The network node (SN): a replica of the ledger with the contracts on it, and the API for its organisation's nodes.

`application` joins ledger and contracts, `service` is the API, `client` its other side, `node` the process.
"""
