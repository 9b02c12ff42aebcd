"""Word-level tokenizer of the tiny family: CLIP's vocabulary would be most of such a small checkpoint.

A prompt is read as lower-case words; punctuation and digits separate words and carry no meaning, and a word
outside the vocabulary becomes `<unknown>`. Prompt weights, embeddings and chunks of long prompts are the work
of ComfyUI's own SDTokenizer, which this class only serves with token numbers.
"""

import re
from pathlib import Path

from comfy import sd1_clip

VOCABULARY_FILE = Path(__file__).with_name("vocabulary.txt")
START, END, UNKNOWN = 0, 1, 2  # the first three lines of the vocabulary
CONTEXT_LENGTH = 32  # tokens of one chunk, start and end included
TEXT_WIDTH = 64


def read_vocabulary(path: Path = VOCABULARY_FILE) -> list[str]:
    """Words in the order of their token numbers, one a line."""
    words = path.read_text(encoding="utf-8").split()
    if words[:3] != ["<start>", "<end>", "<unknown>"] or len(set(words)) != len(words):
        raise ValueError(
            f"{path} is not a vocabulary: expected <start>, <end>, <unknown> and then distinct words, "
            f"got {len(words)} lines beginning {words[:3]}. Restore the committed file."
        )
    return words


class WordTokenizer:
    """What SDTokenizer asks of a tokenizer class: `from_pretrained`, a call, `get_vocab`."""

    def __init__(self, words: list[str]) -> None:
        self.numbers = {word: number for number, word in enumerate(words)}

    @classmethod
    def from_pretrained(cls, path: str) -> "WordTokenizer":
        """The tokenizer of a vocabulary file (the name is the interface's, nothing is trained here)."""
        return cls(read_vocabulary(Path(path)))

    def __call__(self, text: str) -> dict[str, list[int]]:
        """Token numbers of a text between start and end."""
        words = re.findall(r"[^\W\d_]+", text.lower())
        return {"input_ids": [START, *(self.numbers.get(word, UNKNOWN) for word in words), END]}

    def get_vocab(self) -> dict[str, int]:
        """Word to token number."""
        return dict(self.numbers)


class TinySDTokenizer(sd1_clip.SDTokenizer):
    """SDTokenizer over our vocabulary."""

    def __init__(self, embedding_directory=None, tokenizer_data: dict | None = None) -> None:
        super().__init__(
            tokenizer_path=str(VOCABULARY_FILE),
            max_length=CONTEXT_LENGTH,
            embedding_directory=embedding_directory,
            embedding_size=TEXT_WIDTH,
            embedding_key="clip_l",
            tokenizer_class=WordTokenizer,
            tokenizer_data=tokenizer_data or {},
        )


class TinyTokenizer(sd1_clip.SD1Tokenizer):
    """The tokenizer object of a CLIP in ComfyUI: one text model named `l`, as in SD1.5."""

    def __init__(self, embedding_directory=None, tokenizer_data: dict | None = None) -> None:
        super().__init__(
            embedding_directory=embedding_directory,
            tokenizer_data=tokenizer_data or {},
            clip_name="l",
            tokenizer=TinySDTokenizer,
        )
