import io
import os
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from scipy import signal

from stages.store import StoreError
from stages.transfer.stylegan.encoders import E4EEncoder, PSPEncoder
from stages.transfer.stylegan.files import Inverter, from_sg2ada, load_generator, load_inverter
from tests.transfer.official import listing
from tests.transfer.stylegan.tiny import encoder, generator

BINOMIAL = torch.tensor(np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64, dtype=torch.float32)


def sg2ada(seed=0, widths=(8, 8, 4), d=8, layers=2):
    """A random generator of 16 px in NVIDIA's layout, as its networks initialise it."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=draw)

    state = {"synthesis.b4.const": normal(widths[0], 4, 4)}
    for level, width in enumerate(widths):
        side, channels = 4 * 2**level, widths[max(level - 1, 0)]
        prefix = f"synthesis.b{side}"
        state[f"{prefix}.resample_filter"] = BINOMIAL
        for layer in ("conv0", "conv1") if level else ("conv1",):
            before = channels if layer == "conv0" else width
            state |= {
                f"{prefix}.{layer}.weight": normal(width, before, 3, 3),
                f"{prefix}.{layer}.noise_strength": normal(),
                f"{prefix}.{layer}.bias": normal(width) / 5,
                f"{prefix}.{layer}.resample_filter": BINOMIAL,
                f"{prefix}.{layer}.noise_const": normal(side, side),
                f"{prefix}.{layer}.affine.weight": normal(before, d),
                f"{prefix}.{layer}.affine.bias": normal(before) + 1,
            }
        state |= {
            f"{prefix}.torgb.weight": normal(3, width, 1, 1),
            f"{prefix}.torgb.bias": normal(3),
            f"{prefix}.torgb.affine.weight": normal(width, d),
            f"{prefix}.torgb.affine.bias": normal(width) + 1,
        }
    state["mapping.w_avg"] = normal(d)
    for layer in range(layers):
        state[f"mapping.fc{layer}.weight"] = normal(d, d) / 0.01
        state[f"mapping.fc{layer}.bias"] = normal(d) / 0.01
    return state


def nvidia(state, styles, clamp=None):
    """NVIDIA's `networks.py` for one image, written out with scipy in float64, from its own layout."""
    state = {name: value.double().numpy() for name, value in state.items()}

    def affine(prefix, s):
        return state[f"{prefix}.affine.weight"] @ s / np.sqrt(len(s)) + state[f"{prefix}.affine.bias"]

    def limited(x):
        return x if clamp is None else x.clip(-clamp, clamp)

    def layer(prefix, x, s, up):
        weight = state[f"{prefix}.weight"] * affine(prefix, s)[None, :, None, None]
        weight = weight / np.sqrt((weight**2).sum((1, 2, 3), keepdims=True) + 1e-8)
        rows = []
        for row in weight:
            total = 0
            for channel, kernel in zip(x, row, strict=True):
                if up:  # a transposed convolution, then the filter with gain 4
                    wide = np.zeros((2 * len(channel) - 1,) * 2)
                    wide[::2, ::2] = channel
                    total = total + signal.convolve2d(wide, kernel)
                else:
                    total = total + signal.correlate2d(channel, kernel, "same")
            rows.append(signal.convolve2d(np.pad(total, 1), 4 * BINOMIAL.numpy(), "valid") if up else total)
        y = np.array(rows) + state[f"{prefix}.noise_const"] * state[f"{prefix}.noise_strength"]
        y = y + state[f"{prefix}.bias"][:, None, None]
        return limited(np.where(y > 0, y, 0.2 * y) * np.sqrt(2))

    def rgb(prefix, x, s):
        s = affine(prefix, s) / np.sqrt(len(x))
        y = np.einsum("oi,i,ihw->ohw", state[f"{prefix}.weight"][:, :, 0, 0], s, x)
        return limited(y + state[f"{prefix}.bias"][:, None, None])

    x, image, w = state["synthesis.b4.const"], None, list(styles)
    for side in (4, 8, 16):
        prefix = f"synthesis.b{side}"
        if side > 4:
            x = layer(f"{prefix}.conv0", x, w.pop(0), True)
            wide = np.zeros((3, side + 2, side + 2))
            wide[:, 2::2, 2::2][:, : side // 2, : side // 2] = image
            wide = np.pad(wide, ((0, 0), (0, 1), (0, 1)))
            image = np.array([signal.convolve2d(c, 4 * BINOMIAL.numpy(), "valid") for c in wide])
        x = layer(f"{prefix}.conv1", x, w.pop(0), False)
        painted = rgb(f"{prefix}.torgb", x, w[0])
        image = painted if image is None else image + painted
    return image


def test_all_official_names_have_a_counterpart(tmp_path):
    state = {name: torch.zeros((), dtype=dtype).expand(shape) for name, (shape, dtype) in listing("sg2ada_256").items()}
    mapped = from_sg2ada(state, tmp_path / "ffhq.pkl")
    assert {name: (tuple(value.shape), value.dtype) for name, value in mapped.items()} == listing("rosinality_256")


class Module:
    """A network as NVIDIA's `persistence` pickles one: rebuilt from one argument, which holds source code to run."""

    source = "import sys; sys.modules['torch_utils.persistence'].ran.append('source')"

    def __init__(self, state, **attributes):
        self.state = {"training": False, "_parameters": {}, "_buffers": {}, "_modules": {}, **attributes}
        for name, value in state.items():
            part, _, rest = name.partition(".")
            if rest:
                self.state["_modules"].setdefault(part, {})[rest] = value
            elif any(word in name for word in ("noise_const", "resample_filter", "w_avg")):
                self.state["_buffers"][name] = value
            else:
                self.state["_parameters"][name] = torch.nn.Parameter(value)
        self.state["_modules"] = {
            name: Module(inner, conv_clamp=attributes.get("conv_clamp"))
            for name, inner in self.state["_modules"].items()
        }

    def __reduce__(self):
        meta = {"type": "class", "version": 6, "module_src": self.source, "class_name": "Module", "state": self.state}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (meta,)


class Payload:
    def __reduce__(self):
        return sys.modules["torch_utils.persistence"].run, ("payload",)


class Command:
    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def nvidias_module(monkeypatch):
    """`torch_utils.persistence` as a module that notes whatever of it runs."""
    module = types.ModuleType("torch_utils.persistence")
    module.ran = []
    for name in ("_reconstruct_persistent_obj", "run"):
        function = lambda *arguments: module.ran.append(arguments)  # noqa: E731
        function.__module__, function.__qualname__, function.__name__ = module.__name__, name, name
        setattr(module, name, function)
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", module)
    return module


def write_pickle(path, state, clamp=None, **more):
    content = {"G": None, "D": None, "G_ema": Module(state, conv_clamp=clamp, init_args=np.float64(3)), **more}
    path.write_bytes(pickle.dumps(content, protocol=4))
    return path


@pytest.mark.parametrize("clamp", [None, 2.0])
def test_nvidias_generator_paints_what_nvidias_code_says(tmp_path, nvidias_module, clamp):
    state = sg2ada()
    model = load_generator(write_pickle(tmp_path / "ffhq.pkl", state, clamp))
    torch.testing.assert_close(model.mean, state["mapping.w_avg"])
    network, styles = model.generator.double(), torch.randn(2, 6, 8, dtype=torch.float64)
    assert network.clamp == clamp
    with torch.no_grad():
        images = network.synthesis(styles)
        z = torch.randn(3, 8, dtype=torch.float64)
        w = network.mapping(z)
    for image, s in zip(images, styles.numpy(), strict=True):
        np.testing.assert_allclose(image, nvidia(state, s, clamp), atol=1e-6)  # 1e-8 stands beside the scaled sum
    x = z / (z.square().mean(1, keepdim=True) + 1e-8).sqrt()
    for number in range(2):
        weight, bias = (state[f"mapping.fc{number}.{kind}"].double() for kind in ("weight", "bias"))
        x = x @ weight.T * 0.01 / 8**0.5 + bias * 0.01
        x = 2**0.5 * torch.where(x > 0, x, 0.2 * x)
    torch.testing.assert_close(w, x)


def test_a_pickle_runs_nothing(tmp_path, nvidias_module):
    command = Command()
    command.path = str(tmp_path / "made")
    path = write_pickle(tmp_path / "a.pkl", sg2ada(), augment_pipe=Payload(), more=[command, {"x": Payload()}])
    assert load_generator(path).generator.size == 16
    assert nvidias_module.ran == []
    assert not (tmp_path / "made").exists()
    pickle.loads(path.read_bytes())  # what an ordinary reader would have done
    assert nvidias_module.ran
    assert (tmp_path / "made").exists()


def test_code_inside_of_a_tensors_bytes_does_not_run(tmp_path, nvidias_module):
    """A storage is pickled as a torch file of its own, which is read as safely."""
    inner = io.BytesIO()
    torch.save(Payload(), inner)

    class Storage:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (inner.getvalue(),)

    Storage.__qualname__ = "Storage"
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"G_ema": Storage()}))
    with pytest.raises(StoreError, match=r"a\.pkl: not a readable pickle"):
        load_generator(tmp_path / "a.pkl")
    assert nvidias_module.ran == []


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"no pickle", pickle.dumps([1]), pickle.dumps({"D": 1})])
def test_broken_pickles(tmp_path, content):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(StoreError, match=r"a\.pkl: "):
        load_generator(tmp_path / "a.pkl")


