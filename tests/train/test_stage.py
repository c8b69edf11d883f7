import csv
import hashlib
import json
import multiprocessing
import os
import signal
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from stages.knobs import ParamsError
from stages.params import Params
from stages.store import StoreError, cache_folder, encode, entries, write_shard
from stages.train import setup, stage
from stages.train.backbones import BACKBONES, load_backbone
from stages.train.data import FaceDataset
from stages.train.knobs import DigiFace, Real, Train
from stages.train.networks import IResNet, normalise
from stages.train.order import batches
from stages.train.recipes import create_recipe
from stages.train.safety import show_batch
from stages.train.stage import run
from stages.training import Average, Diverged, Loop
from tests.train.conftest import made_up_people

OUTPUTS = ("data/train/backbone.safetensors", "metrics/train.json", "plots/train.csv")
TINY = {"head": "cosface", "margin": 0.1, "scale": 16, "batch_size": 16, "lr": 0.05, "epochs": 3, "threads": 1}


class Small(IResNet):
    """Small enough for a test, and with dropout, whose randomness a resumed run must repeat."""

    def __init__(self):
        super().__init__((1, 1), widths=(8, 16), stem_stride=4, embedding=16)

    def forward(self, images):
        return super().forward(nn.functional.dropout2d(images, 0.1, self.training))


class SmallBGR(Small):
    channels = "bgr"


def params(seed=0, **knobs):
    return Params(seed=seed, train=Train(**{**TINY, "device": "cpu", **knobs}))


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    monkeypatch.setitem(BACKBONES, "iresnet_tiny", Small)
    monkeypatch.setitem(BACKBONES, "ir_18", SmallBGR)
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def aligned(tmp_path_factory, write_aligned):
    folder = tmp_path_factory.mktemp("aligned")
    write_aligned(folder, made_up_people(range(8), range(10)))
    return folder


@pytest.fixture
def place(tmp_path, aligned):
    """A root by its name, on the same aligned images."""

    def make(name, images=aligned):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data/align").symlink_to(images)
        return tmp_path / name

    return make


@pytest.fixture
def forget(tmp_path, monkeypatch):
    """An empty cache from now on."""
    count = iter(range(100))
    return lambda: monkeypatch.setenv("R2R_CACHE", str(tmp_path / f"cache{next(count)}"))


def digests(root):
    return [hashlib.sha256((root / path).read_bytes()).hexdigest() for path in OUTPUTS]


def weights(root):
    return load_file(root / OUTPUTS[0])


def same(first, second):
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_learns_and_writes_its_outputs(place):
    here = place("a")
    run(params(epochs=10), here)
    metrics = json.loads((here / "metrics/train.json").read_text())
    assert (metrics["identities"], metrics["images"], metrics["steps"]) == (8, 80, 50)
    assert metrics["accuracy"] > 70  # chance is 12.5, and the images are augmented

    rows = list(csv.DictReader((here / "plots/train.csv").open()))
    assert [int(row["step"]) for row in rows] == list(range(1, 51))
    assert [row["epoch"] for row in rows[4:10]] == ["1.000", "1.200", "1.400", "1.600", "1.800", "2.000"]
    assert float(rows[-1]["loss"]) < 0.5 * float(rows[0]["loss"])
    assert float(rows[-1]["lr"]) < float(rows[0]["lr"]) == 0.05
    assert np.mean([float(row["accuracy"]) for row in rows[-5:]]) == pytest.approx(metrics["accuracy"], abs=0.01)
    assert np.mean([float(row["loss"]) for row in rows[-5:]]) == pytest.approx(metrics["loss"], abs=1e-4)

    network, card = load_backbone(here / "data/train/backbone.safetensors")
    assert (card.backbone, card.embedding, card.channels) == ("iresnet_tiny", 16, "rgb")
    assert (card.identities, card.images, card.head) == (8, 80, "cosface")
    data = FaceDataset(here / "data/align")
    data.hold()
    with torch.no_grad():
        embeddings = nn.functional.normalize(network(normalise(data.images)))
    alike = torch.from_numpy(data.label[:, None] == data.label)
    cosines = embeddings @ embeddings.T
    assert cosines[alike].mean() > cosines[~alike].mean() + 0.5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_runs_are_equal_and_a_seed_makes_another(place, forget, precision):
    roots = [place(name) for name in "abc"]
    for root, seed in zip(roots, (0, 0, 1), strict=True):
        forget()
        run(params(seed, epochs=1, precision=precision), root)
    assert digests(roots[0]) == digests(roots[1])
    assert not same(weights(roots[0]), weights(roots[2]))


