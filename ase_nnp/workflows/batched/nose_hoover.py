"""Constant temperature and pressure by Nose-Hoover chains, in the steps of ASE's integrators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.workflows.batched.chains import Chain
from ase_nnp.workflows.batched.dynamics import Dynamics
from ase_nnp.workflows.batched.evaluate import BatchResults
from ase_nnp.workflows.batched.state import Array, Batch, free_components

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

    def settings(self) -> dict[str, Any]:
        """Return the time of the thermostat too."""
        return {**super().settings(), "tdamp": self.tdamp}

    def add(self, new: Batch) -> None:
        """Append structures with thermostats at rest."""
        super().add(new)
        self.chain.add(self.kT(new), self.freedom(new), self.tdamp)

    def keep(self, mask: Array) -> None:
        """Forget structures."""
        self.chain = self.chain.keep(mask)

    def state(self) -> dict[str, Array]:
        """Return the thermostats."""
        return {f"chain_{k}": v for k, v in self.chain.state().items()}

    def restore(self, arrays: dict[str, Array], batch: Batch) -> None:
        """Take a state back."""
        self.chain.restore({k.removeprefix("chain_"): v for k, v in arrays.items()})

    def _absorb(self, twin: Dynamics, mask: Array) -> None:
        assert isinstance(twin, NVT)
        self.chain.put(mask, twin.chain)

    def _thermostat(self, batch: Batch) -> None:
        scale = self.chain.push(self.kinetic(batch), self.dt / 2)
        batch.momenta = batch.momenta * scale[batch.segments.owner, None]

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
        self.first_cell = np.zeros((0, 3, 3))
        self.strain = np.zeros(0)  # logarithm of the length over the first
        self.push = np.zeros(0)  # its momentum

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
        kT, none = self.kT(new), np.zeros(len(new))

        # 9 in the first mass: as ASE has it, nine components of a cell, although one moves.
        self.baro.add(kT, np.ones(len(new)), self.pdamp, first=9.0)
        self.first_cell = np.concatenate([self.first_cell, new.cell])
        self.strain = np.concatenate([self.strain, none])
        self.push = np.concatenate([self.push, none])

    def keep(self, mask: Array) -> None:
        """Forget structures."""
        super().keep(mask)
        self.baro = self.baro.keep(mask)
        self.first_cell, self.strain = self.first_cell[mask], self.strain[mask]
        self.push = self.push[mask]

    def state(self) -> dict[str, Array]:
        """Return thermostats and barostats."""
        own = {"first_cell": self.first_cell, "strain": self.strain, "push": self.push}
        return {**super().state(), **own, **{f"baro_{k}": v for k, v in self.baro.state().items()}}

    def restore(self, arrays: dict[str, Array], batch: Batch) -> None:
        """Take a state back."""

        def part(prefix: str) -> dict[str, Array]:
            return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

        self.chain.restore(part("chain_"))
        self.baro.restore(part("baro_"))
        self.first_cell, self.strain = arrays["first_cell"], arrays["strain"]
        self.push = arrays["push"]

    def _absorb(self, twin: Dynamics, mask: Array) -> None:
        super()._absorb(twin, mask)
        assert isinstance(twin, NPT)
        self.baro.put(mask, twin.baro)
        self.push[mask] = twin.push

    def inertia(self, batch: Batch) -> Array:
        """Return the mass of the barostat, (B,)."""
        return (3 * batch.segments.sizes + 3) * self.kT(batch) * self.pdamp**2

    def _barostat(self, batch: Batch) -> None:
        kinetic = self.push**2 / self.inertia(batch)
        self.push = self.push * self.baro.push(kinetic, self.dt / 2)

    def _push(self, batch: Batch, results: BatchResults) -> None:
        """Half a step of the barostat's momentum under the pressure inside less that outside."""
        assert results.stress is not None
        kinetic = self.kinetic(batch)
        volume = np.abs(np.linalg.det(batch.cell))

        # ASE's stress is positive under tension, a pressure is positive under compression.
        virial = -np.trace(results.stress, axis1=1, axis2=2) / 3 * volume
        excess = 3 * (virial + kinetic / 3 - self._each(self.pressure, batch) * volume)
        self.push = self.push + self.dt / 2 * (excess + kinetic / batch.segments.sizes)

    def _kick_npt(self, batch: Batch, forces: Array) -> None:
        rate = (1 + 1 / batch.segments.sizes) * self.push / self.inertia(batch)
        x = (rate * self.dt / 2)[batch.segments.owner, None]

        # (1 - exp(-x)) / x by exprel: the plain quotient loses all digits where x is small.
        batch.momenta = batch.momenta * np.exp(-x) + self.dt / 2 * forces * _exprel(-x)

    def take_step(self, batch: Batch, results: BatchResults) -> None:
        """Barostat, thermostat, kicks, and the positions with the cell."""
        self._barostat(batch)
        self._thermostat(batch)
        self._push(batch, results)
        self._kick_npt(batch, results.forces)
        rate = self.dt * self.push / self.inertia(batch)
        x = rate[batch.segments.owner, None]
        batch.positions = batch.positions * np.exp(x) + (
            batch.momenta * self.dt / batch.masses[:, None] * _exprel(x)
        )

        # The logarithm is kept and not the cell: a product over a million steps would drift.
        self.strain = self.strain + rate
        batch.cell = self.first_cell * np.exp(self.strain)[:, None, None]

    def _finish(self, batch: Batch, results: BatchResults) -> None:
        self._kick_npt(batch, results.forces)
        self._push(batch, results)
        self._thermostat(batch)
        self._barostat(batch)


def _exprel(x: Array) -> Array:
    """``(exp(x) - 1) / x``."""
    from scipy.special import exprel

    return np.asarray(exprel(x))
