"""Accuracies of a grid from few questions, by borrowing strength among neighbouring configurations.

Empirical Bayes: the means of paired answers are seen as a sum of main effects, effects of pairs of knobs and a part of each
configuration's own, with an ordinal kernel a knob; how large each part is follows from the marginal likelihood. Held-out
questions then say how far to go from plain means to the smoothed ones (stacking: Wolpert, Neural Networks 5, 1992), so that a
grid without structure does not mislead.
Gaussian processes for noisy means: Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, chapter 2.

Legend of array suffixes: M questions, C configurations, K knobs, P priors.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.stats import norm

from paceline.certify.grid import ordinal_places
from paceline.errors import InvalidValueError
from paceline.records import KnobConfig

Floats = NDArray[np.float64]

# prior deviations on the probit scale, on which knobs nearly add up
LEVEL_STD = 0.9  # of what all configurations share
MAIN_STDS = (0.0, 0.15, 0.3, 0.6, 1.2)
PAIR_STDS = (0.0, 0.06, 0.15, 0.3)
OWN_STDS = (0.003, 0.01, 0.03, 0.09, 0.3)
KERNEL_WIDTH = 4.5  # exp(-(i - j)² / 4.5): neighbours 0.8, the ends of three values 0.41
SHRINKING_QUESTIONS = 60
FOLDS = 4
LEAST_LOG_WEIGHT = 7.0
FULL_TRUST = 0.75  # of the best weight by held-out questions, which are noisy; from there on plain means have no part
LEAST_FOR_FOLDS = 2 * FOLDS


@dataclass(frozen=True, slots=True, kw_only=True)
class GridAccuracies:
    """What few questions say of every configuration: `accuracy_C` to choose by, `std_C` its posterior deviation.

    `trust` is how far the estimate goes from plain means (0) to the smoothed ones (1), by held-out questions.
    """

    accuracy_C: Floats
    std_C: Floats
    means_C: Floats
    trust: float


def grid_accuracies(answers_MC: Floats, configs: Sequence[KnobConfig], random: Generator) -> GridAccuracies:
    """Return the accuracies of a grid from the answers (question, configuration) to the same questions, 0 to 1 each.

    Smoothed over the grid as far as a four-fold cross-validation over questions shows that it predicts better than plain means.
    Raises InvalidValueError for answers of another shape, or of a single question.
    """
    answers_MC = np.asarray(answers_MC, dtype=np.float64)
    if answers_MC.ndim != 2 or answers_MC.shape[1] != len(configs) or len(answers_MC) < 2:
        raise InvalidValueError(
            "answers",
            f"of shape {answers_MC.shape}",
            f"two questions or more, each under {len(configs)} configurations",
        )
    places_CK = ordinal_places(configs)
    means_C = answers_MC.mean(axis=0)
    smooth_C, std_C = _posterior(answers_MC, places_CK)
    trust = _trust(answers_MC, places_CK, random)
    plain_std_C = np.sqrt(np.diag(_noise(answers_MC)))
    return GridAccuracies(
        accuracy_C=means_C + trust * (smooth_C - means_C),
        std_C=plain_std_C + trust * (std_C - plain_std_C),
        means_C=means_C,
        trust=trust,
    )


def smoothed_means(answers_MC: Floats, configs: Sequence[KnobConfig]) -> Floats:
    """Return the smoothed accuracies without the guard."""
    return _posterior(np.asarray(answers_MC, dtype=np.float64), ordinal_places(configs))[0]


def _posterior(answers_MC: Floats, places_CK: Floats) -> tuple[Floats, Floats]:
    """Return mean and deviation of every configuration's accuracy, averaged over priors by their marginal likelihood."""
    means_C = answers_MC.mean(axis=0)
    rate_C = (answers_MC.sum(axis=0) + 0.5) / (len(answers_MC) + 1)
    probit_C = norm.ppf(rate_C)
    slope_C = 1 / norm.pdf(probit_C)
    prior_PCC = _priors(tuple(map(tuple, places_CK.tolist())))
    centre = probit_C.mean()
    residual_C = probit_C - centre
    total_PCC = prior_PCC + _noise(answers_MC) * np.outer(slope_C, slope_C)
    lower_PCC = np.linalg.cholesky(total_PCC)
    white_PC = np.linalg.solve(lower_PCC, residual_C[:, None])[:, :, 0]
    log_P = -0.5 * (white_PC**2).sum(axis=1) - np.log(np.diagonal(lower_PCC, axis1=1, axis2=2)).sum(axis=1)
    kept_P = log_P > log_P.max() - LEAST_LOG_WEIGHT
    weight_P = np.exp(log_P[kept_P] - log_P.max())
    weight_P /= weight_P.sum()
    prior_PCC, total_PCC = prior_PCC[kept_P], total_PCC[kept_P]
    gain_PCC = np.linalg.solve(total_PCC, prior_PCC).transpose(0, 2, 1)
    mean_PC = gain_PCC @ residual_C
    variance_PC = np.diagonal(prior_PCC - gain_PCC @ prior_PCC, axis1=1, axis2=2)
    mean_C = weight_P @ mean_PC
    variance_C = weight_P @ (variance_PC + mean_PC**2) - mean_C**2
    accuracy_C = norm.cdf(centre + mean_C)
    # the level is the questions' own: only differences between configurations are smoothed
    accuracy_C += means_C.mean() - accuracy_C.mean()
    return accuracy_C, norm.pdf(centre + mean_C) * np.sqrt(np.maximum(variance_C, 0))


