import importlib
import shutil
from pathlib import Path

import pytest

STAGES = Path(__file__).parent.parent / "stages"
fingerprints = importlib.import_module("stages.store.fingerprint")  # the module, which bears its function's name


@pytest.fixture(scope="session", autouse=True)
def _a_cache_for_all(tmp_path_factory):
    """What a fixture of a wider scope runs never reaches the cache of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R2R_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    """A cache of the test's own."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("R2R_CACHE", str(folder))
    return folder


class Code:
    """A copy of this package's modules, which fingerprints read in its place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, text: str) -> None:
        """Add text at the end of a module, or a new one."""
        path = self.folder / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text((path.read_text() if path.exists() else "") + text)
        fingerprints.code_digest.cache_clear()


@pytest.fixture
def code(tmp_path_factory, monkeypatch) -> Code:
    folder = tmp_path_factory.mktemp("code") / "stages"
    shutil.copytree(STAGES, folder, ignore=lambda at, names: {n for n in names if not _is_code(Path(at, n))})
    monkeypatch.setattr(fingerprints, "PACKAGE", folder)
    return Code(folder)


def _is_code(path: Path) -> bool:
    return path.suffix == ".py" or (path.is_dir() and path.name != "__pycache__")
