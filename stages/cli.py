"""The map of the house: one command per stage, in the order in which data flows. `r2r --help` prints it."""

from __future__ import annotations

import ctypes
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml

if TYPE_CHECKING:
    from stages.params import Params

app = typer.Typer(
    help="Train face recognition on people who do not exist, and know exactly how good that is.\n\n"
    "The commands from fetch to report are the stages of dvc.yaml: each reads params.yaml in the working folder, goes "
    "on where a killed run stopped, and writes data/, metrics/ and plots/. `dvc repro` runs them all.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    add_completion=False,
)


@contextmanager
def _loud() -> Iterator[None]:
    """Turn the errors a user can mend into one clear line and exit code 1; `R2R_DEBUG=1` shows where they arose."""
    from stages.knobs import ParamsError
    from stages.store import StoreError

    try:
        yield
    except (ParamsError, StoreError, OSError) as error:
        if os.environ.get("R2R_DEBUG"):
            raise
        typer.secho(f"{type(error).__name__}: {error}", fg="red", err=True)
        raise typer.Exit(1) from error


@contextmanager
def _alone(stage: str) -> Iterator[None]:
    """Hold the stage's lock in this folder; under DVC, die with it, which would leave its stage running if killed."""
    import fcntl

    from stages.store import StoreError, usable_cache

    if sys.platform == "linux" and "DVC_STAGE" in os.environ:
        parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(parent_death_signal, signal.SIGTERM)
    usable_cache()
    with open(f".{stage}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError(f"{stage} already runs in this folder: wait for it, or end it") from None
        yield


def _load() -> Params:
    from stages.params import load

    return load()


def _run(stage: str) -> None:
    with _loud():
        params = _load()
        with _alone(stage):
            package = Path(__file__).parent / stage
            module = importlib.import_module(f"stages.{stage}.stage" if package.is_dir() else f"stages.{stage}")
            with importlib.import_module("stages.timing").timed(stage):
                module.run(params)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"render2real {version('render2real')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")] = False,
) -> None:
    """What has to be said before the libraries load: where compiled kernels are kept, and that idle threads sleep."""
    if not os.access(Path(__file__).parent, os.W_OK):  # numba would look for a place in the home
        from stages.store import cache_folder

        with suppress(RuntimeError):  # no home: said by the commands that need one
            os.environ.setdefault("NUMBA_CACHE_DIR", str(cache_folder() / "numba"))
    # Threads that spin while they wait take the cores from whatever runs beside them, and from each other; ones that
    # sleep at once wake up too late. GNU's OpenMP, torch's, spins this often before it sleeps.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")


@app.command()
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help="Entries of docs/data.md; default: what params.yaml needs.")
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option("--from", metavar="DIR", help="A folder or address to take from; default: fetch.mirror."),
    ] = None,
) -> None:
    """Get source, target, benchmarks and weights: the embedded world is rendered on the spot."""
    with _loud():
        params = _load()
        if mirror is not None:
            params = replace(params, fetch=replace(params.fetch, mirror=mirror))
        with _alone("fetch"):
            stage = importlib.import_module("stages.fetch.stage")
            stage.get(names, params) if names else stage.run(params)


@app.command()
def embed() -> None:
    """Identity embeddings of the source and target images (ArcFace, ONNX)."""
    _run("embed")


@app.command(name="filter")
def filter_() -> None:
    """Order identities by how far they are from their nearest other; keep the first n_ids."""
    _run("filter")


@app.command()
def gap() -> None:
    """By how much the source lies beside the target in the generator's conditioning, where the method has one."""
    _run("gap")


@app.command()
def fit() -> None:
    """What the method learns from unlabelled source and target images; nothing for one that learns nothing."""
    _run("fit")


@app.command()
def synthesize() -> None:
    """Give the chosen identities images that look like the target, by the realism transfer that method names."""
    _run("synthesize")


@app.command()
def judge() -> None:
    """What the generated images are worth to an encoder that had no part in making them."""
    _run("judge")


@app.command()
def align() -> None:
    """Detect faces (MTCNN) and warp them to 112x112 training shards."""
    _run("align")


@app.command()
def train() -> None:
    """Train the backbone (IResNet with AdaFace, ArcFace or CosFace)."""
    _run("train")


