"""Columns of a dataset's index: names, SQL types and what each of them holds."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "APPLICATION_ID",
    "BY_NAME",
    "COLUMNS",
    "CREATE",
    "INDEXES",
    "LIGHT",
    "VERSION",
    "Column",
]

#: Stands in the header of the SQLite file, so that no other database is taken for an index.
APPLICATION_ID = 0x4E4E5049
VERSION = 1
#: Elements up to this atomic number have their bit in the column ``light``, others in ``heavy``.
LIGHT = 60


@dataclass(frozen=True)
class Column:
    """One column: its name in queries, ``"text"``, ``"integer"`` or ``"real"``, its meaning."""

    name: str
    kind: str
    meaning: str


COLUMNS = (
    Column("shard", "integer", "number of the file within the dataset"),
    Column("key", "text", "name of the record inside its file"),
    Column("error", "text", "why the record cannot be read; such records are found by this only"),
    Column("formula", "text", "as Atoms.get_chemical_formula() gives it, such as 'COCu48'"),
    Column("natoms", "integer", "number of atoms"),
    Column("nelements", "integer", "number of different elements"),
    Column("sid", "text", "identifier of the system"),
    Column("fid", "integer", "frame number along a relaxation or trajectory"),
    Column("role", "text", "'adslab', 'slab', 'gas', 'bulk', 'interface' or 'path'"),
    Column("system", "text", "identifier that adslab, slab and molecule of one case share"),
    Column("part", "text", "which part of a case it is, as the data name it"),
    Column("adsorbate", "text", "such as '*CO'; by formula where the data give no name"),
    Column("nads", "integer", "number of adsorbates"),
    Column("bulk_id", "text", "identifier of the bulk material"),
    Column("bulk", "text", "formula of the bulk material"),
    Column("miller", "text", "Miller indices as '(1, 1, 1)'"),
    Column("shift", "real", "termination of the slab, in units of the cell along c"),
    Column("top", "integer", "1 for the upper side of the slab, 0 for the lower"),
    Column("site", "text", "adsorption site, as the data name it"),
    Column("material_class", "text", "intermetallic, metalloid, nonmetal or halide"),
    Column("slab_sid", "text", "identifier of the clean slab of an adslab"),
    Column("energy", "real", "eV, of the kind in energy_kind"),
    Column("energy_kind", "text", "'total', 'adsorption' or 'formation'"),
    Column("reference_energy", "real", "eV: clean slab and gas-phase adsorbate"),
    Column("energy_relaxed", "real", "eV: energy of the relaxed structure (y_relaxed)"),
    Column("adsorption_energy", "real", "eV: stored, or the total minus the reference energy"),
    Column("energy_per_atom", "real", "eV: energy over natoms"),
    Column("fmax", "real", "eV/A: largest force on an atom that is not fixed"),
    Column("force_sum", "real", "eV/A: norm of the sum of all forces"),
    Column("drift", "real", "eV/A: force drift that the data state"),
    Column("split", "text", "train, val_id, val_ood_ads, ...; from the data or the file's folder"),
    Column("tags", "text", "tags that occur, such as '012'"),
    Column("anomaly", "text", "none, dissociation, desorption, reconstruction or placement"),
    Column("charge", "real", "total charge in e"),
    Column("spin", "real", "spin multiplicity, as the data state it"),
    Column("spin_polarized", "integer", "1 if the calculation was spin-polarized"),
    Column("magmom", "real", "total magnetic moment in Bohr magnetons"),
    Column("solvent", "text", "solvent of an interface"),
    Column("ions", "text", "ions of an interface, sorted and joined by '+'"),
    Column("reaction", "text", "name or kind of the reaction a record belongs to"),
    Column("source", "text", "where the data come from, as they state it"),
)
BY_NAME = {column.name: column for column in COLUMNS}

_DEFINED = ", ".join(f"{column.name} {column.kind}" for column in COLUMNS)
CREATE = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    # One bit an element in two numbers: three times as fast to ask as the table of counts.
    f"CREATE TABLE records (id INTEGER PRIMARY KEY, light INTEGER, heavy INTEGER, {_DEFINED})",
    # Counts by element: in all, of those in adsorbates (tag 2) and in solvent (tag 3).
    "CREATE TABLE composition (z INTEGER, id INTEGER, n INTEGER, adsorbate INTEGER, "
    "solvent INTEGER, PRIMARY KEY (z, id)) WITHOUT ROWID",
)
#: Made when all rows are there: rows are then inserted three times as fast.
INDEXES = tuple(
    f"CREATE INDEX IF NOT EXISTS by_{name} ON records ({columns})"
    for name, columns in (
        ("adsorbate", "adsorbate"),  # equal values then lie in the order of the records
        ("sid", "sid, fid"),
        ("system", "system"),
        ("slab", "slab_sid"),
        ("bulk", "bulk_id"),
        ("energy", "energy, natoms"),
        ("ads_energy", "adsorption_energy"),
        ("natoms", "natoms"),
        ("fmax", "fmax"),
        ("formula", "formula"),
        ("error", "error"),
    )
)
