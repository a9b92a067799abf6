"""`faceq evaluate`: evaluates the quality scores, and fits their scale."""

import argparse
import json
import logging
import math
from typing import Any

import rich.console
import rich.table

from faceq.cli.models import add_accept
from faceq.cli.rows import print_rows
from faceq.cli.settings import add_config_arguments, load_settings
from faceq.errors import UsageError
from faceq.messages.visible import visible
from faceq.storage.outputs import check_output, write_output
from faceq.storage.settings import S3Settings

log = logging.getLogger(__name__)

LABELS_SHOWN = 20

IQA_MODELS = ("dbcnn-lite", "dbcnn-koniq", "dbcnn-koniq-254e8241")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions of `faceq evaluate`."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    edc = actions.add_parser(
        "edc",
        help="error versus discard: do recognition errors fall if faces with low scores are discarded?",
        description=_EDC,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_identities(edc)
    add_accept(edc)
    _add_outputs(edc, "plot the curves as a PNG file")
    edc.set_defaults(run=evaluate_edc, only_prints=_only_prints)
    iqa = actions.add_parser(
        "iqa",
        help="correlation of the quality score with human ratings (MOS) of whole images",
        description=_IQA,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    iqa.add_argument("images", metavar="IMAGE_DIR", help="folder of the images")
    iqa.add_argument("ratings", metavar="mos.csv", help=_RATINGS)
    what = f"quality model (default: {IQA_MODELS[0]})"
    iqa.add_argument("--model", choices=IQA_MODELS, default=IQA_MODELS[0], help=what)
    add_accept(iqa)
    _add_outputs(iqa, "plot scores and ratings as a PNG file")
    iqa.set_defaults(run=evaluate_iqa, only_prints=_only_prints)
    labels = actions.add_parser(
        "labels",
        help="find photos whose face does not look like the others with the same label",
        description=_LABELS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_identities(labels)
    add_accept(labels)
    what = "write all photos, the most suspicious first, to a .parquet, .csv or .jsonl file"
    labels.add_argument("--out", metavar="FILE", help=what)
    add_config_arguments(labels)
    labels.set_defaults(run=evaluate_labels, only_prints=lambda options: not options.out)
    calibrate = actions.add_parser(
        "calibrate",
        help="fit the scale of serfiq to a table, so that 0.5 discards a given share of the faces",
        description=_CALIBRATE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    calibrate.add_argument("table", metavar="TABLE", help="result table of faces like yours")
    what = "take all faces of each frame instead of the main one, in tables made with faces: all"
    calibrate.add_argument("--faces", action="store_true", help=what)
    what = "share of faces below serfiq 0.5 (default: 0.05)"
    calibrate.add_argument("--discard", type=float, default=0.05, metavar="SHARE", help=what)
    add_config_arguments(calibrate)
    calibrate.set_defaults(run=evaluate_calibrate, only_prints=lambda options: True)


def _add_identities(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", metavar="TABLE", help="result table")
    parser.add_argument("identities", metavar="identities.csv", nargs="?", help=_IDENTITIES)
    parser.add_argument("--identity", metavar="NAME", help=_IDENTITY)
    parser.add_argument("--faces", action="store_true", help=_FACES)


def _add_outputs(parser: argparse.ArgumentParser, plot: str) -> None:
    parser.add_argument("--json", metavar="F", help="write the results to a JSON file")
    parser.add_argument("--plot", metavar="F.png", help=plot)
    add_config_arguments(parser)


def _only_prints(options: argparse.Namespace) -> bool:
    return not (options.json or options.plot)


_IDENTITIES = (
    "CSV file with the columns image and identity; image: the file name of the image or video, without "
    "folders; for a frame in a tar or Parquet shard, the `member` in the table"
)
_IDENTITY = (
    "instead of the CSV file: the value inside the table's column `extra` that names the person, such as "
    "extra.json.identity"
)
_FACES = (
    "the CSV file names single faces: it also has the column face, the position in the table's column "
    "`faces`; empty: the main face"
)
_RATINGS = (
    "CSV file with the columns image and mos (higher is better); image: the image's path below IMAGE_DIR"
)

_EDC = """Computes the error-versus-discard characteristic (EDC) of the table's scores from recognition errors
on known people. The decision threshold is set on all pairs, at false match rates of 1e-2, 1e-3 and
1e-4. Then the genuine pairs with the lowest score (the lower one of their two faces) are discarded step by
step. pAUC is the area under the false non-match rate up to 20% and 30% discarded, relative to discarding
nothing: 1.0 means no benefit, lower is better. Intervals: 95%, bootstrap over people.

  faceq score photos/ --out scores/
  faceq evaluate edc scores/ identities.csv --json edc.json --plot edc.png
  faceq evaluate edc scores/ --identity extra.json.identity
  faceq evaluate edc scores/ people-in-photos.csv --faces
"""

_IQA = """Scores whole images, with or without faces (DB-CNN-Lite: the mean of ten views), and compares the
scores with human ratings. Prints the rank correlations SRCC and KRCC, and PLCC and RMSE after the usual
four-parameter logistic function has mapped the scores to the scale of the ratings. Computes in single
precision, on the GPU if there is one (--set dbcnn.device=cpu prevents it), otherwise on all CPUs.

  faceq evaluate iqa photos/ mos.csv --json iqa.json --plot iqa.png
"""

_LABELS = """Finds labels that may be wrong. The mean cosine between the embedding of a photo and those of the
other photos with its label is compared with the mean cosine to the photos of every other label. If the photo
resembles another label more, its suspicion is above 0.

  faceq evaluate labels scores/ identities.csv
  faceq evaluate labels scores/ --identity extra.json.identity --out labels.csv
"""

_CALIBRATE = """Fits serfiq = 1 / (1 + exp(-slope * (serfiq_raw - threshold))) to the faces of a table, so
that the threshold 0.5 discards the share --discard of them. Prints the settings for job.yaml.

  faceq evaluate calibrate scores/ --discard 0.1
"""


def evaluate_edc(options: argparse.Namespace) -> int:
    """`faceq evaluate edc`."""
    from faceq.evaluation import edc, identities  # noqa: PLC0415 - torch takes seconds to import
    from faceq.stages.chosen_models import fetch_options  # noqa: PLC0415 - as above
    from faceq.table import store  # noqa: PLC0415 - as above

    settings = load_settings(options, {"accept_licence": options.accept_licence})
    _check_outputs(options, settings.s3)
    table = store.Table(options.table, settings.s3)
    known = _known(options, table, settings.s3, "edc")
    found = identities.evaluate_edc(table, known, settings.s3, fetch_options(settings))
    shown = rich.table.Table(box=None, pad_edge=False)
    areas = [f"pAUC {upto:.0%}" for upto in edc.AREAS]
    for title in ("FMR", "quality", "FNMR", *areas, f"{edc.CONFIDENCE:.0%} interval"):
        shown.add_column(title, justify="left" if title == "quality" else "right")
    for result in found.results:
        shown.add_row(
            f"{result.fmr:g}",
            result.quality,
            f"{result.fnmr:.2%}",
            *(f"{area:.3f}" for area in result.pauc),
            f"{result.low:.3f} to {result.high:.3f}",
            end_section=result is [r for r in found.results if r.fmr == result.fmr][-1],
        )
    rich.console.Console().print(shown)
    known = found.known
    print(f"\n{len(known.people):,} faces of {len(known.names):,} people", end="")
    things = "faces" if options.faces else "images"
    missing = f"; {known.without_face:,} {things} of the list have no scored face"
    print(missing if known.without_face else "")
    print(f"{found.genuine:,} genuine pairs, {found.impostors:,} impostor pairs", end="")
    print(f"; FMR {min(edc.FMRS):g} is estimated from {int(min(edc.FMRS) * found.impostors):,} false matches")
    thresholds = {result.fmr: result.threshold for result in found.results}
    told = ", ".join(f"{threshold:.3f} at FMR {fmr:g}" for fmr, threshold in thresholds.items())
    print(f"thresholds: cosine {told}")
    print("pAUC: relative to no discard; 1.0 means no benefit, lower is better")
    if options.json:
        _write_json(options.json, [_as_json(result) for result in found.results], settings.s3)
    if options.plot:
        from faceq.evaluation import plots  # noqa: PLC0415 - as above

        write_output(options.plot, plots.edc_plot(found.results), settings.s3)
    return 0


def _known(options: argparse.Namespace, table: Any, s3: S3Settings, action: str) -> Any:
    """The faces whose identities the command line names."""
    from faceq.evaluation import identities  # noqa: PLC0415 - torch takes seconds to import

    if (options.identities is None) == (options.identity is None):
        raise UsageError(f"evaluate {action}: name either a file of identities or --identity")
    if options.identities is None and options.faces:
        raise UsageError(
            f"evaluate {action}: --identity names one person for each frame: leave out --faces, or name the "
            "faces in a file with the columns image, face and identity"
        )
    if options.identities is None:
        return identities.people_in_extra(table, options.identity, s3)
    return identities.known_faces(table, options.identities, s3, faces=options.faces)


def evaluate_labels(options: argparse.Namespace) -> int:
    """`faceq evaluate labels`."""
    from faceq.evaluation import identities, mislabelled  # noqa: PLC0415 - torch takes seconds to import
    from faceq.query.export import check_export, export  # noqa: PLC0415 - as above
    from faceq.query.rows import Rows  # noqa: PLC0415 - as above
    from faceq.stages.chosen_models import fetch_options  # noqa: PLC0415 - as above
    from faceq.table import store  # noqa: PLC0415 - as above

    settings = load_settings(options, {"accept_licence": options.accept_licence})
    if options.out:
        check_export(options.out, settings.s3)
    table = store.Table(options.table, settings.s3)
    known = _known(options, table, settings.s3, "labels")
    embeddings = identities.known_embeddings(table, known, settings.s3, fetch_options(settings))
    found = mislabelled.suspects(known, embeddings)
    things = "faces" if options.faces else "photos"
    if options.out:
        with Rows(options.table, settings.s3) as rows:
            export(rows, rows.sql(f"FROM {rows.name_of(found.photos)}"), options.out, settings.s3)
    else:
        print_rows(found.photos.drop_columns(["frame_id", "frame_index"])[:LABELS_SHOWN])
    print(
        f"{found.disagreeing:,} of {len(found.photos):,} {things} resemble another label more than their own",
        end="",
    )
    print(f"; list in {visible(options.out)}" if options.out else "")
    if found.alone:
        log.info(
            "%s %s are the only ones with their label: nothing can be said of them",
            f"{found.alone:,}",
            things,
        )
    return 0


def _as_json(result: Any) -> dict[str, Any]:
    figures = {
        "fnmr": result.fnmr,
        "pauc20": result.pauc[0],
        "pauc30": result.pauc[1],
        "low": result.low,
        "high": result.high,
    }
    known = {name: None if math.isnan(value) else value for name, value in figures.items()}
    return {"fmr": result.fmr, "quality": result.quality, **known}


def evaluate_iqa(options: argparse.Namespace) -> int:
    """`faceq evaluate iqa`."""
    from faceq.evaluation import iqa, whole_images  # noqa: PLC0415 - torch takes seconds to import
    from faceq.stages.chosen_models import fetch_options  # noqa: PLC0415 - as above
    from faceq.stages.scorer import in_this_process  # noqa: PLC0415 - as above

    settings = load_settings(options, {"accept_licence": options.accept_licence})
    _check_outputs(options, settings.s3)
    device = in_this_process(settings).dbcnn.runs_on
    rater = whole_images.rater(options.model, fetch_options(settings), device)
    found = iqa.evaluate(options.images, options.ratings, rater, settings.s3)
    figures = found.figures()
    print(f"{figures['n']:,} images, {options.model}")
    for name in ("srcc", "plcc", "krcc", "rmse"):
        print(f"{name.upper()}  {figures[name]:.4f}")
    if isinstance(found.curve, iqa.Line):
        print(found.curve.reason)
    if options.json:
        _write_json(options.json, figures, settings.s3)
    if options.plot:
        from faceq.evaluation import plots  # noqa: PLC0415 - as above

        write_output(options.plot, plots.iqa_plot(found, title=options.model), settings.s3)
    return 0


def _check_outputs(options: argparse.Namespace, s3: S3Settings) -> None:
    """Check that the files can be written, before minutes of work."""
    if options.plot and not options.plot.lower().endswith(".png"):
        raise UsageError(f"{options.plot}: the plot is a PNG file: name a file that ends in .png")
    for path in (options.json, options.plot):
        if path:
            check_output(path, s3)


def _write_json(path: str, figures: Any, s3: S3Settings) -> None:
    write_output(path, json.dumps(figures, indent=1).encode(), s3)


def evaluate_calibrate(options: argparse.Namespace) -> int:
    """`faceq evaluate calibrate`."""
    from faceq.evaluation import calibration  # noqa: PLC0415 - pyarrow takes a while to import
    from faceq.query.rows import Rows  # noqa: PLC0415 - as above

    with Rows(options.table, load_settings(options).s3, faces=options.faces) as rows:
        scored = rows.chosen("serfiq_raw IS NOT NULL", ["serfiq_raw"])
        raw = rows.arrow(scored)["serfiq_raw"].to_numpy()
    fitted = calibration.fit(raw, options.discard)
    slope, threshold = fitted.calibration.slope, fitted.calibration.threshold
    print(
        f"{fitted.faces:,} faces: serfiq 0.5 is serfiq_raw {threshold:.4f}; {fitted.below:,} faces "
        f"({fitted.below / fitted.faces:.1%}) are below it. The median serfiq_raw, {fitted.median:.4f}, "
        f"gets serfiq {calibration.MEDIAN_SCORE:g}."
    )
    print(
        "To score with this scale, put it into job.yaml (in existing tables, filter on serfiq_raw instead):\n"
    )
    print(f"calibration: {{ slope: {slope:g}, threshold: {threshold:g} }}")
    return 0