@pytest.mark.parametrize("load", [load_generator, load_inverter])
@pytest.mark.parametrize("name", ["b.pt", "b.pkl"])
def test_who_lacks_the_file_learns_of_its_licence(tmp_path, load, name):
    with pytest.raises(StoreError, match=rf"{name}: no such .*NVIDIA's .*not for commercial use"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mapping.embed.weight": torch.zeros(8, 4)}, "unexpected mapping.embed.weight"),
        ({"synthesis.b8.skip.weight": torch.zeros(8, 8, 1, 1)}, "unexpected synthesis.b8.skip.weight"),
        ({"synthesis.b7.conv0.weight": torch.zeros(8, 8, 1, 1)}, "unexpected synthesis.b7.conv0.weight"),
        ({"mapping.fc1.bias": None}, r"1 missing \(style.2.bias\)"),
        ({"synthesis.b8.conv1.noise_const": torch.zeros(4, 4)}, r"noises.noise_2 \[1, 1, 4, 4\] for \[1, 1, 8, 8\]"),
    ],
)
def test_another_network_in_a_pickle(tmp_path, nvidias_module, change, message):
    state = {name: value for name, value in {**sg2ada(), **change}.items() if value is not None}
    with pytest.raises(StoreError, match=rf"ffhq\.pkl: .*{message}"):
        load_generator(write_pickle(tmp_path / "ffhq.pkl", state))


