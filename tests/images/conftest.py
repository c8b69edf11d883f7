import pytest

from tests.images.forms import WRITERS


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """A file's date counts from the start."""
    monkeypatch.setattr("stages.images.digests.SETTLED", -1)


@pytest.fixture(params=WRITERS)
def write(request):
    """Files by name -> a folder or zip of them."""
    return WRITERS[request.param]
