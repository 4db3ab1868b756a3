"""The search for minima: right answers where the truth is known, reasons, kills, other judges."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, fcc100, fcc111, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.geometry import permute_axes
from ase.optimize import BFGS

import ase_nnp
from ase_nnp import from_ase
from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.metrics.adsorbml import adsorbml_metrics
from ase_nnp.models.potential import Potential
from ase_nnp.workflows.adsorption import adsorb, adsorbate, rejudge, surface, write_dft_inputs
from ase_nnp.workflows.adsorption.gate import hole, left_the_question, strange, too_low
from ase_nnp.workflows.adsorption.references import References
from ase_nnp.workflows.adsorption.slabs import prepared


@pytest.fixture(scope="module")
def slab():
    """A small slab of copper, its surface layer free."""
    return prepared(fcc111("Cu", (2, 2, 3), vacuum=8.0))


@pytest.fixture(scope="module")
def oxygen(slab):
    """Oxygen on it, with EMT as the model."""
    return adsorb(slab, "O", from_ase(EMT), placements=12)


def emt(atoms):
    twin = atoms.copy()
    twin.calc = EMT()
    return twin


@pytest.mark.slow
def test_the_best_minimum_is_that_of_a_relaxation_from_every_site(oxygen, slab):
    # By hand, with ASE alone: an oxygen on each of ASE's sites, relaxed.
    ends = []
    for site in ("ontop", "bridge", "fcc", "hcp"):
        atoms = fcc111("Cu", (2, 2, 3), vacuum=8.0)
        add_adsorbate(atoms, "O", 1.6, site)
        atoms.set_constraint(FixAtoms(mask=[a.tag > 1 for a in atoms]))
        atoms.positions[-1] += (0.02, 0.03, 0)
        atoms = emt(atoms)
        BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)
        ends.append(atoms.get_potential_energy())
    clean = emt(slab)
    BFGS(clean, logfile=None).run(fmax=0.01, steps=200)
    gas = {}
    for name in ("H2O", "H2"):
        gas[name] = emt(molecule(name))
        BFGS(gas[name], logfile=None).run(fmax=0.005)
    expected = min(ends) - clean.get_potential_energy()
    expected -= gas["H2O"].get_potential_energy() - gas["H2"].get_potential_energy()
    assert oxygen.best.energy == pytest.approx(expected, abs=0.01)
    assert oxygen.reaction == "* + H2O(g) - H2(g) -> O*"


def test_minima_are_distinct_ranked_and_described(oxygen):
    energies = [one.energy for one in oxygen.minima]
    assert energies == sorted(energies)
    sites = [one.geometry.site for one in oxygen.minima]
    assert {"fcc hollow Cu3", "hcp hollow Cu3"} <= set(sites)
    assert len(set(sites)) == len(sites)
    best = oxygen.best.geometry
    assert len(best.bonds) == 3
    for _, pair, length in best.bonds:
        assert pair == "O-Cu"
        assert 1.8 < length < 2.3
    assert best.tilt is None  # a single atom
    assert oxygen.best.std is None  # EMT has no error bar, and says so
    assert "No ±" in oxygen.error_bar
    assert oxygen.settings["model"] == "EMT"


def test_every_placement_is_accounted_for(oxygen):
    rejected = [k for one in oxygen.rejected for k in one.placements]
    accepted = [k for one in oxygen.minima for k in one.placements]
    # One that stopped on a saddle is there, and again in the minimum to which a push led.
    assert set(rejected) | set(accepted) == set(range(12))
    assert len(set(accepted)) == len(accepted)


@pytest.mark.slow
def test_the_same_call_gives_the_same_ranking(slab):
    one, again = (adsorb(slab, "O", from_ase(EMT), placements=2, steps=20) for _ in range(2))
    assert again.as_dict() == one.as_dict()


def test_no_atom_of_the_input_is_touched(slab):
    before = slab.copy()
    adsorb(slab, "H", from_ase(EMT), placements=2, steps=5)
    assert slab == before
    assert slab.calc is None


def test_a_crystal_is_relaxed_cut_and_named():
    result = adsorb("Cu", "H", from_ase(EMT), miller=(1, 0, 0), placements=1, folder=None)
    assert result.system.startswith("Cu-100-")
    assert result.system.endswith("_H")
    assert result.settings["surface"]["miller"] == [1, 0, 0]
    # EMT's own lattice constant of copper (its literature value, 3.589), not ASE's 3.61.
    nearest = np.sort(result.slab.get_all_distances(mic=True)[0])[1]
    assert nearest * np.sqrt(2) == pytest.approx(3.589, abs=0.02)


class Doubtful(Potential):
    """Springs to the slab, with a hole at 0.5 Angstrom above it that only the error bar sees."""

    outputs = ("energy", "forces", "energy_std", "ood_flag", "ood_score")
    cutoff = 4.0
    energy_kind = "total"

    def __init__(self, flags: bool) -> None:
        super().__init__()
        self.flags = flags
        self.register_buffer("one", torch.ones((), dtype=torch.float64))

    def forward(self, graph):
        x = graph.positions.detach().clone().requires_grad_(True)
        with torch.enable_grad():
            guest = graph.atomic_numbers < 20
            count = graph.num_structures
            top = x.new_full((count,), -1e9).scatter_reduce(
                0, graph.batch, torch.where(guest, -1e9, x[:, 2]), "amax"
            )
            above = x[:, 2] - top[graph.batch].detach()
            host = guest & (above < 1e6)  # not a molecule alone
            height = torch.where(host, above, 1.0 + 0 * x[:, 2])
            well = 4.0 * (height - 1.0) ** 2
            each = torch.where(guest, well, 0 * well)
            energy = each.new_zeros(count).index_add(0, graph.batch, each)
            (slope,) = torch.autograd.grad(energy.sum(), x)
        strange = height.new_zeros(count).index_add(0, graph.batch, guest.to(height)) > 0
        return {
            "energy": energy.detach(),
            "forces": -slope,
            "energy_std": torch.where(strange, 0.3, 0.1).to(energy),
            "ood_score": torch.where(strange, 2.0, 0.5).to(energy),
            "ood_flag": strange & self.flags,
        }


def test_what_the_model_flags_is_rejected_as_unknown(slab):
    water = molecule("H2O")
    trusted = adsorb(slab, water, Doubtful(False), placements=2, reference=water, push=0)
    flagged = adsorb(slab, water, Doubtful(True), placements=2, reference=water, push=0)
    assert not flagged.minima
    # The molecule is flagged too, and so is all that is counted from it.
    assert flagged.unknown == ("H2O(g)",)
    assert flagged.as_dict()["unknown"] == ["H2O(g)"]
    assert trusted.unknown == ()
    reasons = {one.reason for one in flagged.rejected}
    assert "unknown to the model" in reasons
    assert "unknown to the model" not in {one.reason for one in trusted.rejected}


def test_an_interval_is_of_the_difference_of_the_energies(slab):
    result = adsorb(slab, "O", Doubtful(False), placements=2, reference=molecule("O"), push=0)
    # Three stds that nothing is known to correlate: 0.3 with the oxygen, 0.1 clean, 0.3 the atom.
    expected = np.sqrt(0.3**2 + 0.1**2 + 0.3**2)
    assert result.best.std == pytest.approx(expected, rel=1e-3)
    low, high = result.best.interval
    assert high - low == pytest.approx(2 * 1.645 * expected, rel=1e-3)
    assert "uncorrelated" in result.error_bar


@pytest.mark.parametrize("height", [0.3, 0.8, 1.0])
def test_an_atom_inside_another_is_a_hole(slab, height):
    atoms = slab.copy()
    top = atoms.positions[:, 2].argmax()
    atoms.extend(ase_nnp.workflows.adsorption.adsorbate("C").atoms)
    atoms.positions[-1] = atoms.positions[top] + (0, 0, height)
    assert "C and Cu" in hole(atoms, np.array([len(atoms) - 1]))
    atoms.positions[-1] = atoms.positions[top] + (0, 0, 1.75)
    assert not hole(atoms, np.array([len(atoms) - 1]))


def test_a_lone_energy_far_below_where_the_model_is_unsure_is_a_hole():
    assert list(too_low([-4.2, -2.5, -2.4], [0.9, 0.3, 0.3])) == [0]
    assert not too_low([-4.2, -2.5, -2.4], [0.3, 0.3, 0.3])  # as sure as of the others
    assert not too_low([-2.9, -2.5, -2.4], [0.9, 0.3, 0.3])  # not far below
    assert not too_low([-4.2, -2.5], [None, None])
    assert list(too_low([-7.0, -4.2, -2.5, -2.4, -2.3], [2.0, 0.9, 0.3, 0.3, 0.3])) == [0, 1]
    # Two structures of one hole, and one honest minimum above.
    assert list(too_low([-2.5, -7.0, -6.9], [0.3, 2.0, 1.9])) == [1, 2]


def test_without_error_bars_a_short_bond_far_below_all_others_is_a_hole():
    none = [None, None, None]
    assert list(too_low([-4.2, -2.5, -2.4], none, [0.79, 0.87, 0.9])) == [0]
    assert "0.79 sums" in too_low([-4.2, -2.5, -2.4], none, [0.79, 0.87, 0.9])[0]
    assert not too_low([-4.2, -2.5, -2.4], none, [0.92, 0.87, 0.9])  # a hollow: longer bonds
    assert not too_low([-2.9, -2.5, -2.4], none, [0.79, 0.87, 0.9])  # not far below


def test_a_minimum_much_stranger_than_the_others_is_unknown():
    assert list(strange([0.4, 0.83, 0.45])) == [1]
    assert not strange([0.3, 0.48, 0.35])  # far from the threshold
    assert not strange([0.7, 0.8, 0.75])  # all alike
    assert not strange([0.1, 0.9])  # too few to compare
    assert not strange([None, 0.9, 0.1])


def test_carbon_in_the_hollow_of_fcc_100_is_not_taken_for_intercalated():
    built = fcc100("Ni", (2, 2, 4), vacuum=8.0)
    start = prepared(built)
    start.info["adsorbate_info"] = built.info["adsorbate_info"]  # the names of ASE's places
    add_adsorbate(start, "C", 0.3, "hollow")
    tags = start.get_tags()
    tags[-1] = 2
    start.set_tags(tags)
    assert left_the_question(start, start, start[:-1]) == ""
    below = start.copy()
    below.positions[-1, 2] -= 1.2
    assert left_the_question(start, below, start[:-1]) == "intercalated"


def test_leaving_and_breaking_are_rejected():
    built = fcc111("Cu", (2, 2, 3), vacuum=10.0)
    start = prepared(built)
    start.info["adsorbate_info"] = built.info["adsorbate_info"]
    add_adsorbate(start, ase_nnp.workflows.adsorption.adsorbate("CO").atoms, 1.9, "ontop")
    start.set_tags([*start.get_tags()[:-2], 2, 2])
    clean = start[:-2]
    gone = start.copy()
    gone.positions[-2:, 2] += 4.0
    assert left_the_question(start, gone, clean) == "desorbed"
    broken = start.copy()
    broken.positions[-1] = broken.positions[-2] + (2.5, 0, 0)
    assert left_the_question(start, broken, clean) == "dissociated"


@pytest.mark.slow
def test_a_folder_continues_the_same_search_and_refuses_another(slab, tmp_path):
    few = {"placements": 2, "steps": 20}
    alone = adsorb(slab, "O", from_ase(EMT), **few)
    whole = adsorb(slab, "O", from_ase(EMT), **few, folder=tmp_path / "run")
    again = adsorb(slab, "O", from_ase(EMT), **few, folder=tmp_path / "run")
    assert again.as_dict() == whole.as_dict() == alone.as_dict()
    with pytest.raises(ConfigError, match="holds another run"):
        adsorb(slab, "O", from_ase(EMT), placements=3, steps=20, folder=tmp_path / "run")


def test_files_hold_the_ranking_and_what_was_rejected(oxygen, tmp_path):
    from ase.db import connect
    from ase.io import read

    oxygen.write(tmp_path / "o.json")
    said = json.loads((tmp_path / "o.json").read_text())
    assert said["minima"][0]["energy"] == oxygen.best.energy
    oxygen.write(tmp_path / "o.extxyz")
    best = read(tmp_path / "o.extxyz", 0)
    assert best.info["adsorption_energy"] == pytest.approx(oxygen.best.energy)
    oxygen.write(tmp_path / "o.db")
    rows = list(connect(tmp_path / "o.db").select())
    assert len(rows) == len(oxygen.minima) + len(oxygen.rejected)
    assert {row.reason for row in rows} >= {"accepted"}


def test_a_judge_that_is_the_model_agrees_and_scores_full_marks(oxygen):
    for steps in (0, 30):
        said = rejudge(oxygen, EMT(), best=2, steps=steps)
        for one in said.judged:
            assert one.judge_energy == pytest.approx(one.model_energy, abs=2e-2 if steps else 1e-4)
        target = {oxygen.system: [("truth", oxygen.best.energy)]}
        scores = adsorbml_metrics(target, said.oc20_dense(), ks=(1, 2))
        assert scores["topk"][1]["success_rate"] == 1.0


@pytest.mark.parametrize("code", ["vasp", "espresso", "gpaw"])
def test_inputs_of_density_functional_codes_hold_structures_and_fixed_atoms(oxygen, tmp_path, code):
    from ase.io import read

    folders = write_dft_inputs(oxygen, tmp_path, code, best=1)
    assert {f.name for f in folders} == {"minimum-1", "slab", "gas-H2O", "gas-H2"}
    name = {"vasp": "POSCAR", "espresso": "espresso.pwi", "gpaw": "structure.traj"}[code]
    for folder in folders:
        atoms = read(folder / name)
        assert atoms.cell.rank == 3
    adslab = read(tmp_path / "minimum-1" / name)
    assert sorted(adslab.numbers) == sorted(oxygen.best.atoms.numbers)
    fixed = [k for c in adslab.constraints for k in np.ravel(c.index)]
    assert len(set(fixed)) == 8  # two of three layers of four atoms
    if code == "vasp":
        assert (tmp_path / "slab" / "KPOINTS").read_text().split()[3:5] == ["8", "8"]
        assert (tmp_path / "gas-H2" / "KPOINTS").read_text().split()[3:6] == ["1", "1", "1"]


def test_a_molecule_that_is_given_is_relaxed_like_those_of_a_scheme():
    stretched = Atoms("O2", [(0, 0, 0), (0, 0, 1.3)])
    references = References.of([adsorbate("O")], ase_nnp.from_ase(EMT), stretched)
    (settled,) = references.gas.values()
    settled.calc = EMT()
    assert np.abs(settled.get_forces()).max() < 0.01
    assert stretched.get_distance(0, 1) == 1.3


def test_inputs_are_not_mixed_with_those_of_another_search(oxygen, tmp_path):
    write_dft_inputs(oxygen, tmp_path / "dft", best=1)
    (tmp_path / "dft" / "minimum-2").mkdir()  # of an earlier search that had more minima
    with pytest.raises(ConfigError, match=r"gas-H2, gas-H2O, minimum-1, [.]{3} already"):
        write_dft_inputs(oxygen, tmp_path / "dft", best=1)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"placements": 0}, ConfigError),
        ({"push": -1.0}, ConfigError),
        ({"reference": "nothing"}, ConfigError),
        ({"adsorbates": "*XY"}, ConfigError),
        ({"slab_or_bulk": "no-such-file.cif"}, ConfigError),
        ({"slab_or_bulk": molecule("CO")}, StructureError),
    ],
)
def test_what_cannot_be_meant_is_refused(slab, arguments, error):
    given = {"slab_or_bulk": slab, "adsorbates": "O", **arguments}
    first, second = given.pop("slab_or_bulk"), given.pop("adsorbates")
    with pytest.raises(error):
        adsorb(first, second, from_ase(EMT), **given)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metal", "miller", "name"),
    [
        ("Cu", (1, 1, 1), "O"),
        ("Cu", (1, 0, 0), "N"),
        ("Pt", (1, 1, 1), "CO"),
        ("Ni", (1, 1, 0), "H"),
        ("Pd", (2, 1, 1), "O"),
        ("Ag", (1, 0, 0), "OH"),
    ],
)
def test_forty_placements_find_what_four_hundred_find(metal, miller, name):
    # Small, because it is the search that is asked about, and EMT the truth either way.
    slab = surface(metal, miller, layers=3, width=5.0)
    few = adsorb(slab, name, from_ase(EMT), placements=40)
    many = adsorb(slab, name, from_ase(EMT), placements=400, seed=1)
    assert few.best.energy < many.best.energy + 0.02


class Trap(EMT):
    """EMT with a hole over every copper atom, 1.45 Angstrom above it."""

    above, depth, width = 1.45, 8.0, 0.3

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        guests, hosts = np.flatnonzero(atoms.numbers == 8), np.flatnonzero(atoms.numbers == 29)
        for guest in guests if len(hosts) else ():
            off = atoms.get_distances(guest, hosts, mic=True, vector=True)
            off[:, 2] += self.above
            wells = self.depth * np.exp(-((off / self.width) ** 2).sum(axis=1) / 2)
            pulls = wells[:, None] * off / self.width**2
            self.results["energy"] -= wells.sum()
            self.results["free_energy"] = self.results["energy"]
            forces = self.results["forces"].copy()
            forces[guest] += pulls.sum(axis=0)
            forces[hosts] -= pulls
            self.results["forces"] = forces


def test_a_hole_of_a_model_without_error_bars_is_rejected(oxygen, slab):
    trapped = adsorb(slab, "O", from_ase(Trap), placements=8)
    holes = [one for one in trapped.rejected if one.reason == "hole"]
    assert holes
    assert min(one.energy for one in holes) < trapped.best.energy - 1.0
    assert "sums of covalent radii" in holes[0].detail or "Å apart" in holes[0].detail
    # What is left is what the model without the hole has.
    assert trapped.best.energy == pytest.approx(oxygen.best.energy, abs=0.02)


def test_a_slab_of_ase_without_vacuum_is_given_some():
    result = adsorb(fcc111("Cu", (2, 2, 2)), "H", from_ase(EMT), placements=2, steps=25, fmax=0.3)
    assert result.slab.cell.rank == 3
    assert result.slab.cell.lengths()[2] > 20
    assert result.slab.info["slab_id"] in result.system


def test_a_slab_whose_vacuum_is_not_along_the_third_vector_is_taken_for_no_crystal(slab):
    turned = permute_axes(slab, [2, 0, 1])
    turned.pbc = True
    with pytest.raises(StructureError, match="vacuum along cell vector 0"):
        adsorb(turned, "O", from_ase(EMT))
