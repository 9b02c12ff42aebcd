"""Schedules written as text: spellings, frames, interpolation, tensors, and what errors say."""

import json
import time

import pytest
import torch
from animatediff_flipbook.motion_core.schedule.schedule_text import parse_entries
from animatediff_flipbook.motion_core.schedule.value_schedule import (
    Blend,
    blend_tensors,
    float_schedule,
    join_prompt,
    lerp,
    pad_tokens,
    prompt_schedule,
    slerp,
)
from hypothesis import given, settings
from hypothesis import strategies as st


def per_frame(text, num_frames):
    """``[(first, second, weight)]`` with the prompts themselves."""
    schedule = prompt_schedule(text, num_frames)
    return [
        (schedule.values[b.first], schedule.values[b.second], pytest.approx(b.weight))
        for b in schedule.blends()
    ]


@pytest.mark.parametrize(
    "text",
    [
        "0: a cat / 16: a dog",
        "0:a cat/16:a dog",
        "0: a cat\n16: a dog\n",
        '0: "a cat" / 16: "a dog"',
        '"0": "a cat", "16": "a dog"',
        '{"0": "a cat", "16": "a dog",}',
        ' {\n  "0" : "a cat",\n  "16" : "a dog"\n}\n',
        '0 = "a cat", 16 = "a dog"',
        '0="a cat",\n16="a dog"',
    ],
)
def test_spellings_mean_the_same(text):
    schedule = prompt_schedule(text, 32)
    assert schedule.values == ("a cat", "a dog")
    assert [(key.frame, key.value, key.hold) for key in schedule.keys] == [(0, 0, False), (16, 1, False)]


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(
        st.integers(0, 300),
        st.text("ab1 ()=.-'é猫{}`", min_size=1).map(lambda text: text.strip(" =")).filter(bool),
        min_size=1,
        max_size=6,
    )
)
def test_any_prompts_survive_every_spelling(prompts):
    short = " / ".join(f"{frame}: {text}" for frame, text in prompts.items())
    quoted = json.dumps({str(frame): text for frame, text in prompts.items()})
    assigned = ", ".join(f'{frame} = "{text}"' for frame, text in prompts.items())
    for spelling in (short, quoted, quoted[1:-1], assigned):
        assert {int(e.frame): e.value for e in parse_entries(spelling)} == prompts


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.integers(0, 60), st.floats(-5, 5, allow_nan=False), min_size=1, max_size=5),
    st.integers(1, 50),
)
def test_floats_are_the_straight_lines_between_their_keys(numbers, num_frames):
    text = " / ".join(f"{frame}: {number!r}" for frame, number in numbers.items())
    got = float_schedule(text, num_frames)
    known = sorted(numbers.items())
    assert len(got) == num_frames
    for frame, number in enumerate(got):
        before = [key for key in known if key[0] <= frame] or known[:1]
        after = [key for key in known if key[0] >= frame] or known[-1:]
        (p, a), (q, b) = before[-1], after[0]
        expected = a if p == q else a + (b - a) * (frame - p) / (q - p)
        if frame < p or frame > q:
            expected = a
        assert number == pytest.approx(expected, abs=1e-9)


def test_change_is_linear_and_does_not_compound():
    weights = [blend.weight for blend in prompt_schedule("0: a / 8: b", 10).blends()]
    assert weights == [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 0, 0]
    assert per_frame("0: a / 8: b", 10)[8:] == [("b", "b", 0.0)] * 2


def test_keys_need_no_order_and_edges_hold():
    assert per_frame("6: b / 2: a", 9) == per_frame("2: a / 6: b", 9)
    assert per_frame("2: a / 6: b", 9)[:3] == [("a", "a", 0.0)] * 3
    assert per_frame("2: a / 6: b", 9)[3] == ("a", "b", 0.25)


@pytest.mark.parametrize(
    "text", ["0:: a / 8: b", '"0:": "a", "8": "b"', '0: = "a", 8 = "b"', '0:="a", 8="b"', "0:: a\n8: b"]
)
def test_hold_keeps_the_value_until_the_next_key(text):
    assert per_frame(text, 10) == [("a", "a", 0.0)] * 8 + [("b", "b", 0.0)] * 2


@pytest.mark.parametrize("text", ["4:8: a / 12: b", '"4:8": "a", "12": "b"', '8:4 = "a", 12 = "b"'])
def test_range_is_every_frame_up_to_its_end(text):
    frames = per_frame(text, 14)
    assert frames[4:8] == [("a", "a", 0.0)] * 4
    assert frames[8] == ("a", "b", 0.2)  # from frame 7 to frame 12
    assert frames[12] == ("b", "b", 0.0)


