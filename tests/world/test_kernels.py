"""The compiled loops against loops in plain numpy, closed forms and limits."""

from itertools import pairwise

import numpy as np
import pytest

from stages.world import kernels


def empty(size=16):
    return np.zeros((size, size), np.float32), np.full((size, size), kernels.EMPTY, np.int32), np.zeros((size, size, 2))


@pytest.mark.parametrize("turn", [1, -1])
def test_triangle_covers_the_pixel_centres_inside_it(turn):
    corners = np.array([[1.3, 2.1, 0.5], [13.7, 4.4, 0.25], [6.2, 14.9, 0.2]])
    depth, shown, bary = empty()
    faces = np.array([[0, 1, 2][::turn]], np.int32)
    kernels.rasterise(corners, faces, depth, shown, bary, True)
    solve = np.vstack([corners[faces[0], :2].T, np.ones(3)])
    covered = 0
    for y in range(16):
        for x in range(16):
            weights = np.linalg.solve(solve, [x + 0.5, y + 0.5, 1])
            inside = bool((weights >= 0).all())
            assert (shown[y, x] == 0) == inside
            if inside:
                covered += 1
                inverse = corners[faces[0], 2]  # of depth: linear on the screen
                assert depth[y, x] == pytest.approx(weights @ inverse, rel=1e-6)
                assert bary[y, x] == pytest.approx((weights * inverse / (weights @ inverse))[:2], rel=1e-6)
    assert covered > 50


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_nearest_triangle_wins_in_any_order(order):
    points = np.array([[0, 0, 0.2], [16, 0, 0.2], [0, 16, 0.2], [0, 0, 0.4], [16, 0, 0.4], [0, 16, 0.4]], float)
    depth, shown, bary = empty()
    faces = np.array([[0, 1, 2], [3, 4, 5]], np.int32)[order]
    kernels.rasterise(points, faces, depth, shown, bary, False)
    assert faces[shown[3, 3], 0] == 3
    assert depth[3, 3] == pytest.approx(0.4)
    assert shown[15, 15] == kernels.EMPTY


def test_degenerate_and_offscreen_triangles_draw_nothing():
    points = np.array([[2, 2, 1], [4, 4, 1], [8, 8, 1], [-9, -9, 1], [-3, -9, 1], [-9, -3, 1]], float)
    depth, shown, bary = empty()
    kernels.rasterise(points, np.array([[0, 1, 2], [3, 4, 5]], np.int32), depth, shown, bary, False)
    assert (shown == kernels.EMPTY).all()


def test_a_triangle_across_the_border_is_cut_off_and_does_not_come_round():
    points = np.array([[-5, -5, 0.3], [9.5, -4, 0.3], [-4, 9.5, 0.3]], float)
    depth, shown, bary = empty()
    kernels.rasterise(points, np.array([[0, 1, 2]], np.int32), depth, shown, bary, False)

    def inside(x: float, y: float) -> bool:
        corners = [*points[:, :2], points[0, :2]]
        turns = [(b[0] - a[0]) * (y - a[1]) - (x - a[0]) * (b[1] - a[1]) for a, b in pairwise(corners)]
        return min(turns) >= 0 or max(turns) <= 0

    expected = np.array([[inside(x + 0.5, y + 0.5) for x in range(16)] for y in range(16)])
    assert 0 < expected.sum() < 60
    np.testing.assert_array_equal(shown == 0, expected)
    np.testing.assert_array_equal(depth > 0, expected)


def test_strand_is_as_wide_as_asked_and_hides_behind_the_mesh():
    screen = np.array([[0.0, 8.0, 0.5], [16.0, 8.0, 0.5]], np.float32)
    depth, shown, _ = empty()
    depth[:, 8:] = 0.9  # something nearer on the right
    image = np.zeros((16, 16, 3), np.float32)
    colours = np.ones((2, 3), np.float32)
    kernels.draw_strands(screen, colours, 2, np.array([4.0], np.float32), depth, shown, image)
    assert np.flatnonzero(shown[:, 4] == kernels.STRAND).tolist() == [6, 7, 8, 9]
    assert (shown[:, 8:] == kernels.EMPTY).all()
    assert (image[7, 2:8] == 1).all()


