import json
from dataclasses import replace
from math import exp

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import sqrtm

from stages.gap import domain_gap, draw, encode, frechet, measure, median_distance, mmd, run
from stages.params import Arc2Face, Gap, Params, ParamsError
from stages.store import Shard, StoreError
from stages.transfer import seed_of
from tests.transfer.arc2face.tiny import LENGTH, WIDTH, pipeline, write_embeddings

PARAMS = Params(
    method="arc2face",
    n_ids=5,
    gap=Gap(n_images=20, batch_size=8),
    arc2face=Arc2Face(weights="generator", steps=2, device="cpu"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    pipeline().save_pretrained(root / "generator")
    write_embeddings(root)
    run(PARAMS, root)
    return root


def test_the_gap_is_the_difference_of_the_means(root):
    paths = sorted((root / "data/embed/source").glob("*.h5")), [root / "data/embed/target.h5"]
    means = []
    for domain, name in zip(paths, ("source", "target"), strict=True):
        vectors = draw(domain, 20, seed_of(0, "gap", name))
        states = [pipeline().encode_identity(torch.from_numpy(vector[None]))[0].double() for vector in vectors]
        means.append(sum(states) / 20)
    with Shard(root / "data/gap/delta.h5") as shard:
        np.testing.assert_allclose(shard["delta"], means[1] - means[0], atol=1e-5)


def test_no_gap_before_the_identitys_token(root):
    with Shard(root / "data/gap/delta.h5") as shard:
        delta = shard["delta"]
    assert delta.shape == (LENGTH, WIDTH)
    assert not delta[:4].any()
    assert (np.abs(delta[4:]).max(axis=1) > 1e-3).all()


def test_an_encoder_that_looks_ahead_is_refused(tmp_path, monkeypatch):
    pipeline().save_pretrained(tmp_path / "generator")
    write_embeddings(tmp_path)
    monkeypatch.setattr(
        "stages.gap.encode", lambda pipeline, vectors, *_: np.repeat(vectors[:, :1, None], LENGTH, 1).repeat(WIDTH, 2)
    )
    with pytest.raises(StoreError, match="not causal"):
        run(PARAMS, tmp_path)
    assert not (tmp_path / "data/gap/delta.h5").exists()


def test_batches_are_encoded_as_one_by_one(root):
    vectors = draw([root / "data/embed/target.h5"], 10, 0)
    np.testing.assert_allclose(encode(pipeline(), vectors, 4), encode(pipeline(), vectors, 1), atol=1e-5)


def test_draw_is_without_replacement_over_all_shards(root):
    paths = sorted((root / "data/embed/source").glob("*.h5"))
    every = np.concatenate([Shard(path)["embedding"] for path in paths])
    np.testing.assert_array_equal(draw(paths, 24, 5), every)
    few = draw(paths, 9, 5)
    rows = [int(np.flatnonzero((every == vector).all(axis=1))[0]) for vector in few]
    assert len(set(rows)) == 9
    np.testing.assert_array_equal(draw(paths, 9, 5), few)
    assert not np.array_equal(draw(paths, 9, 6), few)


def test_metrics_tell_that_the_gap_closes(root):
    metrics = json.loads((root / "metrics/gap.json").read_text())
    with Shard(root / "data/gap/delta.h5") as shard:
        assert metrics["norm"] == pytest.approx(np.linalg.norm(shard["delta"]), abs=1e-5)
    assert metrics["frechet_after"] < metrics["frechet_before"]
    assert metrics["mmd_after"] < metrics["mmd_before"]
    assert (metrics["images"], metrics["weight"]) == (20, 1.0)


def test_pictures(root):
    with Image.open(root / "plots/gap/sheet.png") as sheet:
        assert sheet.size == (8 * 8, 2 * (8 + 14))
    with Image.open(root / "plots/gap/tsne.png") as plot:
        assert np.asarray(plot).std() > 0


def test_a_second_run_does_nothing_and_a_changed_knob_does(root, monkeypatch):
    names = ("data/gap/delta.h5", "metrics/gap.json", "plots/gap/tsne.png", "plots/gap/sheet.png")
    before = {name: (root / name).read_bytes() for name in names}
    monkeypatch.setattr("stages.transfer.arc2face.load_pipeline", lambda *_: pytest.fail("loaded"))
    run(PARAMS, root)
    with pytest.raises(pytest.fail.Exception, match="loaded"):
        run(replace(PARAMS, seed=1), root)
    assert {name: (root / name).read_bytes() for name in names} == before


def test_the_run_is_the_same_bit_by_bit(root, tmp_path):
    pipeline().save_pretrained(tmp_path / "generator")
    write_embeddings(tmp_path)
    run(PARAMS, tmp_path)
    for name in ("data/gap/delta.h5", "metrics/gap.json", "plots/gap/tsne.png", "plots/gap/sheet.png"):
        assert (tmp_path / name).read_bytes() == (root / name).read_bytes(), name


def test_a_method_without_such_a_conditioning_has_no_gap(tmp_path):
    stale = tmp_path / "data/gap/delta.h5"
    stale.parent.mkdir(parents=True)
    stale.touch()
    run(replace(PARAMS, method="none"), tmp_path)
    assert not list((tmp_path / "data/gap").iterdir())
    assert not list((tmp_path / "plots/gap").iterdir())
    assert json.loads((tmp_path / "metrics/gap.json").read_text()) == {"images": 0}


def test_frechet_is_the_closed_form():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(300, 5)) @ rng.normal(size=(5, 5)), rng.normal(size=(200, 5)) + 1
    covariances = np.cov(a.T), np.cov(b.T)
    root = sqrtm(covariances[0] @ covariances[1]).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(sum(covariances) - 2 * root)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet(b, a) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_gaussians():
    """|m1 - m2|^2 + sum (s1 - s2)^2 for independent coordinates."""
    rng = np.random.default_rng(1)
    scales = np.array([1.0, 2.0, 0.5])
    a, b = rng.normal(size=(1000, 3)) * scales, rng.normal(size=(1000, 3)) + np.array([3, 0, 0])
    assert frechet(a, b) == pytest.approx(9 + ((scales - 1) ** 2).sum(), rel=0.05)


def test_frechet_with_fewer_images_than_numbers():
    x = np.random.default_rng(0).normal(size=(6, 400))
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet(x, x + 0.1) == pytest.approx(400 * 0.01, rel=1e-9)


def test_mmd_is_the_double_loop():
    rng = np.random.default_rng(0)
    a, b, width = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)) + 0.5, 1.3

    def kernel(x, y):
        return exp(-sum((p - q) ** 2 for p, q in zip(x, y, strict=True)) / (2 * width**2))

    within_a = sum(kernel(a[i], a[j]) for i in range(7) for j in range(7) if i != j) / 42
    within_b = sum(kernel(b[i], b[j]) for i in range(5) for j in range(5) if i != j) / 20
    across = sum(kernel(x, y) for x in a for y in b) / 35
    assert mmd(a, b, width) == pytest.approx(within_a + within_b - 2 * across, abs=1e-12)


