import zipfile
from multiprocessing import get_context

import numpy as np
import pytest

from stages.fetch.digiface import Source
from stages.store import StoreError

NAME = "subjects_0-2_4_imgs.zip"


def write(path, members, compression=zipfile.ZIP_STORED, comment=b""):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
        file.comment = comment
    return path


def content(identity, sample):
    return f"image {identity} {sample} ".encode() * 20


@pytest.fixture(params=[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def folder(tmp_path, request):
    """Two zips: identity 1 is missing, 2 lacks sample 3, 10 lacks sample 0; members in no order."""
    pairs = [(2, 0), (0, 10), (0, 2), (0, 0), (0, 1), (2, 2), (2, 1)]
    write(tmp_path / NAME, {f"{i}/{k}.png": content(i, k) for i, k in pairs}, request.param)
    write(tmp_path / "subjects_10-10_2_imgs.zip", {"10/1.png": content(10, 1)}, request.param)
    return tmp_path


def test_identities_samples_and_bytes(folder):
    source = Source(folder)
    assert source.identities.dtype == np.int64
    assert source.identities.tolist() == [0, 2, 10]
    assert source.samples(0) == [0, 1, 2, 10]  # in the order of numbers, not of names
    for path in source.zips:
        for identity, sample in source.of_zip(path):
            assert source.encoded(identity, sample) == content(identity, sample)
    assert source.of_zip(source.zips[0]) == [(0, 0), (0, 1), (0, 2), (0, 10), (2, 0), (2, 1), (2, 2)]
    assert (source.missing_identities, source.missing_images) == (1, 2)


def test_reads_in_processes(folder):
    source = Source(folder)
    jobs = [(0, 0), (2, 1), (10, 1)] * 5
    with get_context("fork").Pool(2) as pool:
        assert pool.starmap(source.encoded, jobs) == [content(*job) for job in jobs]


def test_zips_in_the_order_of_subjects(tmp_path):
    for first in (100, 20, 3):
        write(tmp_path / f"subjects_{first}-{first}_1_imgs.zip", {f"{first}/0.png": b"x"})
    assert [path.name.split("-")[0] for path in Source(tmp_path).zips] == ["subjects_3", "subjects_20", "subjects_100"]


def test_unknown_identity_and_sample(folder):
    source = Source(folder)
    with pytest.raises(StoreError, match="no identity 1 among the 3"):
        source.encoded(1, 0)
    with pytest.raises(StoreError, match=r"subjects_0-2_4_imgs\.zip.*no member 0/3\.png"):
        source.encoded(0, 3)
    with pytest.raises(StoreError, match=r"no member 2/3\.png"):
        source.encoded(2, 3)


def test_no_zips(tmp_path):
    with pytest.raises(StoreError, match="r2r fetch"):
        Source(tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 200, -1, -30])
def test_truncated_zip(folder, keep):
    path = folder / NAME
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StoreError, match=r"subjects_0-2_4_imgs\.zip: truncated or not a zip.*fetch it again"):
        Source(folder)


def test_broken_member(folder):
    path = folder / NAME
    with zipfile.ZipFile(path) as file:
        offset = file.getinfo("2/0.png").header_offset
    data = bytearray(path.read_bytes())
    data[offset + 30 + len("2/0.png") + 5] ^= 0xFF
    path.write_bytes(data)
    source = Source(folder)
    assert source.encoded(0, 0) == content(0, 0)
    with pytest.raises(StoreError, match=r"subjects_0-2_4_imgs\.zip, member 2/0\.png: broken"):
        source.encoded(2, 0)


@pytest.mark.parametrize(
    ("name", "members", "message"),
    [
        ("faces.zip", {"0/0.png": b""}, "not named subjects_A-B_N_imgs.zip"),
        ("subjects_5-4_1_imgs.zip", {}, "promises subjects 5 to 4"),
        ("subjects_0-2_4_imgs.zip", {"0/0.jpg": b""}, "member 0/0.jpg: not named"),
        ("subjects_0-2_4_imgs.zip", {"../0/0.png": b""}, "member ../0/0.png: leads out"),
        ("subjects_0-2_4_imgs.zip", {"3/0.png": b""}, "holds subject 3; its name promises 0 to 2"),
        ("subjects_0-2_4_imgs.zip", {"1/0.png": b"", "1/00.png": b""}, "member 1/0.png stands there twice"),
    ],
)
def test_bad_names(tmp_path, name, members, message):
    write(tmp_path / name, members)
    with pytest.raises(StoreError, match=message.replace(".", r"\.")):
        Source(tmp_path)


def test_identity_in_two_zips(folder):
    write(folder / "subjects_2-3_4_imgs.zip", {"2/0.png": b""})
    with pytest.raises(StoreError, match=r"subject 2 stands in subjects_0-2_4_imgs\.zip too"):
        Source(folder)


def test_encrypted_member(folder):
    path = folder / NAME
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="encrypted"):
        Source(folder)


def test_digest(tmp_path):
    write(tmp_path / "subjects_0-0_1_imgs.zip", {"0/0.png": b"a"})
    write(tmp_path / "subjects_1-1_1_imgs.zip", {"1/0.png": b"a"}, comment=b"5e" * 32)
    source = Source(tmp_path)
    plain = source.digest(source.zips[0])
    assert source.digest(source.zips[1]) == "5e" * 32
    write(tmp_path / "subjects_0-0_1_imgs.zip", {"0/0.png": b"a"}, zipfile.ZIP_DEFLATED)
    assert Source(tmp_path).digest(source.zips[0]) == plain  # the same content, packed otherwise
    write(tmp_path / "subjects_0-0_1_imgs.zip", {"0/0.png": b"b"})
    assert Source(tmp_path).digest(source.zips[0]) != plain
