"""Gibbs free energies of gases, adsorbates and transition states, through ase.thermochemistry."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.uncertainty.observables import Observable, as_observable
from ase_nnp.workflows.thermo.states import State
from ase_nnp.workflows.vibrations import ModeTreatment, treat_modes

__all__ = ["TREATMENTS", "FreeEnergy", "FreeEnergyLike", "free_energy_of", "gibbs"]

TREATMENTS = ("harmonic", "quasi-rrho", "hindered")


@dataclass(frozen=True)
class FreeEnergy:
    """A free energy and what it is made of.

    Attributes
    ----------
    value
        G, eV, with the error bar of the energy and, of an ensemble, of the modes.
    energy
        Of the potential, eV.
    zero_point
        eV.
    thermal
        Enthalpy of a gas, or internal energy, above energy and zero point, eV.
    entropy
        eV/K.
    temperature, pressure
        K and Pa.
    treatment
        ``"ideal gas"``, one of :data:`TREATMENTS`, or ``"rigid"``.
    modes
        The vibrational energies as they were used and what was changed to get them.
    name, unknown
        Of the state; ``unknown``: the model's own flag is raised for it, or for a structure that
        its energy rests on.
    """

    value: Observable
    energy: Observable
    zero_point: float
    thermal: float
    entropy: float
    temperature: float
    pressure: float
    treatment: str
    modes: ModeTreatment
    name: str = ""
    unknown: bool = False

    def __float__(self) -> float:
        return float(self.value)

    @property
    def correction(self) -> float:
        """What is added to the energy: G - E, eV."""
        return self.value.value - self.energy.value

    def as_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "name": self.name,
            "gibbs": self.value.value,
            "gibbs_std": self.value.std,
            "energy": self.energy.value,
            "energy_std": self.energy.std,
            "zero_point": self.zero_point,
            "thermal": self.thermal,
            "entropy": self.entropy,
            "correction": self.correction,
            "temperature": self.temperature,
            "pressure": self.pressure,
            "treatment": self.treatment,
            "modes": self.modes.energies.tolist(),
            "mode_changes": list(self.modes.changes),
            "unknown": self.unknown,
        }


#: What diagrams take as an energy: a result of :func:`gibbs`, an observable, or a number, eV.
FreeEnergyLike = FreeEnergy | Observable | float


def free_energy_of(given: FreeEnergyLike) -> Observable:
    """Return the value with its error bar, eV."""
    return given.value if isinstance(given, FreeEnergy) else as_observable(given)


def warn_of_lost_doubts(what: str, energies: Iterable[FreeEnergyLike]) -> None:
    """Warn of flags that end here: what follows is an object of another package, of floats."""
    from ase_nnp.uncertainty.monitor import UncertaintyWarning

    names = sorted({name for one in energies for name in free_energy_of(one).unknown})
    if names:
        warnings.warn(
            f"{what} rests on {', '.join(names)}, unknown to the model by its own flag.",
            UncertaintyWarning,
            stacklevel=3,
        )


def gibbs(
    state: State,
    temperature: float = 298.15,
    pressure: float = 1e5,
    *,
    treatment: str = "harmonic",
    policy: str = "invert",
    small: float = 50.0,
    floor: float | None = None,
    hindered: Mapping[str, float] | None = None,
) -> FreeEnergy:
    """Return the Gibbs free energy of a state.

    Parameters
    ----------
    state
        From :func:`gas`, :func:`adsorbate`, :func:`solid`, or made by hand.
    temperature
        K.
    pressure
        Pa, of a gas; its fugacity. Water at its vapor pressure (3 534 Pa at 298.15 K) stands for
        the liquid.
    treatment
        Of adsorbates. ``"harmonic"``; ``"quasi-rrho"``: soft modes become rotations, smoothly
        (Grimme 2012, doi:10.1002/chem.201200497); ``"hindered"``: the softest three modes become
        a hindered translator in two directions and a hindered rotor (Sprowl et al. 2016,
        doi:10.1021/acs.jpcc.5b11616).
    policy, small, floor
        For imaginary and soft modes, as :func:`~ase_nnp.workflows.vibrations.treat_modes`.
    hindered
        ``trans_barrier_energy`` and ``rot_barrier_energy`` (eV), ``sitedensity`` (sites/cm^2),
        ``rotationalminima``.

    Raises
    ------
    ConfigError
        Settings that cannot be meant.
    StructureError
        Imaginary modes that the policy does not cover.
    """
    sound = 0 < temperature < np.inf and 0 < pressure < np.inf
    if treatment not in TREATMENTS or not sound:
        raise ConfigError(
            f"treatment = {treatment!r}, temperature = {temperature}, pressure = {pressure}: one "
            f"of {', '.join(TREATMENTS)}, and positive, finite numbers (K, Pa)."
        )
    if (treatment == "hindered") != (hindered is not None):
        raise ConfigError("treatment='hindered' and hindered={...} belong together.")
    settings = {"policy": policy, "small": small, "floor": floor, "saddle": state.saddle}
    point = (temperature, pressure, treatment, hindered)
    modes = treat_modes(state.modes, **settings)  # type: ignore[arg-type]
    terms, said = _terms(state, modes, *point)

    value = state.observable + terms.sum(where=[True, True, False]) - temperature * terms[2]
    sources = [source for source in value.parts if source.kind == "members"]
    if state.member_modes and len(sources) == 1:
        # Each member's own vibrations, at the geometry of the mean: its G is its own.
        spread = []
        for raw in state.member_modes:
            own, _ = _terms(state, treat_modes(raw, **settings), *point)  # type: ignore[arg-type]
            spread.append((own - terms) @ [1.0, 1.0, -temperature])
        value = value + Observable(0.0, {sources[0]: np.array(spread)})
    return FreeEnergy(
        value,
        state.observable,
        float(terms[0]),
        float(terms[1]),
        float(terms[2]),
        temperature,
        pressure,
        said,
        modes,
        state.name,
        state.unknown or bool(value.unknown),
    )


def _terms(
    state: State,
    modes: ModeTreatment,
    temperature: float,
    pressure: float,
    treatment: str,
    hindered: Mapping[str, float] | None,
) -> tuple[NDArray[np.float64], str]:
    """Return zero-point energy, thermal energy (eV) and entropy (eV/K), and what they are of."""
    zero_point = float(modes.energies.sum() / 2)
    if state.kind == "solid":
        return np.zeros(3), "rigid"
    if state.kind == "gas":
        thermo = _ideal_gas(state, modes)
        above = thermo.get_enthalpy(temperature, verbose=False) - zero_point
        entropy = thermo.get_entropy(temperature, pressure, verbose=False)
        return np.array([zero_point, above, entropy]), "ideal gas"
    if treatment == "hindered":
        return _hindered(state, modes, temperature, hindered or {}), treatment
    if not len(modes.energies):
        return np.zeros(3), treatment

    thermo = _localized(state, modes, treatment)
    above = thermo.get_internal_energy(temperature, verbose=False) - zero_point
    return np.array([zero_point, above, thermo.get_entropy(temperature, verbose=False)]), treatment


def _ideal_gas(state: State, modes: ModeTreatment) -> Any:
    from ase.thermochemistry import IdealGasThermo

    assert state.atoms is not None
    # What is missing of 3 N are the rigid motions; the molecule's shape follows.
    count = len(state.atoms)
    lacking = 3 * count - len(state.modes) - 3
    shapes: dict[int, Any] = {0: "monatomic", 2: "linear", 3: "nonlinear"}
    shape = shapes.get(lacking)
    if shape is None or (shape == "monatomic") != (count == 1):
        raise StructureError(
            f"{len(state.modes)} modes of {count} atoms: 3 N - 6 vibrations were expected, or "
            "3 N - 5 of a linear molecule."
        )
    return IdealGasThermo(
        modes.energies.tolist(),
        shape,
        atoms=state.atoms,
        symmetrynumber=state.symmetry,
        spin=state.spin,
        vib_selection="all",
    )


def _localized(state: State, modes: ModeTreatment, treatment: str) -> Any:
    from ase.thermochemistry import HarmonicThermo, MSRRHOThermo

    if treatment == "harmonic":
        return HarmonicThermo(modes.energies.tolist())
    if state.atoms is None or len(state.atoms) < 2:
        raise StructureError("quasi-rrho needs a moment of inertia: atoms of two or more atoms.")
    # 100 cm^-1 is Grimme's choice for the switch from vibration to rotation.
    return MSRRHOThermo(modes.energies.tolist(), state.atoms, tau=100.0)


def _hindered(
    state: State, modes: ModeTreatment, temperature: float, settings: Mapping[str, float]
) -> NDArray[np.float64]:
    from ase.thermochemistry import HinderedThermo

    needed = {"trans_barrier_energy", "rot_barrier_energy", "sitedensity", "rotationalminima"}
    if set(settings) != needed:
        raise ConfigError(f"hindered = {dict(settings)}: needs {', '.join(sorted(needed))}.")
    if state.atoms is None or len(state.modes) != 3 * len(state.atoms) or state.saddle:
        raise StructureError("A hindered translator and rotor needs all 3 N modes of an adsorbate.")
    barriers: dict[str, Any] = dict(settings)
    thermo = HinderedThermo(
        modes.energies, atoms=state.atoms, symmetrynumber=state.symmetry, **barriers
    )
    # The quanta of the hindered motions count with those of the vibrations that are left.
    zero_point = thermo.get_zero_point_energy(verbose=False)
    above = thermo.get_internal_energy(temperature, verbose=False) - zero_point
    return np.array([zero_point, above, thermo.get_entropy(temperature, verbose=False)])
