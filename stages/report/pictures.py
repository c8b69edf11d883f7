"""Pictures of the page, inline, and those that stand beside it as PNG."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from stages.pictures import Panel, chart, save_chart, save_png
from stages.store import StoreError, decode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

JPEG_QUALITY = 90


class Pictures:
    """Gives each picture as the text of a `data:` address, and remembers what is to be saved once the page is whole.

    Args:
        root: the workspace, to which paths are relative.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._images: dict[str, np.ndarray] = {}
        self._charts: dict[str, Figure] = {}

    def image(self, image: np.ndarray, name: str = "") -> str:
        """An image [h, w, 3] uint8 RGB, as JPEG: a third of its PNG; with a name `plots/<name>.png` is it too."""
        if name:
            self._images[name] = image
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "jpeg", quality=JPEG_QUALITY, subsampling=0)
        return _inline("image/jpeg", buffer.getvalue())

    def chart(self, panels: Sequence[Panel], size: tuple[float, float], name: str) -> None:
        """A chart that is to be `plots/<name>.png`."""
        self._charts[name] = chart(panels, size=size)

    def sheet(self, path: str) -> str:
        """A PNG of photographs, as JPEG.

        Raises:
            StoreError: it is not there, or broken.
        """
        return self.image(decode(self._read(path), path))

    def png(self, path: str) -> str:
        """A PNG as it is.

        Raises:
            StoreError: it is not there, or broken.
        """
        content = self._read(path)
        decode(content, path)
        return _inline("image/png", content)

    def named(self, folder: str) -> dict[str, str]:
        """All `<folder>/*.png`, name -> path."""
        return {path.stem: f"{folder}/{path.name}" for path in sorted((self.root / folder).glob("*.png"))}

    def save(self) -> None:
        """Write what bears a name."""
        for name, image in self._images.items():
            save_png(self.root / f"plots/{name}.png", image)
        for name, figure in self._charts.items():
            save_chart(self.root / f"plots/{name}.png", figure)

    def _read(self, path: str) -> bytes:
        if not (self.root / path).is_file():
            raise StoreError(f"{self.root / path}: not there; run the stages before the report")
        return (self.root / path).read_bytes()


def _inline(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
