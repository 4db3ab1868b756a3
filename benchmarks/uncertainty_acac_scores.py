"""How ``uncertainty_acac.py`` judges error bars: calibration by turns, scores, a figure."""

from __future__ import annotations

import numpy as np

from ase_nnp.uncertainty.statistics import calibration as cal
from ase_nnp.uncertainty.statistics import metrics as met
from ase_nnp.uncertainty.statistics.ood import rank_average

__all__ = ["cheap_auroc", "draw", "measures"]

#: Of alpha in adaptive conformal intervals, for each labeled structure.
STEP = 0.005


def folds(count):
    half = np.arange(count) < count // 2
    return ((half, ~half), (~half, half))


def one_map(fit):
    """A calibrator with one map of stds for all elements."""

    def fitted(true, pred, std, z):
        made = fit(true, pred, std)
        return (lambda s, z: made(s)) if callable(made) else (lambda s, z: made * s)

    return fitted


def by_element(fit):
    """A calibrator with a map for each element."""

    def fitted(true, pred, std, z):
        table = fit(true, pred, std, z)

        def apply(s, z):
            out = np.empty_like(s)
            for number, made in table.items():
                out[z == number] = made(s[z == number])
            return out

        return apply

    return fitted


#: What may turn raw stds into calibrated ones; "factor" is what the table has always shown.
CALIBRATORS = {
    "factor": one_map(cal.scale_nll),
    "factor, absolute": one_map(cal.scale_abs),
    "factor, CRPS": one_map(cal.scale_crps),
    "affine": one_map(cal.fit_affine_variance),
    "affine by element": by_element(cal.fit_affine_variance),
    "isotonic": one_map(cal.fit_isotonic),
    "isotonic by element": by_element(cal.fit_isotonic),
}


def choose(true, pred, std, z, parts=5):
    """The calibrator of least NLL on structures left out, all of them of the calibration set."""
    number = np.arange(len(true)) % parts

    def left_out(fit):
        values = []
        for part in range(parts):
            out, rest = number == part, number != part
            made = fit(true[rest], pred[rest], std[rest], z[rest])
            values.append(met.nll_gaussian(true[out], pred[out], made(std[out], z[out])))
        return float(np.mean(values))

    return min(CALIBRATORS, key=lambda name: left_out(CALIBRATORS[name]))


def measures(known, test, shifted, numbers):
    """Figures of one method. ``known`` calibrates; ``test`` is None to use it by turns.

    By turns, each half is scaled by the other, and the halves are judged together: ENCE of fewer
    values is larger by chance alone. Figures with "chosen" are those of the calibrator that
    :func:`choose` takes from the calibrating half alone; the others those of one factor.
    """
    names = ("true", "pred", "std", "score")
    known, test, shifted = (
        None if x is None else tuple(x[k] for k in names) for x in (known, test, shifted)
    )
    if test is None:
        parts = [tuple(tuple(x[m] for x in known) for m in pair) for pair in folds(len(known[0]))]
    else:
        parts = [(known, test)]

    def elements(values):
        return np.broadcast_to(numbers[:, None], values.shape)

    rows, chosen, cool, hot = [], [], [], []
    for fit, check in parts:
        scale = cal.scale_nll(*fit[:3])
        own = elements(fit[0])
        chosen.append(choose(*fit[:3], own))
        better = CALIBRATORS[chosen[-1]](*fit[:3], own)
        q = cal.mondrian_quantiles(cal.normalized_scores(*fit[:3]), own, 0.1)
        table = np.array([q[z] for z in numbers])[:, None]
        for terms, (true, pred, std, _) in ((cool, check), (hot, shifted)):
            terms.append((true - pred, scale * std, better(std, elements(std)), table * std))
        ood = met.auroc_ood(check[3], shifted[3])
        rows.append({"scale": scale, "ood_auroc": ood, **adaptive(fit, shifted)})
    row = {k: float(np.mean([r[k] for r in rows])) for k in rows[0]}
    row["chosen"] = " / ".join(dict.fromkeys(chosen))
    for name, terms in (("300", cool), ("600", hot)):
        error, std, better, half = (np.concatenate(x) for x in zip(*terms, strict=True))
        atom = np.linalg.norm(error, axis=-1), np.linalg.norm(std, axis=-1)
        row[f"rmse_{name}"] = 1e3 * float(np.sqrt((error**2).mean()))
        row[f"spearman_{name}"] = met.spearman(*atom)
        for key, values in (("", std), ("chosen_", better)):
            row[f"ence_{key}{name}"] = met.ence(error, 0 * error, values, bins=20)
            row[f"area_{key}{name}"] = met.miscalibration_area(error, 0 * error, values)
            row[f"nll_{key}{name}"] = met.nll_gaussian(error, 0 * error, values)
        row[f"coverage90_{name}"] = met.coverage(error, -half, half)
        row[f"auroc_top5_{name}"] = met.auroc_errors(*atom, quantile=0.95)
    return row


