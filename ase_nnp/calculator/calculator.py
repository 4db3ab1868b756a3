"""NNPCalculator: a potential behind ASE's calculator interface."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import (
    CalculationFailed,
    Calculator,
    CalculatorSetupError,
    PropertyNotImplementedError,
    all_changes,
)
from ase.constraints import FixAtoms
from ase.outputs import Properties
from ase.stress import full_3x3_to_voigt_6_stress
from numpy.typing import NDArray

from ase_nnp.calculator.results import Results
from ase_nnp.errors import (
    CheckpointError,
    ConfigError,
    PredictionError,
    StructureError,
    UnsupportedElementError,
)
from ase_nnp.models.corrections import Corrections, add_corrections
from ase_nnp.models.files import load_model, model_hash
from ase_nnp.models.potential import Potential
from ase_nnp.models.predictor import Predictor
from ase_nnp.models.structures import has_volume
from ase_nnp.registry.ancestry import fine_tuned_from

__all__ = ["NNPCalculator"]


class _NoElement(UnsupportedElementError, CalculatorSetupError):
    """An element the model does not know, as ASE's own error too."""


class _BadStructure(StructureError, CalculatorSetupError):
    """Atoms no model can answer for, as ASE's own error too."""


class _NoAnswer(PredictionError, CalculationFailed):
    """An answer that is none, as ASE's own error too."""


