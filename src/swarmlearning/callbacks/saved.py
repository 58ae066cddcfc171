"""The model of a training that ended with an error, saved where its user finds it.

Does not decide when: `session` does.
"""

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from swarmlearning.callbacks.exchange import Arrays
from swarmlearning.parameters.archive import write_npz

DEFAULT_DIRECTORY: Final = "swarm-saved"
"""Below the working directory, where `SWARM_SAVE_DIR` names no other."""

_PART: Final = 100
"""Longest part of a file's name; two and the round stay below the 255 bytes of a file system."""


def save_directory(environ: Mapping[str, str]) -> Path:
    """Where models are saved."""
    return Path(environ.get("SWARM_SAVE_DIR") or DEFAULT_DIRECTORY).expanduser().absolute()


def saved_name(contract: str, who: str, number: int) -> str:
    """The plain name of a saved model's file.

    Args:
        contract: its training contract.
        who: the node, or the program where no node is known.
        number: the round that the parameters were not merged in.
    """
    contract, who = (re.sub(r"[^A-Za-z0-9._@-]", "_", part)[:_PART] for part in (contract, who))
    return f"{contract}-{who}-round{number}.npz"


def save_model(arrays: Arrays, directory: Path, name: str) -> Path:
    """Write `arrays` for `numpy.load`, whole or not at all, readable by this user only; one of that name gives way.

    Raises:
        OSError: the directory cannot be made or written to.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(prefix=".saving-", suffix=".npz", dir=directory)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            write_npz(file, arrays)
            file.flush()
            os.fsync(file.fileno())
        return Path(partial).replace(directory / name)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