def test_workers_change_nothing(place, forget):
    first, second = place("a"), place("b")
    run(params(epochs=1), first)
    forget()
    run(params(epochs=1, workers=1), second)
    assert digests(first) == digests(second)


def stop_after(monkeypatch, step, how):
    save = Loop._save

    def save_and_stop(self, done):
        save(self, done)
        if done == step:
            how()

    monkeypatch.setattr(Loop, "_save", save_and_stop)


def interrupt():
    raise KeyboardInterrupt


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("step", [3, 5, 13])  # within an epoch of five steps, at its end, and later
def test_a_resumed_run_ends_with_the_same_bytes(place, forget, monkeypatch, step):
    whole, killed = place("whole"), place("killed")
    run(params(), whole)
    forget()
    with monkeypatch.context() as patch:
        stop_after(patch, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(params(checkpoint_minutes=0.0), killed)
    assert not any((killed / path).exists() for path in OUTPUTS)
    steps = []
    monkeypatch.setattr(Loop, "_save", lambda self, done: steps.append(done))
    run(params(checkpoint_minutes=0.0), killed)
    assert steps == list(range(step + 1, 15))
    assert digests(killed) == digests(whole)


def test_sigkill_in_the_middle(place, forget, monkeypatch):
    """The real thing: a process that dies between two steps, and this one going on where it stopped."""
    here, whole = place("killed"), place("whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 4, kill)
        arguments = (params(checkpoint_minutes=0.0), here)
        process = multiprocessing.get_context("fork").Process(target=run, args=arguments)
        process.start()
        process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (here / OUTPUTS[0]).exists()
    starts = []
    build = Loop.__init__
    monkeypatch.setattr(
        Loop, "__init__", lambda self, *args, **more: (build(self, *args, **more), starts.append(self.start))[0]
    )
    run(params(), here)
    assert starts == [4]
    forget()
    run(params(), whole)
    assert digests(here) == digests(whole)


def test_going_back_costs_nothing_here_and_elsewhere(place, monkeypatch):
    here, there = place("a"), place("b")
    run(params(), here)
    before = digests(here)
    run(params(seed=1), here)
    assert digests(here) != before
    monkeypatch.setattr(stage, "learn", lambda *_: pytest.fail("trained again"))
    for root in (here, there):
        run(params(workers=2, checkpoint_minutes=9.0), root)
        assert digests(root) == before
    assert len(list(entries("train"))) == 2
    assert (here / OUTPUTS[0]).samefile(there / OUTPUTS[0])  # by hard link


def test_another_training_set_by_its_path(place, aligned, monkeypatch):
    """The same images elsewhere train the same network: the path is no part of the run's fingerprint."""
    here = place("a")
    run(params(epochs=1), here)
    (here / "elsewhere").symlink_to(aligned)
    monkeypatch.setattr(stage, "learn", lambda *_: pytest.fail("trained again"))
    for data in ("elsewhere", str(aligned)):  # under the root, or anywhere
        run(params(epochs=1, data=data), here)


def test_other_images_under_the_same_names_are_another_set(place, forget, tmp_path, aligned, write_aligned):
    """A killed run does not go on with them."""
    other = tmp_path / "other"
    write_aligned(other, made_up_people(range(8), range(10), seed=1))
    cpu = torch.device("cpu")
    keys = {stage.run_fingerprint(params(), FaceDataset(folder), cpu) for folder in (aligned, other)}
    assert len(keys) == 2


def test_what_resumes_and_what_starts_anew(aligned):
    data = FaceDataset(aligned)

    def key(seed=0, device="cpu", **knobs):
        return stage.run_fingerprint(params(seed, **knobs), data, torch.device(device))

    assert key() == key(workers=4, checkpoint_minutes=9.0, device="cpu", data="x", h=0.5, milestones=(3,))
    assert key(device="cuda") == key(device="cuda", threads=7)
    differing = [{}, {"seed": 1}, {"lr": 0.2}, {"threads": 2}, {"backbone": "ir_18"}, {"device": "cuda"}]
    differing += [{"last_batch": "keep"}, {"channels": "bgr"}, {"head": "arcface"}, {"head": "arcface-exact"}]
    differing += [{"recipe": "insightface"}, {"recipe": "digiface"}, {"augment": 0.3}, {"balanced": True}]
    differing += [{"order": "shards"}, {"order": "shards", "buffer": 7}]
    differing += [{"schedule": "multistep"}, {"schedule": "multistep", "milestones": (2,)}, {"clip": 5.0}]
    assert len({key(**knobs) for knobs in differing}) == len(differing)
    assert key(head="adaface") != key(head="adaface", h=0.5)
    assert key() == key(buffer=7, second="x", third="y", weights=(1.0, 2.0, 3.0))  # a source counts by its content
    assert key(recipe="insightface") == key(recipe="insightface", augment=0.7)

    def with_noise(recipe, noise):
        knobs = replace(params(recipe=recipe), digiface=DigiFace(noise=noise))
        return stage.run_fingerprint(knobs, data, torch.device("cpu"))

    assert with_noise("adaface", 0.5) == key()
    assert with_noise("digiface", 0.5) != key(recipe="digiface") == with_noise("digiface", DigiFace().noise)
    assert key() == key(processes=1, mode="deterministic", sync_batch_norm=False)
    more = [{"accumulate": 2}, {"sample_rate": 0.5}, {"ema": 0.9}, {"compile": True}, {"mode": "fast"}]
    assert len({key(), *(key(**knobs) for knobs in more)}) == 6
    assert key(device="cuda") == key(device="cuda", mode="fast")
    two = [stage.run_fingerprint(params(sync_batch_norm=on), data, torch.device("cpu"), 2) for on in (True, False)]
    assert len({key(), *two}) == 3


def test_a_comment_changes_nothing_and_code_does(aligned, code):
    data, cpu = FaceDataset(aligned), torch.device("cpu")
    before = stage.run_fingerprint(params(), data, cpu)
    code.add("train/heads", "# a comment\n")
    code.add("train/export", "x = 1\n")
    assert stage.run_fingerprint(params(), data, cpu) == before
    code.add("train/heads", "x = 1\n")
    assert stage.run_fingerprint(params(), data, cpu) != before


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"lr": 1e30}, r"the loss is (nan|inf) in step \d+ of 15"),
        (
            {"lr": 1e30, "weight_decay": 1e30, "epochs": 1, "batch_size": 80},
            r"model: backbone\.\S+ is not finite after step 0 of 1",
        ),
    ],
)
def test_divergence_stops_and_leaves_no_output(place, knobs, message):
    """In a loss, or in the weights of the last step, which no loss sees."""
    here = place("a")
    with pytest.raises(Diverged, match=message) as error:
        run(params(**knobs), here)
    assert "Lower train.lr (1e+" in str(error.value)
    assert isinstance(error.value, ParamsError)
    assert not any((here / path).exists() for path in OUTPUTS)
    assert not list(entries("train"))


