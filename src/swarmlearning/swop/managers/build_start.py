"""Starts one command of a build: under limits, and in the sandbox if there is one. Becomes that command.

A program of its own, started by file name with `-I -S` and one argument, a JSON file: `limits` (numbers by names of
`resource`), `argv`, `env`, and `sandbox`, null or its program and its arguments. Those are handed over by an open file,
not on the command line, which everybody on the machine may read: there may be a password for an index of packages.
Spec: docs/spec/swop-content.md, SW-65.
"""

import json
import os
import resource
import sys
from pathlib import Path


def main(path: str) -> None:
    """Become the command that the file says."""
    spec = json.loads(Path(path).read_bytes())
    for name, most in {"RLIMIT_CORE": 0, **spec["limits"]}.items():
        what = getattr(resource, name)
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
    argv = spec["argv"]
    if spec["sandbox"] is None:
        os.execve(argv[0], argv, spec["env"])  # noqa: S606  # no shell: that is what we want
    program, *arguments = spec["sandbox"]
    file = os.memfd_create("sandbox")
    os.write(file, b"".join(os.fsencode(word) + b"\0" for word in arguments))
    os.lseek(file, 0, os.SEEK_SET)
    os.set_inheritable(file, True)
    os.execve(program, [program, "--args", str(file), "--", *argv], {})  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1])
