import struct
import zipfile
from multiprocessing import get_context

import numpy as np
import pytest
from tqdm import tqdm

from stages.images import read_faces
from stages.images.digiface import DigiFace, read_survey, survey
from stages.images.zips import Zip
from stages.store import StoreError
from tests.images.forms import write_zip

NAME = "subjects_0-2_4_imgs.zip"


def content(identity, sample):
    return f"image {identity} {sample} ".encode() * 20


@pytest.fixture(params=[zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["stored", "deflated"])
def folder(tmp_path, request):
    """Two zips: identity 1 is missing, 2 lacks sample 3, 10 lacks sample 0; members in no order."""
    pairs = [(2, 0), (0, 10), (0, 2), (0, 0), (0, 1), (2, 2), (2, 1)]
    write_zip(tmp_path / NAME, {f"{i}/{k}.png": content(i, k) for i, k in pairs}, request.param)
    write_zip(tmp_path / "subjects_10-10_2_imgs.zip", {"10/1.png": content(10, 1)}, request.param)
    return tmp_path


def test_identities_samples_and_bytes(folder):
    source = DigiFace(folder)
    assert source.identity.dtype == source.sample.dtype == np.int64
    assert source.identities.tolist() == [0, 2, 10]
    rows = list(zip(source.identity.tolist(), source.sample.tolist(), strict=True))
    assert rows == [(0, 0), (0, 1), (0, 2), (0, 10), (2, 0), (2, 1), (2, 2), (10, 1)]  # by numbers, not by names
    assert [source.encoded(row) for row in range(8)] == [content(*row) for row in rows]
    assert source.where(4) == f"{folder}/subjects_0-2_4_imgs.zip, member 2/0.png"
    assert (source.missing_identities, source.missing_images, source.broken_images) == (1, 2, 0)


def test_a_zip_is_a_part(folder):
    write_zip(folder / "subjects_3-4_4_imgs.zip", {"3/0.png": content(3, 0), "4/0.png": content(4, 0)})
    write_zip(folder / "subjects_5-9_4_imgs.zip", {})
    parts = {name: rows.tolist() for name, rows in DigiFace(folder).parts()}
    assert parts == {
        "subjects_0-2_4_imgs": [0, 1, 2, 3, 4, 5, 6],
        "subjects_3-4_4_imgs": [7, 8],
        "subjects_10-10_2_imgs": [9],
    }


def test_one_zip_is_a_set_of_its_own(folder):
    source = read_faces(folder / "subjects_10-10_2_imgs.zip")
    assert isinstance(source, DigiFace)
    assert (source.identity.tolist(), source.sample.tolist()) == ([10], [1])


def test_reads_in_processes(folder):
    source = DigiFace(folder)
    with get_context("fork").Pool(2) as pool:
        assert pool.map(source.encoded, range(8)) == [source.encoded(row) for row in range(8)]


def test_zips_in_the_order_of_subjects(tmp_path):
    for first in (100, 20, 3):
        write_zip(tmp_path / f"subjects_{first}-{first}_1_imgs.zip", {f"{first}/0.png": b"x"})
    assert [path.name.split("-")[0] for path in DigiFace(tmp_path).zips] == [
        "subjects_3",
        "subjects_20",
        "subjects_100",
    ]


def test_unknown_identity(folder):
    with pytest.raises(StoreError, match="no images of identity 1 among the 3 there"):
        DigiFace(folder).rows(1)


def test_no_zips(tmp_path):
    with pytest.raises(StoreError, match="r2r fetch"):
        DigiFace(tmp_path)


@pytest.mark.parametrize("keep", [0, 10, 200, -1, -30])
def test_truncated_zip(folder, keep):
    path = folder / NAME
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StoreError, match=r"subjects_0-2_4_imgs\.zip: truncated or not a zip.*fetch it again"):
        DigiFace(folder)


def test_broken_member(folder):
    path = folder / NAME
    with zipfile.ZipFile(path) as file:
        offset = file.getinfo("2/0.png").header_offset
    data = bytearray(path.read_bytes())
    data[offset + 30 + len("2/0.png") + 5] ^= 0xFF
    path.write_bytes(data)
    source = DigiFace(folder)
    assert source.encoded(0) == content(0, 0)
    with pytest.raises(StoreError, match=r"subjects_0-2_4_imgs\.zip, member 2/0\.png: broken"):
        source.encoded(4)


