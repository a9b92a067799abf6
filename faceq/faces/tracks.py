"""Tracks: which faces of a shot show the same person. A pure function.

It combines steps of published trackers:

- A track is predicted by constant velocity. Tracks and faces are matched by intersection over union (IoU)
  with the Hungarian method: SORT (Bewley et al., "Simple Online and Realtime Tracking", ICIP 2016). A mean
  velocity takes the place of its Kalman filter: that filter needs equal steps of time and many of them, and a
  table may have two frames per second.
- After a gap, a track is searched where it is predicted and where it was last seen: OC-SORT (Cao et al.,
  "Observation-Centric SORT", CVPR 2023). A prediction is wrong as soon as a person stops or turns back.
- Position and appearance add up to one score, and the embeddings of all faces of a track find it again later:
  Deep SORT (Wojke et al., "Simple Online and Realtime Tracking with a Deep Association Metric", ICIP 2017).
  Here this comes last, when all tracks are known: the first face of somebody who returns is often half
  hidden, and its embedding says less than the mean of those that follow.
- A track that is not seen ends after a second: ByteTrack (Zhang et al., "ByteTrack: Multi-Object Tracking by
  Associating Every Detection Box", ECCV 2022) keeps it for 30 frames.

The thresholds were chosen on synthetic videos, and checked on videos of other people:
docs/decisions/0038-tracks-without-a-tracking-library.md.
"""

from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np
from scipy.optimize import linear_sum_assignment

COSINE = 0.4
"""Default of `cosine`. At 0.387, SFace takes 1 of 1,000 pairs of different people for one person."""

COSINE_RANGE = 0.3
"""A cosine this far above the threshold belongs certainly to one person, this far below to two. SFace: two
frames of a person have 0.6 or more, two people 0.1 on average."""

HASH_BITS, HASH_RANGE, HASH_WEIGHT = 14, 10, 0.4
"""Hashes that differ in fewer than HASH_BITS bits count for the same person, with HASH_WEIGHT if they differ
in HASH_RANGE fewer. In videos of talking heads (samples of LivePortrait), 95% of the frames up to 2 s apart
differ in at most 13 bits; two people differ in 20 on average. More bits do not count against the same person:
the hash of a face that is half hidden differs in up to 40."""

LEAST = 0.2
"""Lowest score of a match. It is ByteTrack's lowest IoU."""

CLEAR, UNCLEAR = 0.5, 0.1
"""A face is clear if its IoU with one track is at least CLEAR, and at most UNCLEAR with each other one."""

SPEED, FARTHEST = 7.0, 4.0
"""How far a face may be from where it is expected: SPEED face sizes per second, and at most
FARTHEST face sizes. Somebody who walks by moves at this speed. The limit is reached after half a second: a
face that is farther may be anybody's."""

KEPT_SECONDS, KEPT_INTERVALS = 1.0, 1.5
"""How long a track that is not seen can continue by its position: seconds, and usual intervals between frames
if that is longer. A face that turns away or is hidden by a passer-by is back within a second; later, somebody
else may be in its place. The intervals make sure that the previous frame counts, however few frames there
are."""

SETTLING = 0.1
"""Time in which the velocity of a track follows a change, seconds. It averages over a few frames, because the
boxes of detectors vary by a few percent."""

MOST = 1000
"""Maximum number of tracks that are compared with a frame, those seen last, and of people that are compared
with a new track, those who appeared last. It limits the time if a shot has very many tracks."""

SMALL = 256
"""Up to this number of pairs of tracks and faces, comparing them one by one is faster than all at once."""


@dataclass(slots=True, eq=False)
class _Track:
    """The last face of a track. A face of the present frame is one, too.

    time: seconds. first, last: the first and the last frame, counted from 0 within the shot. x, y, w, h:
    centre and sides of the box; all 0: not known. vx, vy: velocity in pixels per second. hashed, row: its row
    if its hash or embedding is known, else that of the last face where it was; -1: none. total: (D,) sum of
    the embeddings of all faces. number: counts the tracks of a shot.
    """

    time: float
    first: int
    last: int
    x: float = 0.0
    y: float = 0.0
    w: float = 0.0
    h: float = 0.0
    vx: float = 0.0
    vy: float = 0.0
    hashed: int = -1
    row: int = -1
    total: np.ndarray | None = None
    number: int = -1


