import pytest

from stages.evaluate.benchmarks import ProtocolError
from stages.evaluate.groups import summary

TABLE_7 = {  # Digi2Real's RFW table: African, Asian, Caucasian, Indian, mean, std
    "MSCeleb": (98.32, 97.85, 99.12, 97.90, 98.29, 0.51),
    "CASIA": (88.35, 86.32, 94.20, 89.12, 89.49, 2.90),
    "DCFace": (80.73, 84.03, 89.50, 87.20, 85.37, 3.31),
    "DigiFace1M": (65.55, 69.60, 72.58, 70.00, 69.43, 2.52),
    "Syn2Auth-DF-CF": (69.87, 73.27, 76.90, 73.52, 73.39, 2.49),
    "Digi2Real-20K": (80.67, 79.95, 85.33, 81.40, 81.84, 2.08),
}


@pytest.mark.parametrize("row", TABLE_7)
def test_summary_reproduces_the_published_mean_and_std(row):
    *accuracies, mean, std = TABLE_7[row]
    found = summary(dict(zip(("african", "asian", "caucasian", "indian"), accuracies, strict=True)))
    assert found["mean"] == pytest.approx(mean, abs=0.01)  # the table cuts the digits off
    assert found["std"] == pytest.approx(std, abs=0.0051)
    assert found["gap"] == max(accuracies) - min(accuracies)


def test_one_group_has_no_spread():
    assert summary({"all": 0.9}) == {"mean": 0.9, "std": 0.0, "gap": 0.0}


def test_no_group():
    with pytest.raises(ProtocolError, match="no groups"):
        summary({})
