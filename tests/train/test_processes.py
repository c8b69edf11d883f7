"""Two processes do what one does; they are started once for all of this module."""

import os
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from stages.knobs import ParamsError
from stages.params import Params
from stages.train import stage
from stages.train.backbones import BACKBONES, load_backbone
from stages.train.heads import create_head
from stages.train.knobs import Real, Train
from stages.train.networks import IResNet
from stages.train.partial_fc import PartialFC
from stages.training import Loop
from stages.training.distributed import Ranks, joined, launch, spread
from tests.train.conftest import made_up_people

HEADS = ["adaface", "arcface", "cosface"]
N, D, C = 7, 5, 9  # not to be divided by two
TRAIN = {"head": "adaface", "margin": 0.2, "scale": 16, "batch_size": 15, "lr": 5e-4, "epochs": 4, "threads": 1}


class Small(IResNet):
    def __init__(self):
        super().__init__((1, 1), widths=(8, 16), stem_stride=4, embedding=16)


class NoNorms(nn.Module):
    """A network without batch norms."""

    channels, columns = "rgb", 112
    embedding = 16

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 8, 8), nn.Linear(8 * 14 * 14, 16)

    def forward(self, images):
        return self.fc(self.conv(images).relu().flatten(1))


def params(real=None, **knobs):
    return Params(train=Train(**{**TRAIN, "device": "cpu", **knobs}), real=real or Real())


def mixed(root):
    """Domain mixup with a set of its own, in passes."""
    return params(Real(str(root / "data/real"), 5), domain_mixup=True, accumulate=2, epochs=1)


def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N, D, generator=generator), torch.tensor([0, 8, 4, 4, 5, 2, 0])


def head_of(name, ranks, rate=1.0):
    torch.manual_seed(0)
    return PartialFC(create_head(Train(head=name, margin=0.3, scale=8, t_alpha=0.3), D, C), rate, ranks)


def of_head(name, ranks, soft=False):
    """Loss, accuracy, gradients of the own embeddings and centres, and the statistics."""
    head, (embeddings, *labels) = head_of(name, ranks), batch()
    if soft:
        weights = torch.linspace(0, 1, N)[:, None]
        labels = [torch.stack([labels[0], labels[0].flip(0)], 1), torch.cat([weights, 1 - weights], 1)]
    own = embeddings[ranks.part(N)].requires_grad_()
    loss, accuracy = head(own, *labels)
    loss.backward()
    state = {key: value for key, value in head.state_dict().items() if "batch" in key}
    return [loss.detach(), accuracy, own.grad / ranks.count, head.head.kernel.grad, *state.values()]


