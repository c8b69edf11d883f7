import json

import pytest

from stages import fit
from stages.params import Params
from stages.transfer import METHODS


@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_learns_nothing_leaves_a_word_and_no_more(tmp_path, method):
    (tmp_path / "data/fit").mkdir(parents=True)
    (tmp_path / "data/fit/of_another_method.pt").touch()
    fit.run(Params(method=method), tmp_path)
    for folder in ("data/fit", "plots/fit"):
        (only,) = (tmp_path / folder).iterdir()
        assert only.read_text() == f"method {method} learns nothing\n"
    assert json.loads((tmp_path / "metrics/fit.json").read_text()) == {"images": 0}
