"""What is measured of every clip of every arm, so that all tables speak of the same figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from . import probes, world

TITLES = {
    "text": "colour and ground as asked",
    "direction": "goes where asked",
    "speed": "amount of motion, px/frame",
    "roughness": "roughness of the path, px/frame²",
    "smoothness": "cosine of neighbouring frames",
    "steadiness": "steadiness",
    "watermark": "watermark",
    "sharpness": "sharpness",
    "style": "in the base's style",
    "zoom": "zoom per frame",
    "pan": "pan, px/frame",
}
"""Measure -> words for a table's head."""


def look(frames: np.ndarray, scene: world.Scene, pale: bool = False) -> dict[str, float]:
    """All measures of one clip (F, 8, 8, 3) of which the scene was asked; yes and no are 1 and 0."""
    colour, ground = probes.colour(frames) == scene.colour, probes.ground(frames, pale) == scene.ground
    camera = probes.camera(frames)
    return {
        "text": float(colour and ground),
        "direction": float(probes.direction(frames) == scene.motion.split()[-1]),
        "speed": float(np.hypot(*probes.speed(frames))),
        "roughness": probes.roughness(frames),
        "smoothness": probes.smoothness(frames),
        "steadiness": probes.steadiness(frames),
        "watermark": probes.watermark(frames),
        "sharpness": probes.sharpness(frames),
        "style": float(probes.style(frames)),
        "zoom": camera.zoom,
        "pan": camera.pan,
    }


def look_all(clips: np.ndarray, scenes: Sequence[world.Scene], pale: bool = False) -> dict[str, list[float]]:
    """Measure -> its value in each clip."""
    found = [look(frames, scene, pale) for frames, scene in zip(clips, scenes, strict=True)]
    return {name: [round(clip[name], 5) for clip in found] for name in TITLES}
