"""Molecular dynamics of many structures at once: what integrators share, NVE and Langevin.

Each integrator takes the steps of ASE's own. A step is cut where the forces are needed:
``take_step`` is everything before, ``on_forces`` everything after. Random numbers are a function
of seed, structure and step, so that a structure moves the same in any company and after any
interruption; they are drawn on the host and sent over once a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ase.units
import numpy as np
import torch
from torch import Tensor

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.models.segments import Segments
from ase_nnp.workflows.batched.evaluate import BatchResults
from ase_nnp.workflows.batched.method import Method
from ase_nnp.workflows.batched.state import Array, Batch, free_components, joined

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["Dynamics", "Langevin", "NVE", "random_numbers"]


def random_numbers(seed: int, index: int, step: int, shape: tuple[int, ...]) -> Array:
    """Return normal numbers that depend on the arguments only."""
    # Counter-based: noise depends on structure and step alone, so a resumed run, another batch or
    # another order gives the same path.
    key = ((seed & (2**64 - 1)) << 64) | index
    source = np.random.Philox(key=key, counter=step << 128)
    return np.random.Generator(source).standard_normal(shape)


#: Steps between looks at the model's own flag. Every one would cost a pass of its own; in a tenth
#: of a picosecond atoms move by tenths of an Angstrom.
LOOKS = 100


class Dynamics(Method):
    """What the integrators share.

    Parameters
    ----------
    timestep
        In ASE's units of time (``ase.units.fs``).
    temperature_K
        Of the thermostat, and of the momenta of structures that come without; one number, or one
        for each structure of the input. None leaves structures at rest.
    seed
        Of everything random.
    """

    looks = LOOKS

    def __init__(self, timestep: float, temperature_K: Any = None, seed: int = 0) -> None:
        if not timestep > 0:
            raise ConfigError(f"timestep = {timestep}: a positive time.")
        self.dt, self.seed = float(timestep), int(seed)

        given = np.array([] if temperature_K is None else temperature_K, dtype=np.float64)
        if (given < 0).any() or not np.isfinite(given).all():
            raise ConfigError(f"temperature_K = {temperature_K}: zero or more.")
        self.temperature_K = given
        self.thermal = temperature_K is not None

    def settings(self) -> dict[str, Any]:
        """Return time step, temperature and seed."""
        return {
            "timestep": self.dt,
            "temperature_K": self.temperature_K.tolist(),
            "seed": self.seed,
        }

    def check(self, atoms: Atoms) -> None:
        """Refuse atoms without a mass."""
        if not (atoms.get_masses() > 0).all():
            raise StructureError("A mass is zero; dynamics need masses.")

    def kT(self, batch: Batch) -> Tensor:
        """Return the thermal energy of each structure, (B,) eV."""
        return self._each(self.temperature_K * ase.units.kB, batch)

    def _each(self, values: Array, batch: Batch) -> Tensor:
        """Return a number for each structure, (B,), of one for all or one for each of the input."""
        if values.ndim == 0 or len(values) == 1:
            each = np.full(len(batch), values.reshape(-1))
        else:
            try:
                each = values[batch.index]
            except IndexError:
                raise ConfigError(
                    f"{len(values)} temperatures or pressures, and more structures than that."
                ) from None
        return torch.from_numpy(each).to(batch.positions.device)

    def add(self, new: Batch) -> None:
        """Give momenta to structures that have none; hold what is fixed."""
        momenta = [one.get_momenta() for one in new.atoms]
        if self.thermal:
            spreads = (self.kT(new)).cpu().numpy()
            for k, atoms in enumerate(new.atoms):
                free = free_components(atoms)
                if not momenta[k][free].any():
                    momenta[k] = self._drawn(atoms, free, int(new.index[k]), spreads[k])
        laid = torch.from_numpy(np.concatenate(momenta)).to(new.positions.device)
        new.momenta = torch.where(new.free, laid, 0.0)

    def _drawn(self, atoms: Atoms, free: Array, index: int, kT: float) -> Array:
        """Draw momenta at a thermal energy; those of a whole structure without drift."""
        masses = atoms.get_masses()
        spread = np.sqrt(masses * kT)[:, None]

        # Step 2^40 is never reached, so that these numbers are no step's noise.
        drawn = random_numbers(self.seed, index, 2**40, (len(atoms), 3)) * spread
        # A whole structure that drifts would only waste its thermal energy.
        if free.all() and len(atoms) > 1:
            drawn -= drawn.sum(0) * (masses / masses.sum())[:, None]
        return drawn

    def kinetic(self, batch: Batch) -> Tensor:
        """Return twice the kinetic energy of each structure, (B,) eV."""
        return batch.segments.dot(batch.momenta, batch.momenta / batch.masses[:, None])

    def freedom(self, batch: Batch) -> Tensor:
        """Return the components that move, (B,)."""
        return batch.segments.sum(batch.free.sum(1).double())

    def watched(self, batch: Batch) -> Tensor:
        """Return the temperature of each structure, (B,) kelvin."""
        return self.kinetic(batch) / self.freedom(batch).clamp(min=1) / ase.units.kB

    def describe(self, step: Array, watched: Array) -> str:
        """Return the mean temperature."""
        return f"step {int(step.min())}, mean temperature {watched.mean():.0f} K"

    def _kick(self, batch: Batch, forces: Tensor) -> None:
        kicked = batch.momenta + 0.5 * self.dt * forces
        batch.momenta = torch.where(batch.free, kicked, 0.0)

    def _drift(self, batch: Batch) -> None:
        moved = batch.positions + self.dt * batch.momenta / batch.masses[:, None]
        batch.positions = torch.where(batch.free, moved, batch.positions)

    def on_forces(self, batch: Batch, results: BatchResults) -> None:
        """Finish the step of all structures that have begun one."""
        begun = batch.step > 0
        if begun.all():
            self._finish(batch, results)
            return
        if begun.any():
            # The same arithmetic on those that have begun; the rest keep what they have.
            part = batch.keep(begun)
            twin = self._part(begun)
            twin._finish(part, results.keep(begun, batch.segments))
            rows = batch.segments.rows_of(begun)
            batch.momenta = batch.momenta.index_copy(0, rows, part.momenta)
            self._absorb(twin, batch.segments.places(begun))

    def _part(self, mask: Array) -> Dynamics:
        """Return this integrator for some of its structures."""
        import copy

        twin = copy.copy(self)
        twin.keep(mask)
        return twin

    def _absorb(self, twin: Dynamics, places: Tensor) -> None:
        """Take back what :meth:`_part` has changed."""

    def _finish(self, batch: Batch, results: BatchResults) -> None:
        self._kick(batch, results.forces)

    def take_step(self, batch: Batch, results: BatchResults) -> None:
        """Velocity Verlet up to the new positions."""
        self._kick(batch, results.forces)
        self._drift(batch)


class NVE(Dynamics):
    """Velocity Verlet: constant energy."""

    name = "nve"


class Langevin(Dynamics):
    """Langevin dynamics (Vanden-Eijnden & Ciccotti 2006, doi:10.1016/j.cplett.2006.07.086, Eq. 23).

    ``friction`` is an inverse time in ASE's units. The center of mass moves like anything else.
    """

    name = "langevin"

    def __init__(self, timestep: float, temperature_K: Any, friction: float, seed: int = 0) -> None:
        super().__init__(timestep, temperature_K, seed)
        if not friction > 0:
            raise ConfigError(f"friction = {friction}: a positive inverse time.")
        self.friction = float(friction)
        self.noise = torch.zeros(0, 3, dtype=torch.float64)
        self._segments = Segments([])

    def settings(self) -> dict[str, Any]:
        """Return the friction too."""
        return {**super().settings(), "friction": self.friction}

    def add(self, new: Batch) -> None:
        """Append structures without noise yet."""
        super().add(new)
        self.noise = joined(self.noise, torch.zeros_like(new.positions))
        self._segments = self._segments.join(new.segments)

    def keep(self, mask: Array) -> None:
        """Forget structures."""
        self.noise = self.noise.index_select(0, self._segments.rows_of(mask))
        self._segments = self._segments.keep(mask)

    def state(self) -> dict[str, Any]:
        """Return the noise of the step that is under way."""
        return {"noise": self.noise}

    def restore(self, tensors: Mapping[str, Tensor], batch: Batch) -> None:
        """Take a state back."""
        self.noise, self._segments = tensors["noise"], batch.segments

    def _half(self, batch: Batch, forces: Tensor) -> None:
        """Half a step of the velocities, with the noise of this step."""
        dt, friction = self.dt, self.friction
        masses = batch.masses[:, None]
        velocity = batch.momenta / masses
        velocity = (
            velocity
            + (dt / 2 - dt**2 * friction / 8) * forces / masses
            - (dt * friction / 2 - dt**2 * friction**2 / 8) * velocity
            + self.noise
        )
        batch.momenta = torch.where(batch.free, velocity * masses, 0.0)

    def take_step(self, batch: Batch, results: BatchResults) -> None:
        """Draw, half a step of the velocities, and the positions."""
        dt, friction = self.dt, self.friction
        drawn = [
            random_numbers(self.seed, int(i), int(s), (2, int(n), 3))
            for i, s, n in zip(batch.index, batch.step, batch.segments.sizes, strict=True)
        ]
        both = torch.from_numpy(np.concatenate(drawn, axis=1))
        xi, eta = both.to(batch.positions.device)

        # Eq. 23: xi and eta are the two independent normal numbers of a step.
        kT = batch.segments.spread(self.kT(batch))
        sigma = (2 * friction * kT / batch.masses).sqrt()[:, None]
        shake = dt**1.5 * sigma / (2 * np.sqrt(3)) * eta
        shaken = dt**0.5 * sigma / 2 - dt**1.5 * friction * sigma / 8
        self.noise = shaken * xi - friction / 2 * shake

        self._half(batch, results.forces)
        moved = batch.positions + dt * batch.momenta / batch.masses[:, None] + shake
        batch.positions = torch.where(batch.free, moved, batch.positions)

    def _finish(self, batch: Batch, results: BatchResults) -> None:
        self._half(batch, results.forces)
