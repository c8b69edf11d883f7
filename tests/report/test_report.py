import base64
import io
import json
import re
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from stages import report
from stages.params import Params, Report
from stages.report import charts, html, sections, sheets
from stages.store import StoreError, encode, write_shard

PARAMS = Params(n_ids=3, report=Report(rows=2, columns=3))
EVALUATE = {
    "random": 81.5,
    "random.std": 2.25,
    "random.auc": 90.0,
    "random.eer": 18.0,
    "random.tar@far=1e-2": 40.0,
    "random.tar@far=1e-1": 60.0,
    "random-raster": 91.75,
    "random-raster.std": 1.5,
    "groups.first": 70.0,
    "groups.first.std": 3.0,
    "groups.mean": 70.0,
    "groups.std": 0.0,
    "groups.gap": 0.0,
    "quality.variant": "N1D1F1",
    "quality.auc": 77.5,
    "quality.rank1": 33.0,
    "protocol": "insightface",
}


def flat(shade: int, size: int = 40) -> np.ndarray:
    return np.full((size, size, 3), shade, np.uint8)


def archive(path: Path, images: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, image in images.items():
            file.writestr(name, encode(image))


@pytest.fixture
def root(tmp_path) -> Path:
    """A run of four identities, of shade 10 times their number, three of them chosen: 3, 1, 2."""
    source = {f"{identity}/{k}.png": flat(10 * identity + k) for identity in range(4) for k in range(4)}
    archive(tmp_path / "data/source/subjects_0-3_4_imgs.zip", source)
    archive(tmp_path / "data/target/target.zip", {f"{n}/{k}.png": flat(100 + n) for n in (0, 2, 10) for k in range(2)})
    identity, chosen = np.array([3, 1, 2, 0]), np.array([True, True, True, False])
    write_shard(tmp_path / "data/filter.h5", {"identity": identity, "chosen": chosen}, fingerprint="")
    for name, identity in (("00000", 3), ("00001", 1)):  # no face was found in identity 2
        images = [encode(flat(200 + identity, 112))] * 5
        write_shard(tmp_path / f"data/align/{name}.h5", {"identity": np.full(5, identity)}, images, fingerprint="")

    filtered = {"identities": 4, "chosen": 3, "pairs_above_threshold": 5, "pairs_above_threshold_chosen": 2}
    trained = {"identities": 3, "images": 1234, "steps": 10, "loss": 2.5, "accuracy": 50.0}
    metrics = {"filter": filtered, "gap": {"images": 0}, "synthesize": {"images": 0}, "align": {"no_face": 4}}
    metrics |= {"train": trained, "evaluate": EVALUATE, "zz": {"new": 1}}
    (tmp_path / "metrics").mkdir()
    for stage, values in metrics.items():
        (tmp_path / f"metrics/{stage}.json").write_text(json.dumps(values))
    (tmp_path / "plots/roc").mkdir(parents=True)
    (tmp_path / "plots/pairs").mkdir()
    for name in ("random", "groups.first"):
        (tmp_path / f"plots/roc/{name}.csv").write_text("fpr,tpr,threshold\n0,0.1,1\n0.1,0.5,0.6\n1,1,-1\n")
    (tmp_path / "plots/train.csv").write_text("step,epoch,loss,accuracy,lr\n5,0.5,9,10,0.1\n10,1,3,40,0.0\n")
    for name in ("filter", "filter_pairs", "pairs/random"):
        Image.fromarray(flat(77)).save(tmp_path / f"plots/{name}.png")
    return tmp_path


class Page(HTMLParser):
    """Checks that tags close in order, and gathers what the page shows and refers to."""

    VOID = ("meta", "link", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.references: list[str] = []
        self.text = ""
        self.captions = 0
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        values = dict(attributes)
        self.references += [value for name, value in values.items() if name in ("src", "href")]
        if tag == "img":
            self.images.append(values)
        self.captions += tag == "figcaption"
        assert tag != "script"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def read(root: Path) -> Page:
    return Page((root / "plots/report.html").read_text())


def test_page_is_whole_and_refers_to_nothing_outside(root) -> None:
    report.run(PARAMS, root)
    page = read(root)
    assert (root / "plots/report.html").read_text().startswith("<!doctype html>")
    assert all(value.startswith("data:") for value in page.references)
    assert "url(" not in (root / "plots/report.html").read_text()
    assert len(page.images) == 9  # two ROCs, three sheets, two of filter, training, one sheet of hardest pairs
    assert page.captions == len(page.images) + 1  # and the bars
    assert all(image["alt"] for image in page.images)


def test_a_method_that_makes_images_shows_them_beside_their_source(root) -> None:
    report.run(PARAMS, root)
    assert "Realism transfer" not in read(root).text
    gap = {"images": 400, "weight": 0.5, "frechet_before": 2.5, "frechet_after": 1.25}
    gap |= {"mmd_before": 0.5, "mmd_after": 0.125}
    made = {"images": 1500, "identities": 3, "judged_images": 20, "judged_identities": 2}
    made |= {"identity_consistency": 0.625, "source_identity_consistency": 0.75, "without_face": 1}
    made |= {"source_without_face": 0}
    (root / "metrics/gap.json").write_text(json.dumps(gap))
    (root / "metrics/synthesize.json").write_text(json.dumps(made))
    with pytest.raises(StoreError, match=r"gap/tsne\.png"):
        report.run(replace(PARAMS, method="arc2face"), root)
    for name in ("gap/tsne", "gap/sheet", "synthesize/sheet"):
        (root / f"plots/{name}.png").parent.mkdir(exist_ok=True)
        Image.fromarray(flat(55)).save(root / f"plots/{name}.png")
    report.run(replace(PARAMS, method="arc2face"), root)
    page = read(root)
    assert len(page.images) == 9 + 3
    text = re.sub(r"\s+", " ", page.text)
    assert "0.5 times it is added" in text
    assert "is 1.25 instead of 2.5, and its maximum mean discrepancy 0.125 instead of 0.5" in text
    assert "1,500 images of 3 identities were made by the method arc2face" in text
    content = (root / "plots/report.html").read_text()
    assert "images</td><td>0.625</td><td>0.75</td>" in content
    assert "no face was found</td><td>1</td><td>0</td>" in content


def test_inline_pictures_are_pictures(root) -> None:
    report.run(PARAMS, root)
    kinds = []
    for image in read(root).images:
        kind, _, content = (image["src"] or "").partition(";base64,")
        kinds.append(kind)
        decoded = base64.b64decode(content)
        if kind == "data:image/svg+xml":
            assert ElementTree.fromstring(decoded).tag.endswith("svg")
        else:
            with Image.open(io.BytesIO(decoded)) as opened:
                opened.load()
    assert kinds.count("data:image/svg+xml") == 3


def test_page_states_the_numbers(root) -> None:
    report.run(PARAMS, root)
    text = re.sub(r"\s+", " ", read(root).text)
    assert "trained on 1,234 images of 3 people" in text
    assert "81.50 %" in text
    assert "10.25 points worse on the camera look" in text
    assert "mean over the groups 70.00 %, standard deviation 0.00, largest gap 0.00 points" in text
    assert "3 of 4 identities were chosen" in text
    assert "above a cosine of 0.5: 5 among all, 2 among the chosen" in text
    assert "n_ids" in text
    assert "weight_decay" in text
    assert "zz" in text


def test_equal_runs_give_equal_bytes(root) -> None:
    names = ("report.html", "source.png", "target.png", "align.png", "train.png")
    report.run(PARAMS, root)
    first = [(root / "plots" / name).read_bytes() for name in names]
    report.run(PARAMS, root)
    assert [(root / "plots" / name).read_bytes() for name in names] == first


def test_rendered_benchmarks_are_told_from_fetched_ones(root) -> None:
    report.run(PARAMS, root)
    assert "bear their own names; none of the numbers is one of LFW" in read(root).text
    (root / "metrics/evaluate.json").write_text(json.dumps({"lfw": 99.1, "lfw.std": 0.3}))
    report.run(PARAMS, root)
    text = read(root).text
    assert "99.10 %" in text
    assert "own names" not in text
    assert "camera look" not in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("metrics/train.json", "r2r train"),
        ("plots/train.csv", r"train\.csv"),
        ("plots/filter_pairs.png", r"filter_pairs\.png"),
        ("data/align/00000.h5", "r2r align"),
        ("data/filter.h5", r"filter\.h5"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_written(root, name: str, message: str) -> None:
    (root / name).unlink()
    (root / "data/align/00001.h5").unlink()
    with pytest.raises(StoreError, match=message):
        report.run(PARAMS, root)
    assert not list((root / "plots").glob("report.html"))
    assert not list((root / "plots").glob("source.png"))


def test_broken_tables_are_named(root) -> None:
    (root / "plots/train.csv").write_text("step,epoch\n1,one\n")
    with pytest.raises(StoreError, match=r"train\.csv"):
        report.run(PARAMS, root)
    (root / "metrics/align.json").write_text("{")
    with pytest.raises(StoreError, match=r"align\.json"):
        report.run(PARAMS, root)


def test_numbers_by_benchmark() -> None:
    numbers = sections.by_benchmark(EVALUATE | {"ijb.c.auc": 1.0})
    assert list(numbers) == ["random", "random-raster", "quality", "groups", "groups.first", "ijb.c"]
    assert numbers["random-raster"] == {"accuracy": 91.75, "std": 1.5}
    assert numbers["groups"] == {"mean": 70.0, "std": 0.0, "gap": 0.0}
    assert numbers["groups.first"] == {"accuracy": 70.0, "std": 3.0}
    assert numbers["quality"] == {"variant": "N1D1F1", "auc": 77.5, "rank1": 33.0}


def test_rates_stand_from_the_strictest_on() -> None:
    text = sections.results(sections.by_benchmark(EVALUATE), {})
    assert re.findall(r"FAR 1e-\d", text) == ["FAR 1e-2", "FAR 1e-1"]
    assert [cell for cell in re.findall(r"<td>(.*?)</td>", text) if cell == "–"] == ["–"] * 4  # random-raster's


def test_text_is_escaped_and_nothing_is_a_dash() -> None:
    assert html.paragraph("<b> & co") == "<p>&lt;b&gt; &amp; co</p>"
    assert [html.cell(value) for value in (None, (), 12345, True, 0.1, (1, 2), "<")] == [
        "–",
        "–",
        "12,345",
        "yes",
        "0.1",
        "1, 2",
        "&lt;",
    ]
    assert "<i>" not in html.table(["<i>"], [["<i>"]], "<i>")


def test_bars_are_cut_to_their_scale() -> None:
    text = html.bars({"low": 40, "half": 75, "high": 110}, "", 50, 100, "%")
    assert re.findall(r"width:([\d.]+)%", text) == ["0.0", "50.0", "100.0"]


def shades(sheet: np.ndarray, row: int, columns: int) -> list[int]:
    """The grey in the middle of each image of a row."""
    height = sheets.TILE + 18 + 8
    step = sheets.TILE + sheets.GAP
    return [int(sheet[row * height + 48, column * step + 48, 0]) for column in range(columns)]


def test_sheets_show_an_identity_a_row(root) -> None:
    people = sheets.chosen_identities(root / "data/filter.h5", 2)
    assert people == [3, 2]  # the first and last of 3, 1, 2
    assert sheets.chosen_identities(root / "data/filter.h5", 9) == [3, 1, 2]
    source = sheets.source_sheet(root / "data/source", people, 3)
    assert [shades(source, row, 3) for row in (0, 1)] == [[30, 31, 32], [20, 21, 22]]
    target = sheets.target_sheet(root / "data/target/target.zip", 3, 3)
    assert [shades(target, row, 3) for row in (0, 1, 2)] == [[100, 100, 255], [102, 102, 255], [110, 110, 255]]
    align = sheets.align_sheet(root / "data/align", people, 3)
    assert [shades(align, row, 3) for row in (0, 1)] == [[203, 203, 203], [255, 255, 255]]


def test_a_target_without_people_fills_the_rows_in_order(tmp_path) -> None:
    archive(tmp_path / "target.zip", {f"{number}.png": flat(number) for number in range(12)})
    sheet = sheets.target_sheet(tmp_path / "target.zip", 2, 4)
    assert [shades(sheet, row, 4) for row in (0, 1)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert len(sheet) == 2 * (sheets.TILE + 18) + 8


def test_read_csv_is_columns(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3,4\n")
    curve = charts.read_csv(tmp_path / "a.csv")
    assert {name: column.tolist() for name, column in curve.items()} == {"x": [1, 3], "y": [2, 4]}


def test_without_the_raster_set_there_is_no_gap(root) -> None:
    assert sections.domain_gap({"random": {"accuracy": 80.0}}) == ""
    report.run(replace(PARAMS, method="none"), root)
    assert "Domain gap" in read(root).text
