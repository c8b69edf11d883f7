import base64
import io
import json
import re
import shutil
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.images import Archive
from stages.params import Params
from stages.pictures import GAP, LINE, TILE
from stages.report import sections, stage
from stages.report.knobs import Report
from stages.report.pictures import Pictures
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
    write_shard(tmp_path / "data/filter.h5", {"identity": identity, "chosen": chosen})
    for name, identity in (("00000", 3), ("00001", 1)):  # no face was found in identity 2
        images = [encode(flat(200 + identity, 112))] * 5
        columns = {"identity": np.full(5, identity), "sample": np.arange(5)}
        write_shard(tmp_path / f"data/align/{name}.h5", columns, images)

    filtered = {"identities": 4, "chosen": 3, "pairs_above_threshold": 5, "pairs_above_threshold_chosen": 2}
    trained = {"identities": 3, "images": 1234, "steps": 10, "loss": 2.5, "accuracy": 50.0}
    metrics = {"filter": filtered, "gap": {"images": 0}, "synthesize": {"images": 0}}
    metrics |= {"fit": {"images": 0}, "judge": {"judged_images": 0}, "fetch": {"source_images": 16}}
    metrics |= {"align": {"images": 15, "missing": 5}, "train": trained, "evaluate": EVALUATE, "zz": {"new": 1}}
    (tmp_path / "metrics").mkdir()
    give(tmp_path, metrics)
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

    VOID = ("meta", "link", "img", "input", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.references: list[str] = []
        self.anchors: list[str] = []
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
        self.anchors += [value for name, value in values.items() if name == "id"]
        self.captions += tag == "figcaption"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & {*self.open}:
            self.text += data


def read(root: Path) -> Page:
    return Page((root / "plots/report.html").read_text())


def test_page_is_whole_and_refers_to_nothing_outside(root) -> None:
    stage.run(PARAMS, root)
    page = read(root)
    assert (root / "plots/report.html").read_text().startswith("<!doctype html>")
    inside = [value for value in page.references if value.startswith("#")]
    assert {value[1:] for value in inside} <= set(page.anchors)
    assert all(value.startswith("data:") for value in page.references if value not in inside)
    assert "url(" not in (root / "plots/report.html").read_text().replace("url(#tip)", "")
    assert len(page.images) == 6  # three sheets, two of filter, a sheet of hardest pairs
    charts = 2 + 2 + 3  # ROC and DET of benchmarks and of groups, training
    assert page.captions == len(page.images) + charts + 2  # and the pipeline, and the bars
    assert all(image["alt"] for image in page.images)


GAP_METRICS = {"images": 400, "weight": 0.5, "frechet_before": 2.5, "frechet_after": 1.25}
GAP_METRICS |= {"mmd_before": 0.5, "mmd_after": 0.125}
JUDGED = {"judged_images": 20, "judged_identities": 2, "identity_consistency": 0.625, "without_face": 1}
JUDGED |= {"source_identity_consistency": 0.75, "source_without_face": 0}


def give(root: Path, metrics: dict[str, dict[str, float]], pictures: tuple[str, ...] = ()) -> None:
    for name, values in metrics.items():
        (root / f"metrics/{name}.json").write_text(json.dumps(values))
    for name in pictures:
        (root / f"plots/{name}.png").parent.mkdir(exist_ok=True)
        Image.fromarray(flat(55)).save(root / f"plots/{name}.png")


def judged(root: Path) -> None:
    """What judge saw: two people, whose two generated images have the cosines 0 and 1, and whose source's are alike."""
    first, second = np.eye(2)
    for name, embeddings in {"synthesize": [first, second, first, first], "source": [first] * 4}.items():
        columns = {"identity": np.array([1, 1, 2, 2]), "embedding": np.array(embeddings)}
        write_shard(root / f"data/judge/{name}/00000.h5", columns)


def shown(root: Path, **knobs: object) -> str:
    """The text of the page."""
    stage.run(replace(PARAMS, **knobs), root)
    return re.sub(r"\s+", " ", read(root).text)


def test_a_method_that_makes_images_shows_them_beside_their_source(root) -> None:
    assert "were made by" not in shown(root)
    give(root, {"gap": GAP_METRICS, "synthesize": {"images": 1500, "identities": 3}, "judge": JUDGED})
    for name, missing in (
        ("synthesize/sheet", "synthesize"),
        ("gap/sheet", "gap/sheet"),
        ("gap/tsne", "gap/tsne"),
        ("gap/walk", "gap/walk"),
    ):
        with pytest.raises(StoreError, match=missing):
            stage.run(PARAMS, root)
        give(root, {}, (name,))
    with pytest.raises(StoreError, match="data/judge"):
        stage.run(PARAMS, root)
    judged(root)
    text = shown(root)
    assert len(read(root).images) == 6 + 4
    assert "0.5 times it is added" in text
    assert "is 1.25 instead of 2.5, and its maximum mean discrepancy 0.125 instead of 0.5" in text
    assert "1,500 images of 3 identities were made by the method none" in text
    content = (root / "plots/report.html").read_text()
    assert "images</th><td>0.625</td><td>0.75</td>" in content
    assert "no face was found</th><td>1</td><td>0</td>" in content


def test_a_method_that_learns_shows_its_losses_and_its_images(root) -> None:
    assert "learned" not in shown(root)
    give(root, {"fit": {"images": 80}}, ("fit/sheet",))
    with pytest.raises(StoreError, match=r"fit/fit\.csv"):
        stage.run(PARAMS, root)
    (root / "plots/fit/fit.csv").write_text("step,generator,critic\n1,0.5,0.25\n2,0.25,0.125\n")
    assert "The method none learned from 80 unlabelled images" in shown(root)
    assert len(read(root).images) == 6 + 1
    assert "generator,critic".replace(",", "  ") in re.sub(r"\s\s+", "  ", read(root).text)


@pytest.mark.parametrize(("largest", "remark"), [(0.5, False), (0.76, True)])
def test_a_remark_where_two_generated_identities_are_too_alike(root, largest: float, remark: bool) -> None:
    judged(root)
    give(root, {"judge": JUDGED | {"impostor_max": largest, "source_impostor_max": 0.41}})
    wanted = "cosine of their prototypes is 0.76, above 0.5, from which on filter counts pairs; of their source images"
    assert (wanted in shown(root)) == remark


@pytest.mark.parametrize(("largest", "remark"), [(20.0, False), (31.0, True)])
def test_a_remark_where_an_identity_changes_its_colour(root, largest: float, remark: bool) -> None:
    judged(root)
    colours = {"colour_change": 5.0, "colour_change_max": largest, "source_colour_difference": 20.0}
    give(root, {"judge": JUDGED | colours})
    wanted = (
        "changes by 31 of 255 from source to generated images, beyond what all change by (5 in the mean); two people"
    )
    assert (wanted in shown(root)) == remark


def test_inline_pictures_are_pictures(root) -> None:
    stage.run(PARAMS, root)
    for image in read(root).images:
        with Image.open(io.BytesIO(base64.b64decode((image["src"] or "").partition(";base64,")[2]))) as opened:
            opened.load()


def test_page_states_the_numbers(root) -> None:
    stage.run(PARAMS, root)
    text = re.sub(r"\s+", " ", read(root).text)
    assert "trained on 1,234 images of 3 people" in text
    assert "81.50 ± 2.25 %" in text
    assert "In 5 of 15 images no face was found" in text
    assert "10.25 points worse on the camera look" in text
    assert "mean over the groups 70.00 %, standard deviation 0.00, largest gap 0.00 points" in text
    assert "3 of 4 identities were chosen" in text
    assert "above a cosine of 0.5: 5 among all, 2 among the chosen" in text
    assert "n_ids" in text
    assert "weight_decay" in text
    assert "zz" in text


def test_equal_runs_give_equal_bytes(root) -> None:
    names = ("report.html", "source.png", "target.png", "align.png", "train.png")
    stage.run(PARAMS, root)
    first = [(root / "plots" / name).read_bytes() for name in names]
    stage.run(PARAMS, root)
    assert [(root / "plots" / name).read_bytes() for name in names] == first


def test_rendered_benchmarks_are_told_from_fetched_ones(root) -> None:
    stage.run(PARAMS, root)
    assert "bear their own names; none of the numbers is one of LFW" in read(root).text
    (root / "metrics/evaluate.json").write_text(json.dumps({"lfw": 99.1, "lfw.std": 0.3}))
    stage.run(PARAMS, root)
    text = read(root).text
    assert "99.10 ± 0.30 %" in text
    assert "own names" not in text
    assert "camera look" not in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("metrics/train.json", "r2r train"),
        ("metrics/judge.json", "r2r judge"),
        ("plots/train.csv", r"train\.csv"),
        ("plots/filter_pairs.png", r"filter_pairs\.png"),
        ("data/align/00000.h5", r"data/align"),
        ("data/filter.h5", r"filter\.h5"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_written(root, name: str, message: str) -> None:
    (root / name).unlink()
    if "align" in name:
        (root / "data/align/00001.h5").unlink()
    with pytest.raises(StoreError, match=message):
        stage.run(PARAMS, root)
    assert not list((root / "plots").glob("report.html"))
    assert not list((root / "plots").glob("source.png"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("plots/train.csv", "step,epoch,loss,accuracy,lr\n1,one,2,3,4\n", r"train\.csv: .*'one'"),
        ("plots/train.csv", "step,epoch,loss,accuracy\n1,1,2,3\n", r"train\.csv: .*no column lr"),
        ("plots/train.csv", "step,epoch,loss,accuracy,lr\n", r"train\.csv: .*no rows"),
        ("plots/train.csv", "step,epoch,loss,accuracy,lr\n1,1,2,3,4\n1,1,2\n", r"train\.csv: not a readable table"),
        ("plots/train.csv", "", r"train\.csv: not a readable table"),
        ("plots/roc/random.csv", "fpr,threshold\n1,1\n", r"random\.csv: .*no column tpr"),
        ("plots/filter.png", "no picture", r"filter\.png: does not decode"),
        ("plots/pairs/random.png", "no picture", r"random\.png: does not decode"),
        ("metrics/align.json", "{", r"align\.json: not a JSON object"),
        ("metrics/align.json", "[1]", r"align\.json: not a JSON object"),
        ("metrics/filter.json", "{}", r"filter\.json: .*chosen.*r2r filter"),
        (
            "metrics/train.json",
            '{"identities": 1, "images": 1, "steps": 1, "loss": "low", "accuracy": 1}',
            r"train\.json",
        ),
        ("metrics/evaluate.json", '{"random": "good"}', r"evaluate\.json"),
    ],
)
def test_broken_tables_and_pictures_are_named(root, name: str, content: str, message: str) -> None:
    (root / name).write_text(content)
    with pytest.raises(StoreError, match=message):
        stage.run(PARAMS, root)
    assert not (root / "plots/report.html").exists()


def test_rates_stand_from_the_strictest_on_and_what_is_lacking_is_a_dash(root) -> None:
    metrics = EVALUATE | {"ijb.c.variant": "N0D1F1", "ijb.c.auc": 1.0, "ijb.c.tar@far=1e-4": 5.0, "ijb.c.rank5": 7.0}
    found = sections.evaluate(PARAMS, root, metrics, Pictures(root))
    assert found["pair_table"] == [
        ("", "accuracy ± std", "AUC", "EER", "TAR at FAR 1e-2", "TAR at FAR 1e-1"),
        ("random", "81.50 ± 2.25", "90.00", "18.00", "40.00", "60.00"),
        ("random-raster", "91.75 ± 1.50", "–", "–", "–", "–"),
    ]
    assert found["group_table"] == [("", "accuracy ± std"), ("groups.first", "70.00 ± 3.00")]
    assert found["template_table"] == [
        ["", "quality", "ijb.c"],
        ["variant", "N1D1F1", "N0D1F1"],
        ["AUC", "77.50", "1.00"],
        ["TAR at FAR 1e-4", "–", "5.00"],
        ["rank 1", "33.00", "–"],
        ["rank 5", "–", "7.00"],
    ]


def test_a_wide_table_scrolls_and_its_first_column_stays(root) -> None:
    stage.run(PARAMS, root)
    content = (root / "plots/report.html").read_text()
    assert content.count("<table") == content.count('<div class="scroll" tabindex="0"><table') > 10
    assert ".scroll { overflow-x: auto" in content
    assert "td:first-child { position: sticky; left: 0" in content


def test_text_is_escaped_and_nothing_is_a_dash(root) -> None:
    give(root, {"zz": {"<b>": "<i> & co"}})
    stage.run(PARAMS, root)
    content = (root / "plots/report.html").read_text()
    assert '<th scope="row">&lt;b&gt;</th><td class="text">&lt;i&gt; &amp; co</td>' in content
    assert [stage.cell(value) for value in (None, (), 12345, True, 0.1, (1, 2), "<")] == [
        "–",
        "–",
        "12,345",
        "yes",
        "0.1",
        "1, 2",
        "<",
    ]


def test_a_new_stage_adds_a_file(root, tmp_path, monkeypatch) -> None:
    templates = tmp_path / "templates"
    shutil.copytree(stage.TEMPLATES, templates)
    (templates / "embed.html").write_text("<section>{{ m.count | cell }} vectors by {{ params.method }}</section>")
    monkeypatch.setattr(stage, "TEMPLATES", templates)
    with pytest.raises(StoreError, match=r"embed\.json: not there; run `r2r embed`"):
        stage.run(PARAMS, root)
    give(root, {"embed": {"count": 1234}})
    assert "1,234 vectors by none" in shown(root)


def shades(sheet: np.ndarray, row: int, columns: int) -> list[int]:
    """The grey in the middle of each image of a row."""
    top = row * (LINE + TILE + 2 * GAP) + LINE
    return [int(sheet[top + 48, column * (TILE + GAP) + 48, 0]) for column in range(columns)]


def test_sheets_show_an_identity_a_row(root) -> None:
    stage.run(PARAMS, root)
    source, target, align = (
        np.asarray(Image.open(root / f"plots/{name}.png")) for name in ("source", "target", "align")
    )
    assert [shades(source, row, 3) for row in (0, 1)] == [[30, 31, 32], [20, 21, 22]]  # the first and last of 3, 1, 2
    assert [shades(target, row, 2) for row in (0, 1)] == [[100, 100], [102, 102]]
    assert shades(align, 0, 3) == [203, 203, 203]
    assert (align[LINE + TILE + 2 * GAP + LINE :] == 255).all()  # no face was found


def test_a_target_without_people_fills_the_rows_in_order(tmp_path) -> None:
    archive(tmp_path / "target.zip", {f"{number}.png": flat(number) for number in range(12)})
    rows = sections._target(Archive(tmp_path / "target.zip"), 2, 4)
    assert [[int(image[0, 0, 0]) for image in images] for images in rows.values()] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_read_csv_is_columns(tmp_path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n3,4\n")
    curve = sections.read_csv(tmp_path / "a.csv", ["y"])
    assert {name: column.tolist() for name, column in curve.items()} == {"x": [1, 3], "y": [2, 4]}


def test_bars_of_the_two_looks_are_cut_to_their_scale(root) -> None:
    for accuracy, width in ((40.0, "0.0"), (75.0, "50.0"), (110.0, "100.0")):
        give(root, {"evaluate": EVALUATE | {"random": accuracy}})
        stage.run(PARAMS, root)
        assert f"width:{width}%" in (root / "plots/report.html").read_text()
    give(root, {"evaluate": {"random": 80.0}})
    assert "Domain gap" not in shown(root)
