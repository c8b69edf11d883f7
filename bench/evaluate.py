"""The protocols at full size against a straightforward version in the same run: `python -m bench.evaluate [share]`.

One JSON line each (ratio: how many times faster than the straightforward version): accuracy of 6,000 pairs of 512-d
over 10 folds; reading and decoding a `.bin` of 12,000 JPEG of 112 px; reading IJB-C's list of 15,658,489 pairs; an
IJB-C of the official size, made up, from embeddings to the table of TAR at FAR. A share below 1 makes all but the first
as much smaller. The straightforward versions do what the official scripts do: a loop over thresholds and folds, one
image after the other, line by line, a loop over templates (the latter two timed on a part and scaled up).
"""

from __future__ import annotations

import io
import json
import pickle
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from sklearn.metrics import roc_curve
from sklearn.model_selection import KFold
from sklearn.preprocessing import normalize

from stages.evaluate import pairs, templates
from stages.evaluate.benchmarks import Images
from stages.evaluate.embeddings import load
from stages.evaluate.metrics import roc
from stages.evaluate.readers.bin import read_bin
from stages.evaluate.readers.ijb import read_integers

IMAGES, TEMPLATES, PAIRS, GENUINE = 469_375, 23_124, 15_658_489, 19_557  # IJB-C
FARS = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
T = TypeVar("T")


def timed(function: Callable[[], T], repeats: int = 1) -> tuple[float, T]:
    """The best of some wall times in s, and the result."""
    best = np.inf
    for _ in range(repeats):
        begin = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - begin)
    return best, result


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def report(name: str, seconds: float, peer_seconds: float, **more: float) -> None:
    numbers = {"seconds": seconds, "ratio": peer_seconds / seconds, **more}
    print(json.dumps({"bench": name, **{key: round(value, 4) for key, value in numbers.items()}}), flush=True)


def accuracy_by_loops(left: np.ndarray, right: np.ndarray, same: np.ndarray) -> np.ndarray:
    distance = np.sum(np.square(left - right), axis=1)
    grid = np.arange(0, 4, 0.01)

    def measure(rows: np.ndarray, threshold: float) -> float:
        accepted = distance[rows] < threshold
        right_accepts = np.sum(np.logical_and(accepted, same[rows]))
        right_rejects = np.sum(np.logical_and(np.logical_not(accepted), np.logical_not(same[rows])))
        return float(right_accepts + right_rejects) / len(rows)

    folds = []
    for train, test in KFold(10).split(distance):
        best = grid[np.argmax([measure(train, threshold) for threshold in grid])]
        folds.append(measure(test, best))
        for threshold in grid:  # insightface draws the fold's curve from these
            measure(test, threshold)
    return np.array(folds)


def bench_pairs() -> None:
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 6000, 512))
    same = np.arange(6000) % 600 < 300
    right[same] = left[same] + 1.5 * right[same]
    left, right = normalize(left), normalize(right)
    peer_seconds, wanted = timed(lambda: accuracy_by_loops(left, right, same), 3)
    seconds, found = timed(lambda: pairs.accuracy(left, right, same), 10)
    assert np.array_equal(found.folds, wanted)
    report("pairs 6000 x 512", seconds, peer_seconds)


