"""Templates and search against loops in the order of the official scripts."""

import math

import numpy as np
import pytest

from stages.evaluate.benchmarks import ProtocolError
from stages.evaluate.templates import Variant, contributions, identify, pool, rows_of, scores

VARIANTS = [Variant(n, d, f) for n in (False, True) for d in (False, True) for f in (False, True)]


def templates_by_loops(features, template, media):
    result = {}
    for number in sorted(set(template)):
        rows = [row for row in range(len(template)) if template[row] == number]
        total = 0
        for medium in sorted({media[row] for row in rows}):
            total = total + np.mean([features[row] for row in rows if media[row] == medium], axis=0)
        result[number] = total / np.sqrt(np.sum(np.square(total), dtype=np.float64))
    return result


@pytest.fixture
def sets():
    """Unsorted rows; media numbers shared between templates; templates of one image; an image used twice."""
    rng = np.random.default_rng(0)
    template = rng.choice([3, 8, 9, 40, 41, 1000], 60)
    template[:2] = 7, 6  # of one image each
    media = rng.integers(0, 5, 60)
    image = rng.permutation(60)
    image[5] = image[4]
    return rng.normal(size=(60, 12)), image, template, media


def test_pool_equals_the_loops(sets):
    features, image, template, media = sets
    ids, found = pool(features, image, template, media)
    wanted = templates_by_loops(features[image], template, media)
    assert ids.tolist() == list(wanted)
    np.testing.assert_allclose(found, np.stack(list(wanted.values())), rtol=0, atol=1e-12)


def test_pool_has_the_bits_of_the_official_sums_in_single_precision(sets):
    features, image, template, media = sets
    features = features.astype(np.float32)
    _, found = pool(features, image, template, media)
    for row, number in enumerate(np.unique(template)):
        means = []
        for medium in np.unique(media[template == number]):
            members = features[image[(template == number) & (media == medium)]]
            means.append(members if len(members) == 1 else np.mean(members, axis=0, keepdims=True))
        total = np.sum(np.array(means), axis=0)[0].astype(np.float64)
        np.testing.assert_allclose(found[row], total / np.linalg.norm(total), rtol=0, atol=1e-15)


def test_order_of_the_rows_does_not_matter(sets):
    features, image, template, media = sets
    order = np.random.default_rng(1).permutation(len(image))
    np.testing.assert_allclose(
        pool(features, image, template, media)[1],
        pool(features, image[order], template[order], media[order])[1],
        rtol=0,
        atol=1e-12,
    )


