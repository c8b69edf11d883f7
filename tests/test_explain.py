"""The table of knobs against the blocks and against docs/pipeline.md."""

from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stages import explain
from stages.cli import app
from stages.knobs import ParamsError, knob, knobs
from stages.params import BLOCKS

DOCS = Path(__file__).parent.parent / "docs/pipeline.md"


def test_a_row_is_default_range_and_meaning():
    @knobs("toy")
    class Toy:
        rate: float = knob(0.5, "a share | a rate", gt=0, le=1)
        weights: tuple[float, ...] = knob((1.0, 2.5), "of two", max_length=2)
        on: bool = knob(True, "or off")

    assert explain.rows(Toy) == [
        ("rate", "0.5", "> 0, ≤ 1", "a share | a rate"),
        ("weights", "[1.0, 2.5]", "", "of two"),
        ("on", "true", "", "or off"),
    ]


def test_every_knob_of_every_stage_is_there_with_a_meaning():
    for name, block in BLOCKS.items():
        assert [row[0] for row in explain.rows(block)] == [field.name for field in fields(block)], name


def test_the_docs_have_what_the_command_prints():
    printed = CliRunner().invoke(app, ["knobs"]).output
    assert DOCS.read_text().endswith(printed), "docs/pipeline.md: paste what `r2r knobs` prints under Knobs"
    assert "| `epochs` | 8 | ≥ 1 | passes over the data |" in printed


def test_one_block():
    printed = CliRunner().invoke(app, ["knobs", "filter"]).output
    assert printed.count("###") == 1
    assert CliRunner().invoke(app, ["knobs", "transfer"]).output.count("### `transfer (") > 5
    with pytest.raises(ParamsError, match="there is no block filtre: fetch, "):
        explain.as_markdown(["filtre"])
