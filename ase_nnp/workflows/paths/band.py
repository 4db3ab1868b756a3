"""One elastic band on its way: ASE's own NEB and FIRE, given energies that a batch has computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.calculators.calculator import Calculator
from ase.mep import NEB
from ase.optimize import FIRE

from ase_nnp.workflows.paths.follow import Array, ModeFollower
from ase_nnp.workflows.vibrations.hessian import free_atoms

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["STAGES", "Band"]

#: In this order: the band without climbing, with its top image climbing, the top image alone.
STAGES = ("band", "climb", "finish", "done")
#: How many evaluations of each image are kept, to begin the Hessian of the last stage with.
REMEMBERED = 6
#: A finish that needs more steps, or leads further away (Angstrom), has lost its band.
LONGEST_FINISH, FARTHEST = 100, 1.5


class _Given(Calculator):  # type: ignore[misc]
    """Energy and forces that were computed elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.energy, self.forces = float("nan"), np.zeros((0, 3))

    def get_potential_energy(self, atoms: Any = None, force_consistent: bool = False) -> float:
        return self.energy

    def get_forces(self, atoms: Any = None) -> Array:
        return self.forces.copy()


class _Chain(NEB):  # type: ignore[misc]
    """ASE's band, which projects the forces of one set of positions once."""

    projected: Array | None = None

    def get_forces(self) -> Array:
        if self.projected is None:
            self.projected = super().get_forces()
        return self.projected

    def set_positions(self, positions: Array) -> None:  # type: ignore[override]
        self.projected = None
        super().set_positions(positions)


