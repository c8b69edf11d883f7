"""The paper profile end to end, through DVC: the real download code, loaders and stages on small official layouts."""

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from stages.world import WORLD_RANGES, Head, build_head, render, sample_scene, sample_traits
from tests.fetch import layouts
from tests.fetch.server import Server
from tests.test_pipeline import ROOT, Checkout
from tests.transfer.arc2face import tiny

LICENSES = "R-UDA-1.0,CC-BY-NC-SA-4.0,CreativeML-OpenRAIL-M,research-only,insightface-non-commercial"
# Sizes turned down, and nothing else, but for two: the small generator's images have no face, so they are kept without
# one; and `fetch.mirror` is the server.
SIZES = (
    "n_ids=8",
    "images_per_id=4",
    "fetch.target_images=20",
    "gap.n_images=16",
    "synthesize.ids_per_shard=3",
    "synthesize.workers=1",
    "judge.ids=4",
    "transfer.steps=4",
    "align.min_face=20",
    "align.missing=keep",
    "train.backbone=iresnet_tiny",
    "train.epochs=1",
    "train.batch_size=8",
    "train.workers=0",
    f"fetch.accept_licenses=[{LICENSES}]",
)

pytestmark = pytest.mark.slow


def rendered(look, size):
    @cache
    def head(person: int) -> Head:
        return build_head(sample_traits(WORLD_RANGES["second"] + person))

    @cache
    def picture(person: int, sample: int) -> np.ndarray:
        return render(head(person), sample_scene(WORLD_RANGES["second"] + person, sample), look, size)

    return picture


@pytest.fixture(scope="module")
def publisher(tmp_path_factory):
    """Everything that the paper profile asks for."""
    folder = tmp_path_factory.mktemp("publisher")
    layouts.digiface(folder, people=2, images=5, picture=rendered("raster", 112))
    photograph = rendered("camera", 128)
    layouts.target(folder, 20, lambda number, _: photograph(number // 5, number % 5))
    layouts.bins(
        folder / "archives/faces_webface_112x112.zip", 40, lambda person, k: photograph(person % 4, k)[8:120, 8:120]
    )
    layouts.generator(folder, tiny.pipeline(width=256), tiny.LENGTH)
    shutil.copy(ROOT / "stages/embed/encoder.onnx", folder / "hub/FoivosPar/Arc2Face/arcface.onnx")
    layouts.antelope(folder / "archives/antelopev2.zip", ROOT / "stages/embed/second.onnx")
    with Server(folder) as server:
        yield server


class Paper(Checkout):
    """A checkout on the paper profile."""

    def __init__(self, folder: Path, server: Server) -> None:
        super().__init__(folder)
        self.environment |= {"HF_ENDPOINT": f"{server.address}/hub", "OMP_NUM_THREADS": "1"}
        self("r2r", "params", "profile=paper", *SIZES, f"fetch.mirror={server.address}")


def test_the_paper_profile_runs_from_fetch_to_report(publisher, tmp_path):
    publisher.faults |= {
        "source/subjects_0-1999_72_imgs.zip": ["drop", "429"],
        "source/subjects_100000-133332_5_imgs.zip": ["short", "503", "slow"],
        "archives/faces_webface_112x112.zip": ["drop", "drop"],
        "hub/FoivosPar/Arc2Face/arcface.onnx": ["wrong", "drop"],
    }
    checkout = Paper(tmp_path, publisher)
    checkout("dvc", "repro")
    assert not any(publisher.faults.values())
    numbers = {path.stem: json.loads(path.read_text()) for path in (checkout.folder / "metrics").glob("*.json")}
    assert numbers["fetch"]["source_identities"] == 16
    assert numbers["fetch"]["source_identities_missing"] == 109_999 - 16
    assert numbers["embed"]["source_images"] == 80
    assert numbers["embed"]["target_images"] == 20
    assert numbers["align"]["written"] == 8 * 4
    assert {"lfw", "cfp_fp", "agedb_30", "calfw", "cplfw"} <= numbers["evaluate"].keys()
    assert "profile paper" in (checkout.folder / "plots/report.html").read_text()
    assert "Running stage" not in checkout("dvc", "repro")
    assert "lacks" not in checkout("r2r", "doctor")
