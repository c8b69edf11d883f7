import csv

import numpy as np
import pytest

from stages.training import write_curve
from stages.training.curves import ROWS


def read(path):
    return list(csv.DictReader(path.open()))


def test_every_step_where_there_are_few(tmp_path):
    write_curve(tmp_path / "a.csv", {"loss": np.array([3, 2, 1], np.float32), "d": np.zeros(3, np.float32)})
    assert read(tmp_path / "a.csv") == [
        {"step": str(step), "loss": f"{loss:.4f}", "d": "0.0000"} for step, loss in ((1, 3), (2, 2), (3, 1))
    ]


def test_means_of_neighbours_where_there_are_many(tmp_path):
    loss = np.random.default_rng(0).random(1003).astype(np.float32)
    write_curve(tmp_path / "a.csv", {"loss": loss})
    rows = read(tmp_path / "a.csv")
    assert len(rows) == ROWS
    steps = [0, *(int(row["step"]) for row in rows)]
    assert steps[-1] == 1003
    assert set(np.diff(steps)) == {5, 6}
    for row, first, last in zip(rows, steps, steps[1:], strict=False):
        assert float(row["loss"]) == pytest.approx(loss[first:last].mean(), abs=1e-4)


def test_cells_of_ones_own(tmp_path):
    write_curve(
        tmp_path / "a.csv", {"x": np.ones(2, np.float32)}, lambda done, means: {"at": done / 2, "y": means["x"]}
    )
    assert (tmp_path / "a.csv").read_text() == "at,y\n0.5,1.0\n1.0,1.0\n"
