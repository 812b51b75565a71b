"""Do two recognisers agree? Measure (WER over mixed tokens, PER over phones), then judge.

    Hypothesis (ASR) ────┐ spoken ─┬─folded──tokens──> WER ┐
    Hypothesis (copilot)─┘  forms  │        ──phones──> PER ┼─> Agreement ──AgreementRule──> Verdict: label or reason
                                   │        ──numbers─> same ┘                                       │
                                   └──────────────────────────── the label is a spoken form ────────┘

Measuring and judging are apart so that thresholds can change without a second listen: everything `judge` reads is in
the ledger. The rule is the paper's, "drop data with WER greater than 10 and PER greater than 5" (TouchASP, section 2),
read as "keep when both are within bounds"; the literal other reading is `AgreementRule(drop_when="both")`. To it we add
that the numbers must be the same (`numbers: strict`): in a long clip a wrong number is a small share of the words.

With several copilots the agreement is that of the copilot nearest to the ASR, and the label is a word-level vote of all
engines (operators/rover.py). Nearest, because the rule asks for two independent recognisers that agree: an engine more
can then only save a clip that another copilot misheard, never lose one, and adding an engine never needs new
thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from operators.clip import Agreement, Hypothesis, Rejection, Verdict
from operators.confidence import Calibration, evidence
from operators.edits import error_rate
from operators.language import canonical
from operators.rover import vote
from operators.settings import check, setting
from operators.text.folded import Compared, Folder
from operators.text.phones import Phonetiser
from operators.text.spoken import tokens

EMPTY_ASR = "empty_asr"
EMPTY_COPILOT = "empty_copilot"
WER = "wer"
PER = "per"
WER_AND_PER = "wer_and_per"
NUMBERS = "numbers"
LOW_CONFIDENCE = "low_confidence"
REASONS = (EMPTY_ASR, EMPTY_COPILOT, WER, PER, WER_AND_PER, NUMBERS, LOW_CONFIDENCE)
"""The closed list of why stage "rover" rejects a clip."""


ENGINES = ("asr", "copilot")


@dataclass(kw_only=True)
class AgreementRule:
    """An AgreementRule says when two transcripts agree well enough, and which of them becomes the label.

    It is the section `rover` of the settings. `reference` and `label` name an engine for each language, with "default"
    for the rest. `reference` and `tones` take part in measuring, the rest in judging alone. Raises UserError.
    """

    max_wer: float = setting(10.0, "percent; infinity switches the rule off", at_least=0, infinite=True)
    max_per: float = setting(5.0, "percent", at_least=0, infinite=True)
    drop_when: str = setting(
        "either", "drop a clip when WER or PER exceeds its limit, or only when both do", choices=("either", "both")
    )
    tones: bool = setting(True, "compare the tones of Mandarin phones")
    reference: dict[str, str] = setting(
        {"zh": "copilot", "default": "asr"}, "by language, whose transcript the rates are counted on", choices=ENGINES
    )
    label: dict[str, str] = setting(
        {"zh": "copilot", "default": "asr"}, "by language, whose transcript becomes the label", choices=ENGINES
    )
    label_form: str = setting(
        "spoken",
        "the words as they are said, numbers and signs among them, without punctuation; or as the engine wrote it",
        choices=("spoken", "written"),
    )
    numbers: str = setting(
        "strict",
        "drop a clip whose transcripts hold different numbers, however long it is; or count them as any other word",
        choices=("strict", "counted"),
    )
    calibration: dict[str, Calibration] = setting(
        {}, "by language, how likely a label is right and how likely it must be; written by `calibrate`"
    )

    def __post_init__(self) -> None:
        check(self, "rover")

    def side(self, choice: Mapping[str, str], language: str | None) -> str:
        """Return "asr" or "copilot": what `reference` or `label` says for a language; the ASR when it says nothing."""
        code = canonical(language) or "default"
        # The keys are written by people: zh-CN or Mandarin say what is done with zh.
        return next((said for key, said in choice.items() if canonical(key) == code), choice.get("default", "asr"))


def _tokens(spoken: str) -> list[str]:
    """`tokens` of a spoken form, where an ASCII text is words between spaces and needs no regular expression."""
    return spoken.split() if spoken.isascii() else tokens(spoken)


class AgreementJudge:
    """An AgreementJudge measures and judges pairs of transcripts. Cheap to build, pure afterwards."""

    def __init__(
        self,
        rule: AgreementRule | None = None,
        folder: Folder | None = None,
        phonetiser: Phonetiser | None = None,
    ) -> None:
        self.rule = rule or AgreementRule()
        self.folder = folder or Folder()
        self.phonetiser = phonetiser or Phonetiser(tones=self.rule.tones)

    def measure(
        self, asr: Hypothesis, copilots: Sequence[Hypothesis], language: str | None, seconds: float
    ) -> Agreement:
        """Return how far the ASR agrees with the nearest copilot: one with the same numbers if there is any, then the
        lowest WER + PER, then the first.

        `seconds` is the clip's length, for the speech rate. Raises ValueError without a copilot: that clip is the
        copilot stage's `no_copilot`.
        """
        if not copilots:
            raise ValueError("no copilot to compare with")
        measured = []
        for copilot in copilots:
            compared = self.folder.compare(asr.text, copilot.text, language)
            measured.append((compared, compared.numbers_agree(language), self.rates(compared, language)))
        strict = self.rule.numbers == "strict"
        compared, same_numbers, (wer, per) = min(measured, key=lambda one: (strict and not one[1], sum(one[2])))
        asr_norm, copilot_norm = compared.first.spoken, compared.second.spoken
        return Agreement(
            wer=wer,
            per=per,
            asr_norm=asr_norm,
            copilot_norm=copilot_norm,
            reference=self.rule.side(self.rule.reference, language),
            tokens_per_second=len(_tokens(asr_norm)) / seconds if seconds > 0 else 0.0,
            numbers_agree=same_numbers,
        )

    def rates(self, compared: Compared, language: str | None) -> tuple[float, float]:
        """Return WER and PER of two folded forms, in percent of the reference's length."""
        asr, copilot = compared.first.folded, compared.second.folded
        if compared.first.spoken == compared.second.spoken:  # most pairs worth keeping
            return 0.0, 0.0
        if asr == copilot:  # two fillers that differ are not one word that agrees
            return (0.0, 0.0) if asr else (100.0, 100.0)
        reference, hypothesis = _tokens(asr), _tokens(copilot)
        reference_phones = self.phonetiser.phones(asr, language)
        hypothesis_phones = self.phonetiser.phones(copilot, language)
        if self.rule.side(self.rule.reference, language) == "copilot":
            reference, hypothesis = hypothesis, reference
            reference_phones, hypothesis_phones = hypothesis_phones, reference_phones
        return error_rate(reference, hypothesis), error_rate(reference_phones, hypothesis_phones)

    def judge(self, agreement: Agreement, hypotheses: Sequence[Hypothesis], language: str | None) -> Verdict:
        """Keep with a label, or reject with one of REASONS. `hypotheses` as in a clip: the ASR, then the copilots."""
        rejection = reject(agreement, self.rule) or self._doubt(agreement, hypotheses, language)
        if rejection is not None:
            return Verdict(rejection=rejection)
        return Verdict(label=self._label(agreement, hypotheses, language))

    def _doubt(self, agreement: Agreement, hypotheses: Sequence[Hypothesis], language: str | None) -> Rejection | None:
        """Return why a clip within the limits is dropped all the same; None without a calibration for its language."""
        calibration = self.rule.calibration.get(canonical(language) or "default")
        if calibration is None:
            return None
        right = 100 * calibration.probability(evidence(agreement, hypotheses))
        if right >= calibration.min_right:
            return None
        detail = f"right with a probability of {right:.1f} %, and {calibration.min_right:g} % is asked for"
        return Rejection(stage="rover", reason=LOW_CONFIDENCE, detail=detail)

    def _label(self, agreement: Agreement, hypotheses: Sequence[Hypothesis], language: str | None) -> str:
        if len(hypotheses) > 2:
            texts = [hypothesis.text for hypothesis in hypotheses]
            spoken = self.folder.normaliser.spoken
            return vote(
                [spoken(text, language, " ".join(texts[:at] + texts[at + 1 :])) for at, text in enumerate(texts)]
            )
        side = self.rule.side(self.rule.label, language)
        if self.rule.label_form == "written":
            return hypotheses[0 if side == "asr" else 1].text.strip()
        return agreement.asr_norm if side == "asr" else agreement.copilot_norm


