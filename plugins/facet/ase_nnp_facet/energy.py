"""From one number an atom to the energy of a structure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .layers import Names, learn_or_keep

__all__ = ["EnergyScale"]


def _positive(x: Tensor) -> Tensor:
    """Softplus moved so that 0 gives 1."""
    return F.softplus(x + math.log(math.e - 1.0))


class EnergyScale(nn.Module):
    r"""Trainable scales and shifts by species, and global ones.

    The energy is :math:`E = \sum_i s(\sigma_{z_i}) s(\sigma) e_i + \tau_{z_i} + \tau` with ``s`` a
    softplus that is 1 at 0: a sum over atoms. The published formula instead puts ``s`` around the
    sum of :math:`\sigma_{z_i}` of the structure and divides by its size, which makes the energy an
    atom depend on the size of the cell; ``reference`` keeps it, with its small constant. Of kind
    ``sevennet``, :math:`E = \sum_i \sigma_{z_i} e_i + \tau_{z_i}` with scales that start at 1.
    """

    scale: Tensor
    shift: Tensor
    global_scale: Tensor
    global_shift: Tensor

    def __init__(self, num_species: int, options: Mapping[str, Any], reference: bool) -> None:
        super().__init__()
        self.kind, self.reference = options["kind"], reference
        scale = torch.full((num_species + 1,), 1.0 if self.kind == "sevennet" else 0.0)
        learn_or_keep(self, "scale", scale, options["scale_trainable"])
        learn_or_keep(self, "shift", torch.zeros(num_species + 1), options["shift_trainable"])
        if self.kind != "sevennet":
            for name in ("global_scale", "global_shift"):
                learn_or_keep(self, name, torch.zeros(1), options[f"{name}_trainable"])

    def names(self) -> Names:
        """Published names, which are our own."""
        yield from self.named_parameters()

    def set(self, shifts: Mapping[int, float], shift: float, scale: float) -> None:
        """Start from known numbers: eV by species index, eV an atom, eV as the unit of ``e``."""
        with torch.no_grad():
            for index, value in shifts.items():
                self.shift[index] = value
            if self.kind == "sevennet":
                self.shift[1:] += shift
                self.scale.fill_(scale)
            else:
                self.global_shift.fill_(shift)
                self.global_scale.fill_(math.log(math.expm1(scale)) - math.log(math.e - 1.0))

    def forward(self, e: Tensor, species: Tensor, batch: Tensor, count: int) -> Tensor:
        """Return energies of the atoms (N,) in eV from ``e`` (N,), in float64.

        So that a model in float32 loses no digits to shifts of thousands of eV. ``count`` is the
        number of structures.
        """
        scale, shift = self.scale[species], self.shift[species]
        if self.kind == "sevennet":
            return (e * scale).double() + shift.double()
        shift = shift.double() + self.global_shift.double()
        if not self.reference:
            unit = _positive(scale) * _positive(self.global_scale)
            return (e * unit).double() + shift

        def total(values: Tensor) -> Tensor:
            return values.new_zeros(count).index_add(0, batch, values)

        e, scale = e.double(), scale.double()
        n = total(torch.ones_like(e))
        unit = _positive(total(scale)) / n * _positive(self.global_scale.double())
        return e * (unit * n / (n + 1e-6))[batch] + shift
