"""What the members of a tar are: images, videos or sidecars."""

import posixpath
import re

from faceq.sources.kinds import Kind
from faceq.sources.listing import kind_of
from faceq.sources.reading import Reading
from faceq.sources.sniff import ENOUGH, kind_of_bytes
from faceq.sources.tar_archive import Archive, Member

_TEXT = re.compile(rb"[\t\r\n\x20-\x7e]+")


def is_hidden(member: Member) -> bool:
    """Whether a member is left out because of its name, such as macOS's `._0001.jpg`."""
    return posixpath.basename(member.name).startswith(".")


def kind_of_member(archive: Archive, member: Member, reading: Reading) -> Kind | None:
    """Whether a member contains a "picture" or a "video", readable or not; None for a sidecar. Call it before
    `member.read`.

    The extension decides which members contain frames. To save time, it is not checked here whether an
    image's member contains a video.
    """
    kind = kind_of(member.name)
    if kind == "picture":
        return kind
    if kind != "video" and (kind is not None or not reading.any_name):
        return None
    if member.no_file:
        return kind
    head = member.start(archive, ENOUGH)
    found = kind_of_bytes(head)
    if found in {"picture", "video"}:
        return found
    # `.ts` is also the extension of TypeScript, and of timestamps.
    is_text = member.name.lower().endswith(".ts") and _TEXT.fullmatch(head)
    return None if is_text else kind
