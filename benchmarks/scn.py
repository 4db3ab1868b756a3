"""SCN here and in fairchem-core 1.10: time, memory, throughput.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/scn.py --reference-env ENV
    python benchmarks/scn.py --device cuda --json FILE

On the CPU both programs hold the same weights in processes of their own, on one thread, and take
turns; each figure is the median CPU time of energy and forces with the graph, for atoms that moved
since the call before. Peak memory is that of a further process that makes one
call, in which both use the same random edge frames, so that the energies can be compared.

ENV is a virtual environment that holds fairchem-core 1.10; without it one is made, which takes
about ten minutes. Without ENV and with ``--alone`` only our figures are printed.

On a GPU: structures a second against batch size until memory ends, for float32, TF32 and bfloat16,
with the largest error in energy per atom and force against float64, with and without compilation.
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
    "num_interactions": 12,
    "hidden_channels": 1024,
    "sphere_channels": 128,
    "sphere_channels_reduce": 128,
    "num_sphere_samples": 128,
    "num_basis_functions": 128,
    "distance_function": "gaussian",
    "max_num_neighbors": 40,
    "cutoff": 8.0,
    "lmax": 6,
    "mmax": 1,
    "use_grid": True,
    "num_bands": 1,
    "num_taps": 1,
    "regress_forces": True,
    "use_pbc": True,
    "basis_width_scalar": 2.0,
    "otf_graph": True,
}
SMALL = PUBLISHED | {
    "num_interactions": 4,
    "hidden_channels": 128,
    "sphere_channels": 32,
    "sphere_channels_reduce": 32,
    "num_basis_functions": 32,
    "max_num_neighbors": 30,
    "cutoff": 6.0,
    "lmax": 4,
}
CONFIGS = {"published": PUBLISHED, "small": SMALL}
CASES = {
    "published-1": ("published", 1),
    "published-16": ("published", 16),
    "published-8": ("published", 8),
    "small-1": ("small", 1),
    "small-16": ("small", 16),
}
# Sixteen slabs of published size are more than 24 GiB hold with the reference.
DEFAULT_CASES = ["published-1", "published-8", "small-1", "small-16"]
REFERENCE_STEPS = (
    "torch==2.13.0",
    "--no-deps fairchem-core==1.10.0",
    "ase e3nn torch_geometric lmdb<1.8 numba orjson pyyaml tqdm submitit tensorboard wandb "
    "hydra-core torchtnt ase-db-backends monty huggingface_hub pymatgen setuptools wheel",
    "--no-build-isolation torch-scatter",
)


def find_slab(given: str | None, folder: Path) -> Path:
    """Write the slab to calculate: the given file, the reference OC20 slab, or one of our own."""
    from ase import Atoms
    from ase.build import add_adsorbate, fcc111, molecule
    from ase.io import read, write

    arrays = HERE.parents[2] / "shared/reference/scn/scn_l6_m1_t4_b2_r2/inputs.npz"
    if given:
        atoms = read(given)
    elif arrays.is_file():
        atoms = stored_slab(arrays)
    else:
        atoms = fcc111("Cu", (3, 3, 4), vacuum=10.0)
        add_adsorbate(atoms, molecule("CO"), 2.0, "ontop", mol_index=1)
    write(
        folder / "slab.extxyz",
        Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc),
    )
    return folder / "slab.extxyz"


# In the worker processes; the reference's environment has no ase_nnp.


def ours(config: dict[str, Any], weights: str) -> Any:
    import torch

    import ase_nnp

    model = ase_nnp.load_model("scn", config=config, weights=weights, device="cpu")

    def call(structures: list[Any], drawn: bool) -> list[float]:
        graph = model.make_graph(structures)
        if drawn:
            graph.extra["edge_random"] = torch.rand(graph.num_edges, 3)
        with torch.no_grad():
            result = model.compute(graph, ("energy", "forces"))
        return list(result["energy"].tolist())

    return call


def reference(config: dict[str, Any], weights: str) -> Any:
    import torch
    from fairchem.core.datasets import data_list_collater
    from fairchem.core.models.scn.scn import SphericalChannelNetwork
    from fairchem.core.preprocessing import AtomsToGraphs

    torch.manual_seed(0)
    model = SphericalChannelNetwork(**config).eval()
    if Path(weights).exists():
        model.load_state_dict(torch.load(weights))
    else:
        torch.save(model.state_dict(), weights)
    if os.environ.get("FROZEN_REFERENCE"):
        model.requires_grad_(False)
    convert = AtomsToGraphs(r_edges=False, r_pbc=True).convert

    def call(structures: list[Any], drawn: bool) -> list[float]:
        batch = data_list_collater([convert(s) for s in structures], otf_graph=True)
        with torch.no_grad():
            return list(model(batch)["energy"].tolist())

    return call


def work(which: str, config: str, weights: str, slab: str) -> None:
    """Answer each question with the CPU time of a call."""
    import torch

    torch.set_num_threads(1)
    call = {"ours": ours, "reference": reference}[which](CONFIGS[config], weights)

    def answer(count: int, seed: int, drawn: bool) -> dict[str, Any]:
        structures = moved(slab, count, seed)
        torch.manual_seed(seed)
        start = time.process_time()
        energies = call(structures, drawn)
        spent = time.process_time() - start
        return {"s": spent, "energies": energies, "mib": peak_mib()}

    serve(answer)


def compare(
    case: str, pythons: dict[str, str], repeat: int, folder: Path, slab: Path
) -> dict[str, Any]:
    """Run one case: memory in fresh processes, then times in turns."""
    config, count = CASES[case]
    weights = folder / f"{config}.pt"
    row: dict[str, Any] = {"case": case}
    energies: list[list[float]] = []
    if "reference" not in pythons and not weights.exists():
        fresh_weights(config, weights)
    for which, python in reversed(pythons.items()):  # the reference writes the weights
        worker = Worker(python, HERE, which, config, str(weights), str(slab))
        answer = worker.call(count=count, seed=0, drawn=True)
        worker.close()
        row[f"{which}_mib"] = answer["mib"]
        energies.append(answer["energies"])
    workers = {w: Worker(p, HERE, w, config, str(weights), str(slab)) for w, p in pythons.items()}
    answers = take_turns(workers, repeat, count=count, drawn=False)
    times = {which: [answer["s"] for answer in rows] for which, rows in answers.items()}
    for which, worker in workers.items():
        worker.close()
        row[f"{which}_s"] = statistics.median(times[which])
        row[f"{which}_all_s"] = times[which]
    if "reference" in pythons:
        row["faster"] = faster(times["ours"], times["reference"])
        row["memory_ratio"] = row["ours_mib"] / row["reference_mib"]
        row["energy_gap"] = float(np.abs(np.subtract(*energies)).max())
    return row


def fresh_weights(config: str, path: Path) -> None:
    import torch

    import ase_nnp

    torch.save(ase_nnp.build_model("scn", CONFIGS[config], seed=0, device="cpu").state_dict(), path)


#: Columns of the table, s and MiB.
HEAD = ["case", "here, s", "fairchem-core 1.10, s", "faster"]
HEAD += ["here, MiB", "reference, MiB", "memory ratio"]
KEYS = ["case", "ours_s", "reference_s", "faster", "ours_mib", "reference_mib", "memory_ratio"]


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
            rows.append(compare(case, pythons, args.repeat, folder, slab))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    machine = platform.processor() or platform.machine()
    print(f"\n{machine}, one thread, CPU time, median of {args.repeat}")
    print_table(HEAD, KEYS, rows)
    return rows


def print_table(head: list[str], keys: list[str], rows: list[dict[str, Any]]) -> None:
    """Print rows as Markdown."""
    print("| " + " | ".join(head) + " |")
    print("| " + " | ".join("---" for _ in head) + " |")
    for row in rows:
        values = [row.get(key, "") for key in keys]
        print(
            "| " + " | ".join(f"{v:.3g}" if isinstance(v, float) else f"{v}" for v in values) + " |"
        )


def gpu(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Throughput of batches of slabs on a GPU."""
    import torch

    import ase_nnp

    if not torch.cuda.is_available():
        raise SystemExit("No CUDA device can be used here.")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        slab = str(find_slab(args.structure, Path(temporary)))
        for config in dict.fromkeys(CASES[case][0] for case in args.cases):
            model = ase_nnp.build_model("scn", CONFIGS[config], seed=0, device="cuda").freeze()
            exact = ase_nnp.build_model(
                "scn", CONFIGS[config], seed=0, device="cuda", dtype="float64"
            )
            few = moved(slab, 2, 0)
            with torch.no_grad():
                wanted = exact(exact.make_graph(few))
            del exact
            torch.cuda.empty_cache()
            for compiled in (False, True):
                rows += gpu_rows(model, compiled, config, slab, wanted, args.repeat)
    device = torch.cuda.get_device_name()
    print(f"\n{device}, torch {torch.__version__}; structures of {len(few[0])} atoms")
    head = ["size", "precision", "compiled", "batch", "structures/s", "GiB"]
    keys = ["config", "precision", "compiled", "batch", "per_s", "gib", "energy_error"]
    head += ["error E per atom, eV", "error F, eV/A"]
    print_table(head, [*keys, "force_error"], rows)
    return rows


