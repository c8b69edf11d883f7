import shutil
from dataclasses import fields, replace
from typing import get_args

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stages.filter import Filter
from stages.gap import Gap
from stages.knobs import ParamsError, Precision
from stages.params import Params
from stages.store import StoreError, write_shard
from stages.transfer.arc2face.knobs import Knobs
from stages.transfer.arc2face.loading import PRECISIONS, load_pipeline, weights_digest
from stages.transfer.arc2face.method import Method
from stages.transfer.method import seed_of
from tests.transfer.arc2face.tiny import LENGTH, WIDTH, pipeline, write_embeddings, write_official

PARAMS = Params(
    method="arc2face",
    n_ids=5,
    images_per_id=7,
    gap=Gap(weight=0.0),
    transfer=Knobs(weights="generator", steps=3, latents_per_id=3, images_per_latent=3, batch_size=3, device="cpu"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    pipeline().save_pretrained(root / "generator")
    write_embeddings(root)
    write_shard(root / "data/gap/delta.h5", {"delta": np.ones((LENGTH, WIDTH), np.float32)})
    return root


def test_portraits_are_made_from_their_seed_and_vector(root):
    transfer = Method(PARAMS, root)
    portraits, latents = transfer.portraits(101), transfer.latents(101)
    assert np.shape(portraits.images) == (7, 8, 8, 3)
    for number in range(7):
        row = number % 3
        assert portraits.seed[number] == seed_of(0, "noise", 101, number)
        assert portraits.t[number] == np.float32(latents.t[row])
        generator = torch.Generator().manual_seed(int(portraits.seed[number]))
        image = transfer.pipeline(torch.from_numpy(latents.vectors[row : row + 1]), [generator], steps=3)[0]
        assert np.abs(image.int().numpy() - portraits.images[number]).max() <= 1


def test_grouped_order_fills_one_latent_after_the_other(root):
    knobs = replace(PARAMS, transfer=replace(PARAMS.transfer, order="grouped"))
    transfer = Method(knobs, root)
    np.testing.assert_array_equal(
        transfer.portraits(101).t, transfer.latents(101).t[[0, 0, 0, 1, 1, 1, 2]].astype("f4")
    )


def test_the_weighted_gap_shifts_the_branch_that_is_named(root):
    weighted = Method(replace(PARAMS, gap=Gap(weight=0.5)), root)
    assert torch.equal(weighted.shift, torch.full((LENGTH, WIDTH), 0.5))
    assert weighted.unconditional_shift is None
    both = Method(replace(PARAMS, gap=Gap(weight=0.5, branch="both")), root)
    assert torch.equal(both.unconditional_shift, both.shift)
    plain = Method(PARAMS, root)
    assert plain.shift is None
    assert not np.array_equal(np.stack(plain.portraits(101).images), np.stack(weighted.portraits(101).images))


def test_every_precision_that_can_be_asked_for_is_one_of_torch():
    assert set(PRECISIONS) == set(get_args(Precision))


@pytest.mark.parametrize("order", ["interleaved", "grouped"])
def test_who_is_asked_for_is_the_same_walk_between_other_embeddings(root, order):
    """With the first encoder's own embeddings it is the vectors; turned by a rotation, it turns with them."""
    transfer = Method(replace(PARAMS, transfer=replace(PARAMS.transfer, order=order)), root)
    own = transfer.embeddings.of(101)
    rows = [0, 1, 2, 0, 1, 2, 0] if order == "interleaved" else [0, 0, 0, 1, 1, 1, 2]
    asked = transfer.asked(101, own)
    np.testing.assert_array_equal(asked, transfer.latents(101).vectors[rows])
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(20, own.shape[1])))[0]  # into 20 dimensions
    np.testing.assert_allclose(transfer.asked(101, own @ rotation.T), asked @ rotation.T, atol=1e-6)


def mixing(*ratios):
    return replace(PARAMS, transfer=replace(PARAMS.transfer, identity_mixup=ratios))


def test_identity_mixup_walks_from_the_partners_vector_to_the_own_one(root):
    """Between two unit vectors at an angle a, sin((1 - r) a) / sin a of one and sin(r a) / sin a of the other."""
    transfer, plain = Method(mixing(0.0, 0.3, 0.8, 1.0), root), Method(PARAMS, root)
    mixed, vectors = transfer.mixtures(101), transfer.vectors(101)
    assert set(mixed.partner) <= {102, 103, 104, 105}
    assert len(set(mixed.ratio)) > 1
    for number, (partner, ratio) in enumerate(zip(mixed.partner.tolist(), mixed.ratio.tolist(), strict=True)):
        own, other = (plain.latents(one).vectors[number % 3].astype(np.float64) for one in (101, partner))
        angle = np.arccos(own @ other)
        expected = (np.sin((1 - ratio) * angle) * other + np.sin(ratio * angle) * own) / np.sin(angle)
        np.testing.assert_allclose(vectors[number], expected, atol=1e-5)
    asked = transfer.asked(101, transfer.embeddings.of(101))
    assert (np.isnan(asked).all(axis=1) == (mixed.ratio < 1)).all()


