"""The library: what is got from outside, from small official layouts on a server or in a folder."""

import hashlib
import os
import zipfile
from dataclasses import replace

import pytest

from stages.fetch import download as download_module
from stages.fetch import library
from stages.fetch.catalogue import File, load
from stages.fetch.download import Hashes
from stages.fetch.knobs import Fetch
from stages.images import Archive
from stages.images.digiface import DigiFace
from stages.knobs import ParamsError
from stages.store import StoreError
from tests.fetch import layouts
from tests.fetch.server import Server

LICENSES = ("R-UDA-1.0", "CC-BY-NC-SA-4.0", "CreativeML-OpenRAIL-M", "research-only", "insightface-non-commercial")
KNOBS = Fetch(
    source="digiface-1m",
    target="ffhq",
    benchmarks=("insightface-bins",),
    weights=("arc2face", "sd15"),
    target_images=3,
    accept_licenses=LICENSES,
)


@pytest.fixture
def data(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def kept(cache):
    return cache / "library"


def get(entries, data, **knobs):
    library.get(entries, replace(KNOBS, **knobs), data)


@pytest.mark.parametrize(("accepted", "list_"), [((), r"\[R-UDA-1\.0\]"), (("MIT",), r"\[MIT,R-UDA-1\.0\]")])
def test_a_licence_is_named_with_what_to_type(accepted, list_):
    typed = rf"r2r params profile=paper 'fetch\.accept_licenses={list_}'"
    with pytest.raises(ParamsError, match=rf"(?s)R-UDA-1\.0, of digiface-1m: https.*{typed}") as error:
        library.check_licenses([load()["digiface-1m"], load()["arc2face"]], accepted, "paper")
    assert "dvc exp run" not in str(error.value)
    library.check_licenses([load()["digiface-1m"]], ("R-UDA-1.0",), "paper")


def test_a_name_is_the_worlds_the_catalogues_or_a_path(tmp_path):
    assert library.wanted(Fetch(), tmp_path) == ([], {})
    (tmp_path / "mine").mkdir()
    (tmp_path / "data/source").mkdir(parents=True)
    entries, sets = library.wanted(Fetch(source="mine", target="ffhq"), tmp_path)
    assert [entry.name for entry in entries] == ["ffhq"]
    assert sets == {"source": tmp_path / "mine"}
    for knobs, message in (
        ({"source": "data/source"}, r"fetch\.source is 'data/source', which fetch fills itself"),
        ({"source": "foo"}, r"fetch\.source is 'foo': embedded, digiface-1m, or the path of a set"),
        ({"target": "foo"}, r"fetch\.target is 'foo': embedded, ffhq, or the path"),
        ({"benchmarks": ("lfw",)}, r"fetch\.benchmarks: 'lfw' is not in the catalogue; insightface-bins, ijbb"),
        ({"weights": ("arc2fase",)}, r"fetch\.weights: 'arc2fase' is not in the catalogue; arc2face, sd15"),
        ({"weights": ("digiface-1m",)}, r"fetch\.weights: 'digiface-1m'"),  # there, but no weights
    ):
        with pytest.raises(ParamsError, match=message):
            library.wanted(Fetch(**knobs), tmp_path)


def test_a_folder_is_linked_and_not_copied(held, data, kept):
    get([load()["digiface-1m"], load()["ffhq"]], data, mirror=str(held))
    for name, source in (
        ("source/subjects_0-1999_72_imgs.zip", "source/subjects_0-1999_72_imgs.zip"),
        ("target/ffhq-3.zip", "target/target.zip"),
    ):
        assert os.path.samefile(kept / name, held / source)


def test_what_a_former_version_fetched_into_data_is_kept(held, data, kept, monkeypatch):
    layouts.digiface(data.parent / "other", people=1, images=2)
    (data.parent / "other/source").rename(data / "source")
    monkeypatch.setattr(library, "download", lambda files, *_, **__: files and pytest.fail("fetched"))
    get([load()["digiface-1m"]], data)
    for path in (data / "source").iterdir():
        assert path.samefile(kept / "source" / path.name)


def test_across_disks_a_folder_is_linked_by_name(held, data, kept, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("another disk")))
    get([load()["digiface-1m"]], data, mirror=str(held))
    path = kept / "source/subjects_0-1999_72_imgs.zip"
    assert path.is_symlink()
    assert path.resolve() == (held / "source/subjects_0-1999_72_imgs.zip").resolve()


