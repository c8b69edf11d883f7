from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stages import params
from stages.params import Arc2Face, Gap, Params
from stages.store import Shard, StoreError, write_shard
from stages.transfer import seed_of
from stages.transfer.arc2face import PRECISIONS, load_pipeline, weights_digest
from stages.transfer.arc2face.method import Arc2FaceTransfer, SourceEmbeddings
from tests.transfer.arc2face.tiny import LENGTH, WIDTH, pipeline, write_embeddings, write_official

PARAMS = Params(
    method="arc2face",
    n_ids=5,
    images_per_id=7,
    gap=Gap(weight=0.0),
    arc2face=Arc2Face(weights="generator", steps=3, latents_per_id=3, images_per_latent=3, batch_size=3, device="cpu"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    pipeline().save_pretrained(root / "generator")
    write_embeddings(root)
    write_shard(root / "data/gap/delta.h5", {"delta": np.ones((LENGTH, WIDTH), np.float32)}, fingerprint="gap")
    return root


def test_an_identitys_embeddings_come_in_the_order_of_its_images(root, tmp_path):
    with Shard(root / "data/embed/source/subjects_0.h5") as shard:
        columns = {name: shard[name] for name in shard.names}
    mixed = np.random.default_rng(0).permutation(len(columns["sample"]))
    write_shard(tmp_path / "a.h5", {name: column[mixed] for name, column in columns.items()}, fingerprint="a")
    for identity in (100, 101, 102):
        expected = columns["embedding"][columns["identity"] == identity]
        np.testing.assert_array_equal(SourceEmbeddings(tmp_path).of(identity), expected)


def test_portraits_are_made_from_their_seed_and_vector(root):
    transfer = Arc2FaceTransfer(PARAMS, root)
    portraits, latents = transfer.portraits(101), transfer.latents(101)
    assert portraits.images.shape == (7, 8, 8, 3)
    for number in range(7):
        row = number % 3
        assert portraits.seed[number] == seed_of(0, "noise", 101, number)
        assert portraits.t[number] == np.float32(latents.t[row])
        generator = torch.Generator().manual_seed(int(portraits.seed[number]))
        image = transfer.pipeline(torch.from_numpy(latents.vectors[row : row + 1]), [generator], steps=3)[0]
        assert np.abs(image.int().numpy() - portraits.images[number]).max() <= 1


def test_grouped_order_fills_one_latent_after_the_other(root):
    knobs = replace(PARAMS, arc2face=replace(PARAMS.arc2face, order="grouped"))
    transfer = Arc2FaceTransfer(knobs, root)
    np.testing.assert_array_equal(
        transfer.portraits(101).t, transfer.latents(101).t[[0, 0, 0, 1, 1, 1, 2]].astype("f4")
    )


def test_the_weighted_gap_shifts_the_branch_that_is_named(root):
    weighted = Arc2FaceTransfer(replace(PARAMS, gap=Gap(weight=0.5)), root)
    assert torch.equal(weighted.shift, torch.full((LENGTH, WIDTH), 0.5))
    assert weighted.unconditional_shift is None
    both = Arc2FaceTransfer(replace(PARAMS, gap=Gap(weight=0.5, branch="both")), root)
    assert torch.equal(both.unconditional_shift, both.shift)
    plain = Arc2FaceTransfer(PARAMS, root)
    assert plain.shift is None
    assert not np.array_equal(plain.portraits(101).images, weighted.portraits(101).images)


def test_every_precision_that_can_be_asked_for_is_one_of_torch():
    assert set(PRECISIONS) == set(params.PRECISIONS)


@pytest.mark.parametrize("order", ["interleaved", "grouped"])
def test_who_is_asked_for_is_the_same_walk_between_other_embeddings(root, order):
    """With the first encoder's own embeddings it is the vectors; turned by a rotation, it turns with them."""
    transfer = Arc2FaceTransfer(replace(PARAMS, arc2face=replace(PARAMS.arc2face, order=order)), root)
    own = transfer.embeddings.of(101)
    rows = [0, 1, 2, 0, 1, 2, 0] if order == "interleaved" else [0, 0, 0, 1, 1, 1, 2]
    asked = transfer.asked(101, own)
    np.testing.assert_array_equal(asked, transfer.latents(101).vectors[rows])
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(20, own.shape[1])))[0]  # into 20 dimensions
    np.testing.assert_allclose(transfer.asked(101, own @ rotation.T), asked @ rotation.T, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"alpha": 1.0},
        {"images_per_id": 6},
        {"gap": Gap(weight=1.0)},
        {"arc2face": replace(PARAMS.arc2face, steps=4)},
    ],
)
def test_the_origin_knows_every_knob(root, change):
    assert Arc2FaceTransfer(replace(PARAMS, **change), root).origin(101) != Arc2FaceTransfer(PARAMS, root).origin(101)


