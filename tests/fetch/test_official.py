import hashlib
import json
import os
import zipfile
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from stages import fetch
from stages.cli import app
from stages.fetch import download as download_module
from stages.fetch import official
from stages.fetch.catalogue import File, load
from stages.fetch.digiface import Source
from stages.fetch.download import Hashes
from stages.fetch.images import ImageArchive
from stages.params import Fetch, Params, ParamsError, compose
from stages.store import StoreError
from stages.train.readers import read_training_set
from tests.fetch import layouts
from tests.fetch.server import Server
from tests.test_params import CONF

LICENSES = ("R-UDA-1.0", "CC-BY-NC-SA-4.0", "CreativeML-OpenRAIL-M", "research-only", "insightface-non-commercial")
KNOBS = Fetch(
    source="digiface-1m",
    target="ffhq",
    benchmarks=("insightface-bins",),
    weights=("arc2face", "sd15"),
    target_images=3,
    accept_licenses=LICENSES,
)


def params(mirror, **knobs):
    return Params(n_ids=8, images_per_id=2, fetch=replace(KNOBS, mirror=str(mirror), **knobs))


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """What a publisher, or a copy of data/, holds."""
    folder = tmp_path_factory.mktemp("held")
    layouts.digiface(folder, people=1, images=2)
    layouts.target(folder, 3)
    layouts.bins(folder / "archives/faces_webface_112x112.zip", 4)
    layouts.hub(folder, "arc2face")
    layouts.hub(folder, "sd15")
    return folder


@pytest.fixture
def server(held, monkeypatch):
    with Server(held) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"{server.address}/hub")
        yield server


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


def metrics(root):
    return json.loads((root / "metrics/fetch.json").read_text())


def test_everything_official_stands_where_the_rendered_would(server, tmp_path, data):
    server.faults["source/subjects_2000-3999_72_imgs.zip"] = ["drop", "503"]
    fetch.run(params(server.address), tmp_path)
    assert Source(data / "source").identities.tolist() == [0, 2000, 4000, 6000, 8000, 100000, 133333, 166666]
    assert len(ImageArchive(data / "target/target.zip")) == 3
    bins = {"agedb_30.bin", "calfw.bin", "cfp_ff.bin", "cfp_fp.bin", "cplfw.bin", "lfw.bin"}
    assert {path.name for path in (data / "benchmarks").iterdir()} == bins
    assert (data / "weights/arc2face/arc2face/config.json").is_file()
    assert (data / "weights/sd15/tokenizer/merges.txt").is_file()
    assert list((data / "archives").iterdir()) == []
    numbers = metrics(tmp_path)
    assert numbers["source_identities"] == 8
    assert numbers["source_identities_missing"] == 109_999 - 8
    assert numbers["source_images"] == 16
    assert numbers["source_broken_images"] == 0
    assert numbers["target_images"] == 3
    assert numbers["lfw_bytes" if "lfw_bytes" in numbers else "insightface-bins_bytes"] > 0


def test_a_second_run_asks_for_nothing(server, tmp_path):
    fetch.run(params(server.address), tmp_path)
    asked = len(server.requests)
    fetch.run(params(server.address), tmp_path)
    assert len(server.requests) == asked


def test_a_terms_bound_thing_names_its_licence_before_anything_is_fetched(server, tmp_path):
    with pytest.raises(ParamsError, match=r"(?s)R-UDA-1\.0, of digiface-1m: https.*accept_licenses=\[.*R-UDA-1\.0"):
        fetch.run(params(server.address, accept_licenses=("CreativeML-OpenRAIL-M",)), tmp_path)
    assert server.requests == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_linked_and_not_copied(held, tmp_path, data):
    knobs = replace(KNOBS, mirror=str(held), weights=())
    official.get(official.wanted(replace(knobs, benchmarks=())), knobs, data)
    for name in ("source/subjects_0-1999_72_imgs.zip", "target/target.zip"):
        assert os.path.samefile(data / name, held / name)


def test_the_command_takes_an_archive_from_a_folder(held, tmp_path, data, monkeypatch):
    (tmp_path / "params.yaml").write_text(compose(["fetch.accept_licenses=[research-only]"], CONF))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["fetch", "--from", str(held), "casia-webface"])
    assert result.exit_code == 0, result.output
    assert (data / "training/casia-webface/train.rec").is_file()
    assert (held / "archives/faces_webface_112x112.zip").is_file()
    assert not (data / "archives/faces_webface_112x112.zip").exists()


