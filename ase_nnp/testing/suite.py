"""The conformance suite: what any potential owes, as checks that a plugin runs against itself.

In a plugin's own tests one line is enough::

    from ase_nnp.testing import conformance

    test_conformance = conformance("mymodel")

and without any test file::

    pytest --pyargs ase_nnp.testing --nnp-model mymodel

The second half, :mod:`ase_nnp.testing.ase_contract`, asks any ASE calculator for what users of
ASE expect::

    pytest --pyargs ase_nnp.testing --ase-calculator module:factory

Each check builds structures from elements that the model knows, evaluates in float64 and returns
how far the model is from exact, as a relative number. That must not exceed the check's tolerance,
or the violation that the family declares (``ModelFamily.violations``) where the physics is not
exact by design.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from ase_nnp.registry.correction import Correction
from ase_nnp.registry.family import ModelFamily
from ase_nnp.testing.checks import CHECKS, Check, Subject
from ase_nnp.testing.outcomes import NotApplicable, Outcome
from ase_nnp.testing.subject import Figure

__all__ = ["CHECKS", "Outcome", "conformance", "make_subject", "run_check", "run_checks"]


def make_subject(family: ModelFamily | Correction | str, seed: int = 0, **config: Any) -> Subject:
    """Return a small model of ``family`` (its ``test_config``) in float64, ready for checks.

    A correction, or its name, is a subject too: the term alone. A name that both have is the
    family's.
    """
    from ase_nnp.models.files import build_model
    from ase_nnp.registry.installed import installed

    if isinstance(family, str):
        registry = installed()
        known = family in registry.corrections and family not in registry.families
        family = registry.correction(family) if known else registry.family(family)
    if isinstance(family, Correction):
        return _correction_subject(family, config)
    full = {**family.test_config, **config}

    # In float64 on a CPU: a violation of 1e-9 is physics and no rounding.
    model = build_model(family.name, full, seed=seed, device="cpu", dtype="float64")
    return Subject(family, model)


def _correction_subject(correction: Correction, config: dict[str, Any]) -> Subject:
    import torch

    from ase_nnp.models.corrections import build_term

    options = {**correction.test_config, **config}
    functional = options.pop("functional", next(iter(correction.known_functionals()), None))
    text = correction.name if functional is None else f"{correction.name}:{functional}"
    return Subject(correction, build_term(text, options).to(torch.float64))


def run_check(check: Check, subject: Subject) -> Outcome:
    """Run one check and compare its figure with the tolerance or the declared violation."""
    # A violation that a family declares is its tolerance, and is still measured.
    declared = subject.family.violations.get(check.name)
    try:
        figure = check.run(subject)
    except NotApplicable as reason:
        return Outcome(check.name, "not applicable", None, check.tolerance, str(reason))
    except Exception as error:  # the model under test may raise anything
        text = f"{type(error).__name__}: {error}"
        return Outcome(check.name, "failed", None, check.tolerance, text)

    if math.isfinite(figure) and figure <= check.tolerance:
        remark = subject.remarks.get(check.name, "")
        return Outcome(check.name, "passed", figure, check.tolerance, remark)
    if declared is not None and math.isfinite(figure) and figure <= declared:
        return Outcome(check.name, "declared", figure, declared)

    limit = check.tolerance if declared is None else declared
    # A model may be wrong in one of its results only.
    of = f" of '{figure.of}'" if isinstance(figure, Figure) else ""
    text = f"{check.doc} Measured {figure:.3g}{of}, allowed {limit:.3g}."
    return Outcome(check.name, "violated", figure, limit, text)


def run_checks(subject: Subject) -> Iterator[Outcome]:
    """Run every check in turn."""
    for check in CHECKS:
        yield run_check(check, subject)


def conformance(family: str, **config: Any) -> Callable[..., None]:
    """Return a parametrized pytest test that runs every check on a family or correction."""
    import pytest

    subjects: dict[str, Subject] = {}

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
    def test_conformance(check: Check) -> None:
        # Built in the first test and not when tests are collected.
        if family not in subjects:
            subjects[family] = make_subject(family, **config)
        outcome = run_check(check, subjects[family])
        assert outcome.ok, f"{family}: {check.name}: {outcome.message}"

    return test_conformance
