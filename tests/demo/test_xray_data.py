import sys
from pathlib import Path

import numpy as np
import pytest

from swarmlearning.demo import xray
from swarmlearning.demo.cohort import images_to_examples
from swarmlearning.demo.records import HOSPITALS
from swarmlearning.demo.xray import COUNTS, deal_images, find_xrays, load_xrays
from swarmlearning.errors import ConfigurationError


def write_file(path: Path, normal: int = 700, pneumonia: int = 1600) -> Path:
    """A file like PneumoniaMNIST in which every image is another one."""
    count = normal + pneumonia
    pixels = np.zeros((count, 28, 28), dtype=np.uint8)
    pixels[:, 0, 0], pixels[:, 0, 1] = np.arange(count) // 256, np.arange(count) % 256
    labels = np.repeat([0, 1], [normal, pneumonia]).astype(np.uint8)[:, None]
    np.savez(
        path,
        train_images=pixels,
        train_labels=labels,
        test_images=pixels[:4],
        test_labels=np.array([[0], [1], [0], [1]]),
    )
    return path


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working directory beside which there is no shared data, and no checkout."""
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    monkeypatch.setattr(xray, "__file__", str(tmp_path / "1" / "2" / "3" / "4" / "xray.py"))
    monkeypatch.setitem(sys.modules, "medmnist", None)
    return inner


def test_hospitals_have_the_promised_images_and_share_none(tmp_path: Path) -> None:
    xrays = load_xrays(write_file(tmp_path / "x.npz"))
    seen: set[bytes] = set()
    for hospital in HOSPITALS["xray"]:
        train, own = deal_images(xrays, hospital, seed=5)
        labels = np.concatenate([train.labels, own.labels])
        assert tuple(np.bincount(labels)) == COUNTS[hospital.key]
        assert len(own) == round(len(labels) / 10)
        images = {image.tobytes() for part in (train, own) for image in part.pixels}
        assert len(images) == len(labels)
        assert not images & seen
        seen |= images
    assert len(seen) == 2220


def test_a_seed_deals_the_same_images_again_and_another_seed_others(tmp_path: Path) -> None:
    xrays = load_xrays(write_file(tmp_path / "x.npz"))
    first, again, other = (deal_images(xrays, HOSPITALS["xray"][2], seed)[0].pixels for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_both_classes_weigh_alike_and_one_on_average(tmp_path: Path) -> None:
    train, _ = deal_images(load_xrays(write_file(tmp_path / "x.npz")), HOSPITALS["xray"][0], seed=0)
    examples = images_to_examples(train)
    assert examples.inputs.shape == (594, 28, 28, 1)
    assert 0 <= examples.inputs.min() <= examples.inputs.max() <= 1
    halves = [float(examples.weights[examples.labels == label].sum()) for label in (0, 1)]
    assert np.isclose(halves[0], halves[1])
    assert np.isclose(examples.weights.mean(), 1)


def test_the_file_is_looked_for_in_the_documented_order(nowhere: Path, tmp_path: Path) -> None:
    named, variable = write_file(tmp_path / "named.npz"), write_file(tmp_path / "variable.npz")
    shared = nowhere.parent / "shared" / "data"
    shared.mkdir(parents=True)
    beside = write_file(shared / xray.FILE)
    environ = {"SWARM_DATA": str(variable)}
    assert find_xrays(str(named), environ) == named
    assert find_xrays("", environ) == variable
    assert find_xrays("", {"SWARM_DATA": str(shared)}) == beside
    assert find_xrays("", {}).resolve() == beside


def test_a_file_that_is_nowhere_is_said_in_one_line_with_what_to_do(nowhere: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"--data FILE or SWARM_DATA, or `pip install medmnist`") as caught:
        find_xrays("", {})
    assert "\n" not in str(caught.value)


def test_a_place_looked_at_is_named_once(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xray, "__file__", str(nowhere / "src" / "swarmlearning" / "demo" / "xray.py"))
    (nowhere / "pyproject.toml").touch()  # we stand in the checkout itself
    with pytest.raises(ConfigurationError) as caught:
        find_xrays("", {})
    assert str(caught.value).count(str(nowhere.parent / "shared" / "data" / xray.FILE)) == 1


@pytest.mark.parametrize(("data", "environ"), [("gone.npz", {}), ("", {"SWARM_DATA": "gone.npz"})])
def test_a_named_file_that_is_not_there_is_not_replaced_by_another(
    nowhere: Path, data: str, environ: dict[str, str]
) -> None:
    write_file(nowhere / xray.FILE)
    with pytest.raises(ConfigurationError, match=r"names gone\.npz, which is not a file"):
        find_xrays(data, environ)


def test_garbage_is_refused_as_no_xray_file(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(b"not a zip file at all")
    with pytest.raises(ConfigurationError, match=r"expected pneumoniamnist\.npz of MedMNIST"):
        load_xrays(path)


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    trap = np.array([{"a": 1}], dtype=object)
    np.savez(path, train_images=trap, train_labels=trap, test_images=trap, test_labels=trap)
    with pytest.raises(ConfigurationError, match="allow_pickle=False"):
        load_xrays(path)


def test_an_unpacking_bomb_is_refused_before_it_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_file(tmp_path / "x.npz")
    monkeypatch.setattr(xray, "MAX_UNPACKED_BYTES", 1000)
    with pytest.raises(ConfigurationError, match="unpacks to"):
        load_xrays(path)


@pytest.mark.parametrize(("normal", "pneumonia", "kind"), [(659, 1600, "normal"), (700, 1559, "pneumonia")])
def test_too_few_images_to_deal_are_refused(tmp_path: Path, normal: int, pneumonia: int, kind: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{kind} training images"):
        load_xrays(write_file(tmp_path / "x.npz", normal, pneumonia))


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    pixels, labels = np.zeros((3, 64, 64), dtype=np.uint8), np.zeros((3, 1), dtype=np.uint8)
    np.savez(path, train_images=pixels, train_labels=labels, test_images=pixels, test_labels=labels)
    with pytest.raises(ConfigurationError, match=r"\(64, 64\), not uint8 \(28, 28\)"):
        load_xrays(path)
