"""Any potential as a model for torch-sim (its ``ModelInterface``, version 0.6, Python 3.12).

The interface is met by its attributes alone, so that this module imports no torch-sim::

    import torch_sim as ts
    from ase_nnp.models.torchsim import as_model

    state = ts.optimize(list_of_atoms, as_model(ase_nnp.load_model("my.nnp")), ...)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ase_nnp.errors import ConfigError
from ase_nnp.models.modes import usual_default_dtype
from ase_nnp.models.potential import Potential, model_name

__all__ = ["TorchSimModel", "as_model"]


def as_model(potential: Potential, *, stress: bool | None = None) -> TorchSimModel:
    """Return a model that torch-sim takes.

    Parameters
    ----------
    potential
        Any potential; it stays on its device and in its precision.
    stress
        Whether to compute the stress; by default if the potential has one. Without, relaxations
        and dynamics at constant cell are cheaper.

    Raises
    ------
    ConfigError
        For a potential without energy or forces, or a stress it does not have.
    """
    return TorchSimModel(potential, stress=stress)


class TorchSimModel(nn.Module):
    """A potential behind torch-sim's interface; see :func:`as_model`."""

    #: Batches grow with the number of neighbors, which torch-sim estimates by the density.
    memory_scales_with = "n_atoms_x_density"

    def __init__(self, potential: Potential, *, stress: bool | None = None) -> None:
        super().__init__()
        missing = [p for p in ("energy", "forces") if p not in potential.outputs]
        if missing:
            raise ConfigError(
                f"'{model_name(potential)}' gives no {', '.join(missing)}; "
                "torch-sim needs energy and forces."
            )
        self.potential = potential.eval()
        self.has_stress = "stress" in potential.outputs
        self._stress = False
        self.compute_forces = True
        self.compute_stress = self.has_stress if stress is None else stress

    @property
    def compute_stress(self) -> bool:
        """Whether the stress is computed."""
        return self._stress

    @compute_stress.setter
    def compute_stress(self, value: bool) -> None:
        if value and not self.has_stress:
            # What torch-sim expects of a model that has none.
            raise NotImplementedError("The potential gives no stress.")
        self._stress = bool(value)

    @property
    def device(self) -> torch.device:
        """Where the potential lives."""
        return self.potential.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the potential."""
        return self.potential.dtype

    @usual_default_dtype()
    def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
        """Return ``energy`` (B,) eV, ``forces`` (N, 3) eV/Angstrom and ``stress`` (B, 3, 3).

        ``state`` is torch-sim's SimState; its cells are columns and are turned to rows here.
        """
        wanted = ["energy"]
        wanted += ["forces"] if self.compute_forces else []
        wanted += ["stress"] if self.compute_stress else []
        graph = self.potential.make_graph(_structures(state))
        with torch.no_grad():
            results = self.potential.compute(graph, wanted)

        # torch-sim integrates in the precision of its state, which need not be the model's.
        kind, device = state.positions.dtype, state.positions.device
        return {name: results[name].detach().to(device, kind) for name in wanted}


def _structures(state: Any) -> list[Any]:
    """Return the systems of a state as ase.Atoms."""
    from ase import Atoms

    def host(value: Tensor) -> Any:
        return value.detach().cpu().numpy()

    positions, numbers = host(state.positions.double()), host(state.atomic_numbers)
    cells = host(state.cell.double().transpose(1, 2))
    pbc = host(torch.as_tensor(state.pbc).expand(len(cells), 3))
    owner = host(state.system_idx)
    rows = [owner == k for k in range(len(cells))]
    structures = [
        Atoms(numbers[r], positions[r], cell=cell, pbc=flags)
        for r, cell, flags in zip(rows, cells, pbc, strict=True)
    ]
    for name in ("charge", "spin"):
        values = getattr(state, name, None)
        if values is not None:
            for atoms, value in zip(structures, host(torch.as_tensor(values)), strict=True):
                atoms.info[name] = float(value)
    return structures
