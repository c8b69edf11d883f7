"""Accuracy over demographic groups, as Racial Faces in-the-Wild (RFW) reports it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stages.evaluate.benchmarks import ProtocolError


def summary(accuracies: Mapping[str, float]) -> dict[str, float]:
    """Mean over the groups, standard deviation at ddof 0 (which reproduces Digi2Real's Table 7), and largest gap.

    Raises:
        ProtocolError: no groups.
    """
    if not accuracies:
        raise ProtocolError("no groups")
    values = np.array(list(accuracies.values()))
    return {"mean": float(values.mean()), "std": float(values.std()), "gap": float(values.max() - values.min())}
