"""IJB-B and IJB-C as insightface distributes them: `meta/` and `loose_crop/`.

`<name>_face_tid_mid.txt` (image, template, medium), `<name>_template_pair_label.txt` (template, template, 1 or 0),
`<name>_name_5pts_score.txt` (image, five points x y in px, detector score), and for 1:N search, where present,
`<name>_1N_gallery_{G1,G2}.csv` or `{S1,S2}` and `<name>_1N_probe_mixed.csv` (columns TEMPLATE_ID and SUBJECT_ID;
without a heading, template and subject come first). Images are joined by name, so the lines may come in any order. Of
two lines that contradict each other neither is taken.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stages.evaluate.benchmarks import Landmarks, Search, Templates
from stages.evaluate.readers.folder import named_images
from stages.evaluate.readers.landmarks import line_of_each, parse_points
from stages.evaluate.readers.text import broken, read_rows
from stages.images import Archive
from stages.store import StoreError

MEDIA_SUFFIX = "_face_tid_mid.txt"


def read_ijb(root: Path) -> Templates:
    """Read the protocol; images that are in no template are counted, and not read.

    Raises:
        StoreError: a missing file or image, a pair that names an unknown template, or a line that cannot be, with the
            file and the line.
    """
    media_files = sorted((root / "meta").glob(f"*{MEDIA_SUFFIX}"))
    if len(media_files) != 1:
        raise StoreError(f"{root}/meta: {len(media_files)} files *{MEDIA_SUFFIX}, where one was expected")
    prefix = str(media_files[0]).removesuffix(MEDIA_SUFFIX)

    landmark_path = Path(f"{prefix}_name_5pts_score.txt")
    listed, points, detector_scores = [], [], []
    for line, (name, *numbers, score) in enumerate(read_rows(landmark_path, (12,)), 1):
        listed.append(name)
        points.append(parse_points(landmark_path, line, numbers))
        detector_scores.append(_number(landmark_path, line, score))
    said = np.c_[np.reshape(points, (-1, 10)), detector_scores]
    line_of = line_of_each(landmark_path, listed, said)

    numbers_of: dict[str, int] = {}
    rows = []
    for line, (name, template, medium) in enumerate(read_rows(media_files[0], (3,)), 1):
        if name not in line_of:
            raise broken(media_files[0], line, f"{name} has no landmarks in {landmark_path}", "unpack meta/ again")
        image = numbers_of.setdefault(name, len(numbers_of))
        rows.append((image, _integer(media_files[0], line, template), _integer(media_files[0], line, medium)))
    line_of_each(media_files[0], [row[:2] for row in rows], [row[2] for row in rows])
    image, template, media = np.array(rows, np.int64).T

    names = list(numbers_of)
    lines = np.array([line_of[name] for name in names])
    landmarks = Landmarks(np.array(points, np.float32)[lines - 1], landmark_path, lines)
    pair_path = Path(f"{prefix}_template_pair_label.txt")
    first, second, label = read_integers(pair_path, 3).T
    known = np.unique(template)
    for column in (first, second):
        _check_templates(pair_path, column, known, 1)
    if not np.isin(label, (0, 1)).all():
        line = int(np.argmin(np.isin(label, (0, 1)))) + 1
        raise broken(pair_path, line, f"label {label[line - 1]}", "1 (same person) or 0 was expected")
    _check_labels(pair_path, first, second, label)
    return Templates(
        root.name,
        named_images(Archive(root / "loose_crop"), names, landmarks),
        image,
        template,
        media,
        np.array(detector_scores, np.float32)[lines - 1],
        first,
        second,
        label.astype(bool),
        unused=len(line_of) - len(names),
        search=_read_search(prefix, known),
    )


def _read_search(prefix: str, known: np.ndarray) -> Search | None:
    galleries = [path for letter in "GS" for path in (Path(f"{prefix}_1N_gallery_{letter}{n}.csv") for n in (1, 2))]
    galleries = [path for path in galleries if path.is_file()]
    probes = Path(f"{prefix}_1N_probe_mixed.csv")
    if not (galleries and probes.is_file()):
        return None
    return Search(tuple(_read_subjects(path, known) for path in galleries), _read_subjects(probes, known))


def _read_subjects(path: Path, known: np.ndarray) -> np.ndarray:
    # IJB-C's probe file has further columns, one line an image; a template counts once
    fields = [[text.strip(' "\ufeff') for text in row] for row in read_rows(path, tuple(range(2, 20)), ",")]
    heading = [text.upper() for text in fields[0]]
    columns, first = [0, 1], 1
    if not all(text.lstrip("-").isdigit() for text in heading[:2]):
        if heading.count("TEMPLATE_ID") != 1 or heading.count("SUBJECT_ID") != 1:
            raise broken(path, 1, f"heading {','.join(fields[0])!r}", "it must name TEMPLATE_ID and SUBJECT_ID")
        columns, first = [heading.index("TEMPLATE_ID"), heading.index("SUBJECT_ID")], 2
    rows = np.empty((len(fields) + 1 - first, 2), np.int64)
    for row, texts in enumerate(fields[first - 1 :]):
        if len(texts) != len(heading):
            raise broken(
                path, row + first, f"{len(texts)} fields where {len(heading)} stand in the first", "unpack again"
            )
        rows[row] = [_integer(path, row + first, texts[column]) for column in columns]
    if not len(rows):
        raise StoreError(
            f"{path}: holds no template below its heading; the distribution is incomplete: unpack it again"
        )
    _check_templates(path, rows[:, 0], known, first)
    line_of_each(path, rows[:, 0].tolist(), rows[:, 1].tolist(), first)
    return rows[np.unique(rows[:, 0], return_index=True)[1]]


def read_integers(path: Path, columns: int) -> np.ndarray:
    """A text file of integers [lines, columns], parsed at once; broken, it is read again line by line for the message.

    Raises:
        StoreError: as `read_rows`, or a field that is no integer.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise StoreError(f"{path}: not found; the distribution is incomplete: unpack it again") from None
    lines = content.count(b"\n") + (not content.endswith(b"\n"))
    if b"\r" not in content and b"\n\n" not in content and not content.startswith(b"\n"):
        try:
            values = np.loadtxt(path, np.int64, ndmin=2, comments=None)
            if values.shape == (lines, columns):
                return values
        except ValueError:
            pass
    rows = read_rows(path, (columns,))
    return np.array([[_integer(path, line, text) for text in row] for line, row in enumerate(rows, 1)], np.int64)


def _integer(path: Path, line: int, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise broken(path, line, f"{text!r} is no integer", "unpack the file again") from None


def _number(path: Path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise broken(path, line, f"detector score {text!r}", "a number was expected: unpack the file again")
    return value


def _check_labels(path: Path, first: np.ndarray, second: np.ndarray, label: np.ndarray) -> None:
    low, high = np.minimum(first, second), np.maximum(first, second)
    order = np.lexsort((low, high))
    again = np.flatnonzero((np.diff(low[order]) == 0) & (np.diff(high[order]) == 0) & (np.diff(label[order]) != 0))
    if len(again):
        before, line = sorted((order[again[0] : again[0] + 2] + 1).tolist())
        problem = f"pair {first[line - 1]} {second[line - 1]} has another label than in line {before}"
        raise broken(path, line, problem, "remove the wrong one of the two")


def _check_templates(path: Path, templates: np.ndarray, known: np.ndarray, first_line: int) -> None:
    unknown = known[np.minimum(np.searchsorted(known, templates), len(known) - 1)] != templates
    if unknown.any():
        row = int(np.argmax(unknown))
        raise broken(path, row + first_line, f"template {templates[row]} has no image", "unpack meta/ again")