def gpu_rows(
    model: Any, compiled: bool, config: str, slab: str, wanted: dict[str, Any], repeat: int
) -> list[dict[str, Any]]:
    import torch

    rows = []
    plain = model._states  # the layers; the edge tables before them depend on the data
    if compiled:
        model._states = torch.compile(plain, dynamic=True)
    usual = torch.backends.cuda.matmul.allow_tf32
    for precision in ("float32", "tf32", "bf16"):
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"

        def call(graph: Any, half: bool = precision == "bf16") -> Any:
            with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=half):
                return model.compute(graph, ("energy", "forces"))

        answer = call(model.make_graph(moved(slab, 2, 0)))
        atoms = len(answer["forces"]) / 2
        energy = float((answer["energy"] - wanted["energy"]).abs().max()) / atoms
        force = float((answer["forces"] - wanted["forces"]).abs().max())
        batch = 1
        while True:
            try:
                row = gpu_time(model, call, slab, batch, repeat)
            except torch.cuda.OutOfMemoryError:
                break
            label = {"config": config, "precision": precision, "compiled": compiled}
            rows.append({**label, **row, "energy_error": energy, "force_error": force})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            batch *= 4
        torch.cuda.empty_cache()
    torch.backends.cuda.matmul.allow_tf32 = usual
    model._states = plain
    return rows


