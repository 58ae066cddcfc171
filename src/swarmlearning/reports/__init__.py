"""What people are told of a network: records for programs, and tables and lines for a terminal, from an SN's answers.

Does not: ask or decide anything; what is watched is asked for through a client that is given.
"""
