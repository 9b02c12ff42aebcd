"""Buckets, crops and the moving crop that plays a camera."""

import numpy as np
import pytest
from animatediff_flipbook.training.config import DIRECTIONS
from animatediff_flipbook.training.data.framing import View, camera_view, pick_bucket, render, whole_view
from PIL import Image

BUCKETS = ((256, 256), (384, 256), (256, 384))


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((640, 480), (384, 256)),
        ((600, 500), (256, 256)),
        ((1920, 1080), (384, 256)),
        ((1080, 1920), (256, 384)),
    ],
)
def test_a_picture_goes_to_the_bucket_of_its_shape(size, bucket):
    assert pick_bucket(size, BUCKETS) == bucket


def test_of_equal_shapes_the_largest_that_needs_no_enlarging():
    buckets = ((128, 128), (256, 256), (512, 512))
    assert pick_bucket((300, 300), buckets) == (256, 256)
    assert pick_bucket((64, 64), buckets) == (128, 128)


def test_a_crop_has_the_buckets_shape_and_place():
    middle = whole_view((640, 480), (256, 256))
    assert (middle.x, middle.y, middle.width, middle.height) == (320, 240, 480, 480)
    left = whole_view((640, 480), (256, 256), (0.0, 0.5))
    assert left.x - left.width / 2 == 0


def corners(view: View) -> np.ndarray:
    offsets = np.array([(x * view.width / 2, y * view.height / 2) for x in (-1, 1) for y in (-1, 1)])
    c, s = np.cos(view.angle), np.sin(view.angle)
    return offsets @ np.array([[c, -s], [s, c]]) + (view.x, view.y)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("size", [(200, 100), (100, 200), (128, 128)])
def test_no_part_of_a_move_leaves_the_picture(direction, size):
    whole = whole_view(size, (64, 64))
    for progress in np.linspace(0, 1, 16):
        found = corners(camera_view(whole, size, direction, 0.6, progress))
        assert found.min() >= -1e-6
        assert (found <= np.array(size) + 1e-6).all()


def shown(direction: str, speed: float, progress: float) -> np.ndarray:
    """A picture with one bright dot right below the middle, seen through a move: (row, column) of the dot."""
    picture = np.zeros((128, 128, 3), np.uint8)
    picture[72:76, 72:76] = 255
    image = Image.fromarray(picture)
    view = camera_view(whole_view((128, 128), (128, 128)), (128, 128), direction, speed, progress)
    grey = render(image, view, (128, 128))[..., 0].astype(float)
    rows, columns = np.mgrid[:128, :128] + 0.5
    return np.array([(grey * rows).sum(), (grey * columns).sum()]) / grey.sum()


@pytest.mark.parametrize(
    ("direction", "sign"),
    [
        ("zoom_in", (1, 1)),  # the dot leaves the middle
        ("zoom_out", (-1, -1)),
        ("pan_left", (0, 1)),  # the camera goes left, what it sees goes right
        ("pan_right", (0, -1)),
        ("pan_up", (1, 0)),
        ("pan_down", (-1, 0)),
        ("roll_clockwise", (1, -1)),  # from the lower right towards the lower left
        ("roll_anticlockwise", (-1, 1)),
    ],
)
def test_the_picture_moves_as_the_direction_says(direction, sign):
    way = shown(direction, 0.4, 1.0) - shown(direction, 0.4, 0.0)
    for moved, expected in zip(way, sign, strict=True):
        assert (abs(moved) < 0.6) if expected == 0 else (np.sign(moved) == expected and abs(moved) > 1)


def test_speed_means_what_it_says():
    whole, size = whole_view((128, 128), (64, 64)), (128, 128)
    assert camera_view(whole, size, "zoom_in", 0.4, 1.0).width == pytest.approx(0.6 * 128)
    assert camera_view(whole, size, "zoom_in", 0.4, 0.0).width == 128
    left, right = (camera_view(whole, size, "pan_right", 0.25, p).x for p in (0.0, 1.0))
    assert right - left == pytest.approx(0.25 * 128)
    first, last = (camera_view(whole, size, "roll_clockwise", 0.5, p).angle for p in (0.0, 1.0))
    assert last - first == pytest.approx(0.5 * np.pi / 2)


def test_rendering_without_motion_is_a_plain_crop():
    picture = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    seen = render(Image.fromarray(picture), whole_view((96, 64), (64, 64)), (64, 64))
    assert np.array_equal(seen, picture[:, 16:80])
