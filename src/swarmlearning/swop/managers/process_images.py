"""Images of the PROCESS manager: virtual environments. Placeholder of the part that builds them."""

import sys
from pathlib import Path

from swarmlearning.errors import NotFound
from swarmlearning.swop.managers.boundary import ManagerSettings, Tell
from swarmlearning.swop.policy import Limits
from swarmlearning.tasks.bodies import MakeUserContainer, PullImage


class ProcessImages:
    """Images and volumes of this agent."""

    def __init__(self, settings: ManagerSettings) -> None:
        """Know of them."""
        self._settings = settings

    def image_python(self, tag: str) -> Path:
        """The interpreter of an image; "": of the default one.

        Raises:
            NotFound: there is no such image.
        """
        if tag:
            raise NotFound(f"there is no image {tag!r} on this host")
        return Path(sys.executable)

    async def find_image(self, tag: str) -> str | None:
        """Digest of the image that has this tag; None if there is none."""
        return None if tag else ""

    async def build_image(self, tag: str, body: MakeUserContainer, log: str, limits: Limits, tell: Tell) -> str:
        """Build an image."""
        raise NotFound(f"image {tag!r}: {body} cannot be built: {log} {limits} {tell}")

    async def pull_image(self, tag: str, body: PullImage, log: str, tell: Tell) -> str:
        """Pull an image."""
        raise NotFound(f"image {tag!r}: {body} cannot be pulled: {log} {tell}")

    async def fill_volume(self, name: str, content: str) -> None:
        """Replace a volume."""
        raise NotFound(f"volume {name!r}: cannot be filled from {content}")