def test_rosinalitys_file(tmp_path):
    path, network = tmp_path / "stylegan2-ffhq-config-f.pt", generator()
    torch.save({"g_ema": network.state_dict(), "latent_avg": torch.arange(8.0)}, path)
    model = load_generator(path)
    assert model.mean.tolist() == list(range(8))
    assert not model.generator.training
    for name, value in network.state_dict().items():
        assert torch.equal(model.generator.state_dict()[name], value), name
    torch.save({"g_ema": network.state_dict()}, path)
    assert load_generator(path).mean is None
    state = network.state_dict()
    del state["to_rgb1.bias"]
    torch.save({"g_ema": {**state, "extra": torch.zeros(1)}}, path)
    with pytest.raises(StoreError, match=r"config-f\.pt: .*1 missing \(to_rgb1\.bias\); 1 unexpected \(extra\)"):
        load_generator(path)
    torch.save({"g_ema": {"conv.weight": torch.zeros(1)}}, path)
    with pytest.raises(StoreError, match=r"config-f\.pt: not the weights of Generator"):
        load_generator(path)


def write_inverter(path, kind=E4EEncoder, **change):
    state = {f"encoder.{name}": value for name, value in encoder(kind).state_dict().items()}
    state |= {f"decoder.{name}": value for name, value in generator().state_dict().items()}
    name = {E4EEncoder: "Encoder4Editing", PSPEncoder: "GradualStyleEncoder"}[kind]
    opts = {"encoder_type": name, "start_from_latent_avg": True, "device": "cuda:0", "exp_dir": "x", "lr": 1e-4}
    content = {"state_dict": state, "latent_avg": torch.rand(6, 8), "opts": opts, **change}
    torch.save(content, path)
    return content


