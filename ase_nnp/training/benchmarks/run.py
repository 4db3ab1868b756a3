"""``run_benchmark``: find out what a file or a name asks for, and compare models on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import ConfigError, UncertaintyError
from ase_nnp.models.potential import Potential
from ase_nnp.training.benchmarks.report import BenchmarkReport
from ase_nnp.uncertainty.statistics.hierarchical import Comparison, compare_errors

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["BENCHMARKS", "benchmark_path", "compare_reports", "run_benchmark"]

#: Published sets by name: their file or folder below ``$ASE_NNP_BENCHMARKS``, and where it is from.
BENCHMARKS: Mapping[str, tuple[str, str]] = {
    **{
        name: (f"{name}_adsorption.json", "CatBench (doi:10.5281/zenodo.17157085)")
        for name in ("MamunHighT2019", "FG_dataset", "BM_dataset", "ComerGeneralized2024",
                     "GameNetOx_oxide", "KHLOHC_origin")
    },
    **{
        f"oc20-{task}-{split}": (f"oc20/{task}/{folder}", "OC20 (doi:10.1021/acscatal.0c04525)")
        for task, folders in (("s2ef", "all/{}"), ("is2re", "all/{}"))
        for split in ("val_id", "val_ood_ads", "val_ood_cat", "val_ood_both")
        for folder in (folders.format(split),)
    },
    "oc20-dense": ("oc20dense", "AdsorbML (doi:10.1038/s41524-023-01121-5)"),
    "oc25-solvation": ("oc25_solvation.aselmdb", "OC25 (arXiv:2509.17862)"),
    "mp-elasticity": ("mp-pbe-elasticity-2025.3.json.gz", "matcalc"),
    "mp-binary-elasticity": ("mp-binary-pbe-elasticity-2025.1.json.gz", "matcalc"),
    "alexandria-phonon": ("alexandria-pbe-phonon-2025.3.json.gz", "matcalc"),
    "alexandria-binary-phonon": ("alexandria-binary-pbe-phonon-2025.1.json.gz", "matcalc"),
}  # fmt: skip


def benchmark_path(name: str | Path) -> Path:
    """Return the file of a benchmark: a path as it is, a published name below a folder.

    Raises
    ------
    ConfigError
        Neither a file nor a name, or the set of that name is not there.
    """
    path = Path(os.path.expanduser(name))
    if path.exists():
        return path
    if str(name) not in BENCHMARKS:
        raise ConfigError(
            f"{name} is neither a file nor a benchmark; there are {', '.join(sorted(BENCHMARKS))}."
        )

    file, source = BENCHMARKS[str(name)]
    folder = os.environ.get("ASE_NNP_BENCHMARKS")
    if folder and (Path(folder) / file).exists():
        return Path(folder) / file

    raise ConfigError(
        f"{name} is {file} of {source}. Put it into a folder that $ASE_NNP_BENCHMARKS names"
        f"{f' (now {folder})' if folder else ''}, or give the path of the file."
    )


def run_benchmark(
    models: Mapping[str, Potential],
    benchmark: str | Path,
    *,
    relax: bool = False,
    limit: int | None = None,
    output: str | Path | None = None,
    energy_kind: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[BenchmarkReport]:
    """Run a benchmark on models.

    Parameters
    ----------
    models
        By name.
    benchmark
        A file or folder, whose content says what it is, or one of :data:`BENCHMARKS`: reactions of
        CatBench or Catalysis-Hub, a dataset of S2EF, IS2RE (and IS2RS with ``relax``), placements
        of AdsorbML, cases of OC25's solvation, tables of elastic moduli or heat capacities.
    relax
        Relax structures in the model first. Crystals always are.
    limit
        So many records at most, evenly spread.
    output
        A folder for results in the files of CatBench and ml-peg (adsorption only).
    energy_kind
        Convert labels of a dataset to this kind.
    progress
        Called as ``progress(done, total)`` while relaxing.

    Raises
    ------
    ConfigError
        No such benchmark, or a model whose energies are of another kind than the labels.
    DatasetError
        The file holds nothing to compare with.
    """
    path = benchmark_path(benchmark)
    reports = []
    load = _loader(path, energy_kind, limit)
    kind, content = load()
    for name, model in models.items():
        common: dict[str, Any] = {"benchmark": str(benchmark), "name": name}
        if kind == "adsorption":
            reports.append(_adsorption(model, content, common, relax, output, progress))
        elif kind == "crystals":
            from ase_nnp.training.benchmarks.crystals import crystal_benchmark

            reports.append(crystal_benchmark(model, content, progress=progress, **common))
        elif kind == "solvation":
            from ase_nnp.training.benchmarks.solvation import solvation_benchmark

            reports.append(solvation_benchmark(model, content, **common))
        else:
            reports.append(_oc20(kind, model, content, common, relax, progress))
    return reports


def _loader(
    path: Path, energy_kind: str | None, limit: int | None
) -> Callable[[], tuple[str, Any]]:
    def load() -> tuple[str, Any]:
        from ase_nnp.training.benchmarks.crystals import is_crystal_table, read_crystals

        if path.is_file() and is_crystal_table(path):
            return "crystals", _some(read_crystals(path), limit)
        from ase_nnp.datasets import open_dataset

        options: dict[str, Any] = {"energy_kind": energy_kind} if energy_kind else {}
        dataset = open_dataset(path, **options)
        if {shard.format for shard in dataset.shards} == {"reactions"}:
            from ase_nnp.training.benchmarks.adsorption import reactions_of

            return "adsorption", _some(reactions_of(dataset), limit)
        info = dataset[0].info
        if {"identifier", "part"} <= set(info):
            return "solvation", list(dataset)
        if {"system_id", "config_id", "adsorption_energy"} <= set(info):
            return "adsorbml", list(dataset)
        kind = "is2re" if "y_relaxed" in info else "s2ef"
        return kind, _some(dataset, limit)

    return load


def _some(records: Any, limit: int | None) -> Any:
    if limit is None or len(records) <= limit:
        return records
    chosen = np.unique(np.linspace(0, len(records) - 1, limit).astype(int))
    return [records[k] for k in chosen] if isinstance(records, list) else records[chosen]


def _adsorption(
    model: Potential,
    reactions: Any,
    common: dict[str, Any],
    relax: bool,
    output: str | Path | None,
    progress: Callable[[int, int], None] | None,
) -> BenchmarkReport:
    from ase_nnp.training.benchmarks.adsorption import adsorption_benchmark
    from ase_nnp.training.benchmarks.exchange import write_catbench_result, write_mlpeg_structures

    if model.energy_kind != "total":
        raise ConfigError(
            f"The model gives {model.energy_kind} energies; reactions need total energies of slab, "
            "adslab and molecules."
        )
    report, relaxed = adsorption_benchmark(
        model, reactions, relax=relax, progress=progress, **common
    )
    if output is not None:
        result = write_catbench_result(report, reactions, relaxed, output)
        structures = write_mlpeg_structures(report, reactions, Path(output) / "ml-peg")
        report.notes += [f"CatBench: {result}", f"ml-peg: {structures}"]
    return report


def _oc20(
    kind: str,
    model: Potential,
    dataset: Any,
    common: dict[str, Any],
    relax: bool,
    progress: Callable[[int, int], None] | None,
) -> BenchmarkReport:
    from ase_nnp.training.benchmarks import oc20

    if kind == "adsorbml":
        return oc20.placements_benchmark(model, dataset, **common)
    frames: Sequence[Atoms] = list(dataset)
    split = _split(dataset)
    if kind == "is2re":
        return oc20.is2re_benchmark(
            model, frames, relax=relax, progress=progress, split=split, **common
        )
    label_kind = getattr(dataset, "energy_kind", None) or "total"
    return oc20.s2ef_benchmark(model, frames, kind=label_kind, split=split, **common)


def _split(dataset: Any) -> str:
    from ase_nnp.datasets.catalog.describe import facts_of_file

    for shard in getattr(dataset, "shards", ()):
        return str(facts_of_file(Path(shard.path)).get("split", "all"))
    return "all"


def compare_reports(
    reports: Sequence[BenchmarkReport], *, rope: float = 0.01
) -> dict[str, Comparison]:
    """Compare every two models over the groups of their answers, as data sets.

    Records that one of the two did not answer are left out of their comparison.

    Parameters
    ----------
    reports
        Of one benchmark, or of several: groups of different benchmarks are different data sets.
    rope
        Differences of absolute errors below this mean nothing, in the benchmark's unit.
    """
    names = list(dict.fromkeys(report.model for report in reports))
    tables = {name: _errors(reports, name) for name in names}
    compared = {}
    for a, b in combinations(names, 2):
        sets_a: dict[str, list[float]] = {}
        sets_b: dict[str, list[float]] = {}
        for key in tables[a].keys() & tables[b].keys():
            sets_a.setdefault(key[0], []).append(tables[a][key])
            sets_b.setdefault(key[0], []).append(tables[b][key])
        try:
            compared[f"{a} - {b}"] = compare_errors(sets_a, sets_b, rope=rope)
        except UncertaintyError:
            continue  # nothing that both answered twice in one group
    return compared


def _errors(reports: Sequence[BenchmarkReport], name: str) -> dict[tuple[str, str], float]:
    return {
        (f"{report.benchmark}: {answer.group}", answer.name): abs(answer.error)
        for report in reports
        if report.model == name
        for answer in report.answers
        if answer.prediction is not None
    }
