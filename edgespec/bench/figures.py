"""From samples to figures: medians, spreads, and ratios paired prompt by prompt. Numbers in, numbers out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from edgespec.bench.measure import Cut, Sample

N_RESAMPLES = 2000
# A bootstrap over fewer pairs says how alike they are, not how sure the median is.
N_LEAST = 5


def paired_median(ratios: Sequence[float], seed: int = 0) -> dict[str, float]:
    """Median of ratios taken pair by pair, with the 95 % interval of a bootstrap: a disturbed pair counts once."""
    x = np.asarray(ratios)
    picks = np.random.default_rng(seed).integers(0, len(x), (N_RESAMPLES, len(x)))
    low, high = np.percentile(np.median(x[picks], axis=1), [2.5, 97.5])
    return {"ratio": float(np.median(x)), "low": float(low), "high": float(high), "n": len(x)}


def paired_ratio(a: Sequence[float], b: Sequence[float], seed: int = 0) -> dict[str, float]:
    """Sum of a over sum of b, with the 95 % interval of a bootstrap over the pairs."""
    x, y = np.asarray(a), np.asarray(b)
    picks = np.random.default_rng(seed).integers(0, len(x), (N_RESAMPLES, len(x)))
    ratios = x[picks].sum(axis=1) / y[picks].sum(axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return {"ratio": float(x.sum() / y.sum()), "low": float(low), "high": float(high), "n": len(x)}


def figures(samples: Sequence[Sample], plain: Sequence[Sample]) -> dict[str, Any]:
    """Figures of one method, and the same by category; plain: the samples it is compared with.

    tokens_per_second is what a reader sees after the first token: the others over the time from first to last, as
    serving benchmarks and llama.cpp count (under --exact the first round drafts: all its tokens are left out). Median
    over repeats; low and high are the extremes. ratio_to_plain is the median over prompts of plain's time a token over
    this method's, low and high its 95 % interval (None over fewer than N_LEAST prompts); answer_ratio_to_plain the same
    of whole answers, cold prompt and all. What samples cannot say is None.
    """
    categories = sorted({s.category for s in samples})
    by_category = {c: _figures([s for s in samples if s.category == c], plain) for c in categories}
    return {**_figures(samples, plain), "categories": by_category}


def _figures(samples: Sequence[Sample], plain: Sequence[Sample]) -> dict[str, Any]:
    accepted = np.array([n for s in samples for n in s.accepted], np.int64)
    n_drafted, n_tokens = sum(s.n_drafted for s in samples), sum(s.n_tokens for s in samples)
    n_later = n_tokens - sum(s.n_first for s in samples)
    decode_ms = sum(s.decode_ms for s in samples)
    target, draft = sum(s.target_ms for s in samples), sum(s.draft_ms for s in samples)
    ratios = _ratios(samples, plain, _ms_per_token)
    ratio = paired_median(ratios) if ratios else {"ratio": None, "low": None, "high": None}
    whole = _ratios(samples, plain, lambda s: s.ttft_ms + s.decode_ms)
    return {
        "n_answers": len(samples),
        "n_tokens": n_tokens,
        **_spread("tokens_per_second", _by_repeat(samples, _tokens_per_second)),
        "tokens_per_pass": n_later / len(accepted) if len(accepted) else None,
        "acceptance_rate": float(accepted.sum()) / n_drafted if n_drafted else None,
        "accepted_lengths": np.bincount(accepted).tolist() if len(accepted) else [],
        "time_split": {
            "target": target / decode_ms,
            "draft": draft / decode_ms,
            "overhead": (decode_ms - target - draft) / decode_ms,
        }
        if decode_ms
        else None,
        **_spread("ttft_ms", _by_repeat(samples, lambda some: float(np.median([s.ttft_ms for s in some])))),
        "ratio_to_plain": ratio["ratio"],
        "ratio_to_plain_low": ratio["low"] if len(ratios) >= N_LEAST else None,
        "ratio_to_plain_high": ratio["high"] if len(ratios) >= N_LEAST else None,
        "ratio_to_plain_n": len(ratios),
        "answer_ratio_to_plain": float(np.median(whole)) if whole else None,
    }


def _tokens_per_second(samples: Sequence[Sample]) -> float | None:
    seconds = sum(s.decode_ms for s in samples) / 1e3
    n_tokens = sum(s.n_tokens - s.n_first for s in samples)
    return n_tokens / seconds if seconds and n_tokens else None


def _by_repeat(samples: Sequence[Sample], figure: Callable[[Sequence[Sample]], float | None]) -> list[float]:
    repeats = sorted({s.repeat for s in samples})
    found = (figure([s for s in samples if s.repeat == r]) for r in repeats)
    return [value for value in found if value is not None]


def _spread(name: str, values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: float(np.median(values)), f"{name}_low": min(values), f"{name}_high": max(values)}


def _ratios(samples: Iterable[Sample], plain: Iterable[Sample], of: Callable[[Sample], float | None]) -> list[float]:
    """Plain's figure over the method's, a prompt each, medians over repeats, for the prompts where both have one."""
    own, others = _by_prompt(samples, of), _by_prompt(plain, of)
    return [others[prompt] / own[prompt] for prompt in own if prompt in others]


def _ms_per_token(s: Sample) -> float | None:
    return s.decode_ms / (s.n_tokens - s.n_first) if s.n_tokens > s.n_first else None


def _by_prompt(samples: Iterable[Sample], of: Callable[[Sample], float | None]) -> dict[tuple[str, int], float]:
    found: dict[tuple[str, int], list[float]] = {}
    for s in samples:
        if (value := of(s)) is not None:
            found.setdefault((s.question, s.turn), []).append(value)
    return {prompt: float(np.median(values)) for prompt, values in found.items()}


def share_cut(cuts: Sequence[Cut]) -> dict[str, float]:
    """How much of what plain decoding said was cut as a loop."""
    n_said = sum(c.n_said for c in cuts)
    return {
        "n_answers": len(cuts),
        "n_answers_cut": sum(c.n_kept < c.n_said for c in cuts),
        "share_of_tokens": 1 - sum(c.n_kept for c in cuts) / n_said if n_said else 0.0,
    }
