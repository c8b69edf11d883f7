import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from stages.knobs import ParamsError
from stages.store import StoreError, encode, write_shard
from stages.train.augment import augment
from stages.train.data import AUGMENT, FaceDataset, batches, epoch_steps
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
    assert data.identities.tolist() == [7, 12, 30]
    for index in range(12):
        image, label = data[0, index]
        assert np.array_equal(image, made[int(data.faces.identity[index]), int(data.faces.sample[index])])
        assert data.identities[label] == data.faces.identity[index]


def test_shards_memory_and_workers_forked_or_spawned_change_nothing(tmp_path, folder, write_aligned):
    people = list(made_up_people(IDENTITIES, range(4)))
    write_aligned(tmp_path / "other", people[::-1], rows_per_shard=5)
    knobs = {"seed": 3, "probability": 0.5, "flip": 0.5}
    held, others, read = (FaceDataset(path, **knobs) for path in (folder, tmp_path / "other", folder))
    held.hold()
    others.hold()
    read.hold(memory=0)
    assert held.images is not None
    assert read.images is None
    results = []
    for data, workers, start in ((held, 0, None), (others, 0, None), (held, 1, "fork"), (read, 2, "spawn")):
        keys = batches(12, 5, 0, 4, seed=3)
        loader = DataLoader(data, batch_sampler=keys, num_workers=workers, multiprocessing_context=start)
        results.append([(images, labels) for images, labels in loader])
    for result in results[1:]:
        for (images, labels), (first_images, first_labels) in zip(result, results[0], strict=True):
            assert torch.equal(images, first_images)
            assert torch.equal(labels, first_labels)


def test_augmentation_differs_by_seed_epoch_and_image(folder):
    def seen(seed, epoch, index):
        return FaceDataset(folder, seed, probability=1.0, flip=0.5)[epoch, index][0].tobytes()

    assert seen(0, 0, 0) == seen(0, 0, 0)
    assert len({seen(0, 0, 0), seen(1, 0, 0), seen(0, 1, 0), seen(0, 0, 1)}) == 4


def test_an_epoch_is_a_permutation_and_epochs_differ():
    keys = list(batches(images=12, batch_size=4, start=0, stop=6, seed=0))
    epochs = [[index for batch in keys[k : k + 3] for _, index in batch] for k in (0, 3)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12))
    assert epochs[0] != epochs[1]
    assert [batch[0][0] for batch in keys] == [0, 0, 0, 1, 1, 1]


def test_batches_from_the_middle_are_the_same():
    whole = list(batches(images=14, batch_size=4, start=0, stop=9, seed=5))
    assert list(batches(images=14, batch_size=4, start=4, stop=9, seed=5)) == whole[4:]
    assert all(len(batch) == 4 for batch in whole)


def test_the_last_batch_is_kept_or_dropped():
    assert (epoch_steps(14, 4), epoch_steps(14, 4, keep=True), epoch_steps(12, 4, keep=True)) == (3, 4, 3)
    keys = list(batches(images=14, batch_size=4, start=0, stop=8, seed=5, keep=True))
    assert [len(batch) for batch in keys] == [4, 4, 4, 2] * 2
    assert [batch[0][0] for batch in keys] == [0] * 4 + [1] * 4
    assert sorted(index for batch in keys[4:] for _, index in batch) == list(range(14))
    dropped = list(batches(images=14, batch_size=4, start=0, stop=3, seed=5))
    assert dropped == keys[:3]  # the same order
    assert list(batches(images=14, batch_size=4, start=5, stop=8, seed=5, keep=True)) == keys[5:]


def test_a_set_stored_as_bgr_is_read_as_rgb(folder):
    plain, swapped = FaceDataset(folder), FaceDataset(folder, stored="bgr")
    swapped.hold()
    for index in range(3):
        assert np.array_equal(swapped[0, index][0], plain[0, index][0][..., ::-1])