def test_empty_range_is_one_frame_and_a_key_replaces_a_part_of_a_range():
    assert [key.frame for key in prompt_schedule("4:4: a", 8).keys] == [4]
    values = prompt_schedule("0:6: a / 3: b", 6)
    assert [values.values[key.value] for key in values.keys] == ["a", "a", "a", "b", "a", "a"]


@pytest.mark.parametrize("text", ["3: b / 0:6: a", "0:6: a / 3: b"])
def test_an_exact_key_stands_within_a_range_whichever_comes_first(text):
    assert [first for first, _, _ in per_frame(text, 6)] == ["a", "a", "a", "b", "a", "a"]


def test_of_two_ranges_the_later_one_counts():
    assert [first for first, _, _ in per_frame("0:4: a / 2:6: b", 6)] == ["a", "a", "b", "b", "b", "b"]


def test_decimals_and_negatives_count_from_the_clip():
    frames = [key.frame for key in prompt_schedule("0.0: a / 0.5: b / 1.0: c", 33).keys]
    assert frames == [0, 16, 32]
    assert [key.frame for key in prompt_schedule("-1: a / -4: b", 32).keys] == [28, 31]
    assert [key.frame for key in prompt_schedule("0.25:0.5: a", 16).keys] == [4, 5, 6, 7]


def test_length_can_come_from_the_schedule():
    assert prompt_schedule("0: a / 16: b", 0).num_frames == 17
    assert prompt_schedule("8:12: a", 0).num_frames == 12
    assert len(float_schedule("0: 1 / 3: 2", 0)) == 4


def test_a_key_beyond_the_clip_is_changed_towards():
    assert per_frame("0: a / 64: b", 32)[16] == ("a", "b", 0.25)


def test_each_prompt_is_listed_once_and_text_is_joined_with_one_comma():
    schedule = prompt_schedule(
        "0: a cat / 8: a dog / 16: a cat", 17, prepend="photo,", append=", masterpiece"
    )
    assert schedule.values == ("photo, a cat, masterpiece", "photo, a dog, masterpiece")
    assert [key.value for key in schedule.keys] == [0, 1, 0]
    assert join_prompt("", " a ", ", ,", "b,") == "a, b"


def test_slashes_colons_and_quotes_inside_prompts_stay():
    entries = parse_entries('0: cat w/ hat, f/1.8, "open" sign / 16: ratio 16:9, (dog:1.2)')
    assert [entry.value for entry in entries] == ['cat w/ hat, f/1.8, "open" sign', "ratio 16:9, (dog:1.2)"]
    assert parse_entries(r'"0": "a \"b\"\nc"')[0].value == 'a "b"\nc'
    assert [entry.value for entry in parse_entries("0: a / 8:")] == ["a", ""]


@pytest.mark.parametrize("text", ["0: a / 16: b /", "0: a /\n16: b /\n", "0:a/16:b/", '0: "a" / 16: "b" /'])
def test_a_slash_may_end_the_last_entry_too(text):
    assert [entry.value for entry in parse_entries(text)] == ["a", "b"]
    assert float_schedule("0: 0 / 4: 1 /", 5)[4] == 1.0


def test_commas_after_quoted_prompts_on_lines_of_their_own():
    entries = parse_entries('0: "a cat",\n16: "a dog",\n')
    assert [entry.value for entry in entries] == ["a cat", "a dog"]
    assert parse_entries("0: a cat, 16:9, (dog:1.2), 10:30 | f:8")[0].value.endswith("f:8")


@pytest.mark.parametrize("text", [r'"0": "a \(x\)"', r'{"0": "a \\(x\\)"}', r'0 = "a \(x\)"', r"0: a \(x\)"])
def test_parentheses_escaped_for_the_tokenizer_stay_so(text):
    assert parse_entries(text)[0].value == r"a \(x\)"


