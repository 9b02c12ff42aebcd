"""Camera poses over a clip: read from text, made from presets, and laid out per pixel (CameraCtrl, He et al.,
ICLR 2025).

A pose is a 4 x 4 matrix from world to camera, ``w2c``, with the lens as fractions of the picture. Pixels get
Pluecker coordinates of their ray, ``(o x d, d)``: its moment about the origin, and its direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

MOTIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "static": ((0, 0, 0), (0, 0, 0)),
    "pan up": ((0, 0, 0), (0, 1, 0)),
    "pan down": ((0, 0, 0), (0, -1, 0)),
    "pan left": ((0, 0, 0), (1, 0, 0)),
    "pan right": ((0, 0, 0), (-1, 0, 0)),
    "zoom in": ((0, 0, 0), (0, 0, -2)),
    "zoom out": ((0, 0, 0), (0, 0, 2)),
    "roll clockwise": ((0, 0, -1), (0, 0, 0)),
    "roll anticlockwise": ((0, 0, 1), (0, 0, 0)),
    "tilt down": ((1, 0, 0), (0, 0, 0)),
    "tilt up": ((-1, 0, 0), (0, 0, 0)),
    "tilt left": ((0, 1, 0), (0, 0, 0)),
    "tilt right": ((0, -1, 0), (0, 0, 0)),
}
"""Named motions: turn about, and way along, the axes x, y and z of the camera."""

FRAMES_OF_A_MOTION = 16
"""In so many frames, at speed 1, a motion turns by 60 degrees or goes 1.5 units."""
TURN, WAY = math.pi / 3, 1.5
NUMBERS_PER_POSE = 19


@dataclass(frozen=True)
class Lens:
    """Focal lengths and centre as fractions of the picture, and the shape of the picture they are for."""

    fx: float = 0.474812461
    fy: float = 0.844111024
    cx: float = 0.5
    cy: float = 0.5
    width: int = 1280
    height: int = 720

    def __post_init__(self) -> None:
        if not (self.fx > 0.0 and self.fy > 0.0 and self.width > 0 and self.height > 0):
            raise ValueError(f"Focal lengths and picture size must be above 0, got {self}.")

    def in_pixels(self, width: int, height: int) -> tuple[float, float, float, float]:
        """``(fx, fy, cx, cy)`` for a picture of another size, whose longer side is cut, not squeezed."""
        fx, fy, ratio = self.fx, self.fy, self.width / self.height
        if ratio > width / height:
            fx *= height * ratio / width
        else:
            fy *= width / ratio / height
        return fx * width, fy * height, self.cx * width, self.cy * height


@dataclass(frozen=True)
class Pose:
    """The camera at one frame."""

    lens: Lens
    w2c: tuple[tuple[float, float, float, float], ...]
    """Three rows of the matrix from world to camera."""

    def matrix(self) -> torch.Tensor:
        """``(4, 4)``, float64."""
        return torch.tensor([*self.w2c, (0.0, 0.0, 0.0, 1.0)], dtype=torch.float64)


def read_poses(text: str, lens: Lens | None = None) -> list[Pose]:
    """Poses as RealEstate10K writes them: per frame a line of 19 numbers, ``time fx fy cx cy 0 0`` and the
    3 x 4 matrix from world to camera, row by row. A first line that is a link is passed over.

    Args:
        text: the lines.
        lens: whose picture size counts; the focal lengths are those of the lines.

    Raises:
        ValueError: names the line that cannot be read.
    """
    lens = lens or Lens()
    poses = []
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    for place, (number, words) in enumerate(lines):
        if place == 0 and len(words) != NUMBERS_PER_POSE:
            continue
        try:
            values = [float(word) for word in words]
        except ValueError:
            values = []
        if len(values) != NUMBERS_PER_POSE or not all(math.isfinite(value) for value in values):
            shown = " ".join(words)[:60]
            raise ValueError(
                f"Line {number} of the camera poses is `{shown}`; expected {NUMBERS_PER_POSE} numbers: time, "
                "fx, fy, cx, cy, two that are not used, and 12 of the matrix from world to camera."
            )
        _, fx, fy, cx, cy = values[:5]
        rows = tuple(tuple(values[start : start + 4]) for start in (7, 11, 15))
        poses.append(Pose(replace(lens, fx=fx, fy=fy, cx=cx, cy=cy), rows))
    if not poses:
        raise ValueError("There are no camera poses in the text; expected a line of 19 numbers per frame.")
    return poses


def moving_poses(
    motions: Sequence[tuple[str, float]], frames: int, speed: float = 1.0, lens: Lens | None = None
) -> list[Pose]:
    """Poses of a named motion, or of several at once.

    Args:
        motions: name (a key of :data:`MOTIONS`) and strength of each; they add up.
        frames: of the clip.
        speed: 1 turns by 60 degrees, or goes 1.5 units, in 16 frames.
        lens: of the camera.

    Raises:
        ValueError: an unknown name.
    """
    turn, way = [0.0] * 3, [0.0] * 3
    for name, strength in motions:
        if name not in MOTIONS:
            raise ValueError(f"Unknown camera motion {name!r}; expected one of {', '.join(MOTIONS)}.")
        rotation, translation = MOTIONS[name]
        turn = [total + strength * part for total, part in zip(turn, rotation, strict=True)]
        way = [total + strength * part for total, part in zip(way, translation, strict=True)]
    poses = []
    for frame in range(frames):
        done = frame / FRAMES_OF_A_MOTION * speed
        rotation = _rotation(*(done * TURN * axis for axis in turn))
        rows = torch.cat([rotation, torch.tensor(way, dtype=torch.float64).view(3, 1) * done * WAY], dim=1)
        poses.append(Pose(lens or Lens(), tuple(tuple(row) for row in rows.tolist())))
    return poses


def joined(first: Sequence[Pose], then: Sequence[Pose]) -> list[Pose]:
    """One motion after the other: the second starts where the first one ends."""
    if not first:
        return list(then)
    start = first[-1].matrix()
    moved = [replace(pose, w2c=_rows(pose.matrix() @ start)) for pose in then]
    return [*first, *moved]


def for_frames(poses: Sequence[Pose], frames: int) -> list[Pose]:
    """As many poses as the clip has frames: the last one stays, or the rest is cut off."""
    return [poses[min(frame, len(poses) - 1)] for frame in range(frames)]


def camera_to_first(poses: Sequence[Pose]) -> torch.Tensor:
    """Each camera seen from the first one's, ``(F, 4, 4)``: the first is the identity."""
    matrices = torch.stack([pose.matrix() for pose in poses])
    relative = matrices[0] @ torch.linalg.inv(matrices)
    relative[0] = torch.eye(4, dtype=torch.float64)
    return relative.float()