def reject(agreement: Agreement, rule: AgreementRule) -> Rejection | None:
    """Return why a measured clip is dropped, None when it is kept. A bound that is met exactly is not exceeded."""
    if not agreement.asr_norm:
        return Rejection(stage="rover", reason=EMPTY_ASR, detail="nothing is left of the ASR's text once normalised")
    if not agreement.copilot_norm:
        return Rejection(stage="rover", reason=EMPTY_COPILOT, detail="the copilot heard nothing")
    wer, per = agreement.wer > rule.max_wer, agreement.per > rule.max_per
    if not (wer and per if rule.drop_when == "both" else wer or per):
        if rule.numbers == "strict" and agreement.numbers_agree is False:
            return Rejection(stage="rover", reason=NUMBERS, detail="the transcripts hold different numbers")
        return None
    detail = f"WER {agreement.wer:.1f} %, PER {agreement.per:.1f} % of the {agreement.reference}'s transcript"
    return Rejection(stage="rover", reason=WER_AND_PER if wer and per else WER if wer else PER, detail=detail)


def judge_pair(
    asr_text: str, copilot_text: str, language: str | None, rule: AgreementRule | None = None
) -> tuple[Agreement, Verdict]:
    """Measure and judge two transcripts that belong to no clip (tables of pairs, a quick look): speech rate is 0."""
    judge = AgreementJudge(rule)
    asr = Hypothesis(engine="asr", text=asr_text, language=language)
    copilot = Hypothesis(engine="copilot", text=copilot_text, language=language)
    agreement = judge.measure(asr, [copilot], language, seconds=0.0)
    return agreement, judge.judge(agreement, [asr, copilot], language)