def test_what_a_training_came_to_grief_on_is_drawn_and_the_last_good_checkpoint_kept(place, monkeypatch):
    here, drawn = place("a"), []
    monkeypatch.setattr(
        stage, "show_batch", lambda path, data, keys: drawn.append(keys) or show_batch(path, data, keys)
    )
    norm = stage.gradient_norm
    steps = iter(range(15))
    monkeypatch.setattr(stage, "gradient_norm", lambda *of: norm(*of) * (0 if next(steps) == 7 else 1))
    with pytest.raises(Diverged, match=r"the head is dead: the loss is \S+ and its gradient 0 in step 7 of 15"):
        run(params(backbone="ir_18", checkpoint_minutes=0.0), here)
    assert drawn == list(batches(FaceDataset(here / "data/align").order(), 16, 7, 8))
    page = np.asarray(Image.open(here / "plots/diverged.png"))
    data = FaceDataset(here / "data/align", 0, create_recipe(Train(), DigiFace()))  # as RGB, whatever the network sees
    first = cv2.resize(data[drawn[0][0]][0], (96, 96), interpolation=cv2.INTER_AREA)
    assert (page[16:112, :96] == first).all()
    (checkpoint,) = cache_folder().glob("train/*/checkpoint.pt")
    assert torch.load(checkpoint, weights_only=True)["step"] == 7