def test_other_knobs_leave_nothing_of_these(held, tmp_path, data):
    official.get([load()["insightface-bins"]], replace(KNOBS, mirror=str(held)), data)
    (data / "benchmarks/mine.bin").touch()
    official.remove_stale([], data)
    assert [path.name for path in (data / "benchmarks").iterdir()] == ["mine.bin"]


def test_across_disks_a_folder_is_linked_by_name(held, data, monkeypatch):
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("another disk")))
    knobs = replace(KNOBS, mirror=str(held))
    official.get([load()["digiface-1m"]], knobs, data)
    path = data / "source/subjects_0-1999_72_imgs.zip"
    assert path.is_symlink()
    assert path.resolve() == (held / "source/subjects_0-1999_72_imgs.zip").resolve()


def test_a_folder_of_images_may_be_the_target(tmp_path, data):
    (tmp_path / "mine/thumbnails128x128/00000").mkdir(parents=True)
    (tmp_path / "mine/thumbnails128x128/00000/00000.png").write_bytes(layouts.encoded(layouts.noise(0, 0)))
    official.get([load()["ffhq"]], replace(KNOBS, mirror=str(tmp_path / "mine")), data)
    assert ImageArchive(data / "target/target.zip").names == ["00000/00000.png"]


def test_a_mirror_that_is_no_folder_is_refused(data):
    with pytest.raises(ParamsError, match="no such folder; an address begins with https://"):
        official.get([], replace(KNOBS, mirror="no/such/folder"), data)


def test_thumbnails_come_by_ffhqs_own_list(server, tmp_path, data, monkeypatch):
    folder = tmp_path / "google"
    with Server(folder) as drive:
        listing = layouts.ffhq(folder, drive.address, 5)
        file = File("target/ffhq-dataset-v2.json", (f"{drive.address}/{listing.name}",), listing.stat().st_size, True)
        entry = replace(load()["ffhq"], files=(file,))
        drive.faults["thumbnails128x128/00001.png"] = ["wrong"]
        official.get([entry], KNOBS, data)
        archive = ImageArchive(data / "target/target.zip")
        assert archive.names == ["00000.png", "00001.png", "00002.png"]
        assert archive.encoded("00001.png") == (folder / "thumbnails128x128/00001.png").read_bytes()
        assert not list(data.rglob("*.partial"))
        asked = len(drive.requests)
        official.get([entry], KNOBS, data)
        assert len(drive.requests) == asked
        official.get([entry], replace(KNOBS, target_images=4), data)
        assert len(ImageArchive(data / "target/target.zip")) == 4
        with pytest.raises(ParamsError, match="target_images is 6, but FFHQ has 5"):
            official.get([entry], replace(KNOBS, target_images=6), data)


def test_what_only_the_user_can_get_is_asked_for_precisely_and_checked(tmp_path, data):
    entry = load()["rfw"]
    with pytest.raises(StoreError, match=r"rfw: .*_pairs\.txt: 0 files, where 4 were expected\. Apply at the page"):
        official.get([entry], KNOBS, data)
    folder = tmp_path / "mine/rfw"
    for group in ("African", "Asian", "Caucasian", "Indian"):
        (folder / "txts" / group).mkdir(parents=True)
        (folder / "data" / group / "m.0").mkdir(parents=True)
        (folder / "txts" / group / f"{group}_pairs.txt").write_text("m.0\t1\t2\n")
        (folder / "txts" / group / f"{group}_lmk.txt").write_text("")
    with pytest.raises(StoreError, match=r"\*\.jpg: 0 files, where some were expected"):
        official.get([entry], replace(KNOBS, mirror=str(tmp_path / "mine")), data)
    (folder / "data/Asian/m.0/m.0_0001.jpg").write_bytes(b"")
    official.get([entry], replace(KNOBS, mirror=str(tmp_path / "mine")), data)
    card = data / "benchmarks" / official.CARD
    before = card.read_text()
    (folder / "txts/Asian/Asian_pairs.txt").write_text("m.0\t1\t2\nm.0\t1\t3\n")
    official.get([entry], KNOBS, data)
    assert card.read_text() != before


