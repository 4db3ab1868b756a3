"""The kinds of files that ``files_fuzz.py`` damages: each is made here and used here."""

from __future__ import annotations

import contextlib
import importlib
from concurrent.futures import Executor, Future
from pathlib import Path

__all__ = ["COVERED", "KINDS", "SOURCE", "structures"]

SOURCE: dict[str, Path] = {}  # of conversions: it must lie where it lay when they began
#: Kinds whose every byte a checksum covers, or whose content does not matter.
COVERED = ("model", "uncertainty", "samples", "relax", "dynamics", "screen", "train")


def structures():
    from ase.build import bulk
    from ase.calculators.emt import EMT

    frames = []
    for k in range(4):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.1, seed=k)
        atoms.calc = EMT()
        atoms.get_potential_energy()
        frames.append(atoms)
    return frames


def small_model():
    import ase_nnp

    config = dict(ase_nnp.list_models()["cgcnn_oc20"].test_config)
    return ase_nnp.build_model("cgcnn_oc20", config, seed=1, device="cpu", dtype="float64")


# ---------------------------------------------------------------- kinds: make one, use one


def make_model(folder: Path) -> None:
    import ase_nnp

    ase_nnp.save_model(small_model(), folder / "m.nnp", license="MIT")


def use_model(folder: Path) -> object:
    import ase_nnp
    from ase_nnp.models.files import model_hash

    model = ase_nnp.load_model(folder / "m.nnp", device="cpu", dtype="float64")
    return [model_hash(model), model.provenance, model.energy_kind, sorted(model.elements or ())]


def make_uncertainty(folder: Path) -> None:
    from ase_nnp.uncertainty import fit, save_uncertainty

    frames = structures()
    fitted = fit("latent", small_model(), train=frames, calibration=frames)
    save_uncertainty(fitted, folder / "m.uq", project="fuzz")


def use_uncertainty(folder: Path) -> object:
    from ase_nnp.models.tensors import tensor_hash
    from ase_nnp.uncertainty import load_uncertainty, uncertainty_info

    fitted = load_uncertainty(folder / "m.uq", small_model())
    tensors, values = fitted.state()
    calibration = fitted.calibration.to_json()
    return [tensor_hash(tensors), values, calibration, uncertainty_info(folder / "m.uq")["notes"]]


def make_samples(folder: Path) -> None:
    import torch

    from ase_nnp.uncertainty.sampling.store import save_samples

    save_samples(folder / "s.safetensors", {"w": torch.rand(2, 3, 4)}, small_model(), a=1)


def use_samples(folder: Path) -> object:
    from ase_nnp.models.tensors import tensor_hash
    from ase_nnp.uncertainty.sampling.store import load_samples

    samples, header = load_samples(folder / "s.safetensors")
    return [tensor_hash(samples), header]


def make_weights(folder: Path) -> None:
    import numpy as np
    import torch
    from safetensors.torch import save_file

    tensors = {"a": torch.rand(5, 3), "b": torch.arange(4)}
    save_file(tensors, folder / "w.safetensors")
    torch.save(tensors, folder / "w.pt")
    torch.save(tensors, folder / "old.pt", _use_new_zipfile_serialization=False)
    np.savez(folder / "w.npz", **{k: v.numpy() for k, v in tensors.items()})


def use_weights(folder: Path) -> object:
    from ase_nnp.models.tensors import read_tensors, tensor_hash

    return [tensor_hash(read_tensors(path)) for path in sorted(folder.iterdir())]


def make_runfile(folder: Path) -> None:
    text = "data: {train: a.xyz, valid_fraction: 0.1}\nmodel:\n  family: facet\nepochs: 5\n"
    (folder / "run.yaml").write_text(text + "optimizer: {lr: 1e-3}\noutput: run\n")
    text = '[data]\ntrain = "a.xyz"\n[model]\nfamily = "facet"\n[optimizer]\nlr = 1e-3\n'
    (folder / "run.toml").write_text("epochs = 5\n" + text)


def use_runfile(folder: Path) -> object:
    from ase_nnp.training.runfile import read_run_file

    return [read_run_file(path).model_dump(mode="json") for path in sorted(folder.iterdir())]


class Stop(BaseException):
    """Ends a run half-way, past whatever looks after errors."""


