"""The stage from files to files, against the protocols done by hand on the same embeddings."""

import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from stages.evaluate import evaluate_file, run
from stages.evaluate.benchmarks import Images
from stages.evaluate.embeddings import load_network
from stages.evaluate.metrics import roc
from stages.evaluate.pairs import accuracy
from stages.evaluate.readers import read_benchmarks
from stages.evaluate.stage import Scored, add_curve, hardest, measure, power
from stages.evaluate.templates import identify
from stages.params import Evaluate, Params
from stages.store import StoreError, decode, encode
from tests.evaluate.conftest import jpeg


@pytest.fixture
def root(tmp_path, backbone, bin_file, ijb, rfw):
    """A workspace with a trained network and three benchmarks."""
    (tmp_path / "data/train").mkdir(parents=True)
    shutil.copy(backbone, tmp_path / "data/train/backbone.safetensors")
    bin_file.parent.rename(tmp_path / "data/benchmarks")
    return tmp_path


def test_run_writes_numbers_and_plots_and_a_second_run_the_same(root, cache):
    run(Params(), root)
    numbers = json.loads((root / "metrics/evaluate.json").read_text())
    assert {"random", "random.std", "random.auc", "random.eer", "random.tar@far=1e-1"} <= numbers.keys()
    assert "random.tar@far=1e-2" not in numbers  # ten impostor pairs cannot measure it
    assert {"groups.African", "groups.Asian", "groups.mean", "groups.std", "groups.gap"} <= numbers.keys()
    assert numbers["quality.variant"] == "N1D1F1"
    assert numbers["quality.unused"] == 1
    assert {"quality.rank1", "quality.rank5", "quality.tpir@fpir=1e-1"} <= numbers.keys()
    assert numbers["protocol"] == "insightface"
    assert all(value == round(value, 2) for value in numbers.values() if isinstance(value, float))
    names = {"random", "quality", "groups.African", "groups.Asian"}
    assert {path.stem for path in (root / "plots/roc").iterdir()} == names
    assert {path.name for path in (root / "plots/scores").iterdir()} == {n + s for n in names for s in (".csv", ".png")}
    assert {path.stem for path in (root / "plots/pairs").iterdir()} == names
    of_one = {path: path.read_bytes() for path in root.glob("plots/*/*")}
    assert (root / "plots/roc.png").is_file()
    assert (root / "plots/det.png").read_bytes() != (root / "plots/roc.png").read_bytes()

    shutil.rmtree(cache)
    (root / "data/benchmarks/random.bin").unlink()
    run(Params(), root)
    again = json.loads((root / "metrics/evaluate.json").read_text())
    assert again == {key: value for key, value in numbers.items() if not key.startswith("random")}
    for path, content in of_one.items():
        assert not path.exists() if path.stem == "random" else path.read_bytes() == content


def embeddings_by_hand(backbone, encoded):
    batch = np.stack([decode(image) for image in encoded])
    forward = load_network(backbone).forward
    return forward(batch).astype(float), forward(np.ascontiguousarray(batch[:, :, ::-1])).astype(float)


def test_pairs_by_hand(backbone, bin_file):
    images, same = pickle.loads(bin_file.read_bytes())
    same = np.array(same)
    original, mirrored = embeddings_by_hand(backbone, images)
    for flip in (True, False):
        vectors = original + mirrored if flip else original
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        left, right = vectors[::2], vectors[1::2]
        cosines = (left * right).sum(1)
        for protocol in ("insightface", "adaface"):
            found = evaluate_file(backbone, bin_file, params=Evaluate(flip=flip, protocol=protocol))
            by_hand = accuracy(left, right, same, 10, protocol)
            assert found["random"] == pytest.approx(100 * by_hand.mean, abs=0.0051)
            assert found["random.std"] == pytest.approx(100 * by_hand.std, abs=0.0051)
            assert found["random.auc"] == pytest.approx(100 * roc_auc_score(same, cosines), abs=0.0051)


