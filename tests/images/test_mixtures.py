"""SynFace's file names, as `syn_images.py` writes them."""

import numpy as np
import pytest

from stages.images import Shards, read_faces, write_rows
from stages.images.folders import Folders
from stages.images.shards import Rows
from stages.store import StoreError


def name(number, identity, ratio, partner):
    """Officially from 1 each: `{:03}_{:05}x{:.3f}_({:05})x{:.3f}.jpg`."""
    return f"{identity:05}/{number:03}_{identity:05}x{ratio:.3f}_({partner:05})x{1 - ratio:.3f}.jpg"


RATIOS = np.round(np.linspace(0, 1.05, 21, endpoint=False), 3)


def files(*rows):
    return {name(*row): " ".join(map(str, row)).encode() for row in rows}


def test_names_say_whom_an_image_shows(tmp_path, write):
    written = [(number + 1, 1 + number % 3, ratio, 1 + (number + 1) % 3) for number, ratio in enumerate(RATIOS)]
    faces = read_faces(write(tmp_path / "set", files(*written)))
    assert len(faces) == 21
    for row in range(21):
        _, identity, ratio, partner = faces.encoded(row).decode().split()
        assert (faces.identity[row], faces.mixtures.partner[row]) == (int(identity) - 1, int(partner) - 1)
        assert faces.mixtures.ratio[row] == float(ratio)


def test_identities_are_by_folder_whatever_their_numbers(tmp_path, write):
    faces = Folders(write(tmp_path / "set", files((1, 7, 0.35, 100000), (2, 100000, 1, 7), (1, 7, 0.5, 8))))
    assert dict(zip(faces.mixtures.ratio, faces.mixtures.partner, strict=True)) == {0.35: 1, 1.0: 0, 0.5: -1}
    assert sorted(zip(faces.identity, faces.mixtures.ratio, strict=True)) == [(0, 0.35), (0, 0.5), (1, 1.0)]


def test_the_digest_knows_the_names_of_equal_images(tmp_path, write):
    sets = [{name(1, 1, ratio, 2): b"a", name(1, 2, 0.5, 1): b"b"} for ratio in (0.3, 0.4)]
    digests = [Folders(write(tmp_path / f"{k}", one)).digest() for k, one in enumerate(sets)]
    assert digests[0] != digests[1]
    assert Folders(write(tmp_path / "0", sets[0])).digest([1]) != digests[0]


def test_sets_of_one_identity_an_image_have_none(tmp_path, write):
    assert Folders(write(tmp_path / "set", {"00001/001.jpg": b"a"})).mixtures is None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"00002/plain.jpg": b"x"}, r"00002/plain\.jpg does not say whom it shows, as 00001/001_"),
        ({"00002/001_00001x0.500_(00002)x0.500.jpg": b"x"}, "in the folder of another identity than its name says"),
        ({"00002/001_00002x0.500_(00001)x0.600.jpg": b"x"}, "its two shares do not sum to 1"),
    ],
)
def test_names_that_contradict(tmp_path, write, more, message):
    with pytest.raises(StoreError, match=message):
        Folders(write(tmp_path / "set", files((1, 1, 0.25, 2)) | more))


def rows(identity, partner, ratio):
    n = len(partner)
    columns = {"identity": np.full(n, identity), "sample": np.arange(n)}
    mixed = {"partner": np.array(partner), "ratio": np.array(ratio)} if ratio else {}
    return Rows(columns | mixed, [b"x"] * n)


def test_shards_hold_them_as_columns(tmp_path):
    write_rows(tmp_path / "0.h5", iter([rows(9, [4, 5], [0.1, 0.2]), rows(4, [9], [0.3])]))
    faces = Shards(tmp_path)
    assert faces.identity.tolist() == [4, 9, 9]
    assert faces.mixtures.partner.tolist() == [9, 4, 5]
    assert faces.mixtures.ratio.tolist() == [0.3, 0.1, 0.2]
    write_rows(tmp_path / "1.h5", iter([rows(5, [0], None)]))
    with pytest.raises(StoreError, match="some of the shards are of mixed identities"):
        Shards(tmp_path)
