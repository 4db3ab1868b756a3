"""Structures of pymatgen in JSON of every shape: labels kept, odd fields left out."""

from __future__ import annotations

import gzip
import json
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ase_nnp.datasets import DatasetWarning, open_dataset
from ase_nnp.datasets.formats import json_pieces
from ase_nnp.datasets.formats.json_spans import find_spans
from ase_nnp.errors import DatasetError

FORCES = [[0.1, 0.2, 0.3], [0.0, 0.0, 0.0]]


def structure(a=4.0, free=None, **properties):
    sites = [("Cu", [0, 0, 0]), ("O", [0.5, 0.5, 0.5])]
    flags = [{"selective_dynamics": f} for f in free] if free else [{}, {}]
    return {
        "@module": "pymatgen.core.structure",
        "@class": "Structure",
        "lattice": {"matrix": [[a, 0, 0], [0, a, 0], [0, 0, a]]},
        "sites": [
            {"species": [{"element": e, "occu": 1}], "abc": x, "properties": {**flag, **properties}}
            for (e, x), flag in zip(sites, flags, strict=True)
        ],
    }


def monty(values, dtype="float64"):
    return {"@module": "numpy", "@class": "array", "dtype": dtype, "data": values}


def pandas(orient):
    """Two rows as ``DataFrame.to_json(orient=...)`` writes them."""
    rows = [{"structure": structure(4.0 + k), "energy": -1.0 - k, "forces": FORCES} for k in (0, 1)]
    names = list(rows[0])
    if orient == "columns":
        return {name: {str(k): row[name] for k, row in enumerate(rows)} for name in names}
    if orient == "index":
        return {str(k): row for k, row in enumerate(rows)}
    if orient == "split":
        table = [[row[name] for name in names] for row in rows]
        return {"columns": names, "index": [0, 1], "data": table}
    if orient == "table":
        return {"schema": {"fields": [{"name": "structure", "type": "string"}]}, "data": rows}
    return rows


def task(steps):
    calcs = [
        {"output": {"ionic_steps": steps[2:], "structure": structure()}},
        {"output": {"ionic_steps": steps[:2], "structure": structure()}},
    ]
    return {
        "task_id": "mp-1",
        "input": {"structure": structure()},
        "structure": structure(),
        "output": {"structure": structure(), "energy": 99.0},
        "calcs_reversed": calcs,
    }


def step(energy, **more):
    return {"structure": structure(), "e_0_energy": energy, "forces": FORCES, **more}


def dump(path, content):
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    "entry",
    [
        {"energy": -1.0, "forces": FORCES},
        {"energy": [-1.0], "force": FORCES},
        {"energy": monty([-1.0]), "forces": monty(FORCES)},
        {"energy": monty(-1), "forces": monty(FORCES, "float32")},
        {"uncorrected_total_energy": -1.0, "corrected_total_energy": -9.0, "force": FORCES},
        {"energy_per_atom": -0.5, "forces": FORCES},
        {"uncorrected_energy_per_atom": -0.5, "energy_per_atom": -0.7, "forces": FORCES},
    ],
)
def test_labels_come_in_every_spelling(tmp_path, entry):
    (atoms,) = open_dataset(dump(tmp_path / "a.json", [{"structure": structure(), **entry}]))
    assert atoms.get_potential_energy() == pytest.approx(-1.0)
    np.testing.assert_allclose(atoms.get_forces(), FORCES, rtol=1e-6)


@pytest.mark.parametrize("orient", ["columns", "index", "split", "table", "records"])
def test_every_orientation_of_pandas_keeps_its_labels(tmp_path, orient):
    dataset = open_dataset(dump(tmp_path / "a.json", pandas(orient)))
    assert [atoms.get_potential_energy() for atoms in dataset] == [-1.0, -2.0]
    assert [atoms.cell[0, 0] for atoms in dataset] == [4.0, 5.0]
    assert dataset[1].get_forces().tolist() == FORCES


