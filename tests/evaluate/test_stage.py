"""The stage from files to files, against the protocols done by hand on the same embeddings."""

import json
import pickle
import shutil

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from stages.align.knobs import Align
from stages.evaluate import stage
from stages.evaluate.benchmarks import Images, ProtocolError
from stages.evaluate.embeddings import load_network
from stages.evaluate.knobs import Evaluate
from stages.evaluate.metrics import roc
from stages.evaluate.pairs import accuracy, validation
from stages.evaluate.readers import read_benchmarks
from stages.evaluate.results import Row, parse, power
from stages.evaluate.stage import Scored, add_curve, evaluate_file, hardest, measure, run
from stages.evaluate.templates import identify
from stages.params import Params
from stages.store import StoreError, decode, encode
from tests.evaluate.conftest import jpeg

OFFICIAL = {"params": Evaluate(), "align": Align()}


@pytest.fixture
def root(tmp_path, encoder, bin_file, ijb, rfw, monkeypatch):
    """A workspace with a network, quicker than a trained one, and three benchmarks."""

    def quick(path, device):
        return load_network(encoder if path.is_file() else path, device=device)

    monkeypatch.setattr(stage, "load_network", quick)
    (tmp_path / "data/train").mkdir(parents=True)
    (tmp_path / "data/train/backbone.safetensors").write_bytes(b"a network")
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
    assert {"quality.rank1", "quality.rank5", "quality.rank10", "quality.tpir@fpir=1e-1"} <= numbers.keys()
    assert {row.name: row.kind for row in parse(numbers)} == {
        "groups.African": "pairs",
        "groups.Asian": "pairs",
        "groups": "groups",
        "quality": "templates",
        "random": "pairs",
    }
    assert numbers["protocol"] == "insightface"
    for row in parse(numbers):
        within = {"accuracy": row.accuracy, "auc": row.auc, "mean": row.mean, "gap": row.gap}
        within |= {f"tar@far={power(far)}": rate for far, rate in row.tar.items()}
        assert set(row.intervals) == {name for name, value in within.items() if value is not None}
        assert all(low <= within[name] <= high for name, (low, high) in row.intervals.items())
    assert all(value == round(value, 2) for value in numbers.values() if isinstance(value, float))
    names = {"random", "quality", "groups.African", "groups.Asian"}
    assert {path.stem for path in (root / "plots/roc").iterdir()} == names
    assert {path.name for path in (root / "plots/scores").iterdir()} == {n + s for n in names for s in (".csv", ".png")}
    assert {path.stem for path in (root / "plots/pairs").iterdir()} == names
    assert {path.stem for path in (root / "plots/folds").iterdir()} == names - {"quality"}
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


def embeddings_by_hand(encoder, encoded):
    batch = np.stack([decode(image) for image in encoded])
    forward = load_network(encoder).forward
    return forward(batch).astype(float), forward(np.ascontiguousarray(batch[:, :, ::-1])).astype(float)


def test_pairs_by_hand(encoder, bin_file):
    images, same = pickle.loads(bin_file.read_bytes())
    same = np.array(same)
    original, mirrored = embeddings_by_hand(encoder, images)
    for flip in (True, False):
        vectors = original + mirrored if flip else original
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        left, right = vectors[::2], vectors[1::2]
        cosines = (left * right).sum(1)
        for protocol in ("insightface", "adaface"):  # one rule
            found = evaluate_file(encoder, bin_file, params=Evaluate(flip=flip, protocol=protocol), align=None)
            assert found["protocol"] == protocol
            by_hand = accuracy(left, right, same, 10)
            assert found["random"] == pytest.approx(100 * by_hand.mean, abs=0.0051)
            assert found["random.std"] == pytest.approx(100 * by_hand.std, abs=0.0051)
            assert found["random.auc"] == pytest.approx(100 * roc_auc_score(same, cosines), abs=0.0051)


