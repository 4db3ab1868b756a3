"""``ase-nnp screen``: relax, predict or adsorb a whole dataset with many processes."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ase_nnp.cli.commands.cautions import warn_of_unknown
from ase_nnp.cli.commands.model_argument import CorrectionOption
from ase_nnp.cli.commands.output import JsonOption, print_json, print_table, read_structures, say
from ase_nnp.errors import ConfigError

if TYPE_CHECKING:
    from ase_nnp.workflows.adsorption import AdsorptionTable

__all__ = ["add_to"]

FolderArgument = Annotated[Path, typer.Argument(help="The folder of the run.")]


class _Group(TyperGroup):
    """``screen INPUT OUTPUT`` means ``screen run INPUT OUTPUT``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in, where the first word is no command."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


screen = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    help="Relax, predict or adsorb a whole dataset with many processes: `screen INPUT FOLDER`.",
)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(screen, name="screen")


@screen.command("run")
def run(
    structures: Annotated[Path, typer.Argument(help="Any dataset, or file that ASE reads.")],
    folder: FolderArgument,
    model: Annotated[
        str | None,
        typer.Option(help="A model file, family or pretrained model; the default model without."),
    ] = None,
    task: Annotated[str, typer.Option(help="relax, predict or adsorb.")] = "relax",
    adsorbates: Annotated[
        str | None,
        typer.Option(help="To adsorb: names, CO,O,OH; each on every surface. CO+OH: together."),
    ] = None,
    miller: Annotated[
        list[str] | None,
        typer.Option(help="To adsorb on crystals: the plane, 111; more than once for several."),
    ] = None,
    placements: Annotated[int, typer.Option(help="To adsorb: half on sites, half random.")] = 24,
    seed: Annotated[int, typer.Option(help="Of the placements.")] = 0,
    workers: Annotated[
        int | None, typer.Option(help="Processes of this machine; one for each core.")
    ] = None,
    chunk: Annotated[
        int | None, typer.Option(help="Structures that a process takes at a time.")
    ] = None,
    shard: Annotated[
        str, typer.Option(help="i/n: only the i-th of n parts (0 first), as in a job array.")
    ] = "0/1",
    executor: Annotated[
        Path | None,
        typer.Option(help="A Python file whose function executor() returns one (Dask, Ray, ...)."),
    ] = None,
    fmax: Annotated[float, typer.Option(help="Largest force at the end, eV/Å.")] = 0.05,
    steps: Annotated[int, typer.Option(help="At most so many steps each.")] = 300,
    optimizer: Annotated[str, typer.Option(help="FIRE, BFGS or LBFGS.")] = "FIRE",
    cell: Annotated[bool, typer.Option("--cell", help="Relax the cell too.")] = False,
    checkpoint: Annotated[
        Path | None, typer.Option(help="With a family's name: its checkpoint file.")
    ] = None,
    correction: CorrectionOption = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    as_json: JsonOption = False,
) -> None:
    """Compute what has no result yet: the same command goes on after a kill."""
    from ase_nnp.workflows.screening import screen as compute
    from ase_nnp.workflows.screening import status as state_of
    from ase_nnp.workflows.tasks import ModelTask

    part = _shard(shard)
    job = ModelTask(
        model=model,
        task=task,
        checkpoint=None if checkpoint is None else str(checkpoint),
        device=device,
        dtype=dtype,
        fmax=fmax,
        steps=steps,
        optimizer=optimizer,
        cell=cell,
        corrections=tuple(correction or ()),
        placements=placements,
        seed=seed,
    )
    made = None if executor is None else _executor(executor)
    data = read_structures(structures.resolve())  # processes may work in another folder
    data = _paired(data, task, adsorbates, miller)

    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TimeElapsedColumn(),
    )
    with _notice(), Progress(*columns, console=Console(stderr=True), disable=as_json) as bar:
        shown = bar.add_task(f"{task}, shard {shard}:", total=len(data), failed=0)
        counts = compute(
            job,
            data,
            folder,
            executor=made,
            workers=workers,
            chunk=chunk,
            shard=part,
            progress=lambda done, failed: bar.update(shown, completed=done, failed=failed),
        )

    state = state_of(folder)
    if as_json:
        print_json({**counts, "status": state})
        return
    say(
        f"{counts['computed']} structures computed; {state['finished']} of {state['total']} are "
        f"finished in {folder}, {state['failed']} of them failed"
    )


@screen.command()
def status(folder: FolderArgument, as_json: JsonOption = False) -> None:
    """Say how far a run is."""
    from ase_nnp.workflows.screening import status as state_of

    state = state_of(folder)
    if as_json:
        print_json(state)
        return
    print_table(str(folder), ("", ""), [(k.replace("_", " "), v) for k, v in state.items()])