@pytest.mark.parametrize(
    ("name", "members", "message"),
    [
        ("faces.zip", {"0/0.png": b""}, "not named subjects_A-B_N_imgs.zip"),
        ("subjects_5-4_1_imgs.zip", {}, "promises subjects 5 to 4"),
        ("subjects_0-2_4_imgs.zip", {"0/0.jpg": b""}, "member 0/0.jpg: not named"),
        ("subjects_0-2_4_imgs.zip", {"../0/0.png": b""}, "member ../0/0.png: leads out"),
        ("subjects_0-2_4_imgs.zip", {"3/0.png": b""}, "holds subject 3; its name promises 0 to 2"),
        ("subjects_0-2_4_imgs.zip", {"1/0.png": b"", "1/00.png": b""}, "member 1/0.png and again in "),
    ],
)
def test_bad_names(tmp_path, name, members, message):
    write_zip(tmp_path / name, members)
    with pytest.raises(StoreError, match=message.replace(".", r"\.")):
        DigiFace(tmp_path)


def test_identity_in_two_zips(folder):
    write_zip(folder / "subjects_2-3_4_imgs.zip", {"2/0.png": b""})
    with pytest.raises(StoreError, match=r"subject 2 stands in subjects_0-2_4_imgs\.zip too"):
        DigiFace(folder)


def test_encrypted_member(folder):
    path = folder / NAME
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match="encrypted"):
        DigiFace(folder)


@pytest.mark.parametrize("name", ["__MACOSX/0/._0.png", "._0", "0/.DS_Store", ".DS_Store"])  # case 03
def test_what_macos_packs_is_left_out_and_counted(tmp_path, name):
    write_zip(tmp_path / NAME, {"0/0.png": b"x", name: b"\0\5\x16\7"})
    source = DigiFace(tmp_path)
    assert (source.identity.tolist(), source.left_out) == ([0], {"hidden or system": 1})


def test_the_digest_of_a_part_is_its_own(tmp_path):
    write_zip(tmp_path / "subjects_0-0_1_imgs.zip", {"0/0.png": b"a"})
    write_zip(tmp_path / "subjects_1-1_1_imgs.zip", {"1/0.png": b"a"})
    before, digests = DigiFace(tmp_path), []
    write_zip(tmp_path / "subjects_1-1_1_imgs.zip", {"1/0.png": b"b"})
    for source in (before, DigiFace(tmp_path)):
        digests.append([source.digest(rows) for _, rows in source.parts()])
    assert digests[0][0] == digests[1][0]
    assert digests[0][1] != digests[1][1]


def test_a_survey_counts_and_leaves_out(tmp_path):
    def png(size=112, colour=2, end=b"IEND\xaeB`\x82"):
        return b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + struct.pack(">IIBB", size, size, 8, colour) + end

    path = tmp_path / "subjects_0-1_3_imgs.zip"
    members = {
        "0/0.png": png(),
        "0/1.png": png(end=b""),
        "0/2.png": png(colour=0),
        "1/0.png": png(size=96),
        "1/1.png": b"x",
    }
    write_zip(path, members)
    assert read_survey(path) is None
    found = survey(path, 2, tqdm(disable=True))
    assert found == read_survey(path)
    assert {name: found[name] for name in ("images", "gray", "other_sizes", "broken")} == {
        "images": 5,
        "gray": 1,
        "other_sizes": 1,
        "broken": ["0/1.png", "1/1.png"],
    }
    source = DigiFace(tmp_path)
    assert (source.identity.tolist(), source.sample.tolist()) == ([0, 0, 1], [0, 2, 0])
    assert (source.broken_images, source.missing_images) == (2, 3)
    write_zip(path, {**members, "1/1.png": png()})  # another zip than the survey's
    assert read_survey(path) is None
    assert DigiFace(tmp_path).broken_images == 0
    (tmp_path / "subjects_0-1_3_imgs.survey.json").write_text("{")
    assert read_survey(path) is None


def test_a_fault_of_the_system_breaks_no_image(tmp_path, monkeypatch):
    path = write_zip(tmp_path / NAME, {"0/0.png": b"x"})
    content = Zip(path)
    monkeypatch.setattr("stages.images.digiface.Zip", lambda _: content)
    path.unlink()
    with pytest.raises(StoreError, match="No such file"):
        survey(path, 1, tqdm(disable=True))


def test_a_large_source_is_read_in_linear_time(tmp_path, monkeypatch):
    for first in range(0, 400, 2):
        write_zip(
            tmp_path / f"subjects_{first}-{first + 1}_1_imgs.zip", {f"{k}/0.png": b"x" for k in (first, first + 1)}
        )
    calls = []
    of_zip = Zip.contents
    monkeypatch.setattr(Zip, "contents", lambda self, indices: calls.append(len(indices)) or of_zip(self, indices))
    source = DigiFace(tmp_path)
    assert len({source.digest(rows) for _, rows in source.parts()}) == 200
    assert sum(calls) == 400  # each image once
