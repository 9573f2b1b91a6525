"""Training a latency estimator on the fit part of a profile: seeded, resumable, the same result every time.

Legend of tensor suffixes: B batch, N rows, F features, K heads (prefill, decode).
"""

import hashlib
import json
import math
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from paceline.analyze import dataset_names
from paceline.errors import InvalidValueError, PacelineWarning
from paceline.estimate.artifact import Weights
from paceline.estimate.description import EstimatorDescription
from paceline.estimate.features import FEATURES
from paceline.estimate.network import NetworkEstimator
from paceline.estimate.work_terms import TERM_NAMES
from paceline.fit.checkpoint import TrainingState, resume, write_checkpoint
from paceline.fit.estimator.network import LatencyEstimator, LatencyEstimatorTrainer, TrainingBatch
from paceline.fit.estimator.rows import LatencyRows, decode_definition_of, joined_rows, latency_rows
from paceline.fit.estimator.settings import FAST, SCHEDULES, EstimatorSettings
from paceline.fit.estimator.work import fitted_work
from paceline.profiles import CONFIGURATION, Split
from paceline.records import KnobConfig, Provenance

ROUNDS = 50  # checkpoints and validation losses of a run, at most
CHECKPOINT_SECONDS = 2.0  # between two of them: what is lost is less than what more of them would cost
ONE_THREAD_ROWS = 20_000
ONE_THREAD_BATCH = 256
FOLDS, FEW_SAMPLES = 5, 100  # of fewer samples each is held back once: a fifth of them would choose by chance
REPORTS = 200  # calls of on_progress, about

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedEstimator:
    """A trained network with what it was trained on; `resumed_epochs` were taken over from a killed run."""

    model: LatencyEstimator
    description: EstimatorDescription
    epochs: int
    resumed_epochs: int

    @property
    def weights(self) -> Weights:
        """Every tensor of the network by name, as the artifact holds them."""
        return {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.model.state_dict().items()}

    @property
    def network(self) -> NetworkEstimator:
        """The same network as it runs online, without torch."""
        return NetworkEstimator(description=self.description, weights=self.weights)


