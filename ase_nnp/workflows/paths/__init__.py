"""Reaction paths, saddle points and rates."""

from ase_nnp.workflows.paths.outcome import ReactionPath
from ase_nnp.workflows.paths.run import METHODS, PathSettings, reaction_paths

__all__ = ["METHODS", "PathSettings", "ReactionPath", "reaction_paths"]