def test_an_average_of_the_weights_is_what_comes_out(place, monkeypatch):
    here, seen = place("a"), []
    update = Average.update

    def spy(self, model, step):
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        update(self, model, step)

    monkeypatch.setattr(Average, "update", spy)
    run(params(ema=0.6), here)
    assert len(seen) == 15
    torch.manual_seed(0)
    expected = {name: tensor.double() for name, tensor in Small().state_dict().items()}
    for step, state in enumerate(seen):
        decay = min(0.6, (1 + step) / (10 + step))
        expected = {name: decay * tensor + (1 - decay) * state[name].double() for name, tensor in expected.items()}
    for name, tensor in weights(here).items():
        if "num_batches" not in name:
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-4, atol=1e-5)
            assert not torch.equal(tensor, seen[-1][name]) or name == "features.weight"


def test_where_and_how_it_ran_stands_apart_from_the_numbers(place):
    here = place("a")
    run(params(epochs=1), here)
    said = json.loads((here / "data/train_provenance.json").read_text())
    assert (said["mode"], said["processes"], said["threads"]) == ("deterministic", 1, 1)
    assert said["torch"] == torch.__version__
    assert said["device"]
    assert 0 < said["seconds"] < 600
    assert set(json.loads((here / "metrics/train.json").read_text())) == {
        *("identities", "images", "steps", "loss", "accuracy"),
    }


@pytest.mark.parametrize(("mode", "repeats"), [("auto", True), ("deterministic", True), ("fast", False)])
def test_results_repeat_on_a_cpu_unless_they_need_not(place, mode, repeats):
    run(params(epochs=1, mode=mode), place("a"))
    assert torch.are_deterministic_algorithms_enabled() == repeats
    assert torch.backends.cudnn.benchmark != repeats


def test_on_a_gpu_the_default_is_fast():
    cuda = torch.device("cuda")
    assert [setup.mode(Train(mode=mode), cuda) for mode in ("auto", "deterministic")] == ["fast", "deterministic"]


def test_the_backbone_alone_is_compiled(place, monkeypatch):
    compiled = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    run(params(epochs=1, compile=True), place("a"))
    assert [type(module) for module in compiled] == [Small]


def test_several_processes_are_started_where_they_are_asked_for(place, monkeypatch):
    started = []
    monkeypatch.setattr(stage, "launch", lambda *arguments: started.append(arguments))
    here = place("a")
    run(params(processes=3), here)
    assert started == [(3, run, params(processes=3), here)]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    cuda = torch.device("cuda")
    assert [setup.processes(Train(processes=count), cuda) for count in (0, 2)] == [4, 2]
    with pytest.raises(ParamsError, match=r"train.processes is 5, but torch sees 4 GPUs"):
        setup.processes(Train(processes=5), cuda)


def test_batches_that_cannot_be(place, tmp_path, write_aligned):
    here = place("a")
    with pytest.raises(ParamsError, match=r"train.batch_size is 81, but there are only 80 images"):
        run(params(batch_size=81), here)
    with pytest.raises(ParamsError, match=r"of 80 images in batches of 79 the last one has a single image.*to drop"):
        run(params(batch_size=79, last_batch="keep"), here)
    write_aligned(tmp_path / "one", made_up_people([3], range(10)))
    with pytest.raises(ParamsError, match="10 images of one identity"):
        run(params(data=str(tmp_path / "one")), here)
    with pytest.raises(StoreError, match="no set of faces"):
        run(params(data="nothing"), here)


