"""CatBench: adsorption energies of a benchmark, relaxed with the calculator under test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ase.build import add_adsorbate, fcc111, molecule
from ase.constraints import FixAtoms

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
catbench = pytest.importorskip("catbench", reason="needs catbench")


def write_benchmark(name):
    """One reaction, CO(g) + * -> CO*, in the file that CatBench reads."""
    from catbench.utils.data_utils import save_catbench_json

    slab = fcc111("Cu", (2, 2, 3), a=3.6, vacuum=6.0, periodic=True)
    slab.set_constraint(FixAtoms(mask=slab.get_tags() > 1))
    adslab = slab.copy()
    add_adsorbate(adslab, molecule("CO"), 1.9, "ontop", mol_index=1)
    gas = molecule("CO", vacuum=5.0)

    raw = {
        "star": {"atoms": slab, "stoi": -1, "energy_ref": 0.0},
        "COstar": {"atoms": adslab, "stoi": 1, "energy_ref": 0.0},
        "COgas": {"atoms": gas, "stoi": -1, "energy_ref": 0.0},
    }
    indices = list(range(len(slab), len(adslab)))
    reaction = {"raw": raw, "ref_ads_eng": 0.0, "adsorbate_indices": indices}
    Path("raw_data").mkdir(exist_ok=True)
    save_catbench_json({"CO_on_Cu": reaction}, f"raw_data/{name}_adsorption.json")


def results(calc, name):
    from catbench.adsorption import AdsorptionCalculation

    run = AdsorptionCalculation(
        [calc], mlip_name=name, benchmark="metals", f_crit_relax=0.05, n_crit_relax=60
    )
    return json.loads((Path(run.run()) / f"{name}_result.json").read_text())


def test_adsorption_energies_are_those_of_ases_calculator(calculators):
    write_benchmark("metals")
    ours, reference = (
        results(make(), name) for make, name in zip(calculators, ("ours", "reference"), strict=True)
    )

    assert "_failures" not in ours
    ours, reference = ours["CO_on_Cu"], reference["CO_on_Cu"]
    for part, name in (("single_calculation", "ads_eng"), ("final", "ads_eng_median")):
        assert ours[part][name] == pytest.approx(reference[part][name], abs=1e-4)
    assert ours["final"]["adslab_max_disp"] == pytest.approx(
        reference["final"]["adslab_max_disp"], abs=1e-3
    )
