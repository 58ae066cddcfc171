"""The ledger: orders, persists and replicates opaque transactions; an application gives them meaning.

`boundary` is CometBFT's ABCI, narrowed; `embedded` the engine with one writer and many verified replicas; `cometbft`
the one where validators vote, on a `cometbft` process. `file`, `waiting` and `backoff` they share.
"""