class NNPCalculator(Calculator):  # type: ignore[misc]
    """Any installed model as an ASE calculator.

    Parameters
    ----------
    model
        Anything that :func:`ase_nnp.load_model` takes: a :class:`~ase_nnp.Potential`, the name of
        a family or of a pretrained model, ``"FAMILY:CHECKPOINT"``, a path, another calculator of
        ours, or None for the default model. A pretrained model has the error bars that it comes
        with, whichever way it is named.
    checkpoint, config, weights
        With a family's name: as in :func:`ase_nnp.load_model`.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    dtype
        ``"float32"`` (default) or ``"float64"``.
    uncertainty
        A fitted uncertainty for this model, with or without its corrections, or the path of one:
        adds ``energy_std`` and ``forces_std`` to ``results``. The name of a method that needs no
        fit, or a mapping with its ``method`` and options. False: none, also on the default model.
    corrections
        Terms to add, by name: ``["zbl"]``; a functional follows a colon (``"d3bj:pbe"``). Or a
        mapping from names to parameters.
    precision
        None, ``"tf32"`` or ``"bf16"``; for this calculator's calls only.
    compile
        As in :class:`~ase_nnp.Predictor`: True for machine code on the CPU, without error bars.
    options
        Further keys of the family's configuration (``frames=8``).

    Notes
    -----
    Results are in eV, eV/Angstrom and eV/Angstrom^3, with ASE's signs and order. Energy and
    forces come from one model call; so does the stress once it has been asked for.
    Atoms are recalculated when positions, numbers, cell or pbc change, or what else the model
    reads: charge and spin in ``atoms.info``, tags, fixed atoms, initial charges. Nothing is ever
    written to the atoms.

    ``energy`` is what the model was trained on: see ``calc.energy_kind`` (total, or adsorption
    energy) and ``calc.energy_reference``.

    Raises
    ------
    UnsupportedElementError, StructureError
        Also ASE's CalculatorSetupError.
    PredictionError
        Also ASE's CalculationFailed.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase_nnp import NNPCalculator
    >>> copper = bulk("Cu")
    >>> copper.calc = NNPCalculator()
    >>> -4.3 < copper.get_potential_energy() < -3.9, "energy_std" in copper.calc.results
    (True, True)
    >>> copper.calc.energy_kind
    'total'
    """

    nolabel = True
    name = "nnp"
    # Not the base class's list, which some packages extend for everybody.
    implemented_properties: list[str] = []  # noqa: RUF012

    def __init__(
        self,
        model: Any = None,
        *,
        checkpoint: str | Path | None = None,
        config: Any = None,
        weights: str | Path | None = None,
        device: str = "auto",
        dtype: str | None = None,
        uncertainty: Any = None,
        corrections: Corrections = (),
        precision: str | None = None,
        compile: bool | str = False,
        **options: Any,
    ) -> None:
        super().__init__()
        model = load_model(
            model,
            checkpoint=checkpoint,
            config=config,
            weights=weights,
            device=device,
            dtype=dtype,
            uncertainty=uncertainty is None,
            **options,
        )

        if uncertainty is None or uncertainty is False:
            model = add_corrections(model, corrections)
        else:
            model = _with_error_bars(model, uncertainty, corrections)
        self._setup(model, precision, compile)

    def _setup(self, model: Potential, precision: str | None, compile: bool | str) -> None:
        self._predictor = Predictor(model, precision=precision, compile=compile)
        outputs = list(model.outputs)
        if "energy" in outputs:
            # ASE's filters and optimizers ask for the free energy with force_consistent.
            outputs.insert(outputs.index("energy") + 1, "free_energy")
        self.implemented_properties = outputs
        self._want_stress = False
        self._seen: dict[str, Any] = {}
        self.parameters.update(describe_model(model))

    @property
    def model(self) -> Potential:
        """The potential; shared by clones."""
        return self._predictor.model

    @property
    def energy_kind(self) -> str:
        """What ``energy`` is: ``"total"``, ``"adsorption"``, ``"formation"`` or ``"none"``."""
        return self.model.energy_kind

    @property
    def energy_reference(self) -> str:
        """To what a referenced energy is referenced."""
        return self.model.energy_reference

    @property
    def model_calls(self) -> int:
        """How often the model has been evaluated."""
        return self._predictor.calls

    def clone(self) -> Self:
        """Return an independent calculator that shares this one's model (for NEB images)."""
        twin = type(self).__new__(type(self))
        Calculator.__init__(twin)
        twin._setup(self.model, self._predictor.precision, self._predictor.compile)
        twin._want_stress = self._want_stress
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        import copy

        twin = self.clone()
        memo[id(self)] = twin
        twin.atoms = copy.deepcopy(self.atoms, memo)
        twin.results = copy.deepcopy(self.results, memo)
        twin._seen = copy.deepcopy(self._seen, memo)
        return twin

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """Return parameters that any file format can hold, with the model's hash."""
        # Over all weights: computed when something is written, not at every start.
        if "model_hash" not in self.parameters:
            self.parameters["model_hash"] = model_hash(self.model.unwrapped)
        return dict(self.parameters)

    def set(self, **changes: Any) -> dict[str, Any]:
        """Refuse every change: a calculator is what it was made from.

        ASE's files keep :attr:`parameters` beside the numbers, so these must stay true.

        Raises
        ------
        ConfigError
            A parameter would change.
        """
        # ASE's own code sets what is set already (calculators read back from files), so equal
        # values pass.
        differ = {k: v for k, v in changes.items() if self.parameters.get(k, None) != v}
        if differ:
            raise ConfigError(
                f"{', '.join(sorted(differ))} cannot be set on a calculator that exists; make a "
                f"new one: NNPCalculator({self.parameters.get('model', '')!r}, ...)."
            )
        return {}

    def export_properties(self) -> Properties:
        """Return the results that ASE has names for; it refuses others, as error bars are."""
        return Properties(dict(self.results))

    def __repr__(self) -> str:
        known = self.parameters
        said = [known["model"], known.get("pretrained") or known["source"], known["dtype"]]
        if known.get("uncertainty"):
            said.append(f"uncertainty={known['uncertainty']}")
        return f"{type(self).__name__}({', '.join(dict.fromkeys(filter(None, said)))})"

    def get_hessian(self, atoms: Atoms | None = None) -> NDArray[np.float64]:
        """Return the second derivatives of the energy, (3 N, N, 3) in eV/Angstrom^2.

        See :func:`ase_nnp.calculator.derivatives.hessian`.
        """
        from ase_nnp.calculator.derivatives import hessian

        return hessian(self.model, self._atoms_or_last(atoms))

    def get_descriptors(self, atoms: Atoms | None = None, **options: Any) -> NDArray[np.float64]:
        """Return invariant features of the atoms in the model, (N, F).

        See :func:`ase_nnp.calculator.derivatives.descriptors`, which also takes the options.
        """
        from ase_nnp.calculator.derivatives import descriptors

        return descriptors(self.model, self._atoms_or_last(atoms), **options)

    def _atoms_or_last(self, atoms: Atoms | None) -> Atoms:
        chosen = self.atoms if atoms is None else atoms
        if chosen is None:
            raise CalculatorSetupError("There are no atoms to calculate.")
        return chosen

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what changed since the last calculation, of what the model reads."""
        if self.atoms is None:
            return list(all_changes)

        # Not by ASE's compare_atoms, which also copies and compares arrays that no model reads.
        old, changes = self.atoms, []
        if not np.array_equal(atoms.numbers, old.numbers):
            changes.append("numbers")
        elif not (np.abs(atoms.positions - old.positions) <= tol).all():
            changes.append("positions")
        if not np.array_equal(atoms.cell[:], old.cell[:]):
            changes.append("cell")
        if not np.array_equal(atoms.pbc, old.pbc):
            changes.append("pbc")

        # Looked at last: what is read beside geometry is rare, and gathering it costs.
        if not changes:
            now = self._read(atoms)
            changes = [k for k, v in now.items() if not np.array_equal(v, self._seen[k])]
        return changes

    def _read(self, atoms: Atoms) -> dict[str, Any]:
        """Return what the model reads beside geometry, as a copy."""
        seen: dict[str, Any] = {}
        for name in self.model.required_inputs:
            if name == "tags":
                seen[name] = atoms.get_tags()
            elif name == "fixed":
                held = [c.index for c in atoms.constraints if isinstance(c, FixAtoms)]
                seen[name] = np.unique(np.concatenate(held)) if held else np.zeros(0, int)

            # Through ASE's getters, which give zeros where the arrays are not there.
            elif name in ("initial_charges", "initial_magmoms"):
                seen[name] = (
                    atoms.get_initial_charges()
                    if "charges" in name
                    else (atoms.get_initial_magnetic_moments())
                )
            else:
                value = atoms.info.get(name)
                seen[name] = None if value is None else np.array(value)
        return seen

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Evaluate the model once, for ``properties`` or everything but the stress."""
        self.results = Results()
        atoms = atoms if atoms is not None else self.atoms
        if atoms is None:
            raise CalculatorSetupError("There are no atoms to calculate.")
        properties = properties or [p for p in self.implemented_properties if p != "stress"]
        for name in properties:
            if name not in self.implemented_properties:
                raise PropertyNotImplementedError(f"The model does not give '{name}'.")
        volume = has_volume(atoms)
        if not volume and any(p.startswith("stress") for p in properties):
            raise PropertyNotImplementedError(
                f"Stress needs a cell with a volume; this structure has {atoms.cell.rank} "
                "independent lattice vectors."
            )

        # Results of before must not outlive a calculation that fails.
        self.atoms = None

        # Who asks once asks again (cell filters, NPT): then it comes with the forces, in one
        # backward pass.
        self._want_stress |= any(p.startswith("stress") for p in properties)
        stress = self._want_stress and volume
        wanted = [p for p in self.model.outputs if stress or not p.startswith("stress")]
        try:
            answers = self._predictor.single(atoms, wanted)
        except UnsupportedElementError as error:
            raise _NoElement(str(error)) from error
        except StructureError as error:
            raise _BadStructure(str(error)) from error
        except PredictionError as error:
            raise _NoAnswer(str(error)) from error
        results = Results()
        for name, value in answers.items():
            if name.startswith("stress") and np.shape(value)[-2:] == (3, 3):
                value = full_3x3_to_voigt_6_stress(value)
            results[name] = value
        if "energy" in results:
            # There are no electrons, so no smearing: both are one number.
            results["free_energy"] = results["energy"]
        made_by: Any = getattr(self.model, "uq", None)
        if made_by is not None:
            results["uq"] = dict(made_by)
        self._seen = self._read(atoms)
        self.atoms = atoms.copy()
        self.results = results


