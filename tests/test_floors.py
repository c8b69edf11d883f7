"""Imports run down the floors, and DVC knows of all that a stage runs."""

import pytest
import yaml

from tests.floors import ROOT, closure, imports, module_path, modules

STAGES = ["fetch", "embed", "filter", "gap", "fit", "synthesize", "judge", "align", "train", "evaluate", "report"]
# What a room lends to others, whatever their place in the flow: on the floor below the stages.
LENT = {
    "align": {"stages.align.faces", "stages.align.mtcnn", "stages.align.warp", "stages.align.knobs", "stages.align"},
    "train": {f"stages.train{name}" for name in ("", ".backbones", ".networks", ".costs")},
}
READ_BY_TRAIN = {"", ".benchmarks", ".embeddings", ".pairs", ".readers"}  # of evaluate: what chooses an epoch
GROUND = ["store", "knobs", "run", "timing", "images", "measures", "pictures", "training"]


def floor(module: str) -> float:
    """The height of a module: the ground's rooms in their order, then the stages."""
    room = module.split(".")[1] if "." in module else ""
    if room in GROUND:
        return GROUND.index(room)
    if module in LENT.get(room, ()):
        return len(GROUND)
    if room == "world":
        return len(GROUND) + 1
    if room == "transfer":
        return len(GROUND) + 2 + STAGES.index("filter") + 0.5  # methods: after what they are conditioned on
    name = module.removeprefix("stages.evaluate")
    if name in READ_BY_TRAIN or name.startswith(".readers"):
        return len(GROUND) + 2 + STAGES.index("align") + 0.5
    if room in STAGES:
        return len(GROUND) + 2 + STAGES.index(room)
    return 1000  # cli, params, doctor: over all


@pytest.mark.parametrize("module", [name for name in modules() if "." in name])
def test_a_module_imports_from_its_own_floor_or_below(module):
    above = {other for other in imports(module) if floor(other) > floor(module)}
    assert not above


def test_nothing_imports_the_report_but_the_map():
    users = {name for name in modules() if any(other.startswith("stages.report") for other in imports(name))}
    assert {name for name in users if not name.startswith("stages.report")} <= {"stages.params", "stages.doctor"}


def entry(stage: str) -> str:
    return f"stages.{stage}.stage" if module_path(f"stages.{stage}.stage") else f"stages.{stage}"


def rooms(stage: str) -> set[str]:
    """The rooms of the house that a stage runs: folders and files right below `stages/`."""
    needed = set(closure(entry(stage)))
    if "stages.transfer" in needed:  # it loads the method that the knob names
        for name in modules():
            if name.startswith("stages.transfer.") and name.endswith((".method", ".knobs")):
                needed |= closure(name)
    names = {name.split(".")[1] for name in needed}
    return {f"stages/{name}" if (ROOT / "stages" / name).is_dir() else f"stages/{name}.py" for name in names}


@pytest.mark.parametrize("stage", STAGES)
def test_the_deps_of_a_stage_are_the_rooms_that_it_imports(stage):
    deps = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]["deps"]
    assert {dep for dep in deps if dep.startswith("stages/")} == rooms(stage)


def test_no_output_is_kept_from_dvcs_run_cache():
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert not [out for stage in stages.values() for out in stage["outs"] if isinstance(out, dict)]
