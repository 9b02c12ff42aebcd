"""What is measured of every clip of every arm, so that all tables speak of the same figures."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from . import probes, world

TITLES = {
    "text": "colour and ground as asked",
    "direction": "goes where asked",
    "speed": "net motion, px/frame",
    "step": "ball's way from frame to frame, px",
    "change": "amount of change",
    "roughness": "roughness of the path, px/frame²",
    "smoothness": "cosine of neighbouring frames",
    "steadiness": "steadiness",
    "flicker": "flicker over contrast",
    "saturation": "saturation",
    "watermark": "watermark",
    "sharpness": "sharpness",
    "style": "nearness to the second base's look",
    "zoom": "zoom per frame",
    "pan": "pan, px/frame",
    "zooms_in": "zooms in",
    "zooms_out": "zooms out",
    "pans": "pans to the right",
    # of single experiments
    "zooms_and_pans": "zooms in and pans to the right",
    "still_flicker": "flicker over contrast, still captions",
    "saturation_off": "distance of saturation from drawn clips'",
    "obeys": "goes where the hint leads",
    "differing_control": "values that differ with a module that is not fresh",
}
"""Measure -> words for a table's head."""

AT_REST = world.Camera(zoom=1e-3, pan=1e-2)
"""Rates below these are no movement, so that a frozen clip has no sign."""


def look(frames: np.ndarray, scene: world.Scene, pale: bool = False) -> dict[str, float]:
    """All measures of one clip (F, 8, 8, 3) of which the scene was asked; yes and no are 1 and 0."""
    colour, ground = probes.colour(frames) == scene.colour, probes.ground(frames, pale) == scene.ground
    camera = probes.camera(frames)
    return {
        "text": float(colour and ground),
        "direction": float(probes.direction(frames) == scene.motion.split()[-1]),
        "speed": float(np.hypot(*probes.speed(frames))),
        "step": probes.step(frames),
        "change": 1 - probes.steadiness(frames),
        "roughness": probes.roughness(frames),
        "smoothness": probes.smoothness(frames),
        "steadiness": probes.steadiness(frames),
        "flicker": probes.flicker(frames),
        "saturation": probes.saturation(frames),
        "watermark": probes.watermark(frames),
        "sharpness": probes.sharpness(frames),
        "style": probes.style(frames, world.render(scene, "style")),
        "zoom": camera.zoom,
        "pan": camera.pan,
        "zooms_in": float(camera.zoom > AT_REST.zoom),
        "zooms_out": float(camera.zoom < -AT_REST.zoom),
        "pans": float(camera.pan > AT_REST.pan),
    }


def look_all(clips: np.ndarray, scenes: Sequence[world.Scene], pale: bool = False) -> dict[str, list[float]]:
    """Measure -> its value in each clip."""
    found = [look(frames, scene, pale) for frames, scene in zip(clips, scenes, strict=True)]
    return {name: [round(clip[name], 5) for clip in found] for name in found[0]}


@cache
def drawn(measure: str, motion: str = "", **camera: float) -> float:
    """Mean of a measure over drawn clips of the image domain: what perfect samples would have."""
    scenes = [world.scene(0, number, motion or world.MOTIONS[number % 4]) for number in range(48)]
    return float(
        np.mean(
            [look(world.render(scene, camera=world.Camera(**camera)), scene)[measure] for scene in scenes]
        )
    )