def test_templates_by_hand(backbone, ijb):
    (benchmark,) = read_benchmarks(ijb)
    encoded = [benchmark.images.encoded(number) for number in range(17)]
    from stages.align.warp import similarity, warp

    points = benchmark.images.landmarks.points
    batch = np.stack([warp(decode(image), similarity(p[None])[0]) for image, p in zip(encoded, points, strict=True)])
    forward = load_network(backbone).forward
    features = forward(batch) + forward(np.ascontiguousarray(batch[:, :, ::-1]))
    templates = {}
    for number in np.unique(benchmark.template):
        total = 0
        for medium in np.unique(benchmark.media[benchmark.template == number]):
            rows = benchmark.image[(benchmark.template == number) & (benchmark.media == medium)]
            total = total + np.mean(features[rows] * benchmark.detector_scores[rows][:, None], axis=0)
        templates[number] = total / np.linalg.norm(total)
    scores = np.array([templates[a] @ templates[b] for a, b in zip(benchmark.first, benchmark.second, strict=True)])
    found = evaluate_file(backbone, ijb)
    assert found["quality.auc"] == pytest.approx(100 * roc_auc_score(benchmark.same, scores), abs=0.0051)
    curve = roc(scores, benchmark.same)
    rates = np.linspace(0.1, 0.9, 81)  # of which one tells the two ways of reading apart
    far = next(float(far) for far in rates if curve.tar_near_far(far)[0] != curve.tar_at_far(far)[0])
    for nearest, tar in ((True, curve.tar_near_far(far)[0]), (False, curve.tar_at_far(far)[0])):
        numbers = evaluate_file(backbone, ijb, params=Evaluate(far=(far,), nearest_far=nearest))
        assert numbers[f"quality.tar@far={power(far)}"] == round(100 * tar, 2)
    galleries, probes = benchmark.search.galleries, benchmark.search.probes
    gallery = np.concatenate(galleries)
    ranks = []
    for template, subject in probes:
        order = np.argsort([-templates[template] @ templates[other] for other in gallery[:, 0]])
        ranks.append(1 + gallery[order, 1].tolist().index(subject))
    assert found["quality.rank1"] == round(100 * np.mean(np.array(ranks) == 1), 2)
    assert found["quality.rank5"] == 100
    apart = evaluate_file(backbone, ijb, params=Evaluate(search="galleries"))
    vectors = [(np.stack([templates[t] for t in part[:, 0]]), part[:, 1]) for part in (*galleries, probes)]
    by_hand = identify(*vectors[-1], vectors[:-1], "galleries")
    assert apart["quality.tpir@fpir=1e-1"] == round(100 * by_hand.tpir[1e-1], 2)
    assert apart["quality.rank1"] == round(100 * by_hand.rank[1], 2)
    _, scored = measure(load_network(backbone), [benchmark], Evaluate())
    for side, wanted in (("first", benchmark.first), ("second", benchmark.second)):
        shown = getattr(scored["quality"], side)  # an image of each template stands for it
        assert all((benchmark.template[benchmark.image == i] == t).any() for i, t in zip(shown, wanted, strict=True))
    other = evaluate_file(backbone, ijb, params=Evaluate(detector=False, norm=False))
    assert other["quality.variant"] == "N0D0F1"


def test_out_and_params(tmp_path, backbone, rfw, capsys):
    out = tmp_path / "out" / "numbers.json"
    numbers = evaluate_file(backbone, rfw, out=out)
    assert json.loads(out.read_text()) == numbers == json.loads(capsys.readouterr().out)
    accuracies = [numbers["groups.African"], numbers["groups.Asian"]]
    assert numbers["groups.mean"] == pytest.approx(np.mean(accuracies), abs=0.0051)
    assert numbers["groups.std"] == pytest.approx(np.std(accuracies), abs=0.0051)
    assert numbers["groups.gap"] == pytest.approx(np.ptp(accuracies), abs=0.0051)


