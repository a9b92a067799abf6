"""Test whether SER-FIQ combined with other measures of a face predicts recognition errors better than alone.

    python -m jobs.training.combine_fiq TABLE identities.csv [--job job.yaml]

The people are split in half by a hash of their name. On the first half, the script chooses a weighted sum: it
adds standardised scores to SER-FIQ one at a time, each with the weight that reduces the area under the
error-versus-discard curve most, until none reduces it. On the second half, it judges the sum by a bootstrap
over people: a sum is better than SER-FIQ if the interval of the difference excludes zero. `mirror` is the
cosine similarity between the embeddings of the face and of its mirror image. It needs a second forward pass.
"""

import argparse
import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import rich.console
import rich.table

from faceq import config
from faceq.evaluation import edc, identities
from faceq.stages.chosen_models import fetch_options
from faceq.table.store import Table

FMR = 1e-3
WEIGHTS = (0.1, 0.2, 0.3, 0.5, 0.8)
MINIMUM_GAIN = 0.002
"""Minimum reduction of the area on the choosing half for each added score. Smaller reductions are noise."""


@dataclass(frozen=True)
class Half:
    """Half of the people: positions of their faces, person of each face (0...M-1), and pairs of faces."""

    faces: np.ndarray
    people: np.ndarray
    genuine: edc.Pairs
    impostor: edc.Pairs

    def area(self, quality: np.ndarray) -> float:
        threshold = edc.threshold_at(self.impostor.similarity, FMR)
        mine = quality[self.faces]
        worst = np.minimum(mine[self.genuine.first], mine[self.genuine.second])
        return edc.curve(worst, self.genuine.similarity, threshold).relative_area(edc.AREAS[-1])


def main() -> None:
    """Choose a sum on one half, judge it on the other, and print both results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", help="result table, scored with fiq_threshold 0")
    parser.add_argument("identities", help="CSV file with the columns image, identity")
    parser.add_argument("--job", help="settings file of the job, for its S3 settings")
    options = parser.parse_args()
    settings = config.load(options.job, {})
    table = Table(options.table, settings.s3)
    known = identities.known_faces(table, options.identities, settings.s3)
    faces = list(identities.aligned_faces(known.rows, table, settings.s3))
    fetching = fetch_options(settings)
    embeddings = identities.embeddings_of(faces, table, fetching)
    mirrored = identities.embeddings_of((face[:, ::-1] for face in faces), table, fetching)
    scores = candidates(known.rows, (embeddings * mirrored).sum(axis=1))
    judges = np.array([hashlib.blake2b(name.encode()).digest()[0] % 2 == 1 for name in known.names])
    choosing, judging = (half(known.people, embeddings, judges == side) for side in (False, True))
    standard = {
        name: (score - score[choosing.faces].mean()) / score[choosing.faces].std()
        for name, score in scores.items()
    }
    print(f"chosen on {len(choosing.faces)} faces of {int((~judges).sum())} people, ", end="")
    print(f"judged on {len(judging.faces)} of {int(judges.sum())}; pAUC {edc.AREAS[-1]:.0%} at FMR {FMR:g}")
    sums = {
        "serfiq": standard["serfiq"],
        "one pass": chosen_sum(choosing, {k: v for k, v in standard.items() if k != "mirror"}, "one pass"),
        "with mirror": chosen_sum(choosing, standard, "with mirror"),
    }
    rich.console.Console().print(
        verdict(judging, {**sums, **{k: v for k, v in standard.items() if k != "serfiq"}})
    )


def candidates(rows: pa.Table, mirror: np.ndarray) -> dict[str, np.ndarray]:
    """Scores by name, (N,) float64, higher is better, on scales that can be added."""
    column = {name: rows[name].to_numpy().astype(np.float64) for name in rows.column_names if name in _USED}
    size = np.minimum(column["face_w"], column["face_h"])
    return {
        "serfiq": -np.log(2 / column["serfiq_raw"] - 1),  # the negative mean distance
        "norm": np.log(column["embedding_norm"]),
        "detection": column["det_score"],
        "size": np.log(np.minimum(size, 200)),  # larger faces are all shrunk by alignment
        **{name: -np.abs(column[name]) for name in ("yaw", "pitch", "roll")},
        "mirror": mirror.astype(np.float64),
    }


_USED = ("serfiq_raw", "embedding_norm", "det_score", "face_w", "face_h", "yaw", "pitch", "roll")


def half(people: np.ndarray, embeddings: np.ndarray, mine: np.ndarray) -> Half:
    """The people for which `mine` (M,) is true."""
    faces = np.flatnonzero(mine[people])
    numbers = np.unique(people[faces], return_inverse=True)[1].astype(np.int64)
    pairs = edc.genuine_pairs, edc.impostor_pairs
    genuine, impostor = (make(numbers, embeddings[faces]) for make in pairs)
    return Half(faces, numbers, genuine, impostor)


def chosen_sum(choosing: Half, standard: dict[str, np.ndarray], title: str) -> np.ndarray:
    """SER-FIQ plus the scores that reduce the area on the choosing half. Prints the sum."""
    quality, recipe = standard["serfiq"], "serfiq"
    best = choosing.area(quality)
    rest = [name for name in standard if name != "serfiq"]
    while rest:
        tried = [(choosing.area(quality + w * standard[name]), name, w) for name in rest for w in WEIGHTS]
        area, name, weight = min(tried)
        if area > best - MINIMUM_GAIN:
            break
        best, quality, recipe = area, quality + weight * standard[name], f"{recipe} + {weight:g} {name}"
        rest.remove(name)
    print(f"{title}: {recipe}: {best:.3f} on the choosing half")
    return quality


def verdict(judging: Half, qualities: dict[str, np.ndarray]) -> rich.table.Table:
    """The area of each score on the judging half, and its difference from SER-FIQ's with an interval."""
    mine = {name: quality[judging.faces] for name, quality in qualities.items()}
    results = edc.evaluate(judging.genuine, judging.impostor, judging.people, mine, fmrs=[FMR])
    base = results[0]
    table = rich.table.Table(title="On the judging half", box=None, pad_edge=False)
    for title in ("quality", "pAUC", "minus serfiq", "95% interval"):
        table.add_column(title, justify="left" if title == "quality" else "right")
    for result in results:
        low, high = np.nanquantile(result.resampled - base.resampled, [0.025, 0.975])
        difference = result.pauc[-1] - base.pauc[-1]
        table.add_row(
            result.quality, f"{result.pauc[-1]:.3f}", f"{difference:+.3f}", f"{low:+.3f} to {high:+.3f}"
        )
    return table


if __name__ == "__main__":
    main()
