import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from stages import filter as stage
from stages.filter import contact_sheet, mean_similarity, nearest, prototypes
from stages.params import Filter, Params, ParamsError
from stages.store import Shard, StoreError, encode, write_shard


def unit(count: int, dimension: int = 16, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def by_loop(vectors: np.ndarray, threshold: float) -> tuple[list[float], list[int], int]:
    """Each pair's cosine in float64, one at a time."""
    best, index, above = [-2.0] * len(vectors), [0] * len(vectors), 0
    for one, a in enumerate(vectors.astype(np.float64)):
        for other, b in enumerate(vectors.astype(np.float64)):
            cosine = float(a @ b)
            if one != other and cosine > best[one]:
                best[one], index[one] = cosine, other
            above += one < other and cosine > threshold
    return best, index, above


@pytest.mark.parametrize("block", [1, 7, 20, 61, 64])
def test_nearest_is_the_double_loop(block: int) -> None:
    vectors = unit(61)
    similarity, index, above = nearest(vectors, 0.3, block)
    best, expected, count = by_loop(vectors, 0.3)
    assert index.tolist() == expected
    assert above == count > 0
    np.testing.assert_allclose(similarity, best, atol=1e-12)


def test_nearest_does_not_see_the_order() -> None:
    vectors, shuffle = unit(50), np.random.default_rng(1).permutation(50)
    similarity, index, above = nearest(vectors, 0.3, 8)
    shuffled, shuffled_index, shuffled_above = nearest(vectors[shuffle], 0.3, 8)
    np.testing.assert_array_equal(shuffled, similarity[shuffle])
    np.testing.assert_array_equal(shuffle[shuffled_index], index[shuffle])
    assert shuffled_above == above


@pytest.mark.parametrize("block", [2, 3, 5, 16])
def test_duplicates_take_the_lowest_other(block: int) -> None:
    vectors = unit(12)
    vectors[[4, 9, 11]] = vectors[4]
    similarity, index, above = nearest(vectors, 0.999, block)
    assert index[[4, 9, 11]].tolist() == [9, 4, 4]
    np.testing.assert_allclose(similarity[[4, 9, 11]], 1, atol=1e-6)
    assert similarity[4] == similarity[9] == similarity[11]
    assert above == 3


def test_two_opposite_vectors() -> None:
    similarity, index, above = nearest(np.array([[1, 0], [-1, 0]], np.float32), 0.0)
    assert (similarity.tolist(), index.tolist(), above) == ([-1, -1], [1, 0], 0)


def test_mean_similarity_is_the_double_loop() -> None:
    vectors = unit(23)
    expected = [np.mean([float(a @ b) for j, b in enumerate(vectors) if j != i]) for i, a in enumerate(vectors)]
    np.testing.assert_allclose(mean_similarity(vectors), expected, atol=1e-6)


def test_embeddings_that_cancel_out_name_the_identity() -> None:
    with pytest.raises(StoreError, match="identity 7:"):
        prototypes(np.array([3, 7]), np.array([[1, 1], [0, 0]], np.float32))


def test_contact_sheet_places_tiles_and_captions() -> None:
    tiles = [np.full((10, 40, 3), shade, np.uint8) for shade in (10, 20, 30)]
    sheet = contact_sheet(tiles, ["", "", "x"], columns=2)
    assert sheet.shape == (2 * (10 + 18) + 8, 2 * 40 + 8, 3)
    assert (sheet[:10, :40] == 10).all()
    assert (sheet[:10, 48:] == 20).all()
    assert (sheet[36:46, :40] == 30).all()
    assert (sheet[36:46, 48:] == 255).all()
    assert sheet[10:28].min() == 255  # captions of the first row are empty
    assert sheet[46:, :40].min() < 255


class Faces:
    """A source of one-coloured images, as `Source` reads it."""

    def __init__(self, folder: object) -> None:
        pass

    def samples(self, identity: int) -> list[int]:
        return [2, 5]

    def encoded(self, identity: int, sample: int) -> bytes:
        assert sample == 2
        return encode(np.full((24, 24, 3), identity, np.uint8))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """20 identities of 3 embeddings in two shards, out of order; 13 and 31 are almost the same person."""
    monkeypatch.setattr(stage, "Source", Faces)
    centres = dict(zip(range(12, 32), unit(20, seed=3), strict=True))
    centres[31] = centres[13]
    noise = np.random.default_rng(4)
    for name, identities in (("b", range(12, 20)), ("a", range(20, 32))):
        identity = np.repeat(list(identities), 3)[::-1]
        rows = np.stack([centres[one] for one in identity]) + 0.05 * noise.standard_normal((len(identity), 16))
        embedding = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        columns = {"identity": identity, "embedding": embedding}
        write_shard(tmp_path / f"data/embed/source/{name}.h5", columns, fingerprint=name)
    return tmp_path


def read(root) -> dict[str, np.ndarray]:
    with Shard(root / "data/filter.h5") as shard:
        return {name: shard[name] for name in shard.names}


@pytest.mark.parametrize("score", ["max", "mean"])
def test_run_orders_and_chooses(root, score: str) -> None:
    stage.run(Params(n_ids=15, filter=Filter(score=score, threshold=0.4)), root)
    out = read(root)

    centres = {}
    for name in "ab":
        with Shard(root / f"data/embed/source/{name}.h5") as shard:
            for identity in set(shard["identity"].tolist()):
                mean = shard["embedding"][shard["identity"] == identity].astype(np.float64).mean(0)
                centres[identity] = mean / np.linalg.norm(mean)
    others = {one: {other: centres[one] @ centres[other] for other in centres if other != one} for one in centres}
    reduce = {"max": max, "mean": lambda values: np.mean(list(values))}[score]
    expected = sorted(centres, key=lambda one: (round(reduce(others[one].values()), 9), one))  # mutual pairs tie

    assert out["identity"].tolist() == expected
    assert out["nearest"].tolist() == [max(others[one], key=others[one].get) for one in expected]
    np.testing.assert_allclose(out["score"], [reduce(others[one].values()) for one in expected], atol=1e-6)
    np.testing.assert_allclose(out["similarity"], [max(others[one].values()) for one in expected], atol=1e-6)
    assert out["chosen"].tolist() == [True] * 15 + [False] * 5

    def pairs(among):
        return sum(others[one][other] > 0.4 for one in among for other in among if one < other)

    metrics = json.loads((root / "metrics/filter.json").read_text())
    assert (metrics["identities"], metrics["chosen"]) == (20, 15)
    assert metrics["pairs_above_threshold"] == pairs(expected) > 0
    assert metrics["pairs_above_threshold_chosen"] == pairs(expected[:15])
    assert metrics["similarity_max"] == pytest.approx(others[13][31], abs=1e-4)
    table = np.genfromtxt(root / "plots/filter.csv", delimiter=",", names=True)
    assert (table["identities"].sum(), table["chosen"].sum()) == (20, 15)
    with Image.open(root / "plots/filter_pairs.png") as sheet:
        assert sheet.getpixel((2, 2)) == (13, 13, 13)  # the closest pair leads
        assert sheet.getpixel((2 + 24, 2)) == (31, 31, 31)
        assert sheet.getpixel((2 + 56, 2)) != (13, 13, 13)  # and stands there once


def test_run_skips_only_what_is_current(root) -> None:
    params = Params(n_ids=15)
    stage.run(params, root)
    before = (root / "data/filter.h5").stat().st_mtime_ns
    stage.run(params, root)
    assert (root / "data/filter.h5").stat().st_mtime_ns == before
    stage.run(replace(params, n_ids=14), root)
    assert read(root)["chosen"].sum() == 14


def test_run_writes_the_same_bytes_again(root) -> None:
    names = ("data/filter.h5", "metrics/filter.json", "plots/filter.csv", "plots/filter.png", "plots/filter_pairs.png")
    stage.run(Params(n_ids=15), root)
    first = [(root / name).read_bytes() for name in names]
    (root / "data/filter.h5").unlink()
    stage.run(Params(n_ids=15), root)
    assert [(root / name).read_bytes() for name in names] == first


def test_too_many_ids_name_both_numbers(root) -> None:
    with pytest.raises(ParamsError, match=r"n_ids is 21, .* 20 identities"):
        stage.run(Params(n_ids=21), root)
    assert not (root / "metrics").exists()


def test_no_embeddings(tmp_path) -> None:
    with pytest.raises(StoreError, match="r2r embed"):
        stage.run(Params(), tmp_path)
