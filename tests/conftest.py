import importlib
import shutil
from collections.abc import Iterator
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


BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync")


@pytest.fixture(scope="session")
def browser():
    """Chromium without a window; a test that asks for it is skipped where there is none."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium on this machine: install it (Debian: apt-get install chromium)")
    api = importlib.import_module("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """A page in Chromium: `tab`, and what it asked for beside itself or complained of.

    Its waits are long, as other tests take the processor.
    """

    def __init__(self, context, path: Path) -> None:
        self.asked: list[str] = []
        self.errors: list[str] = []
        self.tab = context.new_page()
        self.tab.set_default_timeout(120_000)
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.tab.goto(path.as_uri())
        self.asked.remove(path.as_uri())
        self.asked = [url for url in self.asked if not url.startswith(("data:", "blob:"))]


@pytest.fixture
def visit(browser) -> Iterator:
    """Open a file in Chromium, cut off from every network: visit(path, **options of the context)."""
    contexts = []

    def opened(path: Path, **options: object) -> Visit:
        contexts.append(browser.new_context(offline=True, **options))
        return Visit(contexts[-1], path)

    yield opened
    for context in contexts:
        context.close()
