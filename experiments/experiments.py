"""The paper's claims in miniature, measured: the command behind `python run.py experiments`.

    python run.py experiments quick             # a few minutes; exit status 0 only if every gate holds
    python run.py experiments full              # hours; goes on where it was stopped
    python run.py experiments full e05 e06      # these alone
    python run.py experiments report            # the report again, from the results that are there

Each (experiment, arm, seed) leaves a JSON file; one that is there is skipped, unless what it depends on has
changed since. Trained weights lie in
`.flipbook/experiments`, results of `full` in `docs/experiments/results`, the report in `docs/experiments`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "demo"))
from bootstrap import PACK, enter  # noqa: E402

TIERS = ("quick", "full")


def results_folder(tier: str) -> Path:
    """Where a tier's results lie: those of `full` are kept in the repository."""
    if tier == "full":
        return ROOT / "docs/experiments/results"
    return Path(os.environ.get("FLIPBOOK_EXPERIMENTS") or ROOT / ".flipbook/experiments") / "quick-results"


def bench_of(comfyui: str, tier: str, seed: int, threads: int, commit: str) -> Any:
    """The bench of one seed, in a process of its own."""
    enter(Path(comfyui))
    import logging

    import torch
    from animatediff_flipbook.experiments import catalogue, stages
    from animatediff_flipbook.experiments.bench import Bench

    torch.set_num_threads(threads)
    logging.getLogger(PACK).setLevel(logging.WARNING)
    told = catalogue.settings(tier)
    sizes = {name: told[name] for name in ("base", "data", "adapter", "module", "lora")}
    lab = stages.Lab(stages.state_folder(), seed, sizes, commit)
    return Bench(lab, told["samples"], seed == told["seeds"][0])


def make_image_models(comfyui: str, tier: str, threads: int, commit: str) -> None:
    """What all seeds stand on, before they run beside each other."""
    lab = bench_of(comfyui, tier, 0, threads, commit).lab
    for domain in ("image", "style"):
        lab.image_model(domain)


def run_seed(
    comfyui: str, tier: str, seed: int, threads: int, commit: str, prints: dict[str, str]
) -> list[str]:
    """Everything that is missing of one seed; returns what failed.

    prints: fingerprints of the experiments to run, as they were when the command began.

    Raises:
        RuntimeError: an experiment's files have changed since, so the commit is not that of this code.
    """
    bench = bench_of(comfyui, tier, seed, threads, commit)
    from animatediff_flipbook.experiments import catalogue, results

    told = catalogue.settings(tier)
    # every script is imported before its files are read again: what runs later is what was told of
    chosen = [(one, one.script) for one in catalogue.experiments(list(prints), tier) if one.name in prints]
    for experiment, _ in chosen:
        if experiment.fingerprint(told) != prints[experiment.name]:
            raise RuntimeError(f"{experiment.name} has changed since this run began. Start it again.")
    failed = []
    for experiment, script in chosen:
        config, fingerprint = experiment.config, prints[experiment.name]
        for arm in script.arms(config):
            path = results.place(results_folder(tier), experiment.name, arm, seed)
            there = results.read(path)
            if there is not None and there.fingerprint == fingerprint:
                continue
            start = time.monotonic()
            bench.lab.used.clear()
            try:
                found = script.run(arm, bench, config)
            except Exception:  # one arm's trouble must not cost the others; what failed is told at the end
                traceback.print_exc()
                failed.append(f"{experiment.name}/{arm}, seed {seed}")
                continue
            seconds = round(time.monotonic() - start, 1)
            results.write(
                path,
                results.Result(
                    *(experiment.name, arm, seed, fingerprint, commit, seconds),
                    samples={name: list(values) for name, values in found.samples.items()},
                    values=dict(found.values),
                    clips=results.packed(found.clips) if bench.keep_clips else "",
                    config=config,
                    criteria=experiment.criteria(),
                    weights=sorted(bench.lab.used),
                ),
            )
            print(f"{experiment.name}/{arm}, seed {seed}: {seconds:.0f} s", flush=True)
    return failed


def main() -> int:
    """Exit status 0, or 1 where something failed: an arm, or, under `quick`, a gate."""
    parser = argparse.ArgumentParser(prog="run.py experiments", description="The paper's claims, measured.")
    parser.add_argument("--comfyui", required=True, help=argparse.SUPPRESS)  # run.py passes it
    parser.add_argument("what", nargs="?", choices=(*TIERS, "report"), default="quick")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="beginnings of names, such as e05; default all"
    )
    parser.add_argument("--processes", type=int, default=0, help="seeds at a time; default: all")
    parser.add_argument("--threads", type=int, default=0, help="of each; default: cores over processes")
    options = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    enter(Path(options.comfyui))
    from animatediff_flipbook.experiments import catalogue, report, results

    tier = "full" if options.what == "report" else options.what
    told = catalogue.settings(tier)
    try:
        chosen = catalogue.experiments(options.names or told.get("experiments", []), tier)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    start, failed = time.monotonic(), []
    if options.what in TIERS:
        seeds = told["seeds"]
        prints = {experiment.name: experiment.fingerprint(told) for experiment in chosen}
        commit = results.commit(ROOT)
        workers = min(options.processes or len(seeds), len(seeds))
        threads = options.threads or max(1, (os.cpu_count() or 1) // workers)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            try:
                pool.submit(make_image_models, options.comfyui, tier, threads * workers, commit).result()
                runs = [
                    pool.submit(run_seed, options.comfyui, tier, seed, threads, commit, prints)
                    for seed in seeds
                ]
                failed = [name for run in runs for name in run.result()]
            except KeyboardInterrupt:
                for child in multiprocessing.active_children():
                    child.terminate()
                print("Stopped. Run the same command again to go on.", file=sys.stderr)
                return 130
    broken = report.say(report.verdicts(chosen, results_folder(tier), told))
    if tier == "full":
        report.write(ROOT / "docs" / "experiments", results_folder(tier))
    print(f"{time.monotonic() - start:.0f} s", flush=True)
    for name in failed:
        print(f"failed: {name}", file=sys.stderr)
    return int(bool(failed) or (options.what == "quick" and broken > 0))


if __name__ == "__main__":
    sys.exit(main())
