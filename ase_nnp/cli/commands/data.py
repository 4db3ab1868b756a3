"""``ase-nnp data``: look at, check, convert and plot datasets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ase_nnp.cli.commands.output import JsonOption, print_json, print_table, say
from ase_nnp.cli.commands.progress import progress_bar
from ase_nnp.cli.commands.shared_options import takes
from ase_nnp.cli.commands.targets import check_place
from ase_nnp.errors import DatasetError

__all__ = ["add_to"]

data = typer.Typer(
    help="Datasets: info, stats, verify, convert, plot, query, check-submission.",
    no_args_is_help=True,
)

Source = Annotated[Path, typer.Argument(help="A dataset: a file, a folder or a pattern.")]
FormatOption = Annotated[
    str | None, typer.Option("--format", help="Name of the format, where content does not tell.")
]


@dataclass(frozen=True)
class ReadOptions:
    """How a dataset is read, and whether the command prints JSON."""

    format: FormatOption = None
    energy_kind: Annotated[
        str | None,
        typer.Option("--energy-kind", help="Convert energies: total, adsorption or formation."),
    ] = None
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="A label's name in the file: energy=REF_energy. Repeatable."),
    ] = None
    units: Annotated[
        list[str] | None,
        typer.Option(
            "--units",
            help="A label's unit where the file does not say it: energy=Hartree. Repeatable.",
        ),
    ] = None
    workers: Annotated[int, typer.Option(help="Processes that read.", min=1)] = 1
    as_json: JsonOption = False

    @property
    def settings(self) -> dict[str, Any]:
        """What the command line sets of ``open_dataset``, beside the format."""
        settings: dict[str, Any] = {"energy_kind": self.energy_kind} if self.energy_kind else {}
        if self.key:
            settings["keys"] = _keys(self.key)
        if self.units:
            settings["units"] = _pairs("--units", self.units, "energy=Hartree")
        return settings

    def open(self, path: Path) -> Any:
        """Open a dataset."""
        from ase_nnp.datasets import open_dataset

        return open_dataset(path, self.format, **self.settings)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(data, name="data")


def _keys(pairs: list[str]) -> dict[str, str]:
    """Return ``--key energy=REF_energy`` as ``keys=`` of ``open_dataset``."""
    from ase_nnp.datasets.labels import check_keys

    return check_keys(_pairs("--key", pairs, "energy=REF_energy"))


def _pairs(option: str, pairs: list[str], example: str) -> dict[str, str]:
    """Return ``LABEL=NAME`` of a repeatable option as a dictionary."""
    named = {}
    for pair in pairs:
        label, sign, name = (part.strip() for part in pair.partition("="))
        if not (label and sign and name):
            raise DatasetError(f"{option} {pair!r}; it is LABEL=NAME, such as {example}")
        named[label] = name
    return named


def _number(value: Any) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.5g}"


def _moments(title: str, summary: dict[str, Any], names: dict[str, str]) -> None:
    columns = ("", "count", "mean", "std", "rms", "min", "max")
    rows = [
        (label, *(_number(summary[name][c]) for c in columns[1:]))
        for name, label in names.items()
        if summary[name]["count"]
    ]
    print_table(title, columns, rows)


_ENERGIES = {"energy": "E, eV", "energy_per_atom": "E/atom, eV"}
_FORCES = {
    "forces": "F xyz, eV/Å",
    "forces_free_atoms": "... free atoms",
    "force_norm": "|F|, eV/Å",
}


@data.command()
@takes(ReadOptions)
def info(source: Source, options: ReadOptions) -> None:
    """Print counts, elements, sizes, and energy and force statistics."""
    from ase_nnp.datasets.stats import dataset_info

    with progress_bar("reading") as progress:
        summary = dataset_info(options.open(source), progress=progress, workers=options.workers)
    if options.as_json:
        print_json(summary)
        return
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in summary["energy_kind"].items())
    rows = [
        ("format", summary["format"]),
        ("files", f"{len(summary['files']):,}"),
        ("structures", f"{summary['structures']:,}"),
        ("atoms", f"{summary['atoms']:,} ({summary['fixed_atoms']:,} fixed)"),
        ("atoms a structure", _range(summary["size"])),
        ("periodic", ", ".join(f"{k}: {n:,}" for k, n in summary["pbc"].items())),
        ("labels", ", ".join(f"{k}: {n:,}" for k, n in summary["labels"].items() if n)),
        ("energies", kinds + _reference(summary["energy_reference"])),
        ("tags (atoms)", ", ".join(f"{k}: {n:,}" for k, n in summary["tags"].items())),
        ("elements (structures)", _elements(summary["structures_with_element"])),
    ]
    print_table(str(source), ("", ""), [row for row in rows if row[1]])
    _moments("Labels", summary, _ENERGIES | _FORCES)
    _say_label_names(summary)


def _say_label_names(summary: dict[str, Any]) -> None:
    """List what looks like a label, with the option that would use it."""
    if summary["label_names"]:
        say(f"names that look like labels and are none: {', '.join(summary['label_names'])}")
    for keys in summary["keys"]:
        options = " ".join(f"--key {label}={name}" for label, name in keys.items())
        say(f"to use them: {options}   (keys={keys!r} in open_dataset)")


def _range(size: dict[str, Any]) -> str:
    if not size["count"]:
        return ""
    return f"{size['min']:.0f} to {size['max']:.0f}, mean {size['mean']:.1f}"


def _reference(reference: str | None) -> str:
    return f"; reference: {reference}" if reference else ""


def _elements(counts: dict[str, int]) -> str:
    return ", ".join(f"{symbol} {count:,}" for symbol, count in counts.items())


@data.command()
@takes(ReadOptions)
def stats(
    source: Source,
    options: ReadOptions,
    fit_references: Annotated[
        bool, typer.Option("--fit-references", help="Fit one energy per element.")
    ] = False,
) -> None:
    """Print mean, spread and range of the labels, and element references on request."""
    from ase_nnp.datasets.stats import dataset_stats

    with progress_bar("reading") as progress:
        summary = dataset_stats(
            options.open(source),
            fit_references=fit_references,
            progress=progress,
            workers=options.workers,
        ).as_dict()
    names = (*_ENERGIES, *_FORCES)
    if options.as_json:
        keys = ("structures", "atoms", "energy_kind", *names, "fit")
        print_json({key: summary[key] for key in keys if key in summary})
        return
    _moments(str(source), summary, _ENERGIES | _FORCES)
    if fit_references:
        fit = summary["fit"]
        rows = [(symbol, f"{value:.8g}") for symbol, value in fit["references"].items()]
        print_table("Element references", ("element", "eV"), rows)
        say(f"rmse {_number(fit['rmse'])} eV a structure, {fit['count']:,} structures")
        if fit["rank"] < fit["elements"]:
            say(
                f"warning: the compositions tell only {fit['rank']} of {fit['elements']} "
                "elements apart; references of the others are not unique"
            )


@data.command()
def verify(
    source: Source,
    model: Annotated[
        str | None,
        typer.Option(help="Also rank labels that are probably wrong, by this model."),
    ] = None,
    uncertainty: Annotated[
        Path | None, typer.Option(help="Fitted error bars of --model (.uq) to judge by.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Write a page of suspicious labels (.html).")
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Error bars from which on a label is suspicious.", min=0)
    ] = 4.0,
    format: FormatOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read every record; list all broken ones. Exit code 1 if there are any.

    With --model or --page, suspicious labels are ranked too; they do not change the exit code.
    """
    from ase_nnp.datasets.verify import verify_dataset

    options: dict[str, Any] = {"format": format} if format else {}
    with progress_bar("checking") as progress:
        report = verify_dataset(source, progress=progress, **options)
    labels = None
    if model is not None or page is not None or uncertainty is not None:
        from ase_nnp.cli.commands.suspicious import look

        labels = look(source, format, model, uncertainty, page, threshold)
    if as_json:
        print_json(report.as_dict() | ({} if labels is None else {"labels": labels.as_dict()}))
    else:
        for problem in report.problems:
            where = problem.path if problem.key is None else f"{problem.path}: {problem.key}"
            say(f"{where}: {problem.reason}")
        for warning in report.warnings:
            say(f"warning: {warning}")
        kinds = report.first_of_each_kind()
        if len(report.problems) > len(kinds):
            rows = [(n, kind, f"{p.path}: {p.key}") for kind, (n, p) in kinds.items()]
            print_table("Kinds", ("count", "what", "first"), rows)
        broken = f"{len(report.problems):,} broken" if report.problems else "none broken"
        say(f"{report.structures:,} records in {report.files:,} files, {broken}")
        if labels is not None:
            from ase_nnp.cli.commands.suspicious import show

            show(labels, page)
    if not report.ok:
        raise typer.Exit(1)


