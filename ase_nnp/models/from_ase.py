"""Any ASE calculator as a potential, so that pools and comparisons can mix everything."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from ase.data import atomic_numbers
from torch import Tensor

from ase_nnp.errors import AseNnpError, CheckpointError, ConfigError, PredictionError
from ase_nnp.models.graph import AtomGraph
from ase_nnp.models.potential import PER_ATOM, Potential
from ase_nnp.models.structures import has_volume, structures_of

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["CalculatorPotential", "from_ase"]

#: What is passed on of a calculator's results where it declares it, and what on request only:
#: several calculators declare these and do not give them.
USUAL = ("energy", "forces", "stress")
KNOWN = (*USUAL, "energies", "magmoms", "charges")
READS = ("charge", "spin", "tags", "initial_charges", "initial_magmoms")


def from_ase(
    calculator: Any,
    *,
    conservative: bool = True,
    energy_kind: str = "total",
    energy_reference: str = "",
    elements: Collection[int | str] | None = None,
    outputs: Sequence[str] | None = None,
    required_inputs: Sequence[str] = (),
    name: str = "",
) -> CalculatorPotential:
    """Return any ASE calculator as a potential.

    It can be given to :func:`~ase_nnp.predict`, :class:`~ase_nnp.NNPCalculator`, uncertainty pools
    and comparisons. It cannot be saved, trained or differentiated. Structures are calculated one
    after the other, on copies.

    Parameters
    ----------
    calculator
        An ASE calculator, or a function without arguments that makes one. The function is called
        on first use, once in each process, so that a potential of a function can be pickled
        whatever the calculator itself can.
    conservative, energy_kind, energy_reference, elements
        What the calculator cannot say of itself; see :class:`~ase_nnp.Potential`. Elements are
        atomic numbers or symbols.
    outputs
        Of energy, forces, stress, energies, magmoms and charges; by default those of the first
        three that the calculator declares, and of ASE's own calculators the atomic energies too.
    required_inputs
        What it reads beside geometry: ``charge`` and ``spin`` (from ``atoms.info``), ``tags``,
        ``initial_charges``, ``initial_magmoms``. Nothing else is passed on.
    name
        For messages and tables; by default the calculator's class.

    Raises
    ------
    ConfigError
        This is no calculator, or it gives no energy, or ``required_inputs`` is wrong.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase.calculators.emt import EMT
    >>> import ase_nnp
    >>> model = ase_nnp.from_ase(EMT)
    >>> round(ase_nnp.predict(model, [bulk("Cu")])[0]["energy"], 3)
    -0.006
    """
    strange = sorted(set(required_inputs) - set(READS))
    if strange:
        raise ConfigError(
            f"required_inputs holds {', '.join(strange)}; it may hold {', '.join(READS)}."
        )

    model = CalculatorPotential(calculator, name)
    declared = list(model.calculator.implemented_properties)
    wanted = _usual(model.calculator) if outputs is None else tuple(outputs)
    model.outputs = tuple(k for k in KNOWN if k in wanted and k in declared)
    missing = sorted(set(outputs or ()) - set(model.outputs))
    if missing or "energy" not in model.outputs:
        raise ConfigError(
            f"{model.name} gives {', '.join(declared) or 'nothing'}; "
            f"{', '.join(missing) or 'energy'} was wanted."
        )

    model.conservative = conservative and "forces" in model.outputs
    model.energy_kind, model.energy_reference = energy_kind, energy_reference
    model.elements = None if elements is None else _numbers(elements)
    model.required_inputs = tuple(required_inputs)
    return model


def _numbers(elements: Collection[int | str]) -> frozenset[int]:
    numbers = [atomic_numbers.get(z, 0) if isinstance(z, str) else z for z in elements]
    if 0 in numbers:
        raise ConfigError(f"elements are atomic numbers or chemical symbols, not {list(elements)}.")
    return frozenset(int(z) for z in numbers)


def _usual(calculator: Any) -> tuple[str, ...]:
    """Return what is passed on by default: ASE's own calculators give what they declare."""
    home = type(calculator).__module__

    # A mixing calculator declares what its parts do, and those may be anybody's.
    own = home.startswith("ase.calculators.") and home != "ase.calculators.mixing"
    return (*USUAL, "energies") if own else USUAL


