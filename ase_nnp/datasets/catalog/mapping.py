"""Metadata of catalysis datasets under the index's names: OC20, OC22, OC20-mAds, OC25, AQCat25.

The same fact has several names: Miller indices are ``miller_index`` in OC20's and OC22's pickles,
``millers`` in OC20-mAds, ``miller`` elsewhere. One table turns them all into columns; it serves
the pickled mappings (by system id) and the information that a record carries itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ase_nnp.datasets.catalog.conditions import bare_sid, miller_text
from ase_nnp.datasets.formats.oc20_mapping import load_mapping
from ase_nnp.errors import DatasetError

__all__ = ["Mappings", "columns_from", "read_mappings"]

Fields = dict[str, Any]

#: Names in mappings and in ``atoms.info`` by the column they fill, the first present wins.
NAMES: Mapping[str, str] = {
    "adsorbate": "ads_symbols adsorbate adsorbates",
    "nads": "nads",
    "bulk_id": "bulk_mpid bulk_src_id mpid bulk_id",
    "bulk": "bulk_symbols bulk bulk_formula",
    "miller": "miller_index millers miller facet specific_miller",
    "shift": "shift",
    "top": "top",
    "site": "site",
    "material_class": "class bulk_class",
    "slab_sid": "slab_sid slab_id",
    "split": "split subset_split",
    "anomaly": "anomaly anomalies",
    "charge": "charge total_charge",
    "spin": "spin spin_multiplicity",
    "magmom": "mag magmom total_magnetization",
    "solvent": "solvent solvent_name",
    "ions": "ions ion",
    "drift": "total_drift",
    "reaction": "reaction reaction_type",
    "source": "source results_path dataset",
    "role": "role",
    "part": "part",
    "system": "identifier system_id reaction_id",
    "reference_energy": "reference_energy",
    "adsorption_energy": "adsorption_energy ads_energy e_ads",
    "fmax": "fmax",
}
CLASSES = ("intermetallic", "metalloid", "nonmetal", "halide")
ANOMALIES = ("none", "dissociation", "desorption", "reconstruction", "placement")
_STARRED = re.compile(r"\*[A-Za-z0-9*=]*")
_OC20_SPLITS = {"is": "id", "oos_ads": "ood_ads", "oos_bulk": "ood_cat", "oos_ads_bulk": "ood_both"}


class Mappings:
    """Tables by system id, looked up with the ``sid`` of a record."""

    def __init__(self, properties: Mapping[str, Fields], digests: list[str]) -> None:
        self.properties, self.digests = properties, digests

    def of(self, sid: str | None) -> Fields:
        """Return the columns that the tables know of a system; empty if none does."""
        return self.properties.get(sid, {}) if sid is not None else {}


def read_mappings(sources: Any) -> Mappings:
    """Read mapping pickles, which never run, or take dictionaries.

    ``oc20_data_mapping.pkl``, ``oc22_metadata.pkl`` and OC20-Dense's mapping hold a dictionary of
    properties a system; ``mapping_adslab_slab.pkl`` an id, ``oc20_ref.pkl`` a reference energy.

    Parameters
    ----------
    sources
        A path or a dictionary, or several.

    Raises
    ------
    UnsafeFileError
        A pickle asks for more than plain data.
    DatasetError
        A table holds something else.
    """
    from ase_nnp.files.atomic import file_hash
    from ase_nnp.files.identity import digest

    if sources is None:
        return Mappings({}, [])
    listed = [sources] if isinstance(sources, (str, Path, Mapping)) else list(sources)
    properties: dict[str, Fields] = {}
    digests = []
    for source in listed:
        if isinstance(source, Mapping):
            table, where = source, "the mapping"
            digests.append(digest(dict(source)))
        else:
            table, where = load_mapping(source), str(source)
            digests.append(file_hash(source)[:16])
        for key, entry in table.items():
            known = properties.setdefault(bare_sid(str(key)), {})
            known.update(_entry(entry, where, key))
    return Mappings(properties, digests)


def _entry(entry: Any, where: str, key: Any) -> Fields:
    if isinstance(entry, Mapping):
        return columns_from(entry, pickled=True)
    if isinstance(entry, (str, int, np.integer)) and not isinstance(entry, bool):
        return {"slab_sid": bare_sid(str(entry))}
    if isinstance(entry, (float, np.floating)):
        return {"reference_energy": float(entry)}
    raise DatasetError(
        f"{type(entry).__name__} is neither properties, nor a slab's id, nor an energy",
        path=where,
        key=key,
    )


def columns_from(info: Mapping[str, Any], *, pickled: bool = False) -> Fields:
    """Return those columns that a dictionary of metadata fills; odd values are left out.

    Parameters
    ----------
    info
        ``atoms.info`` of a record, or an entry of a mapping.
    pickled
        Whether a number in ``anomaly`` and ``class`` is OC20's code.
    """
    fields: Fields = {}
    for column, names in NAMES.items():
        for name in names.split():
            value = info.get(name)
            if value is None:
                continue
            try:
                made = _VALUES.get(column, _text)(value)
            except (TypeError, ValueError, OverflowError):
                continue
            if made is not None:
                fields[column] = made
                break

    if pickled and isinstance(info.get("split"), str):
        fields["split"] = _oc20_split(info["split"])

    # AQCat25 states the opposite: that spin polarization was switched off.
    off = info.get("is_spin_off")
    if isinstance(off, (bool, np.bool_)):
        fields["spin_polarized"] = int(not off)

    if fields.get("adsorbate", "").count("+") and "nads" not in fields:
        fields["nads"] = fields["adsorbate"].count("+") + 1
    return fields


def _oc20_split(name: str) -> str:
    """Return OC20's split under the name of its folders: ``val_is`` is ``val_id``."""
    first, _, rest = name.partition("_")
    return f"{first}_{_OC20_SPLITS[rest]}" if rest in _OC20_SPLITS else name


