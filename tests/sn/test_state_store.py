"""The state and its root: docs/spec/transactions.md, TX-11, TX-12; against the definition computed naively."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlearning.encoding import merkle_root, sha256
from swarmlearning.errors import Broken
from swarmlearning.sn import state
from swarmlearning.sn.state import BUCKETS, Overlay, StateStore, bucket_of

KEYS = st.sampled_from([f"{kind}/{i}" for kind in ("a", "ab", "b") for i in range(12)])
VALUES = st.binary(max_size=8)
CHANGES = st.dictionaries(KEYS, st.none() | VALUES, max_size=10)


def naive_root(values: dict[str, bytes]) -> bytes:
    """TX-11 word by word."""
    leaves = []
    for bucket in range(BUCKETS):
        keys = sorted(key for key in values if int.from_bytes(sha256(key.encode())[:2], "big") % BUCKETS == bucket)
        leaves.append(sha256(b"".join(sha256(key.encode()) + sha256(values[key]) for key in keys)))
    return merkle_root(leaves)


def merged(values: dict[str, bytes], changes: dict[str, bytes | None]) -> dict[str, bytes]:
    return {key: value for key, value in ({**values, **changes}).items() if value is not None}


@settings(max_examples=15)
@given(st.lists(CHANGES, max_size=5))
def test_tx11_the_root_is_that_of_the_definition_after_every_block(blocks: list[dict[str, bytes | None]]) -> None:
    store, values = StateStore(None), dict[str, bytes]()
    assert store.root() == naive_root({})
    for height, changes in enumerate(blocks):
        before = store.root()
        ahead = store.root(changes)
        assert store.root() == before
        store.commit(height, changes)
        values = merged(values, changes)
        assert ahead == store.root() == naive_root(values)
        assert store.height == height
        assert {key: store.get(key) for key in store.keys("")} == values


@pytest.mark.parametrize(("durable", "level"), [(False, 1), (True, 2)])
def test_tx12_each_block_is_fsynced_where_the_ledger_does_not_keep_it(
    durable: bool, level: int, tmp_path: Path
) -> None:
    store = StateStore(tmp_path / "s.sqlite", durable=durable)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (level,)
    store.close()


def test_keys_as_long_as_a_transaction_are_not_remembered() -> None:
    """A member asks for as many contracts as it likes, by names as long as it likes."""
    store = StateStore(None)
    long = "training/" + "x" * 60_000
    store.commit(0, {"training/a": b"1"})
    assert (store.get("training/a"), store.get(long), store.get(long + "y")) == (b"1", None, None)
    assert list(store._known) == ["training/a"]


@settings(max_examples=25)
@given(CHANGES, CHANGES, CHANGES)
def test_tx11_a_root_that_was_asked_for_does_not_stand_for_other_changes(
    base: dict[str, bytes | None], asked: dict[str, bytes | None], done: dict[str, bytes | None]
) -> None:
    store = StateStore(None)
    store.commit(0, base)
    store.root(asked)
    store.commit(1, done)
    store.root(asked)
    values = merged(merged({}, base), done)
    assert store.root() == naive_root(values)
    assert {key: store.get(key) for key in {*base, *asked, *done}} == {
        key: values.get(key) for key in {*base, *asked, *done}
    }


@given(st.lists(CHANGES, max_size=4), st.randoms(use_true_random=False))
def test_tx11_the_root_does_not_depend_on_how_the_state_came_about(
    blocks: list[dict[str, bytes | None]], random: object
) -> None:
    there, values = StateStore(None), dict[str, bytes]()
    for height, changes in enumerate(blocks):
        there.commit(height, changes)
        values = merged(values, changes)
    at_once = StateStore(None)
    items = list(values.items())
    random.shuffle(items)  # type: ignore[attr-defined]  # hypothesis gives a Random
    at_once.commit(0, dict(items))
    assert at_once.root() == there.root()


def test_tx11_keys_of_one_bucket_count_in_their_order_however_they_came() -> None:
    first = "k0"
    second = next(key for key in (f"k{i}" for i in range(1, 100_000)) if bucket_of(key) == bucket_of(first))
    values = {first: b"1", second: b"2"}
    for order in ([first, second], [second, first]):
        step_by_step, at_once = StateStore(None), StateStore(None)
        for height, key in enumerate(order):
            step_by_step.commit(height, {key: values[key]})
        at_once.commit(0, {key: values[key] for key in order})
        assert step_by_step.root() == at_once.root() == naive_root(values)
        assert StateStore(None).root({key: values[key] for key in order}) == naive_root(values)


def test_tx11_what_stands_where_makes_a_difference() -> None:
    roots = set()
    for values in ({"k": b"v"}, {"k": b"w"}, {"l": b"v"}, {"k": b""}, {}, {"k": b"v", "l": b""}):
        store = StateStore(None)
        store.commit(0, dict(values))
        roots.add(store.root())
    assert len(roots) == 6
    assert {bucket_of(f"k{i}") for i in range(10_000)} == set(range(BUCKETS))


def test_tx12_a_block_is_there_whole_when_the_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    store = StateStore(path)
    store.commit(0, {"a": b"1", "b": b"2"})
    store.commit(1, {"a": None, "c": b"3"})
    root = store.root()
    other = StateStore(path)  # as after a kill: the first was never closed
    assert (other.height, other.root()) == (1, root)
    assert list(other.keys("")) == ["b", "c"]


def test_tx12_a_block_that_does_not_fit_on_the_disk_changes_nothing(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "state.sqlite")
    store.commit(0, {"a": b"1"})
    root = store.root()
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Broken, match="free space"):
        store.commit(1, {"a": None, "b": bytes(1 << 20)})
    assert (store.height, store.root(), store.get("a"), store.get("b")) == (0, root, b"1", None)
    store.commit(1, {"a": b"2"})
    assert store.get("a") == b"2"


def test_tx12_more_values_than_are_remembered_are_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "KNOWN", 4)
    store = StateStore(None)
    for height in range(10):
        store.commit(height, {f"k{height}": b"%d" % height, f"k{height - 5}": None})
        assert [store.get(f"k{i}") for i in range(-5, height - 4)] == [None] * (height + 1)
        assert [store.get(f"k{i}") for i in range(max(0, height - 4), height + 1)] == [
            b"%d" % i for i in range(max(0, height - 4), height + 1)
        ]


def test_tx12_large_values_are_not_all_remembered_and_are_all_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "KNOWN_BYTES", 1000)
    store = StateStore(None)
    for height in range(10):
        store.commit(height, {f"k{height}": bytes([height]) * 400})
        assert [store.get(f"k{i}") for i in range(height + 1)] == [bytes([i]) * 400 for i in range(height + 1)]
        assert sum(len(value or b"") for value in store._known.values()) <= 1000


def test_tx12_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(Broken, match=r"state\.sqlite"):
        StateStore(path)


def write(overlay: Overlay, changes: dict[str, bytes | None]) -> None:
    for key, value in changes.items():
        if value is None:
            overlay.delete(key)
        else:
            overlay.put(key, value)


@given(CHANGES, CHANGES, CHANGES, st.sampled_from(["", "a", "a/", "ab", "z"]))
def test_overlays_stack_fold_into_each_other_and_the_store_sees_nothing_of_them(
    base: dict[str, bytes | None],
    lower: dict[str, bytes | None],
    upper: dict[str, bytes | None],
    prefix: str,
) -> None:
    store = StateStore(None)
    store.commit(0, base)
    block = Overlay(store)
    tx = Overlay(block)
    write(block, lower)
    write(tx, upper)
    below = merged(merged({}, base), lower)
    values = merged(below, upper)
    for overlay, expected in ((block, below), (tx, values)):
        assert list(overlay.keys(prefix)) == sorted(key for key in expected if key.startswith(prefix))
        assert {key: overlay.get(key) for key in overlay.keys("")} == expected
    tx.fold()
    assert {key: block.get(key) for key in block.keys("")} == values
    assert {key: store.get(key) for key in store.keys("")} == merged({}, base)
