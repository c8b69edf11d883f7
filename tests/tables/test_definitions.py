"""The papers' tables: every row composes, and what the file says of the numbers is so."""

import json
from pathlib import Path

import pytest
import yaml

from stages.params import ParamsError, compose
from stages.tables.definitions import columns_of, lacks, load_table, metrics_of, names, settings, value_of
from stages.tables.results import look_up

ROOT = Path(__file__).parent.parent.parent
TABLES = {name: load_table(name, ROOT) for name in names(ROOT)}
CHOSEN = {"paper": {"train.data": "x.rec", "real.data": "x.rec"}, "embedded": {}}


def all_settings() -> set[tuple[str, ...]]:
    return {
        settings(table, row, profile, 0, given, ROOT)
        for table in TABLES.values()
        for row in table.rows
        for profile, given in CHOSEN.items()
        if row.runs_in(profile)
    }


def test_all_tables_are_there():
    papers = {f"digi2real-{n}" for n in range(1, 9)} | {f"syn2auth-{n}" for n in range(1, 4)} | {"synface-2"}
    assert papers <= TABLES.keys()


@pytest.mark.parametrize("words", sorted(all_settings()), ids=" ".join)
def test_every_row_composes_to_what_it_says(words):
    values = yaml.safe_load(compose(list(words), ROOT / "conf"))
    for word in words:
        knob, _, value = word.partition("=")
        block, _, name = knob.rpartition(".")
        assert (values[block] if block else values)[name] == yaml.safe_load(value.replace(",", ", "))


@pytest.mark.parametrize("name", TABLES)
def test_embedded_columns_are_measured_and_bear_no_official_name(name):
    columns = columns_of(TABLES[name], "embedded", ROOT)
    assert not columns.keys() & set(TABLES[name].columns) - {"mean"}
    stages = {stage: json.loads((ROOT / f"metrics/{stage}.json").read_text()) for stage in ("evaluate", "judge")}
    assert [key for key in metrics_of(columns) if look_up(stages, key) != look_up(stages, key)] == []


@pytest.mark.parametrize("name", TABLES)
def test_the_published_numbers_say_what_the_claims_say(name):
    table = TABLES[name]
    for claim in table.claims:
        for profile in ("embedded", "paper"):
            assert claim.by.get(profile, "mean") in columns_of(table, profile, ROOT)
        by = claim.by.get("paper", "mean")
        high, low = (value_of(table.published(table.row(row)).get(by, "")) for row in (claim.higher, claim.lower))
        assert high is None or low is None or high > low, claim.say


@pytest.mark.parametrize("name", TABLES)
def test_claims_are_of_rows_that_the_embedded_world_runs(name):
    table = TABLES[name]
    rows = [table.row(row) for claim in table.claims for row in (claim.higher, claim.lower)]
    assert [row.name for row in rows if not row.runs_in("embedded") or lacks(row, "embedded", {}, ROOT)] == []


def test_a_mean_is_that_of_its_columns_where_it_was_not_published():
    digiface = TABLES["digi2real-5"].published(TABLES["digi2real-5"].row("DigiFace1M"))
    assert digiface["mean"] == pytest.approx((91.93 + 75.80 + 73.13 + 71.12 + 78.89) / 5)
    assert (digiface["IJB-B"], digiface["IJB-C"]) == (43.23, 49.53)
    vsait = TABLES["syn2auth-2"].published(TABLES["syn2auth-2"].row("VSAIT"))
    assert vsait["Avg"] == "80.32±0.25"


def test_a_row_wins_over_the_profile_and_needs_go_where_they_are_needed():
    table = TABLES["digi2real-8"]
    given = {"real.data": "mine.zip", "fetch.mirror": "there"}
    none, some = (settings(table, table.row(row), "paper", 2, given, ROOT) for row in ("0", "1000"))
    assert "real.data=mine.zip" in some
    assert "real.data=mine.zip" not in none
    assert {"fetch.mirror=there", "seed=2"} <= set(none) & set(some)
    small = settings(TABLES["digi2real-4"], TABLES["digi2real-4"].row("10K"), "embedded", 0, {}, ROOT)
    assert [word for word in small if word.startswith("n_ids=")] == ["n_ids=25"]


def test_what_a_row_lacks_is_said():
    row = TABLES["digi2real-8"].row("1000")
    assert "WebFace260M" in lacks(row, "paper", {}, ROOT)
    assert lacks(row, "paper", {"real.data": "mine.zip"}, ROOT) == ""
    assert lacks(row, "embedded", {}, ROOT) == ""


GOOD = {"caption": "c", "source": "s", "columns": {"LFW": "lfw", "m": ["LFW"]}, "rows": [{"name": "a"}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": [{"name": "a", "sett": []}]}, r"rows\.0\.sett: Unexpected keyword"),
        ({"rows": [{"name": "a"}, {"name": "a"}]}, "two rows have one name"),
        ({"rows": [{"name": "a", "published": [1, 2, 3]}]}, "row a: 3 numbers for 2 columns"),
        ({"columns": {"m": ["LFW"]}}, r"a mean is of \['LFW'\]"),
        ({"claims": [{"say": "it helps", "higher": "a", "lower": "b"}]}, "the claim that it helps: no row b"),
    ],
)
def test_a_table_that_is_none_names_its_fault(tmp_path, change, message):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/t.yaml").write_text(yaml.safe_dump(GOOD | change))
    with pytest.raises(ParamsError, match=rf"(?s)tables/t\.yaml.*{message}"):
        load_table("t", tmp_path)
    with pytest.raises(ParamsError, match="u: no such table; there are t"):
        load_table("u", tmp_path)
