import io
import json
import zipfile

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save

from stages.verify.contents import difference, differences


def hdf5(**columns: np.ndarray) -> bytes:
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        for name, column in columns.items():
            file.create_dataset(name, data=column, track_times=False)
    return content.getvalue()


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


def npz(**parts: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez(content, **parts)
    return content.getvalue()


def pth(**parts: torch.Tensor) -> bytes:
    content = io.BytesIO()
    torch.save({"net": parts}, content)
    return content.getvalue()


def packed(date: int = 2000, **members: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        for name, member in members.items():
            file.writestr(zipfile.ZipInfo(name.replace("_", "."), (date, 1, 1, 0, 0, 0)), member)
    return content.getvalue()


ROWS = np.arange(8, dtype=np.float32).reshape(4, 2)
OTHER = ROWS + np.float32([[0, 0], [0, 0.25], [0, 0], [2, 0]])
BLACK = np.zeros((3, 4, 3), np.uint8)
DOT = BLACK.copy()
DOT[1, 2, 0] = 9


APART = "2 of 4 rows differ, first [1, 1]: 3 | 3.25; by 2 at most"
OTHERWISE = "the same files, packed in another order, with other dates or otherwise compressed"
BYTES = "the same content in other bytes: byte: 2 of 8 | 7 rows differ, first [5]: 32 | 49; by 76 at most"


@pytest.mark.parametrize(
    ("suffix", "first", "second", "lines"),
    [
        (".h5", hdf5(v=ROWS, w=ROWS), hdf5(v=ROWS, w=OTHER), [f"w: {APART}"]),
        (".npz", npz(v=ROWS), npz(v=OTHER), [f"v: {APART}"]),
        (".safetensors", save({"v": ROWS}), save({"v": OTHER}), [f"v: {APART}"]),
        (".pth", pth(v=torch.from_numpy(ROWS)), pth(v=torch.from_numpy(OTHER)), [f"net.v: {APART}"]),
        (".png", png(BLACK), png(DOT), ["pixels: 1 of 3 rows differ, first [1, 2, 0]: 0 | 9; by 9 at most"]),
        (".csv", b"a,b\n1,x\n2,y\n", b"a,b\n1,x\n2,z\n", ["b: 1 of 2 rows differ, first [1]: y | z"]),
        (".csv", b"a\n1\n2\n", b"a\n1\n2\n3\n", ["a: 2 | 3 rows"]),
        (
            ".json",
            b'{"a": {"b": [1, 2.5]}, "c": "x"}',
            b'{"a": {"b": [1, 2.75]}, "c": "x"}',
            ["a.b.1: 2.5 | 2.75; by 0.25 at most"],
        ),
        (".json", b'{"a": 1}', b'{"b": 1}', ["a is in the first alone", "b is in the second alone"]),
        (".json", b'{"a": 1}', b'{"a":1}', [BYTES]),
        (".txt", b"one\ntwo\n", b"one\ntoo\n", ["line: 1 of 2 rows differ, first [1]: two | too"]),
        (".bin", b"\xff\x00", b"\xff\x02", ["byte: 1 of 2 rows differ, first [1]: 0 | 2; by 2 at most"]),
        (".h5", b"\xff\x00", b"\xff\x02", ["byte: 1 of 2 rows differ, first [1]: 0 | 2; by 2 at most"]),
        (
            ".zip",
            packed(a_txt=b"x", b_txt=b"y"),
            packed(a_txt=b"x", b_txt=b"z"),
            ["b.txt: line: 1 of 1 rows differ, first [0]: y | z"],
        ),
        (".zip", packed(a_txt=b"x"), packed(2001, a_txt=b"x"), [OTHERWISE]),
        (
            ".zip",
            packed(a_txt=b"x"),
            packed(b_txt=b"x"),
            ["a.txt is in the first alone", "b.txt is in the second alone"],
        ),
    ],
)
def test_what_differs_is_said(suffix, first, second, lines):
    assert list(differences(first, second, suffix)) == lines


def test_nan_is_nan_and_forms_are_compared():
    row = np.array([1.0, np.nan])
    assert difference("v", row, row.copy()) is None
    assert difference("v", row, np.array([1.0, 2.0])) == "v: 1 of 2 rows differ, first [1]: nan | 2"
    assert difference("v", ROWS, ROWS[:, :1]) == "v: float32[4, 2] | float32[4, 1]"
    assert difference("v", np.zeros(2), np.array(["a", "b"])) == "v: float64[2] | <U1[2]"


def test_every_suffix_is_equal_to_itself():
    for suffix, content in ((".h5", hdf5(v=ROWS)), (".png", png(BLACK)), (".json", json.dumps([1, {}]).encode())):
        assert list(differences(content, content, suffix)) == []


def test_long_lines_are_cut():
    (line,) = differences(b"x" * 999, b"y" * 999, ".txt")
    assert len(line) < 200
