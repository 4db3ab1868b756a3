"""``ase-nnp uncertainty``: fit, calibrate, evaluate and report error bars."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_nnp.cli.commands.model_argument import CorrectionOption, model_from
from ase_nnp.cli.commands.output import (
    JsonOption,
    print_json,
    print_table,
    read_structures,
    say,
    warn,
)
from ase_nnp.cli.commands.targets import check_place
from ase_nnp.errors import ConfigError

if TYPE_CHECKING:
    from ase_nnp.models.potential import Potential

__all__ = ["add_to", "app"]

app = typer.Typer(
    help="Error bars for any model: fit, calibrate, evaluate, report.", no_args_is_help=True
)

#: Structures below which a calibration is warned of.
FEW = 20

ModelArgument = Annotated[Path, typer.Argument(help="The model file.")]
FileArgument = Annotated[Path, typer.Argument(help="The fitted uncertainty, *.uq.")]
DataArgument = Annotated[Path, typer.Argument(help="Labeled structures not used before.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Where to write.")]
CalibratorOption = Annotated[
    str,
    typer.Option(help="nll, abs, crps, corrected, affine, isotonic; leave-kind-out (only `fit`)."),
]
CoverageOption = Annotated[float, typer.Option(help="Of the conformal intervals.")]
UnitOption = Annotated[
    str, typer.Option(help="Intervals hold for a 'value', or for a whole 'structure'.")
]
ShiftedOption = Annotated[
    Path | None, typer.Option(help="Structures of another kind, to tell from the first.")
]
KindsOption = Annotated[
    str | None, typer.Option(help="Key of the structures' info that names their kind.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
DtypeOption = Annotated[str, typer.Option(help="float32 or float64.")]


#: Of errors, widths and sharpness; shares, ranks and squares of z have none.
UNITS = {"energy": "eV", "forces": "eV/Å"}


def add_to(main: typer.Typer) -> None:
    """Add the group of commands."""
    main.add_typer(app, name="uncertainty")


def _load(path: Path, device: str, dtype: str, corrections: list[str] | None) -> Potential:
    return model_from(path, None, device, dtype, corrections)


def _options(pairs: list[str]) -> dict[str, Any]:
    """``heads=16 kind=knn noise={"energy":0.1}`` as keyword arguments."""
    import json

    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"An option is NAME=VALUE, such as heads=16; found '{pair}'.")
        try:
            # Numbers and lists as JSON; what is none stays a word (kind=knn).
            options[name.strip()] = json.loads(text)
        except ValueError:
            options[name.strip()] = text
    return options


@app.command("methods")
def methods(as_json: JsonOption = False) -> None:
    """List the methods that are installed."""
    from ase_nnp.uncertainty.fitting import list_methods

    rows = [(m.name, m.summary, m.cite) for m in list_methods().values()]
    if as_json:
        print_json([dict(zip(("name", "summary", "cite"), row, strict=True)) for row in rows])
        return
    print_table("Uncertainty methods", ("name", "", "reference"), rows)


@app.command("fit")
def fit(
    method: Annotated[str, typer.Argument(help="See `ase-nnp uncertainty methods`.")],
    models: Annotated[list[Path], typer.Argument(help="One model file, or several members.")],
    output: OutputOption,
    train: Annotated[Path | None, typer.Option(help="Training structures.")] = None,
    calibration: Annotated[
        Path | None, typer.Option(help="Labeled structures held back from training.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", help="NAME=VALUE of the method; repeatable.")
    ] = None,
    calibrator: CalibratorOption = "nll",
    coverage: CoverageOption = 0.9,
    unit: UnitOption = "value",
    seed: Annotated[int | None, typer.Option(help="Of methods that draw.")] = None,
    correction: CorrectionOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Fit a method to a model and write one file that loads beside it."""
    from ase_nnp.uncertainty.files import save_uncertainty
    from ase_nnp.uncertainty.fitting import fit as fit_method

    check_place(output, "fitted.uq")
    options = _options(option or [])
    if seed is not None:
        options["seed"] = seed
    members = [_load(path, device, dtype, correction) for path in models]
    fitted = fit_method(
        method,
        members,
        train=None if train is None else list(read_structures(train)),
        calibration=None if calibration is None else list(read_structures(calibration)),
        calibrator=calibrator,
        coverage=coverage,
        unit=unit,
        **options,
    )
    save_uncertainty(fitted, output, models=[str(p.name) for p in models])
    _tell(fitted, output, as_json)


