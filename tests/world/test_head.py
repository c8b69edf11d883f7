"""Heads: bounded, symmetric where the traits are, and moved by one trait at a time."""

from dataclasses import replace

import numpy as np
import pytest

from stages.world import build_head, sample_traits
from stages.world.assets import load


@pytest.fixture(scope="module")
def person():
    return sample_traits(11)


@pytest.fixture(scope="module")
def head(person):
    return build_head(person)


def mirror(vertices):
    """For each vertex of the base mesh its partner on the other side, as far as there is an exact one."""
    flipped = vertices * np.array([-1, 1, 1], np.float32)
    distance = np.linalg.norm(flipped[:, None] - vertices[None], axis=2)
    partner = distance.argmin(1)
    exact = distance[np.arange(len(vertices)), partner] < 1e-4
    return np.flatnonzero(exact), partner[exact]


def test_equal_sides_give_a_symmetric_face(person):
    assets = load()
    face = np.flatnonzero((assets.vertices[:, 1] > 6.3) & (assets.vertices[:, 2] > 1.0))
    kept, partner = mirror(assets.vertices[face])
    assert len(kept) > 0.9 * len(face)
    one_sided = np.array([p.region == "asym" or "trans-in" in p.name for p in assets.parameters])
    even = np.where(one_sided[:, None], 0, person.shape[:, :1]) * np.ones((1, 2))
    vertices = build_head(replace(person, shape=even.astype(np.float32))).vertices[face]
    apart = vertices[kept] * [-1, 1, 1] - vertices[partner]
    assert np.quantile(np.abs(apart), 0.95) < 0.02  # decimetres


def test_heads_stay_heads():
    widths, heights = [], []
    for identity in range(12):
        made = build_head(sample_traits(identity))
        assert np.isfinite(made.vertices).all()
        up = load().vertices[:, 1] > 6.5
        from_eyes = made.vertices[up] - made.eyes.mean(0)
        usual = load().vertices[up] - np.array([0, 7.284, 1.245])
        assert np.abs(from_eyes - usual).max() < 0.6  # decimetres
        widths.append(np.ptp(from_eyes[:, 0]))
        heights.append(from_eyes[:, 1].max())
    assert 1.3 < min(widths) < max(widths) < 2.7
    assert np.std(heights) > 0.01


def test_people_differ_more_than_their_halves(head):
    other = build_head(sample_traits(12))
    assert np.abs(head.vertices - other.vertices).mean() > 0.02
    assert not np.array_equal(head.texture, other.texture)


def test_age_moves_the_skin_and_keeps_the_person(person, head):
    old = build_head(replace(person, age=78.0))
    other = build_head(sample_traits(12))
    moved = np.abs(old.vertices - head.vertices).mean()
    assert 0 < moved < np.abs(other.vertices - head.vertices).mean() * 1.5
    assert np.array_equal(old.iris, head.iris)
    assert np.array_equal(old.teeth, head.teeth)


def test_ancestry_moves_tone_and_geometry(person):
    tones = []
    for ancestry in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)):
        made = build_head(replace(person, ancestry=ancestry))
        tones.append(made.texture[150:200, 110:146, :3].mean())
    assert tones[0] < tones[1] < tones[2]
