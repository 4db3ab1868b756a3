"""EScAIP here and in fairchem-core 2.24: time, memory, growth with size, throughput.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/escaip.py --reference-env ENV
    python benchmarks/escaip.py --device cuda

On the CPU both programs hold the same random weights in processes of their own, on one thread,
and take turns (A B A B); a figure is the median CPU time of energy and forces with the graph, for
atoms that moved since the call before. Peak memory is that of a further process that makes one
call. ``growth-*`` cases are crystals of 64 to 4096 atoms in a small model; the reference compares
all pairs and stops where ``--reference-atoms`` says.

ENV is a virtual environment with fairchem-core 2.24; without it one is made (2 GB). With
``--alone`` only our figures are printed. ``--json FILE`` keeps everything.

On a GPU: structures a second and memory against batch size for this model, and with ``--peers`` for
SCN of published size on the same batches.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measurement import record_option, write_measurement
from turns import Worker, faster, make_environment, moved, peak_mib, serve, stored_slab, take_turns

HERE = Path(__file__).resolve()
PUBLISHED = {
    "num_layers": 10,
    "hidden_size": 512,
    "atten_num_heads": 8,
    "freequency_list": [20, 10, 4, 10, 20],
    "direct_forces": True,
    "regress_forces": True,
    "max_num_elements": 110,
    "max_radius": 6.0,
    "use_pbc": True,
    "knn_k": 30,
    "knn_soft": True,
    "knn_sigmoid_scale": 0.2,
    "knn_lse_scale": 0.1,
    "knn_use_low_mem": True,
    "atten_name": "memory_efficient",
}
SMALL = PUBLISHED | {
    "num_layers": 2,
    "hidden_size": 64,
    "atten_num_heads": 4,
    "freequency_list": [5, 3, 3, 5],
    "atom_embedding_size": 24,
    "node_direction_embedding_size": 12,
    "edge_distance_embedding_size": 32,
    "edge_distance_expansion_size": 120,
}
GRADIENT = {"direct_forces": False}
MODELS = {
    "direct": PUBLISHED,
    "gradient": PUBLISHED | GRADIENT,
    "small": SMALL,
}
SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
#: name: model, structure, how many
CASES: dict[str, tuple[str, str, int]] = {
    "direct-1": ("direct", "slab", 1),
    "direct-16": ("direct", "slab", 16),
    "gradient-1": ("gradient", "slab", 1),
    "gradient-2": ("gradient", "slab", 2),
    "gradient-8": ("gradient", "slab", 8),
    "gradient-16": ("gradient", "slab", 16),
    **{f"growth-{n}": ("small", f"crystal-{n}", 1) for n in SIZES},
}
#: What the reference's backbone wants beside these; none changes a number.
REFERENCE_ONLY = {
    "regress_stress": False,
    "use_compile": False,
    "use_padding": False,
    "dataset_list": ["oc20"],
    "max_batch_size": 64,
    "max_atoms": 10000,
    "knn_pad_size": 45,
}
HEAD = ["case", "atoms", "here, s", "reference, s", "faster", "here, MiB", "reference, MiB"]
REFERENCE = "fairchem-core==2.24.0"
REFERENCE_STEPS = ("torch==2.13.0", REFERENCE)


def structures(kind: str, count: int, seed: int, given: str) -> list[Any]:
    """Return structures whose atoms were moved by 0.01 Angstrom, differently for each seed."""
    from ase.build import bulk

    if kind == "slab":
        return moved(given, count, seed)
    rng = np.random.default_rng(seed)
    slabs = []
    for _ in range(count):
        n = int(kind.split("-")[1])
        shape = [1, 1, 1]
        while 4 * np.prod(shape) < n:
            shape[int(np.argmin(shape))] *= 2
        atoms = bulk("Cu", cubic=True).repeat(tuple(shape))
        assert len(atoms) == n
        atoms.positions += rng.normal(scale=0.01, size=atoms.positions.shape)
        slabs.append(atoms)
    return slabs


def find_slab(given: str | None, folder: Path) -> Path:
    """Write the slab to calculate: the given file, the reference OC20 slab, or one of our own."""
    from ase import Atoms
    from ase.build import add_adsorbate, fcc111, molecule
    from ase.io import read, write

    arrays = HERE.parents[2] / "shared/reference/escaip/escaip_v2_direct_h64l2/inputs.npz"
    if given == "copper" or (not given and not arrays.is_file()):
        atoms = fcc111("Cu", (4, 4, 4), vacuum=10.0)
        add_adsorbate(atoms, molecule("CO"), 2.0, "ontop", mol_index=1)
        atoms.pbc = True
    elif given:
        atoms = read(given)
    else:
        atoms = stored_slab(arrays)
    plain = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    write(folder / "slab.extxyz", plain)
    return folder / "slab.extxyz"


# In the worker processes; the reference's environment has no ase_nnp.


def ours(config: dict[str, Any], weights: str) -> Any:
    import torch

    import ase_nnp

    options = json.loads(os.environ.get("ESCAIP_OPTIONS", "{}"))
    model = ase_nnp.load_model("escaip", config=config | options, weights=weights, device="cpu")

    def call(atoms: list[Any]) -> tuple[Any, Any]:
        with torch.no_grad():
            result = model.compute(model.make_graph(atoms), ("energy", "forces"))
        return result["energy"], result["forces"]

    return call


def reference_parts(config: dict[str, Any], weights: str) -> tuple[Any, list[Any]]:
    """Return the reference's backbone and heads with the weights of a file."""
    import torch
    from fairchem.core.models.escaip import EScAIP

    model = EScAIP.EScAIPBackbone(**config, **REFERENCE_ONLY)
    if config["direct_forces"]:
        heads = {
            "output_heads.oc20_energy.": EScAIP.EScAIPEnergyHead(model),
            "output_heads.forces.": EScAIP.EScAIPDirectForceHead(model),
        }
    else:
        head = EScAIP.EScAIPGradientEnergyForceStressHead(model, wrap_property=False)
        heads = {"output_heads.energyandforcehead.head.": head}
    state = torch.load(weights)
    for prefix, part in {"backbone.": model, **heads}.items():
        own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        part.load_state_dict(own)
    return model, list(heads.values())


