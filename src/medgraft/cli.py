"""One sub-command per act: parse, call one function, print where the result lies.

Heavy libraries are imported inside the commands, so that ``medgraft --help`` answers at once.
Exit status: 0 done, 1 a fault of medgraft (trace without messages in ``medgraft-error.log``), 2 something the user can
mend, 3 done but with rejected studies or failed cells.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from medgraft import __version__, verbs
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
    "then open report.html. A first answer in minutes: medgraft quick SOURCE labels=FILE patient=COLUMN. "
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


def _with_keys(*of: str) -> type[TyperCommand]:
    """A command whose help lists the keys of a verb (of each kind of it), imported only when that help is asked for.

    An option word (``--labels x``) is answered by how it is written here.
    """

    class Command(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            verbs.refuse_strange(of[0], args)
            return super().parse_args(ctx, args)

        def format_epilog(self, ctx: Any, formatter: Any) -> None:
            from medgraft import knobs

            for verb in of:
                found = [(knob.key, knob.told) for knob in knobs.knobs(verbs.options_class(verb))]
                with formatter.section("Keys" if verb == of[0] else f"Keys of medgraft {verb}"):
                    formatter.write_dl(found or [("none", "")], col_max=24)
            super().format_epilog(ctx, formatter)

    return Command


def _options(verb: str, words: list[str] | None) -> Any:
    return verbs.options(verb, verbs.values(verb, words or []))


def _parted(words: list[str] | None) -> tuple[list[str], list[str]]:
    """(Plain words, key=value words)."""
    plain = [word for word in words or [] if "=" not in word]
    return plain, [word for word in words or [] if "=" in word]


@app.command(
    cls=_with_keys("demo"),
    short_help="The whole flow on simulated chest X-rays.",
    epilog="Example: medgraft demo out=demo",
)
def demo(words: Words = None) -> None:
    """Simulate chest X-rays, scan them, compare three ways of transfer, and write the report (a few minutes)."""
    options = _options("demo", words)
    from medgraft import flow  # after the words: a typing error is answered at once

    typer.echo(f"open {flow.demo(options, say=_say)}")


@app.command(
    cls=_with_keys("scan"),
    short_help="Raw studies and a label table become a data set.",
    epilog="Example: medgraft scan xrays labels=labels.csv patient=patient_number target=label out=datasets/xrays",
)
def scan(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="folder of studies: PNG, JPEG, DICOM, AVI, MP4, NIfTI, NPZ")
    ],
    words: Words = None,
) -> None:
    """Turn a folder of raw studies and a label table into a data set. A second scan does only what is new."""
    options = _options("scan", words)
    from medgraft.intake import scan as act

    report = act.scan(source, options)
    typer.echo(report.text())
    if report.cases:
        typer.echo(f"next: medgraft audit {report.out}, then medgraft run data={report.out}")
    if report.rejected:
        raise typer.Exit(3)


@app.command(
    cls=_with_keys("audit"),
    short_help="Find leaks, duplicates and confounders in a data set.",
    epilog="Examples: medgraft audit data/xrays; medgraft audit data/xrays run=runs/xrays; medgraft audit data/here "
    "test=data/elsewhere",
)
def audit(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="data set folder written by medgraft scan")],
    words: Words = None,
) -> None:
    """Look for what makes results too good: one picture under two patients, one patient in two roles, labels that size
    or scanner tell.

    Writes audit.html (findings first, with pictures) and audit.json into the data set folder. Exit status 3 when there
    is a leak.
    """
    options = _options("audit", words)
    from medgraft.audit import audit as act

    report = act(dataset, options)
    typer.echo(report.text())
    if report.leaks:
        raise typer.Exit(3)


@app.command(
    cls=_with_keys("quick"),
    short_help="A first answer in minutes.",
    epilog="Examples: medgraft quick xrays labels=labels.csv patient=patient_number target=label; medgraft quick "
    "datasets/xrays",
)
def quick(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE|DATASET", help="folder of raw studies, or a data set that a scan wrote")
    ],
    words: Words = None,
) -> None:
    """A first answer in minutes: frozen features of every start that is here, with intervals and controls.

    Scans SOURCE where it is raw. Says at the end which longer run comes next, and how long that takes here; it grows
    the same run folder.
    """
    options = verbs.options("quick", verbs.values("quick", words or []))
    from medgraft import firstlook

    firstlook.quick(source, options, say=_say)


@app.command(
    cls=_with_keys("run"),
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
    plain, words = _parted(words)
    if len(plain) > 1:
        raise verbs.stray("run", plain[1])
    if plain and not Path(plain[0]).exists() and (key := verbs.written("run", plain[0])):
        raise UserError("no such recipe", case=plain[0], fix=f"give a YAML file, or {key}")
    recipe = verbs.recipe(Path(plain[0]) if plain else None, verbs.values("run", words))
    from medgraft import flow, runs

    root = flow.run(recipe, say=_say)
    states = runs.status(root)["cells"]
    if any(state.startswith("failed") for state in states):
        raise typer.Exit(3)


@app.command(
    cls=_with_keys("status"),
    short_help="What is done, running or failed in a run.",
    epilog="Example: medgraft status runs/cxr",
)
def status(root: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")]) -> None:
    """What is done, running or failed in a run, and the leaderboard so far (inner scores only)."""
    from medgraft import runs

    typer.echo(runs.status_text(runs.status(root)))


@app.command(
    cls=_with_keys("report"),
    short_help="Write the report of a finished run again.",
    epilog="Example: medgraft report runs/cxr lang=zh",
)
def report(root: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")], words: Words = None) -> None:
    """Write the report of a finished run again, in English or Chinese (lang=zh)."""
    options = _options("report", words)
    from medgraft.report import page

    typer.echo(f"open {page.build(root, lang=options.lang)}")


@app.command(
    cls=_with_keys("predict"),
    short_help="Predict new studies with the model a run chose.",
    epilog="Example: medgraft predict runs/cxr new_xray.dcm more_xrays/ out=predictions.csv",
)
def predict(
    root: Annotated[Path, typer.Argument(metavar="RUN", help="a run folder")],
    words: Annotated[list[str], typer.Argument(metavar="FILES KEY=VALUE", help="studies or folders, then key=value")],
) -> None:
    """Predict new studies with the model that the inner scores of a run chose, by the same path."""
    files = [Path(w) for w in words if "=" not in w or Path(w).exists()]
    options = _options("predict", [w for w in words if "=" in w and not Path(w).exists()])
    from medgraft import serve

    result = serve.predict(root, files, options)
    typer.echo(result.text())
    if result.rejected:
        raise typer.Exit(3)


@app.command(
    cls=_with_keys("models"),
    short_help="Networks by name, and the starts that are here.",
    epilog="Examples: medgraft models; medgraft models 3d; medgraft models resnet",
)
def models(
    query: Annotated[
        str,
        typer.Argument(
            metavar="PART", help="2d, 3d, dense, a library (torchvision, timm, monai, smp) or part of a name"
        ),
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
    cls=_with_keys("weights list"),
    short_help="Weight cards, and whether their file is here.",
    epilog="Examples: medgraft weights list 3d; medgraft weights list ig65m_8; medgraft weights list "
    "weights=[my_weights]",
)
def weights_list(words: Queries = None) -> None:
    """Weight cards, and whether their file is here; all that is known of a card where three at most are meant."""
    plain, words = _parted(words)
    options = _options("weights list", words)
    from medgraft.models import catalogue

    typer.echo(catalogue.weights_text(query=_one(plain), folders=options.weights))


@weights_app.command(
    "verify", cls=_with_keys("weights verify"), epilog="Example: medgraft weights verify weights=[my_weights]"
)
def weights_verify(words: Queries = None) -> None:
    """Check the hash of every weight file that is here."""
    plain, words = _parted(words)
    options = _options("weights verify", words)
    from medgraft.models import catalogue

    text, good = catalogue.verify_text(query=_one(plain), folders=options.weights)
    typer.echo(text)
    if not good:
        raise typer.Exit(2)


@weights_app.command(
    "pack",
    cls=_with_keys("weights pack"),
    short_help="Collect the files for a machine without network.",
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
    names, words = _parted(words)
    options = _options("weights pack", words)
    from medgraft.models.weights import pack

    typer.echo(pack.pack(out, pack.cards_of(names), folders=options.weights).text())


@weights_app.command(
    "unpack",
    short_help="Check a pack and put its files in place.",
    cls=_with_keys("weights unpack"),
    epilog="Example: medgraft weights unpack weights.tar into=my_weights",
)
def weights_unpack(
    source: Annotated[Path, typer.Argument(metavar="FOLDER|FILE.tar", help="a pack")], words: Words = None
) -> None:
    """Check every file of a pack and put it where weights are looked for, or into a folder (into=DIR)."""
    options = _options("weights unpack", words)
    from medgraft.models.weights import pack

    typer.echo(pack.unpack(source, into=options.into).text())


@weights_app.command(
    "convert",
    short_help="A foreign weight file as safetensors.",
    cls=_with_keys("weights convert"),
    epilog="Example: medgraft weights convert SLOWFAST_8x8_R50.pkl",
)
def weights_convert(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="a Caffe2 or other pickle of arrays, a TorchScript archive, a PyTorch file that is refused as it is",
        ),
    ],
    words: Words = None,
) -> None:
    """Write the tensors of a foreign weight file as safetensors, without running anything in it.

    Not converted: what asks for more.
    """
    options = _options("weights convert", words)
    from medgraft.models.weights import convert

    made = convert.convert(file, options.out)
    typer.echo(f"{made}, with a note of the hashes of both files in {made.name}.sha256")


def _one(plain: list[str]) -> str:
    """The one plain word, or none."""
    if len(plain) > 1:
        raise UserError("one kind or one part of a name at a time", case=" ".join(plain))
    return "".join(plain)


@app.command(
    cls=_with_keys("simulate"),
    short_help="Write studies with known answers.",
    epilog="Example: medgraft simulate chest_xray out=simulated patients=200 difficulty=0.5",
)
def simulate(
    what: Annotated[str, typer.Argument(metavar="KIND", help="chest_xray")],
    words: Words = None,
) -> None:
    """Write studies with known answers in a public on-disk format."""
    if what != "chest_xray":
        raise UserError(f"no simulator {what!r}", fix="there is chest_xray")
    options = _options("simulate", words)
    from medgraft.simulate import chest_xray as act
    from medgraft.stats.baseline import facts_alone

    made = act.simulate(**options.model_dump())
    typer.echo(made.text())
    typer.echo(facts_alone(made.facts, made.target, made.patient))


@app.command(
    cls=_with_keys("bench", "bench official=DIR"),
    short_help="Measure a training step on this machine.",
    epilog="Examples: medgraft bench models=[efficientnet_lite0, r3d_18]; medgraft bench official=projects only=c3d",
)
def bench(words: Words = None) -> None:
    """Measure this machine: a training step of the engine against a bare PyTorch loop on the same batches.

    With official=DIR: outputs and forward time of our networks against the official projects checked out under DIR;
    record=DIR writes goldens there, table=FILE the rows as JSON.
    """
    values = verbs.values("bench", words or [])
    if "official" in values:
        asked = verbs.options("bench official=DIR", values)
        from medgraft.engine import official
        from medgraft.engine.bench import write_rows

        rows = official.compare(asked.official, **asked.model_dump(exclude={"official", "table"}))
        typer.echo(official.text(rows))
        if asked.table:
            write_rows(asked.table, rows, asked.threads)
        return
    options = verbs.options("bench", values)
    from medgraft.engine import bench as act

    typer.echo(act.text(act.step_overhead(**options.model_dump())))


@app.command(
    cls=_with_keys("checks"),
    short_help="What this machine offers, and what is missing.",
    epilog="Example: medgraft checks",
)
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
        code = app(prog_name="medgraft", standalone_mode=False)
    except UserError as error:
        typer.secho(f"medgraft: {error}", err=True, fg="red")
        raise SystemExit(2) from None
    except _Usage as error:
        raise SystemExit(_unusable(error)) from None
    except Exception as error:
        typer.secho(f"medgraft: {type(error).__name__} ({_log(error)})", err=True, fg="red")
        raise SystemExit(1) from None
    if code == 130:
        typer.secho("medgraft: stopped; run the same command again to go on", err=True)
    raise SystemExit(code)


#: What typer raises where the words of a command line do not fit its arguments.
_Usage: type[Exception] = typer.BadParameter.__mro__[1]


def _unusable(error: Any) -> int:
    """Say in one line what is wrong with the words, or show the help of a command without any; the exit status."""
    path = error.ctx.command_path if error.ctx is not None else "medgraft"
    message = error.format_message()
    if len(sys.argv[1:]) < len(path.split()) and "\n" in message:
        error.show()  # no_args_is_help
    else:
        cause = " ".join(message.split()).rstrip(".")
        typer.secho(f"medgraft: {UserError(cause, fix=f'see `{path} --help`')}", err=True, fg="red")
    return int(error.exit_code)


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
