"""How fast a model is here: against size and batch, with what goes into neighbors and copies."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ase_nnp.errors import ConfigError
from ase_nnp.files.pictures import new_figure
from ase_nnp.models.potential import Potential
from ase_nnp.models.predictor import Predictor

if TYPE_CHECKING:
    from ase import Atoms
    from matplotlib.figure import Figure

__all__ = ["Bench", "Point", "bench", "draw", "slab"]

#: Atoms of the structures, and structures of the batches.
SIZES = (8, 32, 72, 128, 288, 512)
BATCHES = (1, 2, 4, 8, 16, 32)
#: Atoms of each structure of a batch.
BATCH_ATOMS = 32
#: A larger structure is not tried once one call takes longer than this, in seconds.
PATIENCE = 20.0
_HUGE = 2**30


@dataclass(frozen=True)
class Point:
    """One measurement; times in milliseconds a call (medians), memory in MB (10^6 bytes).

    ``ms`` and its parts ``graph_ms`` and ``transfer_ms`` are CPU time where the model is on a CPU,
    so that other work on the machine disturbs little, and wall time elsewhere.
    """

    atoms: int
    structures: int
    edges: int
    ms: float
    wall_ms: float
    graph_ms: float
    transfer_ms: float
    memory_mb: float

    @property
    def structures_per_second(self) -> float:
        """Structures a second, from ``ms``."""
        return 1e3 * self.structures / self.ms


@dataclass
class Bench:
    """What was measured of one model; ``sizes`` one structure a call, ``batches`` several."""

    name: str
    settings: dict[str, Any]
    sizes: list[Point] = field(default_factory=list)
    batches: list[Point] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as for ``--json``."""
        return asdict(self)


def slab(model: Potential, atoms: int) -> Atoms:
    """Return an fcc(111) slab of about so many atoms, of an element that the model knows.

    Copper where it may be; otherwise the heaviest element there is, at the spacing of its covalent
    radius.
    """
    from ase.build import fcc111
    from ase.data import atomic_numbers, chemical_symbols, covalent_radii

    copper = atomic_numbers["Cu"]
    known = model.elements
    number = copper if known is None or copper in known else max(known)
    lattice = 3.61 if number == copper else 2 * 2**0.5 * float(covalent_radii[number])
    layers = 2 if atoms <= 8 else 4 if atoms <= 200 else 8
    side = max(1, round((atoms / layers) ** 0.5))
    made: Atoms = fcc111(chemical_symbols[number], (side, side, layers), a=lattice, vacuum=8.0)
    made.pbc = True
    made.rattle(0.02, seed=0)
    return made