def test_every_state_is_told_apart(server, held, tmp_path, data):
    hashes = Hashes(data / "hashes.json")
    entries = [load()[name] for name in ("digiface-1m", "arc2face", "sd15", "rfw")]

    def states(knobs):
        return [finding.state for finding in official.inspect(entries, knobs, data, hashes)]

    assert states(replace(KNOBS, accept_licenses=())) == ["licence", "missing", "licence", "by hand"]
    assert states(KNOBS) == ["missing", "missing", "missing", "by hand"]
    official.get([load()["arc2face"], load()["sd15"]], KNOBS, data)
    hashes = Hashes(data / "hashes.json")
    assert states(KNOBS) == ["missing", "present", "present", "by hand"]
    (data / "weights/arc2face/encoder/config.json").write_text("x")
    assert states(KNOBS) == ["missing", "wrong", "present", "by hand"]
    with pytest.raises(StoreError, match=r"(?s)delete what is wrong.*encoder/config\.json: SHA-256 is"):
        official.get(entries[:2], KNOBS, data)


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
        official.unpack(detector(), data, Hashes(data / "hashes.json"))
    assert not (data / "weights").exists()


def test_no_path_of_an_archive_leaves_its_folder_and_no_link_is_followed(tmp_path, data):
    (data / "archives").mkdir(parents=True)
    link = zipfile.ZipInfo(f"../../{DETECTOR}")
    link.external_attr = 0o120777 << 16
    archive_of(data / "archives/antelopev2.zip", [(link, b"/etc/passwd"), ("/etc/evil", b"x")])
    official.unpack(detector(), data, Hashes(data / "hashes.json"))
    path = data / "weights/antelopev2" / DETECTOR
    assert not path.is_symlink()
    assert path.read_bytes() == b"/etc/passwd"  # the bytes of the member, and no file of the machine
    assert sorted(file.name for file in tmp_path.rglob("*") if file.is_file()) == [
        "antelopev2.zip",
        "hashes.json",
        DETECTOR,
    ]


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
        official.unpack(detector(), data, Hashes(data / "hashes.json"))
    assert not (data / "weights/antelopev2" / DETECTOR).exists()


def test_broken_and_gray_images_of_the_source_are_counted_and_left_out(tmp_path):
    path = tmp_path / "subjects_0-1999_72_imgs.zip"
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
    content[-500] ^= 1  # in the last member's pixels or its table; below it is the pixels'
    broken_at = content.rindex(b"1/1.png", 0, content.index(b"PK\x01\x02")) + 2000
    content = bytearray(path.read_bytes())
    content[broken_at] ^= 1
    path.write_bytes(content)
    counts = official.survey_source(tmp_path, 2)
    assert counts == {"source_broken_images": 3, "source_gray_images": 1, "source_other_sizes": 1}
    source = Source(tmp_path)
    assert source.samples(0) == [0, 1]
    assert source.samples(1) == [0]
    assert source.broken_images == 3
    assert source.encoded(0, 1) == members["0/1.png"]


def test_a_survey_of_another_zip_counts_for_nothing(tmp_path):
    path = tmp_path / "subjects_0-1999_72_imgs.zip"
    archive_of(path, [("0/0.png", b"broken"), ("0/1.png", layouts.encoded(layouts.noise(0, 1)))])
    official.survey_source(tmp_path, 1)
    assert Source(tmp_path).samples(0) == [1]
    archive_of(path, [("0/0.png", layouts.encoded(layouts.noise(0, 0)))])
    assert Source(tmp_path).samples(0) == [0]


def test_more_identities_than_the_official_source_has(server, tmp_path):
    with pytest.raises(ParamsError, match="n_ids is 9, but digiface-1m has 8 identities"):
        fetch.run(replace(params(server.address), n_ids=9), tmp_path)


def test_entries_are_got_by_name_beside_the_pipeline(server, tmp_path, data):
    fetch.get(["casia-webface"], params(server.address), tmp_path)
    folder = data / "training/casia-webface"
    assert {path.name for path in folder.iterdir()} == {"train.rec", "train.idx", "property"}
    assert read_training_set(folder).identity.tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(ParamsError, match="casia: not in the catalogue"):
        fetch.get(["casia"], params(server.address), tmp_path)


def test_the_hub_and_the_catalogue_agree_on_names(server, data, monkeypatch):
    official.get([load()["arc2face"]], KNOBS, data)
    for file in load()["arc2face"].files:
        content = (data / file.path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == Hashes(data / "hashes.json").known[file.path]
    assert download_module.locate(load()["arc2face"].files[0].places[0])[0].startswith(
        f"{server.address}/hub/FoivosPar"
    )
