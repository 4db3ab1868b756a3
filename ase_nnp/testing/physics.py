"""Extensive energies, symmetries, gradients, periodic boundaries: the physics of any potential."""

from __future__ import annotations

import contextlib

import numpy as np
from ase import Atoms
from ase.build import bulk, make_supercell
from scipy.spatial.transform import Rotation

from ase_nnp.errors import StructureError
from ase_nnp.models.potential import Potential
from ase_nnp.testing.outcomes import NotApplicable
from ase_nnp.testing.subject import Subject, check, compare, relative

__all__: list[str] = []


@check(0.0)
def check_outputs_are_what_was_declared(subject: Subject) -> float:
    """Every declared output is returned, finite, with the documented shape."""
    atoms = subject.crystal()

    # Stress is left out of predictions unless asked for.
    results = subject.predict(atoms, stress=True)[0]
    missing = set(subject.model.outputs) - set(results)
    if missing:
        raise AssertionError(f"declared and not returned: {sorted(missing)}")
    n = len(atoms)
    shapes = {"energy": (), "forces": (n, 3), "stress": (3, 3), "dipole": (3,)}
    shapes |= {k: (n,) for k in ("energies", "charges", "magmoms")}
    wrong = {
        k: np.shape(results[k])
        for k, s in shapes.items()
        if k in results and np.shape(results[k]) != s
    }
    if wrong:
        raise AssertionError(f"wrong shapes: {wrong}")
    return 0.0


@check(1e-10)
def check_repeated_calls_agree(subject: Subject) -> float:
    """The same atoms give the same results."""
    first, second = (subject.predict(subject.crystal())[0] for _ in range(2))
    return compare(first, second)


@check(1e-9)
def check_energy_is_extensive(subject: Subject) -> float:
    """Two groups of atoms that do not see each other have the sum of their energies."""
    if subject.scalar != "energy":
        raise NotApplicable("a property per structure is not extensive")
    if subject.periodic_only():
        raise NotApplicable("the model takes crystals only")
    one = subject.molecule()
    other = subject.molecule()[[0, 1, 2]]
    far = other.copy()

    # Beyond all layers of messages: a network of four layers sees four cutoffs.
    far.positions += (5 * subject.model.cutoff + 40.0, 0, 0)
    return relative(subject.value(one + far), subject.value(one) + subject.value(other))


@check(1e-9)
def check_atomic_energies_add_up(subject: Subject) -> float:
    """Where there are energies of atoms, their sum is the energy, in a batch too."""
    if "energies" not in subject.model.outputs:
        raise NotApplicable("no energies of atoms")
    structures = [subject.crystal(), single(subject), subject.slab()]
    results = subject.predict(*structures)
    for one, atoms in zip(results, structures, strict=True):
        if one["energies"].shape != (len(atoms),):
            raise AssertionError(f"{len(atoms)} atoms have energies {one['energies'].shape}")
    return max(relative(one["energies"].sum(), one["energy"]) for one in results)


@check(1e-9)
def check_energy_is_invariant_under_rotation(subject: Subject) -> float:
    """Turning the whole structure changes no energy."""
    figures = []
    for atoms in (subject.finite(), subject.crystal()):
        turned, _ = rotated(atoms)
        figures.append(relative(subject.value(turned), subject.value(atoms)))
    return max(figures)


def rotated(atoms: Atoms) -> tuple[Atoms, np.ndarray]:
    """The structure turned as a whole, and the rotation matrix."""
    matrix = Rotation.from_rotvec([0.7, -1.1, 0.4]).as_matrix()
    turned = atoms.copy()
    turned.set_cell(atoms.cell @ matrix.T)
    turned.positions = atoms.positions @ matrix.T
    return turned, matrix


