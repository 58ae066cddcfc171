"""An agent's data directory, wheels and source packages made by hand, and builds of recipes: nothing is downloaded."""

import asyncio
import base64
import hashlib
import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

from swarmlearning.swop.managers.boundary import ManagerSettings
from swarmlearning.swop.managers.process_images import ProcessImages
from swarmlearning.swop.managers.process_mounts import Mounted
from swarmlearning.swop.managers.sandbox import Sandbox, View, make_scratch, probe, sandbox_arguments
from swarmlearning.swop.policy import Limits
from swarmlearning.tasks.bodies import MakeUserContainer
from swarmlearning.types import NodeId

AGENT = NodeId("spiffe://a.example/net/swop/agent")

LIMITS = Limits(run_time_s=300)


def make_wheel(directory: Path, name: str, files: dict[str, str], version: str = "1.0", file_name: str = "") -> Path:
    """A wheel with these files; `file_name` if it is to be called otherwise."""
    info = f"{name}-{version}.dist-info"
    contents = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    for inner, text in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{inner},sha256={digest},{len(text.encode())}")
    contents[f"{info}/RECORD"] = "\n".join([*rows, f"{info}/RECORD,,", ""])
    path = directory / (file_name or f"{name}-{version}-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as archive:
        for inner, text in contents.items():
            # A date of its own: the same wheel has the same bytes whenever it is made.
            archive.writestr(zipfile.ZipInfo(inner), text)
    return path


def make_source(directory: Path, name: str, program: str) -> Path:
    """A source package whose build runs `program` (with `wheel_directory` known), and installs nothing."""
    backend = f"""
import os, sys
def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
{"".join(f"    {line}{chr(10)}" for line in program.splitlines())}
    sys.exit("the build of {name} ends here")
"""
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": backend,
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
    }
    path = directory / f"{name}-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for inner, text in files.items():
            member = tarfile.TarInfo(f"{name}-1.0/{inner}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


class World:
    """An agent's images, with a volume `context`."""

    def __init__(self, directory: Path, sandbox: Sandbox | str) -> None:
        self.data = directory / "data"
        self.context = self.data / "volumes" / "context"
        self.context.mkdir(parents=True)
        self.sandbox = sandbox
        self.log = directory / "build.log"
        self.told: list[str] = []
        self.images = self.open()

    def open(self, *bases: tuple[str, str]) -> ProcessImages:
        """The images of an agent that has just been started."""
        settings = ManagerSettings(data=str(self.data), agent=AGENT, group="group", bases=bases)
        return ProcessImages(settings, self.sandbox)

    async def build(self, *lines: str, tag: str = "env", limits: Limits = LIMITS, first: str = "FROM python") -> str:
        """Build a recipe."""
        body = MakeUserContainer(build_context="context", build_steps=(first, *lines))
        return await self.images.build_image(tag, body, str(self.log), limits, self.told.append)

    def built(self) -> list[str]:
        """What lies where images are, but for tags and what is always there."""
        images = self.data / "images"
        return sorted(path.name for path in images.iterdir() if path.name not in ("tags", "scratch"))

    def run(self, program: str, tag: str = "env", inner: tuple[Mounted, ...] = ()) -> str:
        """What a Python program prints that runs in an image, in the sandbox."""
        assert isinstance(self.sandbox, Sandbox)
        image = self.images.describe_image(tag)
        view = View(
            interpreters=image.paths,
            hidden=str(self.data),
            files=image.files,
            mounts=inner,
            scratch=self.data / "run",
            env=image.environment,
        )
        make_scratch(view)
        argv = [self.sandbox.program, *sandbox_arguments(self.sandbox, view), "--", image.python, "-c", program]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env={})
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def probe_here(directory: Path) -> Sandbox | str:
    """This machine's sandbox, or why it has none."""
    from swarmlearning.swop.managers.process_bases import own_base

    (directory / "scratch").mkdir()
    return asyncio.run(probe(directory / "scratch", own_base().paths, str(directory / "data")))
