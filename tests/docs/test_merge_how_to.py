"""The how-to's merge methods, as they stand on the page, are installed and merge; its tables say what the code says."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from swarmlearning.callbacks.arguments import SLPlatforms, parse_arguments
from swarmlearning.merge.method import BUILT_IN, merge_method
from swarmlearning.parameters.dtypes import Array
from swarmlearning.types import decimal

PAGE = Path(__file__).parent.parent.parent / "docs" / "how-to" / "choose-a-merge-method.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's package, as a wheel would be installed."""
    _, first, second = blocks("python")
    (points,) = blocks("toml")
    info = tmp_path / "acme_merge-1.0.dist-info"
    info.mkdir()
    (tmp_path / "acme_merge.py").write_text(first + second)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-merge\nVersion: 1.0\n")
    lines = [line.replace('"', "") for line in points.splitlines() if " = " in line]
    (info / "entry_points.txt").write_text("\n".join(["[swarmlearning.merge_methods]", *lines, ""]))
    (info / "RECORD").write_text(f"acme_merge.py,,\n{info.name}/METADATA,,\n{info.name}/entry_points.txt,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("acme_merge", None)


@pytest.mark.usefixtures("installed")
def test_the_pages_method_merges_every_kind_of_array() -> None:
    method = merge_method("acme_midrange", (("towards_zero", 500_000),))
    assert method.source.startswith("acme-merge 1.0 sha256:")
    for kind in (np.float32, np.float64, np.float16):
        given: list[Array] = [np.array(values, kind) for values in ([1.0, -0.0], [5.0, 0.0], [2.0, 0.0])]
        out = np.empty(2, kind)
        method.merge_block(given, [1, 1, 1], out)
        assert out.tolist() == [1.5, 0.0]
        assert not np.signbit(out).any()
    whole: list[Array] = [np.array([True]), np.array([False])]
    flag = np.array([False])
    method.merge_block(whole, [1, 1], flag)
    assert flag.tolist() == [True]
    brain = np.array([3.0], ml_dtypes.bfloat16)
    found = np.zeros_like(brain)
    method.merge_block([brain, brain * 2], [1, 1], found)
    assert found.astype(np.float64).tolist() == [2.25]


@pytest.mark.usefixtures("installed")
def test_the_pages_method_weighs() -> None:
    method = merge_method("acme_drop_worst")
    points = np.array([0.0, 1.0, 50.0, 2.0])
    assert method.weigh((points[:, None] - points) ** 2, [1, 2, 3, 4]) == [1, 2, 0, 4]
    assert method.weigh(np.zeros((1, 1)), [5]) == [5]


def test_the_pages_arguments_are_taken() -> None:
    call = blocks("python")[0]
    method, trim = re.search(r'mergeMethod="(\w+)", mergeOptions={"trim": ([\d.]+)}', call).groups()  # type: ignore[union-attr]
    given = {"mergeMethod": method, "mergeOptions": {"trim": float(trim)}}
    settings = parse_arguments((SLPlatforms.KERAS,), 64, 5, given).settings
    assert merge_method(settings.merge_method, settings.merge_options).options == (("trim", 250_000),)


def test_the_page_and_the_specification_name_every_method_and_option() -> None:
    page = PAGE.read_text(encoding="utf-8")
    specification = (PAGE.parent.parent / "spec" / "merging.md").read_text(encoding="utf-8")
    for name, kind in BUILT_IN.items():
        assert f"`{name}`" in page
        assert f"`{name}`" in specification
        for option, (lowest, highest, _, _) in kind.takes.items():
            assert f"`{option}`" in page
            row = rf"\| .*`{name}`.* \| `{option}` \| {decimal(lowest)} \| {decimal(highest)} \|"
            assert re.search(row, specification), (name, option)