def test_templates_by_hand(encoder, ijb):
    (benchmark,) = read_benchmarks(ijb)
    encoded = [benchmark.images.encoded(number) for number in range(17)]
    from stages.align.warp import similarity, warp

    points = benchmark.images.landmarks.points
    batch = np.stack([warp(decode(image), similarity(p[None])[0]) for image, p in zip(encoded, points, strict=True)])
    forward = load_network(encoder).forward
    features = forward(batch) + forward(np.ascontiguousarray(batch[:, :, ::-1]))
    templates = {}
    for number in np.unique(benchmark.template):
        total = 0
        for medium in np.unique(benchmark.media[benchmark.template == number]):
            rows = benchmark.image[(benchmark.template == number) & (benchmark.media == medium)]
            total = total + np.mean(features[rows] * benchmark.detector_scores[rows][:, None], axis=0)
        templates[number] = total / np.linalg.norm(total)
    scores = np.array([templates[a] @ templates[b] for a, b in zip(benchmark.first, benchmark.second, strict=True)])
    found = evaluate_file(encoder, ijb, **OFFICIAL)
    assert found["quality.auc"] == pytest.approx(100 * roc_auc_score(benchmark.same, scores), abs=0.0051)
    curve = roc(scores, benchmark.same)
    rates = np.linspace(0.1, 0.9, 81)  # of which one tells the two ways of reading apart
    far = next(float(far) for far in rates if curve.tar_near_far(far)[0] != curve.tar_at_far(far)[0])
    for nearest, tar in ((True, curve.tar_near_far(far)[0]), (False, curve.tar_at_far(far)[0])):
        numbers = evaluate_file(encoder, ijb, params=Evaluate(far=(far,), nearest_far=nearest), align=None)
        assert numbers[f"quality.tar@far={power(far)}"] == round(100 * tar, 2)
    galleries, probes = benchmark.search.galleries, benchmark.search.probes
    gallery = np.concatenate(galleries)
    ranks = []
    for template, subject in probes:
        order = np.argsort([-templates[template] @ templates[other] for other in gallery[:, 0]])
        ranks.append(1 + gallery[order, 1].tolist().index(subject))
    assert found["quality.rank1"] == round(100 * np.mean(np.array(ranks) == 1), 2)
    assert found["quality.rank5"] == 100
    apart = evaluate_file(encoder, ijb, params=Evaluate(search="galleries"), align=None)
    vectors = [(np.stack([templates[t] for t in part[:, 0]]), part[:, 1]) for part in (*galleries, probes)]
    by_hand = identify(*vectors[-1], vectors[:-1], "galleries")
    assert apart["quality.tpir@fpir=1e-1"] == round(100 * by_hand.tpir[1e-1], 2)
    assert apart["quality.rank1"] == round(100 * by_hand.rank[1], 2)
    _, scored = measure(load_network(encoder), [benchmark], Evaluate(), None)
    for side, wanted in (("first", benchmark.first), ("second", benchmark.second)):
        shown = getattr(scored["quality"], side)  # an image of each template stands for it
        assert all((benchmark.template[benchmark.image == i] == t).any() for i, t in zip(shown, wanted, strict=True))
    other = evaluate_file(encoder, ijb, params=Evaluate(detector=False, norm=False), align=None)
    assert other["quality.variant"] == "N0D0F1"


def test_out_and_params(tmp_path, encoder, rfw, capsys):
    out = tmp_path / "out" / "numbers.json"
    numbers = evaluate_file(encoder, rfw, out=out, **OFFICIAL)
    assert json.loads(out.read_text()) == numbers == json.loads(capsys.readouterr().out)
    accuracies = [numbers["groups.African"], numbers["groups.Asian"]]
    assert numbers["groups.mean"] == pytest.approx(np.mean(accuracies), abs=0.0051)
    assert numbers["groups.std"] == pytest.approx(np.std(accuracies), abs=0.0051)
    assert numbers["groups.gap"] == pytest.approx(np.ptp(accuracies), abs=0.0051)