def train_estimator(
    fit_samples: pl.DataFrame,
    *,
    split: Split,
    settings: EstimatorSettings = FAST,
    provenance: Sequence[Provenance] = (),
    device: torch.device | str = "cpu",
    checkpoint: Path | None = None,
    on_progress: Progress | None = None,
) -> TrainedEstimator:
    """Train on the fit part of a profile's samples, which `split` parted; nothing else of the profile may be in them.

    The same samples and settings give the same weights on the same machine. With `checkpoint` a killed run goes on
    where its file stands; the file stays for the caller to delete. Warns when no sample has a decode step: such an
    estimator knows prefill alone. Raises InvalidValueError for no samples.
    """
    definition = decode_definition_of(fit_samples)
    data = _TrainingData.of(fit_samples, settings, definition)
    with _threads_for(data.training, settings):
        run = _Run.of(data, settings, device, _epochs(fit_samples, data, settings, definition, device))
        epochs, resumed = run.train(checkpoint, _fingerprint(run, data.training), on_progress)
    description = _describe(fit_samples, data.training, definition, split, run, provenance)
    if not description.num_decode_rows:
        warnings.warn(
            "no sample has a decode step (all answers are one token long): the estimator will know prefill alone",
            PacelineWarning,
            stacklevel=2,
        )
    return TrainedEstimator(
        model=run.trainer.model.eval(), description=description, epochs=epochs, resumed_epochs=resumed
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _TrainingData:
    """Rows to train on, and rows of other samples to judge by where some are held back, with the number of each's sample."""

    training: LatencyRows
    validation: LatencyRows | None
    validation_sample_N: NDArray[np.int64] | None = None

    @staticmethod
    def of(samples: pl.DataFrame, settings: EstimatorSettings, definition: str) -> "_TrainingData":
        """Hold samples back for early stopping only."""
        if settings.patience is not None:
            return _TrainingData.holding_back(samples, settings, definition)[0]
        return _TrainingData(training=_training_rows(samples, settings, definition), validation=None)

    @staticmethod
    def holding_back(
        samples: pl.DataFrame, settings: EstimatorSettings, definition: str, *, folds: int = 1
    ) -> list["_TrainingData"]:
        """Hold back `validation_share` of the samples, all configurations of a sample together; in each fold others."""
        names = samples.select(pl.col("dataset").cast(pl.String), "sample_id").unique().sort("dataset", "sample_id")
        held = round(names.height * settings.validation_share)
        if not 0 < held < names.height:
            raise InvalidValueError(
                "samples", names.height, f"enough to hold back a share of {settings.validation_share:g} of them"
            )
        shuffled = names.sample(fraction=1.0, shuffle=True, seed=settings.seed)
        keyed, keys = samples.with_columns(pl.col("dataset").cast(pl.String)), ["dataset", "sample_id"]
        found: list[_TrainingData] = []
        for fold in range(folds):
            chosen = names.sample(held, seed=settings.seed) if folds == 1 else shuffled.gather_every(folds, fold)
            kept, judged = (keyed.join(chosen, on=keys, how=how) for how in ("anti", "semi"))
            found.append(
                _TrainingData(
                    training=_training_rows(kept, settings, definition),
                    validation=latency_rows(judged, definition),
                    validation_sample_N=judged.select(pl.struct(keys).rank("dense")).to_series().to_numpy() - 1,
                )
            )
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One training run over prepared tensors."""

    trainer: LatencyEstimatorTrainer
    settings: EstimatorSettings
    batch: TrainingBatch
    validation: TrainingBatch | None
    epochs: int

    @staticmethod
    def of(data: _TrainingData, settings: EstimatorSettings, device: torch.device | str, epochs: int) -> "_Run":
        """Put the data of a run on its device, and a new network in its trainer."""
        trainer = _trainer(data.training, settings, device)
        return _Run(
            trainer=trainer,
            settings=settings,
            batch=_batch(data.training, trainer.device),
            validation=None if data.validation is None else _batch(data.validation, trainer.device),
            epochs=epochs,
        )

    def train(self, checkpoint: Path | None, fingerprint: str, on_progress: Progress | None) -> tuple[int, int]:
        """Train to the end; returns the epochs trained in all, and those that a checkpoint spared."""
        if not self.epochs and on_progress:
            on_progress(1, 1)  # what the work costs is all there is
        state = (checkpoint and resume(checkpoint, fingerprint, self.trainer)) or TrainingState(best={})
        resumed, round_epochs, written = state.epoch, max(1, self.epochs // ROUNDS), time.monotonic()
        while state.epoch < self.epochs and not self._exhausted(state):
            self.run_epoch(state.epoch, on_progress)
            state.epoch += 1
            if state.epoch % round_epochs == 0 or state.epoch == self.epochs:
                self._note_validation(state)
                if checkpoint is not None and time.monotonic() - written >= CHECKPOINT_SECONDS:
                    write_checkpoint(checkpoint, fingerprint, self.trainer, state)
                    written = time.monotonic()
        if state.best:
            self.trainer.model.load_state_dict(state.best)
        return state.epoch, resumed

    def validation_losses(self, sample_N: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the mean loss of each sample held back."""
        assert self.validation is not None
        with torch.no_grad():
            loss_N = self.trainer.row_losses(self.validation).sum(dim=1).cpu().numpy().astype(float)
        return np.bincount(sample_N, loss_N) / np.bincount(sample_N)

    def validation_loss(self) -> float:
        """Return the loss on the samples held back; infinite where none were."""
        if self.validation is None:
            return math.inf
        with torch.no_grad():
            return float(self.trainer.losses(self.validation).sum())

    @property
    def batches(self) -> int:
        """Steps an epoch."""
        return _batches(len(self.batch.features_BF), self.settings)

    def run_epoch(self, epoch: int, on_progress: Progress | None) -> None:
        """Take the steps of one epoch."""
        steps, every = self.epochs * self.batches, max(1, self.epochs * self.batches // REPORTS)
        schedule = SCHEDULES[self.settings.schedule]
        for index, batch in enumerate(self._shuffled(epoch)):
            step = epoch * self.batches + index
            self.trainer.optimizer.param_groups[0]["lr"] = self.settings.learning_rate * schedule(step / steps)
            self.trainer.train_on(batch)
            if on_progress and ((step + 1) % every == 0 or step + 1 == steps):
                on_progress(step + 1, steps)

    def _shuffled(self, epoch: int) -> Iterator[TrainingBatch]:
        """Yield the epoch's batches, in an order that follows from seed and epoch alone."""
        if self.batches == 1:
            yield self.batch
            return
        random = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.batch.features_BF), generator=random).to(self.trainer.device)
        for rows in order.split(self.settings.batch_size):
            yield TrainingBatch(
                features_BF=self.batch.features_BF[rows],
                measured_BK=self.batch.measured_BK[rows],
                weight_BK=self.batch.weight_BK[rows],
            )

    def _note_validation(self, state: TrainingState) -> None:
        state.rounds_without_better += 1
        loss = self.validation_loss()
        if loss < state.best_loss:
            state.best_loss, state.rounds_without_better = loss, 0
            state.best = {name: tensor.clone() for name, tensor in self.trainer.model.state_dict().items()}

    def _exhausted(self, state: TrainingState) -> bool:
        patience = self.settings.patience
        return patience is not None and state.rounds_without_better >= patience