@pytest.mark.parametrize("kind", [E4EEncoder, PSPEncoder])
def test_encoder_files(tmp_path, kind):
    path = tmp_path / "encode.pt"
    content = write_inverter(path, kind)
    model = load_inverter(path)
    assert type(model.encoder) is kind
    assert model.from_mean
    assert not model.encoder.training
    assert torch.equal(model.mean, content["latent_avg"])
    for part, network in (("encoder", model.encoder), ("decoder", model.generator)):
        for name, value in network.state_dict().items():
            assert torch.equal(value, content["state_dict"][f"{part}.{name}"]), name


def test_an_encoder_may_be_without_a_mean(tmp_path):
    opts = {"encoder_type": "Encoder4Editing", "start_from_latent_avg": False}
    write_inverter(tmp_path / "encode.pt", opts=opts, latent_avg=None)
    model = load_inverter(tmp_path / "encode.pt")
    assert not model.from_mean
    assert model.mean is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"opts": None}, "opts.encoder_type is None"),
        ({"opts": {"encoder_type": "BackboneEncoderUsingLastLayerIntoW"}}, "BackboneEncoderUsingLastLayerIntoW"),
        ({"latent_avg": torch.zeros(5)}, r"latent_avg is \[5\]: \[6, 8\] was expected"),
        ({"latent_avg": None}, "latent_avg is None"),
        ({"state_dict": {"face.weight": torch.zeros(1)}}, "unexpected face.weight"),
    ],
)
def test_another_encoder_file(tmp_path, change, message):
    write_inverter(tmp_path / "encode.pt", **change)
    with pytest.raises(StoreError, match=rf"encode\.pt: .*{message}"):
        load_inverter(tmp_path / "encode.pt")


@pytest.mark.parametrize(
    ("lost", "message"),
    [("encoder.body.0.res_layer.0.weight", r"1 missing \(body\.0\.res_layer\.0"), ("encoder.body.3.", "3 of 4 widths")],
)
def test_an_encoder_of_another_shape_is_named(tmp_path, lost, message):
    content = write_inverter(tmp_path / "encode.pt")
    state = {name: value for name, value in content["state_dict"].items() if not name.startswith(lost)}
    write_inverter(tmp_path / "encode.pt", state_dict=state)
    with pytest.raises(StoreError, match=rf"encode\.pt: not the weights of E4EEncoder: .*{message}"):
        load_inverter(tmp_path / "encode.pt")


def test_sizes_are_those_of_the_tensors(tmp_path):
    """Stages of several blocks, and another size; of the official file in test_encoders."""
    network = PSPEncoder(6, 64, (1, 2, 3, 1), (16, 32, 48, 64), 8)
    state = {f"encoder.{name}": value for name, value in network.state_dict().items()}
    state |= {f"decoder.{name}": value for name, value in generator().state_dict().items()}
    write_inverter(tmp_path / "encode.pt", PSPEncoder, state_dict=state)
    loaded = load_inverter(tmp_path / "encode.pt").encoder
    assert (loaded.size, loaded.taps) == (64, [2, 5, 6])


def test_half_precision_and_a_generators_file(tmp_path):
    content = write_inverter(tmp_path / "encode.pt")
    half = {name: value.half() if value.is_floating_point() else value for name, value in content["state_dict"].items()}
    write_inverter(tmp_path / "encode.pt", state_dict=half, latent_avg=content["latent_avg"].half())
    model = load_inverter(tmp_path / "encode.pt")
    dtypes = {weight.dtype for network in (model.encoder, model.generator) for weight in network.parameters()}
    assert dtypes | {model.mean.dtype} == {torch.float32}
    torch.save({"g_ema": generator().state_dict()}, tmp_path / "g.pt")
    assert load_inverter(tmp_path / "g.pt").encoder is None


def test_moving_to_a_device():
    model = Inverter(generator(), torch.zeros(8), encoder()).to("meta")
    parts = [model.mean, next(model.encoder.parameters()), next(model.generator.parameters())]
    assert {part.device.type for part in parts} == {"meta"}
