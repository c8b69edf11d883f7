"""What the tests of the learning methods share: small batches, a training step by step, and equality to the bit."""

import io
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from stages.transfer.unpaired import Training


def images(seed: int, n: int = 2, side: int = 32) -> Tensor:
    """[n, 3, side, side] in [-1, 1], smooth."""
    coarse = torch.rand(n, 3, 5, 5, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, side, mode="bicubic").clamp(-1, 1)


def run(training: Training, steps: range, n: int = 2) -> list[dict[str, float]]:
    losses = []
    for step in steps:
        torch.manual_seed(torch.seed() % 1000)  # whatever stands in the global generator does not matter
        drawn = torch.Generator().manual_seed(step)
        losses.append(
            {k: v.item() for k, v in training.step(images(2 * step, n), images(2 * step + 1, n), drawn).items()}
        )
    return losses


def leaves(state: object, name: str = "") -> dict[str, object]:
    if isinstance(state, Mapping):
        items = state.items()
    elif isinstance(state, list | tuple):
        items = enumerate(state)
    else:
        return {name: state}
    return {key: value for part, inner in items for key, value in leaves(inner, f"{name}.{part}").items()}


def assert_equal(one: object, other: object) -> None:
    mine, yours = leaves(one), leaves(other)
    assert mine.keys() == yours.keys()
    for name, value in mine.items():
        same = torch.equal(value, yours[name]) if isinstance(value, Tensor) else value == yours[name]
        assert same, name


def assert_resumes(make: Callable[[], Training]) -> None:
    """A training saved after two steps and taken up by another object ends with the bits of one that went on."""
    torch.manual_seed(1)
    straight = make()
    losses = run(straight, range(4))
    assert set(losses[0]) == set(straight.losses)

    torch.manual_seed(1)
    first = make()
    assert run(first, range(2)) == losses[:2]
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    torch.manual_seed(2)
    second = make()
    second.load_state_dict(torch.load(file, weights_only=True))
    assert run(second, range(2, 4)) == losses[2:]
    assert_equal(second.state_dict(), straight.state_dict())
