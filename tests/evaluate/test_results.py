import json

import pytest

from stages.evaluate.benchmarks import ProtocolError
from stages.evaluate.results import Row, flatten, parse, power

ROWS = [
    Row(
        "lfw",
        99.5,
        std=0.25,
        auc=99.9,
        eer=0.5,
        tar={1e-1: 100.0, 2.5e-4: 90.0},
        val={1e-3: 98.0},
        no_face=3,
        intervals={"accuracy": (99.25, 99.75), "tar@far=2.5e-4": (85.0, 95.0)},
    ),
    Row("rfw.african", 90.0, std=1.0),
    Row("rfw.asian", 92.0, std=1.5, auc=97.0, eer=8.0),
    Row("rfw", mean=91.0, std=1.0, gap=2.0, intervals={"gap": (0.0, 5.0)}),
    Row(
        "ijb.c",
        variant="N1D1F1",
        auc=99.0,
        eer=1.0,
        tar={1e-6: 80.0},
        unused=7,
        rank={1: 90.0, 10: 95.0},
        tpir={1e-2: 70.0},
    ),
    Row("cfp.v2", 88.0, std=0.0),
]


def test_rows_become_flat_keys_and_rows_again():
    flat = flatten(ROWS, "insightface")
    assert flat == {
        "lfw": 99.5,
        "lfw.std": 0.25,
        "lfw.auc": 99.9,
        "lfw.eer": 0.5,
        "lfw.tar@far=1e-1": 100.0,
        "lfw.tar@far=2.5e-4": 90.0,
        "lfw.val@far=1e-3": 98.0,
        "lfw.no_face": 3,
        "lfw.low@accuracy": 99.25,
        "lfw.high@accuracy": 99.75,
        "lfw.low@tar@far=2.5e-4": 85.0,
        "lfw.high@tar@far=2.5e-4": 95.0,
        "rfw.african": 90.0,
        "rfw.african.std": 1.0,
        "rfw.asian": 92.0,
        "rfw.asian.std": 1.5,
        "rfw.asian.auc": 97.0,
        "rfw.asian.eer": 8.0,
        "rfw.mean": 91.0,
        "rfw.std": 1.0,
        "rfw.gap": 2.0,
        "rfw.low@gap": 0.0,
        "rfw.high@gap": 5.0,
        "ijb.c.variant": "N1D1F1",
        "ijb.c.auc": 99.0,
        "ijb.c.eer": 1.0,
        "ijb.c.tar@far=1e-6": 80.0,
        "ijb.c.unused": 7,
        "ijb.c.rank1": 90.0,
        "ijb.c.rank10": 95.0,
        "ijb.c.tpir@fpir=1e-2": 70.0,
        "cfp.v2": 88.0,
        "cfp.v2.std": 0.0,
        "protocol": "insightface",
    }
    assert parse(json.loads(json.dumps(flat))) == ROWS
    assert [row.kind for row in ROWS] == ["pairs", "pairs", "pairs", "groups", "templates", "pairs"]


@pytest.mark.parametrize("name", ["lfw.std", "lfw.rank2", "protocol", "a.tar@far=1e-2", "a.low@auc"])
def test_a_name_that_reads_like_a_number_is_refused(name):
    with pytest.raises(ProtocolError, match=f"rename .*{name.split('.')[0]}"):
        flatten([Row("lfw", 99.0), Row(name, 90.0)], "insightface")


def test_a_group_that_bears_the_name_of_a_number_is_refused():
    with pytest.raises(ProtocolError, match="rename"):
        flatten([Row("rfw.mean", 90.0, std=1.0), Row("rfw", mean=90.0, std=0.0, gap=0.0)], "insightface")


def test_something_in_the_place_of_a_number():
    for flat in ({"lfw": "good"}, {"lfw.tar@far=1e-2": None}, {"lfw.std": [1]}):
        with pytest.raises(ValueError, match=r"lfw.* no number"):
            parse(flat)


def test_power():
    shown = [power(value) for value in (1e-6, 1e-2, 0.1, 5e-4, 2.5e-4, 10)]
    assert shown == ["1e-6", "1e-2", "1e-1", "5e-4", "2.5e-4", "10"]
