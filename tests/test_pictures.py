import numpy as np
from PIL import Image

from stages.pictures import COLOURS, GAP, LINE, Panel, chart, save_chart, save_png, sheet


def flat(shade: int, height: int = 12, width: int = 12) -> np.ndarray:
    return np.full((height, width, 3), shade, np.uint8)


def test_a_row_of_images_under_each_title():
    page = sheet({"first": [flat(10), flat(20, width=30)], "second": [flat(30)], "": []}, tile=12)
    row = LINE + 12 + 2 * GAP
    assert page.shape == (3 * row, 200, 3)
    assert (page[LINE : LINE + 12, :12] == 10).all()
    assert (page[LINE : LINE + 12, 12 : 12 + GAP] == 255).all()
    assert (page[LINE : LINE + 12, 12 + GAP : 42 + GAP] == 20).all()
    assert (page[row + LINE : row + LINE + 12, :12] == 30).all()
    assert page[:LINE].min() < 255  # the titles
    assert page[row : row + LINE].min() < 255
    assert (page[2 * row :] == 255).all()


def test_captions_stand_below_their_images():
    images = [flat(10, width=60), flat(20, width=60)]
    page = sheet({"": images, "x": images[:1]}, tile=12, captions={"": ["", "0.7"]})
    below = page[LINE + 12 : 2 * LINE + 12]
    assert (below[:, : 60 + GAP] == 255).all()
    assert below[:, 60 + GAP :].min() < 255
    top = 2 * LINE + 12 + 2 * GAP  # the row without captions is lower
    assert page.shape[0] == top + LINE + 12 + 2 * GAP
    assert (page[top + LINE : top + LINE + 12, :60] == 10).all()


def test_images_are_scaled_to_the_height_and_keep_their_shape():
    halves = np.concatenate([flat(0, 40, 40), flat(200, 40, 40)], axis=1)
    page = sheet({"": [halves, flat(7, 5, 10)]}, tile=20)
    image = page[LINE : LINE + 20]
    assert (image[:, :20] == 0).all()
    assert (image[:, 20:40] == 200).all()
    assert (image[:, 40 + GAP : 80 + GAP] == 7).all()
    assert (image[:, 80 + 2 * GAP :] == 255).all()


def test_a_png_is_its_image_and_equal_images_give_equal_bytes(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8)
    for name in ("a.png", "b.png"):
        save_png(tmp_path / "plots" / name, image)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "plots/a.png")), image)
    assert (tmp_path / "plots/a.png").read_bytes() == (tmp_path / "plots/b.png").read_bytes()


X, Y = np.array([0.0, 0.1, 1.0]), np.array([0.5, 0.0, 0.25])


def test_a_panel_of_curves_says_what_they_are():
    figure = chart([Panel({"a": (X, Y), "b": (Y, X)}, "far", "tar", marks={"here": 0.4})], "title")
    (axes,) = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("far", "tar", "title")
    assert [line.get_xdata()[0] for line in axes.lines] == [0, 0.5, 0.4]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), Y)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "here"]
    assert not chart([Panel({"": (X, Y)})]).legends


def test_only_what_is_above_0_stands_on_a_logarithmic_axis():
    shown = {log: chart([Panel({"a": (X, Y)}, log=log)]).axes[0] for log in ("x", "y", "xy")}
    assert {log: axes.lines[0].get_xdata().tolist() for log, axes in shown.items()} == {
        "x": [0.1, 1.0],
        "y": [0.0, 1.0],
        "xy": [1.0],
    }
    assert {log: (axes.get_xscale(), axes.get_yscale()) for log, axes in shown.items()} == {
        "x": ("log", "linear"),
        "y": ("linear", "log"),
        "xy": ("log", "log"),
    }


def test_a_histogram_is_known_by_its_edges_and_dots_have_no_numbers():
    (axes,) = chart([Panel({"": (np.arange(4.0), Y)})]).axes
    np.testing.assert_array_equal(axes.patches[0].get_data().values, Y)
    (axes,) = chart([Panel({"": (X, Y)}, dots=True)]).axes
    np.testing.assert_array_equal(axes.collections[0].get_offsets(), np.stack([X, Y], 1))
    assert not len(axes.get_xticks())


def test_panels_stand_one_below_the_other_and_curves_differ():
    many = {str(number): (X, Y + number) for number in range(len(COLOURS) + 1)}
    figure = chart([Panel({"a": (X, Y)}, y="up"), Panel(many, "x", "down", height=0.5)])
    above, below = figure.axes
    assert (above.get_ylabel(), below.get_ylabel(), above.get_xlabel(), below.get_xlabel()) == ("up", "down", "", "x")
    looks = [(line.get_color(), line.get_linestyle()) for axes in (above, below) for line in axes.lines]
    assert len(set(looks)) == len(looks)


def test_equal_charts_give_equal_bytes(tmp_path):
    for name in ("a.png", "b.png"):
        save_chart(tmp_path / "plots" / name, chart([Panel({"a": (X, Y)})]))
    assert (tmp_path / "plots/a.png").read_bytes() == (tmp_path / "plots/b.png").read_bytes()
    assert not Image.open(tmp_path / "plots/a.png").info.keys() & {"Software", "Creation Time", "date"}
