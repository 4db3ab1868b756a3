"""All measures of an uncertainty, on plain arrays (numpy and scipy only).

Arguments come in the order ``y_true, y_pred, y_std``; arrays of any one shape are flattened.
Members of a committee are the first axis.
"""

from __future__ import annotations

from ase_nnp.uncertainty.statistics.diagnostics import *  # noqa: F403
from ase_nnp.uncertainty.statistics.diagnostics import __all__ as _diagnostics
from ase_nnp.uncertainty.statistics.mixtures import *  # noqa: F403
from ase_nnp.uncertainty.statistics.mixtures import __all__ as _mixtures
from ase_nnp.uncertainty.statistics.moments import *  # noqa: F403
from ase_nnp.uncertainty.statistics.moments import __all__ as _moments
from ase_nnp.uncertainty.statistics.pool import *  # noqa: F403
from ase_nnp.uncertainty.statistics.pool import __all__ as _pool
from ase_nnp.uncertainty.statistics.ranking import *  # noqa: F403
from ase_nnp.uncertainty.statistics.ranking import __all__ as _ranking
from ase_nnp.uncertainty.statistics.reliability import *  # noqa: F403
from ase_nnp.uncertainty.statistics.reliability import __all__ as _reliability
from ase_nnp.uncertainty.statistics.scores import *  # noqa: F403
from ase_nnp.uncertainty.statistics.scores import __all__ as _scores

__all__ = [
    *_mixtures,
    *_moments,
    *_pool,
    *_ranking,
    *_reliability,
    *_scores,
    *_diagnostics,
]
