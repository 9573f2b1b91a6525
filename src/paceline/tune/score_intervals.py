"""How far a sweep's scores may lie from what its thresholds are worth: one reach that holds for all of them at once.

What remains of a measurement's logarithm after the effects of its run and of its threshold is noise. Dealt anew among the
thresholds of each run it makes sweeps in which no threshold matters; the largest distance of a score from the baseline's
that 95 of 100 of them stay within is the reach (permuted residuals: Freedman and Lane, 1983; the largest over all
comparisons: Westfall and Young, Resampling-Based Multiple Testing, 1993). Residuals are widened for the effects that were
fitted to them, and the reach by Student's quantile over the normal one, for few runs tell little of the noise.

Legend of array suffixes: R runs, C cells (one threshold in one run), M metrics, P effects, S relabelled sweeps.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from paceline.slo import CONFIDENCE

RELABELLED = 1000
SEED = 3407

Floats = NDArray[np.float64]
Places = NDArray[np.intp]
Score = Callable[[Floats], Floats]  # of ratios (S, R, M) to the runs' baselines: one number a sweep


def score_reach(levels_R: Sequence[Mapping[int, Sequence[float]]], baseline: int, score: Score) -> float:
    """Return the factor, at least 1, that every threshold's score is divided and multiplied by for its interval.

    `levels_R` gives each run's metrics (all above 0, in one order) by threshold. Every run has the baseline and there is
    another threshold; each is in at least three runs, else the noise is not told apart from the effects.
    """
    cells = [(run, threshold) for run, levels in enumerate(levels_R) for threshold in levels]
    run_C, threshold_C = np.array(cells).T
    logs_CM = np.log([levels_R[run][threshold] for run, threshold in cells])
    noise_CM, freedom = _noise(run_C, threshold_C, logs_CM)
    noise_SCM = noise_CM[_relabelled(run_C)]
    baseline_R = {run: place for place, (run, threshold) in enumerate(cells) if threshold == baseline}
    baseline_C = np.array([baseline_R[run] for run, _ in cells])
    distances = []
    for threshold in set(threshold_C.tolist()) - {baseline}:
        places = np.flatnonzero(threshold_C == threshold)
        ratios_SRM = np.exp(noise_SCM[:, places] - noise_SCM[:, baseline_C[places]])
        distances.append(np.abs(np.log(score(ratios_SRM) / score(np.ones_like(ratios_SRM[:1])))))
    reach = float(np.quantile(np.max(distances, axis=0), CONFIDENCE, method="higher"))
    tail = (1 + CONFIDENCE) / 2
    return float(np.exp(reach * stdtrit(freedom, tail) / NormalDist().inv_cdf(tail)))


def _noise(run_C: Places, threshold_C: Places, logs_CM: Floats) -> tuple[Floats, int]:
    """Return what runs and thresholds leave unexplained, widened by what they took, and its degrees of freedom."""
    effects_CP = np.concatenate([each[:, None] == np.unique(each) for each in (run_C, threshold_C)], axis=1).astype(
        float
    )
    fitted_PM, _, rank, _ = np.linalg.lstsq(effects_CP, logs_CM)
    freedom = len(logs_CM) - int(rank)
    return (logs_CM - effects_CP @ fitted_PM) * np.sqrt(len(logs_CM) / freedom), freedom


def _relabelled(run_C: Places) -> Places:
    """Return, for each relabelled sweep and cell, the place whose noise the cell is given: one of the same run."""
    random = np.random.default_rng(SEED)
    found_SC = np.empty((RELABELLED, len(run_C)), dtype=np.intp)
    for run in np.unique(run_C).tolist():
        places = np.flatnonzero(run_C == run)
        found_SC[:, places] = random.permuted(np.tile(places, (RELABELLED, 1)), axis=1)
    return found_SC
