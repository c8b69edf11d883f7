import io
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml
from rich.console import Console
from typer.testing import CliRunner

from stages import doctor
from stages.align import stage as align_stage
from stages.cli import app
from stages.embed import stage as embed_stage
from stages.fetch import costs as fetch_costs
from stages.fetch import library
from stages.fetch.catalogue import load
from stages.params import Params, compose, parse
from stages.run import machine
from stages.train.costs import flops
from stages.transfer.arc2face.knobs import SD15_DECODER, SD15_UNET
from tests.test_params import CONF

RATE = 1e12


@pytest.fixture(scope="module")
def paper():
    return parse(yaml.safe_load(compose(["profile=paper"], CONF)))


@pytest.fixture
def quick(monkeypatch):
    """No measurement of this machine."""
    monkeypatch.setattr(machine, "convolution_rate", lambda device, precision: RATE)
    for module in (embed_stage, align_stage):
        monkeypatch.setattr(module, "detection_seconds", lambda align, side: 0.01)
    monkeypatch.setattr("stages.judge.detection_seconds", lambda align, side: 0.01)
    monkeypatch.setattr(embed_stage, "encoder_seconds", lambda path, machine: 0.01)
    monkeypatch.setattr("stages.judge.encoder_seconds", lambda path, machine: 0.01)


def examine(params, root):
    console = Console(file=io.StringIO(), width=200)
    return doctor.examine(params, root, console), console.file.getvalue()


def test_a_bare_machine_lacks_what_the_paper_needs_and_is_told_which_licences(paper, tmp_path, quick):
    fine, text = examine(paper, tmp_path)
    assert not fine
    assert "lacks digiface-1m, ffhq, insightface-bins, arc2face, sd15" in text
    assert "dvc exp run -S profile=paper" in text  # `r2r fetch` alone would fetch what params.yaml names
    for name in ("R-UDA-1.0", "CC-BY-NC-SA-4.0", "CreativeML-OpenRAIL-M", "24.4 GB"):
        assert name in text
    assert list(tmp_path.iterdir()) == []  # it only looks


def test_a_machine_that_has_all_is_fine(paper, tmp_path, quick, monkeypatch):
    found = [library.Finding(load()[name], "present") for name in ("digiface-1m", "ffhq")]
    monkeypatch.setattr(library, "inspect", lambda *_: found)
    monkeypatch.setattr(doctor, "free_space", lambda path: 10**12)
    fine, text = examine(paper, tmp_path)
    assert fine
    assert "lacks" not in text
    for stage in ("fetch", "embed", "gap", "synthesize", "judge", "align", "train", "evaluate"):
        assert f"\n{stage} " in text


def test_a_disk_that_is_too_small_is_said(paper, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(library, "inspect", lambda *_: [])
    monkeypatch.setattr(doctor, "free_space", lambda path: 10**9)
    fine, text = examine(paper, tmp_path)
    assert not fine
    assert "too small: disk" in text


def test_what_the_generation_reads_is_looked_for(tmp_path, quick):
    fine, text = examine(Params(method="arc2face"), tmp_path)
    assert not fine
    for name in ("embed.encoder", "transfer.weights", "judge.encoder"):
        assert re.search(rf"{name}\s+missing", text), name
    assert "transfer.weights" not in examine(Params(), tmp_path)[1]


def test_the_exit_code_says_it(tmp_path, monkeypatch, quick):
    (tmp_path / "params.yaml").write_text(compose([], CONF))
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 1
    (tmp_path / "stages").symlink_to(CONF.parent / "stages")
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0


def test_work_is_counted(paper, tmp_path, quick):
    import importlib

    here = machine.Machine()
    works = {name: importlib.import_module(name).cost(paper, tmp_path, here) for name in doctor.COSTS}
    images, rate = 400_000, RATE * machine.EFFICIENCY
    assert works["stages.train.costs"].seconds == pytest.approx(3 * 30 * images * flops("ir_50") / rate)
    expected = images * (50 * SD15_UNET + SD15_DECODER) / rate
    assert works["stages.synthesize"].seconds == pytest.approx(expected)
    assert works["stages.embed.stage"].what == f"{1_219_995 + 1000:,} images"
    none = replace(paper, method="none", transfer=None)
    assert importlib.import_module("stages.synthesize").cost(none, tmp_path, here) is None
    assert fetch_costs.work(Params(n_ids=200), tmp_path)[0] == 6720


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89, "89 s"), (91, "2 min"), (7200, "2 h"), (3e5, "3 days"), (1e8, "3 years")]
)
def test_times_are_written_short(seconds, text):
    assert doctor.format_time(seconds) == text


def test_a_gpu_has_to_hold_all_processes_of_a_method(monkeypatch):
    chosen = parse(yaml.safe_load(compose(["profile=paper", "method=vsait"], CONF)))
    assert chosen.transfer.a_gpu > 1
    for processes, enough in ((1, True), (1.1, False)):
        total = int(chosen.transfer.a_gpu * chosen.transfer.gpu_bytes / processes)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "GPU")
        monkeypatch.setattr(
            torch.cuda, "get_device_properties", lambda _, total=total: SimpleNamespace(total_memory=total)
        )
        monkeypatch.setattr(doctor, "gpu_bytes", lambda _: 0)
        assert list(doctor._machine(chosen, machine.Machine()))[-1][3] is enough
