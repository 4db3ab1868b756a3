"""Datasets of structures: one call opens them, one reader a file, nothing in them can run.

``open_dataset(path)`` returns an :class:`AtomsDataset`, a lazy sequence of ``ase.Atoms``. Formats
are plugins: this module registers the built-in ones through the hook that any package may use.
"""

from __future__ import annotations

from collections.abc import Callable

from ase_nnp.datasets.base import AtomsDataset
from ase_nnp.datasets.convert import Conversion, convert
from ase_nnp.datasets.formats.oc20_mapping import load_mapping, load_references
from ase_nnp.datasets.opening import open_dataset
from ase_nnp.datasets.shard import DatasetWarning, Shard
from ase_nnp.datasets.writing.write import write_dataset
from ase_nnp.registry.family import DatasetFormat
from ase_nnp.registry.hookspecs import hookimpl

__all__ = [
    "AtomsDataset",
    "Conversion",
    "DatasetWarning",
    "Shard",
    "convert",
    "load_mapping",
    "load_references",
    "open_dataset",
    "write_dataset",
]


@hookimpl
def register_datasets(register: Callable[[DatasetFormat], None]) -> None:
    """Offer the built-in formats."""
    from ase_nnp.datasets.formats import (
        asedb,
        asefiles,
        aselmdb,
        deepmd,
        extxyz,
        flatlmdb,
        hdf5,
        lammps_dump,
        molecules_npz,
        mtp,
        n2p2,
        oc20_lmdb,
        pymatgen_json,
        qm9,
        reactions,
        vasp,
    )

    # Sniffed in this order: QM9's own form before extended XYZ, ASE's marks and endings last.
    for module in (
        oc20_lmdb,
        aselmdb,
        flatlmdb,
        hdf5,
        qm9,
        extxyz,
        reactions,
        asedb,
        pymatgen_json,
    ):
        register(module.FORMAT)
    for module in (lammps_dump, n2p2, mtp, molecules_npz, deepmd):
        register(module.FORMAT)
    for format in (*vasp.FORMATS, asefiles.FORMAT):
        register(format)
