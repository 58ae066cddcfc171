"""The application on the ledger: membership and training contracts as pure transitions over frozen records.

Never does I/O, reads a clock or draws random numbers: block time and block hash come in as arguments.
Rules are numbered in docs/spec/membership.md (M-..) and docs/spec/training.md (T-..).
"""
