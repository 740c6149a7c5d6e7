"""One sub-command per act: parse, call one function, print where the result lies.

Heavy libraries are imported inside the commands, so that ``medgraft --help`` answers at once.
Exit status: 0 done, 1 a fault of medgraft (trace without messages in ``medgraft-error.log``), 2 something the user can
mend, 3 done but with rejected studies or failed cells.
"""

from __future__ import annotations

import importlib
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from medgraft import __version__
from medgraft.errors import UserError

app = typer.Typer(
    name="medgraft",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Which pretrained model transfers best to my images, videos or volumes, by which way, and how sure can I "
    "be?\n\n"
    "The usual way: medgraft scan SOURCE labels=FILE patient=COLUMN out=DATA, then medgraft audit DATA, then medgraft "
    "run data=DATA, "
    "then open report.html. "
    "Options are key=value words everywhere.",
    epilog="First time here? `medgraft demo` runs the whole flow on simulated chest X-rays.",
)

Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="options as key=value; nested ones with dots", show_default=False),
]

Queries = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[2d|3d|dense|features|PART] KEY=VALUE", help="which cards, and options", show_default=False
    ),
]


def _with_keys(model: str) -> type[TyperCommand]:
    """A command whose help lists the keys of a config (``module:class``), imported only when that help is asked for."""

    class Command(TyperCommand):
        def format_epilog(self, ctx: Any, formatter: Any) -> None:
            from medgraft import config

            module, name = model.split(":")
            with formatter.section("Keys"):
                formatter.write_dl(config.keys(getattr(importlib.import_module(module), name)), col_max=24)
            super().format_epilog(ctx, formatter)

    return Command


def _values(words: list[str] | None) -> dict[str, Any]:
    from medgraft import config

    return config.parse_overrides(words or [])


@app.command(short_help="The whole flow on simulated chest X-rays.", epilog="Example: medgraft demo out=demo")
def demo(words: Words = None) -> None:
    """Simulate chest X-rays, scan them, compare three ways of transfer, and write the report (a few minutes)."""
    from medgraft import flow

    typer.echo(f"open {flow.demo(**_checked(_values(words), out='demo', patients=90, size=128, difficulty=0.35))}")


def _checked(values: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """Defaults overridden by values; unknown keys fail with the nearest match."""
    import difflib

    for key in values:
        if key not in defaults:
            near = difflib.get_close_matches(key, list(defaults), n=1, cutoff=0.4)
            raise UserError(
                f"unknown key {key!r}", fix=f"did you mean {near[0]!r}?" if near else f"known are {', '.join(defaults)}"
            )
    return {**defaults, **values}


@app.command(
    cls=_with_keys("medgraft.intake.options:ScanOptions"),
    short_help="Raw studies and a label table become a data set.",
    epilog="Example: medgraft scan xrays labels=labels.csv patient=patient_number target=label out=datasets/xrays",
)
def scan(
    source: Annotated[Path, typer.Argument(help="folder of studies: PNG, JPEG, DICOM, AVI, MP4, NIfTI, NPZ")],
    words: Words = None,
) -> None:
    """Turn a folder of raw studies and a label table into a data set. A second scan does only what is new."""
    from medgraft import config
    from medgraft.intake import scan as act

    options = config.build(act.ScanOptions, _values(words), where="scan")
    report = act.scan(source, options)
    typer.echo(report.text())
    if report.cases:
        typer.echo(f"next: medgraft audit {report.out}, then medgraft run data={report.out}")
    if report.rejected:
        raise typer.Exit(3)


@app.command(
    cls=_with_keys("medgraft.audit:AuditOptions"),
    short_help="Find leaks, duplicates and confounders in a data set.",
    epilog="Examples: medgraft audit data/xrays; medgraft audit data/xrays run=runs/xrays; medgraft audit data/here "
    "test=data/elsewhere",
)
def audit(
    dataset: Annotated[Path, typer.Argument(help="data set folder written by medgraft scan")],
    words: Words = None,
) -> None:
    """Look for what makes results too good: one picture under two patients, one patient in two roles, labels that size
    or scanner tell.

    Writes audit.html (findings first, with pictures) and audit.json into the data set folder. Exit status 3 when there
    is a leak.
    """
    from medgraft import audit as act
    from medgraft import config

    report = act.audit(dataset, config.build(act.AuditOptions, _values(words), where="audit"))
    typer.echo(report.text())
    if report.leaks:
        raise typer.Exit(3)


@app.command(
    cls=_with_keys("medgraft.config:Recipe"),
    short_help="Compare ways of transfer on a data set, and report.",
    epilog="Example: medgraft run recipes/cxr.yaml data=datasets/cxr seeds=[0] train.epochs=5",
)
def run(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECIPE KEY=VALUE", help="a recipe file, then key=value", show_default=False),
    ] = None,
) -> None:
    """Compare models, starts and strategies on a data set, and write the report. Killed? Run it again: it goes on."""
    from medgraft import config

    words = list(words or [])
    recipe = config.load_recipe(Path(words.pop(0)) if words and "=" not in words[0] else None, words)
    from medgraft import flow, runs  # after the recipe: a typing error is answered at once

    root = flow.run(recipe, say=_say)
    states = runs.status(root)["cells"]
    if any(state.startswith("failed") for state in states):
        raise typer.Exit(3)