class Band:
    """A band between two minima, moved a step at a time.

    Parameters
    ----------
    images
        Ends included.
    ends
        Energy and forces of the two ends.
    fmax
        Where it ends, eV/Angstrom.
    method, spring
        As ASE names them.
    climb
        Whether the top image climbs.
    climb_at
        eV/Angstrom of the band below which it begins to climb.
    finish_at
        eV/Angstrom below which the top image goes on alone; 0 for never.
    """

    def __init__(
        self,
        images: list[Atoms],
        ends: Sequence[tuple[float, Array]],
        *,
        fmax: float,
        method: str,
        spring: float,
        climb: bool,
        climb_at: float,
        finish_at: float,
    ) -> None:
        self.images, self.fmax = images, fmax
        self.climb, self.climb_at, self.finish_at = climb, climb_at, finish_at
        for image in images:
            image.calc = _Given()
        for image, (energy, forces) in zip((images[0], images[-1]), ends, strict=True):
            image.calc.energy, image.calc.forces = energy, forces

        self.chain = _Chain(images, k=spring, method=method)
        self.optimizer = FIRE(self.chain, logfile=None)
        self.stage = "climb" if climb and climb_at == np.inf else "band"
        self.chain.climb = self.stage == "climb"
        self.steps = self.evaluations = self.finish_steps = self.top = 0
        self.force, self.converged, self.lost = float("inf"), False, False
        self.follower: ModeFollower | None = None
        self.free = free_atoms(images[0])
        self.history: dict[int, deque[tuple[Array, Array]]] = {}
        self.left_at = np.zeros(0)

    @property
    def done(self) -> bool:
        """Whether it has nothing to compute any more."""
        return self.stage == "done"

    @property
    def energies(self) -> Array:
        """Of all images, eV."""
        return np.array([image.calc.energy for image in self.images])

    def wanted(self) -> list[int]:
        """Return the images whose energy and forces the next step needs."""
        if self.done:
            return []
        return [self.top] if self.stage == "finish" else list(range(1, len(self.images) - 1))

    def take(self, results: Sequence[dict[str, Any]]) -> None:
        """Take energy and forces of the images that were wanted, and judge them."""
        for index, row in zip(self.wanted(), results, strict=True):
            calculator = self.images[index].calc
            calculator.energy = float(row["energy"])
            calculator.forces = np.array(row["forces"], dtype=np.float64)
            kept = self.history.setdefault(index, deque(maxlen=REMEMBERED))
            kept.append(self._point(index))
        self.evaluations += len(results)
        self.chain.projected = None

        if self.stage == "finish":
            self._judge_finish()
        else:
            self._judge_band()

    def _point(self, index: int) -> tuple[Array, Array]:
        """Positions and gradient of the free atoms of an image, flat."""
        image = self.images[index]
        return image.positions[self.free].ravel(), -image.calc.forces[self.free].ravel()

    def _judge_band(self) -> None:
        self.force = _longest(self.chain.get_forces())
        if self.stage == "band" and self.climb and self.force < self.climb_at:
            self.stage, self.chain.climb = "climb", True
            self.chain.projected = None
            self.force = _longest(self.chain.get_forces())
        finishing = self.stage == "climb" and self.finish_at > 0 and not self.lost
        if self.force < self.fmax and (self.stage == "climb" or not self.climb):
            self.converged, self.stage = True, "done"
        elif finishing and self.force < self.finish_at:
            self._begin_finish()

    def _begin_finish(self) -> None:
        """Let the top image go on alone, with what the band knows of the energy around it."""
        self.stage, self.top = "finish", int(self.chain.imax)
        before, after = self.images[self.top - 1], self.images[self.top + 1]
        tangent = (after.positions - before.positions)[self.free].ravel()
        self.follower = ModeFollower(tangent)
        here = self._point(self.top)
        self.left_at = here[0].copy()

        # The farthest first: what is learned last is what the Hessian maps exactly.
        near = [self._point(self.top + side) for side in (-1, 1)]
        near += list(self.history.get(self.top, ()))[:-1]
        for point in sorted(near, key=lambda p: -np.linalg.norm(p[0] - here[0])):
            self.follower.learn(*here, *point)
        self._judge_finish()

    def _judge_finish(self) -> None:
        positions, gradient = self._point(self.top)
        self.force = _longest(gradient.reshape(-1, 3))
        if self.force < self.fmax:
            self.converged, self.stage = True, "done"
            return
        moved = np.linalg.norm((positions - self.left_at).reshape(-1, 3), axis=1).max()
        if self.finish_steps >= LONGEST_FINISH or moved > FARTHEST:
            self._go_back()

    def _go_back(self) -> None:
        """Take the top image back into its band, which goes on climbing as a whole."""
        self.images[self.top].positions[self.free] = self.left_at.reshape(-1, 3)
        self.stage, self.lost, self.follower = "climb", True, None
        self.chain.projected = None
        self.optimizer = FIRE(self.chain, logfile=None)

    def move(self) -> None:
        """Make a step."""
        self.steps += 1
        if self.stage == "finish":
            assert self.follower is not None
            positions, gradient = self._point(self.top)
            step = self.follower.step(positions, gradient)
            self.images[self.top].positions[self.free] = (positions + step).reshape(-1, 3)
            self.finish_steps += 1
        elif not self.done:
            self.optimizer.step()

    def state(self) -> dict[str, Array]:
        """Return everything that :meth:`restore` needs to go on exactly."""
        arrays: dict[str, Array] = {
            "positions": np.array([image.positions for image in self.images]),
            "energies": self.energies,
            "forces": np.array([image.calc.forces for image in self.images[1:-1]])
            if self.steps or self.evaluations
            else np.zeros((0, 0, 3)),
            "counts": np.array([self.steps, self.evaluations, self.finish_steps, self.top]),
            "flags": np.array([STAGES.index(self.stage), self.converged, self.lost]),
            "force": np.array(self.force),
            "left_at": self.left_at,
        }
        fire = self.optimizer
        arrays["fire"] = np.array([fire.dt, fire.a, fire.Nsteps, fire.vel is not None])
        arrays["velocity"] = np.zeros(0) if fire.vel is None else fire.vel

        if self.follower is not None:
            arrays |= {f"follower_{k}": v for k, v in self.follower.state().items()}
        for index, kept in self.history.items():
            arrays[f"history_{index}"] = np.array(kept)

        return arrays

    def restore(self, arrays: dict[str, Array]) -> None:
        """Go on from a state."""
        for image, positions in zip(self.images, arrays["positions"], strict=True):
            image.positions[:] = positions
        for k, forces in enumerate(arrays["forces"], start=1):
            self.images[k].calc.energy = float(arrays["energies"][k])
            self.images[k].calc.forces = forces
        counts = map(int, arrays["counts"])
        self.steps, self.evaluations, self.finish_steps, self.top = counts
        stage, converged, lost = map(int, arrays["flags"])
        self.stage, self.converged, self.lost = STAGES[stage], bool(converged), bool(lost)
        self.chain.climb = self.stage != "band" and self.climb
        self.chain.projected = None
        self.force, self.left_at = float(arrays["force"]), arrays["left_at"]

        fire = self.optimizer
        fire.dt, fire.a, steps, moving = map(float, arrays["fire"])
        fire.Nsteps = int(steps)
        fire.vel = arrays["velocity"].copy() if moving else None
        own = {
            k.removeprefix("follower_"): v for k, v in arrays.items() if k.startswith("follower_")
        }
        self.follower = ModeFollower.restore(own) if own else None
        for name, rows in arrays.items():
            if name.startswith("history_"):
                points = [(row[0], row[1]) for row in rows]
                self.history[int(name.split("_")[1])] = deque(points, maxlen=REMEMBERED)


def _longest(rows: Array) -> float:
    return float(np.sqrt((rows**2).sum(axis=1).max()))