def test_a_wrong_file_of_a_folder_is_named_and_not_linked(held, tmp_path, data, kept):
    name = "source/subjects_0-1999_72_imgs.zip"
    get([load()["digiface-1m"]], data, mirror=str(held))
    (kept / name).unlink()
    path = tmp_path / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_bytes((held / name).read_bytes() + b"x")
    with pytest.raises(StoreError, match=r"wrong files in .*mine; take them away\n.*source/subjects_0-1.*: SHA-256"):
        get([load()["digiface-1m"]], data, mirror=str(tmp_path / "mine"))
    assert not (kept / name).exists()


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_the_target_is_the_first_images_of_what_a_folder_has(tmp_path, data, kept, form):
    place = tmp_path / "mine/thumbnails128x128"
    images = {f"0{number // 2}000/{number:05}.png": layouts.encoded(layouts.noise(number, 0)) for number in range(4)}
    place.mkdir(parents=True)
    if form == "zip":
        archive_of(place.with_suffix(".zip"), images.items())
        place.rmdir()
    for name, content in images.items() if form == "folder" else ():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(content)
    get([load()["ffhq"]], data, mirror=str(place.parent))
    archive = Archive(kept / "target/ffhq-3.zip")
    assert list(archive.names) == ["00000.png", "00001.png", "00002.png"]
    assert archive.encoded(2) == images["01000/00002.png"]
    get([load()["ffhq"]], data, mirror=str(place.parent), target_images=4)  # all: linked
    assert len(Archive(kept / "target/ffhq-4.zip")) == 4
    with pytest.raises(
        ParamsError, match=r"target_images is 5, but .*thumbnails128x128(\.zip)? has fewer images of ffhq"
    ):
        get([load()["ffhq"]], data, mirror=str(place.parent), target_images=5)


def test_a_target_of_another_count_is_made_again(server, data, kept, monkeypatch):
    get([load()["ffhq"]], data, mirror=server.address)
    assert len(Archive(kept / "target/ffhq-3.zip")) == 3
    get([load()["ffhq"]], data, mirror=server.address, target_images=2)
    assert len(Archive(kept / "target/ffhq-2.zip")) == 2
    monkeypatch.setattr(library, "thumbnails", lambda entry, knobs, *_: (_ for _ in ()).throw(StoreError("by list")))
    entry = replace(load()["ffhq"], files=())
    with pytest.raises(StoreError, match="by list"):  # the mirror has three: that is not it
        get([entry], data, mirror=server.address, target_images=4)
    assert not (kept / "target/ffhq-4.zip").exists()
    assert [path.name for path in (kept / "target").glob(".*")] == []


def test_a_full_disk_is_no_reason_to_ask_elsewhere(server, data, monkeypatch):
    calls = []

    def full(*_, **__):
        calls.append(1)
        raise StoreError("the disk is full")

    monkeypatch.setattr(library, "download", full)
    with pytest.raises(StoreError, match="the disk is full"):
        get([load()["ffhq"]], data, mirror=server.address)
    assert len(calls) == 1


def test_a_mirror_that_is_no_folder_is_refused(data):
    with pytest.raises(ParamsError, match="no such folder; an address begins with https://"):
        get([], data, mirror="no/such/folder")


def test_thumbnails_come_by_ffhqs_own_list(tmp_path, data, kept):
    folder = tmp_path / "google"
    with Server(folder) as drive:
        listing = layouts.ffhq(folder, drive.address, 5)
        file = File("target/ffhq-dataset-v2.json", (f"{drive.address}/{listing.name}",), listing.stat().st_size, True)
        entry = replace(load()["ffhq"], files=(file,))
        drive.faults["thumbnails128x128/00001.png"] = ["wrong"]
        get([entry], data)
        archive = Archive(kept / "target/ffhq-3.zip")
        assert list(archive.names) == ["00000.png", "00001.png", "00002.png"]
        assert archive.encoded("00001.png") == (folder / "thumbnails128x128/00001.png").read_bytes()
        assert sorted(path.name for path in (kept / "target").iterdir()) == ["ffhq-3.zip", "ffhq-dataset-v2.json"]
        asked = len(drive.requests)
        get([entry], data)
        assert len(drive.requests) == asked
        get([entry], data, target_images=4)
        assert len(Archive(kept / "target/ffhq-4.zip")) == 4
        with pytest.raises(ParamsError, match="target_images is 6, but FFHQ has 5"):
            get([entry], data, target_images=6)


