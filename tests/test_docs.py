"""What README and docs/ tell people to type exists: commands, options, knobs, files."""

import re
import shlex
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
import typer
import yaml

from stages.cli import app
from stages.params import compose
from stages.transfer import METHODS
from tests.test_params import CONF, PROFILES

ROOT = Path(__file__).parent.parent
COMMANDS = typer.main.get_command(app).commands
ROOMS = ("stages/", "conf/", "docs/", "bench/", "pretrain/")
BLANK = re.compile(r"KNOB|PATH|…|\.\.\.")  # stands for what the reader fills in
SUFFIXES = "py md yaml json lock onnx npz bin rec idx lmdb html csv png pth txt h5 zip safetensors"


def code(text: str) -> list[str]:
    """The code of a text: the lines of its blocks without their comments, and what stands in backticks."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    lines = [re.sub(r"\s{2,}#.*", "", line) for block in blocks for line in block.splitlines()]
    return lines + re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


CODE = sorted(
    {(path.name, line) for path in (ROOT / "README.md", *ROOT.glob("docs/*.md")) for line in code(path.read_text())}
)
WORDS = {word for _, line in CODE for word in line.split()}


def typed(program: str) -> list[list[str]]:
    """The lines that begin with a program, in words."""
    return [shlex.split(line) for _, line in CODE if line.startswith(f"{program} ")]


@pytest.fixture(scope="module")
def knobs() -> set[str]:
    """The names of all knobs, in whichever profile, of whichever method."""
    found = set()
    chosen = [*(f"profile={profile}" for profile in PROFILES), *(f"method={method}" for method in METHODS)]
    for one in chosen:
        for block, values in yaml.safe_load(compose([one], CONF)).items():
            found |= {f"{block}.{name}" for name in values} if isinstance(values, dict) else {block}
    return found


def overrides(words: list[str]) -> list[str]:
    return [value for option, value in pairwise(words) if option == "-S" and "=" in value]


def test_something_is_read():
    assert len(typed("r2r")) > 8
    assert len(typed("dvc")) > 8


@pytest.mark.parametrize("words", typed("r2r"), ids=" ".join)
def test_a_command_has_its_options(words):
    _, name, *rest = words
    command = COMMANDS.get(name, COMMANDS["fetch"])
    if rest and rest[0] in getattr(command, "commands", ()):
        command = command.commands[rest[0]]
    options = {option for one in command.params for option in one.opts}
    assert name in COMMANDS or name in ("--help", "--version")
    assert {word for word in rest if word.startswith("-")} <= options


def test_knobs_exist(knobs):
    spans = {line for _, line in CODE if re.fullmatch(r"[a-z_]+\.[a-z_\d]+", line)}
    named = {span for span in spans if span.rpartition(".")[2] not in SUFFIXES.split()}
    assert len(named) > 20
    assert named <= knobs
    typed_in = {one.partition("=")[0] for _, line in CODE if "-S " in line for one in overrides(shlex.split(line))}
    assert {name for name in typed_in if not BLANK.search(name)} <= knobs


@pytest.mark.parametrize("line", [line for _, line in CODE if "-S " in line and "=" in line])
def test_knobs_can_have_their_values(line):
    chosen = [one for one in overrides(shlex.split(line)) if not BLANK.search(one)]
    swept = [[one] if "[" in one else one.split(",") for one in chosen]
    values = [[first, *(f"{first.partition('=')[0]}={value}" for value in more)] for first, *more in swept]
    for turn in range(max(map(len, values), default=0)):  # of a sweep, each value
        compose([some[min(turn, len(some) - 1)] for some in values], CONF)


def test_files_exist():
    named = {word.rstrip(",:") for word in WORDS if word.startswith(ROOMS)}
    assert len(named) > 10
    assert [name for name in named if not any(ROOT.glob(re.sub("PROFILE|METHOD", "*", name)))] == []


def test_make_and_python_know_theirs():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {words[1] for words in typed("make")} <= set(targets)
    modules = [words[2] for words in typed("python") if words[1] == "-m"]
    assert modules
    assert all(map(find_spec, modules))