def gpu_time(model: Any, call: Any, slab: str, batch: int, repeat: int) -> dict[str, Any]:
    import torch

    torch.cuda.reset_peak_memory_stats()
    times = []
    for seed in range(repeat + 2):
        structures = moved(slab, batch, seed)
        torch.cuda.synchronize()
        start = time.perf_counter()
        call(model.make_graph(structures))
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    gib = torch.cuda.max_memory_allocated() / 2**30
    return {"batch": batch, "per_s": batch / statistics.median(times[2:]), "gib": gib}


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=DEFAULT_CASES)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--reference-env", help="environment that holds fairchem-core 1.10")
    parser.add_argument(
        "--frozen-reference",
        action="store_true",
        help="switch off the reference's parameter gradients, which it records even under no_grad, "
        "where memory does not allow for them (20 GiB for 16 slabs)",
    )
    parser.add_argument("--alone", action="store_true", help="do not run the reference")
    parser.add_argument("--structure", help="any file that ASE reads, instead of the OC20 slab")
    parser.add_argument("--json", help="also write the figures here")
    record_option(parser)
    args = parser.parse_args()
    if args.frozen_reference:
        os.environ["FROZEN_REFERENCE"] = "1"
    rows = cpu(args) if args.device == "cpu" else gpu(args)
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=1))
    if args.record:
        name = "scn" if args.device == "cpu" else "scn_gpu"
        keys = KEYS if args.device == "cpu" else list(rows[0])
        head = HEAD if args.device == "cpu" else keys
        write_measurement(name, head, [[row.get(key) for key in keys] for row in rows])


if __name__ == "__main__":
    main()
