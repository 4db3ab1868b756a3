"""Uncertainty of any model's predictions.

Two layers. On plain arrays, without torch: ``metrics``, ``calibration``, ``observables``,
``ood``. On potentials: methods that wrap potentials and add ``energy_std`` and ``forces_std``,
samplers of weights, and what ASE users need to store, watch and propagate them.
"""

from __future__ import annotations

__all__: list[str] = []