def test_mixed_portraits_say_who_is_in_them_and_unmixed_ones_are_as_before(root):
    transfer, plain = Method(mixing(0.4), root).portraits(101), Method(PARAMS, root).portraits(101)
    assert transfer.mixtures.ratio.tolist() == [0.4] * 7
    assert not np.array_equal(np.stack(transfer.images), np.stack(plain.images))
    assert plain.mixtures is None
    pure = Method(mixing(1.0), root).portraits(101)
    assert np.abs(np.stack(pure.images).astype(int) - np.stack(plain.images)).max() <= 1
    np.testing.assert_array_equal(pure.seed, plain.seed)


def test_the_origin_of_mixed_images_knows_the_partners(root, tmp_path):
    """Their embeddings, and who is chosen."""
    before = Method(mixing(0.5), root).origin(101)
    shutil.copytree(root / "data", tmp_path / "data")
    shutil.copytree(root / "generator", tmp_path / "generator")
    assert Method(mixing(0.5), tmp_path).origin(101) == before
    write_shard(tmp_path / "data/filter.h5", {"identity": np.array([101, 102]), "chosen": np.ones(2, bool)})
    assert Method(mixing(0.5), tmp_path).origin(101) != before
    assert Method(PARAMS, tmp_path).origin(101) == Method(PARAMS, root).origin(101)


OTHER = {  # a value that each knob does not have in PARAMS
    "scheduler": "DDIMScheduler",
    "steps": 4,
    "guidance": 2.0,
    "size": 16,
    "latents_per_id": 4,
    "images_per_latent": 4,
    "order": "grouped",
    "sources": "first",
    "prototype": "selected",
    "identity_mixup": (0.5,),
    "sampling": "angular",
    "lowest_cosine": 0.3,
    "negative": "nearest",
    "batch_size": 2,
    "decode_slice": 2,
    "precision": "bf16",
    "channels_last": True,
    "compile": True,
    "device": "cuda",
    "threads": 2,
}


def test_the_origin_knows_every_knob(root, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # nothing is loaded
    assert OTHER.keys() == {field.name for field in fields(Knobs)} - {"weights", "base", "lora"}
    changes = [{"transfer": replace(PARAMS.transfer, **{name: value})} for name, value in OTHER.items()]
    changes += [{"seed": 1}, {"alpha": 1.0}, {"images_per_id": 6}, {"gap": Gap(weight=1.0)}]
    changes.append({"gap": Gap(weight=1.0, branch="both")})
    origins = [Method(replace(PARAMS, **change), root).origin(101) for change in [{}, *changes]]
    assert len({str(origin) for origin in origins}) == len(changes) + 1


def test_the_origin_knows_nothing_else(root, tmp_path, code, monkeypatch):
    """Neither where the weights lie, nor the word `auto`, nor remarks, other identities or other stages' knobs."""
    before = Method(PARAMS, root).origin(101)
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    (tmp_path / "generator").rename(tmp_path / "elsewhere")
    (tmp_path / "data/embed/source/subjects_1.h5").unlink()  # of 103 and on
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    knobs = replace(PARAMS.transfer, weights="elsewhere", device="auto")
    moved = replace(PARAMS, transfer=knobs, n_ids=3, filter=Filter(score="mean"), gap=Gap(weight=0.0, n_images=9))
    for name in ("loading", "method", "pipeline", "sampling"):
        code.add(f"transfer/arc2face/{name}", "# a remark\n")
    code.add("transfer/none/knobs", "X = 1\n")
    assert Method(moved, tmp_path).origin(101) == before
    assert Method(PARAMS, root).origin(102) != before
    code.add("transfer/arc2face/sampling", "X = 1\n")
    assert Method(moved, tmp_path).origin(101) != before


def with_knobs(**knobs) -> Params:
    return replace(PARAMS, transfer=replace(PARAMS.transfer, **knobs))


def test_angular_vectors_stay_around_the_prototype_and_the_judge_expects_it(root):
    method = Method(with_knobs(sampling="angular", lowest_cosine=0.0), root)
    own = method.embeddings.of(101)
    prototype = own.mean(axis=0) / np.linalg.norm(own.mean(axis=0))
    vectors = method.vectors(101)
    assert len(np.unique(vectors, axis=0)) == 3
    assert (vectors @ prototype > np.cos(method.neighbours.angle(101) / 2) - 1e-6).all()
    np.testing.assert_allclose(method.asked(101, own), np.tile(prototype, (7, 1)), atol=1e-6)
    assert np.isnan(method.portraits(101).t).all()


def test_a_negative_identity_stands_in_the_unconditional_branch(root):
    method = Method(with_knobs(negative="farthest"), root)
    latents, portraits = method.latents(101), method.portraits(101)
    negative = torch.from_numpy(method.neighbours.other(101, "farthest", 0))[None]
    pipeline = method.pipeline
    pipeline._unconditional.clear()
    unconditional = pipeline.encode_identity(negative)
    pipeline.encode_unconditional = lambda: unconditional
    try:
        generator = torch.Generator().manual_seed(int(portraits.seed[0]))
        image = pipeline(torch.from_numpy(latents.vectors[:1]), [generator], steps=3)[0]
    finally:
        del pipeline.encode_unconditional
    assert np.abs(image.int().numpy() - portraits.images[0]).max() <= 1
    plain = Method(PARAMS, root).portraits(101)
    assert not np.array_equal(plain.images, portraits.images)
    with pytest.raises(ValueError, match=r"negative has the shape \[2, 12\]: \[1, 12\]"):
        pipeline(torch.from_numpy(latents.vectors[:1]), [generator], negative=negative.expand(2, -1))


def test_off_they_change_no_image_and_nobody_is_read(root, monkeypatch):
    monkeypatch.setattr("stages.transfer.arc2face.method.Neighbours", None)
    pair = [replace(params, images_per_id=2) for params in (PARAMS, with_knobs(lowest_cosine=0.1))]
    images = [Method(params, root).portraits(101).images for params in pair]
    np.testing.assert_array_equal(*images)


def test_a_negative_needs_guidance():
    with pytest.raises(ParamsError, match=r"transfer\.negative is nearest, but at transfer\.guidance = 1"):
        with_knobs(negative="nearest", guidance=1.0)


@pytest.mark.parametrize("knobs", [{"sampling": "angular"}, {"negative": "nearest"}])
def test_the_origin_knows_the_neighbours_it_looks_at(root, tmp_path, knobs):
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    (tmp_path / "data/embed/source/subjects_1.h5").unlink()
    methods = [Method(with_knobs(**knobs), folder) for folder in (root, tmp_path)]
    angles = [[method.neighbours.angle(one) for one in (100, 101, 102)] for method in methods]
    lost = 100 + int(np.argmax(np.subtract(*angles[::-1])))  # whose nearest was in the other shard
    assert methods[0].origin(lost) != methods[1].origin(lost)


def test_the_origin_knows_the_weights(tmp_path):
    pipeline().save_pretrained(tmp_path / "generator")
    before = weights_digest(PARAMS.transfer, tmp_path)
    pipeline(seed=1).vae.save_pretrained(tmp_path / "generator/vae")
    assert weights_digest(PARAMS.transfer, tmp_path) != before


def test_official_folders_by_parameter(tmp_path, root):
    write_official(pipeline(), tmp_path, "safetensors")
    official = replace(PARAMS.transfer, weights="official", base="sd15")
    loaded, own = load_pipeline(official, tmp_path), load_pipeline(PARAMS.transfer, root)
    for name, weight in own.unet.state_dict().items():
        assert torch.equal(weight, loaded.unet.state_dict()[name])
    assert len(weights_digest(official, tmp_path)) == 64
    (tmp_path / "sd15/scheduler").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="scheduler: not found"):
        weights_digest(official, tmp_path)


