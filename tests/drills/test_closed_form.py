"""SER-FIQ's closed form agrees with 1,500 passes on 66 faces: half a minute of one core."""

import numpy as np
from closed_form import aligned_faces, closed_form_error, features_of

from faceq.fiq import recogniser


def test_closed_form_agrees_with_1500_passes_on_every_face(astronaut, photos):
    backbone = recogniser.from_zoo("sface")
    features = features_of(backbone, aligned_faces(astronaut, photos))
    error, rank_correlation = closed_form_error(backbone, features, passes=1500)
    assert len(error) >= 60
    assert abs(error.mean()) < 0.001
    assert np.abs(error).max() < 0.01  # most of it is the noise of the passes
    assert rank_correlation >= 0.9993
