import numpy as np
import pytest

from stages.report.charts import LINEAR, LOG, Axis, chart

X = np.array([0.0, 0.01, 0.1, 1.0])
Y = np.array([0.2, 0.4, 0.8, 1.0])


def test_places_on_both_scales():
    linear = Axis("", 0.0, 4.0, LINEAR, 100.0, 0.0)
    np.testing.assert_allclose(linear.place(np.array([0, 1, 4, 9])), [100, 75, 0, 0])
    log = Axis("", 0.01, 1.0, LOG, 0.0, 200.0)
    np.testing.assert_allclose(log.place(np.array([0.01, 0.1, 1.0, 0.0])), [0, 100, 200, 0])


@pytest.mark.parametrize(
    ("low", "high", "log", "texts"),
    [
        (0, 1, LINEAR, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (3, 21, LINEAR, ["5", "10", "15", "20"]),
        (-0.5, 1, LINEAR, ["-0.5", "0", "0.5", "1"]),
        (0.001, 1, LOG, ["0.001", "0.01", "0.1", "1"]),
        (0.02, 1, LOG, ["0.02", "0.05", "0.1", "0.2", "0.5", "1"]),
    ],
)
def test_ticks_are_round(low, high, log, texts):
    axis = Axis("", low, high, log, 0.0, 100.0)
    assert [text for _, text in axis.ticks] == texts
    np.testing.assert_allclose([place for place, _ in axis.ticks], axis.place(np.array(texts, float)), atol=0.05)


def test_steps_keep_a_value_up_to_the_next_point():
    made = chart("roc", "", {"a": (X, Y)}, ("", LOG), ("", LINEAR), steps=True, ends=(0.0, 1.0))
    points = [tuple(map(float, pair.split(","))) for pair in made.lines[0].points.split()]
    places = list(zip(made.x.place(X[1:]), made.y.place(Y[1:]), strict=True))
    expected = [(made.x.first, made.y.place(Y)[0])]  # FAR 0 stands at the lower end
    for before, (x, y) in zip([0.2, 0.4, 0.8], places, strict=True):
        expected += [(x, float(made.y.place(np.float64(before)))), (x, y)]
    np.testing.assert_allclose(points[1:], expected[2:], atol=0.06)
    assert made.lines[0].numbers == [X.tolist(), Y.tolist()]


def test_many_curves_differ():
    made = chart("c", "", {str(n): (X, Y) for n in range(10)}, ("", LINEAR), ("", LINEAR))
    assert len({line.look for line in made.lines}) == 10


def test_flat_numbers_have_a_scale():
    made = chart("c", "", {"a": (np.array([1.0]), np.array([0.0]))}, ("", LOG), ("", LOG))
    assert all(np.isfinite(axis.place(np.array([1.0]))).all() for axis in (made.x, made.y))
    assert made.x.ticks
    assert made.y.ticks