def _noise(answers_MC: Floats) -> Floats:
    """Return the covariance of the means: that of one question's answers, shrunk towards one common correlation, over m."""
    count, width = answers_MC.shape
    smoothed_share_C = (answers_MC.sum(axis=0) + 1) / (count + 2)
    floor_C = smoothed_share_C * (1 - smoothed_share_C) / 4  # configurations that were right every time vary too
    sample_CC = np.atleast_2d(np.cov(answers_MC, rowvar=False))
    std_C = np.sqrt(np.maximum(np.diag(sample_CC), floor_C))
    correlation_CC = sample_CC / np.outer(std_C, std_C)
    off = ~np.eye(width, dtype=np.bool_)
    common = float(np.clip(correlation_CC[off].mean(), 0, 0.99)) if width > 1 else 0.0
    weight = SHRINKING_QUESTIONS / (count + SHRINKING_QUESTIONS)
    shrunk_CC = np.where(off, weight * common + (1 - weight) * correlation_CC, 1.0)
    return shrunk_CC * np.outer(std_C, std_C) / count + 1e-12 * np.eye(width)


@lru_cache(maxsize=32)
def _priors(places: tuple[tuple[float, ...], ...]) -> Floats:
    """Return the prior covariances (prior, configuration, configuration) of configurations at these places."""
    places_CK = np.array(places, dtype=np.float64).reshape(len(places), -1)
    kernels = [np.exp(-(np.subtract.outer(column, column) ** 2) / KERNEL_WIDTH) for column in places_CK.T]
    count = len(places)
    main_CC = sum(kernels, np.zeros((count, count)))
    pairs_CC = sum((one * other for one, other in combinations(kernels, 2)), np.zeros((count, count)))
    level_CC = np.full((count, count), LEVEL_STD**2)
    return np.stack(
        [
            level_CC + main**2 * main_CC + pair**2 * pairs_CC + own**2 * np.eye(count)
            for main, pair, own in product(MAIN_STDS, PAIR_STDS, OWN_STDS)
        ]
    )


def _trust(answers_MC: Floats, places_CK: Floats, random: Generator) -> float:
    """Return the weight of the smoothed estimate at which it predicts held-out means best, over FULL_TRUST and within 0 to 1.

    Levels are taken out. With too few questions to hold any out nothing speaks against smoothing.
    """
    if len(answers_MC) < LEAST_FOR_FOLDS:
        return 1.0
    gained, moved = 0.0, 0.0
    for held_out in np.array_split(random.permutation(len(answers_MC)), FOLDS):
        rest_MC = np.delete(answers_MC, held_out, axis=0)
        plain_C = _centred(rest_MC.mean(axis=0))
        step_C = _centred(_posterior(rest_MC, places_CK)[0]) - plain_C
        gained += len(held_out) * float(step_C @ (_centred(answers_MC[held_out].mean(axis=0)) - plain_C))
        moved += len(held_out) * float(step_C @ step_C)
    return float(np.clip(gained / moved / FULL_TRUST, 0, 1)) if moved > 0 else 1.0


def _centred(values_C: Floats) -> Floats:
    return values_C - values_C.mean()
