"""The version of how faces are found. This module is separate so that reading it imports no library."""

FACE_FINDING = 2
"""Version of the method that finds and aligns faces, stored in a table's records. 2: the method of
`faceq.faces.finder`. 1 (records without the key): the largest upright face, aligned half by the detector's
landmarks."""
