"""``ase-nnp screen``: a whole dataset by as many processes as you can start."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ase_nnp.cli.commands.output import JsonOption, print_json, print_table, read_structures
from ase_nnp.errors import ConfigError

if TYPE_CHECKING:
    from ase_nnp.workflows.tasks import ModelTask

__all__ = ["add_to"]

FolderArgument = Annotated[Path, typer.Argument(help="The folder of the run.")]


class _Group(TyperGroup):
    """``screen INPUT OUTPUT`` means ``screen run INPUT OUTPUT``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in, where the first word is none."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


screen = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    help="Relax or predict a whole dataset with many processes: `screen INPUT OUTPUT --model M`.",
)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(screen, name="screen")


@screen.command("run")
def run(
    structures: Annotated[Path, typer.Argument(help="Any dataset, or file that ASE reads.")],
    folder: FolderArgument,
    model: Annotated[str, typer.Option(help="A model file, or the name of a family.")],
    task: Annotated[str, typer.Option(help="relax or predict.")] = "relax",
    shard: Annotated[
        str, typer.Option(help="i/n: begin with the i-th of n parts (0 first), then help.")
    ] = "0/1",
    block: Annotated[
        int | None, typer.Option(help="Structures claimed together; a kill costs at most these.")
    ] = None,
    lease: Annotated[
        float, typer.Option(help="Seconds of silence after which another worker is dead.")
    ] = 120.0,
    wait: Annotated[
        bool, typer.Option("--wait", help="Stay until the other workers have finished.")
    ] = False,
    fmax: Annotated[float, typer.Option(help="Largest force at the end, eV/Å.")] = 0.05,
    steps: Annotated[int, typer.Option(help="At most so many steps each.")] = 300,
    optimizer: Annotated[str, typer.Option(help="FIRE, BFGS, LBFGS, ...")] = "FIRE",
    cell: Annotated[bool, typer.Option("--cell", help="Relax the cell too.")] = False,
    checkpoint: Annotated[
        Path | None, typer.Option(help="With a family's name: its checkpoint file.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    as_json: JsonOption = False,
) -> None:
    """Be one worker of a run: start it as often as you like, again after a kill too."""
    from ase_nnp.workflows.screening import screen as work
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
    )
    data = read_structures(structures)
    job.load()  # what is wrong with the model is said before anything is claimed
    if block is None and task == "predict":
        block = max(256, -(-len(data) // 100_000))
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        TextColumn("here, {task.fields[failed]} failed"),
        TimeElapsedColumn(),
    )
    with _notice(), Progress(*columns, console=Console(stderr=True), disable=as_json) as bar:
        shown = bar.add_task(f"{task}, shard {shard}:", total=len(data), failed=0)
        counts = work(
            job,
            data,
            folder,
            shard=part,
            block=block,
            about=_about(job),
            lease=lease,
            wait=wait,
            progress=lambda done, failed: bar.update(shown, completed=done, failed=failed),
        )
    from ase_nnp.workflows.ledger import Ledger

    state = Ledger(folder).status(lease)
    if as_json:
        print_json({**counts, "status": state})
        return
    print(
        f"{counts['done']} structures here, {counts['failed']} of them failed; "
        f"{state['finished']} of {state['total']} finished in {folder}"
    )


@screen.command()
def status(
    folder: FolderArgument,
    lease: Annotated[float, typer.Option(help="As the workers have it.")] = 120.0,
    as_json: JsonOption = False,
) -> None:
    """Say how far a run is, and who is at work."""
    from ase_nnp.workflows.ledger import Ledger

    found = Ledger(folder).status(lease)
    if as_json:
        print_json(found)
        return
    print_table(str(folder), ("", ""), [(k.replace("_", " "), v) for k, v in found.items()])


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

    found = join(folder, output, partial=partial, overwrite=overwrite)
    if as_json:
        print_json(asdict(found))
        return
    print(f"{found.written} of {found.total} structures in {output}; {len(found.failures)} failed")
    for failure in found.failures[:20]:
        print(f"  {failure['name']}: {failure['error']}")
    if len(found.failures) > 20:
        print(f"  ... {len(found.failures) - 20} more; --json lists all")


def _shard(text: str) -> tuple[int, int]:
    part, slash, parts = text.partition("/")
    if not slash or not part.isdigit() or not parts.isdigit() or int(part) >= int(parts):
        raise ConfigError(f"--shard {text}: write i/n, such as 0/8 to 7/8.")
    return int(part), int(parts)


def _about(job: ModelTask) -> dict[str, Any]:
    """Return what all workers must agree on: the task, and the model by its content."""
    from ase_nnp.models.files import model_hash

    settings = asdict(job)
    for name in ("device", "checkpoint", "model"):
        settings.pop(name)
    return {**settings, "model_hash": model_hash(job.load())}


@contextmanager
def _notice() -> Iterator[None]:
    """Let a scheduler's notice (SIGTERM) end the work as Ctrl-C does: claims are given back."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
