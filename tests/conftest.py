"""Hypothesis profiles, and helpers that tests of several rooms share.

`ci` is the default: few examples, always the same. `make fuzz` takes `fuzz` (`HYPOTHESIS_PROFILE=fuzz`): many, from
another seed each time.
"""

import os
import signal
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "fuzz", deadline=None, max_examples=500, stateful_step_count=80, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# Test folders are no packages; helpers that other rooms' tests need too are found here.
ROOMS = ("contracts", "ledger", "reports", "simulator", "swci", "swop")
sys.path += [str(Path(__file__).parent / room) for room in ROOMS]

# A shell that starts us in the background lets us ignore Ctrl-C, and so would every program that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
