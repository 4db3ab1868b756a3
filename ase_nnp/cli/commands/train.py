"""``ase-nnp train``: a run file to a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ase_nnp.cli.commands.output import JsonOption, note, print_json, say
from ase_nnp.errors import ConfigError

__all__ = ["add_to"]

#: Keys of the run file are options too, so words that typer does not know are kept.
_CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True}


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train", context_settings=_CONTEXT)(train)


def train(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(help="The run file, YAML or TOML.")],
    check: Annotated[
        bool, typer.Option("--check", help="Print the resolved run and stop there.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train, fine-tune or go on with a model; any key of the run file is an option too.

    For instance: ase-nnp train run.yaml --optimizer.lr 1e-3 --epochs 50 --output run2
    """
    try:
        from ase_nnp.training.runfile import parse_options, read_run_file
    except ImportError as error:
        raise ConfigError(str(error)) from error
    run_file = read_run_file(config, parse_options(context.args))
    if check:
        print_json(run_file.model_dump(mode="json"))
        return
    _keep_run_file(config, Path(run_file.output))
    from ase_nnp.training.running import run

    if as_json:
        run_file = run_file.model_copy(update={"progress": False})
    try:
        result = run(run_file)
    except KeyboardInterrupt:
        if (Path(run_file.output) / "last.ckpt").exists():
            note(f"stopped; the same command goes on in {run_file.output}")
        raise
    report = {
        "model": str(result.folder / "model.nnp"),
        "epochs": len(result.history),
        "best_epoch": result.best_epoch,
        "stopped": result.stopped or "all epochs done",
        "last": result.history[-1] if result.history else None,
        "without_gradient": result.without_gradient,
    }
    if run_file.data.test is not None:
        report["test"] = _test(result.folder, run_file.data.test, as_json)
    if as_json:
        print_json({**report, "data": result.report.as_dict()})
        return
    ending = f" ({result.stopped})" if result.stopped else ""
    if result.untouched and not result.best_epoch and result.history:
        ending += "; no epoch was better than the model it started from, which is what lies there"
    say(f"{report['model']}: epoch {result.best_epoch} of {len(result.history)}{ending}")


def _keep_run_file(config: Path, folder: Path) -> None:
    """Refuse a folder in which the resolved run would replace the file that the user wrote."""
    ours = folder / "run.yaml"
    # run.json is there where a run wrote both: its run.yaml names the folder to go on in.
    if ours.exists() and ours.samefile(config) and not (folder / "run.json").exists():
        raise ConfigError(
            f"output: {folder} is the folder of {config}, which would be replaced by the resolved "
            "run. Name another folder."
        )


def _test(folder: Path, data: str, as_json: bool) -> dict[str, float]:
    from ase_nnp.cli.commands.evaluate import show
    from ase_nnp.training.evaluation import evaluate

    evaluation = evaluate([folder / "model.nnp"], data, progress=False if as_json else None)
    if not as_json:
        show(evaluation)
    return dict(evaluation.models[0].metrics)
