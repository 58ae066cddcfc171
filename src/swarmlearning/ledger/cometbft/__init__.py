"""The CometBFT engine: a `cometbft` process orders and replicates; all organisations' validators vote on each block."""