def test_the_origin_knows_the_weights(tmp_path):
    pipeline().save_pretrained(tmp_path / "generator")
    before = weights_digest(PARAMS.arc2face, tmp_path)
    pipeline(seed=1).vae.save_pretrained(tmp_path / "generator/vae")
    assert weights_digest(PARAMS.arc2face, tmp_path) != before


def test_official_folders_by_parameter(tmp_path, root):
    write_official(pipeline(), tmp_path, "safetensors")
    official = replace(PARAMS.arc2face, weights="official", base="sd15")
    loaded, own = load_pipeline(official, tmp_path), load_pipeline(PARAMS.arc2face, root)
    for name, weight in own.unet.state_dict().items():
        assert torch.equal(weight, loaded.unet.state_dict()[name])
    assert len(weights_digest(official, tmp_path)) == 64
    (tmp_path / "sd15/scheduler").rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="scheduler: not found"):
        weights_digest(official, tmp_path)


def test_lora_is_fused_into_the_unet(root):
    """In LCM-LoRA's layout (kohya) and with its scheduler; with a rank of 1 the fused weight has a closed form."""
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    before = load_pipeline(PARAMS.arc2face, root).unet.get_submodule(name).weight
    down, up, key = (
        torch.randn(1, before.shape[1]),
        torch.randn(before.shape[0], 1),
        "lora_unet_" + name.replace(".", "_"),
    )
    save_file(
        {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(0.5)},
        root / "lora.safetensors",
    )
    knobs = replace(PARAMS.arc2face, lora="lora.safetensors", scheduler="LCMScheduler", guidance=1.0)
    pipeline = load_pipeline(knobs, root)
    torch.testing.assert_close(pipeline.unet.get_submodule(name).weight, before + 0.5 * up @ down)
    assert np.ptp(Arc2FaceTransfer(replace(PARAMS, arc2face=knobs), root).portraits(101).images) > 0
    assert weights_digest(knobs, root) != weights_digest(PARAMS.arc2face, root)


def test_memory_layout_and_compiler_change_no_image(root, monkeypatch):
    """The compiler itself takes minutes: that it is asked for is what is tested."""
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(type(module).__name__))
    plain = Arc2FaceTransfer(PARAMS, root).portraits(101).images
    knobs = replace(PARAMS, arc2face=replace(PARAMS.arc2face, channels_last=True, compile=True))
    assert np.abs(Arc2FaceTransfer(knobs, root).portraits(101).images.astype(int) - plain).max() <= 1
    assert compiled == ["UNet2DConditionModel", "Decoder"]


def test_what_is_missing_is_named(root, tmp_path):
    with pytest.raises(StoreError, match="identity 7 has no embeddings"):
        Arc2FaceTransfer(PARAMS, root).portraits(7)
    with pytest.raises(StoreError, match="r2r embed"):
        Arc2FaceTransfer(PARAMS, tmp_path)
    with pytest.raises(StoreError, match="unet: not found"):
        weights_digest(PARAMS.arc2face, _index_only(tmp_path))
    with pytest.raises(StoreError, match="nowhere: no generator can be loaded"):
        load_pipeline(replace(PARAMS.arc2face, weights="nowhere"), tmp_path)


def test_an_identity_in_two_shards_is_refused(root, tmp_path):
    content = (root / "data/embed/source/subjects_0.h5").read_bytes()
    for name in "ab":
        (tmp_path / f"{name}.h5").write_bytes(content)
    with pytest.raises(StoreError, match=r"identity 100 is in a\.h5 and in b\.h5"):
        SourceEmbeddings(tmp_path)


def _index_only(folder):
    (folder / "generator").mkdir()
    (folder / "generator/model_index.json").write_text("{}")
    return folder
