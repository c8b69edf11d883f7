import cv2
import numpy as np
import pytest
import skimage.data
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """[512, 512, 3] uint8: Eileen Collins by NASA, in the public domain; a face of 87 x 110 px about (224, 117)."""
    return skimage.data.astronaut()


@pytest.fixture(scope="session")
def portraits(photograph) -> np.ndarray:
    """[6, 112, 112, 3] uint8: crops of the photograph, one face each."""
    crops = [(100, 0, 240), (110, 10, 220), (90, 5, 250), (120, 15, 210), (80, 0, 280), (104, 2, 230)]
    return np.stack(
        [cv2.resize(photograph[y : y + s, x : x + s], (112, 112), interpolation=cv2.INTER_AREA) for x, y, s in crops]
    )


@pytest.fixture(scope="session")
def faceless() -> np.ndarray:
    """[112, 112, 3] uint8: bricks."""
    bricks = skimage.data.brick()[:112, :112]
    return np.repeat(bricks[..., None], 3, axis=2)
