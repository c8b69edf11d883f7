import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml

from stages.params import BLOCKS, Params, ParamsError, compose, load, parse, top
from stages.store import fingerprint
from stages.transfer import METHODS, knobs_of

CONF = Path(__file__).parent.parent / "conf"
PROFILES = sorted(path.stem for path in (CONF / "profile").glob("*.yaml"))


def test_params_yaml_is_what_conf_composes():
    assert (CONF.parent / "params.yaml").read_text() == compose([], CONF)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_with_every_method_states_every_knob_and_no_other(profile, method):
    values = yaml.safe_load(compose([f"profile={profile}", f"method={method}"], CONF))
    assert (values["profile"], values["method"]) == (profile, method)

    blocks = {
        name: {field.name for field in fields(cls)} for name, cls in (BLOCKS | {"transfer": knobs_of(method)}).items()
    }
    assert {name: set(block) for name, block in values.items() if isinstance(block, dict)} == blocks
    assert values.keys() == {field.name for field in fields(Params)}


def test_a_method_has_a_file_of_conf_and_a_line():
    assert sorted(path.stem for path in (CONF / "method").glob("*.yaml")) == sorted(METHODS)
    tuned = {path.relative_to(CONF / "tuned").with_suffix("").as_posix() for path in (CONF / "tuned").rglob("*.yaml")}
    assert tuned <= {f"{profile}/{method}" for profile in PROFILES for method in METHODS}


def test_an_override_reaches_its_knob(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(compose(["n_ids=1e2", "filter.score=mean", "evaluate.far=[1e-3,1e-2]"], CONF))
    params = load(path)
    assert params.n_ids == 100
    assert isinstance(params.n_ids, int)
    assert params.filter.score == "mean"
    assert params.evaluate.far == (1e-3, 1e-2)


def test_a_value_equal_but_for_its_type_is_the_same_run():
    values = yaml.safe_load(compose([], CONF))
    other = values | {"n_ids": 200.0, "alpha": 2, "gap": values["gap"] | {"weight": 1}}
    assert repr(parse(values)) == repr(parse(other))
    assert fingerprint(parse(values)) == fingerprint(parse(other))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_id": 3}, r"n_id: no such knob; did you mean n_ids\?"),
        ({"filtre": {}}, r"filtre: no such knob; did you mean filter\?"),
        ({"filter": {"scores": "max"}}, r"filter\.scores: no such knob; did you mean filter\.score\?"),
        ({"filter": 3}, "a block of knobs"),
        ({"filter": None}, "a block of knobs"),
        ({"n_ids": "many"}, "n_ids is 'many'"),
        ({"n_ids": 1}, "n_ids is 1: at least 2"),
        ({"n_ids": 1_000_000_000}, "n_ids is 1000000000: at most 100000000"),
        ({"seed": -1}, "seed is -1: at least 0"),
        ({"alpha": 0}, "alpha is 0: greater than 0"),
        ({"align": {"thresholds": [0.6, 0.7]}}, r"align\.thresholds"),
        ({"train": {"lr": math.inf}}, r"train\.lr is inf: a finite number"),
        ({"train": {"scale": 0}}, r"train\.scale is 0: greater than 0"),
        ({"train": {"backbone": "resnet99"}}, r"train\.backbone is 'resnet99': one of .*ir_50"),
        ({"train": {"device": "gpu"}}, r"train\.device is 'gpu': one of 'auto', 'cpu' or 'cuda'"),
        ({"train": {"epochs": 2, "warmup_epochs": 2}}, r"train\.warmup_epochs is 2\.0: less than train\.epochs = 2"),
        ({"evaluate": {"device": "gpu"}}, r"evaluate\.device is 'gpu'"),
        ({"report": {"rows": 0}}, r"report\.rows is 0: at least 1"),
        ({"fetch": {"workers": -1}}, r"fetch\.workers is -1: at least 0"),
        ({"method": "magic"}, "method is 'magic': one of .*arc2face"),
        ({"method": 3}, "method is 3"),
        ({"arc2face": {"steps": 3}}, "the block arc2face is called transfer now"),
        ({"method": "arc2face", "transfer": {"guidance": 0.5}}, r"transfer\.guidance is 0\.5: at least 1"),
        ({"method": "none", "transfer": {"steps": 3}}, r"transfer\.steps: no such knob"),
        ({"images_per_id": 11}, r"method none has only the source's fetch\.source_images_per_id = 10"),
        (
            {"method": "arc2face", "images_per_id": 26},
            r"transfer\.latents_per_id = 5 latents of transfer\.images_per_latent = 5 .* most 25",
        ),
    ],
)
def test_a_bad_knob_names_itself_its_value_and_its_range(values, message):
    with pytest.raises(ParamsError, match=message):
        parse(values)


def test_the_block_is_the_methods():
    arc2face = knobs_of("arc2face")()
    assert parse({"method": "arc2face"}).transfer == arc2face
    assert Params(method="arc2face").transfer == arc2face
    with pytest.raises(ParamsError, match="transfer is of another method than none"):
        replace(Params(method="arc2face"), method="none")


def test_top_is_what_people_type():
    assert top(parse({"n_ids": 7})) == {
        "profile": "embedded",
        "method": "none",
        "n_ids": 7,
        "images_per_id": 10,
        "alpha": 2.0,
        "seed": 0,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "not found.*make params"),
        ("a: [", "not YAML"),
        ("- 3", "no mapping of knobs"),
        ("n_ids: 1", r"n_ids is 1: .*git checkout .*params\.yaml"),
    ],
)
def test_a_file_that_does_not_do_says_what_does(tmp_path, text, message):
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ParamsError, match=message):
        load(path)
