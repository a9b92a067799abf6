"""Write the faces that `faceq inspect` compares others with: `python -m jobs.reference_faces TABLE`.

TABLE has the scored photos of CelebA: `faceq score IMAGES --out TABLE`.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from faceq.report import comparison
from faceq.storage.settings import S3Settings

OUT = Path(comparison.__file__).with_name(comparison.SHIPPED)
DIGITS = 4  # significant ones


def main() -> None:
    """Write the quantiles of the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table")
    found = asdict(comparison.of_table(parser.parse_args().table, S3Settings()))
    found["name"] = "CelebA"
    found["quantiles"] = {
        name: [float(f"{value:.{DIGITS}g}") for value in values]
        for name, values in found["quantiles"].items()
    }
    lines = ",\n".join(f'  "{name}": {json.dumps(values)}' for name, values in found.pop("quantiles").items())
    head = json.dumps(found)[1:-1]
    OUT.write_text(f'{{{head}, "quantiles": {{\n{lines}\n}}}}\n', encoding="utf-8")
    print(f"{OUT}: {found['faces']:,} faces, {OUT.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
