"""Looking for what does not work, or will not: each check returns findings, and each finding says what to do.

Changes nothing, anywhere. `examine.examine` runs all checks; how the findings look on a screen is `cli/doctor.py`'s.
"""
