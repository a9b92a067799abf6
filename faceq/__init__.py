"""faceq scores face images at scale: can the face be recognised (SER-FIQ), does it look good (DB-CNN)?"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faceq.query.rows import read_table
    from faceq.stages.scorer import score_images

__version__ = "0.1.0"
__all__ = ["__version__", "read_table", "score_images"]


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: torch and ONNX Runtime take seconds, `faceq --version` should not.
    if name == "read_table":
        from faceq.query.rows import read_table  # noqa: PLC0415

        return read_table
    if name == "score_images":
        from faceq.stages.scorer import score_images  # noqa: PLC0415

        return score_images
    raise AttributeError(f"module 'faceq' has no attribute {name!r}")