@screen.command()
def merge(
    folder: FolderArgument,
    output: Annotated[Path, typer.Argument(help="The file to be, such as relaxed.aselmdb.")],
    partial: Annotated[
        bool, typer.Option("--partial", help="Take what is there of an unfinished run.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Write the results to one file, in the order of the input; list what failed."""
    from ase_nnp.workflows.screening import merge as join

    merged = join(folder, output, partial=partial, overwrite=overwrite)
    if as_json:
        print_json(asdict(merged))
        return
    say(f"{merged.written} of {merged.total} structures in {output}; {len(merged.failures)} failed")
    for failure in merged.failures[:20]:
        say(f"  {failure['name']}: {failure['error']}")
    if len(merged.failures) > 20:
        say(f"  ... {len(merged.failures) - 20} more; --json lists all")


@screen.command()
def table(
    folder: FolderArgument,
    scaling: Annotated[
        list[str] | None, typer.Option(help="X,Y: fit the energies of Y as a line of those of X.")
    ] = None,
    volcano: Annotated[
        str | None, typer.Option(help="X or X,E: how far each surface is from binding X by E eV.")
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="The table as a heatmap; the volcano or the (first) line if asked for."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the adsorption energies of a run with --task adsorb: surfaces by adsorbates."""
    from ase_nnp.workflows.adsorption import trends
    from ase_nnp.workflows.screened import results

    energies = trends.adsorption_table(results(folder))
    pairs = [_two_names(text) for text in scaling or ()]
    lines = [energies.scaling(*pair) for pair in pairs]
    if picture is not None:
        if volcano is not None:
            name, _, optimum = volcano.partition(",")
            trends.draw_volcano(energies, name, picture, optimum=_number(optimum or "0"))
        elif pairs:
            trends.draw_scaling(energies, *pairs[0], picture)
        else:
            trends.draw_adsorption_table(energies, picture)

    if as_json:
        print_json({**energies.as_dict(), "scaling": [line.as_dict() for line in lines]})
        return
    said = energies.as_dict()
    rows = [
        [surface, *(_cell(*cell) for cell in zip(*columns, strict=True))]
        for surface, *columns in zip(
            said["surfaces"], said["energies"], said["stds"], said["sites"], strict=True
        )
    ]
    print_table("Most stable adsorption energies (eV)", ("", *energies.adsorbates), rows)
    for text in _unknown(energies):
        warn_of_unknown(True, text, [])
    for text in (*said["reactions"].values(), *(str(line) for line in lines)):
        say(text)


def _unknown(table: AdsorptionTable) -> list[str]:
    """What energies of the table are counted from that the model does not know, in words."""
    found: dict[str, list[str]] = {}
    for surface, row in zip(table.surfaces, table.unknown, strict=True):
        for adsorbate, words in zip(table.adsorbates, row, strict=True):
            if words:
                found.setdefault(words, []).append(f"{adsorbate} on {surface}")
    return [f"what {', '.join(of)} is counted from ({words})" for words, of in found.items()]


def _cell(energy: float | None, std: float | None, site: str) -> str:
    if energy is None:
        return "-"
    return f"{energy:.2f}" + ("" if std is None else f" ± {std:.2f}") + f", {site}"


def _two_names(text: str) -> tuple[str, str]:
    first, comma, second = text.partition(",")
    if not comma or not first or not second:
        raise ConfigError(f"--scaling {text}: two adsorbates, such as C,CH.")
    return first, second


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--volcano: '{text}' is no energy in eV.") from None


def _paired(data: Any, task: str, adsorbates: str | None, miller: list[str] | None) -> Any:
    """The dataset, or its surfaces with every adsorbate."""
    if task != "adsorb":
        if adsorbates is not None or miller is not None:
            raise ConfigError("--adsorbates and --miller go with --task adsorb.")
        return data
    if adsorbates is None:
        raise ConfigError("--task adsorb takes --adsorbates, such as CO,O,OH.")

    from ase_nnp.cli.commands.adsorb import miller_indices
    from ase_nnp.workflows.adsorption.pairs import Pairs

    planes = [miller_indices(text) for text in miller or ["111"]]
    return Pairs(data, [name.strip() for name in adsorbates.split(",")], planes)


def _shard(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if not slash or not part.isdigit() or not parts.isdigit() or int(part) >= int(parts):
        raise ConfigError(f"--shard {text}: write i/n, such as 0/8 to 7/8.")
    return int(part), int(parts)


def _executor(path: Path) -> Any:
    """Return the function ``executor`` of a user's Python file."""
    import runpy

    if not path.is_file():
        raise ConfigError(f"--executor {path}: there is no such file.")
    make = runpy.run_path(str(path)).get("executor")
    if not callable(make):
        raise ConfigError(
            f"--executor {path}: it has no function executor() that returns a "
            "concurrent.futures.Executor."
        )
    return make


@contextmanager
def _notice() -> Iterator[None]:
    """Let a scheduler's notice (SIGTERM) end the work as Ctrl-C does: with checkpoints."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
