"""SER-FIQ as published: the mean distance between embeddings of Monte Carlo dropout passes.

Source: Terhörst et al., "SER-FIQ: Unsupervised Estimation of Face Image Quality Based on Stochastic
Embedding Robustness", CVPR 2020.
"""

from collections.abc import Sequence

import numpy as np
import torch

from faceq.fiq import serfiq

_PASSES_AT_ONCE = 256
"""Dropout passes in one matrix product: about 50 MB of masked features for SFace."""


class MonteCarlo:
    """Mean distance between dropout embeddings, estimated from Monte Carlo dropout passes as published.

    Only the last layer is repeated, because nothing before it is random.

    Args:
        head: the last layer.
        passes: passes per face, at least 2; published: 100.
        device: `cpu` or `cuda`. The dropout masks are generated on the host, so that they are the same on
            every device.
    """

    def __init__(self, head: serfiq.Head, passes: int, device: str = "cpu"):
        serfiq.check(head)
        self._weight = torch.from_numpy(head.weight).to(device)
        self._bias = torch.from_numpy(head.bias).to(device)
        self._dropout = head.dropout
        self._passes = passes

    @torch.inference_mode()
    def __call__(self, features: torch.Tensor, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """The distance and embedding of each face.

        Args:
            features: (N, D) float32, the recogniser's output just before its dropout layer.
            seeds: one per face, 0 to 2^64 - 1, for example from `serfiq.seed_of`. Equal seeds give equal
                masks.

        Returns:
            distance: (N,) float32, mean Euclidean distance over all pairs of passes, with each embedding
                normalised to L2 norm 1; 0 to 2.
            embedding: (N, E) float32, without dropout, not normalised.
        """
        # Process face by face, so that no bit of a result depends on the number of faces.
        mean = [vector @ self._weight.T + self._bias for vector in features]
        pairs = zip(features, seeds, strict=True)
        distance = [self._distance(vector, seed) for vector, seed in pairs]
        embedding = torch.stack(mean) if mean else features.new_empty((0, len(self._bias)))
        return np.array(distance, np.float32), embedding.cpu().numpy()

    def _distance(self, features: torch.Tensor, seed: int) -> float:
        draws = self._draws(features, seed).double()  # in float32, 1 - cosine would have few correct digits
        draws /= torch.linalg.vector_norm(draws, dim=1, keepdim=True)
        apart = (2 - 2 * (draws @ draws.T)).clamp_min(0).fill_diagonal_(0).sqrt().sum()
        return float(apart) / (self._passes * (self._passes - 1))

    def _draws(self, features: torch.Tensor, seed: int) -> torch.Tensor:
        """(passes, E) float32 embeddings under dropout."""
        kept = features / (1 - self._dropout)
        # numpy guarantees that the raw output of this counter-based generator never changes.
        generator = np.random.Philox(key=seed)
        size, parts = len(features), []
        for start in range(0, self._passes, _PASSES_AT_ONCE):
            count = min(_PASSES_AT_ONCE, self._passes - start)
            # 16 bits per unit: the rate is accurate to 1 / 65,536.
            bits = generator.random_raw(-(-count * size // 4)).view(np.uint16)[: count * size]
            masks = torch.from_numpy(bits >= round(self._dropout * (1 << 16))).to(features.device)
            parts.append((masks.view(count, size) * kept) @ self._weight.T + self._bias)
        return torch.cat(parts)
