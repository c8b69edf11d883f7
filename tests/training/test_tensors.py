import sys
import types

import pytest
import torch

from stages.store import StoreError
from stages.training.tensors import read_tensors


class Payload:
    ran = False

    def __reduce__(self):
        return setattr, (Payload, "ran", True)


def test_a_checkpoint_runs_nothing(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"params_ema": {"weight": torch.zeros(2)}, "more": Payload()}, path)
    with pytest.raises(StoreError, match=r"a\.pth: holds more than tensors.*weights_only=False"):
        read_tensors(path)
    assert not Payload.ran


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut"])
def test_a_broken_file_is_named(tmp_path, content):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"a\.pth"):
        read_tensors(path)
    with pytest.raises(StoreError, match=r"b\.pth: no such"):
        read_tensors(tmp_path / "b.pth")


@pytest.mark.parametrize("package", ["pytorch_lightning", "lightning.pytorch"])
def test_what_lightning_keeps_beside_the_tensors_is_passed_over(tmp_path, monkeypatch, package):
    """Hyperparameters of a class of Lightning's own, as its checkpoints hold them."""
    name = f"{package}.utilities.parsing"
    parts = name.split(".")
    modules = {part: types.ModuleType(part) for part in (".".join(parts[: k + 1]) for k in range(len(parts)))}
    kind = modules[name].AttributeDict = type("AttributeDict", (dict,), {"__module__": name})
    content = {"state_dict": {"weight": torch.ones(2)}, "hyper_parameters": kind(lr=1e-4)}
    with monkeypatch.context() as patch:
        for part, module in modules.items():
            patch.setitem(sys.modules, part, module)
        torch.save(content, tmp_path / "a.ckpt")
    assert torch.equal(read_tensors(tmp_path / "a.ckpt")["state_dict"]["weight"], torch.ones(2))
