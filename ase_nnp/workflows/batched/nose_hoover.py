"""Constant temperature and pressure by Nose-Hoover chains, in the steps of ASE's integrators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.models.segments import Segments
from ase_nnp.workflows.batched.chains import Chain
from ase_nnp.workflows.batched.dynamics import Dynamics
from ase_nnp.workflows.batched.evaluate import BatchResults
from ase_nnp.workflows.batched.state import Array, Batch, free_components, joined

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["NPT", "NVT"]


class NVT(Dynamics):
    """Nose-Hoover chains (Martyna, Klein & Tuckerman 1992, doi:10.1063/1.463940).

    ``tdamp`` is the time of the thermostat in ASE's units.
    """

    name = "nvt"

    def __init__(self, timestep: float, temperature_K: Any, tdamp: float, seed: int = 0) -> None:
        super().__init__(timestep, temperature_K, seed)
        if not tdamp > 0 or (self.temperature_K <= 0).any():
            raise ConfigError(
                f"tdamp = {tdamp}, temperature_K = {temperature_K}: both must be positive."
            )
        self.tdamp = float(tdamp)
        self.chain = Chain()
        self._segments = Segments([])

    def settings(self) -> dict[str, Any]:
        """Return the time of the thermostat too."""
        return {**super().settings(), "tdamp": self.tdamp}

    def add(self, new: Batch) -> None:
        """Append structures with thermostats at rest."""
        super().add(new)
        self.chain.add(self.kT(new), self.freedom(new), self.tdamp)
        self._segments = self._segments.join(new.segments)

    def keep(self, mask: Array) -> None:
        """Forget structures."""
        self.chain = self.chain.keep(self._segments.places(mask))
        self._segments = self._segments.keep(mask)

    def state(self) -> dict[str, Any]:
        """Return the thermostats."""
        return {f"chain_{k}": v for k, v in self.chain.state().items()}

    def restore(self, tensors: Mapping[str, Tensor], batch: Batch) -> None:
        """Take a state back."""
        self.chain.restore(_part("chain_", tensors))
        self._segments = batch.segments

    def _absorb(self, twin: Dynamics, places: Tensor) -> None:
        assert isinstance(twin, NVT)
        self.chain.put(places, twin.chain)

    def _thermostat(self, batch: Batch) -> None:
        scale = self.chain.push(self.kinetic(batch), self.dt / 2)
        batch.momenta = batch.momenta * batch.segments.spread(scale)[:, None]

    def take_step(self, batch: Batch, results: BatchResults) -> None:
        """Thermostat, kick, drift."""
        self._thermostat(batch)
        super().take_step(batch, results)

    def _finish(self, batch: Batch, results: BatchResults) -> None:
        self._kick(batch, results.forces)
        self._thermostat(batch)


class NPT(NVT):
    """Constant pressure: isotropic Martyna-Tobias-Klein (1994, doi:10.1063/1.467468).

    The cell keeps its shape; ``pressure`` is in eV/Angstrom^3, ``pdamp`` the time of the barostat
    in ASE's units. No constraints, as in ASE.
    """

    name = "npt"
    stress = True

    def __init__(
        self,
        timestep: float,
        temperature_K: Any,
        pressure: Any,
        tdamp: float,
        pdamp: float,
        seed: int = 0,
    ) -> None:
        super().__init__(timestep, temperature_K, tdamp, seed)
        if not pdamp > 0:
            raise ConfigError(f"pdamp = {pdamp}: a positive time.")
        self.pressure = np.array(pressure, dtype=np.float64)
        self.pdamp = float(pdamp)
        self.baro = Chain()
        self.first_cell = torch.zeros(0, 3, 3, dtype=torch.float64)
        self.strain = torch.zeros(0, dtype=torch.float64)  # logarithm of the length over the first
        self.push = torch.zeros(0, dtype=torch.float64)  # its momentum

    def settings(self) -> dict[str, Any]:
        """Return pressure and the time of the barostat too."""
        return {
            **super().settings(),
            "pressure": self.pressure.tolist(),
            "pdamp": self.pdamp,
        }

    def check(self, atoms: Atoms) -> None:
        """Refuse fixed atoms: a cell that breathes moves every atom."""
        super().check(atoms)
        if not free_components(atoms).all():
            raise StructureError("NPT takes no fixed atoms. Remove the constraints, or use NVT.")

    def add(self, new: Batch) -> None:
        """Append structures with barostats at rest."""
        super().add(new)
        kT, none = self.kT(new), torch.zeros_like(new.volume)

        # 9 in the first mass: as ASE has it, nine components of a cell, although one moves.
        self.baro.add(kT, torch.ones_like(kT), self.pdamp, first=9.0)
        self.first_cell = joined(self.first_cell, new.cell)
        self.strain = joined(self.strain, none)
        self.push = joined(self.push, none)

    def keep(self, mask: Array) -> None:
        """Forget structures."""
        places = self._segments.places(mask)
        super().keep(mask)
        self.baro = self.baro.keep(places)
        self.first_cell = self.first_cell.index_select(0, places)
        self.strain = self.strain.index_select(0, places)
        self.push = self.push.index_select(0, places)

    def state(self) -> dict[str, Any]:
        """Return thermostats and barostats."""
        own = {"first_cell": self.first_cell, "strain": self.strain, "push": self.push}
        return {**super().state(), **own, **{f"baro_{k}": v for k, v in self.baro.state().items()}}

    def restore(self, tensors: Mapping[str, Tensor], batch: Batch) -> None:
        """Take a state back."""
        super().restore(tensors, batch)
        self.baro.restore(_part("baro_", tensors))
        self.first_cell, self.strain = tensors["first_cell"], tensors["strain"]
        self.push = tensors["push"]

    def _absorb(self, twin: Dynamics, places: Tensor) -> None:
        super()._absorb(twin, places)
        assert isinstance(twin, NPT)
        self.baro.put(places, twin.baro)
        self.push = self.push.index_copy(0, places, twin.push)

    def inertia(self, batch: Batch) -> Tensor:
        """Return the mass of the barostat, (B,)."""
        return (3 * batch.segments.counts + 3) * self.chain.kT * self.pdamp**2

    def _barostat(self, batch: Batch) -> None:
        kinetic = self.push.square() / self.inertia(batch)
        self.push = self.push * self.baro.push(kinetic, self.dt / 2)

    def _push(self, batch: Batch, results: BatchResults) -> None:
        """Half a step of the barostat's momentum under the pressure inside less that outside."""
        assert results.stress is not None
        kinetic = self.kinetic(batch)
        volume = torch.linalg.det(batch.cell).abs()

        # ASE's stress is positive under tension, a pressure is positive under compression.
        virial = -results.stress.diagonal(dim1=1, dim2=2).sum(1) / 3 * volume
        excess = 3 * (virial + kinetic / 3 - self._each(self.pressure, batch) * volume)
        self.push = self.push + self.dt / 2 * (excess + kinetic / batch.segments.counts)

    def _kick_npt(self, batch: Batch, forces: Tensor) -> None:
        rate = (1 + 1 / batch.segments.counts) * self.push / self.inertia(batch)
        x = batch.segments.spread(rate * self.dt / 2)[:, None]

        # (1 - exp(-x)) / x by expm1: the plain quotient loses all digits where x is small.
        batch.momenta = batch.momenta * torch.exp(-x) + self.dt / 2 * forces * _exprel(-x)

    def take_step(self, batch: Batch, results: BatchResults) -> None:
        """Barostat, thermostat, kicks, and the positions with the cell."""
        self._barostat(batch)
        self._thermostat(batch)
        self._push(batch, results)
        self._kick_npt(batch, results.forces)
        rate = self.dt * self.push / self.inertia(batch)
        x = batch.segments.spread(rate)[:, None]
        batch.positions = batch.positions * torch.exp(x) + (
            batch.momenta * self.dt / batch.masses[:, None] * _exprel(x)
        )

        # The logarithm is kept and not the cell: a product over a million steps would drift.
        self.strain = self.strain + rate
        batch.cell = self.first_cell * torch.exp(self.strain)[:, None, None]

    def _finish(self, batch: Batch, results: BatchResults) -> None:
        self._kick_npt(batch, results.forces)
        self._push(batch, results)
        self._thermostat(batch)
        self._barostat(batch)


def _exprel(x: Tensor) -> Tensor:
    """``(exp(x) - 1) / x``."""
    return torch.where(x == 0, 1.0, torch.expm1(x) / x)


def _part(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what is named with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