def test_a_ratio_after_a_slash_is_no_frame_without_asking():
    for text, place in (("0: cat / 16:9 photo", "9 to 19"), ("0: cat\n16:9 photo", "7 to 17")):
        with pytest.raises(ValueError, match=rf"characters {place} .*a space after the colon"):
            prompt_schedule(text, 24)
    assert prompt_schedule("0: cat / 16: 9 photos", 24).values == ("cat", "9 photos")
    assert prompt_schedule('"0": "cat / 16:9 photo"', 24).values == ("cat / 16:9 photo",)
    assert prompt_schedule("0:2 cats / 8: 3 dogs", 24).values == ("2 cats", "3 dogs")
    assert float_schedule("0:0/4:1", 5) == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("text", "num_frames", "says"),
    [
        ("  ", 8, "empty"),
        ("a cat", 8, r"characters 0 to 5 \('a cat'\); expected a frame, a colon"),
        ("cat / 8: dog", 8, "characters 0 to 6"),
        ('"0": "a" "8": "b"', 8, "characters 9 to 17.*expected a comma"),
        ('"0": "a", 8: "b"', 8, 'characters 9 to 16.*expected `"frame": "value"`'),
        ('{"0": "a"', 8, "closing brace"),
        ('0 = "a", 8: "b"', 8, 'characters 8 to 15.*expected `frame = "value"`'),
        ("0: a, 8: b", 16, r"characters 4 to 9.*` / ` or a new line"),
        ("0:a, 8:b", 16, r"characters 3 to 8.*` / ` or a new line"),
        ("0: a | 8: b", 16, r"characters 5 to 10.*` / ` or a new line"),
        ("0: a; 8:b", 16, r"characters 4 to 9.*` / ` or a new line"),
        ('":8": "a"', 16, "names no frame"),
        ('"1:2:3": "a"', 16, "names no frame"),
        ('"x": "a"', 16, "names no frame"),
        (":8: a", 16, "characters 0 to 5"),
        ("8::: a", 16, "characters 0 to 6"),
        ("0: a / 1.5: b", 16, "characters 7 to 13 is no part of a clip"),
        ("0: a / -17: b", 16, "before a clip of 16 frames"),
        ("0: a / 0.5: b", 0, "length of the clip, which is not given"),
        ("0: a / -1: b", 0, "length of the clip, which is not given"),
        ("0: a / 0: b", 16, "names frame 0 twice"),
        ("0:999999999999: a", 16, "beyond any clip"),
        ("0: a", -1, "1 frame or more"),
    ],
)
def test_errors_say_where_and_what_was_expected(text, num_frames, says):
    with pytest.raises(ValueError, match=says):
        prompt_schedule(text, num_frames)


@pytest.mark.parametrize("text", ["0: 0.5 / 8: high", "0: 0.5 / 8: nan", '"0": "0.5x"', "0: 1 / 8:"])
def test_numbers_must_be_numbers(text):
    with pytest.raises(ValueError, match=r"characters \d+ to \d+ .*number"):
        float_schedule(text, 16)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='0123456789:=/", .-ab{}\n\\', max_size=30), st.integers(0, 20))
def test_any_text_is_read_or_refused_with_a_value_error(text, num_frames):
    try:
        schedule = prompt_schedule(text, num_frames)
    except ValueError as error:
        assert "expected" in str(error) or "frame" in str(error)
        return
    blends = schedule.blends()
    assert len(blends) == schedule.num_frames
    assert all(0.0 <= blend.weight < 1.0 for blend in blends)


def test_slerp_walks_the_arc_and_falls_back_on_the_line():
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    torch.testing.assert_close(slerp(a, b, 0.5), torch.tensor([[2.0, 2.0]]) / 2**0.5)
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b, atol=1e-6, rtol=0)
    torch.testing.assert_close(slerp(a, 3 * a, 0.5), lerp(a, 3 * a, 0.5))
    torch.testing.assert_close(slerp(a, -a, 0.25), lerp(a, -a, 0.25))
    assert torch.isfinite(slerp(a, torch.zeros_like(a), 0.5)).all()


