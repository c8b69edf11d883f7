"""The cards of what a run made: of its images and of its network, beside the page.

`plots/cards/dataset.md` and `model.md` have the front matter of the hubs' cards; `croissant.json` is the data set's
metadata as Croissant 1.0 has it (docs.mlcommons.org/croissant). They say what was made of what and under which terms,
with the run's own numbers; when and where it is published is for who publishes it to add.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, UndefinedError

from stages.evaluate.results import parse
from stages.fetch.catalogue import Entry, load
from stages.images import read_faces
from stages.store import Shard, StoreError, emptied, file_digest, replacing, write_json

if TYPE_CHECKING:
    from stages.params import Params

IMAGES = "data/align"
MIT = "https://opensource.org/license/mit"
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
COLUMNS = {
    "identity": "whom the image shows: the number of the rendered person that it was made of",
    "sample": "number of the image within the identity",
    "partner": "who else is mixed into the image",
    "ratio": "the identity's own share of the image",
}


@dataclass(frozen=True)
class Ingredient:
    """Something that the images or the network are made with.

    name: of the catalogue, or a path; role: what for; license, terms: its name and address, empty where not known;
    commercial: whether what comes of it may be used so; publish: what of it may be published.
    """

    name: str
    role: str
    license: str
    terms: str
    commercial: bool
    publish: str


def write(params: Params, root: Path, metrics: Mapping[str, Mapping[str, Any]], environment: Environment) -> None:
    """Write the cards.

    Args:
        params: the knobs.
        root: the workspace.
        metrics: of the stages, and of an audit where there was one.
        environment: of the templates.

    Raises:
        StoreError: no aligned images, or metrics that lack a number.
    """
    made, learned = ingredients(params)
    faces = read_faces(root / IMAGES)
    audit = metrics.get("audit", {})
    name_of_set = f"render2real-{params.profile}-{params.method}-{params.n_ids}"
    shown = {
        "name": name_of_set,
        "params": params,
        "metrics": metrics,
        "audit": audit if audit.get("set") == faces.digest() else {},
        "images": len(faces),
        "identities": len(faces.identities),
        "rows": parse(metrics["evaluate"]),
    }
    own = root / params.train.data == root / IMAGES
    texts = {}
    for name, parts in (("dataset", made), ("model", [*(made if own else ()), *learned])):
        template = environment.overlay(autoescape=False).get_template(f"cards/{name}.md")
        free = all(part.commercial for part in parts)
        try:
            texts[name] = template.render(**shown, parts=parts, free=free, trained_on_these=own)
        except UndefinedError as error:
            raise StoreError(f"{root}/metrics: {error}, which a card says; run `dvc repro`") from error
    folder = emptied(root / "plots/cards")
    for name, text in texts.items():
        with replacing(folder / f"{name}.md") as path:
            path.write_text(text + "\n", encoding="utf-8")
    write_json(folder / "croissant.json", croissant(name_of_set, root / IMAGES, params, made))


def ingredients(params: Params) -> tuple[list[Ingredient], list[Ingredient]]:
    """What the images are made with, and what the network learned from beside them."""
    fetch = params.fetch
    made = [_ingredient(fetch.source, "the people, rendered")]
    if params.transfer.makes_images:
        made.append(_ingredient(fetch.target, "how photographs look: target of the transfer"))
        paths = params.transfer.paths().items()
        made += [_ingredient(path, f"method {params.method}: transfer.{knob}") for knob, path in paths if path]
        made.append(_ingredient(params.embed.encoder, "identity vectors"))
    made.append(Ingredient("MTCNN", "finds the faces", "MIT", MIT, True, "yes"))
    learned = []
    if params.train.data != IMAGES:
        learned.append(_ingredient(params.train.data, "what is trained on"))
    if params.real.data and params.real.n_ids:
        learned.append(_ingredient(params.real.data, f"{params.real.n_ids:,} real people who are trained on too"))
    return made, learned


def _ingredient(name: str, role: str) -> Ingredient:
    """By its name in the catalogue, or by a path in which that stands."""
    if name == "embedded":
        return Ingredient("the embedded world", role, "MIT, of CC0 assets", MIT, True, "yes")
    if name.startswith("stages/"):
        return Ingredient(name, f"{role}; trained on rendered people only", "MIT", MIT, True, "yes")
    if name == "data/fit":
        return Ingredient(name, f"{role}; learned in this run", "as the source and the target", "", True, "as these")
    known = [entry for entry in load().values() if name == entry.name or _lies_in(name, entry)]
    if not known:
        return Ingredient(name, role, "not known", "", False, "as its owner says")
    terms = known[0].license
    return Ingredient(known[0].name, role, terms.name, terms.terms, terms.commercial, terms.publish)


def _lies_in(path: str, entry: Entry) -> bool:
    place = Path("data") / entry.into
    return Path(path) == place or place in Path(path).parents


def croissant(name: str, folder: Path, params: Params, made: list[Ingredient]) -> dict[str, Any]:
    """The data set's metadata, as JSON-LD.

    Args:
        name: of the data set.
        folder: of its shards.
        params: the knobs.
        made: what it is made with.
    """
    paths = sorted(folder.glob("*.h5"))
    with Shard(paths[0]) as shard:
        kinds = {column: shard[column].dtype.kind for column in shard.names}
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"images/{column}",
            "name": column,
            "description": COLUMNS.get(column, column),
            "dataType": "sc:Integer" if kind in "iu" else "sc:Boolean" if kind == "b" else "sc:Float",
            "source": {"fileSet": {"@id": "shards"}, "extract": {"column": column}},
        }
        for column, kind in kinds.items()
    ]
    fields.append(
        {
            "@type": "cr:Field",
            "@id": "images/image",
            "name": "image",
            "description": "112 x 112 px, RGB: bytes offsets[i] to offsets[i + 1] of the data set `images` of a shard",
            "dataType": "sc:ImageObject",
            "source": {"fileSet": {"@id": "shards"}, "extract": {"column": "images"}},
        }
    )
    terms = sorted({part.terms for part in made if part.terms})
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": name,
        "description": f"Faces of {params.n_ids:,} people who do not exist, to train face recognition on: rendered "
        f"(source: {params.fetch.source}), and made to look like photographs ({params.fetch.target}) by the method "
        f"{params.method}.",
        "conformsTo": ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"],
        "license": terms[0] if len(terms) == 1 else terms,
        "rai:dataCollection": "None: the people are rendered, and nobody was photographed for this set.",
        "rai:personalSensitiveInformation": "None is meant to be there; `r2r audit` says how near it is to a set.",
        "rai:dataBiases": "Those of the rendered people and of the method's weights; see the data set card.",
        "rai:dataUseCases": "To train and study face recognition; not to identify people without their consent.",
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": path.name,
                "name": path.name,
                "contentUrl": f"{IMAGES}/{path.name}",
                "contentSize": f"{path.stat().st_size} B",
                "encodingFormat": "application/x-hdf5",
                "sha256": file_digest(path),
            }
            for path in paths
        ]
        + [
            {
                "@type": "cr:FileSet",
                "@id": "shards",
                "name": "shards",
                "description": "The shards, of ranges of identity numbers.",
                "encodingFormat": "application/x-hdf5",
                "includes": "*.h5",
            }
        ],
        "recordSet": [{"@type": "cr:RecordSet", "@id": "images", "name": "images", "field": fields}],
    }
