"""Adsorbates by their OC20 names, each as a line of atoms, bonds and what binds to the surface.

The names are the 82 of OC20 (Chanussot et al. 2021, doi:10.1021/acscatal.0c04525) and four that
were added later. The notation is read by :mod:`~ase_nnp.workflows.adsorption.adsorbates`:

- an element with its hydrogens, ``CH3``; the next one is bonded to it, ``CH3OH``;
- ``=`` and ``#`` before an element: a double or triple bond; parentheses hold a branch;
- ``*`` before an element: this atom is bonded to the surface.
"""

from __future__ import annotations

__all__ = ["ADSORBATES", "LATER"]

#: Not among the 82 of OC20.
LATER = frozenset({"CO*COH", "*OCHO", "*COOH", "*OOH"})

ADSORBATES = {
    # without carbon or nitrogen
    "*O": "*O",
    "*H": "*H",
    "*OH": "*OH",
    "*OH2": "*OH2",
    "*OOH": "*OOH",
    # one carbon
    "*C": "*C",
    "*CO": "*C#O",
    "*CH": "*CH",
    "*CHO": "*CH=O",
    "*COH": "*COH",
    "*CH2": "*CH2",
    "*CH2*O": "*CH2*O",
    "*CHOH": "*CHOH",
    "*CH3": "*CH3",
    "*OCH3": "*OCH3",
    "*CH2OH": "*CH2OH",
    "*CH4": "*CH4",
    "*OHCH3": "*OHCH3",
    "*OCHO": "*OCH=O",
    "*COOH": "*C(=O)OH",
    "*CN": "*C#N",
    # two carbons
    "*C*C": "*C=*C",
    "*CCO": "*C=C=O",
    "*CCH": "*C#CH",
    "*CHCO": "*CH=C=O",
    "*CCHO": "*CCH=O",
    "*COCHO": "*C(=O)CH=O",
    "*CCHOH": "*C=CHOH",
    "*CCH2": "*C=CH2",
    "*CH*CH": "*CH=*CH",
    "CH2*CO": "CH2*C=O",
    "*CHCHO": "*CHCH=O",
    "CH*COH": "CH*COH",
    "CO*COH": "O=C*COH",
    "*COCH2O": "*C(=O)CH2O",
    "*CHO*CHO": "*CH(=O)*CH=O",
    "*COHCHO": "*C(OH)CH=O",
    "*COHCOH": "*C(OH)COH",
    "*CCH3": "*CCH3",
    "*CHCH2": "*CH=CH2",
    "*COCH3": "*C(=O)CH3",
    "*OCHCH2": "*OCH=CH2",
    "*COHCH2": "*C(OH)=CH2",
    "*CHCHOH": "*CH=CHOH",
    "*CCH2OH": "*CCH2OH",
    "*CHOCHOH": "*CH(O)CHOH",
    "*COCH2OH": "*C(=O)CH2OH",
    "*COHCHOH": "*C(OH)CHOH",
    "*CH2*CH2": "*CH2*CH2",
    "*OCHCH3": "*O=CHCH3",
    "*COHCH3": "*C(OH)CH3",
    "*CHOHCH2": "*CH(OH)CH2",
    "*CHCH2OH": "*CHCH2OH",
    "*OCH2CHOH": "*OCH2CHOH",
    "*CHOCH2OH": "*CH(O)CH2OH",
    "*COHCH2OH": "*C(OH)CH2OH",
    "*CHOHCHOH": "*CH(OH)CHOH",
    "*CH2CH3": "*CH2CH3",
    "*OCH2CH3": "*OCH2CH3",
    "*CHOHCH3": "*CH(OH)CH3",
    "*CH2CH2OH": "*CH2CH2OH",
    "*CHOHCH2OH": "*CH(OH)CH2OH",
    "*OHCH2CH3": "*OHCH2CH3",
    # nitrogen
    "*NH2N(CH3)2": "*NH2N(CH3)CH3",
    "*ONN(CH3)2": "*O=NN(CH3)CH3",
    "*OHNNCH3": "*OHN=NCH3",
    "*NNCH3": "*N=NCH3",
    "*ONH": "*O=NH",
    "*NHNH": "*NH=NH",
    "*NH2NH2": "*NH2NH2",
    "*N*NH": "*N=*NH",
    "*ONNO2": "*O=NN(=O)O",
    "*NO2NO2": "*N(=O)(O)N(=O)O",
    "*N*NO": "*N=*N=O",
    "*N2": "*N#N",
    "*ONNH2": "*O=NNH2",
    "*NH2": "*NH2",
    "*NH3": "*NH3",
    "*NONH": "*N(=O)NH",
    "*NH": "*NH",
    "*NO2": "*N(=O)O",
    "*NO": "*N=O",
    "*N": "*N",
    "*NO3": "*N(=O)(O)O",
    "*OHNH2": "*OHNH2",
    "*ONOH": "*O=NOH",
}