def track_numbers(
    frames: np.ndarray,
    times: np.ndarray,
    boxes: np.ndarray,
    hashes: np.ndarray | None = None,
    embeddings: np.ndarray | None = None,
    *,
    cosine: float = COSINE,
) -> np.ndarray:
    """Number the people of one shot.

    Args:
        frames: (N,) integers, the frame of each face, in ascending order.
        times: (N,) float64, seconds. A time that is NaN or lower than an earlier one counts as the latest one
            before it.
        boxes: (N, 4) float32 x, y, w, h, pixels. A face has no position if a value is not finite or a side is
            not positive.
        hashes: (N,) int64 or uint64, as of `dhash`. A masked array if some are missing.
        embeddings: (N, D) float32 of unit length. A row that is missing is NaN or 0.
        cosine: lowest cosine of two embeddings of the same person, -1 to 1. It depends on the recogniser.

    Returns:
        (N,) int32: the number of each face's track, from 0 in the order of first appearance. Two faces of a
        frame never have the same number. A face that was hidden or away has the same number as before if its
        position shows it soon after, or the embeddings at any time in the shot.

    Raises:
        ValueError: the lengths differ, or `frames` is not in ascending order.

    Example:
        >>> boxes = np.array([[0, 0, 9, 9], [50, 0, 9, 9], [51, 0, 9, 9], [1, 0, 9, 9]], np.float32)
        >>> track_numbers(np.array([0, 0, 1, 1]), np.array([0, 0, 0.04, 0.04]), boxes).tolist()
        [0, 1, 1, 0]
    """
    lengths = [len(each) for each in (frames, times, boxes, hashes, embeddings) if each is not None]
    if len(set(lengths)) > 1:
        raise ValueError(f"tracks: the lengths differ: {lengths}: each array must have one value per face")
    if (frames[1:] < frames[:-1]).any():
        raise ValueError("tracks: frames is not in ascending order: sort the faces by frame")
    numbers = np.empty(len(frames), np.int32)
    if not len(frames):
        return numbers
    edges = np.concatenate([[0], np.flatnonzero(frames[1:] != frames[:-1]) + 1, [len(frames)]])
    seconds = _rising(np.asarray(times, np.float64)[edges[:-1]])
    tracker = _Tracker(boxes, hashes, embeddings, cosine, _kept(seconds))
    for start, end, now in zip(edges[:-1].tolist(), edges[1:].tolist(), seconds.tolist(), strict=True):
        numbers[start:end] = tracker.step(start, end, now)
    return numbers if embeddings is None else _people(tracker.tracks, cosine)[numbers]


def _rising(times: np.ndarray) -> np.ndarray:
    """Times that are finite and never fall."""
    known = np.isfinite(times)
    first = times[known.argmax()] if known.any() else 0.0
    return np.maximum.accumulate(np.where(known, times, first))


def _kept(seconds: np.ndarray) -> float:
    """How long a track that is not seen can continue by its position."""
    steps = np.diff(seconds)
    steps = steps[steps > 0]
    return max(KEPT_SECONDS, KEPT_INTERVALS * float(np.median(steps))) if len(steps) else KEPT_SECONDS


