import io
import re
from dataclasses import replace

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from stages import doctor
from stages.cli import app
from stages.fetch import official
from stages.fetch.catalogue import load
from stages.fetch.official import Finding
from stages.params import Params, compose, parse
from stages.train.backbones import create_backbone
from tests.test_params import CONF


@pytest.fixture(scope="module")
def paper():
    return parse(Params, yaml.safe_load(compose(["profile=paper"], CONF)))


@pytest.fixture
def quick(monkeypatch):
    """No measurement of this machine."""
    monkeypatch.setattr(doctor, "matmul_rate", lambda device, precision: 1e12)
    monkeypatch.setattr(doctor, "detection_seconds", lambda params: 0.01)
    monkeypatch.setattr(doctor, "flops", lambda backbone: 1e9)
    monkeypatch.setattr(doctor, "gpu_bytes", lambda params: 10**9)


def examine(params, root):
    console = Console(file=io.StringIO(), width=200)
    return doctor.examine(params, root, console), console.file.getvalue()


def test_a_bare_machine_lacks_what_the_paper_needs_and_is_told_which_licences(paper, tmp_path, quick):
    fine, text = examine(paper, tmp_path)
    assert not fine
    assert "lacks digiface-1m, ffhq, insightface-bins, arc2face, sd15" in text
    for name in ("R-UDA-1.0", "CC-BY-NC-SA-4.0", "CreativeML-OpenRAIL-M", "24.4 GB"):
        assert name in text
    assert list(tmp_path.iterdir()) == []  # it only looks


def test_a_machine_that_has_all_is_fine(paper, tmp_path, quick, monkeypatch):
    entries = [load()[name] for name in ("digiface-1m", "ffhq")]
    monkeypatch.setattr(official, "inspect", lambda *_: [Finding(entry, "present") for entry in entries])
    monkeypatch.setattr(doctor, "free_space", lambda path: 10**12)
    fine, text = examine(paper, tmp_path)
    assert fine
    assert "lacks" not in text
    for stage in ("fetch", "embed", "gap", "synthesize", "align", "train", "evaluate"):
        assert f"\n{stage} " in text


def test_a_disk_that_is_too_small_is_not_fine(paper, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(official, "inspect", lambda *_: [])
    monkeypatch.setattr(doctor, "free_space", lambda path: doctor.derived_bytes(paper))  # without the spare gigabyte
    assert not examine(paper, tmp_path)[0]


def test_the_embedded_profile_needs_nothing_but_its_own_files(tmp_path, quick):
    fine, text = examine(Params(), tmp_path)
    assert not fine
    assert "stages/embed/encoder.onnx" in text
    (tmp_path / "stages/embed").mkdir(parents=True)
    (tmp_path / "stages/embed/encoder.onnx").touch()
    assert examine(Params(), tmp_path)[0]


def test_what_the_generation_reads_is_looked_for(tmp_path, quick):
    text = examine(Params(method="arc2face"), tmp_path)[1]
    for name in ("arc2face.weights", "synthesize.judge"):
        assert re.search(rf"{name}\s+missing", text), name


def test_the_exit_code_says_it(tmp_path, monkeypatch, quick):
    (tmp_path / "params.yaml").write_text(compose([], CONF))
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1
    (tmp_path / "stages").symlink_to(CONF.parent / "stages")
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0


def test_work_is_counted(paper, tmp_path, quick):
    works = {work.stage: work.seconds for work in doctor.estimate(paper, tmp_path, 0)}
    images, rate = 400_000, 1e12 * doctor.EFFICIENCY
    assert works["train"] == pytest.approx(3 * 30 * images * 1e9 / rate)
    assert works["synthesize"] == pytest.approx(images * (50 * doctor.SD15_UNET + doctor.SD15_DECODER) / rate)
    assert doctor.source_images(paper) == 1_219_995
    assert doctor.source_images(Params(n_ids=200)) == 250 * 10
    assert "synthesize" not in {work.stage for work in doctor.estimate(replace(paper, method="none"), tmp_path, 0)}


def test_operations_are_those_of_the_layers():
    """iresnet_tiny's convolutions and its dense layer, by hand: 2 x multiply-adds."""
    import torch

    total = 0

    def count(module, inputs, output):
        nonlocal total
        total += 2 * output[0].numel() * module.weight[0].numel()

    network = create_backbone("iresnet_tiny").eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        network(torch.zeros(1, 3, 112, 112))
    assert doctor.flops("iresnet_tiny") == total


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89, "89 s"), (91, "2 min"), (7200, "2 h"), (3e5, "3 days"), (1e8, "3 years")]
)
def test_times_are_written_short(seconds, text):
    assert doctor.format_time(seconds) == text