def rfw(folder):
    for group in ("African", "Asian", "Caucasian", "Indian"):
        (folder / "txts" / group).mkdir(parents=True)
        (folder / "data" / group / "m.0").mkdir(parents=True)
        (folder / "data" / group / "m.0/m.0_0001.jpg").write_bytes(b"")
        (folder / "txts" / group / f"{group}_pairs.txt").write_text("m.0\t1\t2\n")
        (folder / "txts" / group / f"{group}_lmk.txt").write_text("")
    return folder


@pytest.mark.parametrize("place", ["mine", "mine/rfw", "mine/benchmarks/rfw"])
def test_what_only_the_user_can_get_is_asked_for_precisely_and_linked_once(tmp_path, data, kept, place):
    entry = load()["rfw"]
    missing = r"(?s)r2r fetch --from DIR rfw`\n  rfw: .*_pairs\.txt: 0 files, where 4 were expected\. On application"
    with pytest.raises(StoreError, match=missing):
        get([entry], data)
    rfw(tmp_path / place)
    get([entry], data, mirror=str(tmp_path / "mine"))
    assert (kept / "benchmarks/rfw").resolve() == (tmp_path / place).resolve()
    get([entry], data)


def test_a_folder_that_moved_is_linked_anew(tmp_path, data, kept, capsys):
    entry = load()["rfw"]
    rfw(tmp_path / "mine/rfw")
    get([entry], data, mirror=str(tmp_path / "mine"))
    (tmp_path / "mine").rename(tmp_path / "moved")
    with pytest.raises(StoreError, match="only you can get"):
        get([entry], data)
    get([entry], data, mirror=str(tmp_path / "moved"))
    assert (kept / "benchmarks/rfw").resolve() == (tmp_path / "moved/rfw").resolve()


def test_a_folder_that_is_not_it_is_not_linked(tmp_path, data, kept, capsys):
    (rfw(tmp_path / "mine/rfw") / "txts/Asian/Asian_lmk.txt").unlink()
    with pytest.raises(StoreError, match="only you can get"):
        get([load()["rfw"]], data, mirror=str(tmp_path / "mine"))
    assert "mine/rfw/txts/*/*_lmk.txt: 3 files, where 4 were expected" in capsys.readouterr().err
    (tmp_path / "mine/any").touch()
    with pytest.raises(StoreError, match="only you can get"):  # any file would do for webface: the folder is not it
        get([load()["webface"]], data, mirror=str(tmp_path / "mine"))
    assert not (kept / "benchmarks").exists()


def test_every_state_is_told_apart(server, data, kept):
    entries = [load()[name] for name in ("digiface-1m", "arc2face", "sd15", "rfw")]

    def states(knobs):
        findings = library.inspect(entries, knobs, kept, Hashes(kept / "hashes.json"))
        return [finding.state for finding in findings]

    assert states(replace(KNOBS, accept_licenses=())) == ["licence", "missing", "licence", "by hand"]
    assert states(KNOBS) == ["missing", "missing", "missing", "by hand"]
    get([load()["arc2face"], load()["sd15"]], data)
    assert states(KNOBS) == ["missing", "present", "present", "by hand"]
    (kept / "weights/arc2face/encoder/config.json").write_text("x")
    assert states(KNOBS) == ["missing", "wrong", "present", "by hand"]


def test_a_file_that_has_changed_is_put_aside_and_got_again(server, data, kept, capsys):
    get([load()["arc2face"]], data)
    path = kept / "weights/arc2face/encoder/config.json"
    right = path.read_bytes()
    path.write_bytes(b"x")
    get([load()["arc2face"]], data)
    assert path.read_bytes() == right
    assert "encoder/config.json: SHA-256 is" in capsys.readouterr().err


def archive_of(path, members, **options):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            archive.writestr(name, content, **options)


DETECTOR = "scrfd_10g_bnkps.onnx"