@pytest.mark.parametrize("names", [("structures", "energies"), ("structure", "energy_per_atom")])
def test_columns_of_chgnet_are_read_by_rows(tmp_path, names):
    energies = [-1.0, -3.0] if names[1] == "energies" else [-0.5, -1.5]
    table = {
        names[1]: energies,
        names[0]: [structure(), structure(5.0)],
        "forces": [FORCES, FORCES],
        "note": "both",
    }
    dataset = open_dataset(dump(tmp_path / "a.json", table))
    assert [atoms.get_potential_energy() for atoms in dataset] == [-1.0, -3.0]
    assert dataset[1].cell[0, 0] == 5.0
    assert dataset.locate(1)[1] == "1"


def test_columns_of_different_lengths_are_refused(tmp_path):
    table = {"structures": [structure()] * 2, "energies": [1.0]}
    with pytest.raises(DatasetError, match="columns of different lengths"):
        open_dataset(dump(tmp_path / "a.json", table))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n  \n"])
def test_json_lines_are_records(tmp_path, end):
    lines = [json.dumps({"structure": structure(), "energy": -1.0 - k}) for k in range(3)]
    (tmp_path / "a.jsonl").write_text(end.join(lines))
    dataset = open_dataset(tmp_path / "a.jsonl")
    assert [atoms.get_potential_energy() for atoms in dataset] == [-1.0, -2.0, -3.0]
    (tmp_path / "b.jsonl").write_text("\n".join([*lines, "an odd line"]))
    with pytest.raises(DatasetError, match="an odd line"):
        open_dataset(tmp_path / "b.jsonl")


def test_a_task_document_is_its_ionic_steps_in_order_of_time(tmp_path):
    document = task([step(-1.0), step(-2.0), step(-3.0)])
    dataset = open_dataset(dump(tmp_path / "a.json", [document]))
    assert [atoms.get_potential_energy() for atoms in dataset] == [-1.0, -2.0, -3.0]
    assert [atoms.info["fid"] for atoms in dataset] == [0, 1, 2]
    assert {atoms.info["sid"] for atoms in dataset} == {"mp-1"}
    assert dataset[0].get_forces().tolist() == FORCES


def test_a_step_takes_its_e0_from_the_last_electronic_step(tmp_path):
    # energies of a step: free -6.6, E0 written wrong; smearing correction 0.02 in the last cycle
    cycles = [{"e_fr_energy": -6.3, "e_0_energy": -6.1}, {"e_fr_energy": -6.5, "e_0_energy": -6.48}]
    document = task([step(-6.6, e_fr_energy=-6.6, electronic_steps=cycles)])
    atoms = open_dataset(dump(tmp_path / "a.json", document))[0]
    assert atoms.get_potential_energy() == pytest.approx(-6.58)
    assert atoms.calc.results["free_energy"] == -6.6


def test_a_task_without_steps_gives_its_output(tmp_path):
    document = {
        "task_id": "mp-2",
        "input": {"structure": structure(3.0)},
        "output": {"structure": structure(), "energy": -4.0, "forces": FORCES},
    }
    (atoms,) = open_dataset(dump(tmp_path / "a.json", [document]))
    assert atoms.get_potential_energy() == -4.0
    assert atoms.cell[0, 0] == 4.0


def test_one_free_direction_is_kept_as_a_constraint(tmp_path):
    free = [[True, False, True], [False, False, False]]
    (atoms,) = open_dataset(dump(tmp_path / "a.json", structure(free=free)))
    kinds = {type(c).__name__: c for c in atoms.constraints}
    assert kinds["FixAtoms"].index.tolist() == [1]
    assert kinds["FixCartesian"].mask.tolist() == [False, True, False]

    skewed = structure(free=free)
    skewed["lattice"]["matrix"][2] = [1, 0, 4]
    (atoms,) = open_dataset(dump(tmp_path / "b.json", skewed))
    assert {type(c).__name__ for c in atoms.constraints} == {"FixAtoms", "FixScaled"}


@pytest.mark.parametrize(
    "odd",
    [
        monty([[1.0], [2.0]], "complex128"),
        monty(["a", None], "object"),
        {"@module": "datetime", "@class": "datetime", "string": "2024-01-01 00:00:00"},
        {"@module": "torch", "@class": "SparseTensor", "data": [1]},
        [[1.0, 2.0], [3.0]],
    ],
    ids=["complex", "objects", "datetime", "sparse tensor", "ragged"],
)
def test_an_odd_field_is_left_out_with_one_warning(tmp_path, odd):
    entries = [{"structure": structure(), "energy": -1.0, "odd": odd, "kept": [1, 2]}] * 2
    dataset = open_dataset(dump(tmp_path / "a.json", entries))
    with pytest.warns(DatasetWarning, match="odd") as warned:
        frames = list(dataset)
    assert len(warned) == 1
    assert frames[1].get_potential_energy() == -1.0
    assert frames[1].info["kept"] == [1, 2]
    assert "odd" not in frames[1].info


