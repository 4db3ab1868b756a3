"""Nose-Hoover chains for many structures at once.

The equations of Martyna, Klein & Tuckerman (1992, doi:10.1063/1.463940), integrated as in
Tuckerman et al. (2006, doi:10.1088/0305-4470/39/19/S18) with the fourth-order weights of Yoshida
(1990, doi:10.1016/0375-9601(90)90092-3).
"""

from __future__ import annotations

import numpy as np

from ase_nnp.workflows.batched.state import Array

__all__ = ["Chain"]

LINKS = 3
_OUTER = 1 / (2 - 2 ** (1 / 3))
WEIGHTS = (_OUTER, 1 - 2 * _OUTER, _OUTER)


class Chain:
    """One chain of :data:`LINKS` thermostats a structure, that takes or gives kinetic energy.

    ``place`` (B, links) are the thermostats' coordinates, ``momentum`` theirs, ``mass`` their
    inertia, ``kT`` (B,) the thermal energy and ``freedom`` (B,) what the first link sees.
    """

    def __init__(self) -> None:
        self.kT = np.zeros(0)
        self.freedom = np.zeros(0)
        self.mass = np.zeros((0, LINKS))
        self.place = np.zeros((0, LINKS))
        self.momentum = np.zeros((0, LINKS))

    def add(self, kT: Array, freedom: Array, time: float, first: float | None = None) -> None:
        """Append chains at rest; ``first`` replaces the degrees of freedom in the first mass."""
        mass = np.repeat((kT * time**2)[:, None], LINKS, axis=1)
        mass[:, 0] *= freedom if first is None else first
        self.kT = np.concatenate([self.kT, kT])
        self.freedom = np.concatenate([self.freedom, freedom])

        # A structure without free components has no thermostat to speak of: no division by zero.
        self.mass = np.concatenate([self.mass, np.maximum(mass, 1e-300)])
        self.place = np.concatenate([self.place, np.zeros_like(mass)])
        self.momentum = np.concatenate([self.momentum, np.zeros_like(mass)])

    def keep(self, mask: Array) -> Chain:
        """Return the chains where ``mask`` is true."""
        part = Chain()
        for name, value in self.state().items():
            setattr(part, name, value[mask])
        return part

    def put(self, mask: Array, part: Chain) -> None:
        """Take coordinates and momenta back from :meth:`keep`."""
        self.place[mask], self.momentum[mask] = part.place, part.momentum

    def state(self) -> dict[str, Array]:
        """Return all arrays."""
        return {
            "kT": self.kT,
            "freedom": self.freedom,
            "mass": self.mass,
            "place": self.place,
            "momentum": self.momentum,
        }

    def restore(self, arrays: dict[str, Array]) -> None:
        """Take a state back."""
        for name in self.state():
            setattr(self, name, arrays[name])

    def energy(self) -> Array:
        """Return what the chains hold of the conserved energy, (B,) eV."""
        kinetic = (self.momentum**2 / self.mass).sum(1) / 2
        return np.asarray(
            kinetic + self.kT * (self.freedom * self.place[:, 0] + self.place[:, 1:].sum(1))
        )

    def push(self, kinetic: Array, time: float) -> Array:
        """Let the chains act for ``time``; returns the factor on the momenta, (B,).

        ``kinetic`` (B,) is twice the kinetic energy they act on.
        """
        scale = np.ones_like(kinetic)

        # Yoshida's fourth-order splitting (1990), as in ASE's NoseHooverChain.
        for weight in WEIGHTS:
            scale = scale * self._loop(kinetic * scale**2, weight * time)
        return scale

    def _loop(self, kinetic: Array, time: float) -> Array:
        # From the far end to the particles and back, which makes the step reversible.
        for link in reversed(range(LINKS)):
            self._link(link, kinetic, time)
        self.place = self.place + time * self.momentum / self.mass
        scale = np.exp(-time * self.momentum[:, 0] / self.mass[:, 0])
        for link in range(LINKS):
            self._link(link, kinetic * scale**2, time)
        return np.asarray(scale)

    def _link(self, link: int, kinetic: Array, time: float) -> None:
        # Copied: the arrays may be those of a checkpoint.
        momentum = self.momentum = self.momentum.copy()
        brake = np.ones_like(self.kT)
        if link < LINKS - 1:
            brake = np.exp(-time / 4 * momentum[:, link + 1] / self.mass[:, link + 1])
        if link == 0:
            pull = kinetic - self.freedom * self.kT
        else:
            pull = momentum[:, link - 1] ** 2 / self.mass[:, link - 1] - self.kT
        momentum[:, link] = (momentum[:, link] * brake + time / 2 * pull) * brake
