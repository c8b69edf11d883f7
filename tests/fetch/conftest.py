import pytest

from tests.fetch import layouts
from tests.fetch.server import Server


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own."""
    monkeypatch.setenv("R2R_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """What a publisher, or a copy of data/, holds."""
    folder = tmp_path_factory.mktemp("held")
    layouts.digiface(folder, people=1, images=2)
    layouts.target(folder, 3)
    layouts.bins(folder / "archives/faces_webface_112x112.zip", 4)
    layouts.hub(folder, "arc2face")
    layouts.hub(folder, "sd15")
    return folder


@pytest.fixture
def server(held, monkeypatch):
    with Server(held) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"{server.address}/hub")
        yield server
