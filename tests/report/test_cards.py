import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from stages.fetch.knobs import Fetch
from stages.images import read_faces
from stages.params import Params, compose, parse
from stages.report import cards
from stages.report.stage import TEMPLATES, cell
from stages.store import StoreError, encode, write_shard
from stages.transfer.arc2face.knobs import Knobs

CONF = Path(__file__).parent.parent.parent / "conf"
PARAMS = Params(method="arc2face", n_ids=3, transfer=Knobs())
METRICS = {
    "filter": {"identities": 4, "chosen": 3, "pairs_above_threshold_chosen": 2},
    "synthesize": {"images": 15},
    "judge": {"judged_images": 10, "judged_identities": 2, "identity_consistency": 0.625, "without_face": 1},
    "align": {"images": 15, "missing": 1},
    "train": {"images": 1234, "identities": 3},
    "evaluate": {"random": 81.5, "random.std": 2.25, "groups.first": 70.0, "groups.mean": 71.25, "groups.std": 1.5}
    | {"groups.gap": 3.5, "protocol": "insightface"},
}
AUDIT = {"network": "ab" * 32, "fdr": 2.5, "eer": 7.25, "identities": 3, "identities_apart": 2}
LEAK = {"reference": "cd" * 32, "reference_identities": 5000, "near_identities": 1, "near_identities_percent": 33.33}
LEAK |= {"fmr": 1e-4, "reference_near_percent": 40.5, "copies": 7}


@pytest.fixture
def root(tmp_path):
    for shard in range(2):
        columns = {"identity": np.full(3, shard), "sample": np.arange(3, dtype=np.int32), "t": np.zeros(3)}
        images = [encode(np.full((112, 112, 3), 10 * shard + k, np.uint8)) for k in range(3)]
        write_shard(tmp_path / f"data/align/{shard:05}.h5", columns, images)
    return tmp_path


def write(root, params=PARAMS, **more) -> dict[str, str]:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = cell
    cards.write(params, root, METRICS | more, environment)
    return {path.name: path.read_text() for path in (root / "plots/cards").iterdir()}


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_cards_say_what_was_made_and_measured(root):
    files = write(root)
    assert files.keys() == {"dataset.md", "model.md", "croissant.json"}
    data, model = plain(files["dataset.md"]), plain(files["model.md"])
    for words in ("6 face images of 2 people", "of 4 of them the 3", "2 pairs", "15 images were made", "0.625"):
        assert words in data
    for words in ("1,234 images of 3", "| random | 81.5 | 2.25 |", "largest gap 3.5", "no number here is comparable"):
        assert words in model
    for name in ("dataset.md", "model.md"):
        front = yaml.safe_load(files[name].split("---\n")[1])
        assert front["license"] == "mit"
        assert "## Ethics" in files[name]
        assert "&" not in files[name]  # nothing is escaped as in HTML
    assert write(root) == files


def test_terms_of_all_that_it_is_made_with_are_inherited(root):
    params = parse(yaml.safe_load(compose(["profile=paper"], CONF)))
    files = write(root, params)
    data, croissant = files["dataset.md"], json.loads(files["croissant.json"])
    names = ("digiface-1m", "ffhq", "arc2face", "sd15")
    lines = {name: next(line for line in data.splitlines() if line.startswith(f"| {name} |")) for name in names}
    licenses = ("R-UDA-1.0", "CC-BY-NC-SA-4.0", "MIT-research-data", "CreativeML-OpenRAIL-M")
    for name, license in zip(names, licenses, strict=True):
        assert f"[{license}](https://" in lines[name]
        assert re.search(r"\((https://[^)]*)\)", lines[name])[1] in croissant["license"]
    assert "For non-commercial research only" in plain(data)
    assert "license: other" in data
    assert "not comparable" not in plain(files["model.md"])


def test_what_is_not_known_is_not_free(root):
    params = replace(PARAMS, fetch=Fetch(source="/somewhere/people"))
    assert (
        "| /somewhere/people | the people, rendered | not known | no | as its owner says |"
        in write(root, params)["dataset.md"]
    )
    elsewhere = replace(PARAMS, train=replace(PARAMS.train, data="data/training/casia-webface"))
    model = write(root, elsewhere)["model.md"]
    assert "| casia-webface | what is trained on | [research-only]" in model
    assert "the embedded world" not in model
    real = replace(PARAMS, real=replace(PARAMS.real, data="mine", n_ids=9))
    assert "| mine | 9 real people who are trained on too | not known |" in write(root, real)["model.md"]


def test_the_line_on_leakage_is_of_an_audit_of_these_very_images(root):
    assert "**Not audited**" in write(root)["dataset.md"]
    own = AUDIT | {"set": read_faces(root / "data/align").digest()}
    text = plain(write(root, audit=own)["dataset.md"])
    assert "FDR 2.5, EER 7.25 %; 2 of 3 identities" in text
    assert "**Not audited**" in text
    text = plain(write(root, audit=own | LEAK)["dataset.md"])
    assert "5,000 people of a reference set" in text
    assert "1 identities (33.33 %) are as near to one of them as 0.0001" in text
    assert "40.5 % are. 7 images are as near" in text
    other = plain(write(root, audit=own | LEAK | {"set": "0" * 64})["dataset.md"])
    assert "**Not audited**" in other
    assert "FDR" not in other


def test_croissant_keeps_its_rules(root):
    """Croissant 1.0: named and licensed; files with a digest; each id once, and each source one that is there."""
    card = json.loads(write(root)["croissant.json"])
    assert card["@type"] == "sc:Dataset"
    assert "http://mlcommons.org/croissant/1.0" in card["conformsTo"]
    assert card["@context"]["cr"] == "http://mlcommons.org/croissant/"
    assert re.fullmatch(r"[\w-]+", card["name"])
    assert card["description"]
    assert card["license"] == "https://opensource.org/license/mit"
    files = [part for part in card["distribution"] if part["@type"] == "cr:FileObject"]
    assert [file["contentUrl"] for file in files] == ["data/align/00000.h5", "data/align/00001.h5"]
    for file in files:
        content = (root / file["contentUrl"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
        assert file["contentSize"] == f"{len(content)} B"
    (records,) = card["recordSet"]
    ids = [part["@id"] for part in [*card["distribution"], records, *records["field"]]]
    assert len(set(ids)) == len(ids)
    assert {field["source"]["fileSet"]["@id"] for field in records["field"]} <= set(ids)
    kinds = {field["name"]: field["dataType"] for field in records["field"]}
    assert kinds == {"identity": "sc:Integer", "sample": "sc:Integer", "t": "sc:Float", "image": "sc:ImageObject"}
    used = {key for part in [card, *card["distribution"], records, *records["field"]] for key in part}
    terms = {key for key in used if not key.startswith(("@", "rai:"))}
    schema = {"name", "description", "license", "distribution", "contentUrl", "contentSize", "encodingFormat", "sha256"}
    assert terms <= schema | set(card["@context"])


def test_a_number_that_is_missing_is_said_and_nothing_is_written(root):
    with pytest.raises(StoreError, match="'dict object' has no attribute 'chosen'"):
        write(root, filter={"identities": 4})
    assert not (root / "plots").exists()
