"""The documented way to fine-tune, on the default model and DFT sets: better after one epoch."""

from __future__ import annotations

import numpy as np
import pytest
from ase.io import read, write

import ase_nnp
from ase_nnp.models.default import default_pretrained
from ase_nnp.training.runfile import read_run_file
from ase_nnp.training.running import run


def known_elements():
    family, offered = default_pretrained()
    model = ase_nnp.load_model(family.name, checkpoint=offered.name, uncertainty=False)
    return model.elements


@pytest.fixture
def mlearn(shared):
    """Training sets of DFT (PBE) by element; Zuo et al. 2020, doi:10.1021/acs.jpca.9b08723."""
    return {p.name.split("_")[0]: p for p in (shared / "data_real" / "mlearn").glob("*.xz")}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["known", "new"])
def test_one_epoch_makes_the_default_model_better_on_other_data(
    kind, mlearn, tmp_path, monkeypatch
):
    from ase.data import atomic_numbers

    known = known_elements()
    symbols = [s for s in sorted(mlearn) if (atomic_numbers[s] in known) == (kind == "known")]
    if not symbols:
        pytest.skip("the default model knows all or none of the sets' elements")
    symbol = symbols[-1]
    frames = read(mlearn[symbol], ":")
    order = np.random.default_rng(0).permutation(len(frames))
    monkeypatch.chdir(tmp_path)
    write("new.extxyz", [frames[k] for k in order[:40]])
    write("valid.extxyz", [frames[k] for k in order[40:55]])

    family, offered = default_pretrained()
    options = {"finetune.add_elements": f"[{symbol}]"} if kind == "new" else {}
    (tmp_path / "run.yaml").write_text(
        f"model: {{family: {family.name}, start: {offered.name}}}\n"
        "data: {train: new.extxyz, valid: valid.extxyz}\n"
        "epochs: 1\nprogress: false\n"
    )
    result = run(read_run_file("run.yaml", options))
    after = result.history[-1]
    assert result.best_epoch == 1
    assert after["valid_forces_mae"] < result.untouched["valid_forces_mae"]
    assert after["valid_loss"] < result.untouched["valid_loss"]
    assert result.report.source == "kept"
