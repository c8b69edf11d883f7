from functools import partial
from itertools import combinations, permutations

import numpy as np
import pytest
import torch

from stages.images import read_faces
from stages.knobs import ParamsError
from stages.store import StoreError, encode, write_shard
from stages.train.augment import augment
from stages.train.data import AUGMENT, FaceDataset, Source, load
from stages.train.order import batches
from tests.train.conftest import made_up_people

IDENTITIES = [30, 7, 12]  # not in sorted order


@pytest.fixture
def folder(tmp_path, write_aligned):
    write_aligned(tmp_path / "align", made_up_people(IDENTITIES, range(4)))
    return tmp_path / "align"


def test_rows_are_the_shards_images_with_labels_by_rank(folder):
    data = FaceDataset(folder)
    made = {(identity, sample): image for identity, sample, image in made_up_people(IDENTITIES, range(4))}
    assert len(data) == 12
    assert data.identities == 3
    for index in range(12):
        image, label = data[0, index]
        assert np.array_equal(image, made[int(data.identity[index]), int(data.sample[index])])
        assert sorted(IDENTITIES)[label] == data.identity[index]


def test_shards_memory_and_workers_forked_or_spawned_change_nothing(tmp_path, folder, write_aligned):
    people = list(made_up_people(IDENTITIES, range(4)))
    write_aligned(tmp_path / "other", people[::-1], rows_per_shard=5)
    knobs = {"seed": 3, "recipe": partial(augment, probability=0.5, flip=0.5)}
    held, others, read = (FaceDataset(path, **knobs) for path in (folder, tmp_path / "other", folder))
    held.hold()
    others.hold()
    read.hold(memory=0)
    assert held.images is not None
    assert read.images is None
    results = []
    for data, workers, start in ((held, 0, None), (others, 0, None), (held, 1, "fork"), (read, 2, "spawn")):
        loader = load(data, batches(data.order(), 5, 0, 4), workers)
        loader.multiprocessing_context = start
        results.append(list(loader))
    for result in results[1:]:
        for (images, labels), (first_images, first_labels) in zip(result, results[0], strict=True):
            assert torch.equal(images, first_images)
            assert torch.equal(labels, first_labels)


def test_augmentation_differs_by_seed_epoch_image_and_showing(folder):
    def seen(seed, epoch, *image):
        return FaceDataset(folder, seed, partial(augment, probability=1.0))[epoch, *image][0].tobytes()

    assert seen(0, 0, 0) == seen(0, 0, 0, 0)
    assert len({seen(0, 0, 0), seen(1, 0, 0), seen(0, 1, 0), seen(0, 0, 1), seen(0, 0, 0, 1)}) == 5


def test_a_set_stored_as_bgr_is_read_as_rgb(folder):
    plain, swapped = FaceDataset(folder), FaceDataset([Source("train.data", read_faces(folder), stored="bgr")])
    swapped.hold()
    for index in range(3):
        assert np.array_equal(swapped[0, index][0], plain[0, index][0][..., ::-1])


def test_a_network_that_sees_bgr_has_its_augmentations_see_it(folder):
    """Official AdaFace turns the channels round before it augments: grey is weighed the other way round."""
    recipe = partial(augment, probability=1.0)
    data, plain = FaceDataset(folder, 3, recipe, sees="bgr", channels="bgr"), FaceDataset(folder)
    after, rgb = FaceDataset(folder, 3, recipe, sees="rgb", channels="bgr"), FaceDataset(folder, 3, recipe)
    different = 0
    for index in range(12):
        bgr = np.ascontiguousarray(plain[0, index][0][..., ::-1])
        rng = np.random.default_rng([3, AUGMENT, 0, data.identity[index], data.sample[index]])
        assert np.array_equal(data[0, index][0], recipe(bgr, rng))
        assert np.array_equal(after[0, index][0], rgb[0, index][0][..., ::-1])
        different += not np.array_equal(data[0, index][0], after[0, index][0])
    assert different  # so the order matters
    same = FaceDataset([Source("train.data", read_faces(folder), stored="bgr")], sees="bgr", channels="bgr")
    assert np.array_equal(same[0, 0][0], plain[0, 0][0])


