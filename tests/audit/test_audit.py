"""`r2r audit` from images to numbers, with a network that sees the mean colours of 8 x 8 tiles."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from stages.audit import command
from stages.audit.command import audit
from stages.audit.leakage import near_identities
from stages.audit.vectors import Vectors, seen
from stages.cli import app
from stages.evaluate.embeddings import Network
from stages.images import read_faces
from stages.knobs import ParamsError
from stages.store import StoreError, encode, write_shard


def tiles(images: np.ndarray) -> np.ndarray:
    """[b, 112, 112, 3] -> [b, 192], without the mean of all faces."""
    small = images.reshape(len(images), 8, 14, 8, 14, 3).mean(axis=(2, 4), dtype=np.float64) - 128
    return small.reshape(len(images), -1).astype(np.float32)


NETWORK = Network(Path("tiles"), "0" * 64, "rgb", "cpu", tiles)


def person(number: int, look: float = 30.0, image: int = 0) -> np.ndarray:
    """A pattern of an identity and one of the image."""
    own = np.random.default_rng(number).normal(0, 30, (8, 8, 3))
    other = np.random.default_rng((number, image, 1)).normal(0, look, (8, 8, 3))
    return np.clip(128 + own + other, 0, 255).astype(np.uint8).repeat(14, 0).repeat(14, 1)


def write(path: Path, images: dict[int, list[np.ndarray]]) -> Path:
    for identity, shots in images.items():  # a shard each
        columns = {"identity": np.full(len(shots), identity), "sample": np.arange(len(shots))}
        write_shard(path / f"{identity:05}.h5", columns, [encode(shot) for shot in shots])
    return path


@pytest.fixture
def reference(tmp_path):
    return write(tmp_path / "reference", {n: [person(n, image=k) for k in range(12)] for n in range(25)})


@pytest.fixture
def audited(tmp_path):
    """Ten people of five images: 105 is the reference's 7 with new images, two images of others are copies."""
    images = {100 + n: [person(100 + n, image=k) for k in range(5)] for n in range(10)}
    images[105] = [person(7, image=20 + k) for k in range(5)]
    jpeg = cv2.imdecode(cv2.imencode(".jpg", person(3, image=4), [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR)
    images[100][1] = jpeg
    images[102][0] = person(20, image=2)[:, ::-1]  # mirrored
    return write(tmp_path / "audited", images)


@pytest.fixture(autouse=True)
def tiled(monkeypatch):
    monkeypatch.setattr(command, "load_network", lambda path: NETWORK)


def run(audited, reference=None, **options):
    root = audited.parent
    numbers = audit(audited, reference, encoder=Path("tiles"), root=root, **options)
    assert numbers == json.loads((root / "metrics/audit.json").read_text())
    return numbers


def test_planted_people_and_copies_are_found(audited, reference, capsys):
    numbers = run(audited, reference, fmr=4e-3)
    assert numbers["copies"] == 2
    with (audited.parent / "plots/audit/pairs.csv").open() as file:
        rows = list(csv.DictReader(file))
    near = [row for row in rows if row["too_near"] == "1"]
    people, images = ([row for row in near if row["what"] == what] for what in ("identity", "image"))
    assert (people[0]["identity"], people[0]["reference_identity"]) == ("105", "7")
    assert float(people[0]["cosine"]) > numbers["identity_threshold"] + 0.3
    assert len(people) == numbers["near_identities"]  # 25 people have 300 pairs, of which one may pass: so may others
    names = ("identity", "sample", "reference_identity", "reference_sample")
    assert {tuple(int(row[name]) for name in names) for row in images} == {(100, 1, 3, 4), (102, 0, 20, 2)}
    assert [row["what"] for row in rows] == ["identity"] * 10 + ["image"] * 50
    for name in ("scores", "identities", "images", "pairs"):
        with Image.open(audited.parent / f"plots/audit/{name}.png") as picture:
            picture.load()
    said = capsys.readouterr().out
    assert "2 images are as near" in said
    assert "15.04" in said  # Digi2Real's
    assert "DigiFace-1M" in said


def flat(vectors: np.ndarray, images: int = 1) -> Vectors:
    """People of equal images, without a picture."""
    return Vectors(None, None, vectors.repeat(images, 0), vectors, np.ones(len(vectors)), 0)


def test_an_honest_set_is_as_near_as_the_reference_is_to_itself():
    """Of directions in 16 dimensions; half of the people of a set that leaks are the reference's."""
    draw = np.random.default_rng(0).normal(size=(3, 400, 16)).astype(np.float32)
    known, others, more = (flat(x / np.linalg.norm(x, axis=1, keepdims=True)) for x in draw)
    nearness, by_chance = near_identities(others, known, 1e-3)
    assert 0.2 < by_chance < 0.5  # of 399 comparisons each, and a rate of 1e-3
    assert abs(len(nearness.found) / 400 - by_chance) < 0.08
    assert np.sort(nearness.impostor)[-80:].min() == pytest.approx(nearness.threshold, abs=2e-3)  # 1e-3 of 79,800
    leaky = flat(np.concatenate([known.prototypes[:200], more.prototypes[:200]]))
    found = near_identities(leaky, known, 1e-3)[0]
    assert set(range(200)) == set(found.found[:200].tolist())
    assert found.index[:200].tolist() == list(range(200))


def test_the_reference_itself_is_all_leak(reference):
    numbers = run(reference, reference, fmr=4e-3)
    assert (numbers["near_identities_percent"], numbers["copies"]) == (100, 300)


def test_numbers_of_a_set_by_the_double_loop(audited):
    numbers = run(audited)
    faces = read_faces(audited)
    vectors = np.stack(
        [tiles(faces.image(row)[None])[0] + tiles(faces.image(row)[None, :, ::-1])[0] for row in range(50)]
    )
    vectors = vectors.astype(np.float64) / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = {True: [], False: []}
    for a in range(50):
        for b in range(a):
            pairs[bool(faces.identity[a] == faces.identity[b])].append(vectors[a] @ vectors[b])
    genuine, impostor = np.array(pairs[True]), np.array(pairs[False])
    assert (numbers["genuine_pairs"], numbers["impostor_pairs"]) == (100, 1125)
    expected = (genuine.mean() - impostor.mean()) ** 2 / (genuine.var() + impostor.var())
    assert numbers["fdr"] == pytest.approx(expected, abs=2e-4)
    for name, rate in (("fmr100", 1e-2), ("fmr1000", 1e-3)):
        threshold = min(t for t in [*genuine, *impostor] if (impostor >= t).mean() <= rate)
        assert numbers[name] == round(100 * (genuine < threshold).mean(), 2)
    assert numbers["identities"] == 10
    assert "copies" not in numbers


def test_a_set_is_seen_once_and_in_parts_alike(audited, monkeypatch):
    faces = read_faces(audited)
    options = {"detect": False, "flip": True, "batch_size": 7}
    with seen(faces, NETWORK, **options) as whole:
        images, halves = np.array(whole.images), whole.halves
        np.testing.assert_allclose(np.linalg.norm(whole.prototypes, axis=1), 1, atol=1e-6)
        odd, even = images[1:5:2].sum(axis=0), images[0:5:2].sum(axis=0)
        assert halves[0] == pytest.approx(odd @ even / np.linalg.norm(odd) / np.linalg.norm(even), abs=1e-6)
    monkeypatch.setattr("stages.images.faces.CHUNK", 3)
    monkeypatch.setattr("stages.audit.vectors.STEP", 4)
    with seen(faces, NETWORK, **options) as parts:
        np.testing.assert_array_equal(parts.images, images)
        np.testing.assert_array_equal(parts.halves, halves)
    blind = Network(NETWORK.path, NETWORK.digest, "rgb", "cpu", lambda images: pytest.fail("seen again"))
    with seen(faces, blind, **options):
        pass


def test_one_image_a_person_says_nothing_of_copies(audited, tmp_path, capsys):
    single = write(tmp_path / "single", {n: [person(n)] for n in range(25)})
    numbers = run(audited, single, fmr=4e-3)
    assert "copies" not in numbers
    assert numbers["near_identities"] >= 0
    assert "too few images" in capsys.readouterr().out


def test_what_cannot_be_audited_is_said(audited, reference, tmp_path):
    with pytest.raises(ParamsError, match=r"--fmr is 1e-05, but the reference has 25 people: at least 0\.003"):
        run(audited, reference, fmr=1e-5)
    with pytest.raises(StoreError, match="0 genuine and 3 impostor pairs"):
        run(write(tmp_path / "single", {n: [person(n)] for n in range(3)}))
    assert not (tmp_path / "metrics/audit.json").exists()
    grey = write(tmp_path / "grey", {1: [np.full((112, 112, 3), 128, np.uint8)] * 2})
    with pytest.raises(StoreError, match=r"00001\.h5, row 0: its embedding is zero"):
        run(grey)


def test_the_command_hands_over_its_options(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(command, "audit", lambda *files, **options: asked.append((files, options)))
    line = ["audit", "a", "--reference", "b", "--encoder", "c.onnx", "--fmr", "0.01", "--detect", "--no-flip"]
    result = CliRunner().invoke(app, [*line, "--out", "d"])
    assert result.exit_code == 0, result.output
    options = {"encoder": Path("c.onnx"), "fmr": 0.01, "detect": True, "flip": False, "root": Path("d")}
    assert asked == [((Path("a"), Path("b")), options)]
