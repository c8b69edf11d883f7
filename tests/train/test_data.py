import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from stages.store import StoreError, write_shard
from stages.train.data import FaceDataset, batches
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
        assert np.array_equal(image, made[int(data.identity[index]), int(data.sample[index])])
        assert data.identities[label] == data.identity[index]


def test_shards_memory_and_workers_change_nothing(tmp_path, folder, write_aligned):
    people = list(made_up_people(IDENTITIES, range(4)))
    write_aligned(tmp_path / "other", people[::-1], rows_per_shard=5)
    knobs = {"seed": 3, "probability": 0.5, "flip": 0.5}
    sets = [
        FaceDataset(folder, **knobs),
        FaceDataset(tmp_path / "other", **knobs),
        FaceDataset(folder, **knobs, memory=0),
    ]
    assert sets[2].images is None
    results = []
    for data in sets:
        for workers in (0, 2):
            loader = DataLoader(data, batch_sampler=batches(12, 5, 0, 4, seed=3), num_workers=workers)
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


def test_no_shards(tmp_path):
    with pytest.raises(StoreError, match="no training set; run `r2r align`"):
        FaceDataset(tmp_path)


def test_an_image_twice(tmp_path, write_aligned):
    people = list(made_up_people([1, 2], range(2)))
    write_aligned(tmp_path, [*people, people[1]], rows_per_shard=3)
    with pytest.raises(
        StoreError, match=r"identity 1, sample 1 is in .*00000.h5, row 1 and again in .*00001.h5, row 1"
    ):
        FaceDataset(tmp_path)


def test_an_image_that_does_not_decode_or_has_another_size(tmp_path):
    columns = {"identity": np.array([1]), "sample": np.array([0])}
    write_shard(tmp_path / "00000.h5", columns, [b"no image"], fingerprint="")
    with pytest.raises(StoreError, match=r"00000.h5, row 0: does not decode"):
        FaceDataset(tmp_path)
    from stages.store import encode

    write_shard(tmp_path / "00000.h5", columns, [encode(np.zeros((96, 112, 3), np.uint8))], fingerprint="")
    with pytest.raises(StoreError, match=r"00000.h5, row 0: 112x96 pixels; aligned square images"):
        FaceDataset(tmp_path)


def test_a_broken_shard(folder):
    path = folder / "00000.h5"
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(StoreError, match=r"00000.h5: not a readable shard"):
        FaceDataset(folder)
