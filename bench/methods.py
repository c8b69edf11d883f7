"""The methods side by side, from this project's experiments: does a cheap measure predict what a recogniser learns?

    dvc exp run --queue -S 'method=none,arc2face,vsait,decent,unsb,codeformer,ddim,stylegan' -S 'seed=0,1,2' \\
        -S images_per_id=10
    dvc queue start && python -m bench.methods

Syn2Auth closes with the wish for a measure that tells the accuracy without training. `rows` has, of every method, mean
and standard deviation over seeds of the mean accuracy on five benchmarks, and of the measures of `metrics/judge.json`;
`rank_correlation` is Spearman's, over methods, of each measure with the accuracy; `pair` the best sum of two measures'
ranks, and `pair_elsewhere` the correlation of what such sums, chosen anew without each method, say of it. One JSON
line.
"""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import dvc.api
import numpy as np

BENCHMARKS = ("random", "age", "pose", "profile", "groups.mean")
MEASURES = {"look_to_target": -1, "frechet_to_target": -1, "identity_consistency": 1, "diversity": 1}  # and which way
FOR_NONE = {"identity_consistency": 1.0}  # an image that is taken as it is keeps its person


def numbers(row: dict[str, Any], source: dict[str, float]) -> dict[str, float]:
    """Accuracy and measures of an experiment; of `none`, the measures are the source's."""
    found = {"accuracy": float(np.mean([value(row, "evaluate", name) for name in BENCHMARKS]))}
    for name in MEASURES:
        found[name] = source[name] if row["method"] == "none" else value(row, "judge", name)
    return found


def value(row: dict[str, Any], stage: str, name: str) -> float:
    """A metric; where two files or the parameters have one of its name, it bears the file's."""
    full = row.get(f"metrics/{stage}.json:{name}")
    return float(row[name] if full is None else full)


def ranks(values: np.ndarray) -> np.ndarray:
    """Of each value, from 0; ties share the mean of theirs."""
    return (values[:, None] > values).sum(1) + ((values[:, None] == values).sum(1) - 1) / 2


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation; 0 where one does not vary."""
    a, b = ranks(a) - (len(a) - 1) / 2, ranks(b) - (len(b) - 1) / 2
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b / scale) if scale else 0.0


def best_pair(measures: dict[str, np.ndarray], accuracy: np.ndarray) -> tuple[str, str]:
    """The two measures whose ranks' sum goes best with the accuracy."""

    def goodness(pair: tuple[str, str]) -> float:
        return spearman(ranks(measures[pair[0]]) + ranks(measures[pair[1]]), accuracy)

    return max(combinations(measures, 2), key=goodness)


def main() -> None:
    rows = [row for row in dvc.api.exp_show() if row["Experiment"] and row["method"] and not row["State"]]
    made = next(row for row in rows if row["method"] != "none")
    source = {name: value(made, "judge", f"source_{name}") for name in MEASURES if name not in FOR_NONE} | FOR_NONE
    runs: dict[str, dict[float, dict[str, float]]] = {}
    for row in rows:  # of two experiments with one seed, the newer
        runs.setdefault(row["method"], {}).setdefault(row["seed"], numbers(row, source))
    columns = ("accuracy", *MEASURES)
    table = {
        method: {name: np.array([seen[name] for seen in seeds.values()]) for name in columns}
        for method, seeds in runs.items()
    }
    accuracy = np.array([row["accuracy"].mean() for row in table.values()])
    measures = {name: sign * np.array([row[name].mean() for row in table.values()]) for name, sign in MEASURES.items()}
    found: dict[str, Any] = {
        "rows": {
            method: {"seeds": len(row["accuracy"])}
            | {name: [round(values.mean(), 3), round(values.std(), 3)] for name, values in row.items()}
            for method, row in table.items()
        },
        "rank_correlation": {name: round(spearman(values, accuracy), 3) for name, values in measures.items()},
    }
    if len(table) > 3:
        found["pair"] = best_pair(measures, accuracy)
        elsewhere = []
        for left_out in range(len(table)):
            others = np.arange(len(table)) != left_out
            pair = best_pair({name: values[others] for name, values in measures.items()}, accuracy[others])
            elsewhere.append(sum(ranks(measures[name])[left_out] for name in pair))
        found["pair_elsewhere"] = round(spearman(np.array(elsewhere), accuracy), 3)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
