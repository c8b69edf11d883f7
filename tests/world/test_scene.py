"""Scenes: drawn alike by number, within limits, and replaceable field by field."""

from dataclasses import replace

import numpy as np
import pytest

from stages.world import build_head, sample_scene, sample_traits
from stages.world.assets import load
from stages.world.renderer import _Frame


@pytest.fixture(scope="module")
def scenes():
    return [sample_scene(i, k) for i in range(100) for k in range(4)]


def test_numbers_are_a_scene():
    a, b = sample_scene(3, 1), sample_scene(3, 1)
    assert (a.yaw, a.expression, a.camera, a.background) == (b.yaw, b.expression, b.camera, b.background)
    assert len({sample_scene(3, k).yaw for k in range(4)} | {sample_scene(4, 1).yaw}) == 5


def test_draws_stay_within_limits(scenes):
    assert all(abs(s.yaw) <= 0.85 and abs(s.pitch) <= 0.40 for s in scenes)
    assert all(0 <= s.quality <= 1 for s in scenes)
    assert all(0 <= w <= 1 for s in scenes for w in s.expression.values())
    assert all(name in load().expression_index for s in scenes for name in s.expression)
    assert all(np.allclose(np.linalg.norm(s.light.directions, axis=1), 1) for s in scenes)
    assert all((s.light.colours >= 0).all() for s in scenes)


def test_draws_vary_as_stated(scenes):
    assert 0.25 < np.std([s.yaw for s in scenes]) < 0.45
    assert abs(np.mean([s.yaw for s in scenes])) < 0.08
    assert 0.07 < np.mean([s.glasses is not None for s in scenes]) < 0.20
    assert {s.background for s in scenes} == {"plain", "blurred", "lamps", "room", "outdoors"}
    assert {s.hair for s in scenes} == {0, 1, 2}


def test_yaw_carries_the_nose_across_the_frame():
    head = build_head(sample_traits(3))
    scene = replace(sample_scene(3, 1), pitch=0.0, roll=0.0, glasses=None)
    nose = int(np.argmax(load().vertices[:, 2] * (np.abs(load().vertices[:, 0]) < 0.05)))
    seen = []
    for yaw in (-0.5, 0.0, 0.5):
        frame = _Frame(head, replace(scene, yaw=yaw), False, 112)
        eyes = frame.project(frame.place(head.eyes).astype(np.float32))[:, 0].mean()
        seen.append(frame.project(frame.points)[nose, 0] - eyes)
    assert seen[0] < seen[1] - 5
    assert seen[2] > seen[1] + 5
