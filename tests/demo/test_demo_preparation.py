import numpy as np

from swarmlearning.demo.heart import COLUMNS, split_hospital
from swarmlearning.demo.preparation import LocalStatistics, encode_rows, feature_names, local_statistics
from swarmlearning.demo.records import HOSPITALS
from swarmlearning.demo.rows import Column, Kind, Rows, join_rows

COLOUR = Column("colour", Kind.CATEGORY, vocabulary=("blue", "red"), gaps=True)
SIZE = Column("size", Kind.NUMBER, gaps=True)
FLAT = Column("flat", Kind.NUMBER)
NAN = float("nan")


def make_rows() -> Rows:
    return Rows(
        columns=(SIZE, FLAT, COLOUR),
        numbers={"size": np.array([1.0, 3.0, NAN, 5.0]), "flat": np.array([7.0, 7.0, 7.0, 7.0])},
        categories={"colour": ("red", "", "blue", "red")},
        labels=np.array([0, 1, 0, 1]),
    )


def test_local_statistics_leave_missing_values_out() -> None:
    found = local_statistics(make_rows())
    assert found.mean == {"size": 3.0, "flat": 7.0}
    assert np.isclose(found.std["size"], np.sqrt(8 / 3))  # over n
    assert found.category_counts == {"colour": {"blue": 1, "red": 2}}


def test_encoding_follows_the_formula() -> None:
    statistics = LocalStatistics(
        mean={"size": 2.0, "flat": 0.0},
        std={"size": 4.0, "flat": 2.0},
        category_counts={"colour": {"blue": 1, "red": 3}},
    )
    encoded = encode_rows(make_rows(), statistics)
    assert feature_names((SIZE, FLAT, COLOUR)) == (
        *("size", "size missing", "flat", "colour=blue", "colour=red", "colour missing"),
    )
    expected = [
        [-0.25, 0, 3.5, -0.25, 0.25, 0],
        [0.25, 0, 3.5, 0, 0, 1],  # a missing category: the mean of everybody's, and said so
        [0, 1, 3.5, 0.75, -0.75, 0],  # a missing number: the same
        [0.75, 0, 3.5, -0.25, 0.25, 0],
    ]
    assert encoded.dtype == np.float32
    assert np.array_equal(encoded, np.array(expected, dtype=np.float32))


def test_a_column_that_never_varied_in_training_is_not_fed_raw() -> None:
    # A hospital that never measured cholesterol has mean 0 and spread 0; others' 250 mg/dl must not swamp its network.
    encoded = encode_rows(make_rows(), local_statistics(make_rows()))
    assert np.array_equal(encoded[:, 2], np.zeros(4))


def test_training_rows_prepared_with_their_own_statistics_are_centred_and_scaled() -> None:
    train = join_rows([split_hospital(hospital, 0).train for hospital in HOSPITALS["heart"]])
    encoded = encode_rows(train, local_statistics(train))
    names = feature_names(COLUMNS)
    assert encoded.shape == (len(train), len(names))
    assert np.isfinite(encoded).all()
    for index, name in enumerate(names):
        if not name.endswith("missing"):
            assert abs(float(encoded[:, index].mean())) < 1e-5, name
    age = encoded[:, names.index("age")]
    assert np.isclose(age.std(), 1, atol=1e-5)


def test_every_hospital_gets_the_same_inputs_whatever_it_lacks() -> None:
    shapes = set()
    for hospital in HOSPITALS["heart"]:
        train = split_hospital(hospital, 0).train
        shapes.add(encode_rows(train, local_statistics(train)).shape[1])
    assert shapes == {len(feature_names(COLUMNS))}