def adaptive(fit, shifted, count=50, orders=10):
    """Coverage at 600 K by adaptive conformal intervals after labels of ``count`` frames.

    Of the first order in which frames are labeled, and the mean and spread over ``orders``: one
    order alone moves the coverage by as much as the bar allows.
    """
    calibration = cal.normalized_scores(*fit[:3]).ravel()
    scores = cal.normalized_scores(*shifted[:3]).reshape(len(shifted[0]), -1)
    window = count * scores.shape[1]
    coverages = []
    for seed in range(orders):
        shuffled = scores[np.random.default_rng(seed).permutation(len(scores))]
        # A label is a structure: all its values together move alpha by one step. The window
        # follows the shift by itself; a large step (0.02) would correct for the same misses twice
        # and stay too wide. 0.005 is the step of Gibbs and Candes.
        state = cal.AdaptiveConformal(
            calibration[-window:], 0.1, STEP / scores.shape[1], extend=True, window=window
        )
        for score in shuffled[:count].ravel():
            state.update(float(score))
        coverages.append(float((shuffled[count:] <= state.quantile()).mean()))
    return {
        "adaptive_coverage90_600": coverages[0],
        "adaptive_coverage90_600_mean": float(np.mean(coverages)),
        "adaptive_coverage90_600_spread": float(np.std(coverages)),
    }


def cheap_auroc(known, test, shifted):
    """OOD AUROC of the scores that cost no derivatives of features, and of a mean rank of two."""
    names = {
        "score": "mean latent distance",
        "worst": "largest latent distance",
        "total": "energy std",
        "atoms": "largest atomic energy std",
    }
    rows = []
    for fit, check in folds(len(known["score"])) if test is None else [(slice(None), None)]:
        inside = {k: known[k][check] if test is None else test[k] for k in names}
        row = {what: met.auroc_ood(inside[k], shifted[k]) for k, what in names.items()}
        pair = ("score", "total")
        reference = [known[k][fit] for k in pair]
        ranks = [
            rank_average(*(x[k] for k in pair), reference=reference) for x in (inside, shifted)
        ]
        rows.append(row | {"mean rank of mean distance and energy std": met.auroc_ood(*ranks)})
    return {k: float(np.mean([r[k] for r in rows])) for k in rows[0]}


def draw(collected, table, path):
    """Reliability at 300 K and 600 K after scaling at 300 K, and who tells 600 K from 300 K."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    shown = ["ensemble 5", "last layer, energy and force rows", "kNN latents"]
    for title, part, axis in (("300 K", "held", axes[0]), ("600 K", "hot", axes[1])):
        axis.plot([0, 1], [0, 1], color="0.6", linewidth=1)
        for name in (n for n in shown if n in table):
            known = collected[name]["held"]
            check = collected[name].get("test", known) if part == "held" else collected[name][part]
            scale = cal.scale_nll(known["true"], known["pred"], known["std"])
            curve = met.calibration_curve(check["true"], check["pred"], scale * check["std"])
            axis.plot(*curve, label=name)
        axis.set(title=f"{title}, scaled at 300 K", xlabel="nominal", ylabel="observed coverage")
    axes[0].legend(fontsize=8)
    names = sorted(table, key=lambda n: table[n]["ood_auroc"])
    bars = axes[2].barh(names, [table[n]["ood_auroc"] for n in names])
    axes[2].bar_label(bars, fmt="%.3f", padding=2, fontsize=8)
    axes[2].set(title="OOD AUROC, 300 K against 600 K", xlim=(0.5, 1.05))
    axes[2].tick_params(axis="y", labelsize=8)
    figure.savefig(path, dpi=110, metadata={"Software": None})
