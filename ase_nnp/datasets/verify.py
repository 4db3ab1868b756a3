"""Read every record of a dataset and list all that are broken, with file, key and reason."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ase_nnp.datasets.base import AtomsDataset
from ase_nnp.errors import AseNnpError

__all__ = ["Problem", "Report", "verify_dataset"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Problem:
    """One broken record, or a file that cannot be opened (``key`` None)."""

    path: str
    key: str | None
    kind: str
    """The error's class and reason without numbers: what counts as the same kind."""
    reason: str


@dataclass
class Report:
    """What :func:`verify_dataset` found."""

    structures: int = 0
    files: int = 0
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is broken."""
        return not self.problems

    def first_of_each_kind(self) -> dict[str, tuple[int, Problem]]:
        """Return, by kind, how many there are and the first one."""
        kinds: dict[str, tuple[int, Problem]] = {}
        for problem in self.problems:
            count, first = kinds.get(problem.kind, (0, problem))
            kinds[problem.kind] = (count + 1, first)
        return kinds

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as for ``--json``."""
        return {
            "ok": self.ok,
            "files": self.files,
            "structures": self.structures,
            "broken": len(self.problems),
            "kinds": {k: {"count": n, **asdict(p)} for k, (n, p) in self._kinds()},
            "problems": [asdict(problem) for problem in self.problems],
            "warnings": self.warnings,
        }

    def _kinds(self) -> Iterable[tuple[str, tuple[int, Problem]]]:
        return self.first_of_each_kind().items()


def verify_dataset(
    path: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
    on_problem: Callable[[Problem], None] | None = None,
    **open_options: Any,
) -> Report:
    """Open ``path`` and decode every record as strictly as reading does.

    A file of a folder that cannot be opened is listed and the others are still read.

    Parameters
    ----------
    path
        A file or folder, as for :func:`ase_nnp.open_dataset`.
    progress
        Called as ``progress(done, total)``.
    on_problem
        Called with each problem when it is found.
    **open_options
        For :func:`ase_nnp.open_dataset`.
    """
    import warnings

    from ase_nnp.datasets.opening import open_dataset

    if not Path(path).exists():
        open_dataset(path, **open_options)  # a pattern; or says that nothing is there
    report = Report()

    def note(error: Exception, where: Path | str, key: object) -> None:
        problem = _problem(error, where, key)
        report.problems.append(problem)
        if on_problem is not None:
            on_problem(problem)

    # Python shows a warning once a place; here every file's own counts.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        datasets = list(_open_what_can_be(Path(os.fspath(path)), open_options, note))
        total = sum(len(dataset) for dataset in datasets)
        for dataset in datasets:
            report.files += len(dataset.shards)
            for index in range(len(dataset)):
                try:
                    dataset[index]
                except AseNnpError as error:
                    where, key = dataset.locate(index)
                    note(error, where, key)
                report.structures += 1
                if progress is not None:
                    progress(report.structures, total)
            dataset.close()
    report.warnings = sorted({str(warning.message) for warning in caught})
    return report


def _open_what_can_be(
    path: Path, options: dict[str, Any], note: Callable[[Exception, Path, object], None]
) -> Iterator[AtomsDataset]:
    """Yield the dataset; if it does not open as a whole, each file that opens alone."""
    from ase_nnp.datasets.opening import open_dataset

    try:
        yield open_dataset(path, **options)
        return
    except AseNnpError as error:
        if not path.is_dir() or (path / "data.mdb").is_file():
            note(error, path, None)
            return
        whole = error

    # A folder may be refused for one of its files: each is tried alone to name it.
    blamed = False
    for file in sorted(entry for entry in path.iterdir() if _is_part(entry, options)):
        try:
            yield open_dataset(file, **options)
        except AseNnpError as error:
            blamed = True
            note(error, file, None)
    if not blamed:
        note(whole, path, None)


def _is_part(path: Path, options: dict[str, Any]) -> bool:
    """Whether a file of a folder would be taken as data, by content or by name."""
    from ase_nnp.datasets.opening import _formats, _may_be_data, find_format

    if not _may_be_data(path, options.get("format")):
        return False
    kind = find_format(path, _formats())
    return kind is not None and options.get("format", kind.name) == kind.name


def _problem(error: Exception, where: Path | str, key: object) -> Problem:
    where = getattr(error, "path", None) or where
    if getattr(error, "key", None) is not None:
        key = getattr(error, "key", None)
    name = key.decode(errors="replace") if isinstance(key, bytes) else key
    reason = str(error)
    for prefix in (f"{where}: ", f"record {key!r}: ", f"record {name!r}: "):
        reason = reason.removeprefix(prefix)
    kind = f"{type(error).__name__}: {re.sub(r'-?[0-9][0-9.,e+-]*', '#', reason)}"
    return Problem(str(where), None if name is None else str(name), kind, reason)