@pytest.mark.parametrize("interpolation", ["linear", "spherical"])
def test_blended_tensors_follow_the_table(interpolation):
    values = [torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    blends = [Blend(0, 0, 0.0), Blend(0, 1, 0.25), Blend(1, 1, 0.0)]
    frames = blend_tensors(values, blends, interpolation)
    between = lerp if interpolation == "linear" else slerp
    assert frames.shape == (3, 3, 4)
    assert torch.equal(frames[0:1], values[0])
    torch.testing.assert_close(frames[1:2], between(values[0], values[1], 0.25))
    assert torch.equal(frames[2:3], values[1])
    with pytest.raises(ValueError, match="linear"):
        blend_tensors(values, blends, "cubic")


def test_shorter_prompts_are_repeated_to_a_common_length():
    """Attention over repeated tokens is attention over the tokens: a key frame is its prompt alone."""
    prompts = [
        torch.randn(1, tokens, 3, generator=torch.Generator().manual_seed(tokens)) for tokens in (2, 3)
    ]
    padded = pad_tokens(prompts)
    assert [tuple(p.shape) for p in padded] == [(1, 6, 3), (1, 6, 3)]
    query = torch.ones(1, 1, 3)
    attend = torch.nn.functional.scaled_dot_product_attention
    for prompt, same in zip(prompts, padded, strict=True):
        torch.testing.assert_close(attend(query, same, same), attend(query, prompt, prompt))
    assert torch.equal(pad_tokens(prompts[:1])[0], prompts[0])


def test_prompts_whose_common_length_is_out_of_hand_are_padded_on_both_sides():
    short, long = torch.ones(1, 5, 3), torch.ones(1, 6, 3)
    padded = pad_tokens([short, long])
    assert padded[0][0, :, 0].tolist() == [1, 1, 1, 1, 1, 0]
    assert torch.equal(padded[1], long)
    assert pad_tokens([torch.ones(1, 4, 3), short])[0].shape == (1, 20, 3)  # 4 times the longest is allowed


# -- texts as people and programs write them --


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0:(1.0), 4:(0.5)", [1.0, 0.875, 0.75, 0.625, 0.5]),
        ("0:(1.0), 4:(0.5),", [1.0, 0.875, 0.75, 0.625, 0.5]),
        ("0: (0) ,\n4: (-1e0)", [0.0, -0.25, -0.5, -0.75, -1.0]),
        ('"0": 1, "4": 0,', [1.0, 0.75, 0.5, 0.25, 0.0]),
    ],
)
def test_numbers_in_the_spellings_of_other_tools(text, wanted):
    assert float_schedule(text, 5) == pytest.approx(wanted)


@pytest.mark.parametrize("text", ["0:(sin(t)), 4:(1)", "0: `t`", "0: __import__('os')", "0:(1)(2)"])
def test_expressions_are_refused_and_not_evaluated(text):
    with pytest.raises(ValueError, match="cannot be read at characters .*expected"):
        float_schedule(text, 5)


@pytest.mark.parametrize("mark", ["`pw_a`", "pw_b", "--neg ugly", "(cat:max_f)", "`"])
def test_what_other_tools_evaluate_in_a_prompt_is_never_read_as_words(mark):
    with pytest.raises(ValueError, match="characters .*which is not evaluated here: .*`prepend` or `append`"):
        prompt_schedule(f"0: a cat / 8: a dog {mark}", 16)


@pytest.mark.parametrize(
    "text",
    [
        "9" * 2**20,
        "0: " + "9" * 2**20,
        "0:" * 2**19,
        "0: a\n" + "\n" * 2**20,
        '"0": "a", ' + " " * 2**20,
        "0: a /" + " / " * 2**18,
        " / ".join(f"0:99999: p{n}" for n in range(50_000)),
        ", ".join(f'"{n}": "p"' for n in range(60_000)),
        "-" * 2**20,
        "0: " + "\\" * 2**20,
    ],
    ids=range(10),
)
@pytest.mark.parametrize("read", [float_schedule, prompt_schedule])
def test_a_text_of_a_megabyte_takes_no_longer_than_it_must(text, read):
    start = time.process_time()
    try:
        read(text, 16)
    except ValueError as error:
        assert len(str(error)) < 1000
    assert time.process_time() - start < 5


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 30), st.sampled_from("abc")), min_size=1, max_size=8
    ),
    st.integers(0, 24),
)
def test_ranges_are_those_written_one_frame_at_a_time(ranges, num_frames):
    """The quick way of laying ranges over each other against the plain one."""
    text = " / ".join(f"{first}:{last}: {value}" for first, last, value in ranges)
    plain = {}
    for first, last, value in ranges:
        low, high = min(first, last), max(first, last)
        if high > low + 1:
            plain.update(dict.fromkeys(range(low, high), value))
    if not plain or any(abs(first - last) <= 1 for first, last, _ in ranges):
        return  # single frames have a rule of their own
    schedule = prompt_schedule(text, num_frames)
    kept = {key.frame: schedule.values[key.value] for key in schedule.keys}
    inside = {frame: value for frame, value in plain.items() if frame < schedule.num_frames}
    after = [frame for frame in plain if frame >= schedule.num_frames]
    assert kept == inside | {frame: plain[frame] for frame in sorted(after)[:1]}


def test_a_range_beyond_the_clip_is_what_the_clip_changes_towards():
    assert float_schedule("0: 0 / 8:128: 1", 5) == pytest.approx([0.0, 0.125, 0.25, 0.375, 0.5])
    assert float_schedule("8:128: 12", 1) == [12.0]