def test_mmd_of_gaussians():
    """E k(x, y) = (h^2 / (h^2 + s^2))^(k/2) exp(-|m|^2 / (2 (h^2 + s^2))), with s^2 = 2 the variance of x - y."""
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2000, 2)), rng.normal(size=(2000, 2)) + np.array([1, 0])
    h2 = 1.5**2
    expected = 2 * h2 / (h2 + 2) * (1 - exp(-1 / (2 * (h2 + 2))))
    assert mmd(a, b, 1.5) == pytest.approx(expected, rel=0.2)
    assert abs(mmd(a[:1000], a[1000:], 1.5)) < 2e-3


def test_median_distance_of_a_line():
    assert median_distance(np.array([[0.0], [1], [3]])) == pytest.approx(2)  # of 1, 2 and 3


def test_a_pure_displacement_is_undone():
    """Across its halves too: the gap that one half estimates is the other's."""
    cloud = np.random.default_rng(0).normal(size=(400, 2, 3))
    distances = measure(cloud, cloud[::-1] + 2, weight=1.0)
    assert distances["frechet_before"] == pytest.approx(6 * 4, rel=0.1)
    assert distances["frechet_after"] < 0.5
    half = measure(cloud, cloud[::-1] + 2, weight=0.5)
    assert half["frechet_after"] == pytest.approx(6, rel=0.1)
    assert half["mmd_before"] == distances["mmd_before"] > half["mmd_after"] > distances["mmd_after"]


def test_clouds_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="same number of each"):
        domain_gap(np.zeros((3, 2, 2)), np.zeros((4, 2, 2)))


def test_more_images_than_there_are_is_an_error_with_both_numbers(root):
    with pytest.raises(ParamsError, match=r"gap\.n_images is 25, but .* has 24 images"):
        run(replace(PARAMS, gap=Gap(n_images=25)), root)


def test_missing_embeddings_are_named(tmp_path):
    with pytest.raises(StoreError, match="r2r embed"):
        run(PARAMS, tmp_path)
