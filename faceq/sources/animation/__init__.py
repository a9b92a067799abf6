"""Animations (GIF, WebP, APNG) as videos: their frames as viewers show them, one by one.

Each frame of a file is cut out as a still image of its own, which the decoder of still images decodes. Then
it is laid over the frames before it.
"""

from faceq.sources.animation.composing import AnimationFrame, is_animated, read

__all__ = ["AnimationFrame", "is_animated", "read"]