# ---- values of each column


def _text(value: Any) -> str | None:
    if isinstance(value, (bool, np.bool_)):
        return None
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    return value if isinstance(value, str) and value else None


def _number(value: Any) -> float | None:
    if isinstance(value, str) or np.size(value) != 1:
        return None
    number = float(np.asarray(value).reshape(()))
    return number if np.isfinite(number) else None


def _norm(value: Any) -> float | None:
    numbers = np.asarray(value, float).ravel()
    if numbers.size not in (1, 3) or not np.isfinite(numbers).all():
        return None
    return float(np.sqrt(numbers @ numbers))


def _integer(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number == int(number) else None


def _adsorbate(value: Any) -> str | None:
    """Return ``*OH`` from it, from ``Adsorbate: (HO, *OH)``, or several joined by ``+``."""
    if isinstance(value, str):
        starred = [name for name in _STARRED.findall(value) if len(name) > 1]
        return "+".join(sorted(starred)) or value or None
    if isinstance(value, Mapping):
        return _adsorbate(value.get("symbols", value.get("name", value.get("adsorbate"))))
    if isinstance(value, (list, tuple)):
        names = [name for name in map(_adsorbate, value) if name]
        return "+".join(sorted(names)) or None
    return None


def _miller(value: Any) -> str | None:
    listed = value.tolist() if hasattr(value, "tolist") else value
    try:
        return miller_text(listed)
    except DatasetError:
        return None


def _joined(value: Any) -> str | None:
    if isinstance(value, (list, tuple, set)):
        return "+".join(sorted(str(one) for one in value)) or None
    return _text(value)


def _coded(names: tuple[str, ...]) -> Any:
    def decode(value: Any) -> str | None:
        if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
            return names[int(value)] if 0 <= int(value) < len(names) else None
        return _text(value)

    return decode


def _sid(value: Any) -> str | None:
    text = _text(value)
    return None if text is None else bare_sid(text)


_VALUES: Mapping[str, Any] = {
    "adsorbate": _adsorbate,
    "nads": _integer,
    "miller": _miller,
    "shift": _number,
    "top": lambda value: int(value) if isinstance(value, (bool, np.bool_, int)) else None,
    "material_class": _coded(CLASSES),
    "anomaly": _coded(ANOMALIES),
    "slab_sid": _sid,
    "system": _sid,
    "charge": _number,
    "spin": _number,
    "magmom": _number,
    "ions": _joined,
    "drift": _norm,
    "reference_energy": _number,
    "adsorption_energy": _number,
    "fmax": _number,
}
