"""Many reaction paths at once: the images of all bands in one batch, resumable after a kill."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ase_nnp.errors import AseNnpError, ConfigError, DatasetError, StructureError
from ase_nnp.files.atomic import read_checked, take_lock, write_checked
from ase_nnp.files.identity import STRUCTURES, structure_digest
from ase_nnp.models.files import load_model, model_hash
from ase_nnp.models.potential import Potential
from ase_nnp.models.predictor import Predictor
from ase_nnp.uncertainty.differences import energies
from ase_nnp.workflows.batched.interrupt import uninterrupted
from ase_nnp.workflows.batched.store import FolderInUseError, agree
from ase_nnp.workflows.doubts import noted
from ase_nnp.workflows.paths.band import Band
from ase_nnp.workflows.paths.ends import SAME_MINIMUM, first_band, match_atoms
from ase_nnp.workflows.paths.outcome import ReactionPath, what_no_saddle_means

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["METHODS", "PathSettings", "reaction_paths"]

METHODS = ("improvedtangent", "aseneb", "eb")


@dataclass(frozen=True)
class PathSettings:
    """How bands are moved; every field changes the result.

    Parameters
    ----------
    images
        Between the ends.
    fmax
        Where ends, bands and saddle points end, eV/Angstrom.
    steps
        At most so many for each band, and for each end.
    climb
        The top image climbs to the saddle point (Henkelman et al. 2000, doi:10.1063/1.1329672).
    method
        Of the tangents, as ASE names it: one of :data:`METHODS`.
    spring
        eV/Angstrom^2.
    interpolation
        ``"idpp"`` or ``"linear"``.
    climb_at
        The force of the band, eV/Angstrom, below which its top image begins to climb; infinity to
        climb from the first step, as plain climbing-image NEB does.
    finish_at
        The force of the band below which the top image leaves it and follows its mode to the
        saddle point alone, one evaluation a step; 0 for never.
    relax_ends, match
        Relax the ends first; assign atoms of one element anew where the given order is absurd.
    """

    images: int = 7
    fmax: float = 0.05
    steps: int = 300
    climb: bool = True
    method: str = "improvedtangent"
    spring: float = 0.1
    interpolation: str = "idpp"
    climb_at: float = 1.0
    finish_at: float = 0.5
    relax_ends: bool = True
    match: bool = True

    def __post_init__(self) -> None:
        if self.images < 1 or self.steps < 0 or not self.fmax > 0 or not self.spring > 0:
            raise ConfigError(
                f"images = {self.images}, steps = {self.steps}, fmax = {self.fmax}, spring = "
                f"{self.spring}: at least 1 image, 0 steps, and positive numbers."
            )
        if self.method not in METHODS or self.interpolation not in ("idpp", "linear"):
            raise ConfigError(
                f"method = {self.method!r}, interpolation = {self.interpolation!r}: one of "
                f"{', '.join(METHODS)}, and idpp or linear."
            )
        if self.climb_at < 0 or self.finish_at < 0:
            raise ConfigError("climb_at and finish_at are forces, zero or more.")


def reaction_paths(
    pairs: Sequence[tuple[Atoms, Atoms]],
    model: Any = None,
    *,
    folder: str | Path | None = None,
    checkpoint_every: float = 10.0,
    progress: Callable[[int, int, str], None] | None = None,
    **settings: Any,
) -> list[ReactionPath]:
    """Find the paths between many pairs of minima together.

    Each band moves as it would alone, by ASE's own NEB forces and FIRE steps; the images of all
    are evaluated in one batch. With ``finish_at=0`` and ``climb_at=inf`` every image of every step
    is that of ASE's climbing-image NEB.

    Parameters
    ----------
    pairs
        Initial and final structures; left as they are. Constraints of the first hold for all.
    model
        Anything that :func:`~ase_nnp.load_model` takes.
    folder
        Keeps checkpoints; the same call goes on after a kill.
    checkpoint_every
        Seconds between checkpoints.
    progress
        Called as ``progress(step, bands at work, text)``.
    **settings
        Of :class:`PathSettings`: ``images``, ``fmax``, ``steps``, ``climb``, ``method``, ...

    Returns
    -------
    list of ReactionPath
        In the order of ``pairs``; a band that fails does not disturb the others.

    Raises
    ------
    ConfigError
        Settings that cannot be meant, or a folder that holds another run or is in use.
    DatasetError
        The folder's checkpoint is damaged, or cannot be written.
    """
    try:
        chosen = PathSettings(**settings)
    except TypeError as error:
        raise ConfigError(f"No such setting: {error}") from error
    potential = load_model(model)
    if folder is None:
        return _Run(pairs, potential, chosen, None, checkpoint_every, progress).carried_out()

    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    lock = take_lock(place / "lock", wait=False)
    if lock is None:
        raise FolderInUseError(f"Another process is at work in {place}.")
    try:
        digests = [structure_digest(atoms) for pair in pairs for atoms in pair]
        plain = {k: str(v) if v == np.inf else v for k, v in asdict(chosen).items()}
        agree(place / "paths.json", {**plain, "model": model_hash(potential), STRUCTURES: digests})
        return _Run(pairs, potential, chosen, place, checkpoint_every, progress).carried_out()
    finally:
        lock.close()


class _Run:
    """The bands of one call."""

    def __init__(
        self,
        pairs: Sequence[tuple[Atoms, Atoms]],
        model: Potential,
        settings: PathSettings,
        folder: Path | None,
        checkpoint_every: float,
        progress: Callable[[int, int, str], None] | None,
    ) -> None:
        self.pairs, self.model, self.settings = list(pairs), model, settings
        self.folder, self.every, self.progress = folder, checkpoint_every, progress
        self.predictor = Predictor(model)
        self.failed: dict[int, str] = {}
        self.permutations: dict[int, list[int] | None] = {}
        self.bands: dict[int, Band] = {}

    def carried_out(self) -> list[ReactionPath]:
        """Move all bands to their ends."""
        self._make_bands()
        self._restore()
        saved, step = time.monotonic(), 0

        while moving := [k for k, band in self.bands.items() if not band.done]:
            # A step of all bands is whole in a checkpoint, or not there.
            with uninterrupted():
                self._evaluate(moving)
                for k in moving:
                    band = self.bands.get(k)
                    if band is None or band.done:
                        continue
                    if band.steps >= self.settings.steps:
                        band.stage = "done"
                    else:
                        band.move()
                step += 1
                if self.folder is not None and time.monotonic() - saved >= self.every:
                    self._save()
                    saved = time.monotonic()
            if self.progress is not None:
                worst = max((self.bands[k].force for k in moving if k in self.bands), default=0.0)
                self.progress(step, len(moving), f"largest force {worst:.3f} eV/Å")

        if self.folder is not None:
            self._save()
        return [self._outcome(k) for k in range(len(self.pairs))]

    def _make_bands(self) -> None:
        matched: dict[int, tuple[Atoms, Atoms]] = {}
        for k, (start, end) in enumerate(self.pairs):
            try:
                other, self.permutations[k] = match_atoms(start, end, self.settings.match)
                matched[k] = (start.copy(), other)
            except StructureError as error:
                self.failed[k] = str(error)

        ends = self._ends(matched)
        for k, pair in ends.items():
            settings = self.settings
            apart = float(np.linalg.norm(pair[1].positions - pair[0].positions, axis=1).max())
            if apart < SAME_MINIMUM:
                self.failed[k] = (
                    f"Both ends are one minimum: no atom is farther than {apart:.3f} Å from its "
                    "place in the other."
                )
                continue
            images = first_band(*pair, settings.images, settings.interpolation)
            known = [(a.get_potential_energy(), a.get_forces(apply_constraint=False)) for a in pair]
            self.bands[k] = Band(
                images,
                known,
                fmax=settings.fmax,
                method=settings.method,
                spring=settings.spring,
                climb=settings.climb,
                climb_at=settings.climb_at,
                finish_at=settings.finish_at,
            )

    def _ends(self, matched: dict[int, tuple[Atoms, Atoms]]) -> dict[int, tuple[Atoms, Atoms]]:
        """Return the ends, relaxed if wanted, with energies and forces; all in one batch."""
        from ase_nnp.workflows.batched import relax_many

        settings = self.settings
        ends = {}
        steps = settings.steps if settings.relax_ends else 0
        outcomes = relax_many(
            self.model,
            [atoms for pair in matched.values() for atoms in pair],
            optimizer="BFGS",
            fmax=settings.fmax,
            steps=steps,
            folder=None if self.folder is None else self.folder / "ends",
            trajectory=None,
        )
        for k, one, two in zip(matched, outcomes[::2], outcomes[1::2], strict=True):
            bad = [o for o in (one, two) if o.status == "failed"]
            stuck = [o for o in (one, two) if settings.relax_ends and o.status != "converged"]
            if bad or stuck:
                worst = (bad or stuck)[0]
                said = worst.reason or f"it did not relax to {settings.fmax} eV/Å"
                self.failed[k] = f"An end has failed: {said}."
                continue
            ends[k] = (one.atoms, two.atoms)
        return ends

    def _evaluate(self, moving: Sequence[int]) -> None:
        """Evaluate all images that the bands want in one call, or each band's, to see who fails."""
        wanted = {k: [self.bands[k].images[i] for i in self.bands[k].wanted()] for k in moving}
        try:
            flat = [image for images in wanted.values() for image in images]
            rows = self.predictor(flat, ("energy", "forces"), progress=False)
        except AseNnpError:
            for k, images in wanted.items():
                try:
                    own = self.predictor(images, ("energy", "forces"), progress=False)
                    self.bands[k].take(own)
                except AseNnpError as error:
                    self.failed[k] = str(error)
                    del self.bands[k]
            return

        place = 0
        for k, images in wanted.items():
            self.bands[k].take(rows[place : place + len(images)])
            place += len(images)

    def _save(self) -> None:
        assert self.folder is not None
        arrays = {
            f"{k}/{name}": value
            for k, band in self.bands.items()
            for name, value in band.state().items()
        }
        failed = json.dumps({str(k): reason for k, reason in self.failed.items()})
        packed = io.BytesIO()
        np.savez(packed, failed=np.array(failed), **arrays)  # type: ignore[arg-type]
        path = self.folder / "bands"
        try:
            write_checked(path, packed.getvalue())
        except OSError as error:
            raise DatasetError(f"cannot be written: {error}", path=path) from error

    def _restore(self) -> None:
        path = None if self.folder is None else self.folder / "bands"
        if path is None or not path.exists():
            return

        try:
            with np.load(io.BytesIO(read_checked(path)), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            for name, reason in json.loads(str(arrays.pop("failed"))).items():
                self.failed[int(name)] = reason
                self.bands.pop(int(name), None)
            for k, band in self.bands.items():
                head = f"{k}/"
                own = {n.removeprefix(head): v for n, v in arrays.items() if n.startswith(head)}
                band.restore(own)
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise DatasetError(
                f"is damaged ({error}); start again in a new folder", path=path
            ) from error

    def _outcome(self, k: int) -> ReactionPath:
        if k in self.failed:
            return ReactionPath([], [], "failed", self.failed[k])
        from ase.calculators.singlepoint import SinglePointCalculator

        band = self.bands[k]
        images = []
        for image in band.images:
            still = image.copy()
            labels = {"energy": image.calc.energy, "forces": image.calc.forces}
            still.calc = SinglePointCalculator(still, **labels)
            images.append(still)
        top = None if band.follower is None else band.top
        known = [image.calc.energy for image in band.images]
        reason = what_no_saddle_means(known, top) if band.converged else ""
        values = energies(self.model, images)
        for image, value in zip(images, values, strict=True):
            said = {"energy_std": value.std, "ood_flag": value.unknown}
            noted(image, {name: said[name] for name in said if name in self.model.outputs})
        return ReactionPath(
            images,
            values,
            "converged" if band.converged and not reason else "finished",
            reason,
            band.steps,
            band.evaluations,
            band.force,
            -1 if top is None else top,
            self.permutations.get(k),
            [k for k, value in enumerate(values) if value.unknown],
        )
