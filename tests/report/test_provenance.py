from dataclasses import replace
from importlib import metadata

import pytest
import yaml

from stages.fetch.knobs import Fetch
from stages.params import Params
from stages.report import provenance, stage
from stages.store import StoreError
from stages.timing import timed
from tests.report.test_report import PARAMS, read, root  # noqa: F401


def test_outputs_are_those_of_the_lock_but_the_pages_own(tmp_path):
    assert provenance.outputs(tmp_path) == []
    out = {"path": "data/align", "hash": "md5", "md5": "abc.dir", "size": 1500}
    lock = {"schema": "2.0", "stages": {"align": {"outs": [out]}, "report": {"outs": [out]}, "none": {}}}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(lock))
    assert provenance.outputs(tmp_path) == [["align", "data/align", "1.5 kB", "abc"]]
    lock["stages"] = {"train": {"outs": [out]}, "extra": {"outs": [out]}, **lock["stages"]}  # as they happened to run
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
    assert [row[0] for row in provenance.outputs(tmp_path)] == ["align", "train", "extra"]
    for broken in ("[", "stages: [1]", "stages: {a: {outs: [{}]}}"):
        (tmp_path / "dvc.lock").write_text(broken)
        with pytest.raises(StoreError, match=r"git checkout dvc\.lock"):
            provenance.outputs(tmp_path)


def test_data_have_the_licences_of_the_catalogue():
    embedded = {row[0]: row[2] for row in provenance.data(Params())}
    assert embedded == {"the embedded world": "MIT; the mesh CC0-1.0", "MTCNN": "MIT", "Vega": "BSD-3-Clause"}
    fetched = {
        row[0]: row for row in provenance.data(Params(fetch=Fetch(source="digiface-1m", target="/my/faces.zip")))
    }
    assert fetched["digiface-1m"][2] == "R-UDA-1.0"
    assert fetched["/my/faces.zip"][2] == "its owner's"


def test_programs_have_their_versions_and_licences():
    rows = {name.lower(): (version, license) for name, version, license in provenance.programs()}
    assert rows["torch"][0] == metadata.version("torch")
    assert "BSD" in rows["torch"][1]
    assert "Apache" in rows["dvc"][1]
    assert "pytest" not in rows  # an extra


def test_a_page_to_hand_on_has_times_and_the_pipelines_page_stays(root):  # noqa: F811
    stage.run(PARAMS, root)
    page = root / "plots/report.html"
    before = page.read_bytes()
    with timed("train", root):
        pass
    with timed("align", root):
        sum(range(3_000_000))
    stage.run(PARAMS, root, out=root / "handed.html")
    assert page.read_bytes() == before
    handed = (root / "handed.html").read_text()
    assert '<th scope="row">align</th><td>' in handed[handed.index("Time and cost") :]
    assert "this page's machine" in handed.replace("&#39;", "'")
    page.unlink()
    stage.run(replace(PARAMS), root)
    assert page.read_bytes() == before  # what it took is no part of it
    assert "Time and cost" not in read(root).text
