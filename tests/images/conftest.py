import pytest

from tests.images.forms import WRITERS


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache of the test's own, in which a file's date counts from the start."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("R2R_CACHE", str(folder))
    monkeypatch.setattr("stages.images.digests.SETTLED", -1)
    return folder


@pytest.fixture(params=WRITERS)
def write(request):
    """Files by name -> a folder or zip of them."""
    return WRITERS[request.param]