def test_plain_objects_of_an_entry_are_no_matter_for_a_warning(tmp_path):
    entry = {"structure": structure(), "energy": -1.0, "parameters": {"run_type": "GGA"}}
    entry |= {"energy_adjustments": [], "composition": {"Cu": 1, "O": 1}}
    assert len(list(open_dataset(dump(tmp_path / "a.json", [entry])))) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-1], "ends inside"),
        (lambda text: text + "]", "closed"),
        (lambda text: text[:-1] + "}", "closed by"),
        (lambda text: text.replace("-1.0", "-1.0.0"), "not JSON"),
        (lambda text: text.replace('"energy": -1.0', '"energy": "high"'), "not a number"),
        (lambda text: text.replace('"Cu"', '"Xx"'), "no chemical symbol"),
    ],
)
def test_damaged_json_is_a_named_error(tmp_path, change, message):
    text = json.dumps([{"structure": structure(), "energy": -1.0}])
    (tmp_path / "a.json").write_text(change(text))
    with pytest.raises(DatasetError, match=message) as error:
        list(open_dataset(tmp_path / "a.json"))
    assert "a.json" in str(error.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='"\\[]{},:aé\n', max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(content=st.lists(JSON, max_size=5), size=st.integers(1, 9), ascii=st.booleans())
def test_spans_are_where_the_items_of_a_list_are(content, size, ascii):
    text = json.dumps(content, ensure_ascii=ascii).encode()
    spans = find_spans(text[k : k + size] for k in range(0, len(text), size))
    assert spans.values.tolist() == [[0, len(text)]]
    pieces = [text[start:stop] for start, stop in spans.inner.tolist()]
    assert [json.loads(piece) for piece in pieces if piece] == content


def small_pieces(monkeypatch):
    monkeypatch.setattr(json_pieces, "_SMALL", 4000)
    monkeypatch.setattr(json_pieces, "_CHUNK", 10000)


def contents(count):
    entries = [{"structure": structure(), "energy": float(k)} for k in range(count)]
    return {
        "list": entries,
        "by id": {f"mp-{k}": {f"mp-{k}-0": e} for k, e in enumerate(entries)},
        "nested": {"data": {"all": entries}},
        "columns": {"structure": [structure()] * count, "energy": [float(k) for k in range(count)]},
        "split": {"columns": ["structure", "energy"], "data": [list(e.values()) for e in entries]},
    }


@pytest.mark.parametrize("shape", list(contents(1)))
@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_a_large_file_is_read_in_pieces(tmp_path, monkeypatch, shape, name):
    small_pieces(monkeypatch)
    text = json.dumps(contents(60)[shape], indent=1 if shape == "list" else None)
    assert len(text) > 15000
    opened = gzip.open if name.endswith(".gz") else open
    with opened(tmp_path / name, "wt") as stream:
        stream.write(text)
    dataset = pickle.loads(pickle.dumps(open_dataset(tmp_path / name)))
    assert [atoms.get_potential_energy() for atoms in dataset] == list(range(60))
    assert dataset[-1].get_potential_energy() == 59.0
    assert len({str(dataset.locate(k)[1]) for k in range(60)}) == 60


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    small_pieces(monkeypatch)

    def peak(count):
        path = dump(tmp_path / f"{count}.json", contents(count)["by id"])
        tracemalloc.start()
        try:
            assert sum(1 for _ in open_dataset(path)) == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(10)  # imports
    # The larger file is 0.5 MB longer, parsed ten times that.
    assert peak(1500) < peak(300) + 250_000


def test_published_shapes_of_json_keep_their_labels(shared):
    folder = shared / "faults/data/fail_7"
    for path in sorted(folder.glob("j_*")):
        atoms = open_dataset(path)[0]
        assert atoms.get_potential_energy() == -1.0, path
