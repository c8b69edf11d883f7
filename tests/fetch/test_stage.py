"""`r2r fetch` as a whole: what stands in data/ is links to what is kept, and nothing of the user's is ever lost."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from stages.cli import app
from stages.evaluate.readers import read_benchmarks
from stages.fetch import costs, library
from stages.fetch import stage as fetch
from stages.fetch.catalogue import load
from stages.fetch.knobs import Fetch
from stages.images import Archive, read_faces
from stages.knobs import ParamsError
from stages.params import Params, compose
from stages.run import loop
from stages.store import StoreError
from stages.store.manifest import check_manifest, read_manifest
from stages.world import datasets
from tests.fetch import layouts
from tests.fetch.test_library import LICENSES, rfw
from tests.test_params import CONF
from tests.world import fake

KNOBS = Fetch(
    source_images_per_id=2,
    source_ids_per_zip=3,
    target_ids=3,
    target_images_per_id=2,
    pairs=40,
    templates=2,
    group_pairs=40,
    accept_licenses=LICENSES,
    target_images=3,
)
PARAMS = Params(n_ids=5, images_per_id=2, fetch=KNOBS)
BINS = {"agedb_30.bin", "calfw.bin", "cfp_ff.bin", "cfp_fp.bin", "cplfw.bin", "lfw.bin"}
OURS = {"age.bin", "groups", "pose.bin", "profile.bin", "quality", "random-raster.bin", "random.bin"}


def params(**knobs):
    return replace(PARAMS, fetch=replace(KNOBS, **knobs))


def official(mirror, **knobs):
    names = {"source": "digiface-1m", "target": "ffhq", "benchmarks": ("insightface-bins",), "weights": ("sd15",)}
    return params(**names | {"mirror": str(mirror)} | knobs)


@pytest.fixture(autouse=True)
def rendered(monkeypatch):
    """The people who were rendered, by a world that costs nothing, in this process."""
    people = []

    def photograph(portrait):
        people.append(portrait.identity)
        return fake.photograph(portrait)

    monkeypatch.setattr(datasets, "photograph", photograph)
    monkeypatch.setattr(datasets, "executor", lambda workers: loop)
    return people


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


def metrics(root):
    return json.loads((root / "metrics/fetch.json").read_text())


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def inodes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------------------- the world


def test_everything_is_there_and_counted(tmp_path, data):
    fetch.run(PARAMS, tmp_path)
    assert read_faces(data / "source").identities.tolist() == list(range(9))  # ceil(1.25 * 5) = 7, in whole zips
    assert len(Archive(data / "target/target.zip")) == 6
    assert names(data / "benchmarks") == OURS
    numbers = metrics(tmp_path)
    assert list(numbers)[:4] == ["source_identities", "source_images", "target_identities", "target_images"]
    assert list(numbers.values())[:4] == [9, 18, 3, 6]
    for name in ("random", "pose", "profile", "age", "random-raster"):
        assert numbers[f"{name}_images"] == 40
    assert numbers["groups_images"] == 160
    assert numbers["quality_images"] == 14
    assert numbers["quality_replaced"] == 2 * 4
    assert read_manifest(data / "benchmarks")["files"] == sorted(OURS)


def test_a_second_run_renders_nothing_and_changes_no_file(tmp_path, data, rendered):
    fetch.run(PARAMS, tmp_path)
    before, numbers = inodes(data), (tmp_path / "metrics/fetch.json").read_bytes()
    rendered.clear()
    fetch.run(PARAMS, tmp_path)
    assert inodes(data) == before
    assert (tmp_path / "metrics/fetch.json").read_bytes() == numbers
    assert rendered == []


def test_more_identities_render_the_new_ones_alone_though_dvc_empties_the_folders(tmp_path, data, rendered):
    fetch.run(PARAMS, tmp_path)
    shutil.rmtree(data)
    rendered.clear()
    fetch.run(replace(PARAMS, n_ids=8), tmp_path)
    assert rendered == [9, 10, 11]
    assert len(names(data / "source")) == 4


def test_fewer_identities_take_links_away_and_say_so(tmp_path, data, rendered, capsys):
    fetch.run(replace(PARAMS, n_ids=8), tmp_path)
    fetch.run(PARAMS, tmp_path)
    assert "subjects_9-11_2_imgs.zip" not in names(data / "source")
    assert "removed" in (said := capsys.readouterr().err)
    assert "subjects_9-11_2_imgs.zip: fetch put it there for other knobs; the cache keeps it" in said
    rendered.clear()
    fetch.run(replace(PARAMS, n_ids=8), tmp_path)
    assert rendered == []


@pytest.mark.parametrize("copied", [False, True])
def test_a_benchmark_that_has_changed_is_made_again(tmp_path, data, rendered, capsys, copied):
    fetch.run(PARAMS, tmp_path)
    path = data / "benchmarks/random.bin"
    right = path.read_bytes()
    if copied:  # no link of the cache's
        path.unlink()
    path.write_bytes(right[:100] + bytes(byte ^ 1 for byte in right[100:164]) + right[164:])
    rendered.clear()
    fetch.run(PARAMS, tmp_path)
    assert path.read_bytes() == right
    assert "put aside" in capsys.readouterr().err
    assert bool(rendered) != copied
    assert names(data / "benchmarks") == OURS


def test_an_image_of_a_folder_that_has_changed_is_made_again(tmp_path, data):
    fetch.run(PARAMS, tmp_path)
    path = next((data / "benchmarks/quality/loose_crop").iterdir())
    right = path.read_bytes()
    path.write_bytes(b"x")
    fetch.run(PARAMS, tmp_path)
    assert path.read_bytes() == right


def test_what_is_gone_is_seen_by_those_who_read(tmp_path, data):
    fetch.run(PARAMS, tmp_path)
    for name in ("source", "target", "benchmarks", "weights"):
        check_manifest(data / name)
    (data / "source/subjects_3-5_2_imgs.zip").unlink()
    with pytest.raises(StoreError, match=r"subjects_3-5_2_imgs\.zip: is gone, 1 of the 3 .*`r2r fetch`"):
        check_manifest(data / "source")


# ------------------------------------------------------------------------------------------------ the user's files


@pytest.mark.parametrize("name", ["source/subjects_0-1999_72_imgs.zip", "benchmarks/lfw.bin", "benchmarks/mine/a.jpg"])
def test_what_is_foreign_stops_the_stage_before_anything_is_written(tmp_path, data, rendered, name):
    path = data / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"of the user's")
    with pytest.raises(StoreError, match=rf"{path.name}: not made or got by fetch.*move it away"):
        fetch.run(PARAMS, tmp_path)
    assert path.read_bytes() == b"of the user's"
    assert rendered == []
    assert not (tmp_path / "metrics").exists()


def test_cards_of_others_cost_nobody_a_file(tmp_path, data):
    """A foreign X.json made the next run delete X.bin and X/."""
    fetch.run(PARAMS, tmp_path)
    (data / "benchmarks/random.json").write_text('{"fingerprint": "x"}')
    with pytest.raises(StoreError, match=r"random\.json: not made or got by fetch"):
        fetch.run(PARAMS, tmp_path)
    assert names(data / "benchmarks") == OURS | {"random.json"}


def test_a_file_of_the_users_in_the_place_of_ours_is_put_aside(tmp_path, data, cache, capsys):
    (data / "benchmarks/quality").mkdir(parents=True)
    for name in ("age.bin", "quality/notes.txt"):
        (data / "benchmarks" / name).write_text("of the user's")
    fetch.run(PARAMS, tmp_path)
    assert {path.name: path.read_text() for path in (cache / "aside").rglob("*") if path.is_file()} == {
        "age.bin": "of the user's",
        "notes.txt": "of the user's",
    }
    assert "age.bin: not what fetch would put there; put aside as" in capsys.readouterr().err
    assert names(data / "benchmarks") == OURS


def test_too_few_images_stop_before_anything_is_written(tmp_path):
    with pytest.raises(ParamsError, match=r"images_per_id is 3.*source_images_per_id = 2"):
        fetch.run(Params(n_ids=5, images_per_id=3, fetch=KNOBS), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [{"pairs": 20}, {"pairs": 50}, {"pairs": 10**6}, {"group_pairs": 30}, {"templates": 1}, {"workers": -1}],
)
def test_impossible_knobs(change):
    (name,) = change
    with pytest.raises(ParamsError, match=rf"fetch\.{name} is"):
        Fetch(**change)


def test_more_people_than_the_world_has(tmp_path):
    with pytest.raises(ParamsError, match="12,500,000 people are asked for, but the embedded source has 9,999,999"):
        fetch.run(replace(PARAMS, n_ids=10**7), tmp_path)


# ------------------------------------------------------------------------------------------------- official things


def test_everything_official_stands_where_the_rendered_would(server, tmp_path, data):
    server.faults["source/subjects_2000-3999_72_imgs.zip"] = ["drop", "503"]
    fetch.run(official(server.address), tmp_path)
    source = read_faces(data / "source")
    assert source.identities.tolist() == [0, 2000, 4000, 6000, 8000, 100000, 133333, 166666]
    assert len(Archive(data / "target/target.zip")) == 3
    assert names(data / "benchmarks") == BINS
    assert (data / "weights/sd15/tokenizer/merges.txt").is_file()
    numbers = metrics(tmp_path)
    assert numbers["source_identities"] == 8
    assert numbers["source_identities_missing"] == 109_999 - 8
    assert numbers["source_images"] == 16
    assert numbers["source_broken_images"] == 0
    assert numbers["target_images"] == 3
    assert numbers["insightface-bins_bytes"] > 0
    asked = len(server.requests)
    shutil.rmtree(data)  # as DVC does
    fetch.run(official(server.address), tmp_path)
    assert len(server.requests) == asked


def test_official_weights_that_have_changed_are_got_again(server, tmp_path, data):
    knobs = params(benchmarks=(), weights=("sd15",), mirror=server.address)
    fetch.run(knobs, tmp_path)
    path = data / "weights/sd15/tokenizer/merges.txt"
    right = path.read_bytes()
    path.write_bytes(b"x")
    fetch.run(knobs, tmp_path)
    assert path.read_bytes() == right


def test_from_rendered_to_official_and_back(server, tmp_path, data, rendered):
    fetch.run(PARAMS, tmp_path)
    before = inodes(data)
    fetch.run(official(server.address), tmp_path)
    assert names(data / "benchmarks") == BINS
    assert len(Archive(data / "target/target.zip")) == 3
    asked = len(server.requests)
    rendered.clear()
    fetch.run(PARAMS, tmp_path)
    assert {path: inode for path, inode in inodes(data).items() if not path.name.startswith(".")} == {
        path: inode for path, inode in before.items() if not path.name.startswith(".")
    }
    assert rendered == []
    fetch.run(official(server.address), tmp_path)
    assert len(server.requests) == asked


def test_a_licence_stops_before_anything_is_fetched(server, tmp_path):
    with pytest.raises(ParamsError, match=r"(?s)R-UDA-1\.0, of digiface-1m: https.*accept_licenses=\[.*R-UDA-1\.0"):
        fetch.run(official(server.address, accept_licenses=("CreativeML-OpenRAIL-M",)), tmp_path)
    assert server.requests == []
    assert list(tmp_path.iterdir()) == []


def test_more_identities_than_the_official_source_has(server, tmp_path):
    with pytest.raises(ParamsError, match="n_ids is 9, but digiface-1m has 8 identities"):
        fetch.run(replace(official(server.address), n_ids=9), tmp_path)


def test_the_command_gets_by_name_from_a_folder_and_the_next_run_loses_nothing(
    held, tmp_path, data, cache, monkeypatch
):
    small = [
        f"fetch.{name}={value}"
        for name, value in (("pairs", 40), ("templates", 2), ("group_pairs", 40), ("workers", 1))
    ]
    text = compose(["profile=smoke", "fetch.accept_licenses=[research-only]", *small], CONF)
    (tmp_path / "params.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    for name in ("weights", "training"):
        (tmp_path / "mine" / name).mkdir(parents=True)
    (tmp_path / "mine/weights/unsb").mkdir()
    (tmp_path / "mine/weights/unsb/latest_net_G.pth").write_bytes(b"weights")
    for names_ in (["casia-webface", "--from", str(held)], ["unsb", "--from", str(tmp_path / "mine")]):
        result = CliRunner().invoke(app, ["fetch", *names_])
        assert result.exit_code == 0, result.output
    assert read_faces(data / "training/casia-webface").identity.tolist() == [0, 0, 0, 1, 1, 1]
    assert (held / "archives/faces_webface_112x112.zip").is_file()
    assert (data / "weights/unsb/latest_net_G.pth").read_bytes() == b"weights"
    assert CliRunner().invoke(app, ["fetch"]).exit_code == 0
    assert not (data / "weights/unsb").exists()  # no knob names it
    assert (cache / "library/weights/unsb/latest_net_G.pth").read_bytes() == b"weights"
    assert CliRunner().invoke(app, ["fetch", "unsb"]).exit_code == 0
    assert (data / "weights/unsb/latest_net_G.pth").read_bytes() == b"weights"
    with pytest.raises(ParamsError, match="casia: not in the catalogue"):
        fetch.get(["casia"], PARAMS, tmp_path)


def test_pairs_that_may_choose_an_epoch_are_rendered_by_name(tmp_path, data, rendered):
    fetch.get(["validation"], PARAMS, tmp_path)
    (benchmark,) = read_benchmarks(data / "validation")
    assert (benchmark.name, len(benchmark.same), len(rendered)) == ("validation", 40, 20)
    before = inodes(data)
    fetch.get(["validation"], PARAMS, tmp_path)
    assert inodes(data) == before


def test_a_linked_benchmark_is_known_by_its_protocol_and_brought_back(tmp_path, data, cache):
    mine = rfw(tmp_path / "mine/rfw")
    knobs = params(benchmarks=("rfw",), mirror=str(tmp_path / "mine"))
    fetch.run(knobs, tmp_path)
    assert (data / "benchmarks/rfw").is_symlink()
    before = read_manifest(data / "benchmarks")
    (mine / "txts/Asian/Asian_pairs.txt").write_text("m.0\t1\t2\nm.0\t1\t3\n")
    fetch.run(params(benchmarks=("rfw",)), tmp_path)
    after = read_manifest(data / "benchmarks")
    assert after["files"] == before["files"] == ["rfw"]
    assert after["content"] != before["content"] != ""
    (data / "benchmarks/rfw").unlink()  # DVC restores no links
    check_manifest(data / "benchmarks")
    assert (data / "benchmarks/rfw").samefile(mine)


# ------------------------------------------------------------------------------------------------------ by path


def tree(folder: Path, people=6):
    for person in range(people):
        for sample in range(2):
            path = folder / f"p{person}" / f"{sample}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(layouts.encoded(layouts.noise(person, sample, 16)))
    return folder


def test_someone_elses_images_are_source_and_target_by_path(tmp_path, data):
    mine = tree(tmp_path / "mine")
    (mine / ".DS_Store").touch()
    knobs = params(source="mine", target=str(mine), benchmarks=())
    fetch.run(knobs, tmp_path)
    faces = read_faces(data / "source")
    assert (len(faces.identities), len(faces), len(Archive(data / "target/target.zip"))) == (6, 12, 12)
    numbers = metrics(tmp_path)
    assert (numbers["source_identities"], numbers["source_images"], numbers["target_images"]) == (6, 12, 12)
    before = read_manifest(data / "source")
    assert before["links"] == {"set": "mine"}
    assert read_manifest(data / "target")["links"] == {"target.zip": str(mine)}
    for name in ("source/set", "target/target.zip"):  # DVC restores no links
        (data / name).unlink()
        check_manifest(data / name.split("/")[0])
        assert (data / name).samefile(mine)
    (mine / "p0/0.png").write_bytes((mine / "p1/0.png").read_bytes())
    fetch.run(knobs, tmp_path)
    assert read_manifest(data / "source")["content"] != before["content"]  # DVC does not look into linked folders
    fetch.run(params(benchmarks=()), tmp_path)
    assert names(data / "source") == {f"subjects_{n}-{n + 2}_2_imgs.zip" for n in (0, 3, 6)}
    assert len(list(mine.rglob("*.png"))) == 12


@pytest.mark.parametrize("form", ["zip", "digiface", "rec"])
def test_a_set_in_files_is_linked(tmp_path, data, form, capsys):
    mine = tmp_path / "mine"
    tree(mine / "faces", 6)
    if form == "zip":
        path = Path(shutil.make_archive(str(mine / "faces"), "zip", mine / "faces"))
    elif form == "digiface":
        layouts.digiface(mine, people=1, images=2)
        path = mine / "source"
    else:
        path = mine / "train.rec"
        records, index = layouts.rec(people=6)
        path.write_bytes(records)
        path.with_suffix(".idx").write_text(index)
    fetch.run(params(source=str(path), benchmarks=()), tmp_path)
    assert len(read_faces(data / "source").identities) == (8 if form == "digiface" else 6)
    if path.is_file():
        assert os.path.samefile(data / "source" / path.name, path)
    fetch.run(params(benchmarks=()), tmp_path)
    assert path.exists()
    assert names(data / "source") == {f"subjects_{n}-{n + 2}_2_imgs.zip" for n in (0, 3, 6)}


def test_a_set_by_path_is_looked_at_before_anything_is_written(tmp_path):
    tree(tmp_path / "mine", 4)
    with pytest.raises(ParamsError, match="n_ids is 5, but mine has 4 identities"):
        fetch.run(params(source="mine"), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="empty"):
        fetch.run(params(target="empty"), tmp_path)
    assert not (tmp_path / "data").exists()


# ------------------------------------------------------------------------------------------------------ what it costs


def test_doctor_is_told_what_is_there_and_what_is_to_do(server, tmp_path, data, cache):
    images = 18 + 6 + 5 * 40 + 14 + 160
    assert costs.work(PARAMS, tmp_path) == (images, 0)
    fetch.run(PARAMS, tmp_path)
    assert costs.work(PARAMS, tmp_path) == (0, 0)
    assert costs.work(replace(PARAMS, n_ids=8), tmp_path) == (6, 0)
    assert costs.findings(PARAMS, tmp_path) == []
    knobs = official("")
    todo = sum(load()[name].size for name in ("digiface-1m", "ffhq", "sd15")) + 3 * library.THUMBNAIL
    todo += load()["insightface-bins"].archive.size
    assert costs.work(knobs, tmp_path) == (0, todo)
    assert {(name, state) for name, state, _, _ in costs.findings(knobs, tmp_path)} == {
        (name, "missing") for name in ("digiface-1m", "ffhq", "insightface-bins", "sd15")
    }
    fetch.run(official(server.address), tmp_path)
    assert {state for _, state, _, _ in costs.findings(knobs, tmp_path)} == {"present"}
    assert costs.work(knobs, tmp_path) == (0, 0)
    tree(tmp_path / "mine")
    assert costs.findings(params(source="mine"), tmp_path) == [("fetch.source", "present", 0, str(tmp_path / "mine"))]