def templates_by_loops(features: np.ndarray, template: np.ndarray, media: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    result = np.zeros((len(chosen), features.shape[1]))
    for row, number in enumerate(chosen):
        (members,) = np.where(template == number)
        means = [np.mean(features[members][media[members] == medium], axis=0) for medium in np.unique(media[members])]
        result[row] = np.sum(means, axis=0)
    return normalize(result)


def bench_pair_list(share: float) -> None:
    rng = np.random.default_rng(0)
    lines = int(PAIRS * share)
    block = np.stack([*rng.integers(1, 200_000, (2, 100_000)), rng.integers(0, 2, 100_000)], axis=1)
    text = "".join(f"{a} {b} {label}\n" for a, b, label in block.tolist()).encode().splitlines(keepends=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ijbc_template_pair_label.txt"
        with path.open("wb") as file:
            for begin in range(0, lines, len(text)):
                file.writelines(text[: lines - begin])
        seconds, found = timed(lambda: read_integers(path, 3))
        assert found.shape == (lines, 3)
        np.testing.assert_array_equal(found[-1], block[(lines - 1) % len(block)])
        part = min(lines, 10 * len(text))

        def line_by_line() -> list[list[int]]:
            with path.open() as file:
                return [[int(field) for field in line.split()] for line, _ in zip(file, range(part), strict=False)]

        peer_seconds, wanted = timed(line_by_line)
        np.testing.assert_array_equal(found[:part], wanted)
    report(f"pair list of {lines}", seconds, peer_seconds * lines / part, peak_gib=peak_gib())


def bench_ijbc(share: float) -> None:
    images, count, tested, genuine = (int(number * share) for number in (IMAGES, TEMPLATES, PAIRS, GENUINE))
    rng = np.random.default_rng(0)
    features = rng.standard_normal((images, 512), dtype=np.float32)
    template = rng.permutation(np.r_[np.arange(count), rng.integers(0, count, images - count)])
    media = template * 8 + rng.integers(0, 8, images)
    first, second = rng.integers(0, count, (2, tested))
    same = np.zeros(tested, bool)
    same[rng.choice(tested, genuine, replace=False)] = True
    detector_scores = np.ones(images, np.float32)
    variant = templates.Variant(flip=False)
    templates.scores(np.arange(2), np.eye(2), np.array([0]), np.array([1]))  # compile

    def table() -> tuple[np.ndarray, np.ndarray, list[float]]:
        ids, vectors = templates.pool(
            templates.contributions(features[None], detector_scores, variant), np.arange(images), template, media
        )
        scores = templates.scores(ids, vectors, first, second)
        curve = roc(scores, same)
        return vectors, scores, [curve.tar_near_far(far)[0] for far in FARS]

    seconds, (vectors, scores, tars) = timed(table)
    peak = peak_gib()

    part = np.arange(0, count, 100)
    pooling, wanted = timed(lambda: templates_by_loops(features, template, media, part))
    np.testing.assert_allclose(vectors[part], wanted, atol=1e-7)
    some = min(100_000, tested)  # a batch of the official script
    scoring, by_rows = timed(lambda: np.sum(vectors[first[:some]] * vectors[second[:some]], axis=-1))
    np.testing.assert_allclose(scores[:some], by_rows, atol=1e-12)

    def read_off() -> list[float]:
        far, tar, _ = roc_curve(same, scores)
        far, tar = far[::-1], tar[::-1]
        return [tar[np.argmin(np.abs(far - wanted))] for wanted in FARS]

    reading, wanted_tars = timed(read_off)
    assert tars == wanted_tars
    report(
        f"ijb-c 1:1 of {tested}",
        seconds,
        pooling * count / len(part) + scoring * tested / some + reading,
        peak_gib=peak,
    )


def bench_bin(share: float) -> None:
    rng = np.random.default_rng(0)
    count = int(3000 * share) * 4
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.bin"
        encoded = []
        for number in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)).resize((112, 112))
            target = io.BytesIO()
            coarse.save(target, "JPEG", quality=95)
            encoded.append(target.getvalue() + number.to_bytes(2, "big"))  # no two are equal
        path.write_bytes(pickle.dumps((encoded, [True, False] * (count // 4)), protocol=2))

        def read() -> int:
            images: Images = read_bin(path).images
            batches = (range(begin, min(begin + 128, len(images))) for begin in range(0, len(images), 128))
            return sum(len(load(images, batch, None)[0]) for batch in batches)

        def one_by_one() -> int:
            with path.open("rb") as file:
                images, _ = pickle.load(file, encoding="bytes")
            read = 0
            for content in images:
                read += np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).shape[0] == 112
            return read

        seconds, images = timed(read)
        peer_seconds, wanted = timed(one_by_one)
        assert images == wanted == count
        report(f"bin {count} jpeg", seconds, peer_seconds, images_per_second=images / seconds)


if __name__ == "__main__":
    share = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    bench_pairs()
    bench_bin(share)
    bench_pair_list(share)
    bench_ijbc(share)
