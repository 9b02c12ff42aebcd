"""What the moving preview costs: time of a run with it over the time without, tiny family on the CPU.

    python tests/benchmarks/moving_preview.py [--frames 16] [--steps 60] [--repeats 5] [--size 16] [--taesd]

Runs with and without take turns. ComfyUI's own preview (Latent2RGB, or a TAESD with random weights) is made
in both. Seconds are those that the process has computed, so that other work on the machine counts little. The
figures are the ratio of the sums and the median of the pairs; 1.03 is the most that is allowed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import conftest  # noqa: F401  # puts ComfyUI and the pack in place

# isort: split
import comfy.sample
import folder_paths
import latent_preview
from animatediff_flipbook.nodes import host_preview
from comfy.cli_args import LatentPreviewMethod, args
from comfy.taesd.taesd import TAESD
from context_windows import CFG, load


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=16, help="of the latents")
    parser.add_argument("--taesd", action="store_true", help="decode previews with a network")
    options = parser.parse_args()
    torch.set_num_threads(1)
    args.preview_method = LatentPreviewMethod.Latent2RGB
    if options.taesd:
        args.preview_method = LatentPreviewMethod.TAESD
        folder = tempfile.mkdtemp()
        decoder = TAESD().taesd_decoder
        for weight in decoder.parameters():
            torch.nn.init.normal_(weight, std=0.05)
        torch.save(decoder.state_dict(), Path(folder) / "taesd_decoder.pth")
        folder_paths.folder_names_and_paths["vae_approx"] = ([folder], {".pth"})
    host_preview.running_node = lambda: {"node_id": "1", "display_node_id": "1", "prompt_id": "p"}
    sent: list[dict] = []
    host_preview.send = sent.append
    seconds = {False: [], True: []}
    with torch.inference_mode():
        model, conds = load()
        latent = torch.zeros(options.frames, 4, options.size, options.size)
        noise = comfy.sample.prepare_noise(latent, 1)
        results = {}
        for number in range(2 * options.repeats + 1):
            looking = number % 2 == 1
            host_preview.way_to_show = lambda looking=looking: "moving" if looking else None
            start = time.process_time()
            callback = latent_preview.prepare_callback(model, options.steps)
            results[looking] = comfy.sample.sample(
                *(model, noise, options.steps, CFG, "euler", "normal", *conds, latent),
                callback=callback,
                seed=1,
                disable_pbar=True,
            )
            if number:  # the first one warms up
                seconds[looking].append(time.process_time() - start)
    ratios = [a / b for a, b in zip(seconds[True], seconds[False], strict=True)]
    print(f"without {sum(seconds[False]):.2f} s, with {sum(seconds[True]):.2f} s, {len(sent)} sheets")
    median = sorted(ratios)[len(ratios) // 2]
    print(f"ratio {sum(seconds[True]) / sum(seconds[False]):.4f}, median of pairs {median:.4f}")
    print(f"latents equal to the bit: {torch.equal(results[True], results[False])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
