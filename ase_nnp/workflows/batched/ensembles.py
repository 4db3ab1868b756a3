"""Batched molecular dynamics by ensemble, in femtoseconds, kelvin and gigapascal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ase.units
import numpy as np

from ase_nnp.errors import ConfigError
from ase_nnp.workflows.batched.dynamics import NVE, Dynamics, Langevin
from ase_nnp.workflows.batched.nose_hoover import NPT, NVT
from ase_nnp.workflows.batched.outcome import Outcome
from ase_nnp.workflows.batched.run import run
from ase_nnp.workflows.batched.settings import RunSettings

__all__ = ["ENSEMBLES", "integrator", "iter_dynamics", "run_dynamics"]

ENSEMBLES = ("nve", "langevin", "nvt", "npt")


def integrator(
    ensemble: str,
    *,
    timestep_fs: float = 1.0,
    temperature_K: Any = None,
    friction_per_fs: float = 0.01,
    tdamp_fs: float | None = None,
    pdamp_fs: float | None = None,
    pressure_GPa: Any = 0.0,
    seed: int = 0,
) -> Dynamics:
    """Return the integrator of an ensemble; see :func:`run_dynamics`.

    Raises
    ------
    ConfigError
        For an unknown ensemble, or a temperature that is missing.
    """
    if ensemble not in ENSEMBLES:
        raise ConfigError(f"No ensemble '{ensemble}'. There are: {', '.join(ENSEMBLES)}.")

    fs = ase.units.fs
    step = timestep_fs * fs
    if ensemble == "nve":
        return NVE(step, temperature_K, seed)
    if temperature_K is None:
        raise ConfigError(f"The ensemble '{ensemble}' needs a temperature.")

    if ensemble == "langevin":
        return Langevin(step, temperature_K, friction_per_fs / fs, seed)

    # 100 and 1000 steps are the times that ASE's documentation recommends.
    tdamp = (100 * timestep_fs if tdamp_fs is None else tdamp_fs) * fs
    if ensemble == "nvt":
        return NVT(step, temperature_K, tdamp, seed)

    pdamp = (1000 * timestep_fs if pdamp_fs is None else pdamp_fs) * fs
    pressure = np.array(pressure_GPa, dtype=np.float64) * ase.units.GPa
    return NPT(step, temperature_K, pressure, tdamp, pdamp, seed)


def iter_dynamics(
    model: Any,
    structures: Any,
    ensemble: str = "nve",
    *,
    steps: int = 1000,
    timestep_fs: float = 1.0,
    temperature_K: Any = None,
    friction_per_fs: float = 0.01,
    tdamp_fs: float | None = None,
    pdamp_fs: float | None = None,
    pressure_GPa: Any = 0.0,
    seed: int = 0,
    **options: Any,
) -> Iterator[Outcome]:
    """As :func:`run_dynamics`, yielding each structure as soon as it is done."""
    method = integrator(
        ensemble,
        timestep_fs=timestep_fs,
        temperature_K=temperature_K,
        friction_per_fs=friction_per_fs,
        tdamp_fs=tdamp_fs,
        pdamp_fs=pdamp_fs,
        pressure_GPa=pressure_GPa,
        seed=seed,
    )
    return run(model, structures, method, steps, RunSettings.of(options))


def run_dynamics(
    model: Any, structures: Any, ensemble: str = "nve", **options: Any
) -> list[Outcome]:
    """Run molecular dynamics of many structures at once.

    Each moves as it would alone under ASE's integrator of the same kind (VelocityVerlet, Langevin
    without ``fixcm``, NoseHooverChainNVT, IsotropicMTKNPT).

    Parameters
    ----------
    model
        What :func:`~ase_nnp.load_model` takes; one that gives a stress for ``"npt"``.
    structures
        One ase.Atoms, any iterable of them, or a dataset; left as they are. Momenta are kept,
        or drawn at ``temperature_K`` where there are none.
    ensemble
        ``"nve"``, ``"langevin"``, ``"nvt"`` (Nose-Hoover chain) or ``"npt"`` (isotropic).
    **options
        ``steps`` of each structure (default 1000), ``timestep_fs`` (default 1),
        ``temperature_K`` (one number, or one for each structure), ``friction_per_fs`` of
        ``"langevin"`` (1/fs, default 0.01), ``tdamp_fs`` and ``pdamp_fs`` of thermostat and
        barostat (by default 100 and 1000 steps), ``pressure_GPa`` of ``"npt"`` (one number, or
        one for each structure), ``seed`` of momenta and noise. Further the fields of
        :class:`~ase_nnp.workflows.batched.RunSettings`, as in :func:`relax_many`.

    Returns
    -------
    list of Outcome
        In the order of ``structures``; ``fmax`` is None.

    Raises
    ------
    ConfigError
        For arguments that cannot be meant, or a folder that holds another run.
    DatasetError
        The folder is damaged or cannot be written.
    """
    outcomes = iter_dynamics(model, structures, ensemble, **options)
    return sorted(outcomes, key=lambda outcome: outcome.index)