def test_a_medium_counts_once_however_many_frames_it_has():
    features = np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    _, found = pool(features, np.arange(4), np.ones(4, int), np.array([5, 5, 5, 6]))
    np.testing.assert_allclose(found, [[math.sqrt(0.5)] * 2])


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_contributions_equal_the_loops(variant):
    rng = np.random.default_rng(2)
    views, weights = rng.normal(size=(2, 9, 6)), rng.random(9)
    before = views.copy()
    found = contributions(views, weights, variant)
    for row in range(9):
        wanted = views[0, row] + views[1, row] if variant.flip else views[0, row]
        if not variant.norm:
            wanted = wanted / np.sqrt(np.sum(wanted**2))
        if variant.detector:
            wanted = wanted * weights[row]
        np.testing.assert_allclose(found[row], wanted, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(views, before)


def test_variants_bear_the_names_of_the_field():
    assert str(Variant()) == "N1D1F1"
    assert str(Variant(norm=True, detector=False, flip=True)) == "N1D0F1"


def test_scores_equal_the_cosines_and_ties_stay_ties(sets):
    features, image, template, media = sets
    ids, vectors = pool(features, image, template, media)
    vectors[1] = vectors[0]  # twins
    first, second = np.meshgrid(ids, ids)
    first, second = first.ravel(), second.ravel()
    found = scores(ids, vectors, first, second)
    for row in range(len(first)):
        a, b = vectors[ids.tolist().index(first[row])], vectors[ids.tolist().index(second[row])]
        assert found[row] == pytest.approx(sum(x * y for x, y in zip(a, b, strict=True)), abs=1e-12)
    table = found.reshape(len(ids), len(ids))
    np.testing.assert_array_equal(table, table.T)
    np.testing.assert_array_equal(table[0], table[1])


def test_pairs_of_an_unknown_template():
    ids = np.array([2, 5, 9])
    assert rows_of(ids, np.array([9, 2, 2])).tolist() == [2, 0, 0]
    for unknown in (1, 4, 10):
        with pytest.raises(ProtocolError, match=f"row 3 names template {unknown}"):
            rows_of(ids, np.array([2, 5, unknown]))


def test_broken_embeddings():
    views = np.ones((2, 4, 3))
    with pytest.raises(ValueError, match="mirror"):
        contributions(views[:1], np.ones(4), Variant())
    views[1, 2, 0] = np.nan
    with pytest.raises(ProtocolError, match="image 2 is not finite"):
        contributions(views, np.ones(4), Variant())
    assert not contributions(np.zeros((1, 1, 3)), np.ones(1), Variant(norm=False, flip=False)).any()


@pytest.fixture
def search():
    """30 probes of 12 subjects, searched in galleries of 7 and 5 subjects; similarities tie."""
    rng = np.random.default_rng(4)
    subjects = rng.permutation(100)[:12]
    centres = rng.normal(size=(12, 5))
    who = np.r_[np.arange(12), rng.integers(0, 12, 18)]
    probes = np.round(centres[who] + 0.9 * rng.normal(size=(30, 5)), 1)
    galleries = [(np.round(centres[:7], 1), subjects[:7]), (np.round(centres[7:], 1), subjects[7:])]
    return probes, subjects[who], galleries


def test_search_of_both_galleries_as_insightface(search):
    probes, subjects, galleries = search
    gallery = np.concatenate([vectors for vectors, _ in galleries])
    names = [name for _, part in galleries for name in part]
    mated, others, ranks = [], [], []
    for probe, subject in zip(probes, subjects, strict=True):
        similar = [float(probe @ row) for row in gallery]
        order = sorted(range(len(names)), key=lambda row: -similar[row])
        mate = names.index(subject)
        ranks.append(order.index(mate) + 1)
        mated.append(similar[mate])
        others += [value for row, value in enumerate(similar) if row != mate]
    others.sort(reverse=True)
    found = identify(probes, subjects, galleries)
    assert found.rank == {k: pytest.approx(np.mean([rank <= k for rank in ranks])) for k in (1, 5, 10)}
    for fpir in (0.01, 0.1):
        threshold = others[math.ceil(30 * fpir) - 1]
        assert found.tpir[fpir] == pytest.approx(np.mean([value > threshold for value in mated]))
    assert 0 < found.rank[1] < found.rank[5] <= found.rank[10]


def test_search_of_each_gallery_by_itself(search):
    probes, subjects, galleries = search
    rank1, rates = [], {0.01: [], 0.1: []}
    for vectors, names in galleries:
        mated, ranks, impostors = [], [], []
        for probe, subject in zip(probes, subjects, strict=True):
            similar = [float(probe @ row) for row in vectors]
            if subject in names:
                mate = list(names).index(subject)
                mated.append(similar[mate])
                ranks.append(sum(value > similar[mate] for value in similar) + 1)
            else:
                impostors.append(max(similar))
        impostors.sort(reverse=True)
        rank1.append(np.mean([rank == 1 for rank in ranks]))
        for fpir, values in rates.items():
            threshold = impostors[math.ceil(len(impostors) * fpir) - 1]
            values.append(np.mean([value > threshold for value in mated]))
    found = identify(probes, subjects, galleries, "galleries")
    assert found.rank[1] == pytest.approx(np.mean(rank1))
    assert found.tpir == {fpir: pytest.approx(np.mean(values)) for fpir, values in rates.items()}


def test_a_mate_that_ties_ranks_in_the_order_of_the_gallery():
    gallery = np.array([[1.0, 0], [1, 0], [0, 1]])
    probe = np.array([[1.0, 0]])
    assert identify(probe, np.array([1]), [(gallery, np.array([1, 2, 3]))]).rank[1] == 1
    assert identify(probe, np.array([2]), [(gallery, np.array([1, 2, 3]))]).rank == {1: 0, 5: 1, 10: 1}


def test_a_mate_that_ties_with_the_threshold_is_not_found():
    gallery = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = identify(gallery[:1], np.array([7]), [(gallery, np.array([7, 8, 9]))])
    assert found.tpir == {1e-2: 0.0, 1e-1: 0.0}
    assert found.rank == {1: 1.0, 5: 1.0, 10: 1.0}
    found = identify(gallery[:1], np.array([7]), [(gallery[[0, 2]], np.array([7, 9]))])
    assert found.tpir == {1e-2: 1.0, 1e-1: 1.0}


def test_broken_searches(search):
    probes, subjects, galleries = search
    vectors, names = galleries[0]
    with pytest.raises(ProtocolError, match="is in no gallery"):
        identify(probes, subjects, galleries[:1])
    with pytest.raises(ProtocolError, match=f"subject {names[2]} is in the gallery twice"):
        identify(probes, subjects, [(vectors, np.r_[names[:6], names[2]]), galleries[1]])
    with pytest.raises(ProtocolError, match="gallery 1: probes with a mate"):
        identify(probes, subjects, [(np.concatenate([g for g, _ in galleries]), np.unique(subjects))], "galleries")
    with pytest.raises(ValueError, match="'nist'"):
        identify(probes, subjects, galleries, "nist")
