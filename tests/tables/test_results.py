"""What is written is read, and a claim's verdict is the rule's."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_ind

from stages.store import StoreError
from stages.tables.results import Result, difference, findings, measured, read, write
from tests.tables.test_definitions import TABLES

ROOT = Path(__file__).parent.parent.parent


def result(row: str, seed: int, **numbers: float) -> Result:
    return Result(row, seed, f"t-{row}-{seed}", "abc", "def", "012", "2.15", "cpu", f"n_ids=3 seed={seed}", numbers)


def test_what_is_written_is_read(tmp_path):
    results = [result("a", 0, lfw=91.25, auc=math.nan), result("a", 1, lfw=90.0, auc=0.1234), result("b, c", 0, lfw=1)]
    write(tmp_path / "t.csv", results, ["lfw", "auc"])
    again = read(tmp_path / "t.csv")
    assert [(one.row, one.seed, one.settings) for one in again] == [
        (one.row, one.seed, one.settings) for one in results
    ]
    np.testing.assert_array_equal([one.numbers["lfw"] for one in again], [91.25, 90.0, 1.0])
    np.testing.assert_array_equal([one.numbers["auc"] for one in again], [math.nan, 0.1234, math.nan])
    assert read(tmp_path / "none.csv") == []
    (tmp_path / "t.csv").write_text("row,seed\na,0\n")
    with pytest.raises(StoreError, match="no table of results"):
        read(tmp_path / "t.csv")


def test_the_rule_is_of_two_standard_errors():
    higher, lower = np.array([81.0, 82.5, 83.1]), np.array([79.9, 80.4, 80.2, 81.0])
    apart, error, verdict = difference(higher, lower)
    assert apart / error == pytest.approx(ttest_ind(higher, lower, equal_var=False).statistic)
    assert verdict == "confirmed"
    assert difference(lower, higher)[2] == "opposite"
    assert difference(higher, lower + apart - 1.99 * error)[2] == "not seen"
    assert difference(higher, lower + apart - 2.01 * error)[2] == "confirmed"


@pytest.mark.parametrize("other", [[], [80.0], [math.nan, 80.0]])
def test_without_two_seeds_of_both_a_claim_is_open(other):
    assert difference(np.array([81.0, 82.0]), np.array(other))[2] == "open"


def test_equal_rows_show_nothing():
    same = np.array([80.0, 80.0])
    assert difference(same, same) == (0.0, 0.0, "not seen")


def test_a_mean_is_taken_seed_by_seed():
    results = [result("a", 1, lfw=90, cplfw=70), result("a", 0, lfw=80, cplfw=60), result("b", 0, lfw=1, cplfw=3)]
    found = measured(results, {"LFW": "lfw", "CPLFW": "cplfw", "mean": ["LFW", "CPLFW"]})
    assert found["a"]["mean"].tolist() == [70, 80]
    assert found["b"]["mean"].tolist() == [2]


def test_findings_are_of_the_profiles_column():
    table = TABLES["digi2real-2"]
    names = ("random", "age", "pose", "profile", "groups.mean")
    key = "quality.tar@far=1e-2"
    results = [
        result(row, seed, **dict.fromkeys(names, level + seed), **{key: 50 - level + seed})
        for row, level in (("1", 10), ("2", 20))
        for seed in (0, 1)
    ]
    mean, templates = findings(table, "embedded", results, ROOT)
    assert (mean.ours, mean.verdict, mean.published) == (10, "confirmed", "+1.39")
    assert (templates.ours, templates.verdict, templates.published) == (-10, "opposite", "+2.14")
    assert {one.verdict for one in findings(table, "embedded", results[:2], ROOT)} == {"open"}