def of_norms(ranks):
    """A network of batch norms: outputs, gradients and running statistics."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4, affine=False))
    called = spread(network, ranks, torch.device("cpu"), whole_norms=True)
    images, goal = torch.randn(N, 3, 2, 2) * 3 + 1, torch.randn(N, 4)
    own = images[ranks.part(N)].requires_grad_()
    made = called(own)
    ((made * goal[ranks.part(N)]).square().sum() * ranks.count).backward()
    parameters = [parameter.grad for parameter in network.parameters()]
    with torch.no_grad():
        after = network.eval()(images)
    return [made.detach(), own.grad / ranks.count, after, *parameters, *network.buffers()]


def train(folder, name, ranks, stop=0, **knobs):
    """Train in a cache and a root of its own; after `stop` steps it breaks off, and goes on."""
    os.environ["R2R_CACHE"] = str(folder / f"{name}-cache")
    save = Loop._save
    if stop:

        def save_and_stop(self, done):
            save(self, done)
            if done == stop:
                raise KeyboardInterrupt

        Loop._save = save_and_stop
        with pytest.raises(KeyboardInterrupt):
            stage.run(params(**knobs), folder / name)
        Loop._save = save
    stage.run(params(**knobs), folder / name)


def both(folder):
    """What each of the two processes does."""
    BACKBONES["iresnet_tiny"] = Small
    with joined("cpu") as ranks:
        stage.joined = lambda device: nullcontext(ranks)
        results = {(name, soft): of_head(name, ranks, soft) for name in HEADS for soft in (False, True)}
        results["norms"] = of_norms(ranks)
        results["part"] = (ranks.rank, ranks.count)
        torch.manual_seed(ranks.rank)
        sampled = head_of("cosface", ranks, 0.8)
        results["sampled"] = [sampled(batch()[0][ranks.part(N)], batch()[1])[0].item() for _ in range(9)]
        train(folder, "two", ranks)
        train(folder, "resumed", ranks, stop=8, checkpoint_minutes=0.0)
        os.environ["R2R_CACHE"] = str(folder / "mixed-cache")
        stage.run(mixed(folder / "mixed"), folder / "mixed")
        train(folder, "three passes", ranks, epochs=1, accumulate=3, last_batch="keep", sample_rate=0.5, ema=0.9)
    torch.save(results, folder / f"{ranks.rank}.pt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_aligned):
    folder = tmp_path_factory.mktemp("processes")
    write_aligned(folder / "data", made_up_people(range(C), range(9)))
    write_aligned(folder / "real", made_up_people(range(20, 26), range(9)))
    for name in ("one", "two", "resumed", "three passes", "mixed", "mixed alone"):
        (folder / name / "data").mkdir(parents=True)
        (folder / name / "data/align").symlink_to(folder / "data")
        (folder / name / "data/real").symlink_to(folder / "real")
    launch(2, both, folder)
    return folder


@pytest.fixture
def results(folder):
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(BACKBONES, "iresnet_tiny", Small)
    monkeypatch.setitem(BACKBONES, "ir_18", NoNorms)
    threads = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def state(root):
    return load_backbone(root / "data/train/backbone.safetensors")[0].state_dict()


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_a_head_over_two_processes_is_the_whole_one(results, name, soft):
    loss, accuracy, gradient, kernel, *statistics = of_head(name, Ranks(), soft)
    for rank, found in enumerate(results):
        torch.testing.assert_close(found[name, soft][0], loss)
        torch.testing.assert_close(found[name, soft][1], accuracy)
        torch.testing.assert_close(found[name, soft][2], gradient[Ranks(rank, 2).part(N)])
        torch.testing.assert_close(found[name, soft][3], kernel[:, Ranks(rank, 2).part(C)])
        torch.testing.assert_close(found[name, soft][4:], statistics)


def test_batch_norms_over_two_processes_are_those_of_one(results):
    made, gradient, *rest = of_norms(Ranks())
    for rank, found in enumerate(results):
        part = Ranks(rank, 2).part(N)
        torch.testing.assert_close(found["norms"][0], made[part])
        torch.testing.assert_close(found["norms"][1], gradient[part], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["norms"][2:], rest, rtol=1e-4, atol=1e-5)


def test_a_sample_over_two_processes(results):
    """One loss in both, below that over all classes, and another with another draw."""
    embeddings, labels = batch()
    whole = head_of("cosface", Ranks())(embeddings, labels)[0]
    losses = results[0]["sampled"]
    assert losses == results[1]["sampled"]
    assert max(losses) < whole
    assert len(set(losses)) > 1


def test_twenty_steps_of_two_processes_are_those_of_one(folder, small, monkeypatch):
    """With batch norms, and batches that do not divide by two; the results differ by rounding.

    At a learning rate at which rounding does not grow: at 0.05 it comes to 5e-3, as it does in one process with weights
    1e-7 off as well. In float64, two processes are within 1e-14 there.
    """
    monkeypatch.setenv("R2R_CACHE", str(folder / "one-cache"))
    stage.run(params(), folder / "one")
    assert (folder / "one/metrics/train.json").read_text().count('"steps": 20')
    one, two = state(folder / "one"), state(folder / "two")
    torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-5)
    torch.manual_seed(0)
    assert (Small().conv1.weight - one["conv1.weight"]).abs().mean() > 1e-4


def test_domain_mixup_over_two_processes_is_that_of_one(folder, small, monkeypatch):
    monkeypatch.setenv("R2R_CACHE", str(folder / "one-cache"))
    stage.run(mixed(folder / "mixed alone"), folder / "mixed alone")
    torch.testing.assert_close(state(folder / "mixed"), state(folder / "mixed alone"), rtol=1e-5, atol=1e-5)


def test_two_processes_go_on_where_they_stopped(folder):
    for name in ("data/train/backbone.safetensors", "metrics/train.json", "plots/train.csv"):
        assert (folder / "two" / name).read_bytes() == (folder / "resumed" / name).read_bytes()


def test_all_of_it_at_once_trains(folder):
    assert (folder / "three passes/metrics/train.json").is_file()


@pytest.mark.parametrize(("passes", "last"), [(4, "drop"), (3, "keep")])
def test_passes_of_a_batch_are_the_batch(folder, small, monkeypatch, tmp_path, passes, last):
    """On a network without batch norms: 15 images in passes that are not equal, and with `keep` a last batch of 6."""
    monkeypatch.setenv("R2R_CACHE", str(tmp_path / "cache"))
    for count in (1, passes):
        (tmp_path / f"{count}/data").mkdir(parents=True)
        (tmp_path / f"{count}/data/align").symlink_to(folder / "data")
        knobs = {"head": "arcface", "backbone": "ir_18", "lr": 0.05, "accumulate": count, "last_batch": last}
        stage.run(params(**knobs), tmp_path / str(count))
    torch.testing.assert_close(state(tmp_path / "1"), state(tmp_path / str(passes)), rtol=0, atol=1e-5)


def test_too_many_processes_or_passes(small, folder):
    for knobs, count, message in [
        ({"accumulate": 8}, 1, "train.accumulate is 8 on 1 processes, too many for a batch of 15 images"),
        ({"accumulate": 4, "last_batch": "keep"}, 1, "too many for a batch of 6 images"),
        ({"sync_batch_norm": False}, 8, "is 1 on 8 processes"),
        ({}, 10, "train.processes is 10, but there are only 9 identities"),
    ]:
        with pytest.raises(ParamsError, match=message):
            stage.check_batches(params(**knobs).train, 81, 9, count)
    stage.check_batches(params(sync_batch_norm=False).train, 81, 9, 7)


def refuse():
    raise ParamsError("train.lr is too high")


def die():
    os.kill(os.getpid(), 9)


def test_what_a_process_raises_is_raised_here_and_a_killed_one_is_told():
    with pytest.raises(ParamsError, match=r"^train.lr is too high$"):
        launch(1, refuse)
    with pytest.raises(Exception, match="process 0 of 1 was killed"):
        launch(1, die)
