"""CPU time of a training step of each family, beside the reference implementation or a peer.

    OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive python benchmarks/training_steps.py \
        --scn ENV --escaip ENV --facet ENV

A step is the forward pass, the loss of energies an atom and of forces (mean squares), backward to
all parameters, and Adam: ``--adam fused`` for both programs (the same arithmetic in one pass over
the weights), ``plain`` for both, or ``own``, fused here and plain there, as the trainers of
ase_nnp, fairchem and MACE make it when told nothing. Both programs run in processes of their own,
on one thread, and take turns (A B A B); each step gets structures whose atoms were moved anew, and
labels drawn at random. The first two rounds warm up (ten with MACE, whose TorchScript is
specialized on the way). Batches are made beforehand, as data-loader processes do; what that took is
measured apart, so that there are two ratios, of the steps alone and with the batches made in line.
Which program finds its neighbors where: SCN of fairchem-core inside the step (``otf_graph``), but
for the cases called ``stored``; its EScAIP always inside the step; all others beforehand, as ours
do, but for the ranking of EScAIP's neighbors, which is part of its network.

``--scn ENV`` is an environment with fairchem-core 1.10.0, ``--escaip ENV`` one with 2.24.0 and
``--facet ENV`` one with mace-torch 0.3.16; cases without one are left out. SCN and EScAIP start
from the same random weights (and SCN from the same draw of edge frames), so the loss and the
length of the gradient of the first step are compared too. MACE is a peer of about the same number
of parameters. The CGCNN of OC20 is in no fairchem-core from 1.0 on; its peer is a network of the
same sizes made of the ``CGConv`` layers of torch_geometric, in the environment of ``--scn``.
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

import escaip
import numpy as np
import scn
from measurement import record_option, write_measurement
from turns import Worker, faster, moved, peak_mib, serve, take_turns

HERE = Path(__file__).resolve()
DRAWN = {"random_training_frames": True}  # as the reference trains
STORED = DRAWN | {"otf_graph": False}
MATH = {"atten_name": "math"}
ACAC = {
    "species": [1, 6, 8],
    "hidden_irreps": ["64x0e + 32x1o + 16x2e"] * 2,
    "outs_per_node": 64,
    "avg_num_neighbors": 12.0,
    "edge_embed": {"r_max": 5.0},
}
METAL = ACAC | {"species": [6, 8, 29], "avg_num_neighbors": 40.0}
CGCNN = {"atom_embedding_size": 128, "num_graph_conv_layers": 5, "fc_feat_size": 128}
CGCNN |= {"num_fc_layers": 3, "cutoff": 6.0, "num_gaussians": 100, "max_neighbors": 50}
CGCNN |= {"pbc": [True] * 3}
WARM = {"facet": 9}
#: name: family, configuration, structures, how many
CASES: dict[str, tuple[str, dict[str, Any], str, int]] = {
    "scn-small-1": ("scn", scn.SMALL | DRAWN, "slab", 1),
    "scn-small-8": ("scn", scn.SMALL | DRAWN, "slab", 8),
    "scn-small-1-stored": ("scn", scn.SMALL | STORED, "slab", 1),
    "scn-small-8-stored": ("scn", scn.SMALL | STORED, "slab", 8),
    "scn-published-1": ("scn", scn.PUBLISHED | DRAWN, "slab", 1),
    "scn-published-1-stored": ("scn", scn.PUBLISHED | STORED, "slab", 1),
    "scn-published-2": ("scn", scn.PUBLISHED | DRAWN, "slab", 2),
    "escaip-small-1": ("escaip", escaip.SMALL, "slab", 1),
    "escaip-small-8": ("escaip", escaip.SMALL, "slab", 8),
    "escaip-small-gradient-1": ("escaip", escaip.SMALL | escaip.GRADIENT | MATH, "slab", 1),
    "escaip-small-gradient-8": ("escaip", escaip.SMALL | escaip.GRADIENT | MATH, "slab", 8),
    "escaip-published-1": ("escaip", escaip.PUBLISHED, "slab", 1),
    "escaip-published-gradient-1": ("escaip", escaip.MODELS["gradient"] | MATH, "slab", 1),
    "facet-acac-5": ("facet", ACAC, "acac", 5),
    "facet-metal-4": ("facet", METAL, "metal", 4),
    "cgcnn_oc20-1": ("cgcnn_oc20", CGCNN, "slab", 1),
    "cgcnn_oc20-8": ("cgcnn_oc20", CGCNN, "slab", 8),
}


def write_structures(folder: Path, given: str | None, acac: str | None) -> dict[str, Path]:
    """Write the structures of the cases: OC20's slab, molecules and small slabs of copper."""
    from ase.build import add_adsorbate, fcc111, molecule
    from ase.io import read, write

    metal = []
    for site in ("ontop", "bridge", "fcc", "hcp"):
        atoms = fcc111("Cu", (2, 2, 3), vacuum=8.0)
        add_adsorbate(atoms, molecule("CO"), 2.0, site, mol_index=1)
        atoms.pbc = True
        metal.append(atoms)
    write(folder / "metal.extxyz", metal)
    paths = {"metal": folder / "metal.extxyz", "slab": scn.find_slab(given, folder)}
    frames = acac or str(HERE.parents[2] / "shared/data_real/acac/train_300K.xyz")
    if Path(frames).is_file():
        paths["acac"] = folder / "acac.extxyz"
        write(paths["acac"], [a.copy() for a in read(frames, ":20")])
    return paths