def test_sources_keep_their_people_apart(folder, tmp_path, write_aligned):
    """The same numbers in two sets are two people, and are augmented each by itself."""
    write_aligned(tmp_path / "real", made_up_people([7, 8, 12, 40], range(2), seed=1))
    real = read_faces(tmp_path / "real")
    recipe = partial(augment, probability=1.0)
    data = FaceDataset([Source("train.data", read_faces(folder)), Source("real.data", real, 2.0, n_ids=3)], 0, recipe)
    assert data.label.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 2 + [4] * 2 + [5] * 2
    assert data.identity.tolist() == [7] * 4 + [12] * 4 + [30] * 4 + [7] * 2 + [8] * 2 + [12] * 2
    assert data.counts() == {
        "identities": 6,
        "images": 18,
        "train_data_identities": 3,
        "train_data_images": 12,
        "real_data_identities": 3,
        "real_data_images": 6,
    }
    assert np.array_equal(data[0, 0][0], FaceDataset(folder, 0, recipe)[0, 0][0])  # as if it were alone
    assert not np.array_equal(data[0, 12][0], FaceDataset(tmp_path / "real", 0, recipe)[0, 0][0])
    assert len(data.order()) == 12 + 2 * 6
    alone = FaceDataset([Source("real.data", real)])
    assert data.digest() != FaceDataset([Source("train.data", read_faces(folder)), Source("real.data", real)]).digest()
    assert alone.digest() != FaceDataset([Source("real.data", real, 0.5)]).digest()
    write_aligned(
        tmp_path / "next", made_up_people([30, 31], range(2))
    )  # begins with the number that the first ends with
    pair = FaceDataset(
        [Source("train.data", read_faces(folder)), Source("train.second", read_faces(tmp_path / "next"))]
    )
    assert pair.label.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 2 + [4] * 2
    with pytest.raises(ParamsError, match=r"real\.n_ids is 5: .*real holds 4 identities"):
        FaceDataset([Source("real.data", real, n_ids=5)])


def test_swapped_colours_are_hinted_at(tmp_path, write_aligned, capsys):
    """Skin is red; where it is blue, the set is stored as BGR."""
    for name, colour in (("skin", (200, 150, 120)), ("swapped", (120, 150, 200))):
        people = [(identity, 0, np.full((112, 112, 3), colour, np.uint8)) for identity in range(4)]
        write_aligned(tmp_path / name, people)
    FaceDataset(tmp_path / "skin").hint()
    FaceDataset([Source("train.data", read_faces(tmp_path / "swapped"), stored="bgr")]).hint()
    assert capsys.readouterr().err == ""
    FaceDataset(tmp_path / "swapped").hint()
    assert "swapped: red and blue look swapped" in (said := capsys.readouterr().err)
    assert "train.channels to bgr" in said


def test_mixed_identities_have_two_labels_with_weights(tmp_path, write_aligned):
    """By rank of all who are shown, also of one who has no image of his own, behind the sources before."""
    columns = {"identity": [30, 30, 7], "sample": [0, 1, 0], "partner": [7, 12, 30], "ratio": [0.25, 1.0, 0.6]}
    write_shard(
        tmp_path / "mixed/0.h5",
        {name: np.array(values) for name, values in columns.items()},
        [encode(image) for _, _, image in made_up_people([1], range(3))],
    )
    data = FaceDataset(tmp_path / "mixed")
    assert (data.identities, data.label.tolist()) == (3, [0, 2, 2])
    images, labels, weights = data.__getitems__([(0, 0, 0), (0, 1, 0), (0, 2, 0)])
    assert images.shape == (3, 112, 112, 3)
    assert labels.tolist() == [[0, 2], [2, 0], [2, 1]]
    torch.testing.assert_close(weights, torch.tensor([[0.6, 0.4], [0.25, 0.75], [1.0, 0.0]]))
    assert len(data.order(balanced=True)(0)) == 3

    write_aligned(tmp_path / "plain", made_up_people([5, 9], range(2)))
    paths = [tmp_path / "plain", tmp_path / "mixed"]
    both = FaceDataset([Source(path.name, read_faces(path)) for path in paths])
    assert both.soft[0].tolist() == [[0, 0], [0, 0], [1, 1], [1, 1], [2, 4], [4, 2], [4, 3]]
    assert both.soft[1][:4].tolist() == [[1, 0]] * 4
    assert FaceDataset(tmp_path / "plain").soft is None