@check(1e-9)
def check_energy_is_invariant_under_translation(subject: Subject) -> float:
    """Moving everything, or one atom by a lattice vector, changes nothing."""
    figures: list[float] = []
    for atoms in (subject.finite(), subject.crystal(), subject.slab()):
        if atoms.cell.rank < 3 and subject.periodic_only():
            continue
        before = subject.predict(atoms)[0]
        moved = atoms.copy()
        moved.positions += (1.234, -0.567, 0.891)
        figures.append(compare(subject.predict(moved)[0], before))
        # Structures are brought to the origin on their way into a graph, so the model itself is
        # asked too, where its graph is nothing but positions and edges.
        if type(subject.model).make_graph is Potential.make_graph:
            graph = subject.model.make_graph([atoms])
            shift = graph.positions.new_tensor([1.234, -0.567, 0.891])
            away = graph.replace(positions=graph.positions + shift)
            name = subject.scalar
            one, two = (subject.model.compute(g, (name,))[name] for g in (graph, away))
            figures.append(relative(two.detach().numpy(), one.detach().numpy()))
        if atoms.pbc[0]:
            hopped = atoms.copy()
            hopped.positions[1] += 2 * atoms.cell[0] - atoms.cell[1]
            figures.append(compare(subject.predict(hopped)[0], before))

    return max(figures)


@check(1e-9)
def check_energy_is_invariant_under_permutation(subject: Subject) -> float:
    """The order of the atoms does not matter; forces follow their atoms."""
    atoms = subject.crystal()
    order = [2, 0, 3, 1]
    one, two = subject.predict(atoms)[0], subject.predict(atoms[order])[0]
    mapped = {k: v[order] if k in subject.model.per_atom else v for k, v in one.items()}
    return compare(two, mapped)


@check(1e-6)
def check_forces_are_minus_the_gradient(subject: Subject) -> float:
    """Forces of a conservative model are -dE/dx by central differences."""
    if not subject.has_forces:
        raise NotApplicable("no forces")
    if not subject.model.conservative:
        raise NotApplicable("the model declares direct forces")
    figures = []
    for atoms in (subject.molecule(), subject.crystal(), subject.slab()):
        forces = subject.predict(atoms)[0]["forces"]
        step, numeric = 1e-4, {}

        # One component in each direction; all of them would take six times as long and find no
        # more.
        for atom, axis in ((0, 0), (1, 2), (len(atoms) - 1, 1)):
            energies = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[atom, axis] += sign * step
                energies.append(subject.value(moved))
            numeric[atom, axis] = -(energies[0] - energies[1]) / (2 * step)
        scale = max(np.abs(forces).max(), 1e-3)
        figures.append(max(abs(forces[k] - v) for k, v in numeric.items()) / scale)
    return float(max(figures))


@check(1e-6)
def check_stress_is_the_strain_derivative(subject: Subject) -> float:
    """Stress, a direct one too, is (1/V) dE/d(strain) by central differences, and symmetric."""
    if "stress" not in subject.model.outputs:
        raise NotApplicable("no stress")
    atoms = subject.crystal()
    stress = subject.predict(atoms, stress=True)[0]["stress"]
    figures = [relative(stress, stress.T)]
    for i, j in ((0, 0), (2, 2), (1, 2), (0, 1)):
        energies = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))

            # Half on either side of the diagonal: for i = j both halves meet.
            strain[i, j] += sign * 0.5e-4
            strain[j, i] += sign * 0.5e-4
            moved = atoms.copy()
            moved.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
            energies.append(subject.value(moved))
        numeric = (energies[0] - energies[1]) / (2e-4 * atoms.get_volume())
        # At most 2, for a stress that has nothing to do with the energy.
        scale = max(np.abs(stress).max(), abs(numeric), 1e-5)
        figures.append(abs(stress[i, j] - numeric) / scale)
    return float(max(figures))


@check(1e-9)
def check_batching_changes_nothing(subject: Subject) -> float:
    """A structure's results do not depend on what shares its batch."""
    structures = [subject.crystal(), single(subject), subject.slab()]
    if not subject.periodic_only():
        structures.insert(1, subject.molecule())
    # Some models take another way for a large batch.
    together = subject.predict(*structures, *[single(subject)] * 96)[: len(structures)]
    alone = [subject.predict(one)[0] for one in structures]
    return max(compare(a, b) for a, b in zip(together, alone, strict=True))


def single(subject: Subject) -> Atoms:
    """A crystal with one atom in a small, skewed cell."""
    return bulk("Cu", "fcc", a=3.6).__class__(
        [subject.numbers[0]], cell=[[0, 1.8, 1.8], [1.8, 0, 1.8], [1.8, 1.8, 0]], pbc=True
    )


