"""Skin: tone by melanin, a texture within its ranges, a hairline that recedes with age."""

from dataclasses import replace

import numpy as np
import pytest

from stages.world import sample_traits, skin


@pytest.fixture(scope="module")
def person():
    return replace(sample_traits(5), ancestry=(0.3, 0.3, 0.4), hue=(0.0, 0.0))


def test_more_melanin_is_darker_in_every_colour(person):
    tones = np.array([skin.tone(replace(person, melanin=m)) for m in np.linspace(-2, 2, 9)])
    assert (np.diff(tones, axis=0) < 0).all()
    assert ((tones > 0) & (tones < 1)).all()


def test_skin_is_redder_than_green_than_blue(person):
    for melanin in (-2.0, 0.0, 2.0):
        red, green, blue = skin.tone(replace(person, melanin=melanin))
        assert red > green > blue


def test_linear_inverts_srgb():
    from stages.world.film import encode

    values = np.linspace(0, 1, 64)
    assert np.allclose(encode(skin.linear(values)), values, atol=1e-6)


def test_texture_is_baked_alike_and_within_ranges(person):
    texture = skin.bake(person, np.random.default_rng(0))
    assert np.array_equal(texture, skin.bake(person, np.random.default_rng(0)))
    assert texture.shape == (skin.ROWS, skin.COLUMNS, 8)
    assert texture.dtype == np.float32
    assert texture[..., [0, 1, 2, 3, 6, 7]].min() >= 0
    assert np.abs(texture).max() <= 1


def test_hairline_recedes_at_the_temples_of_old_men(person):
    man = replace(person, sex=1.0, recession=1.0)
    temple = np.array([0.75])
    young, old = (skin.hairline(temple, replace(man, age=age))[0] for age in (20.0, 80.0))
    assert old > young + 0.2
    woman = replace(man, sex=0.0)
    assert skin.hairline(temple, replace(woman, age=80.0)) == skin.hairline(temple, replace(woman, age=20.0))