def test_a_mixed_identity_that_is_not_there(tmp_path):
    names = ["00001/001_00001x0.500_(00002)x0.500.png", "00002/001_00002x0.500_(00009)x0.500.png"]
    for name in names:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(encode(np.zeros((112, 112, 3), np.uint8)))
    with pytest.raises(StoreError, match=r"00002/001_.* shows an identity too that is not in the set"):
        FaceDataset(tmp_path)


def test_domain_mixup_shows_each_synthetic_image_with_a_real_one(tmp_path, write_aligned):
    """Officially the real images are shown again and again, the remainder by chance, each domain in its own order."""
    for name, people in (("one", [1, 2]), ("two", [3]), ("real", [4, 5, 6])):
        write_aligned(tmp_path / name, made_up_people(people, range(5 if name != "real" else 2)))
    data = FaceDataset([Source(name, read_faces(tmp_path / name)) for name in ("one", "two", "real")])
    synthetic, real = data.domains()
    assert (len(synthetic), len(real)) == (15, 15)
    pairs = []
    for epoch in range(12):
        shown, beside = synthetic(epoch), real(epoch)
        assert sorted(shown[:, 0]) == list(range(15))
        assert np.bincount(beside[:, 0] - 15).tolist() in [list(c) for c in set(permutations([3, 3, 3, 2, 2, 2]))]
        pairs.append(beside[np.argsort(shown[:, 0]), 0])
    changed = np.mean([(one != other).mean() for one, other in combinations(pairs, 2)])
    assert 0.75 < changed < 0.9  # 5 of 6


def test_the_middle_columns_are_cut_before_they_are_augmented(folder):
    recipe = partial(augment, probability=1.0, flip=0.5)
    narrow, plain = FaceDataset(folder, 3, recipe, columns=96), FaceDataset(folder)
    rng = np.random.default_rng([3, AUGMENT, 0, int(plain.identity[0]), int(plain.sample[0])])
    image = narrow[0, 0][0]
    assert image.shape == (112, 96, 3)
    assert np.array_equal(image, recipe(plain[0, 0][0][:, 8:104], rng))
    assert narrow.__getitems__([(0, 0, 0)])[0].shape == (1, 112, 96, 3)


def test_one_identity_teaches_nothing(tmp_path, write_aligned):
    write_aligned(tmp_path, made_up_people([4], range(8)))
    with pytest.raises(ParamsError, match=r"train\.data: .* holds 8 images of one identity.*the folder above"):
        FaceDataset(tmp_path)


def test_an_image_that_does_not_decode_or_has_another_size(tmp_path):
    columns = {"identity": np.array([1, 2]), "sample": np.array([0, 0])}
    write_shard(tmp_path / "00000.h5", columns, [b"no image"] * 2)
    with pytest.raises(StoreError, match=r"00000.h5, row 0: does not decode"):
        FaceDataset(tmp_path).hold()
    write_shard(tmp_path / "00000.h5", columns, [encode(np.zeros((96, 112, 3), np.uint8))] * 2)
    with pytest.raises(StoreError, match=r"00000.h5, row 0: 112x96 pixels; aligned square images"):
        FaceDataset(tmp_path).hold()
