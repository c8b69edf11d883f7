"""Someone between two people: at the ends they themselves, between them every number between theirs."""

from dataclasses import fields

import numpy as np
import pytest

from stages.world import build_head, sample_traits
from stages.world.mixup import mix_traits

ONE, OTHER = sample_traits(3, seed=1), sample_traits(8, seed=1)


def flat(traits):
    """All numbers of a person by name."""
    return {field.name: np.ravel(np.asarray(getattr(traits, field.name), np.float64)) for field in fields(traits)}


def same(first, second):
    return all(np.allclose(a, b, atol=1e-6) for a, b in zip(flat(first).values(), flat(second).values(), strict=True))


def test_at_the_ends_it_is_one_of_the_two():
    for ratio, person in ((1.0, ONE), (0.0, OTHER)):
        mixed = mix_traits(ONE, OTHER, ratio)
        assert all(np.array_equal(a, b) for a, b in zip(flat(mixed).values(), flat(person).values(), strict=True))
        assert type(mixed.moles) is int


@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.65])
def test_every_number_is_mixed_and_the_rest_is_the_larger_shares(ratio):
    mixed, one, other = (flat(some) for some in (mix_traits(ONE, OTHER, ratio), ONE, OTHER))
    larger = ONE if ratio > 0.5 else OTHER
    for name, value in mixed.items():
        if name in ("identity", "seed", "hair_red"):
            assert value == getattr(larger, name)
        else:
            between = ratio * one[name] + (1 - ratio) * other[name]
            np.testing.assert_allclose(value, np.round(between) if name == "moles" else between, atol=1e-6)
    assert same(mix_traits(OTHER, ONE, 1 - ratio), mix_traits(ONE, OTHER, ratio))


def test_the_mixture_is_a_person_that_can_be_built():
    mixed = mix_traits(ONE, OTHER, 0.4)
    assert sum(mixed.ancestry) == pytest.approx(1)
    assert mixed.shape.dtype == np.float32
    points = [build_head(some).vertices for some in (ONE, mixed, OTHER)]
    assert len({some.shape for some in points}) == 1
    whole = np.linalg.norm(points[0] - points[2])
    assert all(0.2 * whole < np.linalg.norm(points[1] - end) < whole for end in (points[0], points[2]))
