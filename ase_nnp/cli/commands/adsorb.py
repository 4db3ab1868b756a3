"""``ase-nnp adsorb``: where an adsorbate binds, how strongly, and whether to believe it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_nnp.cli.commands.cautions import warn_of_unknown
from ase_nnp.cli.commands.crystal import number_with_bar
from ase_nnp.cli.commands.exit_codes import EPILOG, FAILED
from ase_nnp.cli.commands.output import note, print_json, print_table, say
from ase_nnp.cli.commands.shared_options import ModelOptions, takes, with_uncertainty
from ase_nnp.cli.commands.targets import OverwriteOption, free_name
from ase_nnp.errors import ConfigError

if TYPE_CHECKING:
    from ase_nnp.models.potential import Potential
    from ase_nnp.workflows.adsorption.result import AdsorptionResult

__all__ = ["add_to", "miller_indices"]


@dataclass(frozen=True)
class SearchOptions(ModelOptions):
    """How a model is loaded, and a fitted uncertainty of it."""

    uncertainty: Annotated[
        Path | None, typer.Option(help="A fitted uncertainty of this model: intervals and flags.")
    ] = None

    def load(self, model: str | Path | None) -> Potential:
        """Load the model with its uncertainty."""
        return with_uncertainty(super().load(model), self.uncertainty)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("adsorb", epilog=EPILOG)(adsorb)


@takes(SearchOptions)
def adsorb(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] SURFACE ADSORBATE",
            help="A model (the default one without it); a slab or crystal (a file, or an "
            "element's symbol); an adsorbate: CO, '*OCH3', or several: CO,OH.",
        ),
    ],
    options: SearchOptions,
    miller: Annotated[str, typer.Option(help="Of a crystal: the plane, 111 or 1,0,-1.")] = "111",
    termination: Annotated[int, typer.Option(help="Which termination, 0 first.")] = 0,
    placements: Annotated[int, typer.Option(help="Half on sites, half random.")] = 60,
    top: Annotated[int, typer.Option(help="Minima to report.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the placements.")] = 0,
    fmax: Annotated[float, typer.Option(help="Largest force at the end, eV/Å.")] = 0.05,
    steps: Annotated[int, typer.Option(help="At most so many steps each.")] = 300,
    relax_bulk: Annotated[bool, typer.Option(help="Relax a crystal's cell first.")] = True,
    folder: Annotated[
        Path | None, typer.Option(help="Keeps all states; the same command goes on after a kill.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Minima in any ASE format; .db holds what was rejected too, .json the ranking.",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    html: Annotated[
        Path | None, typer.Option(help="A report page that needs no network (redrawn).")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(help="Another model, or ase:MODULE:NAME: evaluates the best minima anew."),
    ] = None,
    judge_steps: Annotated[
        int, typer.Option(help="Relax with the judge, at most so many steps; 0: single points.")
    ] = 0,
    dft: Annotated[
        str | None,
        typer.Option(help="Write inputs of vasp, espresso or gpaw for the best, to a new folder."),
    ] = None,
) -> None:
    """Find the most stable sites of an adsorbate; reject what is not to be trusted.

    Prints distinct minima with 90 % intervals, the reaction, and what was rejected and why.
    """
    if len(inputs) not in (2, 3):
        raise ConfigError(f"adsorb takes [MODEL] SURFACE ADSORBATE; found: {' '.join(inputs)}.")
    *model, surface, adsorbates = inputs
    _check_targets(output, overwrite, html, dft)
    potential = options.load(model[0] if model else None)

    from ase_nnp.workflows.adsorption.search import adsorb as search

    with _progress(options.as_json) as show:
        result = search(
            surface,
            adsorbates.split(","),
            potential,
            miller=miller_indices(miller),
            termination=termination,
            placements=placements,
            top=top,
            seed=seed,
            fmax=fmax,
            steps=steps,
            relax_bulk=relax_bulk,
            folder=folder,
            progress=show,
        )
    report = result.as_dict()
    if judge is not None:
        report["judged"] = _judged(result, judge, judge_steps, options)
    if output is not None:
        result.write(output)
    if html is not None:
        from ase_nnp.workflows.adsorption.report import write_report

        write_report(result, html)
    if dft is not None:
        from ase_nnp.workflows.adsorption.dft_inputs import write_dft_inputs

        place = free_name(Path(f"{result.system}-{dft}"))
        report["dft"] = [str(path) for path in write_dft_inputs(result, place, dft)]

    cautions: list[str] = []
    if result.unknown:
        warn_of_unknown(True, f"what all is counted from ({', '.join(result.unknown)})", cautions)
    report |= {"output": output, "html": html, "warnings": cautions}
    if options.as_json:
        print_json(report)
    else:
        _show(result, report)
    if not result.minima:
        note("ase-nnp: no placement passed the gate; the table says why.")
        raise typer.Exit(FAILED)


def miller_indices(text: str) -> tuple[int, ...]:
    """Return the indices of ``111``, ``1,0,-1``, ``1-10`` or ``(0 0 0 1)``."""
    words = text.strip("()[] ").replace(",", " ").split()
    try:
        if len(words) > 1:
            return tuple(int(word) for word in words)
        digits, sign = [], 1
        for letter in words[0]:
            if letter == "-":
                sign = -1
                continue
            digits.append(sign * int(letter))
            sign = 1
        return tuple(digits)
    except (ValueError, IndexError):
        raise ConfigError(f"--miller {text}: three integers, such as 111 or 1,0,-1.") from None


def _check_targets(
    output: Path | None, overwrite: bool, html: Path | None, dft: str | None
) -> None:
    """Refuse, before anything runs, what could not be written."""
    if output is not None and output.exists() and not overwrite:
        raise ConfigError(
            f"{output} exists already. Name another --output, or say --overwrite to replace it."
        )
    for path in (output, html):
        if path is not None and not path.absolute().parent.is_dir():
            raise ConfigError(f"There is no folder {path.parent} for {path.name}.")
    if dft is not None:
        from ase_nnp.workflows.adsorption.dft_inputs import CODES

        if dft not in CODES:
            raise ConfigError(f"--dft {dft}: one of {', '.join(CODES)}.")


STAGES = {
    "crystal": "relaxing the crystal",
    "slab": "relaxing the clean slab",
    "rigid": "placements on the rigid slab",
    "first": "relaxing distinct placements",
    "last": "relaxing what is left",
    "push": "pushing minima against saddles",
}


@contextmanager
def _progress(quiet: bool) -> Iterator[Any]:
    """A bar on stderr, one line a stage; yields ``progress(stage, finished, total)``."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as bar:
        tasks: dict[str, Any] = {}

        def show(stage: str, finished: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(STAGES.get(stage, stage), total=total)
            bar.update(tasks[stage], completed=finished, total=total)

        yield show


def _judged(
    result: AdsorptionResult, judge: str, steps: int, options: SearchOptions
) -> list[dict[str, Any]]:
    from ase_nnp.cli.commands.model_argument import model_from
    from ase_nnp.workflows.adsorption.rejudging import rejudge

    other = model_from(judge, None, options.device, options.dtype)
    return [one.as_dict() for one in rejudge(result, other, steps=steps).judged]


def _show(result: AdsorptionResult, report: dict[str, Any]) -> None:
    """The ranking, what was rejected, and what the numbers are."""
    judged = {row["rank"]: row for row in report.get("judged", [])}
    rows = []
    for rank, one in enumerate(result.minima):
        shape = one.geometry
        row = [
            str(rank + 1),
            shape.site,
            f"{one.energy:.3f}",
            "" if one.std is None else f"{one.std:.3f}",
            "" if one.interval is None else "{:.2f} to {:.2f}".format(*one.interval),
            f"{shape.height:.2f}",
            "" if shape.tilt is None else f"{shape.tilt:.0f}",
            _bonds(shape.bonds),
            str(len(one.placements)),
        ]
        if judged:
            seen = judged.get(rank, {})
            energy, std = seen.get("judge_energy"), seen.get("judge_std")
            said = "" if energy is None else number_with_bar(energy, std, 3)
            row.append(said + ", unknown to it" * bool(seen.get("judge_unknown")))
        rows.append(row)
    columns = ["", "site", "E_ads (eV)", "± (eV)", "90 % interval", "height (Å)", "tilt (°)"]
    columns += ["bonds (Å)", "times found"] + ["judge (eV)"] * bool(judged)
    print_table(
        f"{result.system} with {result.settings['model']}: {result.reaction}", columns, rows
    )

    if result.rejected:
        say()
        print_table(
            "Rejected",
            ("reason", "placements", "put at", "E_ads (eV)", "more"),
            _rejected(result.rejected),
        )
    counts = result.counts
    say()
    say(
        f"{counts['placements']} placements, {counts['distinct']} distinct, {counts['minima']} "
        f"minima, {counts['rejected']} placements rejected; {counts['steps']} steps."
    )
    say(result.error_bar)
    folders = {str(Path(path).parent) for path in report.get("dft", ())}
    for path in (report["output"], report["html"], *folders):
        if path is not None:
            say(f"Written: {path}")


def _bonds(bonds: Sequence[tuple[Any, str, float]]) -> str:
    """Lengths of each pair of elements, which is named once: a line of 80 columns holds them."""
    lengths: dict[str, list[str]] = {}
    for _, pair, length in bonds:
        lengths.setdefault(pair, []).append(f"{length:.2f}")
    return "; ".join(f"{pair} {', '.join(own)}" for pair, own in lengths.items())


def _rejected(rejected: Sequence[Any]) -> list[list[str]]:
    return [
        [
            one.reason,
            str(len(one.placements)),
            one.start,
            "" if one.energy is None else f"{one.energy:.3f}",
            one.detail,
        ]
        for one in rejected
    ]
