"""PIA, AnimateLCM-I2V and CameraCtrl: what an Apply node of theirs is given becomes MOTION_CONTROL."""

from __future__ import annotations

from .edges import carry
from .job import Job, Value
from .old import Old, read_widgets
from .rules.evolved_controls import ENCODERS, PIA_PRESETS, PIA_SETTINGS, PIA_VALUE, POSES, PRESETS
from .values import motion_value
from .workflow import Source
from .world import Level

CAMERA_LOADER = "ADE_LoadAnimateDiffModelWithCameraCtrl"


def add_control(job: Job, level: Level, node: str) -> Source | None:
    """Put in the control of an Apply node; None if it has none that can be taken over."""
    rule = _RULES.get(level.type(node))
    made = rule(job, level, node) if rule else None
    return None if made is None else (made, 0)


def _pia(job: Job, level: Level, node: str) -> str | None:
    links = {name: _take(level, node, name) for name in ("image", "vae")}
    values: dict[str, object] = {}
    found = job.world.origin(level, _take(level, node, "pia_input"))
    if found is None:
        links["values"] = _number(job, level, node, 1.0)
    elif found.level.type(found.source[0]) == PIA_PRESETS:
        near, presets = found.level, found.source[0]
        old = _read(job, near, presets, PRESETS)
        values = {"setting": PIA_SETTINGS.get(str(old["preset"].constant), old["preset"].constant)}
        values["reference_frame"] = old["batch_index"].constant
        factor = motion_value(job, near, near.source(presets, "mult_multival"))
        if factor and (factor.link or factor.constant != 1.0):
            job.say("lost", near, presets, "The setting's values cannot be multiplied by a value here.")
        _forget(job, near, presets, "Its setting stands at PIA Reference.")
    elif found.level.type(found.source[0]) == PIA_VALUE:
        near, source = found.level, found.source[0]
        value = motion_value(job, near, near.source(source, "multival")) or Value(1.0)
        if value.link and value.constant == 1.0 and not _is_number(job, near, value.link):
            job.say("lost", near, source, "Values that change over the picture are not taken over: 1.")
            value = Value(1.0)
        link = carry(job.world, near, value.link, level) if value.link else None
        links["values"] = link or _number(job, level, node, value.constant)
        _forget(job, near, source, "Its value goes to PIA Reference.")
    else:
        job.say("lost", level, node, f"{found.level.type(found.source[0])} is not known: animation small.")
    return _add(job, level, node, "FlipbookPiaReference", values, links)


def _i2v(job: Job, level: Level, node: str) -> str | None:
    old = job.values(level, node)
    latent = level.source(node, "ref_latent")
    found = job.world.origin(level, latent)
    kind = found.level.type(found.source[0]) if found else ""
    if latent is None or kind not in ENCODERS:
        return None
    near, (encoder, _) = found
    links = {}
    for name, theirs in (("image", ENCODERS[kind]), ("vae", "vae")):
        source = near.source(encoder, theirs)
        links[name] = carry(job.world, near, source, level) if source else None
    if not all(links.values()):
        return None
    _take(level, node, "ref_latent")
    if old["apply_ref_when_disabled"].constant:
        job.say("lost", level, node, "The reference counts only while the motion module is on.")
    if kind != "VAEEncode":
        job.say("changed", near, encoder, "Image Reference scales, cuts (around the middle) and encodes.")
    if not near.consumers((encoder, 0)):
        near.remove(encoder)
    drift = old["ref_drift"]
    links["motion_scale"] = drift.link
    return _add(job, level, node, "FlipbookImageReference", {"motion_scale": drift.constant}, links)


def _camera(job: Job, level: Level, node: str) -> str | None:
    loader = job.world.origin(level, level.source(node, "motion_model"))
    if loader is None or loader.level.type(loader.source[0]) != CAMERA_LOADER:
        return None
    poses = _poses(job, level, level.source(node, "cameractrl_poses"))
    if poses is None:
        return None
    _take(level, node, "cameractrl_poses")
    name = job.values(loader.level, loader.source[0])["camera_ctrl"].constant
    load = level.add(
        "FlipbookLoadCameraControl",
        {"camera_control": name},
        {},
        node,
        job.complain(level, node),
        shift=(-340, 260),
    )
    strength = motion_value(job, level, _take(level, node, "cameractrl_multival")) or Value(1.0)
    links = {"camera_control": (load, 0), "poses": poses, "strength_values": strength.link}
    return _add(job, level, node, "FlipbookCameraControl", {"strength": strength.constant}, links)


def _poses(job: Job, level: Level, source: Source | None) -> Source | None:
    """A chain of poses as nodes of ours; None if one of them has no counterpart."""
    chain: list[tuple[Level, str]] = []
    while (found := job.world.origin(level, source)) is not None:
        near, (node, _) = found
        if near.type(node) not in POSES or near is not level or (near, node) in chain:
            return None
        chain.append((near, node))
        source = near.source(node, "prev_poses")
    made: Source | None = None
    for near, node in reversed(chain):
        old = _read(job, near, node, POSES[near.type(node)])
        speed = old["speed"].constant
        moves = [
            (str(old[f"motion_type{n}"].constant).lower(), old.get(f"strength{n}", Value(1.0)).constant)
            for n in range(1, 7)
            if f"motion_type{n}" in old and old[f"motion_type{n}"].constant != "Static"
        ]
        if len(moves) > 2:
            job.say("lost", near, node, "More than two motions at once: the first two are taken.")
        first, second = [*moves, ("static", 1.0), ("static", 1.0)][:2]
        way = -1.0 if speed < 0 else 1.0
        values = {"motion": first[0], "strength": way * first[1], "speed": abs(speed)}
        values |= {"second_motion": second[0], "second_strength": way * second[1]}
        values["frames"] = old["frame_length"].constant
        links = {"frames": old["frame_length"].link, "previous": made}
        complain = job.complain(near, node)
        made = (near.add("FlipbookCameraPoses", values, links, node, complain), 0)
        job.say("mapped", near, node, "Became Camera Poses.")
    for near, node in chain:
        job.used.append((near, node))
    return made


_RULES = {
    "ADE_ApplyAnimateDiffModelWithPIA": _pia,
    "ADE_ApplyAnimateLCMI2VModel": _i2v,
    "ADE_ApplyAnimateDiffModelWithCameraCtrl": _camera,
}


def _add(job: Job, level: Level, node: str, kind: str, values: dict, links: dict) -> str:
    return level.add(kind, values, links, node, job.complain(level, node), shift=(-340, 140))


def _number(job: Job, level: Level, node: str, value: object) -> Source:
    return _add(job, level, node, "PrimitiveFloat", {"value": value}, {}), 0


def _is_number(job: Job, level: Level, source: Source) -> bool:
    found = job.world.origin(level, source)
    return found is not None and "Multival" not in found.level.type(found.source[0])


def _read(job: Job, level: Level, node: str, old: Old) -> dict[str, Value]:
    given = level.named_widgets(node) or level.widgets(node)
    plain = read_widgets(old, given, job.complain(level, node))
    return {name: Value(value, level.source(node, *old.aliases(name))) for name, value in plain.items()}


def _take(level: Level, node: str, name: str) -> Source | None:
    """What an input gets, and off with it."""
    source = level.source(node, name)
    if source:
        level.disconnect(node, level.place_of(node, name))
    return source


def _forget(job: Job, level: Level, node: str, text: str) -> None:
    job.say("mapped", level, node, text)
    job.used.append((level, node))
