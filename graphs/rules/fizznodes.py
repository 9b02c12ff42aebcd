"""FizzNodes' prompt schedule, which is converted only on demand: it works with ours as it is."""

from __future__ import annotations

from ..old import Old, number, switch, text, whole

BATCH = "BatchPromptSchedule"
_WEIGHTS = "pw_a pw_b pw_c pw_d"
SCHEDULE = Old(
    {
        "text": text(),
        "max_frames": whole(120),
        "print_output": switch(),
        "pre_text": text(),
        "app_text": text(),
        "start_frame": whole(0),
        "end_frame": whole(0),
        **{name: number(0.0) for name in _WEIGHTS.split()},
    },
    (
        "text max_frames print_output start_frame end_frame",
        f"text max_frames print_output pre_text app_text start_frame end_frame {_WEIGHTS}",
        f"text max_frames print_output pre_text app_text {_WEIGHTS}",
        f"text max_frames pre_text app_text {_WEIGHTS}",
        "text max_frames print_output",
        "text max_frames",
    ),
    "clip pre_text app_text",
    output="CONDITIONING",
)
