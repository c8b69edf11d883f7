"""`dvc plots diff` without a network, as Chromium shows it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent


def test_plots_diff_shows_both_curves_without_a_network(tmp_path, visit) -> None:
    def run(*command: str) -> None:
        environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    run("git", "init", "-q")
    run("dvc", "init", "-q")
    for name in ("config", "plots.html"):
        shutil.copy(ROOT / ".dvc" / name, tmp_path / ".dvc" / name)
    (tmp_path / "dvc.yaml").write_text("plots: [{roc.csv: {x: fpr, y: tpr, title: The curves}}]\n")
    (tmp_path / "roc.csv").write_text("fpr,tpr\n0,0\n0.5,0.75\n1,1\n")
    run("git", "add", ".")
    run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-q", "-m", "one")
    (tmp_path / "roc.csv").write_text("fpr,tpr\n0,0\n0.5,0.5\n1,1\n")
    run("dvc", "plots", "diff", "-q")

    content = (tmp_path / "dvc_plots/index.html").read_text()
    assert "<script src" not in content
    page = visit(tmp_path / "dvc_plots/index.html")
    page.tab.wait_for_selector(".vega-embed canvas, .vega-embed svg")
    assert page.tab.evaluate("document.querySelector('.vega-embed').getBoundingClientRect().height") > 100
    drawn = page.tab.evaluate("document.querySelector('canvas').toDataURL().length")
    assert drawn > 5000  # not blank
    assert not page.asked
    assert not page.errors