def _interrupted(run, folder: Path, after: int) -> None:
    """Run until the second checkpoint is there."""
    from ase_nnp.workflows.batched.store import Store

    saved, count = Store.save, 0

    def save(self, *arguments):
        nonlocal count
        saved(self, *arguments)
        count += 1
        if count == after:
            raise Stop

    Store.save = save
    try:
        with contextlib.suppress(Stop):
            run(folder)
    finally:
        Store.save = saved


def _relax(folder: Path) -> object:
    import ase_nnp

    frames = structures()
    outcomes = ase_nnp.relax_many(
        small_model(), frames, folder=folder, trajectory="traj", steps=6, checkpoint_every=2,
        fmax=1e-6, batch=2,
    )  # fmt: skip
    return [[o.status, o.reason, _rounded(o.atoms)] for o in outcomes]


def _dynamics(folder: Path) -> object:
    import ase_nnp

    outcomes = ase_nnp.run_dynamics(
        small_model(), structures(), folder=folder, trajectory="traj", steps=6, checkpoint_every=2,
        ensemble="nve", seed=1, batch=2,
    )  # fmt: skip
    return [[o.status, o.reason, _rounded(o.atoms)] for o in outcomes]


class _Here(Executor):
    """Runs what it is given at once, in this process."""

    def submit(self, function, /, *arguments, **options):
        from ase_nnp.errors import AseNnpError

        future = Future()
        try:
            future.set_result(function(*arguments, **options))
        except AseNnpError as error:
            future.set_exception(error)
        return future


def _screen(folder: Path) -> object:
    from ase_nnp.datasets import open_dataset
    from ase_nnp.workflows.screening import merge, screen

    options = {"steps": 6, "fmax": 1e-6, "chunk": 2}
    screen(small_model(), structures(), folder / "run", executor=_Here(), **options)
    merge(folder / "run", folder / "merged.aselmdb")
    rows = [
        [_rounded(atoms), atoms.info["steps"]] for atoms in open_dataset(folder / "merged.aselmdb")
    ]
    (folder / "merged.aselmdb").unlink()
    return rows


def _half_screened(folder: Path) -> None:
    """Stop inside the second chunk, so that results of one and checkpoints of another lie there."""
    _interrupted(_screen, folder, 4)


def _rounded(atoms) -> list:
    return [] if atoms is None else atoms.positions.round(8).tolist()


def _train(folder: Path, stop: bool = False) -> object:
    from ase_nnp.training import Settings, fit
    from ase_nnp.training.run_callbacks import RunCallbacks

    settings = Settings(epochs=3, progress=False, batch={"structures": 2})
    saved, count = RunCallbacks._log, 0

    def log(self):
        nonlocal count
        saved(self)
        count += 1
        if stop and count == 2:
            raise Stop

    RunCallbacks._log = log
    try:
        result = fit(small_model(), structures(), settings=settings, folder=folder)
    finally:
        RunCallbacks._log = saved
    return [[row["epoch"], round(row["loss"], 9)] for row in result.history]


def _half_trained(folder: Path) -> None:
    with contextlib.suppress(Stop):
        _train(folder, stop=True)


KINDS = {
    "model": (make_model, use_model),
    "uncertainty": (make_uncertainty, use_uncertainty),
    "samples": (make_samples, use_samples),
    "weights": (make_weights, use_weights),
    "runfile": (make_runfile, use_runfile),
    "train": (_half_trained, _train),
    "relax": (lambda folder: _interrupted(_relax, folder, 2), _relax),
    "screen": (_half_screened, _screen),
    "dynamics": (lambda folder: _interrupted(_dynamics, folder, 2), _dynamics),
}
for _ending in ("aselmdb", "extxyz", "h5"):

    def _convert(folder: Path, ending: str = _ending) -> object:
        from ase_nnp.datasets import convert, open_dataset

        target = folder / f"target.{ending}"
        convert(open_dataset(SOURCE["path"]), target, chunk_size=1)
        return [atoms.get_potential_energy() for atoms in open_dataset(target)]

    def _half_converted(folder: Path, convert=_convert) -> None:
        conversion = importlib.import_module("ase_nnp.datasets.convert")
        chosen, count = conversion.sink_class, 0

        def counted(*arguments):
            kind = chosen(*arguments)

            class Broken(kind):
                def append(self, payloads, state):
                    nonlocal count
                    super().append(payloads, state)
                    count += 1
                    if count == 2:
                        raise Stop

            return Broken

        conversion.sink_class = counted
        try:
            with contextlib.suppress(Stop):
                convert(folder)
        finally:
            conversion.sink_class = chosen

    KINDS[f"convert.{_ending}"] = (_half_converted, _convert)
