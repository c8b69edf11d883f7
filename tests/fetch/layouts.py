"""The official layouts, small: what a publisher's server holds, with pictures of nobody in them."""

import hashlib
import io
import json
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from stages.fetch.catalogue import load
from tests.transfer.arc2face.tiny import SD15_SCHEDULER

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"

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


def antelope(path: Path, network: Path) -> None:
    """insightface's antelopev2, with this ArcFace network and no real detector."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(network, "antelopev2/glintr100.onnx")
        archive.writestr("antelopev2/scrfd_10g_bnkps.onnx", b"no detector")


def generator(folder: Path, made: Any, length: int) -> None:
    """Arc2Face's and Stable Diffusion 1.5's repositories on the hub, of a pipeline's parts."""
    parts, arc2face, sd15 = folder / "parts", folder / "hub/FoivosPar/Arc2Face", folder / f"hub/{SD15}"
    made.save_pretrained(parts)
    for source, target in ((parts / "unet", arc2face / "arc2face"), (parts / "text_encoder", arc2face / "encoder")):
        shutil.copytree(source, target)
    (arc2face / "encoder/model.safetensors").unlink()
    state = {f"text_model.{name}": weight for name, weight in made.text_encoder.state_dict().items()}
    state["text_model.embeddings.position_ids"] = torch.arange(length)[None]  # as CLIP's files of 2023 have it
    torch.save(state, arc2face / "encoder/pytorch_model.bin")
    shutil.copytree(parts / "vae", sd15 / "vae")
    words = json.loads(made.tokenizer.backend_tokenizer.to_str())["model"]
    bos, eos = "<|startoftext|>", "<|endoftext|>"
    merges = "\n".join(" ".join(pair) for pair in words["merges"])
    index = json.loads((parts / "model_index.json").read_text()) | {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "PNDMScheduler"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
    }
    for name, text in {
        "model_index.json": json.dumps(index),
        "tokenizer/vocab.json": json.dumps(words["vocab"]),
        "tokenizer/merges.txt": f"#version: 0.2\n{merges}\n",
        "tokenizer/special_tokens_map.json": json.dumps({"bos_token": bos, "eos_token": eos, "pad_token": eos}),
        "tokenizer/tokenizer_config.json": json.dumps(
            {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, "bos_token": bos, "eos_token": eos}
        ),
        "scheduler/scheduler_config.json": json.dumps(SD15_SCHEDULER),
    }.items():
        (sd15 / name).parent.mkdir(parents=True, exist_ok=True)
        (sd15 / name).write_text(text)
    shutil.rmtree(parts)


def hub(folder: Path, name: str) -> None:
    """Every file of an entry that the hub gives, with a few bytes of its own."""
    for file in load()[name].files:
        path = folder / file.places[0].replace("hf:", "hub/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.path.encode())