@data.command()
@takes(ReadOptions)
def convert(
    source: Source,
    options: ReadOptions,
    target: Annotated[
        Path, typer.Argument(help=".aselmdb, .lmdb, .extxyz, .extxyz.xz or .h5; one file.")
    ],
    to: Annotated[
        str | None, typer.Option("--to", help="Format to write, where the ending does not tell.")
    ] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave broken records out and list them.")
    ] = False,
    shard_size: Annotated[
        int | None, typer.Option(help="Make TARGET a folder of files with so many records.", min=1)
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Do not continue an interrupted conversion.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the target.")] = False,
) -> None:
    """Convert a dataset; run the same command again to continue after an interruption."""
    from ase_nnp.datasets.convert import convert as run

    settings = dict(options.settings)
    if options.format:
        settings["source_format"] = options.format
    if not source.exists() and not any(sign in str(source) for sign in "*?["):
        raise DatasetError("no such file or folder", path=source)
    with progress_bar("converting") as progress:
        result = run(
            source,
            target,
            format=to,
            workers=options.workers,
            skip_broken=skip_broken,
            resume=not restart,
            overwrite=overwrite,
            progress=progress,
            shard_size=shard_size,
            **settings,
        )
    if options.as_json:
        print_json(result.as_dict())
        return
    if result.resumed_at:
        say(f"continued at record {result.resumed_at:,}")
    for entry in result.skipped:
        say(f"left out record {entry['index']}: {entry['error']}")
    say(f"{result.written:,} of {result.total:,} structures in {result.path}")