@check(1e-8)
def check_supercell_equals_primitive(subject: Subject) -> float:
    """A crystal by other cells has the same energy per atom, forces and stress."""
    atoms = subject.crystal()

    # Skewed as well as repeated: a wrong convention of rows and columns shows only there. Large,
    # because some models take another way for many atoms.
    figures, one = [], subject.predict(atoms)[0]
    for matrix in ([[1, 1, 0], [0, 2, 0], [0, 0, 1]], 3 * np.eye(3)):
        large = make_supercell(atoms, matrix)
        two = subject.predict(large)[0]
        factor = len(large) / len(atoms) if subject.scalar == "energy" else 1.0
        figures.append(relative(two[subject.scalar], factor * one[subject.scalar]))
        if subject.has_forces:
            home = [matching_atom(p, atoms) for p in large.positions]
            figures.append(relative(two["forces"], one["forces"][home]))

    # The same crystal by vectors in another order, which is left-handed: volumes have no sign.
    left = atoms.copy()
    left.set_cell(atoms.cell[[1, 0, 2]])
    one, two = (subject.predict(a, stress=True)[0] for a in (atoms, left))
    return max(*figures, compare(two, one))


def matching_atom(position: np.ndarray, atoms: Atoms) -> int:
    """Index of the atom of ``atoms`` whose image is at ``position``."""
    scaled = np.linalg.solve(np.asarray(atoms.cell).T, (atoms.positions - position).T).T
    return int(np.argmin(np.abs(scaled - scaled.round()).sum(axis=1)))


@check(1e-6)
def check_isolated_atom(subject: Subject) -> float:
    """One atom alone has a finite energy and no force."""
    if subject.periodic_only():
        raise NotApplicable("the model takes crystals only")
    results = subject.predict(Atoms([subject.numbers[0]], positions=[[0.1, 0.2, 0.3]]))[0]
    if subject.has_forces and results["forces"].shape != (1, 3):
        raise AssertionError(f"forces of one atom have shape {results['forces'].shape}")
    return float(np.abs(results["forces"]).max()) if subject.has_forces else 0.0


@check(1e-9)
def check_mixed_pbc(subject: Subject) -> float:
    """A slab equals the same one with a very thick vacuum; two cells of a slab or wire add up."""
    slab = subject.slab()
    thick = slab.copy()

    # Thick enough that no layer of messages reaches the image.
    thick.set_cell([slab.cell[0], slab.cell[1], [0, 0, 40 + 4 * subject.model.cutoff]])
    thick.pbc = True
    if subject.periodic_only():
        raise NotApplicable("the model takes crystals only")
    open_cell = slab.copy()
    open_cell.set_cell([slab.cell[0], slab.cell[1], [0, 0, 0]])
    wanted = subject.predict(thick)[0]
    figures: list[float] = [compare(subject.predict(s)[0], wanted) for s in (slab, open_cell)]
    wide = make_supercell(slab, [[2, 0, 0], [0, 1, 0], [0, 0, 1]])
    factor = 2.0 if subject.scalar == "energy" else 1.0
    figures.append(relative(subject.value(wide), factor * wanted[subject.scalar]))

    # A wire is no molecule: what a next cell adds shows that it was seen.
    wire = slab.copy()
    wire.pbc = (True, False, False)
    longer = make_supercell(wire, [[2, 0, 0], [0, 1, 0], [0, 0, 1]])
    with contextlib.suppress(StructureError):  # sums over a lattice may have no form for wires
        figures.append(relative(subject.value(longer), factor * subject.value(wire)))
    return max(figures)


@check(1e-6)
def check_cutoff_is_smooth(subject: Subject) -> float:
    """The energy does not jump when an atom leaves the cutoff."""
    if subject.scalar != "energy":
        raise NotApplicable("a property model")
    if subject.periodic_only():
        raise NotApplicable("the model takes crystals only")
    a, b, _ = subject.numbers
    values = []

    # On both sides of the cutoff, once with neighbors about and once with a single bond.
    for step in (-1e-5, 1e-5):
        distance = subject.model.cutoff + step
        base = subject.molecule()
        values.append(subject.value(base + Atoms([b], positions=[[-distance, 0, 0]])))
        values.append(subject.value(Atoms([a, b], positions=[[0, 0, 0], [distance, 0, 0]])))
    return max(relative(values[0], values[2]), relative(values[1], values[3]))
