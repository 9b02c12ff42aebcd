"""The cache on a disk that changes what is on it."""

import json

import pytest
import torch
from animatediff_flipbook.training.data.encode import Encodings
from animatediff_flipbook.training.data.media import list_media
from animatediff_flipbook.training.run.train import train
from safetensors.torch import load_file, save_file


class Base:
    """Encodes by averaging 8x8 pixels."""

    def encode_pixels(self, pixels: torch.Tensor):
        mean = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)[:, [0, 1, 2, 0]]
        return mean, torch.full_like(mean, -4.0)

    def encode_text(self, text: str):
        return torch.full((4, 8), float(len(text))), None


@pytest.fixture
def make(settings, tmp_path):
    """``make()`` -> configuration, its store and its files, with a cache of its own."""

    def build():
        config = settings(tmp_path / "run", f"cache.folder={tmp_path / 'cache'}")
        return config, Encodings(config, "base"), list_media(config.data.sources, config.data)

    return build


@pytest.mark.parametrize("kind", ["latents", "text"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.999])
def test_a_flipped_byte_in_a_shard_is_noticed_and_made_again(kind, share, make, caplog):
    """In the header, in the tensors, anywhere: what is served is what was stored."""
    _, store, files = make()
    store.fill(Base(), files)
    kept = getattr(store, kind)
    values = {name: kept.get(name).clone() for name in kept._where}
    (shard,) = kept.folder.glob("shard-*")
    content = bytearray(shard.read_bytes())
    content[int(share * len(content))] ^= 4
    shard.write_bytes(content)
    _, store, _ = make()
    assert f"{shard.name} is damaged" in caplog.text
    store.fill(Base(), files)
    found = getattr(store, kind)
    assert all(torch.equal(found.get(name), value) for name, value in values.items())


def test_shards_without_a_hash_still_serve(make, caplog):
    _, store, files = make()
    store.fill(Base(), files)
    for shard in store.latents.folder.glob("shard-*"):
        save_file(load_file(shard), shard, {"format": "2"})
    caplog.set_level("INFO")
    _, store, _ = make()
    assert store.missing(files) == ([], [])
    assert "carry no hash" in caplog.text


WRONG = (None, [], {"tracks": [{}]})
WRONG_TOO = (7, "x", {}, {"stamp": 1}, {"error": 7}, {"tracks": 7}, {"facts": []})  # five seconds each


@pytest.mark.parametrize(
    "value", [*WRONG, *(pytest.param(value, marks=pytest.mark.slow) for value in WRONG_TOO)], ids=repr
)
def test_memories_with_wrong_fields_are_found_out_again(value, settings, tmp_path):
    """Hashes, facts about files, the checkpoint's hash, the list of losses."""
    cache = f"cache.folder={tmp_path / 'cache'}"
    train(settings(tmp_path / "run", cache, "train.steps=1", "checkpoints.every=1"))
    paths = [*(tmp_path / "cache").rglob("*.json")]
    assert {path.name for path in paths} >= {"hashes-0.json", "files-0.json", "base-hash.json"}
    for path in paths:
        if not path.name.startswith("settings"):
            path.write_text(json.dumps(dict.fromkeys(json.loads(path.read_text()), value)))
    with (tmp_path / "run" / "metrics.jsonl").open("ab") as file:
        file.write(json.dumps(value).encode() + b"\n\xff\n[[[\n")
    result = train(settings(tmp_path / "run", cache, "train.steps=2"), resume=True)
    assert result.steps == 2
