"""The picture of the pipeline against dvc.yaml."""

from pathlib import Path

import networkx
import yaml

from stages.report import pipeline

ROOT = Path(__file__).parents[2]


def flows() -> set[tuple[str, str]]:
    """Who takes what another makes, without what goes a longer way too."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    made = {out: name for name, stage in stages.items() for out in stage["outs"]}
    taken = {"${train.data}": "data/align"}  # the knob's value that names a stage's output
    graph = networkx.DiGraph()
    for name, stage in stages.items():
        for dep in stage["deps"]:
            maker = made.get(taken.get(dep, dep))
            if maker not in (None, name):
                graph.add_edge(maker, name)
    graph.remove_node("report")
    return set(networkx.transitive_reduction(graph).edges)


def test_the_picture_shows_what_flows():
    of_learners = {("fit", "synthesize")}  # of a method that learns, transfer.weights is what fit made
    assert set(pipeline.FLOWS) == flows() | of_learners


def test_what_had_nothing_to_do_says_so():
    metrics = {"fit": {"images": 0}, "gap": {"images": 4, "norm": 1.25}, "filter": {"chosen": 3}}
    stages = {stage.name: stage for stage in pipeline.picture(metrics, 2)["stages"]}
    assert stages["fit"].idle
    assert stages["judge"].text == "nothing to do"
    assert stages["gap"].text == "norm 1.25"
    assert not stages["gap"].idle
    assert stages["filter"].text == ""  # a number is missing
    assert stages["evaluate"].text == "2 benchmarks"