def bench(
    name: str,
    model: Potential,
    *,
    sizes: Sequence[int] = SIZES,
    batches: Sequence[int] = BATCHES,
    structures: Sequence[Atoms] | None = None,
    seconds: float = 1.0,
    precision: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> Bench:
    """Measure one model.

    Parameters
    ----------
    name
        What to call it.
    model
        Where it is, in the precision it has.
    sizes, batches
        Atoms of single structures; structures of batches, of 32 atoms each.
    structures
        Measure these, one at a time and all in one batch, instead of slabs.
    seconds
        At least so long for each point, and at least three calls.
    precision
        As in :class:`ase_nnp.Predictor`.
    progress
        Called with a word on each point before it is measured.

    Raises
    ------
    ConfigError
        Sizes or batches below 1.
    """
    if min([*sizes, *batches, 1]) < 1:
        raise ConfigError(f"Sizes {list(sizes)} and batches {list(batches)}; all must be above 0.")

    device = model.device
    settings = {
        "clock": "CPU" if device.type == "cpu" else "wall",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "precision": precision or "full",
        "parameters": sum(p.numel() for p in model.parameters()),
        "cutoff": model.cutoff,
        "torch": torch.__version__,
    }
    result = Bench(name, settings)

    singles = [slab(model, n) for n in sizes] if structures is None else list(structures)
    for one in singles:
        if progress is not None:
            progress(f"{name}: {len(one)} atoms")
        result.sizes.append(_point(model, [one], seconds, precision))
        if result.sizes[-1].wall_ms > 1e3 * PATIENCE:
            break

    member = slab(model, BATCH_ATOMS)
    groups = [[member] * n for n in batches] if structures is None else [list(structures)]
    for group in groups:
        if progress is not None:
            progress(f"{name}: batch of {len(group)}")
        result.batches.append(_point(model, group, seconds, precision))
        if result.batches[-1].wall_ms > 1e3 * PATIENCE:
            break
    return result


def _point(
    model: Potential, group: Sequence[Atoms], seconds: float, precision: str | None
) -> Point:
    predictor = Predictor(model, max_edges=_HUGE, max_atoms=_HUGE, precision=precision)
    graph = model.make_graph(group)
    predictor(group, progress=False)  # warm

    watch = _Watch(model.device)
    ms, wall = _median(lambda: predictor(group, progress=False), seconds, model.device)
    memory = watch.peak_mb()
    made, _ = _median(lambda: model.make_graph(group), seconds / 4, model.device)
    copied = 0.0
    if model.device.type != "cpu":
        here = graph.to("cpu").replace(edge_index=graph.edge_index[:, :0].cpu())
        here = here.replace(edge_shift=graph.edge_shift[:0].cpu())  # edges are made over there
        copied, _ = _median(lambda: here.to(model.device), seconds / 4, model.device)
    return Point(
        atoms=graph.num_atoms,
        structures=len(group),
        edges=graph.num_edges,
        ms=ms,
        wall_ms=wall,
        graph_ms=max(0.0, made - copied),
        transfer_ms=copied,
        memory_mb=memory,
    )


def _median(
    call: Callable[[], object], seconds: float, device: torch.device
) -> tuple[float, float]:
    """Median milliseconds of a call, by the clock of the device and by that on the wall."""
    walls: list[float] = []
    cpus: list[float] = []
    begin = time.perf_counter()
    while len(walls) < 3 or time.perf_counter() - begin < seconds:
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        walls.append(1e3 * (time.perf_counter() - wall))
        cpus.append(1e3 * (time.process_time() - cpu))
        if time.perf_counter() - begin > 2 * PATIENCE:
            break
    wall = statistics.median(walls)
    return (statistics.median(cpus) if device.type == "cpu" else wall), wall


class _Watch:
    """The most memory held since this was made: on CUDA by torch, else of the whole process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        with suppress(OSError):  # Linux: begin the high-water mark anew
            Path("/proc/self/clear_refs").write_text("5")

    def peak_mb(self) -> float:
        """Return it in MB; 0 where the system does not say."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 1e6
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            return 0.0
        peaks = [line.split()[1] for line in lines if line.startswith("VmHWM")]
        return int(peaks[0]) * 1024 / 1e6 if peaks else 0.0


def draw(results: Sequence[Bench]) -> Figure:
    """Draw time against size, structures a second against batch, shares and memory.

    Returns
    -------
    matplotlib.figure.Figure
        Drawn without a display; ``figure.savefig(path)`` writes it.
    """
    figure = new_figure(11, 7.5)
    axes: Any = figure.subplots(2, 2)
    (time_of_size, speed), (shares, memory) = axes

    for result in results:
        atoms = [p.atoms for p in result.sizes]
        line = time_of_size.plot(atoms, [p.ms for p in result.sizes], "o-", label=result.name)
        color = line[0].get_color()
        speed.plot(
            [p.structures for p in result.batches],
            [p.structures_per_second for p in result.batches],
            "o-",
            color=color,
        )
        memory.plot(atoms, [p.memory_mb for p in result.sizes], "o-", color=color)

        for kind, part in (("-", "graph_ms"), (":", "transfer_ms")):
            percent = [100 * getattr(p, part) / p.ms for p in result.sizes]
            if any(percent):
                shares.plot(atoms, percent, "o" + kind, color=color)

    where, clock = (results[0].settings[k] for k in ("device", "clock")) if results else ("", "")
    for axis, title, across, up in (
        (time_of_size, f"One structure, {where}", "atoms", f"ms a call, {clock} time"),
        (speed, "Batches", "structures in a batch", "structures a second"),
        (shares, "Share of neighbor list (line) and copies (dots)", "atoms", "% of a call"),
        (memory, "Memory of the process or device", "atoms", "peak, MB"),
    ):
        axis.set(title=title, xlabel=across, ylabel=up, xscale="log")
        axis.grid(visible=True, which="major", color="#dddddd", linewidth=0.8)

    for axis in (time_of_size, speed):
        axis.set_yscale("log")
    _ticks(speed, [p for r in results for p in r.batches], batches=True)
    for axis in (time_of_size, shares, memory):
        _ticks(axis, [p for r in results for p in r.sizes], batches=False)
    shares.set_ylim(bottom=0)
    memory.set_ylim(bottom=0)
    time_of_size.legend(frameon=False)
    return figure


def _ticks(axis: Any, points: Sequence[Point], *, batches: bool) -> None:
    """Label the numbers that were measured, where they are not too close, as plain numbers."""
    from matplotlib.ticker import NullLocator

    chosen: list[int] = []
    for number in sorted({p.structures if batches else p.atoms for p in points}):
        if not chosen or number >= 1.5 * chosen[-1]:
            chosen.append(number)
    axis.set_xticks(chosen, [str(number) for number in chosen])
    axis.xaxis.set_minor_locator(NullLocator())
