"""Numbers of how faces are found. This module is separate so that reading it imports no library."""

FACE_FINDING = 3
"""Version of the method that finds and aligns faces, stored in a table's records. 3: the method of
`faceq.faces.finder`. 2: without the mirrored pass of FaceMesh. 1 (records without the key): the largest
upright face, aligned half by the detector's landmarks."""

MOST_OBLONG = 1.03
"""Maximum ratio of the sides of a picture that is an aligned face: one pixel at 40 pixels, three at 112. A
picture that is longer was cropped by another template (96x112 is common), which has the landmarks in other
places."""