def detector():
    """An entry of one file in an archive."""
    entry = load()["antelopev2"]
    return replace(entry, files=tuple(file for file in entry.files if file.path.endswith(DETECTOR)))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("antelopev2/other.onnx", b"x")], "0 members are named"),
        ([(f"a/{DETECTOR}", b"x"), (f"b/{DETECTOR}", b"x")], "2 members are named"),
        ([(f"a/{DETECTOR}", bytes(35_000_000))], "35000000 bytes, where about 17000000 are right"),
    ],
)
def test_hostile_archives_are_named(data, members, message):
    (data / "archives").mkdir(parents=True)
    archive_of(data / "archives/antelopev2.zip", members, compress_type=zipfile.ZIP_DEFLATED)
    with pytest.raises(StoreError, match=message):
        library.unpack(detector(), data, Hashes(data / "hashes.json"))
    assert not (data / "weights").exists()


def test_no_path_of_an_archive_leaves_its_folder_and_no_link_is_followed(tmp_path, data):
    (data / "archives").mkdir(parents=True)
    link = zipfile.ZipInfo(f"../../{DETECTOR}")
    link.external_attr = 0o120777 << 16
    archive_of(data / "archives/antelopev2.zip", [(link, b"/etc/passwd"), ("/etc/evil", b"x")])
    library.unpack(detector(), data, Hashes(data / "hashes.json"))
    path = data / "weights/antelopev2" / DETECTOR
    assert not path.is_symlink()
    assert path.read_bytes() == b"/etc/passwd"  # the bytes of the member, and no file of the machine
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == ["antelopev2.zip", DETECTOR]


@pytest.mark.parametrize("harm", ["encrypted", "truncated", "damaged"])
def test_broken_archives_are_named(data, harm):
    path = data / "archives/antelopev2.zip"
    path.parent.mkdir(parents=True)
    archive_of(path, [(f"antelopev2/{DETECTOR}", b"weights" * 1000)])
    content = bytearray(path.read_bytes())
    if harm == "encrypted":
        content[6] |= 1
        content[content.index(b"PK\x01\x02") + 8] |= 1
    if harm == "truncated":
        content = content[:5000]
    if harm == "damaged":
        content[3000] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="encrypted" if harm == "encrypted" else "truncated or not a zip"):
        library.unpack(detector(), data, Hashes(data / "hashes.json"))
    assert not (data / "weights/antelopev2" / DETECTOR).exists()


def surveyed(folder):
    entry = replace(load()["digiface-1m"], files=(File("subjects_0-1999_72_imgs.zip", (), 1),))
    return library.survey_source(entry, folder, 2)


def test_broken_and_gray_images_of_the_source_are_counted_and_left_out(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    path = folder / "subjects_0-1999_72_imgs.zip"
    good = layouts.encoded(layouts.noise(0, 0))
    members = {
        "0/0.png": good,
        "0/1.png": layouts.encoded(layouts.noise(0, 1)[..., 0]),
        "0/2.png": good[:-20],
        "0/3.png": b"GIF89a",
        "1/0.png": layouts.encoded(layouts.noise(1, 0, 64)),
        "1/1.png": good,
    }
    archive_of(path, members.items())
    content = bytearray(path.read_bytes())
    content[content.rindex(b"1/1.png", 0, content.index(b"PK\x01\x02")) + 2000] ^= 1  # in that member's pixels
    path.write_bytes(content)
    assert surveyed(folder) == {"source_broken_images": 3, "source_gray_images": 1, "source_other_sizes": 1}
    source = DigiFace(folder)
    assert source.sample[source.rows(0)].tolist() == [0, 1]
    assert source.sample[source.rows(1)].tolist() == [0]
    assert source.broken_images == 3
    assert source.encoded(1) == members["0/1.png"]


def test_a_survey_of_another_zip_counts_for_nothing(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    path = folder / "subjects_0-1999_72_imgs.zip"
    archive_of(path, [("0/0.png", b"broken"), ("0/1.png", layouts.encoded(layouts.noise(0, 1)))])
    surveyed(folder)
    assert DigiFace(folder).sample.tolist() == [1]
    archive_of(path, [("0/0.png", layouts.encoded(layouts.noise(0, 0)))])
    assert DigiFace(folder).sample.tolist() == [0]


def test_the_hub_and_the_catalogue_agree_on_names(server, data, kept):
    get([load()["arc2face"]], data)
    for file in load()["arc2face"].files:
        content = (kept / file.path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == Hashes(kept / "hashes.json").known[file.path]
    assert download_module.locate(load()["arc2face"].files[0].places[0])[0].startswith(
        f"{server.address}/hub/FoivosPar"
    )