@data.command()
@takes(ReadOptions)
def plot(
    source: Source,
    options: ReadOptions,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The picture: .png, .pdf, .svg or .jpg.")
    ] = Path("dataset.png"),
) -> None:
    """Draw the element table and histograms of sizes, energies and forces."""
    from ase_nnp.datasets.plot import plot_dataset

    check_place(output, "dataset.png")
    with progress_bar("reading") as progress:
        counts = plot_dataset(
            options.open(source),
            output,
            title=source.name,
            progress=progress,
            workers=options.workers,
        )
    if options.as_json:
        print_json({"picture": str(output), "structures": counts.count})
    else:
        say(f"{counts.count:,} structures drawn in {output}")


@data.command("check-submission")
def check_submission(
    file: Annotated[Path, typer.Argument(help="An OC20 leaderboard file (.npz).")],
    task: Annotated[str, typer.Option(help="s2ef, is2re or is2rs.")] = "s2ef",
    as_json: JsonOption = False,
) -> None:
    """Check a leaderboard file as strictly as an evaluation would."""
    from ase_nnp.datasets.submission import check_submission as check

    splits = check(file, task=task)
    if as_json:
        print_json(splits)
        return
    rows = [(split, f"{n['systems']:,}", f"{n['atoms']:,}") for split, n in splits.items()]
    print_table(f"{file}: complete", ("split", "systems", "rows of atoms"), rows)
