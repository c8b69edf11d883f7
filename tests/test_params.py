from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import yaml

from stages.params import Params, ParamsError, compose, load, parse

CONF = Path(__file__).parent.parent / "conf"


def test_params_yaml_is_what_conf_composes():
    assert (CONF.parent / "params.yaml").read_text() == compose([], CONF)


@pytest.mark.parametrize("profile", sorted(path.stem for path in (CONF / "profile").glob("*.yaml")))
def test_every_profile_composes_and_states_every_knob(profile):
    values = yaml.safe_load(compose([f"profile={profile}"], CONF))
    assert values["profile"] == profile

    def missing(cls, values, where=""):
        for field in fields(cls):
            if field.name not in values:
                yield where + field.name
            elif is_dataclass(field.default_factory):
                yield from missing(field.default_factory, values[field.name], f"{where}{field.name}.")

    assert list(missing(Params, values)) == []


def test_an_override_reaches_its_knob(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(compose(["n_ids=1e2", "filter.score=mean", "evaluate.far=[1e-3,1e-2]"], CONF))
    params = load(path)
    assert params.n_ids == 100
    assert isinstance(params.n_ids, int)
    assert params.filter.score == "mean"
    assert params.evaluate.far == (1e-3, 1e-2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_id": 3}, "n_id: no such knob"),
        ({"filter": {"scores": "max"}}, r"filter\.scores: no such knob"),
        ({"filter": {"score": "best"}}, "'best': max or mean"),
        ({"filter": 3}, "a block of knobs"),
        ({"n_ids": "many"}, "n_ids is 'many'"),
        ({"n_ids": 1.5}, r"n_ids is 1\.5"),
        ({"n_ids": True}, "n_ids is True"),
        ({"n_ids": 1}, "at least 2"),
        ({"align": {"thresholds": [0.6, 0.7]}}, "2 values: 3 were expected"),
        ({"method": "magic"}, "method is 'magic'"),
        ({"images_per_id": 11}, r"method none has only the source's fetch\.source_images_per_id = 10"),
        (
            {"method": "arc2face", "images_per_id": 26},
            "latents_per_id = 5 latents of .*images_per_latent = 5 .* most 25",
        ),
        ({"gap": {"n_images": 3}}, r"gap\.n_images is 3"),
        ({"gap": {"branch": "none"}}, r"gap\.branch is 'none'"),
        ({"gap": {"batch_size": 0}}, r"gap\.batch_size is 0"),
        ({"synthesize": {"codec": "gif"}}, r"synthesize\.codec is 'gif'"),
        ({"synthesize": {"quality": 0}}, r"synthesize\.quality is 0"),
        ({"synthesize": {"ids_per_shard": 0}}, r"synthesize\.ids_per_shard is 0"),
        ({"synthesize": {"judge_ids": 1}}, r"synthesize\.judge_ids is 1"),
        ({"synthesize": {"workers": -1}}, r"synthesize\.workers is -1"),
        ({"arc2face": {"guidance": 0.5}}, r"arc2face\.guidance is 0\.5"),
        ({"arc2face": {"size": -8}}, r"arc2face\.size is -8"),
        ({"arc2face": {"precision": "fp8"}}, r"arc2face\.precision is 'fp8'"),
        *(
            ({"arc2face": {name: 0}}, rf"arc2face\.{name} is 0: at least 1")
            for name in ("steps", "latents_per_id", "images_per_latent", "batch_size", "decode_slice", "threads")
        ),
        *(
            ({"arc2face": {name: "x"}}, rf"arc2face\.{name} is 'x': one of")
            for name in ("order", "sources", "prototype")
        ),
    ],
)
def test_a_bad_knob_names_itself_its_value_and_its_range(values, message):
    with pytest.raises(ParamsError, match=message):
        parse(Params, values)


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(ParamsError, match="make params"):
        load(tmp_path / "params.yaml")