@pytest.mark.parametrize(("last", "steps"), [("drop", 2 * 5), ("keep", 2 * 6)])
def test_the_last_batch_is_trained_on_where_adaface_does(place, last, steps):
    here = place("a")
    run(params(batch_size=15, epochs=2, last_batch=last), here)
    assert json.loads((here / "metrics/train.json").read_text())["steps"] == steps


def test_the_backbones_gradient_alone_is_clipped(place, monkeypatch):
    clipped, clip = [], nn.utils.clip_grad_norm_

    def spy(parameters, norm):
        parameters = list(parameters)
        clipped.append(sum(parameter.numel() for parameter in parameters))
        return clip(parameters, norm)

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", spy)
    run(params(epochs=1, clip=5.0), place("a"))
    assert set(clipped) == {sum(parameter.numel() for parameter in Small().parameters())}


def test_adafaces_networks_are_trained_on_bgr(place):
    """Of a set stored as BGR they see the bytes as they lie, which the other networks see of one stored as RGB."""
    roots = [place(name) for name in "abc"]
    knobs = [{}, {"backbone": "ir_18", "channels": "bgr"}, {"backbone": "ir_18"}]
    for root, more in zip(roots, knobs, strict=True):
        run(params(epochs=1, **more), root)
    assert same(weights(roots[0]), weights(roots[1]))
    assert not same(weights(roots[0]), weights(roots[2]))
    cards = [load_backbone(root / OUTPUTS[0])[1].channels for root in roots]
    assert cards == ["rgb", "bgr", "bgr"]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Images halfway between two people's patterns, and how far."""
    folder, rng = tmp_path_factory.mktemp("mixed"), np.random.default_rng(0)
    pictures = {(who, sample): image for who, sample, image in made_up_people(range(8), range(10))}
    ratio, partner = rng.choice(np.linspace(0, 1, 21), 80), np.array([(who + 1 + k % 7) % 8 for who, k in pictures])
    images = [
        share * image.astype(float) + (1 - share) * pictures[other, sample]
        for ((_, sample), image), share, other in zip(pictures.items(), ratio, partner.tolist(), strict=True)
    ]
    keys = np.array(list(pictures))
    columns = {"identity": keys[:, 0], "sample": keys[:, 1], "partner": partner, "ratio": ratio}
    write_shard(folder / "0.h5", columns, [encode(image.astype(np.uint8)) for image in images])
    return folder


SYNFACE = {"head": "ArcMarginProduct", "margin": 0.3, "recipe": "synface", "augment": 0.5, "decay_norms": True}


