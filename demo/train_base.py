"""Train the base of the tiny family from nothing: autoencoder, then text-to-image UNet and text encoder.

    python demo/train_base.py                 # all stages, about an hour on two CPU cores
    python demo/train_base.py --stage vae     # one of: vae, latents, unet, export, measure
    python demo/train_base.py --start FILE --output FILE2   # go on from an earlier checkpoint's weights

Every stage keeps its state in `.flipbook/train/`, once a minute, and goes on from there when started again; a
finished stage is skipped. The last one writes `demo/models/checkpoints/tiny_ad.safetensors` (fp16).
Data: `world.py`, image domain for the UNet, both domains for the autoencoder (it must show video frames too).

Shapes: B pictures, pictures (B, 3, 128, 128) in 0..1, latents (B, 4, 16, 16), context (B, 32, 64).
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bootstrap import enter

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that spin lose ten times on a shared machine
enter()

import torch  # noqa: E402  # ComfyUI is importable only after enter()
import torch.distributed as distributed  # noqa: E402
from animatediff_flipbook.demo.base_training.autoencoder import cache_latents, train_vae  # noqa: E402
from animatediff_flipbook.demo.base_training.checkpoint import export, measure  # noqa: E402
from animatediff_flipbook.demo.base_training.settings import Settings  # noqa: E402
from animatediff_flipbook.demo.base_training.text_to_image import train_unet  # noqa: E402


def main() -> None:
    """Run the asked stages in order."""
    stages = {
        "vae": train_vae,
        "latents": cache_latents,
        "unet": train_unet,
        "export": export,
        "measure": measure,
    }
    parser = argparse.ArgumentParser(description="Train the base of the tiny family.")
    parser.add_argument("--stage", choices=("all", *stages), default="all")
    parser.add_argument("--focus", type=int, nargs=2, default=Settings.focus, help="timesteps of one half")
    parser.add_argument("--word-weight", type=float, default=Settings.word_weight, help="of its surroundings")
    parser.add_argument("--start", default="", help="checkpoint to begin with")
    parser.add_argument("--output", default=Settings.output, help="checkpoint to write")
    parser.add_argument("--bfloat16", action="store_true", help="bfloat16 products")
    parser.add_argument("--vae-minutes", type=float, default=Settings.vae_minutes)
    parser.add_argument("--unet-minutes", type=float, default=Settings.unet_minutes)
    parser.add_argument("--workers", type=int, default=2, help="processes, of one CPU thread each")
    parser.add_argument("--rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--meeting", default="", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    settings = Settings(
        start=chosen.start,
        output=chosen.output,
        focus=tuple(chosen.focus),
        word_weight=chosen.word_weight,
        bfloat16=chosen.bfloat16,
        vae_minutes=chosen.vae_minutes,
        unet_minutes=chosen.unet_minutes,
    )
    torch.set_num_threads(1)
    meeting = chosen.meeting or str(Path(tempfile.mkdtemp(prefix="train_base_")) / "meeting")
    if chosen.rank == 0:
        for rank in range(1, chosen.workers):
            more = ["--rank", str(rank), "--meeting", meeting]
            subprocess.Popen([sys.executable, *sys.argv, *more])
    distributed.init_process_group(
        "gloo", init_method=Path(meeting).as_uri(), rank=chosen.rank, world_size=chosen.workers
    )
    for name, stage in stages.items():
        if chosen.stage in ("all", name):
            if chosen.rank == 0 or name in ("vae", "latents", "unet"):
                stage(settings)
            distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
