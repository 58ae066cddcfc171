"""Task definitions: reading the YAML files that people write, and the bodies that the ledger holds.

Does not: ask the ledger anything, or carry out a task.
"""
