"""``ase-nnp bench``: how fast a model is on this machine, beside others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ase_nnp.cli.commands.model_argument import model_name
from ase_nnp.cli.commands.output import plain, print_json, print_table, read_structures, say
from ase_nnp.cli.commands.shared_options import ModelOptions, takes
from ase_nnp.errors import AseNnpError, ConfigError

if TYPE_CHECKING:
    from ase_nnp.models.potential import Potential
    from ase_nnp.workflows.bench import Bench

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench")(bench)


@takes(ModelOptions)
def bench(
    options: ModelOptions,
    model: Annotated[
        str, typer.Argument(help="A model, as everywhere; the default model without it.")
    ] = "",
    compare_with: Annotated[
        str, typer.Option(help="Others, comma-separated, or `installed` for every family.")
    ] = "",
    structures: Annotated[
        Path | None, typer.Option(help="Measure these structures instead of slabs.")
    ] = None,
    sizes: Annotated[str, typer.Option(help="Atoms of single structures.")] = "8,32,72,128,288,512",
    batches: Annotated[
        str, typer.Option(help="Structures of batches (32 atoms each).")
    ] = "1,2,4,8,16,32",
    seconds: Annotated[float, typer.Option(help="At least so long for each point.")] = 1.0,
    precision: Annotated[
        str | None, typer.Option(help="tf32 or bf16: measure this, and its error.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw into this file (.png).")] = None,
    random_weights: Annotated[
        bool,
        typer.Option(
            "--random-weights", help="Measure families with fresh weights, not trained ones."
        ),
    ] = False,
) -> None:
    """Measure speed against size and batch, neighbor list, copies and memory.

    A family that ships no weights is measured with --random-weights, at the size of its defaults.
    """
    from rich.console import Console
    from rich.text import Text

    if plot is not None:
        from ase_nnp.workflows.picture import check_picture

        check_picture(plot)
    numbers = _numbers("sizes", sizes), _numbers("batches", batches)
    given = None if structures is None else list(read_structures(structures))
    names = [model, *_others(model, compare_with)]
    from ase_nnp.workflows.bench import bench as measure

    results: list[Bench] = []
    refused: dict[str, str] = {}
    errors: dict[str, Any] = {}
    with Console(stderr=True).status("", spinner="dots") as shown:
        # Text, or a name such as "a[/b].nnp" would be read as markup.
        progress = None if options.as_json else lambda text: shown.update(Text(plain(text)))
        for name in names:
            try:
                # A checkpoint belongs to the model that is named first.
                own = options if name == model else replace(options, checkpoint=None)
                potential = _model(name, own, random_weights)
                label = name or f"default ({model_name(potential)})"
                label = f"{label}, random weights" if random_weights else label
                made = measure(
                    f"{label}, with error bars" if "energy_std" in potential.outputs else label,
                    potential,
                    sizes=numbers[0],
                    batches=numbers[1],
                    structures=given,
                    seconds=seconds,
                    precision=precision,
                    progress=progress,
                )
                if precision is not None:
                    errors[label] = _errors(potential, given, precision)
            except AseNnpError as error:
                if name == model:
                    raise
                refused[name] = str(error)
                continue
            results.append(made)
    if plot is not None:
        from ase_nnp.workflows.bench import draw
        from ase_nnp.workflows.picture import save_figure

        save_figure(draw(results), plot)
    if options.as_json:
        report: dict[str, Any] = {"models": [r.as_dict() for r in results], "refused": refused}
        print_json({**report, "precision_errors": errors} if precision else report)
        return
    for result in results:
        _print(result)
    for name, deviations in errors.items():
        rows = [
            (k, *(f"{v[c]:.3g}" for c in ("rms", "max", "spread"))) for k, v in deviations.items()
        ]
        print_table(f"{name}: {precision} against full", ("", "rms", "largest", "spread"), rows)
    for name, why in refused.items():
        say(f"{name} left out: {' '.join(why.split())}")


def _numbers(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--{name} {text}: whole numbers with commas, such as 8,32.") from None


def _others(model: str, compare_with: str) -> list[str]:
    if compare_with == "installed":
        from ase_nnp.registry.installed import installed

        return [name for name in sorted(installed().families) if name != model]
    return [part.strip() for part in compare_with.split(",") if part.strip()]


def _model(name: str, options: ModelOptions, random_weights: bool) -> Potential:
    from ase_nnp.models.corrections import add_corrections
    from ase_nnp.models.files import build_model
    from ase_nnp.registry.installed import installed

    if random_weights and not name:
        raise ConfigError("--random-weights needs a family's name: bench FAMILY.")
    if random_weights and options.checkpoint is None:
        fresh = build_model(name, seed=0, device=options.device, dtype=options.dtype).freeze()
        return add_corrections(fresh, options.correction or ())
    family = installed().families.get(name)
    try:
        return options.load(name or None)
    except ConfigError as error:
        if family is None or family.pretrained or options.checkpoint is not None:
            raise
        raise ConfigError(
            f"'{name}' ships no weights. Give --checkpoint PATH, or say --random-weights: the "
            "speed of its defaults is the same."
        ) from error


def _errors(model: Potential, given: Any, precision: str) -> dict[str, dict[str, float]]:
    from ase_nnp.models.precision import precision_error
    from ase_nnp.workflows.bench import slab

    return precision_error(model, given or [slab(model, n) for n in (8, 32, 72)], precision)


def _print(result: Bench) -> None:
    settings = result.settings
    title = (
        f"{result.name}: {settings['parameters']:,} parameters, {settings['dtype']}, "
        f"{settings['device']}, {settings['threads']} threads"
    )

    # CUDA events or the processor's clock: wall time alone depends on what else runs.
    clock = f"{settings['clock']} ms"
    heads = ("atoms", "edges", clock, "wall ms", "neighbors", "copies", "a second", "MB")
    rows = [
        (
            f"{p.structures} x {p.atoms // p.structures}" if p.structures > 1 else str(p.atoms),
            f"{p.edges:,}",
            f"{p.ms:.2f}",
            f"{p.wall_ms:.2f}",
            f"{100 * p.graph_ms / p.ms:.1f} %",
            f"{100 * p.transfer_ms / p.ms:.1f} %",
            f"{p.structures_per_second:.1f}",
            f"{p.memory_mb:.0f}",
        )
        for p in [*result.sizes, *result.batches]
    ]

    print_table(title, heads, rows)
