"""How likely is a label right? A logistic model over what the ledger holds of a clip, with coefficients from settings.

    Agreement, Hypotheses ──evidence──> numbers by name ──Calibration──> log-odds ──> probability ──> kept, or rejected

The coefficients come from a hand-checked sample (pipeline/calibrate), language by language, for engines differ in how
sure they are when they are wrong. Everything here is in the ledger, so that thresholds change without a second listen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from operators.clip import Agreement, Hypothesis
from operators.settings import setting
from operators.text.spoken import tokens

EVIDENCE = (
    "wer", "per", "avg_logprob", "language_prob", "log_tokens", "tokens_per_second", "tokens_per_second_squared",
    "numbers",
)  # fmt: skip
"""What a label's probability depends on, in the order of the coefficients."""


@dataclass(kw_only=True)
class Calibration:
    """A Calibration holds one language's coefficients, in log-odds per unit, and the least probability to keep a clip.

    `python -m pipeline calibrate` writes it. What an engine does not give counts as 0.
    """

    min_right: float = setting(
        0.0, "percent; a label that is less likely right is rejected as low_confidence", at_least=0, at_most=100
    )
    intercept: float = setting(0.0, "log-odds that a label is right when all the rest is 0")
    wer: float = setting(0.0, "per point of WER, up to 100")
    per: float = setting(0.0, "per point of PER, up to 100")
    avg_logprob: float = setting(0.0, "per unit of the ASR's mean log-probability of a token")
    language_prob: float = setting(0.0, "per unit of the probability of the language, 0 to 1")
    log_tokens: float = setting(0.0, "per unit of ln(1 + tokens in the ASR's transcript)")
    tokens_per_second: float = setting(0.0, "per token in a second")
    tokens_per_second_squared: float = setting(0.0, "per unit of its square: too fast and too slow are both bad")
    numbers: float = setting(0.0, "where there is a number in a transcript")

    def probability(self, evidence: Mapping[str, float]) -> float:
        """Return how likely the label is right, 0 to 1."""
        odds = self.intercept + sum(getattr(self, name) * evidence[name] for name in EVIDENCE)
        return 1 / (1 + math.exp(-max(-700.0, odds)))


_NUMBER = re.compile(
    r"\d|[零〇一二两兩三四五六七八九十百千万萬亿億]{2}"
    r"|\b(?:zero|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
    r"|(?:thir|four|fif|six|seven|eigh|nine)teen|(?:twen|thir|for|fif|six|seven|eigh|nine)ty|hundred|thousand|million"
    r"|billion)\b",
    re.IGNORECASE,
)


def evidence(agreement: Agreement, hypotheses: Sequence[Hypothesis]) -> dict[str, float]:
    """Return what `EVIDENCE` names of a measured clip. hypotheses: the ASR's, then the copilots'."""
    asr, rate = hypotheses[0], agreement.tokens_per_second or 0.0
    texts = [*(each.text for each in hypotheses), agreement.asr_norm, agreement.copilot_norm]
    return {
        "wer": min(agreement.wer, 100.0),
        "per": min(agreement.per, 100.0),
        "avg_logprob": asr.avg_logprob or 0.0,
        "language_prob": asr.language_prob or 0.0,
        "log_tokens": math.log1p(len(tokens(agreement.asr_norm))),
        "tokens_per_second": rate,
        "tokens_per_second_squared": rate * rate,
        "numbers": float(any(_NUMBER.search(text) for text in texts)),
    }
