from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from pretrain import codeformer
from pretrain.codeformer import MILD, STAGE, STRONG, RandomFeatures, Training, blur, degrade, samples, train, view
from stages.images import read_faces
from stages.store import encode, entries, write_shard
from stages.training import Loop
from stages.transfer.codeformer import load_codeformer
from stages.transfer.codeformer.networks import VQGAN, CodeFormer

TINY = Training(
    size=32,
    width=8,
    multipliers=(1, 2),
    codes=16,
    code=4,
    width_transformer=8,
    heads=2,
    layers=1,
    connect=(32,),
    discriminator=4,
    batch_size=4,
    crop=16,
    crop_steps=4,
    plain_steps=1,
    whole_steps=1,
    gan_start=3,
    code_steps=2,
    fusion_steps=4,
    revive=2,
    bf16=False,
)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Twelve images of a few spots."""
    root = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    images = [cv2.resize(rng.integers(0, 256, (5, 5, 3), np.uint8), (32, 32)) for _ in range(12)]
    columns = {"identity": np.arange(12) // 2, "sample": np.arange(12, dtype=np.int32) % 2}
    write_shard(root / "0.h5", columns, [encode(image) for image in images])
    return read_faces(root)


def test_what_is_shipped_is_small():
    with torch.device("meta"):
        network = CodeFormer(**Training().codeformer)
    assert 2 * sum(weight.numel() for weight in network.parameters()) < 10e6


def test_a_view_is_the_face_smaller_elsewhere_or_mirrored():
    y, x = np.mgrid[:40, :40]
    spot = np.exp(-((x - 30) ** 2 + (y - 20) ** 2) / 18)[..., None].repeat(3, 2)
    image = (255 * spot).astype(np.uint8)
    sizes, columns = [], []
    for seed in range(60):
        shown = view(image, 32, 0.6, np.random.default_rng(seed)).astype(float)
        assert shown.shape == (32, 32, 3)
        row, column, _ = np.unravel_index(shown.argmax(), shown.shape)
        assert shown[row, column].min() > 120
        near = shown[max(row - 4, 0) : row + 5, max(column - 4, 0) : column + 5, 0]  # without its reflection
        sizes.append((near > shown.max() / 2).sum())
        columns.append(column)
    whole = (cv2.resize(image, (32, 32))[..., 0] > 127).sum()
    assert max(sizes) <= 1.3 * whole
    assert min(sizes) < 0.7 * whole
    assert sum(abs(size - whole) < 0.12 * whole for size in sizes) >= 20  # half are as they come
    assert min(columns) < 12 < 20 < max(columns)


def test_the_blur_is_a_turned_gaussian():
    kernel = blur(3.0, 1.0, np.pi / 6)
    assert kernel.sum() == pytest.approx(1)
    offsets = np.stack(np.mgrid[-9:10, -9:10][::-1]).reshape(2, -1)
    covariance = (kernel.ravel() * offsets) @ offsets.T
    axis = np.array([np.cos(np.pi / 6), np.sin(np.pi / 6)])
    assert axis @ covariance @ axis == pytest.approx(9, rel=0.05)
    assert np.trace(covariance) == pytest.approx(10, rel=0.05)


def test_strong_degradation_takes_more_than_mild_and_the_seed_decides(faces):
    sharp = np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8).repeat(4, 0).repeat(4, 1)

    def detail(image):
        return np.abs(np.diff(image.astype(int), axis=1)).mean()

    seeds = range(12)
    strong, mild = (
        np.mean([detail(degrade(sharp, kind, np.random.default_rng(seed))) for seed in seeds])
        for kind in (STRONG, MILD)
    )
    assert strong < 0.8 * mild < 0.8 * detail(sharp)
    one, again, other = (degrade(sharp, STRONG, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert one.shape == sharp.shape
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
    flat = np.full((32, 32, 3), (200, 100, 50), np.uint8)
    out = degrade(flat, STRONG | {"noise": (0, 0)}, np.random.default_rng(0))
    assert np.abs(out.astype(int) - flat).max() <= 4  # a colour stays itself


def test_the_perceptual_distance_is_none_of_equal_images_and_learns_nothing():
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    distance = RandomFeatures()
    assert float(distance(x, x)) == 0
    assert not list(distance.parameters())
    y = x.clone().requires_grad_()
    distance(y, x.roll(1, 3)).backward()
    assert y.grad.abs().sum() > 0


def test_dead_codes_are_moved_to_latents(faces):
    torch.manual_seed(0)
    network = VQGAN(**TINY.vqgan)
    book = network.quantize.embedding.weight
    with torch.no_grad():
        book.fill_(1e3)
        book[3] = 0  # the nearest of all
    before = book[3].clone()
    codeformer.set_codes(network, faces, TINY, 2, False)
    assert torch.equal(book[3], before)
    assert book.abs().max() < 100
    codeformer.set_codes(network, faces, TINY, 2, True)
    latents = network.encoder(codeformer.to_tensor([faces.image(row) for row in range(12)]))
    assert len(network.quantize.nearest(latents).unique()) > 8


def test_training_writes_what_loads_and_lowers_the_losses(faces, tmp_path, monkeypatch):
    curves, means = {}, Loop.means
    monkeypatch.setattr(Loop, "means", lambda self: curves.update({self.title: self.curve}) or means(self))
    longer = replace(TINY, crop_steps=40, plain_steps=10, gan_start=36, code_steps=25, lr=1e-2)
    network = train(faces, longer, tmp_path)
    for name, loss, share in (("vqgan", "reconstruction", 0.85), ("codes", "codes", 0.98)):
        assert curves[name][loss][-5:].mean() < share * curves[name][loss][:3].mean(), name
    loaded = load_codeformer(tmp_path / "codeformer.pth")
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, network.state_dict()[name].half().float()), name
    page = samples(network, faces, 3)
    assert page.std() > 10


def test_only_what_the_official_stages_change_changes(faces, tmp_path):
    network = train(faces, TINY, tmp_path)
    states = {path.path.stem: torch.load(path.path, weights_only=True)["params_ema"] for path in entries(STAGE)}
    moved = {
        later: {
            name.split(".")[0]
            for name, value in states[later].items()
            if name in states[before] and not torch.equal(value, states[before][name])
        }
        for before, later in (("vqgan", "codes"), ("codes", "fusion"))
    }
    reader = {"encoder", "position_emb", "feat_emb", "ft_layers", "idx_pred_layer"}
    assert moved == {"codes": {"encoder"}, "fusion": reader | {"fuse_convs_dict"}}
    assert network.fuse_convs_dict


def test_a_resumed_training_gives_the_same_bits_and_other_steps_keep_the_autoencoder(faces, tmp_path, monkeypatch):
    train(faces, TINY, tmp_path / "whole")
    train(faces, replace(TINY, fusion_steps=2), tmp_path / "short")
    assert sorted(entry.path.stem for entry in entries(STAGE)) == ["codes", "fusion", "fusion", "vqgan"]
    monkeypatch.setenv("R2R_CACHE", str(tmp_path / "another"))
    steps, cosine = [], codeformer.cosine

    def killed(step, *arguments):
        steps.append(step)
        if len(steps) in (4, 12):  # before the codes are set, and in the fusion
            raise KeyboardInterrupt
        return cosine(step, *arguments)

    starts, build = [], Loop.__init__
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "__init__", lambda self, *a, **k: (build(self, *a, **k), starts.append(self.start))[0])
        patch.setattr(codeformer, "cosine", killed)
        patch.setattr("stages.training.loop.time.monotonic", lambda: 1e6 * len(steps))  # a checkpoint every step
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                train(faces, TINY, tmp_path / "resumed")
        train(faces, TINY, tmp_path / "resumed")
    assert any(start > 0 for start in starts)
    whole, resumed = (load_codeformer(tmp_path / name / "codeformer.pth").state_dict() for name in ("whole", "resumed"))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