def work(which: str, case: str, weights: str, path: str, adam: str) -> None:
    """Answer each question with the CPU time of making a batch and of a training step."""
    import torch
    import training_models as models

    torch.set_num_threads(1)
    family, config, _, count = CASES[case]
    if which == "ours":
        program = models.ours(family, config, weights)
    else:
        program = models.PEERS[family](config, weights)
    fused = adam == "fused" or (adam == "own" and which == "ours")
    optimizer = torch.optim.Adam(program.parameters, lr=1e-5, fused=fused)

    def answer(seed: int) -> dict[str, Any]:
        structures = moved(path, count, seed)
        sizes = torch.tensor([len(a) for a in structures])
        rng = np.random.default_rng(seed)
        energy = torch.tensor(rng.normal(size=count), dtype=torch.float32)
        forces = torch.tensor(rng.normal(size=(int(sizes.sum()), 3)), dtype=torch.float32)
        torch.manual_seed(seed)
        start = time.process_time()
        batch = program.prepare(structures)
        ready = time.process_time()
        optimizer.zero_grad()
        e, f = program.forward(batch)
        loss = ((e - energy) / sizes).square().mean() + (f - forces).square().mean()
        loss.backward()
        optimizer.step()
        end = time.process_time()
        given = [p.grad for p in program.parameters if p.grad is not None]
        return {
            "batch_s": ready - start,
            "step_s": end - ready,
            "loss": float(loss.detach()),
            "gradient": float(torch.stack([g.norm() for g in given]).norm()),
            "parameters": sum(p.numel() for p in program.parameters),
            "atoms": int(sizes.sum()),
            "mib": peak_mib(),
        }

    serve(answer)


def compare(
    case: str, pythons: dict[str, str], repeat: int, folder: Path, path: Path, adam: str
) -> Any:
    """Run one case."""
    arguments = (case, str(folder / f"{case}.pt"), str(path), adam)
    # Ours first: it writes the weights.
    workers = {which: Worker(p, HERE, which, *arguments) for which, p in pythons.items()}
    first = {which: worker.call(seed=0) for which, worker in workers.items()}
    rounds = take_turns(workers, repeat, warm=WARM.get(CASES[case][0], 1))
    row: dict[str, Any] = {"case": case, "atoms": first["ours"]["atoms"]}
    whole = {}
    for which, worker in workers.items():
        worker.close()
        steps = [a["step_s"] for a in rounds[which]]
        whole[which] = [a["step_s"] + a["batch_s"] for a in rounds[which]]
        row[f"{which}_s"] = statistics.median(steps)
        row[f"{which}_batch_s"] = statistics.median(a["batch_s"] for a in rounds[which])
        row[f"{which}_all_s"] = steps
        row[f"{which}_mib"] = rounds[which][-1]["mib"]
        row |= {f"{which}_{key}": first[which][key] for key in ("parameters", "loss", "gradient")}
    if "peer" in pythons:
        row["faster"] = faster(row["ours_all_s"], row["peer_all_s"])
        row["faster_with_batch"] = faster(whole["ours"], whole["peer"])
    return row


