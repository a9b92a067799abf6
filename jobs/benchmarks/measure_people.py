"""Measure how well faces are grouped by person: `faceq cluster` and two other methods.

    python -m jobs.benchmarks.measure_people TABLE identities.csv

TABLE has embeddings. For each method and threshold, the table shows pairwise precision, recall and F, and
those of BCubed. Single linkage gives the connected components of the graph of similar faces.
"""

import argparse

import numpy as np
import rich.console
import rich.table
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from faceq.evaluation import identities
from faceq.evaluation.clusters import bcubed, pairwise
from faceq.selection.average_linkage import average_linkage
from faceq.selection.people import threshold
from faceq.storage.settings import S3Settings
from faceq.table.store import Table

FMRS = (1e-2, 1e-3, 1e-4, 1e-5)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", metavar="TABLE", help="result table of the preset embedded")
    parser.add_argument("identities", metavar="identities.csv", help="as of faceq evaluate edc")
    options = parser.parse_args()
    s3 = S3Settings()
    known = identities.known_faces(Table(options.table, s3), options.identities, s3)
    vectors = np.stack(known.rows["embedding"].to_numpy())
    shown = rich.table.Table(box=None, pad_edge=False)
    for title in ("method", "FMR", "cosine", "precision", "recall", "F", "BCubed P", "BCubed R", "BCubed F"):
        shown.add_column(title, justify="left" if title == "method" else "right")
    distance = squareform(np.maximum(1 - vectors.astype(np.float64) @ vectors.T, 0), checks=False)
    for name in ("average", "single", "complete"):
        tree = linkage(distance, name)
        for fmr in FMRS:
            cosine = threshold("sface", fmr)
            found = (
                average_linkage(vectors, cosine)
                if name == "average"
                else fcluster(tree, 1 - cosine, "distance")
            )
            figures = [
                value
                for agreement in (pairwise(found, known.people), bcubed(found, known.people))
                for value in (agreement.precision, agreement.recall, agreement.f)
            ]
            shown.add_row(name, f"{fmr:g}", f"{cosine:.3f}", *(f"{value:.3f}" for value in figures))
    print(f"{len(vectors):,} faces of {len(known.names):,} people")
    rich.console.Console().print(shown)


if __name__ == "__main__":
    main()
