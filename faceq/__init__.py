"""faceq scores face images at scale: can the face be recognised (SER-FIQ), does it look good (DB-CNN)?"""

from faceq.scoring import score_images

__version__ = "0.1.0"
__all__ = ["__version__", "score_images"]
