"""The engine on CometBFT: validators vote, safe with fewer than a third dishonest. Spec: docs/spec/ledger-cometbft.md.

Modules, downwards: `engine` has `parts`: `submitting` brings transactions to the child, `watch` says whether it is
well, `child`, `home` and `binary` run it, `rpc` asks it; `server` (with `framing` and `abci_pb2`) takes its calls,
`driver` answers them in an `order` that is legal, and `store` keeps what was ordered. Apart from these
`proofs` verifies what `archive` tells.

Nothing is imported here: `engine` and what it needs bring protobuf, an extra, and founding and proofs do without.
"""