@app.command(short_help="What is done, running or failed in a run.", epilog="Example: medgraft status runs/cxr")
def status(root: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")]) -> None:
    """What is done, running or failed in a run, and the leaderboard so far (inner scores only)."""
    from medgraft import runs

    typer.echo(runs.status_text(runs.status(root)))


@app.command(short_help="Write the report of a finished run again.", epilog="Example: medgraft report runs/cxr lang=zh")
def report(root: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")], words: Words = None) -> None:
    """Write the report of a finished run again, in English or Chinese (lang=zh)."""
    from medgraft.report import page

    values = _checked(_values(words), lang="en")
    if values["lang"] not in ("en", "zh"):
        raise UserError(f"no language {values['lang']!r}", fix="use lang=en or lang=zh")
    typer.echo(f"open {page.build(root, lang=values['lang'])}")


@app.command(
    short_help="Predict new studies with the model a run chose.",
    epilog="Example: medgraft predict runs/cxr new_xray.dcm more_xrays/ out=predictions.csv",
)
def predict(
    root: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")],
    words: Annotated[list[str], typer.Argument(metavar="FILES KEY=VALUE", help="studies or folders, then key=value")],
) -> None:
    """Predict new studies with the model that the inner scores of a run chose, by the same path."""
    from medgraft import serve

    files = [Path(w) for w in words if "=" not in w or Path(w).exists()]
    values = _checked(
        _values([w for w in words if "=" in w and not Path(w).exists()]),
        out=None,
        model=None,
        weights=[],
        download=False,
        flagged="keep",
        identity="code",
    )
    result = serve.predict(root, files, **values)
    typer.echo(result.text())
    if result.rejected:
        raise typer.Exit(3)


@app.command(
    short_help="Networks by name, and the starts that are here.",
    epilog="Examples: medgraft models; medgraft models 3d; medgraft models resnet",
)
def models(
    query: Annotated[
        str, typer.Argument(help="2d, 3d, dense, a library (torchvision, timm, monai, smp) or part of a name")
    ] = "",
) -> None:
    """Networks by name, and the starts that are on this machine."""
    from medgraft.models import catalogue

    typer.echo(catalogue.text(query))


weights_app = typer.Typer(
    no_args_is_help=True,
    short_help="Weight files: what they are, where, whether whole.",
    help="Weight cards: what they are, where their files lie, whether they are whole.",
)
app.add_typer(weights_app, name="weights")


@weights_app.command(
    "list",
    epilog="Examples: medgraft weights list 3d; medgraft weights list ig65m_8; medgraft weights list "
    "weights=[my_weights]",
)
def weights_list(words: Queries = None) -> None:
    """Weight cards, and whether their file is here; all that is known of a card where three at most are meant."""
    from medgraft.models import catalogue

    query, options = _query(words)
    typer.echo(catalogue.weights_text(query=query, **_folders(_checked(_values(options), weights=[]))))


@weights_app.command("verify", epilog="Example: medgraft weights verify weights=[my_weights]")
def weights_verify(words: Queries = None) -> None:
    """Check the hash of every weight file that is here."""
    from medgraft.models import catalogue

    query, options = _query(words)
    text, good = catalogue.verify_text(query=query, **_folders(_checked(_values(options), weights=[])))
    typer.echo(text)
    if not good:
        raise typer.Exit(2)


@weights_app.command(
    "pack",
    epilog="Examples: medgraft weights pack weights.tar; medgraft weights pack usb/weights r2plus1d_34 "
    "torchvision:resnet50",
)
def weights_pack(
    out: Annotated[Path, typer.Argument(metavar="FOLDER|FILE.tar", help="what to write")],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME KEY=VALUE", help="networks or cards (none: the zoo), then key=value"),
    ] = None,
) -> None:
    """Collect the weight files that are here, for a machine without a network, with a list of hashes and licences."""
    from medgraft.models.weights import pack

    names = [word for word in words or [] if "=" not in word]
    folders = _folders(_checked(_values([word for word in words or [] if "=" in word]), weights=[]))
    typer.echo(pack.pack(out, pack.cards_of(names), **folders).text())


@weights_app.command("unpack", epilog="Example: medgraft weights unpack weights.tar into=my_weights")
def weights_unpack(
    source: Annotated[Path, typer.Argument(metavar="FOLDER|FILE.tar", help="a pack")], words: Words = None
) -> None:
    """Check every file of a pack and put it where weights are looked for, or into a folder (into=DIR)."""
    from medgraft.models.weights import pack

    values = _checked(_values(words), into=None)
    typer.echo(pack.unpack(source, into=Path(values["into"]) if values["into"] else None).text())


@weights_app.command("convert", epilog="Example: medgraft weights convert SLOWFAST_8x8_R50.pkl")
def weights_convert(
    file: Annotated[
        Path,
        typer.Argument(
            help="a Caffe2 or other pickle of arrays, a TorchScript archive, a PyTorch file that is refused as it is"
        ),
    ],
    words: Words = None,
) -> None:
    """Write the tensors of a foreign weight file as safetensors, without running anything in it.

    Not converted: what asks for more.
    """
    from medgraft.models.weights import convert

    values = _checked(_values(words), out=None)
    made = convert.convert(file, Path(values["out"]) if values["out"] else None)
    typer.echo(f"{made}, with a note of the hashes of both files in {made.name}.sha256")


def _query(words: list[str] | None) -> tuple[str, list[str]]:
    """A word that is no key=value, and the rest."""
    plain = [word for word in words or [] if "=" not in word]
    if len(plain) > 1:
        raise UserError("one kind or one part of a name at a time", case=" ".join(plain))
    return "".join(plain), [word for word in words or [] if "=" in word]


def _folders(values: dict[str, Any]) -> dict[str, Any]:
    weights = values["weights"] if isinstance(values["weights"], list) else [values["weights"]]
    return {"folders": [Path(w) for w in weights]}


@app.command(
    short_help="Write studies with known answers.",
    epilog="Example: medgraft simulate chest_xray out=simulated patients=200 difficulty=0.5",
)
def simulate(
    what: Annotated[str, typer.Argument(help="chest_xray")],
    words: Words = None,
) -> None:
    """Write studies with known answers in a public on-disk format."""
    if what != "chest_xray":
        raise UserError(f"no simulator {what!r}", fix="there is chest_xray")
    from medgraft.simulate import chest_xray as act
    from medgraft.stats.baseline import facts_alone

    values = _checked(
        _values(words),
        out="simulated",
        patients=200,
        images_per_patient=2,
        size=256,
        difficulty=0.5,
        prevalence=0.4,
        seed=0,
    )
    out = Path(values.pop("out"))
    made = act.simulate(out, **values)
    typer.echo(made.text())
    typer.echo(facts_alone(made.facts, made.target, made.patient))


@app.command(
    short_help="Measure a training step on this machine.",
    epilog="Examples: medgraft bench models=[efficientnet_lite0, r3d_18]; medgraft bench official=projects only=c3d",
)
def bench(words: Words = None) -> None:
    """Measure this machine: a training step of the engine against a bare PyTorch loop on the same batches.

    With official=DIR: outputs and forward time of our networks against the official projects checked out under DIR;
    record=DIR writes goldens there, table=FILE the rows as JSON.
    """
    values = _values(words)
    if "official" in values:
        from medgraft.engine import official

        asked = _checked(values, official=".", record=None, table=None, only="", repeats=5, threads=1)
        folder, record, table = Path(asked.pop("official")), asked.pop("record"), asked.pop("table")
        rows = official.compare(folder, record=Path(record) if record else None, **asked)
        typer.echo(official.text(rows))
        if table:
            from medgraft.engine.bench import write_rows

            write_rows(Path(table), rows, asked["threads"])
        return
    from medgraft.engine import bench as act

    values = _checked(
        values, models=["efficientnet_lite0", "r3d_18"], batch_size=4, steps=4, repeats=7, device="auto", threads=0
    )
    typer.echo(act.text(act.step_overhead(**values)))


@app.command(short_help="What this machine offers, and what is missing.")
def checks() -> None:
    """What this machine offers: device, memory, codecs, packages, weights."""
    from medgraft.engine import checks as act

    text, good = act.checks()
    typer.echo(text)
    if not good:
        raise typer.Exit(2)


def _say(line: str) -> None:
    typer.echo(line)
    sys.stdout.flush()


def _version(value: bool) -> None:
    if value:
        typer.echo(f"medgraft {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; errors print one line first: cause, case, fix."""
    try:
        app()
    except UserError as error:
        typer.secho(f"medgraft: {error}", err=True, fg="red")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        typer.secho("medgraft: stopped; run the same command again to go on", err=True)
        raise SystemExit(130) from None
    except Exception as error:
        typer.secho(f"medgraft: {type(error).__name__} ({_log(error)})", err=True, fg="red")
        raise SystemExit(1) from None


def _log(error: Exception) -> str:
    """Write the trace of a fault and say where it is.

    Messages can quote a header, so they go to a file that only its owner reads.
    """
    import os
    import traceback

    head = f"{time.strftime('%Y-%m-%d %H:%M:%S')} medgraft {__version__}\n"
    frames = "".join(
        f"  {Path(f.filename).name}:{f.lineno} in {f.name}: {f.line}\n"
        for f in traceback.extract_tb(error.__traceback__)
    )
    log, full = Path("medgraft-error.log"), Path(".medgraft-error-full.log")
    try:
        with open(log, "a", encoding="utf-8") as stream:
            stream.write(f"{head}Traceback, without messages\n{frames}{type(error).__name__}\n\n")
        with os.fdopen(os.open(full, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8") as stream:
            stream.write(head + "".join(traceback.format_exception(error)) + "\n")
    except OSError:
        return "its trace could not be written here: " + frames.strip().splitlines()[-1].strip()
    return f"the trace is in {log}; with its messages, which may name a patient, in {full}"
