"""The loss over the steps, as a picture, with frames of a sample clip below."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from ...motion_core.weights.loss_curve import thinned

WIDTH, HEIGHT, EDGE = 640, 320, 44
PAPER, GRID, INK, RAW, SMOOTH = (
    (250, 250, 248),
    (225, 225, 222),
    (40, 40, 44),
    (176, 198, 222),
    (34, 96, 168),
)
MOST_POINTS = 2000
"""More steps than pixels are averaged."""


def smooth(values: Sequence[float]) -> list[float]:
    """A running mean over about the last twentieth, at least one value."""
    decay = 1 - 1 / max(len(values) / 20, 1)
    result, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = decay * total + value, decay * weight + 1
        result.append(total / weight)
    return result


def draw_curve(losses: Sequence[tuple[int, float]], steps: int) -> Image.Image:
    """Losses as a thin line, their running mean as a thick one; steps to the right, from 0 to ``steps``."""
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default()
    losses = thinned(losses, MOST_POINTS)
    values = [loss for _, loss in losses]
    low, high = min(values, default=0.0), max(values, default=1.0)
    high = high if high > low else low + 1e-6

    def place(step: float, loss: float) -> tuple[float, float]:
        x = EDGE + (WIDTH - 2 * EDGE) * step / max(steps, 1)
        return x, HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * (loss - low) / (high - low)

    for part in range(5):
        level = low + (high - low) * part / 4
        pen.line((*place(0, level), *place(steps, level)), GRID)
        pen.text((4, place(0, level)[1] - 6), f"{level:.3g}", INK, font=font)
        pen.text(
            (place(steps * part / 4, low)[0] - 8, HEIGHT - EDGE + 6), f"{steps * part // 4}", INK, font=font
        )
    if len(losses) == 1:
        x, y = place(*losses[0])
        pen.ellipse((x - 2, y - 2, x + 2, y + 2), SMOOTH)
    pen.line([place(*point) for point in losses], RAW, 1)
    mean = smooth(values)
    pen.line([place(step, loss) for (step, _), loss in zip(losses, mean, strict=True)], SMOOTH, 2)
    last = f"  step {losses[-1][0]}  mean {mean[-1]:.4f}" if losses else ""
    pen.text((EDGE, 12), f"loss{last}", INK, font=font)
    return image


def with_frames(curve: Image.Image, frames: Sequence[Image.Image], most: int = 8) -> Image.Image:
    """The curve, and below it up to ``most`` frames of a clip, evenly over its length."""
    if not frames:
        return curve
    count = min(most, len(frames))
    chosen = [frames[number * len(frames) // count] for number in range(count)]
    columns = min(4, count)
    side = WIDTH // columns
    height = max(1, round(side * chosen[0].height / chosen[0].width))
    rows = -(-count // columns)
    sheet = Image.new("RGB", (WIDTH, curve.height + rows * height), PAPER)
    sheet.paste(curve, (0, 0))
    for number, frame in enumerate(chosen):
        place = (number % columns * side, curve.height + number // columns * height)
        sheet.paste(frame.convert("RGB").resize((side, height), Image.Resampling.LANCZOS), place)
    return sheet