def test_faces_that_are_not_found_are_counted(tmp_path, encoder):
    folder = tmp_path / "photos"
    for name in ("A/1.jpg", "A/2.jpg", "B/1.jpg", "B/2.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(len(name), 64))
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("2 1\nA\t1.jpg\t2.jpg\nA\t1.jpg\tB\t1.jpg\nB\t1.jpg\t2.jpg\nB\t2.jpg\tA\t2.jpg\n")
    assert evaluate_file(encoder, folder, pairs, **OFFICIAL)["photos.no_face"] == 4
    assert "photos.no_face" not in evaluate_file(encoder, folder, pairs, params=Evaluate(), align=None)


def test_the_detector_of_a_benchmark_by_path_has_the_knobs_that_are_given(tmp_path, encoder, monkeypatch):
    asked = []
    monkeypatch.setattr(stage.embeddings, "_detector", lambda align: asked.append(align) or detector(align))
    detector = stage.embeddings.detector
    for name in ("A/1.jpg", "A/2.jpg", "B/1.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(jpeg(len(name), 64))
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("1\nA\t1.jpg\t2.jpg\nA\t1.jpg\tB\t1.jpg\n")
    evaluate_file(encoder, tmp_path / "photos", pairs, params=Evaluate(), align=Align(min_face=33))
    assert {align.min_face for align in asked} == {33}


def test_all_genuine_has_an_accuracy_and_no_curve():
    row = Row("a")
    add_curve(row, roc(np.arange(5.0), np.ones(5, bool)), [0.1], lambda far: (0.0, 0.0))
    assert row == Row("a")


@pytest.mark.parametrize(("far", "measured"), [(0.1, True), (0.09, False)])
def test_a_far_is_measured_from_one_impostor_pair_on(far, measured):
    row = Row("a")
    curve = roc(np.arange(20.0), np.arange(20) % 2 == 0)
    add_curve(row, curve, [far], curve.tar_at_far)
    assert row.tar == ({far: 100 * curve.tar_at_far(far)[0]} if measured else {})


def test_the_validation_rate_of_a_benchmark_that_is_large_enough(monkeypatch, encoder, bin_file):
    assert not [key for key in evaluate_file(encoder, bin_file, **OFFICIAL) if ".val@" in key]
    monkeypatch.setattr(stage, "VALIDATION_FAR", 0.2)  # 9 impostor pairs in the other folds
    images, same = pickle.loads(bin_file.read_bytes())
    original, mirrored = embeddings_by_hand(encoder, images)
    vectors = original + mirrored
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    wanted = validation(vectors[::2], vectors[1::2], np.array(same), 10, 0.2)
    assert evaluate_file(encoder, bin_file, **OFFICIAL)["random.val@far=2e-1"] == round(100 * wanted, 2)


def scored_by(scores, same):
    """Scored pairs of pictures that show their own numbers: pair k is of the images 2k and 2k + 1."""
    images = [encode(np.full((112, 112, 3), number, np.uint8)) for number in range(2 * len(scores))]
    shown = Images([str(n) for n in range(len(images))], images.__getitem__, "digest", aligned=True)
    numbers = np.arange(len(scores))
    return Scored(scores, same, shown, 2 * numbers, 2 * numbers + 1, roc(scores, same))


def test_the_hardest_pairs():
    scores = np.random.default_rng(0).permutation(60) / 100
    same = np.arange(60) % 3 == 0
    sheet = hardest(scored_by(scores, same), None)
    wanted = {
        "hardest genuine pairs": sorted(np.flatnonzero(same), key=lambda pair: scores[pair])[:10],
        "hardest impostor pairs": sorted(np.flatnonzero(~same), key=lambda pair: -scores[pair])[:10],
    }
    assert list(sheet) == list(wanted)
    for title, pairs in wanted.items():
        shown = [(int(left[0, 0, 0]) // 2, int(right[0, 0, 0]) // 2, score) for left, right, score in sheet[title]]
        assert shown == [(pair, pair, scores[pair]) for pair in pairs]
        assert all(left[0, 0, 0] + 1 == right[0, 0, 0] for left, right, _ in sheet[title])
    assert list(hardest(scored_by(scores, np.ones(60, bool)), None)) == ["hardest genuine pairs"]


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
    with pytest.raises(ProtocolError, match="benchmarks of one name"):
        run(Params(), root)


def test_too_few_pairs_for_the_folds(root):
    (root / "data/benchmarks/random.bin").write_bytes(pickle.dumps(([jpeg(0), jpeg(1)] * 3, [True, False, True])))
    with pytest.raises(ProtocolError, match="random: 3 pairs in 10 folds"):
        run(Params(), root)


def test_a_fault_of_the_program_is_no_fault_of_a_protocol(root, monkeypatch):
    def fault(*_):
        raise ValueError("a fault of the program")

    monkeypatch.setattr(stage.pairs, "accuracy", fault)
    with pytest.raises(ValueError, match="a fault of the program"):
        run(Params(), root)