def test_lora_is_fused_into_the_unet(root):
    """In LCM-LoRA's layout (kohya) and with its scheduler; with a rank of 1 the fused weight has a closed form."""
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    before = load_pipeline(PARAMS.transfer, root).unet.get_submodule(name).weight
    down, up, key = (
        torch.randn(1, before.shape[1]),
        torch.randn(before.shape[0], 1),
        "lora_unet_" + name.replace(".", "_"),
    )
    save_file(
        {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(0.5)},
        root / "lora.safetensors",
    )
    knobs = replace(PARAMS.transfer, lora="lora.safetensors", scheduler="LCMScheduler", guidance=1.0)
    pipeline = load_pipeline(knobs, root)
    torch.testing.assert_close(pipeline.unet.get_submodule(name).weight, before + 0.5 * up @ down)
    assert np.ptp(Method(replace(PARAMS, transfer=knobs), root).portraits(101).images) > 0
    assert weights_digest(knobs, root) != weights_digest(PARAMS.transfer, root)


def test_memory_layout_and_compiler_change_no_image(root, monkeypatch):
    """The compiler itself takes minutes: that it is asked for is what is tested."""
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(type(module).__name__))
    plain = Method(PARAMS, root).portraits(101).images
    knobs = replace(PARAMS, transfer=replace(PARAMS.transfer, channels_last=True, compile=True))
    assert np.abs(np.stack(Method(knobs, root).portraits(101).images).astype(int) - plain).max() <= 1
    assert compiled == ["UNet2DConditionModel", "Decoder"]


def test_what_is_missing_is_named(root, tmp_path):
    with pytest.raises(StoreError, match="identity 7 has no embeddings"):
        Method(PARAMS, root).portraits(7)
    with pytest.raises(StoreError, match="r2r embed"):
        Method(PARAMS, tmp_path)
    with pytest.raises(StoreError, match="unet: not found"):
        weights_digest(PARAMS.transfer, _index_only(tmp_path))
    with pytest.raises(StoreError, match="nowhere: no generator can be loaded"):
        load_pipeline(replace(PARAMS.transfer, weights="nowhere"), tmp_path)


def _index_only(folder):
    (folder / "generator").mkdir()
    (folder / "generator/model_index.json").write_text("{}")
    return folder
