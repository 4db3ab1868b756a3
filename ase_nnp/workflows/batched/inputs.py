"""The structures of a run: one, a list, a generator or a dataset, read one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ase import Atoms

from ase_nnp.errors import ConfigError, StructureError
from ase_nnp.files.identity import UNREADABLE, structure_digest
from ase_nnp.models.predictor import as_atoms

__all__ = ["Structures"]


class Structures:
    """A sequence of structures of which some may be unreadable.

    Parameters
    ----------
    given
        An ase.Atoms, a pymatgen structure, any iterable of them, or a dataset. Sequences are read
        when a structure is needed; a generator is read at once.

    Raises
    ------
    ConfigError
        Something else was given.
    """

    def __init__(self, given: Any) -> None:
        if isinstance(given, Atoms) or hasattr(given, "to_ase_atoms"):
            given = [given]

        # Datasets stay on the disk; a generator is read once, because a run visits structures
        # again.
        lazy = hasattr(given, "__getitem__") and hasattr(given, "__len__")
        text = isinstance(given, (str, bytes, dict))
        if text or not (lazy or isinstance(given, Iterable)):
            raise ConfigError(
                f"Structures were expected, not {type(given).__name__} ({given!r:.60}): an "
                "ase.Atoms, a list of them, or a dataset from ase_nnp.open_dataset."
            )
        self.items: Sequence[Any] = given if lazy else list(given)

    def __len__(self) -> int:
        return len(self.items)

    def read(self, index: int) -> Atoms:
        """Return a structure.

        Raises
        ------
        StructureError
            It cannot be read, or is no structure; the message says why.
        """
        try:
            return as_atoms(self.items[index])
        except StructureError:
            raise
        except Exception as error:  # of a reader, which may be a plugin
            raise StructureError(f"cannot be read: {type(error).__name__}: {error}") from error

    def readable(self, index: int) -> Atoms:
        """Return a structure, or one without atoms in the place of what cannot be read."""
        try:
            return self.read(index)
        except StructureError:
            return Atoms()

    def part(self, first: int, last: int) -> Sequence[Any]:
        """Return structures ``first`` to ``last`` (excluded), not read, to send elsewhere."""
        try:
            return self.items[first:last]
        except Exception:  # of a sequence that knows single places only
            return _Part(self.items, first, last)

    def digests(self) -> list[str]:
        """Return the digest of the content of every structure."""
        return [self._digest(index) for index in range(len(self))]

    def _digest(self, index: int) -> str:
        try:
            return structure_digest(self.read(index))
        except StructureError:
            return UNREADABLE


class _Part(Sequence[Any]):
    """A view of a sequence that cannot be sliced."""

    def __init__(self, items: Sequence[Any], first: int, last: int) -> None:
        self.items, self.first, self.last = items, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: Any) -> Any:
        return self.items[self.first + index]