@app.command()
def evaluate(
    backbone: Annotated[Path | None, typer.Option(help="A backbone or ONNX encoder; default: the trained one.")] = None,
    benchmark: Annotated[
        Path | None,
        typer.Option(help="A .bin, an image archive, a CFP, IJB or RFW folder; default: data/benchmarks."),
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="pairs.txt in LFW's layout, for an image archive.")] = None,
    align: Annotated[bool, typer.Option(help="Detect and align the images of an image archive first.")] = True,
    channels: Annotated[
        str | None, typer.Option(help="rgb or bgr; default: what the model card or the official layout says.")
    ] = None,
    flip: Annotated[bool, typer.Option(help="Add the embedding of the mirror image.")] = True,
    out: Annotated[Path | None, typer.Option(help="Write the numbers to this JSON file.")] = None,
    knob: Annotated[
        list[str] | None,
        typer.Option("-S", metavar="KNOB=VALUE", help="A knob of evaluate or align, as in evaluate.protocol=adaface."),
    ] = None,
) -> None:
    """Measure the backbone on the benchmarks, or any network on any benchmark by path."""
    if backbone is None and benchmark is None:
        return _run("evaluate")
    with _loud():
        from stages.align.knobs import Align
        from stages.evaluate.knobs import Evaluate
        from stages.knobs import ParamsError, check
        from stages.store import usable_cache

        usable_cache()
        if backbone is None or benchmark is None:
            raise ParamsError("--backbone and --benchmark go together")
        blocks: dict[str, dict[str, Any]] = {"evaluate": {"flip": flip}, "align": {}}
        for text in knob or []:
            name, _, value = text.partition("=")
            block, _, field = name.partition(".")
            check(block in blocks and bool(value), f"-S {text}: evaluate.KNOB=VALUE or align.KNOB=VALUE was expected")
            blocks[block][field] = yaml.safe_load(value)
        importlib.import_module("stages.evaluate.stage").evaluate_file(
            backbone,
            benchmark,
            pairs,
            out,
            params=Evaluate(**blocks["evaluate"]),
            align=Align(**blocks["align"]) if align else None,
            channels=channels,
        )


@app.command()
def report(
    experiments: Annotated[
        list[str] | None, typer.Argument(metavar="EXP", help="With --compare: experiments, branches, tags or commits.")
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Put them beside this run: plots/compare.html.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="A page to hand on: with the revision, the machine and each stage's time.")
    ] = None,
) -> None:
    """Write plots/report.html: one page with the parameters, numbers and pictures of the run."""
    if not (compare or out or experiments):
        return _run("report")
    with _loud():
        from stages.knobs import check

        check(compare == bool(experiments), "experiments and --compare go together: r2r report --compare EXP …")
        importlib.import_module("stages.report.stage").run(_load(), out=out, compare=experiments or ())


@app.command()
def doctor(
    profile: Annotated[str | None, typer.Option(help="A profile of conf/; default: params.yaml as it is.")] = None,
) -> None:
    """Say what a run has, lacks and will take, before it starts; exit code 1 if it lacks something."""
    with _loud():
        from stages.params import compose, parse
        from stages.store import usable_cache

        usable_cache()
        params = parse(yaml.safe_load(compose([f"profile={profile}"]))) if profile else _load()
        if not importlib.import_module("stages.doctor").examine(params):
            raise typer.Exit(1)


@app.command()
def inspect(file: Annotated[Path, typer.Argument(help="A weights file.")]) -> None:
    """Say what a weights file is: its network, layout, channel order and size."""
    with _loud():
        typer.echo(importlib.import_module("stages.evaluate.inspect").describe(file))


@app.command()
def export(
    backbone: Annotated[Path, typer.Option(help="A trained backbone.")],
    out: Annotated[Path, typer.Option(help="The ONNX file to write.")],
) -> None:
    """Export a backbone to ONNX, as insightface's ArcFace class reads it."""
    with _loud():
        importlib.import_module("stages.train.export").export(backbone, out)


@app.command()
def params(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Hydra overrides, such as profile=smoke n_ids=40.")
    ] = None,
) -> None:
    """Compose params.yaml from conf/."""
    with _loud():
        from stages.params import compose

        Path("params.yaml").write_text(compose(overrides or []))


@app.command()
def cache(
    prune: Annotated[
        float | None, typer.Option(metavar="DAYS", help="Remove what was not made or used for so many days.")
    ] = None,
) -> None:
    """Say what the cache of finished files and checkpoints holds, or remove what is old."""
    with _loud():
        for line in importlib.import_module("stages.store.cache").listing(prune):
            typer.echo(line)


if __name__ == "__main__":
    app()
