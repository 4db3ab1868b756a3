"""Reaction paths, saddle points and rates."""

from ase_nnp.workflows.paths.outcome import ReactionPath
from ase_nnp.workflows.paths.rates import Rate, transition_rate
from ase_nnp.workflows.paths.run import METHODS, PathSettings, reaction_paths
from ase_nnp.workflows.paths.saddles import SaddleCheck, SaddlePoint, check_saddle, saddle

__all__ = [
    "METHODS",
    "PathSettings",
    "Rate",
    "ReactionPath",
    "SaddleCheck",
    "SaddlePoint",
    "check_saddle",
    "reaction_paths",
    "saddle",
    "transition_rate",
]
