"""SER-FIQ's closed form compared with Monte Carlo dropout, on real faces."""

from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from faceq.evaluation.distortions import LADDERS
from faceq.faces import geometry
from faceq.faces.detect import YuNet
from faceq.fiq.monte_carlo import MonteCarlo
from faceq.fiq.recogniser import Backbone
from faceq.fiq.serfiq import ClosedForm
from faceq.models.fetch import fetch
from faceq.sources.decode.image import decode


def aligned_faces(astronaut: np.ndarray, photos: Path) -> np.ndarray:
    """Aligned faces of seven people and degraded copies of them, (66, 112, 112, 3) uint8 RGB."""
    detector = YuNet(fetch("yunet"), 0.6)
    sharp = [geometry.align(astronaut, detector(astronaut)[0].landmarks)]
    group = decode((photos / "t1.jpg").read_bytes(), 10**7)
    sharp += [geometry.align(group, face.landmarks) for face in detector(group)]
    degraded = [
        degrade(face, severity, seed)
        for seed, face in enumerate(sharp)
        for degrade in (LADDERS["blur"], LADDERS["noise"], LADDERS["jpeg"], LADDERS["low_light"])
        for severity in (2, 4)
    ]
    return np.stack(sharp + degraded + [255 - face for face in sharp[:3]])


def features_of(backbone: Backbone, faces: np.ndarray) -> np.ndarray:
    """The recogniser's features before dropout, (N, D) float32, of faces (N, 112, 112, 3)."""
    parts = [backbone(faces[i : i + 11]) for i in range(0, len(faces), 11)]
    return np.concatenate(parts)


def closed_form_error(backbone: Backbone, features: np.ndarray, passes: int) -> tuple[np.ndarray, float]:
    """The relative error of the mean distance of each face in closed form, (N,), and the rank correlation
    with the passes."""
    closed, _ = ClosedForm(backbone.head)(features)
    drawn, _ = MonteCarlo(backbone.head, passes)(torch.from_numpy(features), range(len(features)))
    return closed / drawn - 1, float(spearmanr(closed, drawn).statistic)
