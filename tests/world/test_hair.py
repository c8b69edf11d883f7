"""Hair: rooted on the scalp, different by variant, the same by number."""

from dataclasses import replace

import numpy as np
import pytest

from stages.world import build_head, hair, sample_traits
from stages.world.assets import load
from stages.world.head import HAIR_VARIANTS


@pytest.fixture(scope="module")
def head():
    return build_head(replace(sample_traits(2), sex=0.0, age=30.0, curl=0.2))


def test_strands_root_on_the_scalp_and_not_on_the_face(head):
    strands = head.hair(0)[0]
    assert strands is not None
    roots = strands.positions.reshape(-1, strands.points, 3)[:, 0]
    assets = load()
    corners = head.vertices[assets.skin_faces]
    nearest = np.array([np.linalg.norm(corners.mean(1) - root, axis=1).min() for root in roots[:300]])
    # a bun floats behind the head
    assert np.mean(nearest < 0.15) > 0.8
    in_front = (roots[:, 2] > head.eyes[:, 2].mean()) & (roots[:, 1] < head.eyes[:, 1].mean())
    assert not in_front.any()


def test_variants_differ_and_are_kept(head):
    grown = [head.hair(variant)[0] for variant in range(HAIR_VARIANTS)]
    assert all(a is head.hair(variant)[0] for variant, a in enumerate(grown))
    shapes = {strands.positions.tobytes() for strands in grown}
    assert len(shapes) == HAIR_VARIANTS


def test_colour_is_lighter_by_tone_and_grey_by_age():
    person = replace(sample_traits(2), ancestry=(0.0, 0.0, 1.0), melanin=-2.0, hair_red=False, grey_from=40.0)
    tones = [hair.colour(replace(person, hair_tone=tone)).mean() for tone in (0.0, 0.5, 1.0)]
    assert tones == sorted(tones)
    assert tones[0] < tones[2]
    dark = hair.colour(replace(person, hair_tone=0.0))
    young, old = (hair.greyed(dark, replace(person, age=age)) for age in (30.0, 80.0))
    assert np.array_equal(young, dark)
    assert np.ptp(old) < 0.02 < old.mean()


def test_women_and_the_shaven_have_no_beard(head):
    assert head.hair(1)[1:] == (None, 0.0)
    man = replace(sample_traits(1), sex=1.0, beard_growth=0.2)
    assert all(hair.beard(load(), head.texture, man, variant)[0] is None for variant in range(4))
    bearded = replace(man, beard_growth=1.0)
    assert any(hair.beard(load(), head.texture, bearded, variant)[0] is not None for variant in range(8))
