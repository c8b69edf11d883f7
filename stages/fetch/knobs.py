"""The knobs of `fetch`."""

from __future__ import annotations

from stages.knobs import knob, knobs

DIGIFACE = 10_000 * 72 + 99_999 * 5  # images


@knobs("fetch")
class Fetch:
    """What is fetched or rendered.

    `embedded` is rendered on the spot by the knobs below; other names are the catalogue's (docs/data.md), or a path.
    """

    source: str = knob("embedded", "embedded | digiface-1m | the path of any set of labelled faces")
    target: str = knob("embedded", "embedded | ffhq | the path of a zip or folder of images")
    benchmarks: tuple[str, ...] = knob(("embedded",), "embedded, insightface-bins, ijbb, ijbc, rfw")
    weights: tuple[str, ...] = knob((), "arc2face, sd15, ...")
    target_images: int = knob(1000, "of ffhq: the paper's 1000 (Digi2Real, section 3)", ge=1)
    mirror: str = knob("", "a folder (linked) or an address with the layout of data/, asked first; empty is none")
    accept_licenses: tuple[str, ...] = knob((), "names of licences whose terms you have read and accept")
    parallel: int = knob(4, "files at a time", ge=1)
    world_seed: int = knob(0, "of the embedded people; apart from `seed`: three training seeds meet one world", ge=0)
    source_images_per_id: int = knob(10, "rendered per source identity; >= images_per_id for method none", ge=1)
    source_ids_per_zip: int = knob(50, "identities of a zip", ge=1)
    source_size: int = knob(112, "px, DigiFace-1M's", ge=32)
    target_ids: int = knob(100, "people of the embedded target", ge=1, le=10_000_000)
    target_images_per_id: int = knob(4, "images of each", ge=1)
    target_size: int = knob(112, "px", ge=32)
    pairs: int = knob(
        600, "per embedded pair benchmark: 10 folds, half of them genuine", ge=40, le=200_000, multiple_of=20
    )
    templates: int = knob(60, "identities of the embedded template benchmark", ge=2, le=100_000)
    group_pairs: int = knob(100, "per group, as pairs", ge=40, le=20_000, multiple_of=20)
    workers: int = knob(0, "processes; 0 is one a core", ge=0)

    def source_images(self, n_ids: int) -> int:
        """Images of the source: of the embedded one, ceil(1.25 n_ids) identities in whole zips."""
        if self.source != "embedded":
            return DIGIFACE
        return -(-n_ids * 5 // 4 // self.source_ids_per_zip) * self.source_ids_per_zip * self.source_images_per_id

    @property
    def images_of_target(self) -> int:
        """Images of the target."""
        return self.target_ids * self.target_images_per_id if self.target == "embedded" else self.target_images