def reference(config: dict[str, Any], weights: str) -> Any:
    import torch
    from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch

    model, heads = reference_parts(config, weights)
    for part in (model, *heads):
        part.eval().requires_grad_(False)

    def call(atoms: list[Any]) -> tuple[Any, Any]:
        batch = atomicdata_list_to_batch([AtomicData.from_ase(a) for a in atoms])
        with torch.set_grad_enabled(not config["direct_forces"]):
            features, result = model(batch), {}
            for head in heads:
                result.update(head(batch, features))
        return result["energy"].detach().flatten(), result["forces"].detach()

    return call


def work(which: str, config: str, weights: str, slab: str) -> None:
    """Answer each question with the CPU time of a call and its results."""
    import torch

    torch.set_num_threads(1)
    call = {"ours": ours, "reference": reference}[which](MODELS[config], weights)
    base = peak_mib()

    def answer(kind: str, count: int, seed: int) -> dict[str, Any]:
        atoms = structures(kind, count, seed, slab)
        start = time.process_time()
        energy, forces = call(atoms)
        spent = time.process_time() - start
        row = {"s": spent, "energy": energy.tolist(), "forces": forces.tolist()}
        return {**row, "mib": peak_mib(), "base_mib": base}

    serve(answer)


def compare(
    case: str, pythons: dict[str, str], repeat: int, folder: Path, slab: Path
) -> dict[str, Any]:
    """Run one case: memory in fresh processes, then times in turns."""
    config, kind, count = CASES[case]
    weights = folder / f"{config}.pt"
    if not weights.exists():
        fresh_weights(config, weights)
    row: dict[str, Any] = {"case": case}
    answers = {}
    for which, python in pythons.items():
        worker = Worker(python, HERE, which, config, str(weights), str(slab))
        answers[which] = worker.call(kind=kind, count=count, seed=0)
        worker.close()
        row[f"{which}_mib"] = answers[which]["mib"]
        row[f"{which}_call_mib"] = answers[which]["mib"] - answers[which]["base_mib"]
    row["atoms"] = len(answers["ours"]["forces"])
    workers = {w: Worker(p, HERE, w, config, str(weights), str(slab)) for w, p in pythons.items()}
    turns = take_turns(workers, repeat, kind=kind, count=count)
    times = {which: [answer["s"] for answer in rows] for which, rows in turns.items()}
    for which, worker in workers.items():
        worker.close()
        row[f"{which}_s"] = statistics.median(times[which])
        row[f"{which}_all_s"] = times[which]
    if "reference" in pythons:
        row["faster"] = faster(times["ours"], times["reference"])
        for what in ("energy", "forces"):
            a, b = (np.array(answers[which][what]) for which in ("ours", "reference"))
            row[f"{what}_gap"] = float(np.abs(a - b).max())
    return row


def fresh_weights(config: str, path: Path) -> None:
    import torch

    import ase_nnp

    model = ase_nnp.build_model("escaip", MODELS[config], seed=0, device="cpu")
    torch.save(model.state_dict(), path)


def exponent(rows: list[dict[str, Any]], which: str) -> float | None:
    """Slope of log time against log atoms over the growth cases."""
    points = [
        (r["atoms"], r[f"{which}_s"])
        for r in rows
        if r["case"].startswith("growth") and f"{which}_s" in r
    ]
    if len(points) < 3:
        return None
    sizes, times = np.log(np.array(points)).T
    return float(np.polyfit(sizes, times, 1)[0])


