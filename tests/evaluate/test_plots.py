import csv

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_curve
from sklearn.preprocessing import normalize

from stages.evaluate import plots
from stages.evaluate.metrics import roc
from stages.evaluate.pairs import GRID, accuracy
from stages.pictures import GAP, LINE


@pytest.fixture
def scored():
    rng = np.random.default_rng(0)
    same = rng.random(50000) < 0.3
    return np.tanh(rng.normal(size=50000) * 0.3 + 0.4 * same), same


def read(path):
    header, *rows = csv.reader(path.open())
    return header, np.array(rows, float)


def test_a_small_curve_is_written_whole(tmp_path):
    scores = np.array([0.9, 0.8, 0.8, 0.3, 0.1, -0.2])
    same = np.array([1, 1, 0, 1, 0, 0], bool)
    plots.write_roc_csv(tmp_path / "a.csv", roc(scores, same))
    header, rows = read(tmp_path / "a.csv")
    assert header == ["fpr", "tpr", "threshold"]
    np.testing.assert_allclose(rows.T, roc_curve(same, scores), atol=1e-6)


def test_a_large_curve_is_thinned_to_points_of_its_own(tmp_path, scored):
    curve = roc(*scored)
    plots.write_roc_csv(tmp_path / "a.csv", curve)
    _, rows = read(tmp_path / "a.csv")
    assert 200 < len(rows) <= plots.POINTS
    assert rows[0].tolist()[:2] == [0, 0]
    assert rows[-1].tolist()[:2] == [1, 1]
    assert (np.diff(rows[:, :2], axis=0) >= 0).all()
    assert (rows[:, 0] < 1e-2).sum() > 50  # the log axis is drawn, too
    every = {(f"{far:.6g}", f"{tar:.6g}") for far, tar in zip(curve.far, curve.tar, strict=True)}
    assert {(f"{far:.6g}", f"{tar:.6g}") for far, tar, _ in rows} <= every


def test_histograms_are_shares(tmp_path, scored):
    scores, same = scored
    plots.write_scores_csv(tmp_path / "a.csv", scores, same)
    header, rows = read(tmp_path / "a.csv")
    assert header == ["score", "genuine", "impostor"]
    for column, chosen in ((1, same), (2, ~same)):
        assert rows[:, column].sum() == pytest.approx(100, abs=1e-3)
        in_bin = (scores[chosen] >= 0.1 - 1e-12) & (scores[chosen] < 0.12 - 1e-12)
        assert rows[55, column] == pytest.approx(100 * in_bin.mean(), rel=1e-4)
    plots.write_scores_csv(tmp_path / "b.csv", np.array([1.0 + 1e-15, -1.0]), np.array([True, False]))
    assert read(tmp_path / "b.csv")[1][[-1, 0], [1, 2]].tolist() == [100, 100]


def drawn(monkeypatch, draw, *arguments):
    """The axes of a figure that is not written."""
    figures = []
    monkeypatch.setattr(plots, "save_chart", lambda path, figure: figures.append(figure))
    draw("unused.png", *arguments)
    (axes,) = figures[0].axes
    return axes


@pytest.mark.parametrize("draw", [plots.draw_roc, plots.draw_det])
def test_curves_show_the_error_rates_of_each_benchmark(monkeypatch, scored, draw):
    scores, same = scored
    curves = {"random": roc(scores, same), "turned": roc(-scores, same)}
    axes = drawn(monkeypatch, draw, curves)
    for line, (name, curve) in zip(axes.lines, curves.items(), strict=True):
        far, tar, _ = roc_curve(same, scores if name == "random" else -scores)
        det = draw is plots.draw_det
        shown = (far > 0) & (tar < 1) if det else far > 0  # on a logarithmic axis
        np.testing.assert_allclose(line.get_xdata(), far[shown], atol=1e-12)
        np.testing.assert_allclose(line.get_ydata(), (1 - tar if det else tar)[shown], atol=1e-12)
        number = f"EER {100 * curve.eer():.2f}" if det else f"AUC {100 * curve.auc():.2f}"
        assert line.get_label() == f"{name} ({number} %)"
    assert axes.get_xscale() == "log"
    assert axes.get_yscale() == ("log" if draw is plots.draw_det else "linear")
    assert ("FAR" in axes.get_xlabel(), "FRR" in axes.get_ylabel()) == (True, draw is plots.draw_det)


def test_histograms_are_drawn_as_they_are_written(tmp_path, monkeypatch, scored):
    plots.write_scores_csv(tmp_path / "a.csv", *scored)
    _, rows = read(tmp_path / "a.csv")
    axes = drawn(monkeypatch, plots.draw_scores, "random", *scored)
    for patch, column, label in zip(axes.patches, (1, 2), ("genuine", "impostor"), strict=True):
        np.testing.assert_allclose(patch.get_data().values, rows[:, column], atol=1e-3)
        np.testing.assert_allclose(patch.get_data().edges[:-1], rows[:, 0], atol=1e-5)
        assert patch.get_label() == label


def test_the_curve_of_the_folds(tmp_path, scored):
    vectors = normalize(np.random.default_rng(0).normal(size=(60, 4)))
    found = accuracy(vectors[::2], vectors[1::2], np.arange(30) % 2 == 0, 3)
    plots.write_folds_csv(tmp_path / "a.csv", found)
    header, rows = read(tmp_path / "a.csv")
    assert header == ["threshold", "fpr", "tpr"]
    np.testing.assert_allclose(rows.T, [GRID, found.fpr, found.tpr], atol=1e-5)


def test_equal_numbers_give_equal_bytes(tmp_path, scored):
    curve = roc(*scored)
    for name in ("a", "b"):
        plots.draw_roc(tmp_path / name / "roc.png", {"random": curve})
        plots.draw_det(tmp_path / name / "det.png", {"random": curve})
        plots.draw_scores(tmp_path / name / "scores.png", "random", *scored)
        plots.write_roc_csv(tmp_path / name / "roc.csv", curve)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        if path.suffix == ".png":
            assert not Image.open(path).info.keys() & {"Software", "Creation Time", "date"}


def test_a_sheet_shows_each_pair(tmp_path):
    red, green, blue = (np.full((20, 20, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    plots.draw_pairs(tmp_path / "a.png", {"one": [(red, green, 0.1), (blue, red, 0.2)], "two": [(green, blue, 0.3)]})
    page = np.asarray(Image.open(tmp_path / "a.png"))
    row = 2 * LINE + 40 + 2 * GAP
    assert (page[LINE : LINE + 40, :20] == np.concatenate([red, green])).all()
    assert (page[LINE : LINE + 40, 20 + GAP : 40 + GAP] == np.concatenate([blue, red])).all()
    assert (page[row + LINE : row + LINE + 40, :20] == np.concatenate([green, blue])).all()
    for top in (0, LINE + 40, row, row + LINE + 40):  # titles and scores
        assert (page[top : top + LINE] < 128).any()


def test_a_sheet_of_nothing(tmp_path):
    plots.draw_pairs(tmp_path / "a.png", {})
    plots.draw_roc(tmp_path / "roc.png", {})
