"""The filter that faceq recommends: examples, help texts, summaries and reports all take it from here."""

MIN_SCORES = {"serfiq": 0.6, "dbcnn": 55}
"""Minimum of each score."""

FILTER = " and ".join(f"{name} >= {value:g}" for name, value in MIN_SCORES.items())
"""The SQL condition for `faceq query`: frames of faces that can be recognised and look good."""

UNREADABLE = "status = 'unreadable'"
"""The SQL condition for the frames that could not be read."""