def cpu(args: argparse.Namespace) -> list[dict[str, Any]]:
    pythons = {"ours": sys.executable}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        slab = find_slab(args.structure, folder)
        if not args.alone:
            env = args.reference_env
            pythons["reference"] = (
                f"{env}/bin/python" if env else make_environment(folder / "env", REFERENCE_STEPS)
            )
        rows = []
        for case in args.cases:
            size = int(case.split("-")[1]) if case.startswith("growth") else 0
            both = pythons if size <= args.reference_atoms else {"ours": pythons["ours"]}
            rows.append(compare(case, both, args.repeat, folder, slab))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    print(f"\n{platform.machine()}, one thread, CPU time, median of {args.repeat}, {REFERENCE}")
    for line in (HEAD, *cells(rows)):
        shown = (f"{v:.4g}" if isinstance(v, float) else str(v or "") for v in line)
        print(f"| {' | '.join(shown)} |")
    for which in ("ours", "reference"):
        slope = exponent(rows, which)
        if slope is not None:
            print(f"time of the {which} model grows as atoms^{slope:.2f}")
    return rows


def gpu(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Throughput of batches of slabs on a GPU."""
    import torch

    import ase_nnp

    if not torch.cuda.is_available():
        raise SystemExit("No CUDA device can be used here.")
    build = ase_nnp.build_model
    makers = {f"escaip {name}": ("escaip", MODELS[name]) for name in ("direct", "gradient")}
    if args.peers:
        published = {"num_interactions": 12, "hidden_channels": 1024, "num_taps": 1, "num_bands": 1}
        published |= {"max_num_neighbors": 40, "basis_width_scalar": 2.0}
        makers["scn"] = ("scn", published)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        slab = str(find_slab(args.structure, Path(temporary)))
        for name, (family, config) in makers.items():
            kernels = ("math", "fused") if family == "escaip" else ("",)
            for kernel in kernels:
                options = {"attention": kernel} if kernel else {}
                model = build(family, {**config, **options}, seed=0, device="cuda").freeze()
                for row in gpu_rows(model, slab, args.repeat):
                    rows.append({"model": f"{name} {kernel}".strip(), **row})
                    print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
                del model
                torch.cuda.empty_cache()
    print(f"\n{torch.cuda.get_device_name()}, torch {torch.__version__}, float32")
    for r in rows:
        print(f"{r['model']}, batch {r['batch']}: {r['per_s']:.1f} a second, {r['gib']:.2f} GiB")
    return rows


def gpu_rows(model: Any, slab: str, repeat: int) -> list[dict[str, Any]]:
    """Double the batch until memory ends."""
    import torch

    rows = []
    for batch in (1, 4, 16, 64, 256):
        torch.cuda.reset_peak_memory_stats()
        times = []
        try:
            for seed in range(repeat + 2):
                atoms = structures("slab", batch, seed, slab)
                torch.cuda.synchronize()
                start = time.perf_counter()
                with torch.no_grad():
                    model.compute(model.make_graph(atoms), ("energy", "forces"))
                torch.cuda.synchronize()
                times.append(time.perf_counter() - start)
        except torch.cuda.OutOfMemoryError:
            break
        gib = torch.cuda.max_memory_allocated() / 2**30
        rows.append({"batch": batch, "per_s": batch / statistics.median(times[2:]), "gib": gib})
    return rows


def record(rows: list[dict[str, Any]]) -> None:
    """Write the tables of cases and of growth, or that of a GPU."""
    if "per_s" in rows[0]:
        head = ["model", "batch", "structures/s", "peak, GiB"]
        write_measurement("escaip_gpu", head, [[*row.values()] for row in rows])
        return
    table = cells(rows)
    growth = [row[1:] for row in table if row[0].startswith("growth")]
    others = [[in_words(row[0]), *row[1:]] for row in table if not row[0].startswith("growth")]
    for name, columns, lines in (("escaip", HEAD, others), ("escaip_growth", HEAD[1:], growth)):
        if lines:
            write_measurement(name, columns, lines)


def cells(rows: list[dict[str, Any]]) -> list[list[Any]]:
    """Return the lines of the table."""
    keys = ("case", "atoms", "ours_s", "reference_s", "faster", "ours_mib", "reference_mib")
    return [[row.get(key) for key in keys] for row in rows]


def in_words(case: str) -> str:
    """Return what the table calls a case: ``gradient, 2 slabs``."""
    forces, count = case.split("-")
    return f"{forces}, {count} slab{'s' * (count != '1')}"


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--reference-env", help=f"environment that holds {REFERENCE}")
    parser.add_argument("--reference-atoms", type=int, default=512, help="end of its growth cases")
    parser.add_argument("--alone", action="store_true", help="do not run the reference")
    parser.add_argument("--peers", action="store_true", help="GPU: SCN on the same batches")
    parser.add_argument(
        "--structure", help="any file that ASE reads, or 'copper'; else OC20's slab"
    )
    parser.add_argument("--json", help="also write the figures here")
    record_option(parser)
    args = parser.parse_args()
    rows = cpu(args) if args.device == "cpu" else gpu(args)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))
    if args.record:
        record(rows)


if __name__ == "__main__":
    main()
