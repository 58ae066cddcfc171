"""What the user's doors share: the session with the SL, arguments, schedule, evaluation, the course of a training.

`session` is framework-neutral; `keras_model` and `torch_model` import their framework, nothing else here does.
"""

from swarmlearning.callbacks.configuration import SessionConfig
from swarmlearning.callbacks.results import FinalResult, SyncResult
from swarmlearning.callbacks.session import SwarmSession
from swarmlearning.callbacks.stats import AgreedStats

__all__ = ["AgreedStats", "FinalResult", "SessionConfig", "SwarmSession", "SyncResult"]
