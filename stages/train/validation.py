"""The choice of the epoch: a look at a benchmark every few epochs, and the weights that were best there.

The rule: the highest mean accuracy over the pair benchmarks, the first of equals. A benchmark of `data/benchmarks`, on
which the result is measured, is a test: it chooses only where `train.validation_by_test` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from stages.evaluate import pairs
from stages.evaluate.benchmarks import Pairs
from stages.evaluate.embeddings import Network, embed_now, embedder
from stages.evaluate.readers import read_benchmarks
from stages.knobs import check
from stages.store import fingerprint
from stages.train.knobs import Train


class Validation:
    """The benchmarks that choose, and the best weights so far, a part of a checkpoint.

    Args:
        train: `validation` names a pair benchmark, or a folder of such.
        root: of the project.

    Attributes:
        accuracy: of each epoch that was looked at, in %; weights: of the best of them.

    Raises:
        StoreError: no benchmark, or a broken one.
        ParamsError: not of pairs, or a test that may not choose.
    """

    def __init__(self, train: Train, root: Path) -> None:
        path = root / train.validation
        self.test = path.resolve().is_relative_to((root / "data/benchmarks").resolve())
        check(
            not self.test or train.validation_by_test,
            f"train.validation is {train.validation}, on which the result is tested: name another benchmark, or set "
            "train.validation_by_test, and the metrics will say so",
        )
        self.benchmarks: list[Pairs] = []
        for benchmark in read_benchmarks(path):
            check(isinstance(benchmark, Pairs), f"train.validation: {benchmark.name} is not a benchmark of pairs")
            self.benchmarks.append(benchmark)  # type: ignore[arg-type]
        self.batch = train.batch_size
        self.accuracy: dict[int, float] = {}
        self.weights: dict[str, Tensor] = {}

    def look(self, backbone: nn.Module, channels: str, epoch: int) -> None:
        """Measure the network after so many epochs; keep its weights if they are the best."""
        forward = embedder(backbone.eval(), channels)
        network = Network(Path("the network in training"), "", channels, "", forward)
        accuracies = []
        for benchmark in self.benchmarks:
            embedded = embed_now(network, benchmark.images, flip=True, align=None, batch_size=self.batch)
            vectors = pairs.fuse(embedded.views)
            sides = vectors[benchmark.first], vectors[benchmark.second]
            accuracies.append(pairs.accuracy(*sides, benchmark.same, benchmark.folds).mean)
        best = max(self.accuracy.values(), default=-1.0)
        self.accuracy[epoch] = 100 * float(np.mean(accuracies))
        if self.accuracy[epoch] > best:
            self.weights = {name: value.detach().cpu().clone() for name, value in backbone.state_dict().items()}

    def numbers(self) -> dict[str, float]:
        """The epoch that was chosen, its accuracy in %, and whether a test chose it."""
        epoch = max(self.accuracy, key=lambda epoch: (self.accuracy[epoch], -epoch))
        return {"epoch": epoch, "validation": round(self.accuracy[epoch], 2), "validation_by_test": self.test}

    def digest(self) -> str:
        """Identity of the images and pairs."""
        sets = [(one.images.digest, one.first, one.second, one.same, one.folds) for one in self.benchmarks]
        return fingerprint(*sets, code=("train/validation", "evaluate/pairs", "evaluate/embeddings"))

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"accuracy": self.accuracy, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        self.accuracy, self.weights = dict(state["accuracy"]), dict(state["weights"])
