"""What one and two GPUs do, for docs/results.md, from `benchmarks/results/gpu`."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from del_server.evaluation.markdown import markdown_table

GPU = Path(__file__).parent / "results" / "gpu"


def sections(folder: Path = GPU) -> list[str]:
    """All of it, in Markdown."""
    crowd, gpus = (json.loads((folder / f"{name}.json").read_text()) for name in ("crowd", "gpus"))
    steps = [json.loads(path.read_text()) for path in sorted(folder.glob("steps-*.json"))]
    cards = gpus["gpus"]
    lines = [
        "## GPUs",
        "",
        f"{len(cards)} {cards[0]}s of one host, {gpus['machine']['cores']} cores, torch {gpus['machine']['torch']}, "
        f"transformers {gpus['machine']['transformers']}, bfloat16, prompts of 64 tokens.",
        "",
    ]
    answers = [json.loads(path.read_text()) for path in sorted(folder.glob("parity-*.json"))]
    return [*lines, *_steps(steps), *_parity(answers), *_crowd(crowd), *_replicas(gpus), *_spread(gpus)]


def _steps(reports: list[dict[str, Any]]) -> list[str]:
    lines = [
        "### A decode step",
        "",
        "`python -m benchmarks.steps --model smollm2 --batch 1 16 64 256` and `--model 8b --batch 1 16` (random",
        "weights), and both with `--compile`. *limit*: weights, keys and values, once, at the card's nominal",
        "bandwidth. *launched*: kernel by kernel from Python; *recorded*: a CUDA graph, which is what an engine uses;",
        "*compiled*: one of compiled layers, `del-server serve --compile`. *engine*: the tokens of all answers over",
        "the time that they took, prompts included, and what the round before it left to record or to compile.",
        "",
    ]
    rows = [
        [
            report["model"],
            str(step["batch"]),
            step["way"],
            _ms(step["seconds"]),
            _ms(step["limit_seconds"]),
            f"{step['share']:.3f}",
            f"{step['engine_tokens_s']:.0f}",
        ]
        for report, step in _beside(reports)
    ]
    columns = ["model", "rows", "way", "ms a step", "limit, ms", "share of it", "engine, tokens/s"]
    return [*lines, markdown_table(columns, rows), "", *_said(reports)]


def _said(reports: list[dict[str, Any]]) -> list[str]:
    """What engines warned of, of which the time of a step, taken beside them, shows nothing."""
    lines = []
    for report, step in _beside(reports):
        for said in step.get("engine_said", []):
            where = f"{report['model']}, {step['batch']} rows, {step['way']}"
            lines += [f"The engine of {where}: {said}.", "Its tokens/s are so; the ms are of the step as named.", ""]
    return lines


def _beside(reports: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """All steps with their reports, model by model and batch by batch, the quickest way first."""
    models = list(dict.fromkeys(report["model"] for report in reports))
    every = [(report, step) for report in reports for step in report["steps"]]
    return sorted(every, key=lambda pair: (models.index(pair[0]["model"]), pair[1]["batch"], pair[1]["seconds"]))


def _parity(reports: list[dict[str, Any]]) -> list[str]:
    lines = []
    for report in reports:
        found = "; ".join(f"{way}: {outcome}" for way, outcome in report["parity"].items())
        lines += [f"Greedy answers in float32, {report['layers']} layers of {report['model']}, {found}.", ""]
    return lines


def _crowd(crowd: dict[str, Any]) -> list[str]:
    lines = [
        "### Through the service",
        "",
        "`python -m benchmarks.crowd --streams 1 16 64 256 --offline 64`: SmolLM2 on one card,",
        f"{crowd['tokens']} tokens an answer, asked by {crowd['processes']} processes over loopback, all at once.",
        "*of generate*: its rate beside that of one batch of as many in transformers' `generate`.",
        "",
    ]
    rows = [
        [str(level["streams"]), f"{level['rate']:.0f}"]
        + ["-" if level["offline_rate"] is None else f"{level['rate'] / level['offline_rate']:.2f}"]
        + [_ms(level[key], 0) for key in ("first_p50", "first_p95")]
        + [_ms(level[key], 1) for key in ("gap_p50", "gap_p99")]
        + [f"{level['cpu_seconds'] / level['seconds']:.1f}"]
        for level in crowd["levels"]
    ]
    columns = [
        "streams",
        "tokens/s",
        "of generate",
        "first token, ms",
        "p95",
        "between tokens, ms",
        "p99",
        "server's cores",
    ]
    return [*lines, markdown_table(columns, rows), ""]


def _replicas(gpus: dict[str, Any]) -> list[str]:
    found = gpus["sections"]["replicas"]
    kill = found["kill"]
    rows = [
        [
            str(row["streams"]),
            *(f"{statistics.median(row['tokens_s'][way]):.0f}" for way in row["tokens_s"]),
            f"{row['ratio']:.2f}",
            f"{row['ratio_twice_the_streams']:.2f}",
        ]
        for row in found["throughput"]
    ]
    columns = ["streams", "one replica", "two, as many streams", "two, twice the streams", "ratio", "ratio at twice"]
    return [
        "### Two replicas",
        "",
        "`python -m benchmarks.gpus`: SmolLM2, a replica a card, tokens a second at the engine's interface (median of",
        f"three rounds; goal {found['throughput'][0]['goal']:g}). A step of half as many rows takes nearly as long, so",
        "a second replica brings most where the streams are twice as many.",
        "",
        markdown_table(columns, rows),
        "",
        f"One replica killed under {kill['streams']} streams ({kill['load_when_killed'][0]} on each): noticed after "
        f"{1e3 * kill['noticed_seconds']:.1f} ms, {kill['unavailable']} answers ended as UNAVAILABLE, "
        f"{kill['retry_hints']} of these with a retry hint, {kill['answered_again']} asked again and were answered, "
        f"{kill['answered_at_once']} were not touched, {kill['other_errors']} failed otherwise; nothing was sent to it "
        f"while it was dead, and it was back after {kill['back_seconds']:.1f} s.",
        "",
    ]


def _spread(gpus: dict[str, Any]) -> list[str]:
    found, parallel = gpus["sections"]["spread"], gpus["sections"]["tensor_parallel"]
    ways = {
        "both cards, by layers (`device_map`)": found["two_cards_seconds"],
        "one card": found["one_card_seconds"],
        "one card, recorded": found["one_card_recorded_seconds"],
        f"both, tensor parallel, {parallel['layers']} layers": parallel["two_seconds"],
        f"one card, {parallel['layers']} layers": parallel["one_seconds"],
    }
    batches = list(found["two_cards_seconds"])
    rows = [[way, *(_ms(seconds[batch], 1) for batch in batches)] for way, seconds in ways.items()]
    answers, memory = found["answers"], found["memory_bytes"]
    same = "identical to" if answers["engine_identical"] else "not identical to"
    alike = "identical" if parallel["answers_identical"] else f"{parallel['answers_that_differ']} differ"
    return [
        "### One model over two cards",
        "",
        "The 8B shape with random weights: ms a step. Layers on two cards aren't recorded, so Python launches each",
        "kernel: that is for models that no card holds, not for speed.",
        "",
        markdown_table(["way", *(f"{batch} rows" for batch in batches)], rows),
        "",
        f"Memory by layers: {memory[0] / 1e9:.1f} and {memory[1] / 1e9:.1f} GB. Greedy answers in float32 of "
        f"{answers['layers']} layers over both cards ({answers['tokens']} tokens, staggered): {same} "
        "those of `generate` on one. "
        f"Tensor parallel against one card: {alike}.",
        "",
    ]


def _ms(seconds: float, digits: int = 2) -> str:
    return f"{1e3 * seconds:.{digits}f}"