def _epochs(
    samples: pl.DataFrame,
    data: _TrainingData,
    settings: EstimatorSettings,
    definition: str,
    device: torch.device | str,
) -> int:
    """Return the epochs to train for: those of the settings, or as many as make up the best of `step_choices`."""
    batches = _batches(len(data.training.features_NF), settings)
    most = max(settings.step_choices, default=0)
    if settings.num_epochs * batches >= most:
        return settings.num_epochs
    if settings.patience is not None or len(settings.step_choices) == 1:  # early stopping finds its own number
        return -(-most // batches)
    count = samples.select(pl.struct("dataset", "sample_id").n_unique()).item()
    folds = FOLDS if settings.structured and FOLDS <= count < FEW_SAMPLES else 1
    held_back = _TrainingData.holding_back(samples, settings, definition, folds=folds)
    choices = (0, *settings.step_choices) if settings.structured else settings.step_choices
    steps, best = choices[0], _losses_after(choices[0], held_back, settings, device)
    for choice in choices[1:]:
        losses = _losses_after(choice, held_back, settings, device)
        if not _better(losses, best, surely=settings.structured):
            break  # more steps fit the noise
        steps, best = choice, losses
    return -(-steps // batches)


def _losses_after(
    steps: int, held_back: Sequence[_TrainingData], settings: EstimatorSettings, device: torch.device | str
) -> NDArray[np.float64]:
    """Return the loss of every sample that some fold holds back, after so many steps on that fold's others."""
    losses: list[NDArray[np.float64]] = []
    for fold in held_back:
        epochs = -(-steps // _batches(len(fold.training.features_NF), settings))
        trial = _Run.of(fold, settings, device, epochs)
        for epoch in range(epochs):
            trial.run_epoch(epoch, None)
        assert fold.validation_sample_N is not None
        losses.append(trial.validation_losses(fold.validation_sample_N))
    return np.concatenate(losses)


def _better(losses_S: NDArray[np.float64], before_S: NDArray[np.float64], *, surely: bool) -> bool:
    """Tell whether losses are smaller in the mean; surely: by a standard error of their paired difference, which leaves the
    simpler model where the samples tell no difference (Breiman et al., Classification and Regression Trees, 1984, 3.4.3)."""
    gain_S = before_S - losses_S
    error = float(gain_S.std(ddof=1)) / math.sqrt(len(gain_S)) if surely and len(gain_S) > 1 else 0.0
    return bool(gain_S.mean() > error)


def _batches(rows: int, settings: EstimatorSettings) -> int:
    return -(-rows // settings.batch_size)


@contextmanager
def _threads_for(rows: LatencyRows, settings: EstimatorSettings) -> Generator[None]:
    """Give small data and batches one thread: more wait for one another longer than they work on a busy machine."""
    before = torch.get_num_threads()
    small = len(rows.features_NF) <= ONE_THREAD_ROWS or settings.batch_size <= ONE_THREAD_BATCH
    torch.set_num_threads(1 if small else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _training_rows(samples: pl.DataFrame, settings: EstimatorSettings, definition: str) -> LatencyRows:
    if settings.join_equal_rows:
        return joined_rows(samples, definition, settings.loss)
    return latency_rows(samples, definition)


def _trainer(rows: LatencyRows, settings: EstimatorSettings, device: torch.device | str) -> LatencyEstimatorTrainer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = LatencyEstimator(settings.hidden_dim, settings.num_layers, structured=settings.structured)
    weight_N = rows.weight_NK[:, 0]
    mean_F = np.average(rows.features_NF, axis=0, weights=weight_N)
    std_F = np.sqrt(np.average((rows.features_NF - mean_F) ** 2, axis=0, weights=weight_N))
    varies_F = rows.features_NF.min(axis=0) < rows.features_NF.max(axis=0)
    total_K, mass_K = (rows.measured_ms_NK * rows.weight_NK).sum(axis=0), rows.weight_NK.sum(axis=0)
    scale_K = np.divide(total_K, mass_K, out=np.ones(2), where=total_K > 0)
    model.standardise(
        feature_mean_F=torch.from_numpy(mean_F),
        feature_scale_F=torch.from_numpy(np.divide(1.0, std_F, out=np.zeros(len(FEATURES)), where=varies_F)),
        target_scale_K=torch.from_numpy(scale_K),
        work_weight_TK=torch.from_numpy(fitted_work(rows)) if settings.structured else None,
    )
    return LatencyEstimatorTrainer(
        model, device, settings.learning_rate, weight_decay=settings.weight_decay, loss=settings.loss
    )


def _batch(rows: LatencyRows, device: torch.device) -> TrainingBatch:
    mass_K = rows.weight_NK.mean(axis=0)
    weight_NK = np.divide(rows.weight_NK, mass_K, out=np.zeros_like(rows.weight_NK), where=mass_K > 0)
    features, measured, weight = (
        _tensor(array, device) for array in (rows.features_NF, rows.measured_ms_NK, weight_NK)
    )
    return TrainingBatch(features_BF=features, measured_BK=measured, weight_BK=weight)


def _tensor(array: np.ndarray[tuple[int, ...], np.dtype[np.float64]], device: torch.device) -> Tensor:
    return torch.from_numpy(array.astype(np.float32)).to(device)


def _describe(
    samples: pl.DataFrame,
    rows: LatencyRows,
    definition: str,
    split: Split,
    run: _Run,
    provenance: Sequence[Provenance],
) -> EstimatorDescription:
    configs = [KnobConfig(**row) for row in samples.select(CONFIGURATION).unique().iter_rows(named=True)]
    vision = samples.group_by(pl.col("tier").cast(pl.String)).agg(pl.col("actual_vision_tokens").median())
    lowest_F, highest_F = rows.features_NF.min(axis=0).tolist(), rows.features_NF.max(axis=0).tolist()
    return EstimatorDescription(
        hidden_dim=run.settings.hidden_dim,
        num_layers=run.settings.num_layers,
        feature_ranges=dict(zip(FEATURES, zip(lowest_F, highest_F, strict=True), strict=True)),
        typical_text_tokens=round(float(np.median(samples["actual_text_tokens"].to_numpy()))),
        typical_vision_tokens={tier: round(count) for tier, count in vision.iter_rows()},
        configs=tuple(sorted(configs, key=lambda config: config.size)),
        decode_definition=definition,
        split=asdict(split),
        training={**json.loads(json.dumps(asdict(run.settings))), "epochs": run.epochs, "steps_an_epoch": run.batches},
        datasets=tuple(dataset_names(samples)),
        num_rows=int(rows.weight_NK[:, 0].sum()),
        num_decode_rows=int(rows.weight_NK[:, 1].sum()),
        work_terms=TERM_NAMES if run.settings.structured else (),
        provenance=tuple(json.loads(msgspec.json.encode(run)) for run in provenance),
    )


def _fingerprint(run: _Run, rows: LatencyRows) -> str:
    digest = hashlib.sha256(json.dumps([asdict(run.settings), run.epochs]).encode())
    for array in (rows.features_NF, rows.measured_ms_NK, rows.weight_NK):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
