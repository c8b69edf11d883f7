import cv2
import numpy as np
import pytest

from stages.store import encode, write_shard


def made_up_people(identities, samples, seed=0):
    """Images that tell identities apart: each a pattern of its own under noise and a change of light."""
    rng = np.random.default_rng(seed)
    for identity in identities:
        pattern = cv2.resize(rng.uniform(40, 210, (4, 4, 3)).astype(np.float32), (112, 112))
        for sample in samples:
            image = pattern * rng.uniform(0.8, 1.2) + rng.normal(0, 12, (112, 112, 3))
            yield identity, sample, np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def write_aligned():
    def write(folder, people, rows_per_shard=25):
        people = list(people)
        for number, start in enumerate(range(0, len(people), rows_per_shard)):
            identity, sample, images = zip(*people[start : start + rows_per_shard], strict=True)
            columns = {"identity": np.array(identity, np.int64), "sample": np.array(sample, np.int64)}
            encoded = [encode(image) for image in images]
            write_shard(folder / f"{number:05d}.h5", columns, encoded)

    return write