def test_faces_that_are_not_found_are_counted(tmp_path, backbone):
    folder = tmp_path / "photos"
    for name in ("A/1.jpg", "A/2.jpg", "B/1.jpg", "B/2.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(len(name), 64))
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("2 1\nA\t1.jpg\t2.jpg\nA\t1.jpg\tB\t1.jpg\nB\t1.jpg\t2.jpg\nB\t2.jpg\tA\t2.jpg\n")
    assert evaluate_file(backbone, folder, pairs)["photos.no_face"] == 4
    assert "photos.no_face" not in evaluate_file(backbone, folder, pairs, align=False)


def test_all_genuine_has_an_accuracy_and_no_curve():
    numbers = {}
    add_curve(numbers, "a", roc(np.arange(5.0), np.ones(5, bool)), [0.1], lambda far: (0.0, 0.0))
    assert numbers == {}


@pytest.mark.parametrize(("far", "measured"), [(0.1, True), (0.09, False)])
def test_a_far_is_measured_from_one_impostor_pair_on(far, measured):
    numbers = {}
    curve = roc(np.arange(20.0), np.arange(20) % 2 == 0)
    add_curve(numbers, "a", curve, [far], curve.tar_at_far)
    assert (f"a.tar@far={power(far)}" in numbers) == measured
    if measured:
        assert numbers["a.tar@far=1e-1"] == 100 * curve.tar_at_far(far)[0]


def scored_by(scores, same):
    """Scored pairs of pictures that show their own numbers: pair k is of the images 2k and 2k + 1."""
    images = [encode(np.full((112, 112, 3), number, np.uint8)) for number in range(2 * len(scores))]
    shown = Images([str(n) for n in range(len(images))], images.__getitem__, "digest", aligned=True)
    numbers = np.arange(len(scores))
    return Scored(scores, same, shown, 2 * numbers, 2 * numbers + 1, roc(scores, same))


def test_the_hardest_pairs():
    scores = np.random.default_rng(0).permutation(60) / 100
    same = np.arange(60) % 3 == 0
    sheet = hardest(scored_by(scores, same))
    wanted = {
        "hardest genuine pairs": sorted(np.flatnonzero(same), key=lambda pair: scores[pair])[:10],
        "hardest impostor pairs": sorted(np.flatnonzero(~same), key=lambda pair: -scores[pair])[:10],
    }
    assert list(sheet) == list(wanted)
    for title, pairs in wanted.items():
        shown = [(int(left[0, 0, 0]) // 2, int(right[0, 0, 0]) // 2, score) for left, right, score in sheet[title]]
        assert shown == [(pair, pair, scores[pair]) for pair in pairs]
        assert all(left[0, 0, 0] + 1 == right[0, 0, 0] for left, right, _ in sheet[title])
    assert list(hardest(scored_by(scores, np.ones(60, bool)))) == ["hardest genuine pairs"]


def test_power():
    assert [power(value) for value in (1e-6, 1e-2, 0.1, 5e-4)] == ["1e-6", "1e-2", "1e-1", "5e-4"]


@pytest.mark.parametrize("gone", ["data/train/backbone.safetensors", "data/benchmarks"])
def test_nothing_is_written_when_something_is_missing(root, gone):
    shutil.move(root / gone, root / "elsewhere")
    with pytest.raises(StoreError, match=gone):
        run(Params(), root)
    assert not (root / "metrics").exists()
    assert not (root / "plots").exists()


def test_broken_image_stops_before_anything_is_written(root):
    images, same = pickle.loads((root / "data/benchmarks/random.bin").read_bytes())
    images[7] = images[7][:40]
    (root / "data/benchmarks/random.bin").write_bytes(pickle.dumps((images, same)))
    with pytest.raises(StoreError, match=r"random\.bin, image 7: does not decode"):
        run(Params(), root)
    assert not (root / "metrics").exists()


def test_two_benchmarks_of_one_name(root):
    shutil.copytree(root / "data/benchmarks/quality", root / "data/benchmarks/random")
    with pytest.raises(StoreError, match="benchmarks of one name"):
        run(Params(), root)


def test_too_few_pairs_for_the_folds(root):
    (root / "data/benchmarks/random.bin").write_bytes(pickle.dumps(([jpeg(0), jpeg(1)] * 3, [True, False, True])))
    with pytest.raises(StoreError, match="random: 3 pairs in 10 folds"):
        run(replace(Params()), root)
