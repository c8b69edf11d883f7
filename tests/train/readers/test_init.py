"""One set of people in every form gives the same training set."""

import zipfile

import numpy as np
import pytest
from torch.utils.data import DataLoader

from stages.store import StoreError, encode, write_shard
from stages.train.data import FaceDataset, batches
from stages.train.readers import read_training_set
from tests.train.readers.conftest import PEOPLE, people, picture, write_faces, write_lmdb


def in_every_form(folder):
    names = {
        f"{label:03d}/{sample}.png": encode(picture(label, sample))
        for label in PEOPLE
        for sample in range(PEOPLE[label])
    }
    with zipfile.ZipFile(folder / "faces.zip", "w") as file:
        for name, content in names.items():
            file.writestr(name, content)
    for name, content in names.items():
        (folder / "faces" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "faces" / name).write_bytes(content)
    write_faces(folder / "rec")
    write_lmdb(folder / "faces.lmdb", [(image, label) for label, image in people()])
    columns = [np.repeat(list(PEOPLE), list(PEOPLE.values())), np.concatenate([range(n) for n in PEOPLE.values()])]
    images = [image for _, image in people()]
    write_shard(
        folder / "shards/0.h5", dict(zip(("identity", "sample"), columns, strict=True)), images, fingerprint="f"
    )
    return [folder / name for name in ("faces.zip", "faces", "rec", "rec/train.rec", "faces.lmdb", "shards")]


def test_labels_are_ranks_and_images_the_same(tmp_path):
    wanted = [picture(label, sample) for label in sorted(PEOPLE) for sample in range(PEOPLE[label])]
    for path in in_every_form(tmp_path):
        for memory in (0, 2**30):
            data = FaceDataset(path, memory=memory)
            assert data.label.tolist() == [0, 1, 1, 2, 2, 2], path
            assert len(data.identities) == 3
            for index, image in enumerate(wanted):
                np.testing.assert_array_equal(data[0, index][0], image)


def test_the_order_is_seeded_and_workers_change_nothing(tmp_path):
    for path in in_every_form(tmp_path):
        seen = []
        for workers in (0, 2):
            data = FaceDataset(path, seed=3, probability=0.5, flip=0.5, memory=0)
            data[0, 0]  # opened here, then in the workers
            loader = DataLoader(data, batch_sampler=batches(6, 2, 0, 5, seed=3), num_workers=workers)
            seen.append([(images.numpy().tobytes(), labels.tolist()) for images, labels in loader])
        assert seen[0] == seen[1], path


def test_square_images_of_another_size_are_scaled(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.png").write_bytes(encode(np.repeat(np.repeat(picture(1, 1), 2, 0), 2, 1)))
    np.testing.assert_array_equal(FaceDataset(tmp_path)[0, 0][0], picture(1, 1))
    (tmp_path / "a/2.png").write_bytes(encode(picture(1, 1)[:100]))
    with pytest.raises(StoreError, match=r"a/2\.png: 112x100 pixels; aligned square images"):
        FaceDataset(tmp_path)


def test_a_folder_holds_one_rec(tmp_path):
    write_faces(tmp_path).rename(tmp_path / "file.rec")
    (tmp_path / "train.idx").rename(tmp_path / "file.idx")
    (tmp_path / "lfw.bin").write_bytes(b"a benchmark")
    assert len(FaceDataset(tmp_path)) == 6
    (tmp_path / "other.rec").write_bytes(b"")
    with pytest.raises(StoreError, match=r"holds file\.rec, other\.rec; point train\.data to one"):
        read_training_set(tmp_path)


def test_nothing_there(tmp_path):
    for name in ("none", "none.zip", "none.rec", "none.lmdb"):
        with pytest.raises(StoreError, match=f"{name}: no training set; run `r2r align`"):
            read_training_set(tmp_path / name)
    (tmp_path / "align").mkdir()
    with pytest.raises(StoreError, match="align: no training set"):
        read_training_set(tmp_path / "align")
