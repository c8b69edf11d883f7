"""The prior that ships: small, readable, and one that knows the embedded world's faces."""

from pathlib import Path

from stages.store import file_digest
from stages.transfer.ddim import Inversion, load_prior, round_trip
from stages.transfer.ffhq import resize
from stages.world import WORLD_RANGES, build_head, render, sample_scene, sample_traits

METHODS = Path(__file__).parents[3] / "stages/transfer"
PRIOR = METHODS / "ddim/prior"


def test_it_is_small_and_its_vae_stands_in_git_once():
    assert sum(path.stat().st_size for path in (PRIOR / "unet").iterdir()) < 8e6
    for path in (PRIOR / "vae").iterdir():
        assert file_digest(path) == file_digest(METHODS / "arc2face/generator/vae" / path.name), path.name


def test_a_camera_face_comes_back_the_better_the_more_steps():
    person = WORLD_RANGES["second"]
    image = render(build_head(sample_traits(person)), sample_scene(person, 0), "camera", 112)
    prior = load_prior(PRIOR)
    face = resize(image[16:96, 16:96], prior.size)[None]
    few, many = (float(round_trip(prior, face, Inversion(steps, 0.5))[0]) for steps in (4, 20))
    assert few + 2 < many
    assert many > 22
