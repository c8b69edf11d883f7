"""The numbers of docs/audit.md are those of the audits beside it."""

import json
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent.parent / "docs"
TEXT = (DOCS / "audit.md").read_text()


@pytest.mark.parametrize("method", ["none", "arc2face"])
def test_separability(method):
    numbers = json.loads((DOCS / f"audit/{method}.json").read_text())
    line = next(line for line in TEXT.splitlines() if line.startswith(f"| `{method}`"))
    names = ("images", "fdr", "eer", "fmr100", "fmr1000", "genuine_mean", "impostor_mean", "near_duplicates")
    shown = [cell.strip().replace(",", "") for cell in line.split("|")[2:-1]]
    assert [float(cell) for cell in shown] == [numbers[name] for name in (*names, "identities_apart")]


def test_leakage():
    numbers = json.loads((DOCS / "audit/arc2face.json").read_text())
    for name in (
        "near_identities",
        "near_identities_percent",
        "reference_near_percent",
        "copies",
        "reference_images",
        "copy_threshold",
    ):
        assert f"{numbers[name]:,}" in TEXT.partition("The generator's own people")[2]
