"""Statistics, verification, pictures and the commands around them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ase_nnp.cli import main
from ase_nnp.datasets import open_dataset, write_dataset
from ase_nnp.datasets.plot import _place, plot_dataset
from ase_nnp.datasets.stats import DatasetStats, dataset_info, dataset_stats
from ase_nnp.datasets.streaming_statistics import ElementFit, Histogram, Moments
from ase_nnp.datasets.verify import verify_dataset
from ase_nnp.errors import DatasetError

from .conftest import slab

floats = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(st.lists(floats, min_size=1, max_size=30), st.lists(floats, max_size=30))
def test_moments_of_parts_are_those_of_the_whole(first, second):
    whole = np.array([*first, *second])
    one, two = Moments(), Moments()
    one.add(first)
    two.add(second)
    one.merge(two)
    scale = max(1.0, np.abs(whole).max())
    assert one.count == len(whole)
    assert one.mean == pytest.approx(whole.mean(), abs=1e-12 * scale)
    assert one.std == pytest.approx(whole.std(), rel=1e-9, abs=1e-7 * scale**0.5)
    assert (one.low, one.high) == (whole.min(), whole.max())


def test_moments_are_stable_far_from_zero():
    values = 1e9 + np.array([4.0, 7.0, 13.0, 16.0])
    moments = Moments()
    for value in values:
        moments.add([value])
    assert moments.square / 3 == pytest.approx(30.0, rel=1e-6)


@given(st.lists(floats, min_size=1, max_size=60), st.integers(0, 60))
def test_histograms_count_everything_once(values, cut):
    one, two = Histogram(limit=16), Histogram(limit=16)
    one.add(values[:cut])
    two.add(values[cut:])
    edges, counts = one.merge(two).table()
    assert counts.sum() == len(values)
    assert len(counts) <= 16
    expected, _ = np.histogram(values, np.append(edges[:-1], np.inf))
    np.testing.assert_array_equal(counts, expected)


def test_element_references_are_recovered_in_any_order_and_from_parts():
    rng = np.random.default_rng(0)
    truth = {1: -3.1, 8: -7.25, 29: -3710.5}
    one, two = ElementFit(), ElementFit()
    for number in range(1500):
        numbers = rng.choice([1, 8, 29], size=rng.integers(3, 40))
        energy = sum(truth[z] for z in numbers)
        (one if number % 3 else two).add(numbers, energy)
    solved = one.merge(two).solve()
    assert solved["rank"] == solved["elements"] == 3
    np.testing.assert_allclose(
        [solved["references"][s] for s in ("H", "O", "Cu")], list(truth.values()), rtol=1e-10
    )
    assert solved["rmse"] < 1e-8


def test_elements_that_never_come_apart_are_reported():
    fit = ElementFit()
    for n in (1, 2, 5):
        fit.add([1] * (2 * n) + [8] * n, -14.0 * n)
    solved = fit.solve()
    assert (solved["rank"], solved["elements"]) == (1, 2)
    assert 2 * solved["references"]["H"] + solved["references"]["O"] == pytest.approx(-14.0)


def test_statistics_against_numpy(slabs):
    statistics = dataset_stats(slabs, fit_references=False).as_dict()
    energies = np.array([a.calc.results["energy"] for a in slabs])
    forces = np.concatenate([a.calc.results["forces"] for a in slabs])
    free = np.concatenate([a.calc.results["forces"][a.get_tags() > 0] for a in slabs])
    assert statistics["structures"] == 6
    assert statistics["energy"]["std"] == pytest.approx(energies.std(), rel=1e-12)
    assert statistics["forces"]["rms"] == pytest.approx(np.sqrt((forces**2).mean()), rel=1e-12)
    assert statistics["forces_free_atoms"]["mean"] == pytest.approx(free.mean(), rel=1e-10)
    assert statistics["force_norm"]["max"] == pytest.approx(np.linalg.norm(forces, axis=1).max())
    assert statistics["elements"]["Cu"] == 3 * 12
    assert statistics["structures_with_element"] == {
        "C": 6,
        "O": 6,
        "Cu": 3,
        "Pd": 1,
        "Ag": 1,
        "Pt": 1,
    }
    assert statistics["size_histogram"] == {"14": 6}
    assert statistics["tags"] == {"0": 48, "1": 24, "2": 12}
    assert statistics["energy_kind"] == {"adsorption": 6}


def test_statistics_of_parts_add_up(slabs):
    from ase_nnp.datasets.sample import from_atoms

    one, two = DatasetStats(fit_references=True), DatasetStats(fit_references=True)
    for number, atoms in enumerate(slabs):
        (one if number < 2 else two).add(from_atoms(atoms))
    merged = one.merge(two).as_dict()
    whole = dataset_stats(slabs, fit_references=True).as_dict()
    assert merged["size_histogram"] == whole["size_histogram"]
    for name in ("energy", "forces"):
        for key, value in whole[name].items():
            assert merged[name][key] == pytest.approx(value, rel=1e-12), (name, key)


def test_processes_give_the_statistics_of_one(tmp_path, slabs):
    write_dataset(tmp_path / "a.lmdb", slabs * 3)
    dataset = open_dataset(tmp_path / "a.lmdb")
    one = dataset_stats(dataset, fit_references=True).as_dict()
    two = dataset_stats(dataset, fit_references=True, workers=2).as_dict()
    assert two["elements"] == one["elements"]
    assert two["fit"]["count"] == 18
    for key, value in one["forces"].items():
        assert two["forces"][key] == pytest.approx(value, rel=1e-12), key


def test_references_of_mixed_energies_are_refused(slabs):
    slabs[0].info["energy_kind"] = "total"
    with pytest.raises(DatasetError, match=r"mixed \(1 total, 5 adsorption\)"):
        dataset_stats(slabs, fit_references=True)


def test_info_lists_files(tmp_path, slabs):
    write_dataset(tmp_path / "a.lmdb", slabs)
    summary = dataset_info(open_dataset(tmp_path / "a.lmdb"))
    assert summary["files"] == [{"path": str(tmp_path / "a.lmdb"), "structures": 6}]
    assert summary["format"] == "flat-lmdb"


def break_records(path, *keys):
    import lmdb

    with lmdb.open(str(path), subdir=False) as env, env.begin(write=True) as transaction:
        for key in keys:
            transaction.put(str(key).encode(), b"damaged")
    path.with_name(path.name + "-lock").unlink()


def test_every_broken_record_is_listed_with_file_key_and_reason(tmp_path, slabs):
    for name in ("a.lmdb", "b.lmdb"):
        write_dataset(tmp_path / name, slabs)
    break_records(tmp_path / "b.lmdb", 1, 4)
    report = verify_dataset(tmp_path)
    assert not report.ok
    assert report.structures == 12
    assert [(p.path, p.key) for p in report.problems] == [
        (str(tmp_path / "b.lmdb"), "1"),
        (str(tmp_path / "b.lmdb"), "4"),
    ]
    ((count, first),) = report.first_of_each_kind().values()
    assert (count, first.key) == (2, "1")
    assert "record of 7 bytes" in first.reason


def test_a_file_that_does_not_open_does_not_hide_the_others(tmp_path, slabs):
    for name in ("a.lmdb", "b.lmdb", "c.lmdb"):
        write_dataset(tmp_path / name, slabs)
    content = (tmp_path / "b.lmdb").read_bytes()
    (tmp_path / "b.lmdb").write_bytes(content[: len(content) // 2])
    break_records(tmp_path / "c.lmdb", 2)
    report = verify_dataset(tmp_path)
    assert [(p.path[-6:], p.key) for p in report.problems] == [("b.lmdb", None), ("c.lmdb", "2")]
    assert report.structures == 12


@pytest.mark.slow
def test_a_picture_is_drawn_without_a_display(tmp_path, slabs):
    stats = plot_dataset(slabs, tmp_path / "a.png", title="six slabs")
    assert stats.count == 6
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    for atoms in slabs:
        atoms.calc = None
    plot_dataset(slabs, tmp_path / "unlabeled.png")
    with pytest.raises(DatasetError, match="a picture ends in"):
        plot_dataset(slabs, tmp_path / "a.txt")


def test_every_element_has_its_own_place():
    assert len({_place(z) for z in range(1, 119)}) == 118
    assert [_place(z) for z in (1, 2, 6, 29, 79, 92)] == [
        (0, 0), (0, 17), (1, 13), (3, 10), (5, 10), (9, 6),
    ]  # fmt: skip


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["data", *map(str, arguments)])
    out = capsys.readouterr()
    return stop.value.code or 0, out.out, out.err


def test_commands_speak_json(tmp_path, slabs, capsys):
    path = tmp_path / "a.lmdb"
    write_dataset(path, slabs)
    code, out, _ = run(capsys, "info", path, "--json")
    assert code == 0
    assert json.loads(out)["structures"] == 6
    code, out, _ = run(capsys, "stats", path, "--fit-references", "--json")
    assert json.loads(out)["fit"]["count"] == 6
    code, out, _ = run(capsys, "verify", path, "--json")
    assert (code, json.loads(out)["ok"]) == (0, True)
    code, out, _ = run(capsys, "convert", path, tmp_path / "b.extxyz", "--json")
    assert (code, json.loads(out)["written"]) == (0, 6)
    code, out, _ = run(capsys, "plot", path, "-o", tmp_path / "p.png", "--json")
    assert (code, (tmp_path / "p.png").exists()) == (0, True)


def test_commands_speak_to_people(tmp_path, capsys):
    path = tmp_path / "a.lmdb"
    write_dataset(path, [slab(k) for k in range(3)])
    assert "3 adsorption" in run(capsys, "info", path)[1]
    assert "not unique" in run(capsys, "stats", path, "--fit-references")[1]
    assert "3 records in 1 files, none broken" in run(capsys, "verify", path)[1]
    assert "3 of 3 structures" in run(capsys, "convert", path, tmp_path / "b.h5")[1]


def test_verify_ends_with_1_and_bad_input_with_2(tmp_path, slabs, capsys):
    path = tmp_path / "a.lmdb"
    write_dataset(path, slabs)
    break_records(path, 3)
    code, out, _ = run(capsys, "verify", path)
    assert code == 1
    assert f"{path}: 3: a record of 7 bytes" in out
    for arguments in (
        ("info", tmp_path / "nothing"),
        ("verify", tmp_path / "nothing"),
        ("convert", path, tmp_path / "b.unknown"),
        ("convert", path, tmp_path / "b.lmdb"),
        ("plot", path, "-o", tmp_path / "b.txt"),
    ):
        code, out, err = run(capsys, *arguments)
        assert code == 2, arguments
        assert err.startswith("ase-nnp: ")
        assert err.count("\n") == 1
    code, out, _ = run(capsys, "convert", path, tmp_path / "b.lmdb", "--skip-broken")
    assert "left out record 3" in out
    assert "5 of 6 structures" in out
