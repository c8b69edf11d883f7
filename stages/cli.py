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
    if int(os.environ.get("RANK", 0)) > 0:  # of several that torchrun started, the first holds it
        yield
        return
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
def audit(
    images: Annotated[Path, typer.Argument(help="A set of labelled faces, in any form.")] = Path("data/align"),
    reference: Annotated[
        Path | None, typer.Option(help="Another, whose people must not show; as the generator's training people.")
    ] = None,
    encoder: Annotated[Path, typer.Option(help="A backbone or ONNX encoder.")] = Path("stages/embed/second.onnx"),
    fmr: Annotated[float, typer.Option(help="Share of the pairs of the reference's people that count as near.")] = 1e-4,
    detect: Annotated[bool, typer.Option(help="Align images of 112 px too; others always are.")] = False,
    flip: Annotated[bool, typer.Option(help="Add the embedding of the mirror image.")] = True,
    out: Annotated[Path, typer.Option(help="The folder of metrics/ and plots/.")] = Path("."),
) -> None:
    """Say how far the identities of a set lie apart, and whether it shows people or images of another set."""
    with _loud():
        from stages.store import usable_cache

        usable_cache()
        run = importlib.import_module("stages.audit.command").audit
        run(images, reference, encoder=encoder, fmr=fmr, detect=detect, flip=flip, root=out)


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


tables_app = typer.Typer(help="The papers' tables: list them, run what is missing, show ours beside the published.")
app.add_typer(tables_app, name="tables")
InProfile = Annotated[str, typer.Option(help="embedded, paper or smoke: one of tables/profile.")]


@tables_app.callback(invoke_without_command=True)
def tables(context: typer.Context, profile: InProfile = "embedded") -> None:
    """List the papers' tables with what has been run of them; `run` runs what is missing, `show` shows one."""
    if context.invoked_subcommand is None:
        with _loud():
            pages = importlib.import_module("stages.tables.pages")
            typer.echo(pages.text_of(pages.listing(profile)))


@tables_app.command(name="run")
def tables_run(
    names: Annotated[list[str], typer.Argument(help="Tables, or `all`.")],
    profile: InProfile = "embedded",
    seeds: Annotated[int, typer.Option(min=1, help="0 to this less one.")] = 3,
    jobs: Annotated[int, typer.Option("-j", "--jobs", min=1, help="Experiments at a time; a GPU each.")] = 1,
    rows: Annotated[list[str] | None, typer.Option(help="Only this row; may be given again.")] = None,
    knob: Annotated[
        list[str] | None,
        typer.Option("-S", metavar="KNOB=VALUE", help="What a row needs, or a knob of all rows."),
    ] = None,
) -> None:
    """Run the rows that are missing as DVC experiments, and write tables/results."""
    with _loud():
        every = importlib.import_module("stages.tables.definitions").names()
        chosen = every if names == ["all"] else names
        run = importlib.import_module("stages.tables.run").run
        if not run(chosen, profile, seeds, jobs, rows or (), knob or ()):
            raise typer.Exit(1)


@tables_app.command(name="show")
def tables_show(
    name: Annotated[str, typer.Argument(help="A table.")],
    profile: InProfile = "embedded",
    md: Annotated[bool, typer.Option("--md", help="As Markdown.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="As CSV.")] = False,
    html: Annotated[bool, typer.Option("--html", help="As a fragment of HTML.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="As LaTeX.")] = False,
) -> None:
    """Show ours beside the published, and what is seen of what the paper claims."""
    with _loud():
        pages = importlib.import_module("stages.tables.pages")
        code = importlib.import_module("stages.tables.experiments").code
        ways = ((md, pages.as_markdown), (csv, pages.as_csv), (html, pages.as_html), (latex, pages.as_latex))
        as_asked = next((way for asked, way in ways if asked), pages.as_text)
        typer.echo(as_asked(pages.show(name, profile, code(Path()))))


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
def knobs(
    names: Annotated[list[str] | None, typer.Argument(help="Blocks, such as train; default: all.")] = None,
) -> None:
    """Say what each knob means, and which values it can have, as docs/pipeline.md does."""
    with _loud():
        typer.echo(importlib.import_module("stages.explain").as_markdown(names or []))


@app.command()
def verify(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Hydra overrides, as of `r2r params`; default: profile=smoke.")
    ] = None,
    committed: Annotated[bool, typer.Option(help="One run of params.yaml as it is, beside dvc.lock.")] = False,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Of the second run alone, such as OMP_NUM_THREADS=1.")
    ] = None,
    python: Annotated[Path | None, typer.Option(help="The second run's, of another environment.")] = None,
) -> None:
    """Run the last commit from nothing twice, compare every hash, and say where they begin to differ."""
    with _loud():
        from stages.knobs import check

        check(all("=" in one for one in env or []), f"--env {env}: NAME=VALUE was expected")
        same = importlib.import_module("stages.verify.verify").verify(
            Path.cwd(),
            overrides or ([] if committed else ["profile=smoke"]),
            beside_lock=committed,
            python=python,
            variables=dict(one.split("=", 1) for one in env or []),
        )
        if not same:
            raise typer.Exit(1)


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
