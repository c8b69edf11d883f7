"""`.bin` pickles: what is read, and that nothing in them is run."""

import io
import os
import pickle
import pickletools
import struct

import numpy as np
import pytest

from stages.evaluate.readers.bin import read_bin
from stages.store import StoreError

IMAGES = [b"\xff\xd8 one", b"two \x80\xff", b"three", b"one\n", b"two \x80\xff", b"six"]
LABELS = [True, False, True]


def write(path, value, protocol=4):
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


def python2(path) -> None:
    """The bytes of Python 2's pickle.dump((images, labels), f, protocol=2): str are SHORT_BINSTRING and BINSTRING."""
    out = io.BytesIO()
    out.write(b"\x80\x02]q\x00(")
    for number, image in enumerate(IMAGES):
        long = number % 2
        out.write(b"T" + struct.pack("<i", len(image)) if long else b"U" + bytes([len(image)]))
        out.write(image + b"q" + bytes([number + 1]))
    out.write(b"e]q\x10(\x88\x89\x88e\x86q\x11.")
    path.write_bytes(out.getvalue())


def check(pairs) -> None:
    shown = [pairs.images.encoded(number) for side in zip(pairs.first, pairs.second, strict=True) for number in side]
    assert shown == IMAGES
    assert pairs.same.tolist() == LABELS
    assert len(pairs.images) == 5  # one of the six stands there twice
    assert pairs.images.aligned
    assert pairs.folds == 10


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_of_python_3(tmp_path, protocol):
    pairs = read_bin(write(tmp_path / "lfw.bin", (IMAGES, LABELS), protocol))
    check(pairs)
    assert pairs.name == "lfw"


def test_python_2(tmp_path):
    python2(tmp_path / "lfw.bin")
    check(read_bin(tmp_path / "lfw.bin"))


def test_python_2_text_protocol(tmp_path):
    text = "(lp0\n" + "".join(f"S{image!r}\np{n}\na".replace("Sb", "S") for n, image in enumerate(IMAGES, 1))
    (tmp_path / "a.bin").write_bytes(b"(" + text.encode() + b"(lp9\nI01\naI00\naI01\nat.")
    check(read_bin(tmp_path / "a.bin"))


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "value",
    [
        (IMAGES, np.array(LABELS)),
        (IMAGES, [np.bool_(label) for label in LABELS]),
        ([np.frombuffer(image, np.uint8) for image in IMAGES], LABELS),
        (np.array(IMAGES, object), np.array(LABELS, np.uint8)),
        (tuple(IMAGES), [np.int64(label) for label in LABELS]),
        [IMAGES, [1, 0, 1]],
        (IMAGES, np.array(LABELS, int)),
        (IMAGES, np.array(LABELS, ">i4")),
        (IMAGES, np.array(LABELS, float)),
        (IMAGES, [np.float32(label) for label in LABELS]),
        ([bytearray(image) for image in IMAGES], LABELS),
    ],
    ids=str,
)
def test_what_other_writers_put_in(tmp_path, value, protocol):
    check(read_bin(write(tmp_path / "a.bin", value, protocol)))


def test_the_names_of_old_and_new_numpy(tmp_path):
    content = pickle.dumps((IMAGES, np.array(LABELS)), protocol=2)
    for core in (b"numpy.core", b"numpy._core"):
        other = content.replace(b"numpy._core.multiarray", core + b".multiarray")
        (tmp_path / "a.bin").write_bytes(other)
        check(read_bin(tmp_path / "a.bin"))


class Evil:
    def __init__(self, call, *arguments):
        self.what = call, arguments

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("call", [os.system, eval, print, open, getattr, np.fromfile])
def test_a_pickle_runs_nothing(tmp_path, capfd, call, protocol):
    witness = tmp_path / "witness"
    argument = f"echo > {witness}" if call is os.system else f"open({str(witness)!r}, 'w')"
    path = write(tmp_path / "evil.bin", ([Evil(call, argument), b"2"], [True]), protocol)
    with pytest.raises(StoreError, match=r"evil\.bin: this pickle wants to use .*was not run"):
        read_bin(path)
    assert not witness.exists()
    assert not capfd.readouterr().out


def test_an_object_with_state_is_not_built(tmp_path):
    path = write(tmp_path / "evil.bin", ([io.BytesIO(b"x"), b"2"], [True]))
    with pytest.raises(StoreError, match=r"_io\.BytesIO"):
        read_bin(path)


def test_arrays_of_something_else(tmp_path):
    with pytest.raises(StoreError, match=r"a\.bin: .*values of type M8"):
        read_bin(write(tmp_path / "a.bin", (IMAGES, np.zeros(3, "M8[s]"))))
    with pytest.raises(StoreError, match=r"a\.bin: .*values of type c16"):
        read_bin(write(tmp_path / "a.bin", (IMAGES, [np.complex128(1)] * 3)))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_truncated(tmp_path, share):
    content = pickle.dumps((IMAGES, LABELS))
    (tmp_path / "a.bin").write_bytes(content[: int(share * len(content))])
    with pytest.raises(StoreError, match=r"a\.bin: truncated.*fetch it again"):
        read_bin(tmp_path / "a.bin")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((IMAGES[:5], LABELS), "5 images, an odd number"),
        ((IMAGES, LABELS[:2]), "6 images and 2 labels"),
        (([], []), "0 images and 0 labels"),
        ((IMAGES, [True, False, 2]), "label 2 is 2"),
        ((IMAGES, [True, None, False]), "label 1 is None"),
        (([b"1", b""], [True]), "image 1 is not the bytes"),
        (([b"1", "text"], [True]), "image 1 is not the bytes"),
        ((IMAGES, LABELS, 3), "holds 3 parts"),
        ((IMAGES, np.array([1, 0.5, 0])), "label 1 is 0.5"),
        ((IMAGES, np.array([1, -1, 1])), "label 1 is -1"),
        ((IMAGES, np.array([np.nan, 0, 1])), "label 0 is nan"),
        ({"images": IMAGES}, "holds a dict"),
        ((7, LABELS), "the images are a int"),
    ],
)
def test_other_contents(tmp_path, value, message):
    with pytest.raises(StoreError, match=message) as error:
        read_bin(write(tmp_path / "a.bin", value))
    assert "fetch it again" not in str(error.value)  # a whole file, which somebody packed so


def test_the_digest_and_names_are_of_the_whole_file(tmp_path):
    found = read_bin(write(tmp_path / "a.bin", (IMAGES, LABELS)))
    other = read_bin(write(tmp_path / "b.bin", (IMAGES, [*LABELS[:-1], not LABELS[-1]])))
    assert found.images.digest != other.images.digest
    assert found.images.digest == read_bin(write(tmp_path / "c.bin", (IMAGES, LABELS))).images.digest
    for side, images in ((found.first, IMAGES[::2]), (found.second, IMAGES[1::2])):
        for number, image in zip(side, images, strict=True):
            assert found.images.names[number] == f"{tmp_path}/a.bin, image {IMAGES.index(image)}"


def test_no_such_file(tmp_path):
    with pytest.raises(StoreError, match="not found"):
        read_bin(tmp_path / "a.bin")


def test_the_python_2_fixture_is_one(tmp_path):
    python2(tmp_path / "a.bin")
    names = {opcode.name for opcode, _, _ in pickletools.genops((tmp_path / "a.bin").read_bytes())}
    assert {"SHORT_BINSTRING", "BINSTRING"} <= names
