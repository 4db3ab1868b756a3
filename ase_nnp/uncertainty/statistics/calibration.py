"""All calibrators, on plain arrays (numpy and scipy only).

Arguments come in the order ``y_true, y_pred, y_std``, all from a calibration set that the model
was not trained on.
"""

from __future__ import annotations

from ase_nnp.uncertainty.statistics.adaptive import *  # noqa: F403
from ase_nnp.uncertainty.statistics.adaptive import __all__ as _adaptive
from ase_nnp.uncertainty.statistics.conformal import *  # noqa: F403
from ase_nnp.uncertainty.statistics.conformal import __all__ as _conformal
from ase_nnp.uncertainty.statistics.scaling import *  # noqa: F403
from ase_nnp.uncertainty.statistics.scaling import __all__ as _scaling

__all__ = [*_adaptive, *_conformal, *_scaling]
