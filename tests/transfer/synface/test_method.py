from dataclasses import replace

import numpy as np
import pytest

from stages.fetch.knobs import Fetch
from stages.knobs import ParamsError
from stages.params import Params
from stages.store import decode, write_shard
from stages.transfer.synface.knobs import Knobs
from stages.transfer.synface.method import Method
from stages.world import WORLD_RANGES
from stages.world.portraits import Portrait, Shot, photograph

PARAMS = Params(method="synface", n_ids=3, images_per_id=4, transfer=Knobs(identity_mixup=(0.5, 1.0)))
PLAIN = replace(PARAMS, transfer=Knobs())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    write_shard(root / "data/filter.h5", {"identity": np.array([4, 0, 2, 1]), "chosen": np.array([1, 1, 1, 0], bool)})
    return root


def test_without_mixup_the_images_are_the_sources(root):
    own = photograph(Portrait(WORLD_RANGES["source"] + 2, tuple(map(Shot, range(4))), "raster", 112, 0))
    portraits = Method(PLAIN, root).portraits(2)
    assert portraits.mixtures is None
    for image, picture in zip(portraits.images, own, strict=True):
        assert np.array_equal(image, decode(picture.encoded))


def test_another_person_is_in_each_image_by_their_share(root):
    """At a ratio of 1 it is the person; at 0.5 the face differs, and the scene stays."""
    method, plain = Method(PARAMS, root), Method(PLAIN, root).portraits(2)
    portraits, mixed = method.portraits(2), method.mixtures(2)
    assert set(mixed.partner) == {0, 4}  # 1 is not chosen
    assert (portraits.mixtures.ratio == mixed.ratio).all()
    assert 0 < (mixed.ratio < 1).sum() < 4
    for image, own, ratio in zip(portraits.images, plain.images, mixed.ratio, strict=True):
        assert np.array_equal(image, own) == (ratio == 1)
    asked = method.asked(2, np.eye(3)[:2])
    assert (np.isnan(asked).all(1) == (mixed.ratio < 1)).all()
    np.testing.assert_allclose(asked[mixed.ratio == 1], np.tile([0.5**0.5, 0.5**0.5, 0], ((mixed.ratio == 1).sum(), 1)))


def test_the_origin_knows_who_is_in_them(root, tmp_path):
    origins = [Method(params, root).origin(2) for params in (PARAMS, PLAIN, replace(PARAMS, seed=1))]
    origins += [Method(replace(PARAMS, fetch=Fetch(world_seed=1)), root).origin(2), Method(PARAMS, root).origin(4)]
    assert len({str(origin) for origin in origins}) == 5
    assert Method(replace(PARAMS, alpha=1.0), root).origin(2) == origins[0]
    assert Method(replace(PLAIN, seed=1), tmp_path).origin(2) == origins[1]  # asks for no other identity


def test_a_source_that_is_not_rendered_here():
    with pytest.raises(ParamsError, match=r"fetch\.source is digiface-1m, but method synface renders"):
        replace(PARAMS, fetch=Fetch(source="digiface-1m"))