class _Tracker:
    """Follows the faces of a shot from frame to frame."""

    def __init__(
        self,
        boxes: np.ndarray,
        hashes: np.ndarray | None,
        embeddings: np.ndarray | None,
        cosine: float,
        kept: float,
    ):
        self._boxes, self._cosine, self._kept = boxes, cosine, kept
        self._hashes = self._embeddings = np.zeros(0)
        self._has_hash = self._has_embedding = np.zeros(len(boxes), bool)
        if hashes is not None:
            self._hashes = np.ma.getdata(hashes).astype(np.uint64, copy=False)
            self._has_hash = ~np.ma.getmaskarray(hashes)
        if embeddings is not None:
            self._embeddings = embeddings
            with np.errstate(all="ignore"):  # rows of NaN
                lengths = np.einsum("nd,nd->n", embeddings, embeddings)
            self._has_embedding = (lengths > 0) & (lengths < np.inf)
        self._active: list[_Track] = []  # tracks with a recent position
        self._frame = self._count = 0
        self.tracks: list[_Track] = []
        """All tracks by number, if there are embeddings."""

    def step(self, start: int, end: int, now: float) -> list[int]:
        """The track's number of each face of a frame."""
        self._active = [track for track in self._active if now - track.time <= self._kept]
        if len(self._active) > MOST:
            self._active = sorted(self._active, key=lambda track: track.time)[-MOST:]
        faces = [self._face(row, box, now) for row, box in enumerate(self._boxes[start:end].tolist(), start)]
        found = self._clear(faces, now) or self._assigned(faces, now)
        for face, track in zip(faces, found, strict=True):
            if track is not None:
                _continue(track, face)
                face.number = track.number
            else:
                self._begin(face)
        self._frame += 1
        return [face.number for face in faces]

    def _begin(self, face: _Track) -> None:
        """Let a face begin a track."""
        face.number = self._count
        self._count += 1
        self._active.append(face)
        if len(self._embeddings):
            self.tracks.append(face)

    def _face(self, row: int, box: list[float], now: float) -> _Track:
        """A face of the present frame."""
        face = _Track(now, self._frame, self._frame)
        x, y, w, h = box
        if 0 < w < np.inf and 0 < h < np.inf and abs(x) + abs(y) < np.inf:  # false for NaN
            face.x, face.y, face.w, face.h = x + w / 2, y + h / 2, w, h
        if self._has_hash[row]:
            face.hashed = row
        if self._has_embedding[row]:
            face.row, face.total = row, self._embeddings[row]
        return face

    def _clear(self, faces: list[_Track], now: float) -> list[_Track | None] | None:
        """The track of each face if all faces are clear, which is the usual case. Otherwise None."""
        if len(faces) * len(self._active) > SMALL:
            return None
        found: list[_Track | None] = []
        for face in faces:
            own, most, second = None, 0.0, 0.0
            for track in self._active:
                iou = _iou(track, face, now)
                if iou > most:
                    own, most, second = track, iou, most
                elif iou > second:
                    second = iou
            if own is None or most < CLEAR or second > UNCLEAR or own in found:
                return None
            if own.row >= 0 and face.row >= 0:
                cosine = self._embeddings[own.row] @ self._embeddings[face.row]
                if not cosine >= self._cosine:
                    return None
            found.append(own)
        return found

    def _assigned(self, faces: list[_Track], now: float) -> list[_Track | None]:
        """The track of each face by position and appearance. None: a new track."""
        if not self._active:
            return [None] * len(faces)
        score = _closeness(self._active, faces, now) + self._likeness(self._active, faces)
        return _matches(score, LEAST, self._active)

    def _likeness(self, tracks: list[_Track], faces: list[_Track]) -> np.ndarray:
        """(T, F) from -1, another person, to 1, the same. 0 if nothing is known."""
        likeness = np.zeros((len(tracks), len(faces)))
        rows, columns, pair = _known([track.hashed for track in tracks], [face.hashed for face in faces])
        if len(rows) and len(columns):
            bits = np.bitwise_count(self._hashes[rows, None] ^ self._hashes[columns]).astype(np.float64)
            likeness[pair] = HASH_WEIGHT * np.clip((HASH_BITS - bits) / HASH_RANGE, 0, 1)
        rows, columns, pair = _known([track.row for track in tracks], [face.row for face in faces])
        if len(rows) and len(columns):
            # The last face, too: a head that turns looks like the frame before, not like the mean.
            last = self._embeddings[rows] @ self._embeddings[columns].T
            mean = _cosines(*([one for one in some if one.row >= 0] for some in (tracks, faces)))
            alike = np.clip((np.fmax(last, mean) - self._cosine) / COSINE_RANGE, -1, 1)
            # If one may hide the other, an embedding that differs says nothing.
            touched = _touched(faces)[[face.row >= 0 for face in faces]]
            likeness[pair] = np.where(touched, np.maximum(alike, 0), alike)
        return likeness


def _continue(track: _Track, face: _Track) -> None:
    """Append a face to a track."""
    if face.w:
        passed = face.time - track.time
        if passed > 0 and track.w:
            weight = passed / (passed + SETTLING)
            track.vx += weight * ((face.x - track.x) / passed - track.vx)
            track.vy += weight * ((face.y - track.y) / passed - track.vy)
        track.x, track.y, track.w, track.h = face.x, face.y, face.w, face.h
    track.time, track.last = face.time, face.last
    if face.hashed >= 0:
        track.hashed = face.hashed
    if face.total is not None:
        # Not in place: the first sum is a row of the caller's array.
        track.total = face.total if track.total is None else track.total + face.total
        track.row = face.row


def _iou(track: _Track, face: _Track, now: float) -> float:
    """IoU of a face and the predicted box of a track."""
    ahead = now - track.time
    apart = abs(track.x + track.vx * ahead - face.x)
    w = min((track.w + face.w) / 2 - apart, track.w, face.w)
    if w <= 0:
        return 0.0
    apart = abs(track.y + track.vy * ahead - face.y)
    h = min((track.h + face.h) / 2 - apart, track.h, face.h)
    if h <= 0:
        return 0.0
    return w * h / (track.w * track.h + face.w * face.h - w * h)


