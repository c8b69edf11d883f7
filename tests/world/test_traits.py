"""Persons: the same by number, apart by population, and one trait changed is one trait changed."""

from dataclasses import fields, replace

import numpy as np

from stages.world.assets import load
from stages.world.traits import OLDEST, WORLD_RANGES, YOUNGEST, sample_traits


def equal(a, b):
    return all(np.array_equal(getattr(a, field.name), getattr(b, field.name)) for field in fields(a))


def test_a_number_is_a_person():
    assert equal(sample_traits(7), sample_traits(7))
    assert not equal(replace(sample_traits(8), identity=7), sample_traits(7))
    assert not equal(replace(sample_traits(7, seed=1), seed=0), sample_traits(7))


def test_populations_are_ten_million_apart():
    first = sorted(WORLD_RANGES.values())
    assert np.diff(first).min() >= 10_000_000
    assert len(set(first)) == len(WORLD_RANGES)


def test_values_lie_within_their_ranges():
    people = [sample_traits(i) for i in range(300)]
    assert all(YOUNGEST <= p.age <= OLDEST for p in people)
    assert all(abs(sum(p.ancestry) - 1) < 1e-9 and min(p.ancestry) > -1e-9 for p in people)
    assert all(0 <= getattr(p, name) <= 1 for p in people for name in ("sex", "muscle", "weight", "curl", "texture"))
    assert 0.4 < np.mean([p.sex > 0.5 for p in people]) < 0.6
    shapes = np.stack([p.shape for p in people])
    assert shapes.shape == (300, len(load().parameters), 2)
    assert np.abs(shapes).max() < 1
    assert np.abs(shapes[..., 0] - shapes[..., 1]).mean() < 0.3 * np.abs(shapes).mean()  # faces are nearly symmetric


def test_age_and_grey_follow_years():
    person = replace(sample_traits(1), grey_from=50.0)
    assert [replace(person, age=age).elderly for age in (18, 20, 50, 80)] == [0, 0, 0.5, 1]
    assert [replace(person, age=age).grey for age in (30, 50, 62.5, 75)] == [0, 0, 0.5, 1]
