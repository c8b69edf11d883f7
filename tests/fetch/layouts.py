"""The official layouts, small: what a publisher's server holds, with pictures of nobody in them."""

import hashlib
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

from stages.fetch.catalogue import load

Picture = Callable[[int, int], np.ndarray]  # person, sample -> [h, w, 3] uint8 RGB


def noise(person: int, sample: int, size: int = 112) -> np.ndarray:
    rng = np.random.default_rng((person, sample))
    return rng.integers(0, 256, (size, size, 3), np.uint8)


def encoded(image: np.ndarray, codec: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, codec)
    return buffer.getvalue()


def digiface(folder: Path, people: int, images: int, picture: Picture = noise) -> None:
    """The eight zips, `people` of each range with `images` images each."""
    for file in load()["digiface-1m"].files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        first = int(path.name.split("_")[1].partition("-")[0])
        with zipfile.ZipFile(path, "w") as archive:
            for person in range(first, first + people):
                for sample in range(images):
                    archive.writestr(f"{person}/{sample}.png", encoded(picture(person, sample)))


def ffhq(folder: Path, address: str, count: int, picture: Picture = noise) -> Path:
    """`ffhq-dataset-v2.json` and its thumbnails, on a server at `address`."""
    listing = {}
    for number in range(count):
        content = encoded(picture(number, 0))
        path = folder / f"thumbnails128x128/{number:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        thumbnail = {
            "file_url": f"{address}/thumbnails128x128/{number:05}.png",
            "file_size": len(content),
            "file_md5": hashlib.md5(content, usedforsecurity=False).hexdigest(),
        }
        listing[str(number)] = {"category": "training", "thumbnail": thumbnail}
    path = folder / "ffhq-dataset-v2.json"
    path.write_text(json.dumps(listing))
    return path


def target(folder: Path, count: int, picture: Picture = noise) -> None:
    """FFHQ's thumbnails as one zip, where a copy of data/ has them."""
    path = folder / "target/target.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            archive.writestr(f"thumbnails128x128/00000/{number:05}.png", encoded(picture(number, 0)))


def bins(path: Path, pairs: int, picture: Picture = noise) -> None:
    """insightface's CASIA-WebFace zip: six `.bin` and the training records."""
    content: list[bytes] = []
    for pair in range(pairs):
        same = pair % 2 == 0
        content += [encoded(picture(pair, 0), "JPEG"), encoded(picture(pair if same else pair + pairs, 1), "JPEG")]
    binary = pickle.dumps((content, [pair % 2 == 0 for pair in range(pairs)]))
    path.parent.mkdir(parents=True, exist_ok=True)
    records, index = rec(picture)
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("lfw", "cfp_fp", "cfp_ff", "agedb_30", "calfw", "cplfw"):
            archive.writestr(f"faces_webface_112x112/{name}.bin", binary)
        archive.writestr("faces_webface_112x112/train.rec", records)
        archive.writestr("faces_webface_112x112/train.idx", index)
        archive.writestr("faces_webface_112x112/property", "2,112,112")


def rec(picture: Picture = noise, people: int = 2, images: int = 3) -> tuple[bytes, str]:
    """MXNet's RecordIO as insightface writes it: a header record, the images, the range of each identity."""
    records, index = b"", ""
    total = people * images

    def add(number: int, flag: int, labels: list[float], image: bytes) -> None:
        nonlocal records, index
        body = struct.pack("<IfQQ", flag, 0.0 if flag else labels[0], number, 0)
        body += np.array(labels, "<f4").tobytes() if flag else b""
        body += image
        index += f"{number}\t{len(records)}\n"
        records += struct.pack("<II", 0xCED7230A, len(body)) + body + bytes(-len(body) % 4)

    add(0, 2, [total + 1, total + 1 + people], b"")
    for number in range(total):
        person, sample = divmod(number, images)
        add(number + 1, 0, [person], encoded(picture(person, sample), "JPEG"))
    for person in range(people):
        add(total + 1 + person, 2, [1 + person * images, 1 + (person + 1) * images], b"")
    return records, index


def encoder(path: Path, dimension: int) -> None:
    """An identity encoder of few weights: 4 x 4 mean colours, projected."""
    weights = np.random.default_rng(0).normal(size=(48, dimension)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["input"], ["pooled"], kernel_shape=[28, 28], strides=[28, 28]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["output"]),
    ]
    graph = helper.make_graph(
        nodes,
        "encoder",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 112, 112])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", dimension])],
        [helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.tobytes(), raw=True)],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def hub(folder: Path, name: str) -> None:
    """Every file of an entry that the hub gives, with a few bytes of its own."""
    for file in load()[name].files:
        path = folder / file.places[0].replace("hf:", "hub/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.path.encode())
