"""SER-FIQ: can this face be recognised? Pure functions on arrays.

A recogniser that was trained with dropout before its last layer gives, with dropout left on, a cloud of
embeddings for one face. The tighter the cloud, the more certain the recogniser is of the face.

Source: Terhörst et al., "SER-FIQ: Unsupervised Estimation of Face Image Quality Based on Stochastic
Embedding Robustness", CVPR 2020.
"""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Head:
    """A recogniser's last layer, its batch norm folded in: embedding = weight @ features + bias.

    weight: (E, D) float32; bias: (E,) float32; dropout: the rate 0 < p < 1 it was trained with.
    """

    weight: np.ndarray
    bias: np.ndarray
    dropout: float


class ClosedForm:
    """Mean distance between dropout embeddings, without drawing any.

    Only the last layer is random, so its output has a known mean and covariance. With v the features
    before dropout and p the rate: mu = W v + b and tr S = p / (1 - p) * sum_k v_k^2 |W_k|^2. Of two
    draws scaled to length one, the expected squared distance is about 2 - 2 |mu|^2 / (|mu|^2 + tr S);
    its root stands for the mean distance.

    Source: second moments of the last layer under Bernoulli dropout; Terhörst et al., eq. 1.
    """

    def __init__(self, head: Head, device: str = "cpu"):
        self._weight = torch.from_numpy(head.weight).to(device)
        self._bias = torch.from_numpy(head.bias).to(device)
        spread = head.dropout / (1 - head.dropout)
        self._variance = spread * (self._weight.double() ** 2).sum(dim=0).float()

    @torch.inference_mode()
    def __call__(self, features: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Distance and embedding length of each face.

        Args:
            features: (N, D) float32, the recogniser's output just before its dropout layer.

        Returns:
            distance: (N,) float32, 0 (certain) to sqrt(2) (random direction).
            norm: (N,) float32, length of the embedding without dropout.
        """
        mean = features @ self._weight.T + self._bias
        squared_norm = (mean**2).sum(dim=1)
        trace = (features**2) @ self._variance
        distance = torch.sqrt(2 - 2 * squared_norm / (squared_norm + trace))
        return distance.cpu().numpy(), torch.sqrt(squared_norm).cpu().numpy()


def monte_carlo_distance(features: np.ndarray, head: Head, passes: int, seed: int) -> np.ndarray:
    """Mean distance between dropout embeddings as published, by drawing them.

    Args:
        features: (N, D) float32, the recogniser's output just before its dropout layer.
        head: the last layer; only it is repeated, because nothing before it is random.
        passes: draws per face, at least 2.
        seed: of the random generator.

    Returns:
        (N,) float64, mean Euclidean distance over all pairs of draws, each scaled to length one.
    """
    generator = np.random.default_rng(seed)
    keep = np.float32(1 / (1 - head.dropout))
    distances = np.empty(len(features))
    for index, vector in enumerate(features):
        masks = generator.random((passes, vector.size), dtype=np.float32) >= head.dropout
        draws = (masks * (vector * keep)) @ head.weight.T + head.bias
        draws /= np.linalg.norm(draws, axis=1, keepdims=True)
        squared = np.clip(2 - 2 * (draws @ draws.T), 0, None)
        above = np.triu_indices(passes, k=1)
        distances[index] = np.sqrt(squared[above]).mean()
    return distances


def score(distance: np.ndarray) -> np.ndarray:
    """SER-FIQ's raw score from mean distances: 2 / (1 + exp(d)), 1 for certain, towards 0 for not."""
    return 2 / (1 + np.exp(distance))


def calibrated(raw: np.ndarray, slope: float, threshold: float) -> np.ndarray:
    """Raw scores on a scale on which 0.5 is the threshold: a logistic curve, 0...1."""
    return 1 / (1 + np.exp(-slope * (raw - threshold)))