class CalculatorPotential(Potential):
    """An ASE calculator behind the potential's interface; made by :func:`from_ase`."""

    cutoff = 0.0  # the calculator finds its own neighbors

    def __init__(self, calculator: Any, name: str = "") -> None:
        super().__init__()
        self._dtype = torch.float64
        self._made: Any = None
        self._config: Mapping[str, Any] = {}
        self._factory: Callable[[], Any] | None = None

        if isinstance(calculator, type) or not hasattr(calculator, "get_property"):
            if not callable(calculator):
                raise ConfigError(
                    f"An ASE calculator or a function that makes one was expected, not "
                    f"{type(calculator).__name__}."
                )
            self._factory = calculator
        else:
            self._made = calculator

        self.name = name or type(self.calculator).__name__
        # Stands for the weights in hashes: there are none to look at.
        self._hash = f"ase calculator {self.name}"
        super().train(False)

    @property
    def calculator(self) -> Any:
        """The calculator, made on first use."""
        if self._made is None:
            assert self._factory is not None
            made = self._factory()
            if not hasattr(made, "get_property"):
                raise ConfigError(
                    f"The function returned {type(made).__name__}, which is no ASE calculator."
                )
            self._made = made
        return self._made

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self._factory is not None:
            # Calculators hold sockets, files and threads; the other process makes its own.
            state["_made"] = None
        return state

    @property
    def config(self) -> Mapping[str, Any]:  # type: ignore[override]
        """What a family made the calculator from.

        Raises
        ------
        CheckpointError
            No family made it, and what did is unknown.
        """
        if self.family:
            return self._config
        # Raised on access, so that whoever tries to save the model learns why it cannot be.
        raise CheckpointError(
            f"{self.name} is a calculator of ASE, which cannot be saved. Keep the lines that make "
            "it, and pass it to ase_nnp.from_ase again."
        )

    @config.setter
    def config(self, config: Mapping[str, Any]) -> None:
        self._config = config
        self._hash = f"ase calculator {self.family} {json.dumps(config, sort_keys=True)}"

    def train(self, mode: bool = True) -> Self:
        """Refuse training; evaluation mode is what it is always in."""
        if mode:
            raise ConfigError(f"{self.name} is a calculator of ASE, which cannot be trained.")
        return super().train(False)

    def make_graph(
        self, atoms: Atoms | Sequence[Atoms], device: torch.device | str | None = None
    ) -> AtomGraph:
        """Return the structures in double precision, without any edges."""
        structures: list[Any] = [atoms] if hasattr(atoms, "get_positions") else list(atoms)
        self.check_elements(structures)

        # In float64, whatever the model's precision: the numbers must be the calculator's own.
        empty = np.zeros((2, 0), dtype=np.int64)
        graph = AtomGraph.from_edges(
            structures,
            empty,
            empty.T,
            dtype=torch.float64,
            device="cpu",
            inputs=self.required_inputs,
        )
        extra = {
            key: torch.from_numpy(np.concatenate([_initial(a, key) for a in structures]))
            for key in self.required_inputs
            if key.startswith("initial_")
        }
        return graph.replace(extra=extra)

    def forward(self, graph: AtomGraph) -> dict[str, Tensor]:
        """Return everything in :attr:`outputs`."""
        return self.compute(graph, self.outputs)

    def compute(self, graph: AtomGraph, properties: Collection[str]) -> dict[str, Tensor]:
        """Ask the calculator for ``properties`` of each structure in turn.

        Raises
        ------
        PredictionError
            The calculator failed, or gradients were asked for.
        """
        # Without this a gradient of zero would come out, with no word.
        if graph.positions.requires_grad or graph.cell.requires_grad:
            raise PredictionError(
                f"{self.name} is a calculator of ASE: its numbers cannot be differentiated."
            )
        wanted = [p for p in self.outputs if p in properties]
        every = [self._one(atoms, wanted) for atoms in structures_of(graph, self.required_inputs)]
        result = {}
        for key in wanted:
            rows = [r[key] for r in every]
            joined = np.concatenate(rows) if key in PER_ATOM else np.stack(rows)
            result[key] = torch.from_numpy(joined).to(graph.positions.device)
        return result

    def _one(self, atoms: Atoms, wanted: Sequence[str]) -> dict[str, np.ndarray]:
        rows: dict[str, np.ndarray] = {}
        volume = has_volume(atoms)
        if self.required_inputs and hasattr(self.calculator, "reset"):
            self.calculator.reset()  # most do not notice that atoms.info changed

        for key in wanted:
            if key == "stress" and not volume:
                rows[key] = np.zeros((3, 3))
                continue
            try:
                value = self.calculator.get_property(key, atoms)
            except AseNnpError:
                raise
            except Exception as error:  # a calculator may raise anything
                raise PredictionError(
                    f"{self.name} failed for {atoms.get_chemical_formula()}: "
                    f"{type(error).__name__}: {error}"
                ) from error
            rows[key] = self._checked(key, value, atoms)
        return rows

    def _checked(self, key: str, value: Any, atoms: Atoms) -> np.ndarray:
        from ase.stress import voigt_6_to_full_3x3_stress

        array = np.array(value if value is not None else np.nan, dtype=np.float64)
        if key == "stress" and array.shape == (6,):
            array = np.asarray(voigt_6_to_full_3x3_stress(array))
        shape = {"energy": (), "forces": (len(atoms), 3), "stress": (3, 3)}.get(key, (len(atoms),))

        # Some calculators return the energy as an array of one number.
        if array.size == 1 and shape == ():
            array = array.reshape(())
        if array.shape != shape:
            raise PredictionError(
                f"{self.name} returned '{key}' of shape {array.shape}; {shape} was expected."
            )
        return array


def _initial(atoms: Atoms, key: str) -> np.ndarray:
    values = (
        atoms.get_initial_charges()
        if key == "initial_charges"
        else atoms.get_initial_magnetic_moments()
    )
    return np.asarray(values, dtype=np.float64)
