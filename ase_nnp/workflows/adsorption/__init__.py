"""Adsorption: surfaces of a crystal, their sites, the most stable placements, and their energies.

The names below are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_WHERE = {
    "REFERENCES": "energies",
    "Adsorbate": "adsorbates",
    "AdsorptionEnergy": "energies",
    "AdsorptionResult": "result",
    "AdsorptionTable": "trends",
    "Pairs": "pairs",
    "ScalingRelation": "trends",
    "Site": "surface_sites",
    "adsorb": "search",
    "adsorbate": "adsorbates",
    "adsorption_energy": "energies",
    "adsorption_table": "trends",
    "draw_adsorption_table": "trends",
    "draw_scaling": "trends",
    "draw_volcano": "trends",
    "place": "placement",
    "rejudge": "rejudging",
    "sites": "surface_sites",
    "surface": "slabs",
    "surfaces": "slabs",
    "write_dft_inputs": "dft_inputs",
    "write_report": "report",
}

__all__ = [
    "REFERENCES",
    "Adsorbate",
    "AdsorptionEnergy",
    "AdsorptionResult",
    "AdsorptionTable",
    "Pairs",
    "ScalingRelation",
    "Site",
    "adsorb",
    "adsorbate",
    "adsorption_energy",
    "adsorption_table",
    "draw_adsorption_table",
    "draw_scaling",
    "draw_volcano",
    "place",
    "rejudge",
    "sites",
    "surface",
    "surfaces",
    "write_dft_inputs",
    "write_report",
]

if TYPE_CHECKING:
    from ase_nnp.workflows.adsorption.adsorbates import Adsorbate as Adsorbate
    from ase_nnp.workflows.adsorption.adsorbates import adsorbate as adsorbate
    from ase_nnp.workflows.adsorption.dft_inputs import write_dft_inputs as write_dft_inputs
    from ase_nnp.workflows.adsorption.energies import REFERENCES as REFERENCES
    from ase_nnp.workflows.adsorption.energies import AdsorptionEnergy as AdsorptionEnergy
    from ase_nnp.workflows.adsorption.energies import adsorption_energy as adsorption_energy
    from ase_nnp.workflows.adsorption.pairs import Pairs as Pairs
    from ase_nnp.workflows.adsorption.placement import place as place
    from ase_nnp.workflows.adsorption.rejudging import rejudge as rejudge
    from ase_nnp.workflows.adsorption.report import write_report as write_report
    from ase_nnp.workflows.adsorption.result import AdsorptionResult as AdsorptionResult
    from ase_nnp.workflows.adsorption.search import adsorb as adsorb
    from ase_nnp.workflows.adsorption.slabs import surface as surface
    from ase_nnp.workflows.adsorption.slabs import surfaces as surfaces
    from ase_nnp.workflows.adsorption.surface_sites import Site as Site
    from ase_nnp.workflows.adsorption.surface_sites import sites as sites
    from ase_nnp.workflows.adsorption.trends import AdsorptionTable as AdsorptionTable
    from ase_nnp.workflows.adsorption.trends import ScalingRelation as ScalingRelation
    from ase_nnp.workflows.adsorption.trends import adsorption_table as adsorption_table
    from ase_nnp.workflows.adsorption.trends import draw_adsorption_table as draw_adsorption_table
    from ase_nnp.workflows.adsorption.trends import draw_scaling as draw_scaling
    from ase_nnp.workflows.adsorption.trends import draw_volcano as draw_volcano


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
