"""Small distributions in the official layouts, and a network to measure."""

from __future__ import annotations

import pickle
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from stages.train.backbones import Card, create_backbone, save_backbone
from tests.embed.onnx_files import one_layer

POINTS = "38.3 51.7 73.5 51.5 56.0 71.7 41.5 92.4 70.7 92.2"


def jpeg(number: int, size: int = 112) -> bytes:
    """A picture of its own for every number."""
    coarse = np.random.default_rng(number).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return cv2.imencode(".jpg", cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC))[1].tobytes()


def lines(path: Path, rows: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture(scope="session")
def backbone(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "backbone.safetensors"
    save_backbone(path, create_backbone("iresnet_tiny").eval(), Card("iresnet_tiny", 256))
    return path


@pytest.fixture(scope="session")
def encoder(tmp_path_factory) -> Path:
    """A network of one layer on 7 x 7 mean colours, quick to run."""
    return one_layer(tmp_path_factory.mktemp("encoder") / "encoder.onnx")


@pytest.fixture
def bin_file(tmp_path) -> Path:
    """Ten folds of one genuine and one impostor pair over 20 images."""
    images = [jpeg(number) for pair in range(20) for number in (pair, pair if pair % 2 == 0 else pair - 1)]
    path = tmp_path / "sets" / "random.bin"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps((images, [pair % 2 == 0 for pair in range(20)]), protocol=4))
    return path


@pytest.fixture
def ijb(tmp_path) -> Path:
    """Six templates of four subjects, two images a medium, one image in no template, galleries and probes."""
    root = tmp_path / "sets" / "quality"
    (root / "loose_crop").mkdir(parents=True)
    for number in range(1, 19):
        (root / "loose_crop" / f"{number}.jpg").write_bytes(jpeg(number))
    meta = root / "meta"
    media = [f"{n}.jpg {(n - 1) // 3 + 10} {(n - 1) // 2 + 1}" for n in range(1, 18)]
    lines(meta / "ijbx_face_tid_mid.txt", media[::-1])
    lines(meta / "ijbx_name_5pts_score.txt", [f"{n}.jpg {POINTS} 0.{50 + n}" for n in range(1, 19)])
    subject = {10: 1, 11: 1, 12: 2, 13: 3, 14: 3, 15: 2}
    pairs = [f"{a} {b} {int(subject[a] == subject[b])}" for a, b in combinations(range(10, 16), 2)]
    lines(meta / "ijbx_template_pair_label.txt", pairs)
    lines(meta / "ijbx_1N_gallery_G1.csv", ["TEMPLATE_ID,SUBJECT_ID", "10,1"])
    lines(meta / "ijbx_1N_gallery_G2.csv", ["TEMPLATE_ID,SUBJECT_ID", "12,2", "13,3"])
    probes = ["TEMPLATE_ID,SUBJECT_ID,FILENAME", "11,1,a.jpg", "11,1,b.jpg", "14,3,c.jpg", "15,2,d.jpg"]
    lines(meta / "ijbx_1N_probe_mixed.csv", probes)
    return root


@pytest.fixture
def rfw(tmp_path) -> Path:
    """Two groups of ten folds of one pair."""
    root = tmp_path / "sets" / "groups"
    for offset, group in enumerate(("African", "Asian")):
        people = [f"m.{group[:2]}{person}" for person in range(10)]
        landmarks = []
        for person, name in enumerate(people):
            folder = root / "data" / group / name
            folder.mkdir(parents=True)
            for number in (1, 2):
                (folder / f"{name}_000{number}.jpg").write_bytes(jpeg(100 * offset + person + number))
                points = POINTS.replace(" ", "\t")
                landmarks.append(f"/test/data/{group}/{name}/{name}_000{number}.jpg\t1\t{points}")
        pairs = [
            f"{name}\t1\t2" if person % 2 else f"{name}\t1\t{people[person - 1]}\t2"
            for person, name in enumerate(people)
        ]
        lines(root / "txts" / group / f"{group}_lmk.txt", landmarks)
        lines(root / "txts" / group / f"{group}_pairs.txt", pairs)
    return root