def _with_error_bars(model: Potential, uncertainty: Any, corrections: Corrections) -> Potential:
    from ase_nnp.uncertainty import attach

    try:
        return add_corrections(attach(model, uncertainty), corrections)
    except CheckpointError:
        if not corrections:
            raise
        # Not those of the model alone: they were fitted with the corrections on, or not for it.
        return attach(add_corrections(model, corrections), uncertainty)


def describe_model(model: Potential) -> dict[str, Any]:
    """Return what files keep of a model: family, where its weights are from, uncertainty, dtype."""
    inner = model.unwrapped
    described: dict[str, Any] = {
        "model": inner.family or type(inner).__name__,
        "source": str(inner.provenance.get("source", "")),
        "dtype": str(model.dtype).removeprefix("torch."),
    }

    # janus-core writes its keys (arch_energy, ...) for calculators that name an architecture.
    described["arch"] = described["model"]
    if model.corrections:
        described["corrections"] = list(model.corrections)

    pretrained = inner.provenance.get("pretrained")
    if pretrained:
        described["pretrained"] = str(pretrained)
    elif start := fine_tuned_from(inner.provenance):
        described["fine_tuned_from"] = start

    layers: Any = getattr(model, "uq", None)
    if layers:
        described["uncertainty"] = str(layers["method"])
    return described
