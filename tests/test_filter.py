import json

import numpy as np
import pytest
from PIL import Image

from stages import filter as stage
from stages.filter import Filter, chosen_identities, mean_similarity, nearest, nearest_among, prototypes
from stages.params import Params, ParamsError
from stages.pictures import GAP, LINE, TILE
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
    """Of quarters, whose cosines are exact in whatever order a machine adds them."""
    vectors = np.random.default_rng(0).choice(np.array([-0.25, 0.25], np.float32), (12, 16))
    vectors[[4, 9, 11]] = vectors[4]
    similarity, index, above = nearest(vectors, 0.999, block)
    assert index[[4, 9, 11]].tolist() == [9, 4, 4]
    assert similarity[[4, 9, 11]].tolist() == [1, 1, 1]
    assert above == 3
    for row in range(12):  # ties of fewer equals too
        cosines = np.delete(vectors @ vectors[row], row)
        assert index[row] == np.delete(np.arange(12), row)[cosines.argmax()]


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


@pytest.fixture
def root(tmp_path):
    """20 identities of 3 embeddings in two shards, out of order; 13 and 31 are almost the same person.

    Their images are of one colour, the identity's number; the first has the number 2.
    """
    centres = dict(zip(range(12, 32), unit(20, seed=3), strict=True))
    centres[31] = centres[13]
    noise = np.random.default_rng(4)
    for name, identities in (("b", range(12, 20)), ("a", range(20, 32))):
        identity = np.repeat(list(identities), 3)[::-1]
        rows = np.stack([centres[one] for one in identity]) + 0.05 * noise.standard_normal((len(identity), 16))
        embedding = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        columns = {"identity": identity, "embedding": embedding}
        write_shard(tmp_path / f"data/embed/source/{name}.h5", columns)
    identity, sample = np.repeat(np.arange(12, 32), 2), np.tile([5, 2], 20)
    images = [
        encode(np.full((24, 24, 3), i if k == 2 else 200, np.uint8)) for i, k in zip(identity, sample, strict=True)
    ]
    write_shard(tmp_path / "data/source/0.h5", {"identity": identity, "sample": sample}, images)
    return tmp_path


def read(root) -> dict[str, np.ndarray]:
    with Shard(root / "data/filter.h5") as shard:
        return {name: shard[name] for name in shard.names}


@pytest.mark.parametrize("score", ["max", "mean", "none"])
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
    reduce = {"max": max, "mean": lambda values: np.mean(list(values)), "none": max}[score]
    order = {one: (score != "none") * round(reduce(others[one].values()), 9) for one in centres}  # mutual pairs tie
    expected = sorted(centres, key=lambda one: (order[one], one))

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
        firsts = [sheet.getpixel((x, LINE + 9))[0] for x in (9, TILE + 9, 2 * TILE + GAP + 9)]
        assert firsts[:2] == [13, 31]  # the closest pair leads
        assert firsts[2] not in (13, 31)  # and stands there once


def test_run_writes_the_same_bytes_again(root) -> None:
    names = ("data/filter.h5", "metrics/filter.json", "plots/filter.csv", "plots/filter.png", "plots/filter_pairs.png")
    stage.run(Params(n_ids=15), root)
    first = [(root / name).read_bytes() for name in names]
    stage.run(Params(n_ids=15), root)
    assert [(root / name).read_bytes() for name in names] == first


def test_too_many_ids_name_both_numbers(root) -> None:
    with pytest.raises(ParamsError, match=r"n_ids is 21, .* 20 identities"):
        stage.run(Params(n_ids=21), root)
    assert not (root / "metrics").exists()


def test_no_embeddings(tmp_path) -> None:
    with pytest.raises(StoreError, match="r2r embed"):
        stage.run(Params(), tmp_path)


def test_chosen_identities_come_from_far_to_near_or_evenly_of_these(tmp_path) -> None:
    path = tmp_path / "filter.h5"
    columns = {"identity": np.array([7, 3, 9, 1, 5, 8]), "chosen": np.array([True] * 5 + [False])}
    write_shard(path, columns)
    assert chosen_identities(path) == chosen_identities(path, 9) == [7, 3, 9, 1, 5]
    assert chosen_identities(path, 3) == [7, 9, 5]
    write_shard(path, columns | {"chosen": np.zeros(6, bool)})
    with pytest.raises(StoreError, match=r"filter\.h5: no identity is chosen; run `r2r filter`"):
        chosen_identities(path)


@pytest.mark.parametrize("block", [1, 7, 29, 64])
def test_nearest_of_another_set_is_the_double_loop(block: int) -> None:
    vectors, others = unit(31), unit(29, seed=1)
    others[[3, 20]] = vectors[5]  # of equals the lowest
    similarity, index = nearest_among(vectors, others, block)
    cosines = vectors.astype(np.float64) @ others.T.astype(np.float64)
    assert index.tolist() == cosines.argmax(axis=1).tolist()
    assert index[5] == 3
    np.testing.assert_allclose(similarity, cosines.max(axis=1), atol=1e-12)
