"""Resolve the models that a job's settings choose."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from faceq.config import Calibration, Config
from faceq.faces.method import FACE_FINDING
from faceq.models import zoo
from faceq.models.fetch import FetchOptions, fetch
from faceq.models.terms import accept_terms
from faceq.models.zoo import Model, Recogniser
from faceq.presets import Preset
from faceq.stages import precision
from faceq.stages.precision import ScoreNumerics

Role = Literal["detector", "recogniser", "landmarks", "quality"]


@dataclass(frozen=True)
class ChosenModels:
    """The models of a job, resolved once and passed to the stages on all machines.

    preset: the names of the models, after replacements. replaced: the roles whose models replace those of the
    preset. names: those of `preset.models()`, then that of the model that finds shots, if there is one.
    known: entries of the model zoo, or the user's files, in the order of `names`.
    recogniser: information about the recogniser that its file does not contain. quality_scale: the best score
    on the quality checkpoint's own scale, None if unknown.
    numerics: how the network of each score computes.
    """

    preset: Preset
    replaced: frozenset[str]
    names: tuple[str, ...]
    known: tuple[Model, ...]
    recogniser: Recogniser
    calibration: Calibration
    quality_scale: float | None
    numerics: ScoreNumerics
    options: FetchOptions

    def path(self, role: Role) -> Path:
        """A verified copy of the model's file on this machine. Raises like `faceq.models.fetch.fetch`."""
        return fetch(getattr(self.preset, role), self.options)

    def fetch_all(self) -> None:
        """Fetch all models that are missing on this machine."""
        for name in self.names:
            fetch(name, self.options)

    def accept_terms(self) -> dict[str, str]:
        """Check that all licences that must be accepted are accepted.

        Returns:
            The models with such a licence, and their licences.

        Raises:
            LicenceError: one of them is not accepted.
        """
        for name in self.names:
            accept_terms(name, self.options.accept)
        return {model.name: model.licence for model in self.known if model.terms}

    def digests(self) -> dict[str, str]:
        """The full SHA-256 of each model. If the publisher states only its first digits, the file is fetched
        to compute it."""
        return {
            model.name: model.sha256
            if len(model.sha256) == zoo.HEX_DIGITS
            else zoo.digest(fetch(name, self.options))
            for name, model in zip(self.names, self.known, strict=True)
        }


def fetch_options(config: Config) -> FetchOptions:
    """The options for fetching models in these settings."""
    return FetchOptions(config.accept_licence, config.model_mirrors, config.s3)


def choose(config: Config, here: bool = True) -> ChosenModels:
    """Resolve the models of these settings, without fetching them.

    Args:
        config: settings that already say which stages run on GPUs.
        here: the models run on this machine, not on others: see `precision.resolve`.

    Raises:
        UsageError: a file is missing, or `runtime` or `precision` cannot be used.
        ModelError: the recogniser's model is not a recogniser.
    """
    preset = config.chosen
    of_shots = ("transnetv2",) if config.video.shots == "transnetv2" else ()
    names = (*preset.models(), *of_shots)
    recogniser = zoo.recogniser(preset.recogniser)
    if config.dropout is not None:
        recogniser = replace(recogniser, dropout=config.dropout, closed_form_holds=False)
    fitted = recogniser.calibration
    return ChosenModels(
        preset=preset,
        replaced=frozenset(config.models.model_dump(exclude_none=True)),
        names=names,
        known=tuple(map(zoo.find, names)),
        recogniser=recogniser,
        calibration=config.calibration or Calibration(slope=fitted.slope, threshold=fitted.threshold),
        quality_scale=config.quality_scale or zoo.find(preset.quality).quality_scale,
        numerics=precision.resolve(config, here),
        options=fetch_options(config),
    )


def comparison_record(config: Config, models: ChosenModels) -> dict[str, Any]:
    """Everything that determines which rows there are, and their values, as JSON. `measures` is not among
    it: rows with and without measures may be in one table.

    It is stored with every table and compared before a rerun. If you add a key here, also add it to
    `faceq.table.comparable.EARLIER_DEFAULTS`.
    """
    digests = models.digests()
    return {
        "preset": config.preset,
        "serfiq_passes": config.serfiq_passes,
        "dropout": config.dropout,
        "quality_scale": config.quality_scale,
        "quality_region": config.quality_region,
        "embeddings": config.embeddings,
        "det_threshold": config.det_threshold,
        "min_face": config.min_face,
        "face_finding": FACE_FINDING,
        "faces": config.faces,
        "max_faces": config.max_faces if config.all_faces else None,
        "main": config.main,
        "max_pixels": config.max_pixels,
        "video_fps": config.video.fps,
        "video_every": config.video.every,
        "animated": config.read.animated,
        "models": {
            model.name: {"sha256": digests[model.name], "licence": model.licence} for model in models.known
        },
        "calibration": models.calibration.model_dump(),
        "precision": {score: each.precision for score, each in models.numerics._asdict().items()},
    }