def test_a_network_that_sees_bgr_has_its_augmentations_see_it(folder):
    """Official AdaFace turns the channels round before it augments: grey is weighed the other way round."""
    knobs = {"seed": 3, "probability": 1.0, "flip": 0.5}
    data, plain = FaceDataset(folder, **knobs, channels="bgr"), FaceDataset(folder)
    different = 0
    for index in range(12):
        bgr = np.ascontiguousarray(plain[0, index][0][..., ::-1])
        rng = np.random.default_rng([3, AUGMENT, 0, data.faces.identity[index], data.faces.sample[index]])
        assert np.array_equal(data[0, index][0], augment(bgr, rng, 1.0, 0.5))
        different += not np.array_equal(data[0, index][0], FaceDataset(folder, **knobs)[0, index][0][..., ::-1])
    assert different  # so the order matters
    same = FaceDataset(folder, stored="bgr", channels="bgr")
    assert np.array_equal(same[0, 0][0], plain[0, 0][0])


def test_swapped_colours_are_hinted_at(tmp_path, write_aligned, capsys):
    """Skin is red; where it is blue, the set is stored as BGR."""
    for name, colour in (("skin", (200, 150, 120)), ("swapped", (120, 150, 200))):
        people = [(identity, 0, np.full((112, 112, 3), colour, np.uint8)) for identity in range(4)]
        write_aligned(tmp_path / name, people)
    FaceDataset(tmp_path / "skin").hint()
    FaceDataset(tmp_path / "swapped", stored="bgr").hint()
    assert capsys.readouterr().err == ""
    FaceDataset(tmp_path / "swapped").hint()
    assert "swapped: red and blue look swapped" in (said := capsys.readouterr().err)
    assert "train.channels to bgr" in said


def test_mixed_identities_have_two_labels_with_weights(tmp_path):
    """By rank of all who are shown, also of one who has no image of his own."""
    columns = {"identity": [30, 30, 7], "sample": [0, 1, 0], "partner": [7, 12, 30], "ratio": [0.25, 1.0, 0.6]}
    write_shard(
        tmp_path / "0.h5",
        {name: np.array(values) for name, values in columns.items()},
        [encode(image) for _, _, image in made_up_people([1], range(3))],
    )
    data = FaceDataset(tmp_path)
    assert data.identities.tolist() == [7, 12, 30]
    (images, labels, weights), *_ = DataLoader(data, batch_sampler=[[(0, 0), (0, 1), (0, 2)]])
    assert images.shape == (3, 112, 112, 3)
    assert labels.tolist() == [[0, 2], [2, 0], [2, 1]]
    torch.testing.assert_close(weights, torch.tensor([[0.6, 0.4], [0.25, 0.75], [1.0, 0.0]]))


def test_a_mixed_identity_that_is_not_there(tmp_path):
    names = ["00001/001_00001x0.500_(00002)x0.500.png", "00002/001_00002x0.500_(00009)x0.500.png"]
    for name in names:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(encode(np.zeros((112, 112, 3), np.uint8)))
    with pytest.raises(StoreError, match=r"00002/001_.* shows an identity too that is not in the set"):
        FaceDataset(tmp_path)


def test_the_middle_columns_are_cut_before_they_are_augmented(folder):
    knobs = {"seed": 3, "probability": 1.0, "flip": 0.5}
    narrow, plain = FaceDataset(folder, **knobs, columns=96), FaceDataset(folder)
    rng = np.random.default_rng([3, AUGMENT, 0, plain.faces.identity[0], plain.faces.sample[0]])
    image = narrow[0, 0][0]
    assert image.shape == (112, 96, 3)
    assert np.array_equal(image, augment(plain[0, 0][0][:, 8:104], rng, 1.0, 0.5))


def test_zoom_and_erasing_follow_the_other_augmentations(folder):
    plain, erased = (FaceDataset(folder, 3, 0.5, 0.5, erase=erase) for erase in (0.0, 0.5))
    differ = [not np.array_equal(plain[0, index][0], erased[0, index][0]) for index in range(12)]
    assert 4 <= sum(differ) < 12


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
