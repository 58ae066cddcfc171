"""Merge methods of other distributions (docs/spec/merging.md, G-90 to G-95)."""

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from swarmlearning.errors import ConfigurationError
from swarmlearning.merge.method import merge_method

MODULE = '''
"""A method that takes the first contributor, or weighs as it is told."""

from swarmlearning.merge.base import MergeMethod, Option

class First(MergeMethod):
    name = "acme_first"
    takes = {"depth": Option(0, 5_000_000, 1_000_000)}

    def merge_block(self, blocks, weights, out):
        out[...] = blocks[0]

class Weigher(MergeMethod):
    name = "acme_weigher"
    needs = "distances"
    answer = [1, 0]

    def weigh(self, distances, weights):
        return self.answer

class Nameless(MergeMethod):
    name = "other"

def broken(options):
    raise ValueError("no\\nlicence")

def nothing(options):
    return None
'''

POINTS = """[swarmlearning.merge_methods]
acme_first = acme_merge:First
acme_weigher = acme_merge:Weigher
acme_nameless = acme_merge:Nameless
acme_broken = acme_merge:broken
acme_nothing = acme_merge:nothing
acme_gone = acme_absent:First
mean = acme_merge:First
"""


class Site:
    """A directory on the path that distributions are installed in, as an installer would."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def install(
        self, module: str = MODULE, name: str = "acme-merge", version: str = "1.2.0", points: str = POINTS
    ) -> None:
        info = self.path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (self.path / "acme_merge.py").write_text(module)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(points)
        (info / "INSTALLER").write_text("pip\n")
        listed = [
            "acme_merge.py",
            "__pycache__/acme_merge.cpython-311.pyc",
            *(f"{info.name}/{n}" for n in self.files()),
        ]
        (info / "RECORD").write_text("".join(f"{file},,\n" for file in listed))

    @staticmethod
    def files() -> list[str]:
        return ["METADATA", "entry_points.txt", "INSTALLER", "RECORD"]

    @property
    def info(self) -> Path:
        return next(self.path.glob("*.dist-info"))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Site(tmp_path)
    sys.modules.pop("acme_merge", None)


def test_g90_a_plug_in_merges_and_takes_options(site: Site) -> None:
    site.install()
    method = merge_method("ACME_First", (("depth", 2_000_000),))
    assert (method.name, method.needs, method.options) == ("acme_first", "", (("depth", 2_000_000),))
    out = np.zeros(2)
    method.merge_block([np.array([1.0, 2.0]), np.array([3.0, 4.0])], [1, 1], out)
    assert out.tolist() == [1.0, 2.0]
    with pytest.raises(ConfigurationError, match="option depth is 6; expected a number from 0 to 5"):
        merge_method("acme_first", (("depth", 6_000_000),))


def test_g90_nothing_is_imported_before_its_name_is_asked_for(site: Site) -> None:
    site.install("raise RuntimeError('imported')")
    assert merge_method("trimmed_mean").source == ""
    with pytest.raises(ConfigurationError, match="did you mean 'acme_first'"):
        merge_method("acme_furst")
    with pytest.raises(ConfigurationError, match=r"'acme_first' \(acme_merge:First\) fails to load: RuntimeError"):
        merge_method("acme_first")


def test_g90_built_in_names_cannot_be_overridden(site: Site) -> None:
    site.install()
    assert type(merge_method("mean")).__module__ == "swarmlearning.merge.mean"
    assert "acme_merge" not in sys.modules


def test_g90_a_name_that_two_distributions_bring_is_refused(site: Site) -> None:
    site.install()
    site.install(name="zeta-merge")
    with pytest.raises(ConfigurationError, match="brought by acme-merge, zeta-merge; uninstall all but one"):
        merge_method("acme_first")


def test_g91_the_source_names_distribution_version_and_the_hash_of_its_files(site: Site) -> None:
    site.install()
    whole = hashlib.sha256()
    info = site.info.name
    for name in sorted(["acme_merge.py", f"{info}/METADATA", f"{info}/entry_points.txt"]):
        content = (site.path / name).read_bytes()
        for part in (name.encode(), content):
            whole.update(len(part).to_bytes(8, "little") + part)
    assert merge_method("acme_first").source == f"acme-merge 1.2.0 sha256:{whole.hexdigest()}"


def test_g91_how_it_was_installed_does_not_count_and_every_other_byte_does(site: Site) -> None:
    site.install()
    before = merge_method("acme_first").source
    (site.info / "INSTALLER").write_text("uv\n")
    assert merge_method("acme_first").source == before
    (site.path / "acme_merge.py").write_text(MODULE + "\n# one line more\n")
    changed = merge_method("acme_first").source
    assert changed != before
    (site.path / "acme_merge.py").unlink()
    with pytest.raises(ConfigurationError, match=r"acme_merge.py of acme-merge: No such file"):
        merge_method("acme_first")


def test_g91_an_endless_name_is_refused(site: Site) -> None:
    site.install(name="a" * 140)
    with pytest.raises(ConfigurationError, match="expected at most 200 printable ones"):
        merge_method("acme_first")


def test_g92_another_source_is_refused_showing_both(site: Site) -> None:
    site.install()
    own = merge_method("acme_first").source
    assert merge_method("acme_first", (), own).source == own
    other = "acme-merge 1.3.0 sha256:" + "0" * 64
    with pytest.raises(ConfigurationError, match="all peers must install the same distribution") as caught:
        merge_method("acme_first", (), other)
    assert own in str(caught.value)
    assert other in str(caught.value)
    with pytest.raises(ConfigurationError, match="is of 'this release' here and of 'acme-merge"):
        merge_method("mean", (), other)


@pytest.mark.parametrize("listed", ["__editable__.acme_merge.pth", "acme_merge/other.py"])
def test_g93_what_cannot_be_hashed_is_refused(site: Site, listed: str) -> None:
    """An editable installation lists a link to its code, and not the code."""
    site.install()
    (site.info / "RECORD").write_text(f"{listed},,\n{site.info.name}/METADATA,,\n")
    with pytest.raises(ConfigurationError, match=r"acme-merge does not list the file of its module acme_merge.*wheel"):
        merge_method("acme_first")
    assert "acme_merge" not in sys.modules


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("acme_broken", "fails to load: ValueError: no licence"),
        ("acme_nothing", "must make a swarmlearning.merge.base.MergeMethod of that name"),
        ("acme_nameless", "must make a swarmlearning.merge.base.MergeMethod of that name"),
        ("acme_gone", "does not list the file of its module acme_absent"),
    ],
)
def test_g94_a_plug_in_that_fails_gives_one_line(site: Site, name: str, text: str) -> None:
    site.install()
    with pytest.raises(ConfigurationError, match=text) as caught:
        merge_method(name)
    assert f"'{name}'" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "got"),
    [("[1]", "1 weights from 1"), ("[0, 0]", "in all 0"), ("[-1, 2]", "2 weights from -1"), ("[1 << 29, 1]", "in all")],
)
def test_g95_weights_that_are_none_are_refused(site: Site, answer: str, got: str) -> None:
    site.install(MODULE.replace("[1, 0]", answer))
    method = merge_method("acme_weigher")
    assert method.needs == "distances"
    with pytest.raises(ConfigurationError, match=got):
        method.weigh(np.zeros((2, 2)), [1, 1])


def test_g95_weights_that_fit_are_given(site: Site) -> None:
    site.install()
    assert merge_method("acme_weigher").weigh(np.zeros((2, 2)), [1, 1]) == [1, 0]