def test_vertex_normals_are_area_weighted():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(7, 3)).astype(np.float32)
    faces = rng.permuted(np.tile(np.arange(7), (12, 1)), axis=1)[:, :3].astype(np.int32)
    expected = np.zeros((7, 3))
    for i, j, k in faces:
        for corner in (i, j, k):
            expected[corner] += np.cross(points[j] - points[i], points[k] - points[i])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert np.allclose(kernels.vertex_normals(points, faces), expected, atol=1e-5)


def test_blend_is_a_weighted_sum():
    rng = np.random.default_rng(1)
    base, shapes = rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=(4, 5, 3)).astype(np.float32)
    out = kernels.blend_shapes(base, shapes, np.array([2, 0]), np.array([0.5, -0.25], np.float32))
    assert np.allclose(out, base + 0.5 * shapes[2] - 0.25 * shapes[0], atol=1e-6)


def test_smoothing_keeps_a_constant_and_shrinks_a_spike():
    starts, neighbours = np.array([0, 1, 3, 4], np.int32), np.array([1, 0, 2, 1], np.int32)  # a path of three
    constant = np.full((3, 3), 2.0, np.float32)
    assert np.array_equal(kernels.smooth_field(constant.copy(), starts, neighbours, 4), constant)
    spike = np.zeros((3, 3), np.float32)
    spike[1] = 1
    assert np.allclose(kernels.smooth_field(spike, starts, neighbours, 1)[:, 0], [0.5, 0.5, 0.5])


def test_projection_of_the_axis_and_by_distance():
    axes = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, -1]])  # looking along -z
    eye = np.array([0.0, 0, 10])
    points = np.array([[0, 0, 0], [1, 2, 0], [1, 2, -10]], np.float32)
    expected = [[50, 50, 0.1], [60, 30, 0.1], [55, 40, 0.05]]
    assert np.allclose(kernels.project(points, axes, eye, 100.0, 50.0), expected, atol=1e-5)


def test_harmonics_of_one_term_and_never_negative():
    x, y, z = np.array([0.48, 0.6, 0.64])
    basis = [1, y, z, x, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y]
    out = np.zeros(3)
    for k, value in enumerate(basis):
        coefficients = np.zeros((9, 3))
        coefficients[k] = [1, 2, -1]
        kernels.harmonics(coefficients, x, y, z, out)
        assert np.allclose(out, np.maximum(0, value * np.array([1, 2, -1])))


def test_shadow_falls_behind_an_edge_and_not_beside_it():
    axes, frame = np.eye(3), np.array([0.0, 0.0, 4.0, 8.0])
    shadow = np.full((16, 16), -1e3, np.float32)
    shadow[:, 8:] = 1.0  # a wall of height 1 where x > 0
    assert kernels.lit(shadow, axes, frame, 1.0, 0.0, 0.0, 0.04, 0) == 0
    assert kernels.lit(shadow, axes, frame, -1.0, 0.0, 0.0, 0.04, 0) == 1
    assert kernels.lit(shadow, axes, frame, 1.0, 0.0, 1.0, 0.04, 0) == 1  # on the wall
    assert 0 < kernels.lit(shadow, axes, frame, 0.1, 0.0, 0.0, 0.04, 1) < 1  # a soft edge
    assert kernels.lit(shadow, axes, frame, 99.0, 0.0, 0.0, 0.04, 0) == 1  # outside the map


def test_skin_blur_keeps_flat_light_and_stays_on_skin():
    light = np.full((8, 8, 3), 0.4, np.float32)
    count, near = np.full((8, 8), 4, np.float32), np.full((8, 8), 0.1, np.float32)
    count[:, 5:], light[:, 5:] = 0, 9.0  # not skin, and bright
    kernel = np.exp(-0.5 * (np.arange(4)[:, None] / np.array([2.0, 1.0, 0.5])) ** 2)
    out = kernels.blur_skin(light, count, near, kernel, 0, 1)
    assert np.allclose(out[:, :5], 0.4, atol=1e-6)
    assert (out[:, 5:] == 0).all()


def test_hair_never_grows_into_the_head():
    rng = np.random.default_rng(2)
    normals = rng.normal(size=(50, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    radii = np.ones((40, 80))
    positions = kernels.grow(
        normals.copy(), normals, -normals, np.full(50, 0.8), 8, np.zeros(3), radii, 0.4, 0.1, 0.2, 0.0, 1.0, 0.0, 1.0,
        np.zeros(50), np.full(50, 0.05), np.zeros(50),
    )  # fmt: skip
    assert np.linalg.norm(positions, axis=1).min() > 1 - 1e-5
