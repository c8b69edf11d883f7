"""How a table is shown: every form holds every cell, and ours of the embedded world no official name."""

import csv
import io
from pathlib import Path
from xml.etree import ElementTree

import pytest

from stages.tables import pages
from stages.tables.results import place, write
from tests.tables.test_definitions import ROOT, TABLES
from tests.tables.test_results import result

NUMBERS = {
    "random": 80.0,
    "age": 70.0,
    "pose": 60.0,
    "profile": 50.0,
    "groups.mean": 40.0,
    "quality.tar@far=1e-2": 30.0,
}


@pytest.fixture
def root(tmp_path) -> Path:
    for path in (ROOT / "tables").rglob("*.yaml"):
        (tmp_path / path.relative_to(ROOT)).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path.relative_to(ROOT)).write_text(path.read_text())
    results = [
        result(row, seed, **{name: value + seed + up for name, value in NUMBERS.items()})
        for row, up in (("DigiFace1M", 0), ("Digi2Real-20K", 5))
        for seed in (0, 1)
    ]
    write(place("digi2real-5", "embedded", tmp_path), results, list(NUMBERS))
    official = [result("Digi2Real-20K", seed, lfw=90.0 + 2 * seed) for seed in (0, 1)]
    write(place("digi2real-5", "paper", tmp_path), official, ["lfw"])
    return tmp_path


def test_ours_of_the_embedded_world_stand_under_their_own_names(root):
    page = pages.show("digi2real-5", "embedded", "def", root)
    published, own, claims = page.grids
    assert published.heads[1:] == list(TABLES["digi2real-5"].columns)
    assert not set(own.heads) & set(published.heads) - {"mean"}
    assert own.lines[0][:4] == ["DigiFace1M", "2", "80.50 ± 0.71", "70.50 ± 0.71"]
    assert own.lines[1][-2:] == ["+5.00", "+9.96"]  # what either gains over the first row
    assert claims.lines[0][2:] == ["+9.96", "+5.00 ± 1.41", "confirmed"]
    assert not any("other code" in remark for remark in page.remarks)
    assert any(
        "4 of 4 results are of other code" in one for one in pages.show("digi2real-5", "embedded", "x", root).remarks
    )


def test_official_numbers_stand_under_the_published_ones(root):
    grid = pages.show("digi2real-5", "paper", "def", root).grids[0]
    lines = [line[:3] for line in grid.lines]
    assert lines == [
        ["DigiFace1M", "published", "91.93"],
        ["Digi2Real-20K", "published", "98.58"],
        ["", "ours, 2 seeds", "91.00 ± 1.41"],
        ["", "difference", "-7.58"],
    ]


def test_every_form_holds_every_cell(root):
    page = pages.show("digi2real-5", "embedded", "def", root)
    lines = list(csv.reader(io.StringIO(pages.as_csv(page))))
    assert [line for grid in page.grids for line in (grid.heads, *grid.lines)] == [
        line for line in lines if len(line) > 1
    ]
    tree = ElementTree.fromstring(pages.as_html(page))
    cells = ["".join(cell.itertext()) for row in tree.iter("tr") for cell in row]
    assert cells == [cell for grid in page.grids for line in (grid.heads, *grid.lines) for cell in line]
    assert "| Digi2Real-20K | 98.58 |" in pages.as_markdown(page)
    latex = pages.as_latex(page)
    assert r"80.50 $\pm$ 0.71" in latex
    assert "quality & mean, over the first" in latex
    assert "Digi2Real-20K  98.58" in pages.as_text(page)


def test_the_list_says_what_has_been_run(root):
    lines = {line[0]: line[2:] for line in pages.listing("embedded", root).lines}
    assert lines["digi2real-5"] == ["2", "2", "2", "2", ""]
    assert lines["digi2real-4"] == ["9", "4", "0", "0", ""]
    assert {line[0]: line[-1] for line in pages.listing("paper", root).lines}["digi2real-8"] == "6 more need data"
