"""A model in an environment of its own as a Potential: predictions, calculators, pools."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ase_nnp.errors import ConfigError, WorkerError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import Potential
from ase_nnp.models.remote.client import Job, Worker, job_for, worker_for
from ase_nnp.models.remote.environments import find_environment, list_environments

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["RemotePotential", "remote"]

READABLE = ("charge", "spin", "tags")
#: Taken without being asked for: many calculators declare more than they return.
USUAL = ("energy", "forces", "stress")


class RemotePotential(Potential):
    """A model that a worker process answers for; see :func:`remote`.

    It has no parameters here: it cannot be trained or differentiated, its numbers are the worker's
    in float64, and ``to()`` moves only the results. Copies and pickles start or share a worker of
    their own process.
    """

    cutoff = 0.0

    def __init__(
        self,
        job: Job,
        *,
        energy_kind: str = "total",
        energy_reference: str = "",
        conservative: bool = True,
        elements: Collection[int] | None = None,
        required_inputs: Sequence[str] = (),
        properties: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        strange = [name for name in required_inputs if name not in READABLE]
        if strange:
            raise ConfigError(
                f"A worker can be told {', '.join(READABLE)}, not {', '.join(strange)}."
            )
        self.job = job
        self.energy_kind, self.energy_reference = energy_kind, energy_reference
        self.conservative, self.required_inputs = conservative, tuple(required_inputs)
        self.elements = None if elements is None else frozenset(elements)

        # Starts the worker: a wrong factory or a missing package is told now and not in the first
        # step.
        offered = self.worker.properties
        missing = [p for p in properties or ("energy",) if p not in offered]
        if missing:
            raise WorkerError(
                f"'{job.factory}' does not give {', '.join(missing)}. Of what can be handed on it "
                f"gives: {', '.join(offered) or 'nothing'}."
            )
        self.outputs = tuple(p for p in properties or USUAL if p in offered)
        self.provenance = {"source": f"{job.factory} in {job.python}"}
        self.config = json.loads(json.dumps(asdict(job)))
        self.eval()

    @property
    def worker(self) -> Worker:
        """The worker of this process, kept alive by this model."""
        worker: Worker | None = self.__dict__.get("_worker")
        if worker is None:
            worker = self.__dict__["_worker"] = worker_for(self.job)
        return worker

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_worker"}

    @property
    def dtype(self) -> torch.dtype:
        """Positions travel in float64; the model computes in what it likes."""
        return torch.float64

    def make_graph(
        self, atoms: Atoms | Sequence[Atoms], device: torch.device | str | None = None
    ) -> AtomGraph:
        """Return the structures as tensors; the worker finds neighbors itself."""
        structures: list[Any] = [atoms] if hasattr(atoms, "get_positions") else list(atoms)
        self.check_elements(structures)
        none = np.zeros((2, 0), int), np.zeros((0, 3), int)
        where = self.device if device is None else device
        return AtomGraph.from_edges(
            structures, *none, dtype=torch.float64, device=where, inputs=self.required_inputs
        )

    def forward(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return everything in :attr:`outputs`."""
        return self.compute(graph, self.outputs)

    def compute(self, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
        """Ask the worker for ``properties``.

        Raises
        ------
        WorkerError
            The worker died, or its model raised.
        """
        arrays = {
            "numbers": graph.atomic_numbers,
            "positions": graph.positions.detach().double(),
            "cell": graph.cell.detach().double(),
            "pbc": graph.pbc,
            "sizes": graph.atoms_per_structure().long(),
        }

        for name in self.required_inputs:
            value = getattr(graph, name)
            if value is not None:
                arrays[name] = value

        wanted = [p for p in self.outputs if p in properties]
        answer = self.worker.ask(
            {"do": "predict", "properties": wanted},
            {k: v.cpu().numpy() for k, v in arrays.items()},
        )
        missing = [p for p in wanted if p not in answer]
        if missing:
            raise WorkerError(f"The worker did not answer for {', '.join(missing)}.")

        return {k: torch.tensor(answer[k], device=graph.positions.device) for k in wanted}

    def close(self) -> None:
        """End the worker; the next call starts another."""
        self.worker.close()


def remote(
    environment: str | Path,
    calculator: str = "",
    arguments: Mapping[str, Any] | None = None,
    *,
    path: Sequence[str | Path] = (),
    energy_kind: str = "",
    energy_reference: str = "",
    conservative: bool | None = None,
    elements: Collection[int] | None = None,
    required_inputs: Sequence[str] = (),
    properties: Sequence[str] | None = None,
) -> RemotePotential:
    """Return a model of another environment as a potential, and start its worker.

    Parameters
    ----------
    environment
        Name of an environment made by ``ase-nnp env create``; or the folder of a virtual
        environment, or its interpreter. It needs ASE and numpy, not this package.
    calculator
        ``"module:factory"`` there: makes an ASE calculator, or an object with ``predict(structures,
        properties) -> list of dict``. By default what the environment was created for.
    arguments
        Keyword arguments of the factory, as JSON values.
    path
        Folders from which the worker may import too.
    energy_kind, energy_reference, conservative, elements, required_inputs
        What the model is, as in :class:`~ase_nnp.Potential`; by default total energies with
        conservative forces for any element, or what the environment says.
    properties
        What to hand on; by default energy, forces and stress, as far as the calculator has them.
        Also ``energies``, ``magmoms``, ``charges`` and ``dipole``.

    Raises
    ------
    ConfigError
        No such environment, or no calculator is known for it.
    WorkerError
        The worker or its model cannot be started.
    """
    names = [known.name for known in list_environments()]

    # A name of an environment comes first, also where a folder of that name lies about.
    place = "/" in str(environment) or Path(environment).exists()
    if str(environment) not in names and place:
        python: Path = Path(environment)
    else:
        known = find_environment(str(environment))
        python = known.python
        calculator = calculator or known.calculator
        arguments = known.arguments if arguments is None else arguments
        energy_kind = energy_kind or known.energy_kind
        conservative = known.conservative if conservative is None else conservative
    if ":" not in calculator:
        raise ConfigError(
            f"Say which calculator the environment '{environment}' is to run, as module:factory"
            f"{f', not {calculator!r}' if calculator else ''}."
        )
    return RemotePotential(
        job_for(python, calculator, arguments or {}, path),
        energy_kind=energy_kind or "total",
        energy_reference=energy_reference,
        conservative=True if conservative is None else conservative,
        elements=elements,
        required_inputs=required_inputs,
        properties=properties,
    )