def test_learns_from_soft_labels_and_resumes(place, forget, mixed, monkeypatch):
    whole, killed = place("whole", mixed), place("killed", mixed)
    knobs = {**SYNFACE, "epochs": 12}
    run(params(**knobs), whole)
    metrics = json.loads((whole / "metrics/train.json").read_text())
    assert (metrics["identities"], metrics["images"]) == (8, 80)
    assert metrics["accuracy"] > 40  # of the larger share; chance is 12.5
    forget()
    with monkeypatch.context() as patch:
        stop_after(patch, 13, interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(params(**knobs, checkpoint_minutes=0.0), killed)
    run(params(**knobs, workers=1), killed)
    assert digests(killed) == digests(whole)


def test_domain_mixup_shows_as_many_real_images_and_resumes(place, forget, mixed, write_aligned, monkeypatch):
    """Whatever the workers; of soft labels and of hard ones."""
    for name, images in (("soft", mixed), ("hard", None)):
        roots = [place(f"{name}{k}", *([images] if images else [])) for k in range(2)]
        for root in roots:
            write_aligned(root / "real", made_up_people(range(4), range(3), seed=1))
        knobs = replace(params(**SYNFACE, epochs=2, domain_mixup=True), real=Real(data="real", n_ids=3, weight=5.0))
        run(knobs, roots[0])
        metrics = json.loads((roots[0] / "metrics/train.json").read_text())
        assert (metrics["identities"], metrics["real_data_images"], metrics["steps"]) == (11, 9, 2 * 80 // 16)
        forget()
        with monkeypatch.context() as patch:
            stop_after(patch, 6, interrupt)
            with pytest.raises(KeyboardInterrupt):
                run(replace(knobs, train=replace(knobs.train, checkpoint_minutes=0.0)), roots[1])
        run(replace(knobs, train=replace(knobs.train, workers=1)), roots[1])
        assert digests(roots[1]) == digests(roots[0])
        forget()
        run(replace(knobs, train=replace(knobs.train, domain_mixup=False)), roots[1])
        assert not same(weights(roots[0]), weights(roots[1]))


def test_domain_mixup_needs_real_people(place):
    with pytest.raises(ParamsError, match=r"train\.domain_mixup needs real people: set real\.data and real\.n_ids"):
        run(params(domain_mixup=True), place("a"))


def test_synfaces_knobs_count_where_they_matter(aligned):
    data = FaceDataset(aligned)

    def key(**knobs):
        return stage.run_fingerprint(params(**knobs), data, torch.device("cpu"))

    assert key() == key(easy_margin=True)
    differing = [{}, SYNFACE, SYNFACE | {"easy_margin": True}, {"recipe": "synface"}, {"decay_norms": True}]
    assert len({key(**knobs) for knobs in differing}) == len(differing)


def test_a_network_of_fewer_columns_is_trained_on_the_middle(place, monkeypatch):
    seen = []
    monkeypatch.setattr(Small, "columns", 96)
    monkeypatch.setattr(stage, "learn", lambda _, data, *__: pytest.fail(seen.append(data[0, 0][0].shape)))
    with pytest.raises(pytest.fail.Exception):
        run(params(), place("a"))
    assert seen == [(112, 96, 3)]


def test_real_people_beside_the_others(place, write_aligned):
    """As in Digi2Real's table 8; and further sets. Named again, a set is none of its own."""
    here = place("a")
    write_aligned(here / "real", made_up_people(range(5), range(4), seed=1))
    knobs = params(epochs=1, second="real", third="data/align", weights=(1.0, 2.0, 1.0), balanced=True, workers=1)
    run(replace(knobs, real=Real(data="real", n_ids=2, weight=3.0)), here)
    metrics = json.loads((here / "metrics/train.json").read_text())
    counts = {"": (15, 108), "train_data_": (8, 80), "train_second_": (5, 20), "real_data_": (2, 8)}
    expected = {
        f"{name}{kind}": count
        for name, both in counts.items()
        for kind, count in zip(("identities", "images"), both, strict=True)
    }
    assert {name: count for name, count in metrics.items() if name.endswith(("identities", "images"))} == expected
    assert metrics["steps"] == (80 + 2 * 20 + 3 * 8) // 16
    assert load_backbone(here / OUTPUTS[0])[1].identities == 15
    with pytest.raises(ParamsError, match=r"real\.n_ids is 2: name a set of real people in real\.data"):
        run(replace(params(), real=Real(data="data/align", n_ids=2)), here)
    with pytest.raises(ParamsError, match=r"real\.n_ids is 9: .* holds 5 identities"):
        run(replace(params(), real=Real(data="real", n_ids=9)), here)


@pytest.mark.parametrize("knobs", [{"order": "shards", "buffer": 20}, {"balanced": True, "weights": (1.5, 1.0, 1.0)}])
def test_every_order_resumes_at_the_next_image_whatever_the_workers(place, forget, monkeypatch, knobs):
    whole, killed = place("whole"), place("killed")
    run(params(epochs=2, recipe="digiface", **knobs), whole)
    forget()
    with monkeypatch.context() as patch:
        stop_after(patch, 7, interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(params(epochs=2, recipe="digiface", checkpoint_minutes=0.0, **knobs), killed)
    run(params(epochs=2, recipe="digiface", workers=2, **knobs), killed)
    assert digests(killed) == digests(whole)


def test_devices_that_are_not_there():
    with pytest.raises(ParamsError, match="fp16, which needs a GPU"):
        stage.prepare_device(Train(precision="fp16", device="cpu"))
    if not torch.cuda.is_available():
        with pytest.raises(ParamsError, match="sees no GPU"):
            stage.prepare_device(Train(device="cuda"))
