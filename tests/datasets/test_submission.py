"""Leaderboard files: written complete, and checked as strictly as an evaluation would."""

from __future__ import annotations

import numpy as np
import pytest

from ase_nnp.datasets.submission import SPLITS, check_submission, submission_id, write_submission
from ase_nnp.errors import ConfigError, DatasetError, PredictionError

from .conftest import slab


@pytest.fixture
def sets():
    return {split: [slab(10 * k + j) for j in range(3)] for k, split in enumerate(SPLITS)}


def predictions(sets, task="s2ef"):
    out = {}
    for split, structures in sets.items():
        out[split] = [
            {
                "id": submission_id(atoms, task),
                "energy": atoms.calc.results["energy"],
                "forces": atoms.calc.results["forces"],
                "pos": atoms.positions,
                "fixed": (atoms.get_tags() == 0).astype(int),
            }
            for atoms in structures
        ]
    return out


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("task", ["s2ef", "is2re", "is2rs"])
def test_what_is_written_passes_the_check(tmp_path, sets, task, free):
    path = write_submission(
        tmp_path / "s.npz", predictions(sets, task), task=task, free_atoms_only=free
    )
    report = check_submission(path, task=task, datasets=sets)
    rows = 0 if task == "is2re" else 3 * (6 if free else 14)
    assert report == {split: {"systems": 3, "atoms": rows} for split in SPLITS}
    assert [file.name for file in tmp_path.iterdir()] == ["s.npz"]


def test_the_file_holds_the_official_arrays(tmp_path, sets):
    path = write_submission(tmp_path / "s.npz", predictions(sets), free_atoms_only=False)
    with np.load(path) as stored:
        names = {f"{s}_{n}" for s in SPLITS for n in ("ids", "energy", "forces", "chunk_idx")}
        assert set(stored.files) == names
        assert stored["id_ids"].tolist() == ["1000_0", "1001_1", "1002_2"]
        assert stored["id_chunk_idx"].tolist() == [14, 28]
        first, second, third = np.split(stored["id_forces"], stored["id_chunk_idx"])
        assert first.shape == second.shape == third.shape == (14, 3)
        np.testing.assert_array_equal(
            second, sets["id"][1].calc.results["forces"].astype(np.float32)
        )


def change(path, **arrays):
    with np.load(path) as stored:
        content = {name: stored[name] for name in stored.files}
    for name, value in arrays.items():
        if value is None:
            del content[name]
        else:
            content[name] = value(content[name])
    np.savez(path, **content)


def replaced(index, value):
    def apply(array):
        array = array.copy()
        array[index] = value
        return array

    return apply


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ood_cat_energy": None}, "ood_cat_energy is missing"),
        ({"id_ids": lambda a: a[:2]}, "id_energy has 3 entries for 2 ids"),
        ({"id_ids": replaced(0, "1001_1")}, "'1001_1' more than once"),
        ({"id_ids": replaced(0, "slab")}, "'slab'; see submission_id"),
        ({"id_ids": replaced(0, "01_0")}, "'01_0'; see submission_id"),
        ({"id_ids": replaced(0, "\u0661_0")}, "'\u0661_0'; see submission_id"),
        ({"id_ids": lambda a: np.array([b"\xff", b"1_1", b"2_2"])}, r"xff'; see submission_id"),
        ({"id_energy": replaced(1, np.nan)}, r"id_energy\[1\] is not finite"),
        ({"ood_ads_forces": replaced((5, 0), np.inf)}, r"ood_ads_forces\[5\] is not finite"),
        ({"id_forces": lambda a: a[:, :2]}, r"id_forces has shape \(18, 2\)"),
        ({"id_chunk_idx": lambda a: np.append(a, 18)}, "3 entries for 3 systems; wanted 2"),
        ({"id_chunk_idx": lambda a: a[::-1]}, "does not ascend"),
        ({"id_chunk_idx": lambda a: a + 1}, "1000_0 has 7 rows for 14 atoms"),
        ({"id_ids": replaced(0, "77_1")}, "1000_0 of the test set has no prediction"),
    ],
)
def test_a_wrong_file_is_refused_with_array_and_entry(tmp_path, sets, arrays, message):
    path = write_submission(tmp_path / "s.npz", predictions(sets))
    change(path, **arrays)
    with pytest.raises(PredictionError, match=message):
        check_submission(path, datasets=sets)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"energy": None}, "prediction 1: energy is object of shape"),
        ({"energy": "-1"}, "prediction 1: energy is <U2"),
        ({"energy": [1.0, 2.0]}, r"energy is float64 of shape \(2,\); wanted one number"),
        ({"forces": np.ones((14, 3)) * 1j}, "prediction 1: forces is complex128"),
        ({"forces": [[1, 2, 3], [1]]}, "prediction 1: forces is no array"),
        ({"forces": np.full((14, 3), 1e39)}, r"id_forces\[6\] is not finite"),
    ],
)
def test_what_is_no_prediction_is_refused_by_its_number(tmp_path, sets, change, message):
    given = predictions(sets)
    given["id"][1].update(change)
    with pytest.raises(PredictionError, match=message):
        write_submission(tmp_path / "s.npz", given)


def test_only_real_precisions_are_written(tmp_path, sets):
    for dtype in ("int32", "complex64", "real"):
        with pytest.raises(ConfigError, match="float16, float32 or float64"):
            write_submission(tmp_path / "s.npz", predictions(sets), dtype=dtype)


def test_pickles_in_a_submission_are_not_run(tmp_path, sets):
    path = write_submission(tmp_path / "s.npz", predictions(sets))
    change(path, id_ids=lambda a: a.astype(object))
    with pytest.raises(DatasetError, match="no readable"):
        check_submission(path)
    (tmp_path / "text.npz").write_text("no zip")
    with pytest.raises(DatasetError, match="no readable"):
        check_submission(tmp_path / "text.npz")


def test_incomplete_predictions_are_not_written(tmp_path, sets):
    given = predictions(sets)
    path = tmp_path / "s.npz"
    with pytest.raises(DatasetError, match="'ood_both' are missing"):
        write_submission(path, {k: v for k, v in given.items() if k != "ood_both"})
    del given["id"][1]["forces"]
    with pytest.raises(PredictionError, match="id, prediction 1 has no forces"):
        write_submission(path, given)
    given = predictions(sets)
    given["id"][2]["energy"] = np.nan
    with pytest.raises(PredictionError, match=r"id_energy\[2\]"):
        write_submission(path, given)
    with pytest.raises(ConfigError, match="choose from s2ef"):
        write_submission(path, given, task="s2e")
    assert not path.exists()
    with pytest.raises(DatasetError, match="no sid and no fid"):
        submission_id(type(sets["id"][0])("H"))


def test_the_command_checks_a_file(tmp_path, sets, capsys):
    from ase_nnp.cli import main

    path = write_submission(tmp_path / "s.npz", predictions(sets))
    with pytest.raises(SystemExit) as stop:
        main(["data", "check-submission", str(path), "--json"])
    assert not stop.value.code
    assert '"systems": 3' in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main(["data", "check-submission", str(path), "--task", "is2re"])
    assert stop.value.code == 2
    assert "'1000_0'" in capsys.readouterr().err
