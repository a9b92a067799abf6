"""Names of videos in the page."""

_LONGEST = 160
"""Characters; longer names lose their middle. The name of a member of a tar can have any length."""


def video_name(source: str, member: str | None) -> tuple[str, str]:
    """The folder of a video, with a slash at its end, and its name."""
    folder, slash, name = source.rpartition("/")
    name = name if member is None else f"{name}: {member}"
    return _short(folder + slash), _short(name)


def _short(name: str) -> str:
    half = _LONGEST // 2
    return name if len(name) <= _LONGEST else f"{name[:half]}…{name[-half:]}"
