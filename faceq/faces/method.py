"""The version of how faces are found. This module is separate so that reading it imports no library."""

FACE_FINDING = 3
"""Version of the method that finds and aligns faces, stored in a table's records. 3: the method of
`faceq.faces.finder`. 2: without the mirrored pass of FaceMesh. 1 (records without the key): the largest
upright face, aligned half by the detector's landmarks."""
