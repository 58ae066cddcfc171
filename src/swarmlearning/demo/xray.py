"""PneumoniaMNIST: real chest X-rays of children, 28x28, dealt to three made-up hospitals that each lack one class.

Finds and checks the file, deals its training images without overlap, and gives the common test images. The file is
not shipped. `np.load` never unpickles here.
"""

import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from swarmlearning.demo.records import HOSPITALS, Hospital
from swarmlearning.errors import ConfigurationError

FILE: Final = "pneumoniamnist.npz"

COUNTS: Final = {"north": (600, 60), "coast": (40, 1200), "valley": (20, 300)}
"""Images of each hospital: (normal, pneumonia)."""

WATCH_SHARE: Final = 0.1
"""Share of a hospital's images held out of its training: its own test images, by which it also watches its loss."""

MAX_UNPACKED_BYTES: Final = 64 << 20
"""Largest data file that is unpacked, bytes; the real one has 5 MB."""

_SIDE: Final = 28


@dataclass(frozen=True)
class Images:
    """Images (n, 28, 28) uint8 and labels (n,): 1 for pneumonia, 0 for normal."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> "Images":
        """The images at `indices`, in that order."""
        return Images(pixels=self.pixels[indices], labels=self.labels[indices])


@dataclass(frozen=True)
class Xrays:
    """The training images that are dealt out, and the test images that no hospital has."""

    train: Images
    test: Images


def find_xrays(data: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the X-ray file is: `data` (from `--data`), SWARM_DATA, ../shared/data, or fetched by `medmnist`.

    Raises:
        ConfigurationError: it is nowhere; the message says where it was looked for and what to do.
    """
    for source, text in (("--data", data), ("SWARM_DATA", environ.get("SWARM_DATA", ""))):
        if text:
            path = Path(text)
            path = path / FILE if path.is_dir() else path
            if not path.is_file():
                raise ConfigurationError(f"{source} names {path}, which is not a file; expected {FILE}")
            return path
    for root in _roots():
        path = root.parent / "shared" / "data" / FILE
        if path.is_file():
            return path
    return _fetch_xrays()


def load_xrays(path: Path) -> Xrays:
    """Read and check the file.

    Raises:
        ConfigurationError: it is not PneumoniaMNIST in its 28x28 edition.
    """
    expected = f"expected {FILE} of MedMNIST (28x28)"
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(info.file_size for info in archive.infolist())
        if unpacked > MAX_UNPACKED_BYTES:
            raise ConfigurationError(f"{path}: unpacks to {unpacked} bytes, {expected}")
        with np.load(path, allow_pickle=False) as arrays:
            parts = [_check_images(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test")]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigurationError(f"{path}: {error}; {expected}") from error
    for label, kind in enumerate(("normal", "pneumonia")):
        needed = sum(counts[label] for counts in COUNTS.values())
        found = int(np.sum(parts[0].labels == label))
        if found < needed:
            raise ConfigurationError(f"{path}: {found} {kind} training images, {needed} are needed; {expected}")
    return Xrays(train=parts[0], test=parts[1])


def deal_images(xrays: Xrays, hospital: Hospital, seed: int) -> tuple[Images, Images]:
    """One hospital's training images and its own held-out images for `seed`.

    All hospitals cut the same shuffled deck at their own place, so that no image is in two of them.
    """
    random = np.random.Generator(np.random.PCG64([seed, *b"xray"]))
    train: list[int] = []
    held_out: list[int] = []
    for label in (0, 1):
        deck = random.permutation(np.flatnonzero(xrays.train.labels == label)).tolist()
        place = 0
        for other in HOSPITALS["xray"]:
            hand = deck[place : place + COUNTS[other.key][label]]
            place += len(hand)
            if other.key == hospital.key:
                n_watch = round(WATCH_SHARE * len(hand))
                held_out.extend(hand[:n_watch])
                train.extend(hand[n_watch:])
    return xrays.train.take(np.sort(np.array(train))), xrays.train.take(np.sort(np.array(held_out)))


def _check_images(pixels: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Images:
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (_SIDE, _SIDE):
        raise ValueError(f"images of {pixels.dtype} {pixels.shape[1:]}, not uint8 (28, 28)")
    flat = labels.reshape(-1).astype(np.int64)
    if len(flat) != len(pixels) or not np.isin(flat, (0, 1)).all():
        raise ValueError(f"{len(flat)} labels for {len(pixels)} images, or labels other than 0 and 1")
    return Images(pixels=pixels, labels=flat)


def _roots() -> list[Path]:
    """Directories beside which `shared/` may lie: where we are, and the checkout this file is in, if it is one."""
    roots = [Path.cwd()]
    checkout = Path(__file__).resolve().parents[3]
    if (checkout / "pyproject.toml").is_file():
        roots.append(checkout)
    return roots


def _fetch_xrays() -> Path:
    advice = f"give {FILE} (MedMNIST v2, 28x28) with --data FILE or SWARM_DATA, or `pip install medmnist`"
    looked = ", ".join(dict.fromkeys(str(root.parent / "shared" / "data" / FILE) for root in _roots()))
    try:
        from medmnist import PneumoniaMNIST
    except ImportError as error:
        raise ConfigurationError(f"no chest X-rays at {looked}, and medmnist is not installed: {advice}") from error
    try:
        # medmnist checks the file against the digest it ships before it hands it over.
        fetched = PneumoniaMNIST(split="train", download=True)
    except (RuntimeError, OSError, ValueError) as error:
        raise ConfigurationError(f"no chest X-rays at {looked}, and medmnist could not fetch them: {advice}") from error
    return Path(fetched.root) / FILE
