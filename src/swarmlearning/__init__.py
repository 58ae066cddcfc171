"""Swarm Learning: institutions that may not pool their data train one model together, as equals.

This package imports no machine-learning framework. The user's doors are `swarmlearning.tf` (Keras 3) and
`swarmlearning.pyt` (PyTorch); everything else is started by the `swarm` command.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
