"""Nose-Hoover chains for many structures at once.

The equations of Martyna, Klein & Tuckerman (1992, doi:10.1063/1.463940), integrated as in
Tuckerman et al. (2006, doi:10.1088/0305-4470/39/19/S18) with the fourth-order weights of Yoshida
(1990, doi:10.1016/0375-9601(90)90092-3).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ase_nnp.workflows.batched.state import joined

__all__ = ["Chain"]

LINKS = 3
_OUTER = 1 / (2 - 2 ** (1 / 3))
WEIGHTS = (_OUTER, 1 - 2 * _OUTER, _OUTER)


class Chain:
    """One chain of :data:`LINKS` thermostats a structure, that takes or gives kinetic energy.

    ``place`` (links, B) are the thermostats' coordinates, ``momentum`` theirs, ``mass`` their
    inertia, ``kT`` (B,) the thermal energy and ``freedom`` (B,) what the first link sees.
    """

    def __init__(self) -> None:
        self.kT = torch.zeros(0, dtype=torch.float64)
        self.freedom = self.kT
        self.mass = [self.kT] * LINKS
        self.place = [self.kT] * LINKS
        self.momentum = [self.kT] * LINKS

    def add(self, kT: Tensor, freedom: Tensor, time: float, first: float | None = None) -> None:
        """Append chains at rest; ``first`` replaces the degrees of freedom in the first mass."""
        # A structure without free components has no thermostat to speak of: no division by zero.
        mass = [kT * time**2] * LINKS
        mass[0] = mass[0] * (freedom if first is None else first)
        self.mass = [
            joined(old, new.clamp(min=1e-300)) for old, new in zip(self.mass, mass, strict=True)
        ]
        self.place = [joined(old, torch.zeros_like(kT)) for old in self.place]
        self.momentum = [joined(old, torch.zeros_like(kT)) for old in self.momentum]
        self.kT, self.freedom = joined(self.kT, kT), joined(self.freedom, freedom)

    def keep(self, places: Tensor) -> Chain:
        """Return the chains at ``places``."""
        part = Chain()
        part.kT, part.freedom = (v.index_select(0, places) for v in (self.kT, self.freedom))
        for name in ("mass", "place", "momentum"):
            setattr(part, name, [v.index_select(0, places) for v in getattr(self, name)])
        return part

    def put(self, places: Tensor, part: Chain) -> None:
        """Take coordinates and momenta back from :meth:`keep`."""
        for name in ("place", "momentum"):
            links = zip(getattr(self, name), getattr(part, name), strict=True)
            setattr(self, name, [mine.index_copy(0, places, its) for mine, its in links])

    def state(self) -> dict[str, Tensor]:
        """Return all tensors, links last."""
        return {
            "kT": self.kT,
            "freedom": self.freedom,
            "mass": torch.stack(self.mass, dim=1),
            "place": torch.stack(self.place, dim=1),
            "momentum": torch.stack(self.momentum, dim=1),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take a state back."""
        self.kT, self.freedom = tensors["kT"], tensors["freedom"]
        for name in ("mass", "place", "momentum"):
            setattr(self, name, list(tensors[name].unbind(1)))

    def push(self, kinetic: Tensor, time: float) -> Tensor:
        """Let the chains act for ``time``; returns the factor on the momenta, (B,).

        ``kinetic`` (B,) is twice the kinetic energy they act on.
        """
        scale = torch.ones_like(kinetic)

        # Yoshida's fourth-order splitting (1990), as in ASE's NoseHooverChain.
        for weight in WEIGHTS:
            scale = scale * self._loop(kinetic * scale * scale, weight * time)
        return scale

    def _loop(self, kinetic: Tensor, time: float) -> Tensor:
        # From the far end to the particles and back, which makes the step reversible.
        for link in reversed(range(LINKS)):
            self._link(link, kinetic, time)
        speeds = [momentum / mass for momentum, mass in zip(self.momentum, self.mass, strict=True)]
        self.place = [
            torch.add(place, speed, alpha=time)
            for place, speed in zip(self.place, speeds, strict=True)
        ]
        scale = (-time * speeds[0]).exp()
        kinetic = kinetic * scale * scale
        for link in range(LINKS):
            self._link(link, kinetic, time)
        return scale

    def _link(self, link: int, kinetic: Tensor, time: float) -> None:
        if link == 0:
            pull = kinetic - self.freedom * self.kT
        else:
            pull = self.momentum[link - 1].square() / self.mass[link - 1] - self.kT
        momentum = self.momentum[link]
        if link < LINKS - 1:
            brake = (-time / 4 * self.momentum[link + 1] / self.mass[link + 1]).exp()
            self.momentum[link] = (momentum * brake + time / 2 * pull) * brake
        else:
            self.momentum[link] = torch.add(momentum, pull, alpha=time / 2)