def _closeness(tracks: list[_Track], faces: list[_Track], now: float) -> np.ndarray:
    """(T, F) float64, at most 1; -inf if a position is not known.

    It is the IoU, or a value that falls with the distance if that is higher: CLEAR where the track is
    expected, LEAST as far away as SPEED allows, and lower beyond. The distance is that of the centres divided
    by the size of the faces, plus the absolute logarithm of the ratio of the sizes. As it gives CLEAR at
    most, a track that overlaps wins against one that was lost and may be anywhere by now. The track is
    expected where it is predicted and where it was last: the closer one counts.
    """
    x, y, w, h, vx, vy, time = _columns([(t.x, t.y, t.w, t.h, t.vx, t.vy, t.time) for t in tracks])[..., None]
    fx, fy, fw, fh = _columns([(face.x, face.y, face.w, face.h) for face in faces])
    passed = now - time
    reach = np.clip(SPEED * passed, 1e-9, FARTHEST)
    known = (w > 0) & (fw > 0)
    with np.errstate(all="ignore"):  # where it is not known
        size = np.sqrt(np.sqrt(w * h * fw * fh))
        ratio = np.abs(np.log(w * h / (fw * fh))) / 2
        closest = np.full(known.shape, -np.inf)
        for ahead in (passed, 0.0):
            dx, dy = np.abs(x + vx * ahead - fx), np.abs(y + vy * ahead - fy)
            both = np.maximum(np.minimum((w + fw) / 2 - dx, np.minimum(w, fw)), 0)
            both *= np.maximum(np.minimum((h + fh) / 2 - dy, np.minimum(h, fh)), 0)
            away = (np.hypot(dx, dy) / size + ratio) / reach
            closest = np.fmax(closest, both / (w * h + fw * fh - both))
            closest = np.fmax(closest, CLEAR - (CLEAR - LEAST) * away)
    return np.where(known, closest, -np.inf)


def _cosines(tracks: list[_Track], others: list[_Track]) -> np.ndarray:
    """(T, F) cosine of the mean embeddings of tracks. All have one."""
    ours, theirs = (np.stack([one.total for one in some]) for some in (tracks, others))  # type: ignore[misc]
    ours, theirs = (
        mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9) for mean in (ours, theirs)
    )
    return ours @ theirs.T


def _touched(faces: list[_Track]) -> np.ndarray:
    """(F,) whether the box of a face overlaps that of another face."""
    x, y, w, h = _columns([(face.x, face.y, face.w, face.h) for face in faces])
    near = np.abs(x[:, None] - x) < (w[:, None] + w) / 2
    near &= np.abs(y[:, None] - y) < (h[:, None] + h) / 2
    near &= (w[:, None] > 0) & (w > 0)
    return near.sum(0) > 1  # a face overlaps itself


def _columns(values: list[tuple[float, ...]]) -> np.ndarray:
    return np.array(values, np.float64).T


def _known(tracks: list[int], faces: list[int]) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """The rows that are not -1, of tracks and faces, and the index of their pairs in a (T, F) array."""
    ours, theirs = np.array(tracks), np.array(faces)
    return ours[ours >= 0], theirs[theirs >= 0], np.ix_(ours >= 0, theirs >= 0)


def _matches(score: np.ndarray, least: float, tracks: list[_Track]) -> list[_Track | None]:
    """The track of each face so that the sum of the scores (T, F) above `least` is highest."""
    found: list[_Track | None] = [None] * score.shape[1]
    gain = np.nan_to_num(np.maximum(score - least, 0), nan=0.0)
    for track, face in zip(*linear_sum_assignment(gain, maximize=True), strict=True):
        if gain[track, face] > 0:
            found[face] = tracks[track]
    return found


def _people(tracks: list[_Track], cosine: float) -> np.ndarray:
    """The person of each track, (T,) int32, from 0.

    A track may belong to somebody who was seen before it begins, and not since. Their mean embeddings have a
    cosine above `cosine`.
    """
    numbers = np.empty(len(tracks), np.int32)
    # The sum of the tracks of each person, by number. Those whose last track began last are at the end.
    people: dict[int, _Track] = {}
    count = 0
    for first, together in groupby(tracks, key=lambda track: track.first):
        begun = list(together)
        away = [person for person in islice(reversed(people.values()), MOST) if person.last < first]
        known = [track for track in begun if track.total is not None]
        found = _matches(_cosines(away, known), cosine, away) if away and known else [None] * len(known)
        again = {track.number: person for track, person in zip(known, found, strict=True)}
        for track in begun:
            person = again.get(track.number)
            if person is None:
                number, count = count, count + 1
            else:
                number = person.number
                track.total = person.total + track.total  # type: ignore[operator] # both are known
                del people[number]
            numbers[track.number] = number
            track.number = number
            if track.total is not None:
                people[number] = track
    return numbers
