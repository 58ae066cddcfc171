"""Who a node is: X.509 identities, the small certificate authority, trust by organisation, signing keys.

Does not do networking. What an identity may *do* is decided by `contracts` (on the ledger) and at each service's door.
"""
