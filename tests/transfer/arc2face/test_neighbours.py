import numpy as np
import pytest

from stages.store import StoreError, write_shard
from stages.transfer.arc2face.neighbours import Neighbours


def write(path, identities, angles):
    """Two images of each person, at equal distances on both sides of their angle in the plane."""
    both = np.ravel([(angle - 0.1, angle + 0.1) for angle in angles])
    columns = {
        "identity": np.repeat(identities, 2),
        "sample": np.tile([0, 1], len(angles)),
        "embedding": np.stack([np.cos(both), np.sin(both)], axis=1).astype(np.float32),
    }
    write_shard(path, columns)


@pytest.fixture
def people(tmp_path):
    write(tmp_path / "b.h5", [7, 3, 11], [0.0, 0.5, 3.0])
    write(tmp_path / "a.h5", [20, 5], [1.5, -1.0])
    return Neighbours(sorted(tmp_path.glob("*.h5")))


def direction(vector):
    return np.arctan2(vector[1], vector[0])


@pytest.mark.parametrize(("identity", "angle"), [(7, 0.5), (3, 0.5), (11, 1.5), (20, 1.0), (5, 1.0)])
def test_the_angle_to_the_nearest_other(people, identity, angle):
    assert people.angle(identity) == pytest.approx(angle, abs=1e-5)


@pytest.mark.parametrize(("which", "expected"), [("nearest", 0.5), ("median", -1.0), ("farthest", 3.0)])
def test_the_other_that_is_asked_for(people, which, expected):
    """Of 7, at 0: 0.5, 1.0, 1.5 and 3.0 away."""
    assert direction(people.other(7, which, 0)) == pytest.approx(expected, abs=1e-5)


def test_a_random_other_is_anyone_else_by_the_seed(people):
    found = {round(float(direction(people.other(7, "random", seed))), 3) for seed in range(60)}
    assert found == {0.5, 3.0, 1.5, -1.0}
    np.testing.assert_array_equal(people.other(7, "random", 1), people.other(7, "random", 1))


def test_one_person_has_no_neighbour(tmp_path):
    write(tmp_path / "a.h5", [4], [0.0])
    with pytest.raises(StoreError, match="has no neighbour"):
        Neighbours([tmp_path / "a.h5"])
