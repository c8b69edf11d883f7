"""The formats, read back by the rules of the official ones, and the protocols' balance."""

import pickle
from collections import Counter
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from stages.align.mtcnn import MTCNN
from stages.align.warp import ARCFACE_POINTS
from stages.run import loop
from stages.store import decode
from stages.world import benchmarks, datasets, sample_scene, sample_traits
from stages.world.datasets import make
from stages.world.portraits import photograph
from stages.world.traits import ANCESTRIES
from tests.world import fake


@pytest.fixture
def fake_world(monkeypatch, tmp_path):
    monkeypatch.setenv("R2R_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "photograph", fake.photograph)
    monkeypatch.setattr(datasets, "executor", lambda workers: loop)


def test_bin_has_ten_balanced_folds_of_disjoint_people(tmp_path, fake_world):
    dataset = benchmarks.pair_benchmark(tmp_path, "pose", 80, 112, 0)
    make([dataset])
    with (tmp_path / "pose.bin").open("rb") as file:
        images, same = pickle.load(file, encoding="bytes")
    assert len(images) == 160
    assert len(same) == 80
    assert set(map(type, same)) == {bool}
    assert set(map(type, images)) == {bytes}
    assert all(decode(image).shape == (8, 8, 3) for image in images[:4])

    owners = {}  # bytes -> person, side
    for person, portrait in enumerate(dataset.items):
        for side, picture in enumerate(fake.photograph(portrait)):
            owners[picture.encoded] = person, side
    seen: list[set[int]] = []
    for fold in range(10):
        pairs = range(8 * fold, 8 * fold + 8)
        assert [same[pair] for pair in pairs] == [True] * 4 + [False] * 4
        people = set()
        for pair in pairs:
            (left, left_side), (right, right_side) = (owners[images[2 * pair + side]] for side in (0, 1))
            assert (left_side, right_side) == (0, 1)
            assert (left == right) == same[pair]
            people |= {left, right}
        assert len(people) == 4
        seen.append(people)
    assert not any(a & b for a, b in combinations(seen, 2))
    assert set(Counter(images).values()) == {2}  # once in a genuine, once in an impostor pair


@pytest.mark.parametrize("people", [20, 50, 3000])
def test_folds_are_derangements(people):
    pairs = list(benchmarks.folds(people, np.random.default_rng(0)))
    assert len(pairs) == 2 * people
    assert sum(left == right for left, right in pairs) == people
    assert len(set(pairs)) == 2 * people


def test_age_pairs_show_two_heads_a_person():
    portraits = benchmarks.pair_benchmark(Path("x"), "age", 40, 112, 0).items
    assert len(portraits) == 40
    people = [portrait.identity for portrait in portraits]
    assert people[::2] == people[1::2] == sorted(set(people))
    assert portraits[0].shots[0].sample != portraits[1].shots[0].sample


def test_templates(tmp_path, fake_world):
    make([benchmarks.template_benchmark(tmp_path, 5, 112, 0)])
    meta = tmp_path / "quality" / "meta"
    media = np.loadtxt(meta / "quality_face_tid_mid.txt", dtype=str)
    points = np.loadtxt(meta / "quality_name_5pts_score.txt", dtype=str)
    pairs = np.loadtxt(meta / "quality_template_pair_label.txt", dtype=int)
    assert media[:, 0].tolist() == points[:, 0].tolist() == [f"{n}.jpg" for n in range(1, 36)]
    assert sorted(path.name for path in (tmp_path / "quality/loose_crop").iterdir()) == sorted(media[:, 0])
    assert points.shape == (35, 12)
    assert set(points[:, 1:11].astype(float).ravel()) == {8.0}
    assert set(points[:, 11].astype(float)) == {0.75}

    templates, mediums = media[:, 1].astype(int), media[:, 2].astype(int)
    assert np.unique(templates).tolist() == list(range(1, 16))
    owner = {medium: set(templates[mediums == medium]) for medium in mediums}
    assert all(len(of) == 1 for of in owner.values())  # a medium lies in one template
    assert Counter(Counter(mediums.tolist()).values()) == {1: 20, 3: 5}  # of a person four stills and a video

    person = {template: (template - 1) // 3 for template in range(1, 16)}
    assert len(pairs) == 15 * 14 // 2
    assert all(label == (person[a] == person[b]) for a, b, label in pairs)
    assert pairs[:, 2].sum() == 5 * 3

    rows = {
        name: np.loadtxt(meta / f"quality_1N_{name}.csv", dtype=str, skiprows=1, delimiter=",").astype(int)
        for name in ("gallery_G1", "gallery_G2", "probe_mixed")
    }
    assert all(person[template] == subject - 1 for table in rows.values() for template, subject in table)
    galleries = [set(rows[name][:, 1]) for name in ("gallery_G1", "gallery_G2")]
    assert galleries[0] | galleries[1] == {1, 2, 3, 4, 5}
    assert not galleries[0] & galleries[1]
    assert len(rows["probe_mixed"]) == 10


def test_groups(tmp_path, fake_world):
    make([benchmarks.group_benchmark(tmp_path, 40, 112, 0)])
    root = tmp_path / "groups"
    assert sorted(path.name for path in (root / "txts").iterdir()) == sorted(benchmarks.GROUPS)
    for group in benchmarks.GROUPS:
        images = set((root / "data" / group).rglob("*.jpg"))
        assert len(images) == 40
        landmarks = [line.split("\t") for line in (root / f"txts/{group}/{group}_lmk.txt").read_text().splitlines()]
        assert {root / line[0] for line in landmarks} == images
        assert all(len(line) == 12 and set(map(float, line[2:])) == {8.0} for line in landmarks)
        pairs = [line.split("\t") for line in (root / f"txts/{group}/{group}_pairs.txt").read_text().splitlines()]
        assert [len(pair) for pair in pairs] == [3, 3, 4, 4] * 10
        for pair in pairs:
            left, right = (pair[0], pair[1]), ((pair[0], pair[2]) if len(pair) == 3 else (pair[2], pair[3]))
            assert left != right
            for name, number in (left, right):
                assert root / "data" / group / name / f"{name}_000{number}.jpg" in images


def test_benchmarks_share_no_person(tmp_path):
    people = []
    for name in (*benchmarks.PROTOCOLS, benchmarks.VALIDATION):
        people.append(benchmarks.pair_benchmark(tmp_path, name, 60, 112, 0).items)
    people.append(benchmarks.template_benchmark(tmp_path, 5, 112, 0).items)
    people.append(benchmarks.group_benchmark(tmp_path, 40, 112, 0).items)
    sets = [{portrait.identity for portrait in portraits} for portraits in people]
    assert len(sets[-1]) == 4 * 20
    assert not any(a & b for a, b in combinations(sets, 2))
    assert all(20_000_000 <= identity < 30_000_000 for identities in sets for identity in identities)


def test_raster_shows_the_same_people_and_scenes(tmp_path):
    camera, raster = (benchmarks.pair_benchmark(tmp_path, "random", 40, 112, 0, look) for look in ("camera", "raster"))
    assert raster.path.name == "random-raster.bin"
    assert [(p.identity, p.shots, p.seed) for p in camera.items] == [
        (p.identity, p.shots, p.seed) for p in raster.items
    ]
    assert {portrait.look for portrait in raster.items} == {"raster"}


def test_variations():
    scene, traits = sample_scene(3, 1), sample_traits(3)
    for side, least, most in ((0, 0, 10), (1, 55, 75)):
        change = benchmarks.PROTOCOLS["profile"][side].scene
        yaws = np.degrees([change(scene, np.random.default_rng(n)).yaw for n in range(200)])
        assert (np.abs(yaws) >= least).all()
        assert (np.abs(yaws) <= most).all()
        assert 60 < (yaws > 0).sum() < 140
    ages = [side.traits(traits, np.random.default_rng(5)).age for side in benchmarks.PROTOCOLS["age"]]
    assert ages[1] - ages[0] == pytest.approx(30)
    for group, name in enumerate(ANCESTRIES):
        shares = [
            benchmarks.of_group(traits, np.random.default_rng(n), benchmarks.GROUPS[name]).ancestry for n in range(200)
        ]
        assert np.allclose(np.sum(shares, 1), 1)
        assert np.mean(shares, 0).argmax() == group
        assert np.mean(shares, 0)[group] == pytest.approx(0.9, abs=0.03)


def test_real_people_are_aligned_alike_in_any_process(tmp_path, monkeypatch):
    (portrait, *_) = benchmarks.pair_benchmark(tmp_path, "random", 40, 112, 0).items
    here = photograph(portrait)
    pictures = next(datasets.executor(1)(partial(datasets._with, photograph), [portrait]))
    assert [picture.encoded for picture in pictures] == [picture.encoded for picture in here]
    for faces in MTCNN().detect([decode(picture.encoded) for picture in here]):
        assert np.abs(faces.landmarks[0] - ARCFACE_POINTS).mean() < 4  # px