def intrinsics(poses: Sequence[Pose], width: int, height: int) -> torch.Tensor:
    """Focal lengths and centres in pixels, ``(F, 4)``."""
    return torch.tensor([pose.lens.in_pixels(width, height) for pose in poses])


def pluecker(poses: Sequence[Pose], width: int, height: int) -> torch.Tensor:
    """The ray of every pixel of a picture, ``(F, 6, height, width)``: moment, then direction."""
    to_world = camera_to_first(poses)
    fx, fy, cx, cy = intrinsics(poses, width, height).view(-1, 4, 1, 1).unbind(1)
    v, u = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    rays = torch.stack(torch.broadcast_tensors((u - cx) / fx, (v - cy) / fy, torch.ones_like(u)), dim=-1)
    rays = rays / rays.norm(dim=-1, keepdim=True)
    rays = torch.einsum("fij,fhwj->fhwi", to_world[:, :3, :3], rays)
    # Along the last axis, named: with three frames, the first axis of length 3 would be another.
    moments = torch.cross(to_world[:, None, None, :3, 3].expand_as(rays), rays, dim=-1)
    return torch.cat([moments, rays], dim=-1).permute(0, 3, 1, 2)


def _rotation(x: float, y: float, z: float) -> torch.Tensor:
    """Turns about x, then y, then z, ``(3, 3)``."""
    (sx, cx), (sy, cy), (sz, cz) = ((math.sin(angle), math.cos(angle)) for angle in (x, y, z))
    about_x = torch.tensor([[1, 0, 0], [0, cx, -sx], [0, sx, cx]], dtype=torch.float64)
    about_y = torch.tensor([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]], dtype=torch.float64)
    about_z = torch.tensor([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]], dtype=torch.float64)
    return about_z @ about_y @ about_x


def _rows(matrix: torch.Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in matrix[:3].tolist())