@app.command("calibrate")
def calibrate(
    model: ModelArgument,
    uncertainty: FileArgument,
    data: DataArgument,
    output: OutputOption,
    calibrator: CalibratorOption = "nll",
    coverage: CoverageOption = 0.9,
    unit: UnitOption = "value",
    correction: CorrectionOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Calibrate a fitted uncertainty anew on other structures."""
    from ase_nnp.uncertainty.files import load_uncertainty, save_uncertainty, uncertainty_info
    from ase_nnp.uncertainty.fitting import calibrate as calibrate_method

    check_place(output, "calibrated.uq")
    fitted = load_uncertainty(uncertainty, _load(model, device, dtype, correction))
    structures = list(read_structures(data))
    progress = False if as_json else None
    calibrate_method(
        fitted, structures, calibrator=calibrator, coverage=coverage, unit=unit, progress=progress
    )
    save_uncertainty(fitted, output, **uncertainty_info(uncertainty)["notes"])
    _tell(fitted, output, as_json)


def _warn_of_few(fitted: Any) -> None:
    known = fitted.calibration
    # Methods that are calibrated by kinds say this themselves.
    if not known.properties or known.structures >= FEW:
        return
    endless = [name for name, p in known.properties.items() if not math.isfinite(p.quantile)]
    without = f"; intervals of {' and '.join(endless)} have no end" if endless else ""
    warn(
        f"{known.structures} structures calibrate these error bars{without}. "
        f"Give {FEW} or more, better a hundred."
    )


def _tell(fitted: Any, output: Path, as_json: bool) -> None:
    _warn_of_few(fitted)
    facts = {"file": str(output), **fitted.uq}
    for name, p in fitted.calibration.properties.items():
        facts[f"{name}: {p.kind}"] = ", ".join(f"{v:.4g}" for v in p.numbers[:2])
    if as_json:
        print_json({**fitted.uq, "file": str(output), "calibration": fitted.calibration.to_json()})
        return
    kinds = facts.pop("left_out", None)
    rows = [(name, _words(value)) for name, value in facts.items() if value not in (None, "", [])]
    print_table("Fitted uncertainty", ("", ""), rows)
    if kinds:
        heads = list(next(iter(kinds.values())))
        cells = [[kind, *(_cell(row.get(h, "")) for h in heads)] for kind, row in kinds.items()]
        print_table("Each kind, left out", ("kind", *heads), cells)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_cell(v)}" for k, v in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else _cell(value)


def _evaluate(
    model: Path,
    uncertainty: Path,
    data: Path,
    shifted: Path | None,
    kinds: str | None,
    *settings: Any,
) -> Any:
    from ase_nnp.uncertainty.evaluation import evaluate as evaluate_model
    from ase_nnp.uncertainty.fitting import attach

    correction, device, dtype, progress = settings
    # Bars fitted without a term stay beneath it.
    fitted = attach(_load(model, device, dtype, correction), uncertainty)
    other = None if shifted is None else list(read_structures(shifted))
    structures = list(read_structures(data))
    return evaluate_model(fitted, structures, other, kinds=kinds, progress=progress)


@app.command("evaluate")
def evaluate(
    model: ModelArgument,
    uncertainty: FileArgument,
    data: DataArgument,
    shifted: ShiftedOption = None,
    kinds: KindsOption = None,
    correction: CorrectionOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Measure how good the error bars are."""
    progress = False if as_json else None
    evaluation = _evaluate(
        model, uncertainty, data, shifted, kinds, correction, device, dtype, progress
    )
    if as_json:
        print_json(evaluation.to_json())
        return

    names = sorted({k for m in evaluation.measures.values() for k in m} - {"by_kind"})
    rows = [[n, *(_cell(m.get(n, "")) for m in evaluation.measures.values())] for n in names]
    heads = [f"{name}, {UNITS[name]}" for name in evaluation.measures]
    if evaluation.ood_auroc is not None:
        rows.append([f"OOD AUROC ({evaluation.score_name})", f"{evaluation.ood_auroc:.4f}"])

    print_table(f"{evaluation.structures} structures", ("", *heads), rows)
    for name, measures in evaluation.measures.items():
        table = measures["by_kind"]
        columns = list(next(iter(table.values())))
        cells = [[kind, *(_cell(row[h]) for h in columns)] for kind, row in table.items()]
        print_table(f"{name} by kind, {UNITS[name]}", ("kind", *columns), cells)
    say("\n".join(evaluation.notes))


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v:.3f}" for k, v in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@app.command("report")
def report(
    model: ModelArgument,
    uncertainty: FileArgument,
    data: DataArgument,
    output: OutputOption,
    shifted: ShiftedOption = None,
    kinds: KindsOption = None,
    title: Annotated[str, typer.Option(help="Of the page.")] = "Uncertainty report",
    correction: CorrectionOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "float32",
    as_json: JsonOption = False,
) -> None:
    """Write one HTML page with figures into a folder."""
    from ase_nnp.uncertainty.report import write_report

    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file; name a folder for the report.")
    progress = False if as_json else None
    evaluation = _evaluate(
        model, uncertainty, data, shifted, kinds, correction, device, dtype, progress
    )
    page = write_report(evaluation, output, title)
    if as_json:
        print_json({"page": str(page), **evaluation.to_json()})
        return
    say(page)
