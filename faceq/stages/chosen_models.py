"""The models that a job's settings choose, and what is known of them."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from faceq.config import Calibration, Config
from faceq.faces.finder import FACE_FINDING
from faceq.models import zoo
from faceq.models.fetch import FetchOptions, fetch
from faceq.models.terms import accept_terms
from faceq.models.zoo import Model, Recogniser
from faceq.presets import Preset

Role = Literal["detector", "recogniser", "landmarks", "quality"]


@dataclass(frozen=True)
class ChosenModels:
    """The models of a job, resolved once and passed on to the stages, also to those on other machines.

    preset: the names of the models, with those that replace the preset's. replaced: the roles of the latter.
    known: the zoo's entries, or the user's files, in the order of `preset.models()`. recogniser: what its
    file does not say. quality_scale: the best score on the quality checkpoint's own scale, None if unknown.
    """

    preset: Preset
    replaced: frozenset[str]
    known: tuple[Model, ...]
    recogniser: Recogniser
    calibration: Calibration
    quality_scale: float | None
    options: FetchOptions

    def path(self, role: Role) -> Path:
        """A verified copy of the model's file on this machine; raises as `faceq.models.fetch.fetch`."""
        return fetch(getattr(self.preset, role), self.options)

    def fetch_all(self) -> None:
        """Fetch what is missing on this machine, before anything depends on it."""
        for name in self.preset.models():
            fetch(name, self.options)

    def accept_terms(self) -> dict[str, str]:
        """Ensure that all licences are accepted; the models that require it, with their licences.

        Raises LicenceError if one is not accepted.
        """
        for name in self.preset.models():
            accept_terms(name, self.options.accept)
        return {model.name: model.licence for model in self.known if model.terms}

    def digests(self) -> dict[str, str]:
        """The whole SHA-256 of each model. Of those whose publisher states its first digits only, the file is
        fetched for it."""
        return {
            model.name: model.sha256
            if len(model.sha256) == zoo.HEX_DIGITS
            else zoo.digest(fetch(name, self.options))
            for name, model in zip(self.preset.models(), self.known, strict=True)
        }


def fetch_options(config: Config) -> FetchOptions:
    """How these settings have models fetched."""
    return FetchOptions(config.accept_licence, config.model_mirrors, config.s3)


def choose(config: Config) -> ChosenModels:
    """What these settings choose. Nothing is fetched.

    Raises UsageError for a file that is missing, ModelError for a recogniser that is none.
    """
    preset = config.chosen
    known = tuple(zoo.find(name) for name in preset.models())
    recogniser = zoo.recogniser(preset.recogniser)
    if config.dropout is not None:
        recogniser = replace(recogniser, dropout=config.dropout, closed_form_holds=False)
    fitted = recogniser.calibration
    return ChosenModels(
        preset=preset,
        replaced=frozenset(config.models.model_dump(exclude_none=True)),
        known=known,
        recogniser=recogniser,
        calibration=config.calibration or Calibration(slope=fitted.slope, threshold=fitted.threshold),
        quality_scale=config.quality_scale or known[-1].quality_scale,
        options=fetch_options(config),
    )


def comparison_record(config: Config, models: ChosenModels) -> dict[str, Any]:
    """What decides which rows there are, and their values, as JSON.

    Kept with every table and compared before a rerun. Whoever adds a key here gives it a place in
    `faceq.table.comparable.EARLIER_DEFAULTS`, too.
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
        "max_pixels": config.max_pixels,
        "video_fps": config.video.fps,
        "video_every": config.video.every,
        "models": {
            model.name: {"sha256": digests[model.name], "licence": model.licence} for model in models.known
        },
        "calibration": models.calibration.model_dump(),
    }