def print_table(rows: list[dict[str, Any]], repeat: int) -> None:
    """Print the rows as Markdown."""
    print(f"\n{platform.machine()}, one thread, CPU ms, median of {repeat}")
    for line in (HEAD, *table(rows)):
        print(" | ".join(map(str, line)))


HEAD = ["case", "atoms", "parameters", "step here / peer (batch), ms", "faster", "with the batch"]
HEAD += ["loss, gradient of the first step", "MiB", "load"]


#: What the table calls parts of the cases' names.
WORDS = {
    "scn": "SCN",
    "escaip": "EScAIP",
    "facet": "Facet beside MACE,",
    "cgcnn_oc20": "CGCNN beside `CGConv`",
    "published": "of published size",
    "stored": "with stored edges",
    "gradient": "with gradient forces",
    "acac": "acetylacetone",
    "metal": "CO on copper",
}


def in_words(case: str) -> str:
    """Return what the table calls a case: ``SCN small, 8 structures``."""
    parts = case.split("-")
    count = next(part for part in parts if part.isdigit())
    said = [WORDS.get(part, part) for part in parts if part != count]
    return f"{' '.join(said)}, {count} structure{'s' * (count != '1')}"


def table(rows: list[dict[str, Any]]) -> list[list[Any]]:
    """Return the cells of the table."""
    lines = []
    for r in rows:
        sides = [w for w in ("ours", "peer") if f"{w}_s" in r]
        cells = [
            in_words(r["case"]),
            r["atoms"],
            " / ".join(f"{r[f'{w}_parameters']}" for w in sides),
            " / ".join(f"{1e3 * r[f'{w}_s']:.0f} ({1e3 * r[f'{w}_batch_s']:.0f})" for w in sides),
            f"{r.get('faster', 0):.2f}",
            f"{r.get('faster_with_batch', 0):.2f}",
            " / ".join(f"{r[f'{w}_loss']:.6g}, {r[f'{w}_gradient']:.6g}" for w in sides),
            " / ".join(f"{r[f'{w}_mib']:.0f}" for w in sides),
            f"{r['load']:.0f}",
        ]
        lines.append(cells)
    return lines


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=tuple(CASES), default=list(CASES))
    parser.add_argument("--repeat", type=int, default=7)
    for family in ("scn", "escaip", "facet"):
        parser.add_argument(f"--{family}", help="environment of the peer")
    parser.add_argument("--adam", choices=("fused", "own", "plain"), default="fused")
    parser.add_argument("--alone", action="store_true", help="time our programs only")
    parser.add_argument("--structure", help="slab to use: any file that ASE reads")
    parser.add_argument("--acac", help="frames of acetylacetone, train_300K.xyz")
    parser.add_argument("--json", help="also write the figures here")
    record_option(parser)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        paths = write_structures(folder, args.structure, args.acac)
        for case in args.cases:
            family, _, kind, _ = CASES[case]
            env = getattr(args, family, args.scn)
            if kind not in paths or not (env or args.alone):
                print(f"{case}: left out", file=sys.stderr)
                continue
            pythons = {"ours": sys.executable}
            if not args.alone:
                pythons["peer"] = f"{env}/bin/python"
            load = os.getloadavg()[0]
            row = compare(case, pythons, args.repeat, folder, paths[kind], args.adam)
            rows.append(row | {"load": load})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
            if args.json:
                Path(args.json).write_text(json.dumps(rows, indent=1))
    print_table(rows, args.repeat)
    if args.record:
        write_measurement("training_steps", HEAD, table(rows))


if __name__ == "__main__":
    main()
