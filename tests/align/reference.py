"""MTCNN once more, a plain loop over one image in float64, by the arrays of the package `mtcnn` (HWIO, [in, out])."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.numpy import load_file

from stages.align.mtcnn import WEIGHTS


def official_weights(name):
    """The arrays as the package has them, in its order: features, offsets, landmarks, probability."""
    state = {key: array for key, array in load_file(WEIGHTS).items() if key.startswith(name)}
    heads = sorted({key.split(".")[1] for key in state} - {"features"})
    layers = [*sorted({key.rsplit(".", 1)[0] for key in state if "features" in key}, key=lambda key: (key[-1], key))]
    layers += [f"{name}.{head}" for head in (*heads[1:], heads[0])]
    arrays = []
    for layer in layers:
        weight = state[f"{layer}.weight"]
        arrays.append(weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T)
        arrays += [state[f"{layer}.bias"]] if f"{layer}.bias" in state else []
    return arrays


def convolution(x, kernel, bias):
    """[h, w, i] * [kh, kw, i, o]."""
    windows = sliding_window_view(x, kernel.shape[:2], (0, 1))  # [h', w', i, kh, kw]
    return np.einsum("yxiab,abio->yxo", windows, kernel.astype(float), optimize=True) + bias


def prelu(x, slope):
    return np.where(x > 0, x, x * slope.reshape(-1))


def pool(x, size):
    h, w = (int(np.ceil((side - size) / 2)) + 1 for side in x.shape[:2])
    return np.array([[x[2 * i : 2 * i + size, 2 * j : 2 * j + size].max((0, 1)) for j in range(w)] for i in range(h)])


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return (e / e.sum(-1, keepdims=True))[..., 1]


def pnet(x):
    """[h, w, 3] -> probability [h', w'], offsets [h', w', 4]."""
    w = official_weights("pnet")
    x = pool(prelu(convolution(x, w[0], w[1]), w[2]), 2)
    x = prelu(convolution(x, w[3], w[4]), w[5])
    x = prelu(convolution(x, w[6], w[7]), w[8])
    return softmax(convolution(x, w[11], w[12])), convolution(x, w[9], w[10])


def rnet(x):
    """[24, 24, 3] -> probability, offsets [4]."""
    w = official_weights("rnet")
    x = pool(prelu(convolution(x, w[0], w[1]), w[2]), 3)
    x = pool(prelu(convolution(x, w[3], w[4]), w[5]), 3)
    x = prelu(convolution(x, w[6], w[7]), w[8]).transpose(1, 0, 2).reshape(-1)  # MATLAB: columns before rows
    x = prelu(x @ w[9] + w[10], w[11])
    return softmax(x @ w[14] + w[15]), x @ w[12] + w[13]


def onet(x):
    """[48, 48, 3] -> probability, offsets [4], landmarks [10]."""
    w = official_weights("onet")
    x = pool(prelu(convolution(x, w[0], w[1]), w[2]), 3)
    x = pool(prelu(convolution(x, w[3], w[4]), w[5]), 3)
    x = pool(prelu(convolution(x, w[6], w[7]), w[8]), 2)
    x = prelu(convolution(x, w[9], w[10]), w[11]).transpose(1, 0, 2).reshape(-1)
    x = prelu(x @ w[12] + w[13], w[14])
    return softmax(x @ w[19] + w[20]), x @ w[15] + w[16], x @ w[17] + w[18]


def resize(image, height, width):
    """The mean over every output pixel's window, in [-1, 1]."""
    h, w = image.shape[:2]
    out = np.empty((height, width, 3))
    for i in range(height):
        y0, y1 = i * h // height, -(-(i + 1) * h // height)
        for j in range(width):
            x0, x1 = j * w // width, -(-(j + 1) * w // width)
            out[i, j] = image[y0:y1, x0:x1].mean((0, 1))
    return (out - 127.5) / 128


def overlap(a, b, inclusive):
    margin = 1 if inclusive else 0
    x = max(min(a[2], b[2]) - max(a[0], b[0]) + margin, 0)
    y = max(min(a[3], b[3]) - max(a[1], b[1]) + margin, 0)
    areas = [(c[2] - c[0] + margin) * (c[3] - c[1] + margin) for c in (a, b)]
    return x * y / (min(areas) if inclusive else sum(areas) - x * y)


def suppress(boxes, scores, threshold, inclusive=False):
    """Indices of the boxes that no better kept box overlaps by more than the threshold, best first."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(overlap(boxes[i], boxes[j], inclusive) <= threshold for j in kept):
            kept.append(i)
    return kept


def square(box):
    w, h = box[2] - box[0], box[3] - box[1]
    side = max(w, h)
    x, y = box[0] + w / 2 - side / 2, box[1] + h / 2 - side / 2
    return np.array([x, y, x + side, y + side])


def crop(image, box, size):
    x0, y0 = (max(int(v), 1) - 1 for v in box[:2])
    x1, y1 = min(int(box[2]), image.shape[1]), min(int(box[3]), image.shape[0])
    return resize(image[y0:y1, x0:x1], size, size)


def detect(image, thresholds=(0.6, 0.7, 0.7), factor=0.709, min_face=20):
    """Boxes [k, 4], scores [k], landmarks [k, 5, 2], the largest first."""
    h, w = image.shape[:2]
    scale, proposals, scores = 12 / min_face, [], []
    while min(h, w) * scale >= 12 - 1e-9:
        probability, offsets = pnet(resize(image, int(h * scale + 1), int(w * scale + 1)))
        at = np.argwhere(probability >= thresholds[0])
        corners = [[(2 * x + 1) // scale, (2 * y + 1) // scale] for y, x in at]
        ends = [[(2 * x + 12) // scale, (2 * y + 12) // scale] for y, x in at]
        boxes = [np.array(a + b) for a, b in zip(corners, ends, strict=True)]
        for i in suppress(boxes, [probability[y, x] for y, x in at], 0.5):
            y, x = at[i]
            proposals.append((boxes[i], offsets[y, x]))
            scores.append(probability[y, x])
        scale *= factor
    kept = suppress([box for box, _ in proposals], scores, 0.7)
    boxes = [box + offset * np.tile(box[2:] - box[:2], 2) for box, offset in (proposals[i] for i in kept)]

    looked = [(square(box), *rnet(crop(image, square(box), 24))) for box in boxes]
    looked = [face for face in looked if face[1] > thresholds[1]]
    kept = suppress([face[0] for face in looked], [face[1] for face in looked], 0.7)
    boxes = [box + offset * np.tile(box[2:] - box[:2] + 1, 2) for box, _, offset in (looked[i] for i in kept)]

    faces = []
    for box in map(square, boxes):
        score, offset, points = onet(crop(image, box, 48))
        if score > thresholds[2]:
            sides = box[2:] - box[:2] + 1
            faces.append((box + offset * np.tile(sides, 2), score, points.reshape(2, 5).T * sides + box[:2] - 1))
    kept = suppress([face[0] for face in faces], [face[1] for face in faces], 0.7, inclusive=True)
    kept.sort(key=lambda i: -np.prod(faces[i][0][2:] - faces[i][0][:2]))
    return tuple(np.array([faces[i][part] for i in kept]) for part in range(3))
