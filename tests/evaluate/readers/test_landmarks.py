import numpy as np
import pytest

from stages.evaluate.readers.landmarks import line_of_each, parse_points
from stages.store import StoreError


def test_points(tmp_path):
    fields = [str(value) for value in range(10)]
    np.testing.assert_array_equal(parse_points(tmp_path, 1, fields), np.arange(10.0).reshape(5, 2))
    for broken in (fields[:9], ["nan", *fields[1:]], ["x", *fields[1:]], ["5"] * 10):
        with pytest.raises(StoreError, match="line 3: landmarks"):
            parse_points(tmp_path, 3, broken)


def test_of_lines_that_contradict_each_other_neither_wins(tmp_path):
    path = tmp_path / "a.txt"
    said = np.array([[1.0, 2], [3, 4], [1, 2]])
    assert line_of_each(path, ["a", "b", "a"], said) == {"a": 1, "b": 2}
    assert line_of_each(path, ["a", "b"], [7, 7], first=2) == {"a": 2, "b": 3}
    with pytest.raises(StoreError, match=r"a\.txt, line 4: says of a something else than line 3; remove the wrong one"):
        line_of_each(path, ["b", "a", "a"], said, first=2)
