import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from stages.embed.prototypes import SourceEmbeddings
from stages.gap import Gap, _walk, domain_gap, draw, encode, measure, run
from stages.params import Params, ParamsError
from stages.pictures import GAP, LINE, TILE
from stages.store import Shard, StoreError
from stages.transfer.arc2face.knobs import Knobs
from stages.transfer.method import seed_of
from tests.transfer.arc2face.tiny import LENGTH, WIDTH, pipeline, write_embeddings

PARAMS = Params(
    method="arc2face",
    n_ids=5,
    gap=Gap(n_images=20, batch_size=8),
    transfer=Knobs(weights="generator", steps=2, device="cpu"),
)


def prepare(root):
    pipeline().save_pretrained(root / "generator")
    write_embeddings(root)
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = prepare(tmp_path_factory.mktemp("root"))
    run(PARAMS, root)
    return root


def test_the_gap_is_the_difference_of_the_means(root):
    paths = sorted((root / "data/embed/source").glob("*.h5")), [root / "data/embed/target.h5"]
    made, means = pipeline(), []
    for domain, name in zip(paths, ("source", "target"), strict=True):
        vectors = draw(domain, 20, seed_of(0, "gap", name))
        states = [made.encode_identity(torch.from_numpy(vector[None]))[0].double() for vector in vectors]
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
    prepare(tmp_path)
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
        assert sheet.size == (8 * (TILE + GAP), 2 * (LINE + TILE + 2 * GAP))
    with Image.open(root / "plots/gap/tsne.png") as plot:
        assert np.asarray(plot).std() > 0


def test_the_walk_goes_evenly_from_the_prototype_to_an_image(root, monkeypatch):
    asked = []

    def images(params, pipeline, vectors, noises, shift):
        asked.append((vectors, noises))
        return [np.zeros((8, 8, 3), np.uint8)] * len(vectors)

    monkeypatch.setattr("stages.gap._images", images)
    _walk(PARAMS, None, root, np.zeros(1))
    embeddings = SourceEmbeddings(root)
    for identity, (vectors, noises) in zip(sorted(embeddings.shard_of), asked, strict=False):
        mine = embeddings.of(identity)
        prototype = mine.mean(axis=0) / np.linalg.norm(mine.mean(axis=0))
        np.testing.assert_allclose(vectors[[0, -1]], [prototype, mine[0]], atol=1e-6)
        steps = np.arccos(np.einsum("nd,nd->n", vectors[1:], vectors[:-1]).clip(-1, 1))
        np.testing.assert_allclose(steps, np.arccos(prototype @ mine[0]) / 6, atol=1e-3)
        assert len(set(noises)) == 1
    assert len({noises[0] for _, noises in asked}) == len(asked) == 4


def test_the_run_is_the_same_bit_by_bit(root, tmp_path):
    run(PARAMS, prepare(tmp_path))
    for name in (
        "data/gap/delta.h5",
        "metrics/gap.json",
        "plots/gap/tsne.png",
        "plots/gap/sheet.png",
        "plots/gap/walk.png",
    ):
        assert (tmp_path / name).read_bytes() == (root / name).read_bytes(), name


def test_a_method_without_such_a_conditioning_has_no_gap(tmp_path):
    stale = tmp_path / "data/gap/delta.h5"
    stale.parent.mkdir(parents=True)
    stale.touch()
    run(Params(method="none"), tmp_path)
    for folder in ("data/gap", "plots/gap"):
        (only,) = (tmp_path / folder).iterdir()
        assert only.read_text() == "method none has no gap\n"
    assert json.loads((tmp_path / "metrics/gap.json").read_text()) == {"images": 0}


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
    assert (root / "data/gap/delta.h5").exists()  # nothing is touched before the knobs are known to be right


def test_missing_embeddings_are_named(tmp_path):
    with pytest.raises(StoreError, match="r2r embed"):
        run(PARAMS, tmp_path)
