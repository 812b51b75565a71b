"""Signs in one ASR transcript that the engine made it up, before any second engine is asked.

    text, seconds, avg_logprob ──> empty? ──> stock phrase? ──> loop? ──> speech rate? ──> log prob? ──> None

Ours, because whisperX's batched path ignores Whisper's `no_speech_threshold` and `compression_ratio_threshold`, and
because the latter (zlib on UTF-8 bytes) was tuned on English with spaces: here repetition is counted in tokens, one per
Han character. The rules are set to spare real speech (哈哈哈哈, 对对对, "no no no", counting, phone numbers); what
slips through meets the copilot, which does not invent the same things. Pure functions: same text, same answer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from operators.clip import Rejection
from operators.language import canonical
from operators.settings import check as check_settings
from operators.settings import setting

EMPTY_ASR = "empty_asr"
LOOP = "loop"
STOCK_PHRASE = "stock_phrase"
TOO_FAST = "too_fast"
TOO_SLOW = "too_slow"
LOW_LOGPROB = "low_logprob"
REASONS = (EMPTY_ASR, LOOP, STOCK_PHRASE, TOO_FAST, TOO_SLOW, LOW_LOGPROB)
"""The closed list of why this file rejects a clip in stage "transcribe"."""


@dataclass(kw_only=True)
class RateLimits:
    """RateLimits are plausible speech rates, pauses included. A digit counts as a Han character; in mixed text the
    times add up.
    """

    min_han_per_second: float = setting(0.5, "0 switches it off", at_least=0)
    max_han_per_second: float = setting(10.0, "fast Mandarin news is 6, fast banter 8", at_least=0, infinite=True)
    min_words_per_second: float = setting(0.3, "0 switches it off", at_least=0)
    max_words_per_second: float = setting(6.5, "fast English is 4.5", at_least=0, infinite=True)


_DEFAULT = "default"
_RATES = {
    _DEFAULT: RateLimits(),
    "vi": RateLimits(max_words_per_second=9.0),  # a word is a syllable
    "ja": RateLimits(min_words_per_second=0.1),  # kana count as letters of long words
    "th": RateLimits(min_words_per_second=0.1),
}


@dataclass(kw_only=True)
class HallucinationRules:
    """HallucinationRules hold the thresholds of this file; they are the section `hallucination` of the settings.

    Each can be switched off: 0 for a lower bound, infinity for an upper one. Raises UserError.
    """

    min_avg_logprob: float = setting(-1.0, "mean log-probability of a token; Whisper's own threshold", infinite=True)
    max_repeats: int | float = setting(
        3, "a token sequence said so often in a row is still speech, whatever its length", at_least=1, infinite=True
    )
    min_looped_tokens: int | float = setting(
        15,
        "and so is a longer run that repeats fewer tokens than this: 加油 eight times, 对 fifteen times",
        at_least=0,
        infinite=True,
    )
    min_playful_looped_tokens: int | float = setting(
        60,
        "the same for runs of laughter, singing syllables and digits only, which people do repeat",
        at_least=0,
        infinite=True,
    )
    min_stock_share: float = setting(
        0.8, "of a transcript's letters that subtitle credits and the like must cover", at_least=0, infinite=True
    )
    rates: dict[str, RateLimits] = setting(
        {}, 'speech rates by language, "default" for the rest; laid over built-in ones for vi, ja, th'
    )

    def __post_init__(self) -> None:
        check_settings(self, "hallucination")

    def rate_limits(self, language: str | None) -> RateLimits:
        """Return the plausible speech rates of a language."""
        known = _RATES | self.rates
        return known.get(canonical(language) or _DEFAULT) or known[_DEFAULT]


_HAN = "\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"

# Subtitle credits and sign-offs that Whisper learnt from video subtitles and says over silence and music. Matched on
# folded text (no spaces, punctuation or case). Only what nobody says as a whole utterance in the middle of speech: 谢谢
# and "thank you" are real. A sign-off really said at the end of a video is lost with them: two seconds each, seldom.
_STOCK = re.compile(
    "|".join(
        (
            "(?:感谢|感謝|谢谢|謝謝|多谢|多謝)(?:大家|您|你|各位)?(?:收看|收睇)(?:时局新闻|時局新聞)(?:再会|再會)?",
            "(?:非常)?(?:感谢|感謝|谢谢|謝謝|多谢|多謝)(?:大家|您|你们|你們|你|各位)?的?(?:观看|觀看|收看|收睇|观赏|觀賞)",
            "[请請]不吝(?:点赞|點贊|點讚)(?:订阅|訂閱)(?:转发|轉發)(?:打赏|打賞)(?:支持)?(?:明镜|明鏡)?[与與]?(?:点点|點點)?(?:栏目|欄目)?",
            "(?:明镜|明鏡)需要您的支持(?:欢迎|歡迎)(?:订阅|訂閱)(?:明镜|明鏡)?",
            "(?:请|請|欢迎|歡迎)(?:大家)?(?:(?:点赞|點贊|點讚|关注|關注|转发|轉發)*(?:订阅|訂閱))(?:点赞|點贊|點讚|关注|關注|转发|轉發)*"
            "(?:我们|我們|我)?的?(?:频道|頻道)?",
            "(?:请|請|欢迎|歡迎)(?:大家)?(?:关注|關注)(?:我们|我們|我)的(?:频道|頻道)",
            "(?:中文)?字幕由?amaraorg(?:社区|社區|社群)提供|由amaraorg(?:社区|社區|社群)提供的?字幕",
            f"(?:中文)?字幕by[a-z0-9{_HAN}]{{0,12}}|(?:中文)?字幕(?:志愿者|志願者)[{_HAN}]{{0,4}}|中文字幕提供",
            "(?:优优独播剧场|優優獨播劇場)(?:yoyotelevisionseriesexclusive)?|yoyotelevisionseriesexclusive",
            "(?:词曲|詞曲|作词|作詞|作曲|编曲|編曲)+李宗盛",
            "(?:thankyou|thanks)(?:so|very)?(?:much)?(?:all|everyone|guys)?forwatching(?:(?:this|the|my|our)(?:videos?|channel))?",
            "(?:please|dontforgetto|remembertoand|rememberto)?(?:like|share|comment|and|thisvideo)*subscribe"
            "(?:to(?:my|our|the|this)(?:youtube)?channel)?(?:formorevideos)?",
            "(?:ill)?see(?:you|ya)(?:all|guys)?inthenextvideo",
            "(?:subtitles|captions|subtitled|captioned|transcribed)by(?:theamaraorgcommunity|[a-z0-9]{1,24})",
            "ご(?:視聴|清聴)ありがとうございま(?:した|す)|チャンネル登録を?お(?:願|ねが)いします",
            "시청해주셔서감사합니다|구독과좋아요(?:부탁드립니다)?",
        )
    )
)

# Sounds named, nothing said: [Music], 【掌声】, (applause), *laughs*, and bare music notes. What is in square brackets
# is never speech; round ones also hold asides that were said, so there the word must name a sound.
_TAGS = re.compile(
    r"[\[【〔][^\]】〕]{1,30}[\]】〕]"
    r"|[(*][^)*]{0,20}(?:music|applause|laugh|chuckl|silence|inaudible|noise|sound|cheer|sigh|cough|音乐|音樂|掌声|掌聲|笑|静音|无声)"
    r"[^)*]{0,20}[)*]"
    "|[♪♫♬♩🎵🎶]+",
    re.IGNORECASE,
)

_NO_LETTER = re.compile(r"[^\w♪♫♬♩🎵🎶]|_")
_TOKEN = re.compile(f"[{_HAN}0-9]|(?:(?![{_HAN}0-9])[\\w'’])+")
_ONE_SYLLABLE = re.compile(f"[{_HAN}0-9]")
_UNSPACED_WORD_LETTERS = 6
"""a "word" beyond three times this length is unspaced text (Thai, kana), measured in words of this many letters."""

_PLAYFUL = frozenset("哈呵嘿嘻啊哦噢喔呀啦嗯咚噜嘟滴零〇一二两三四五六七八九十幺0123456789")
_PLAYFUL |= {"ha", "haha", "la", "na", "da", "oh", "ah", "yeah", "hey", "no"}
_PLAYFUL |= {"zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"}


def check(
    text: str, seconds: float, language: str | None, avg_logprob: float | None, rules: HallucinationRules
) -> Rejection | None:
    """Return why the transcript of a clip of `seconds` cannot be trusted, None when nothing speaks against it.

    `avg_logprob` is the mean log probability per token, None when the engine gives none. `text` is the engine's own,
    punctuation and all. Reasons are REASONS, asked in the order of the drawing above.
    """
    if not fold(text):
        return _rejection(EMPTY_ASR, "no letter in the transcript")
    share = stock_share(text)
    if share and share >= rules.min_stock_share:
        return _rejection(STOCK_PHRASE, f"{share:.0%} of the transcript is subtitle credits or sound tags")
    spoken = _TOKEN.findall(unicodedata.normalize("NFKC", text).lower())
    if repeated := find_loop(spoken, rules):
        return _rejection(LOOP, f"over and over: {' '.join(repeated)[:60]}")
    return _check_rate(spoken, seconds, language, rules) or _check_logprob(avg_logprob, rules)


def _rejection(reason: str, detail: str) -> Rejection:
    return Rejection(stage="transcribe", reason=reason, detail=detail)


def fold(text: str) -> str:
    """Return text with width and case folded and everything but letters, digits and music notes gone."""
    return _NO_LETTER.sub("", unicodedata.normalize("NFKC", text).lower())


def stock_share(text: str) -> float:
    """Return the share of a transcript's letters, 0 to 1, that belong to stock phrases and tags for sounds."""
    everything = len(fold(text))
    if not everything:
        return 0.0
    rest = _STOCK.sub("", fold(_TAGS.sub(" ", unicodedata.normalize("NFKC", text))))
    return 1 - len(rest) / everything


def find_loop(spoken: Sequence[str], rules: HallucinationRules) -> list[str]:
    """Return the token sequence that is repeated in a row beyond the rules' limits, [] when there is none.

    A stretch of period p in which L tokens equal the one p before them says its sequence 1 + L/p times; it is a loop
    when it is said more than `max_repeats` times and L reaches `min_looped_tokens`.
    """
    sequences: list[Sequence[str]] = [spoken]
    sequences += [word for word in spoken if len(word) > rules.min_looped_tokens]  # "hahahaha...", or unspaced scripts
    for sequence in sequences:
        if len(sequence) - len(set(sequence)) < rules.min_looped_tokens:
            continue  # too few tokens occur again; this answers for nearly every transcript
        playful = _PLAYFUL if sequence is spoken else set(sequence)  # letters repeat where tokens do not
        for period in range(1, int(len(sequence) // rules.max_repeats) + 1):
            least = max(rules.min_looped_tokens, period * rules.max_repeats)
            same = 0
            for index in range(period, len(sequence)):
                same = same + 1 if sequence[index] == sequence[index - period] else 0
                if same >= least:
                    start = index - same - period + 1
                    unit = list(sequence[start : start + period])
                    if same >= rules.min_playful_looped_tokens or not playful.issuperset(unit):
                        return unit
    return []


def _check_rate(
    spoken: Sequence[str], seconds: float, language: str | None, rules: HallucinationRules
) -> Rejection | None:
    limits = rules.rate_limits(language)
    han = sum(1 for token in spoken if _ONE_SYLLABLE.match(token))
    words = sum(_words(token) for token in spoken if not _ONE_SYLLABLE.match(token))
    said = f"{han} characters and {words:.0f} words in {seconds:.1f} s"
    if _seconds(han, limits.max_han_per_second) + _seconds(words, limits.max_words_per_second) > seconds:
        return _rejection(TOO_FAST, said)
    if _seconds(han, limits.min_han_per_second) + _seconds(words, limits.min_words_per_second) < seconds:
        return _rejection(TOO_SLOW, said)
    return None


def _words(token: str) -> float:
    return 1.0 if len(token) <= 3 * _UNSPACED_WORD_LETTERS else len(token) / _UNSPACED_WORD_LETTERS


def _seconds(count: float, per_second: float) -> float:
    """How long `count` takes; a rate of 0 is no limit: anything fills any time."""
    if not count:
        return 0.0
    return count / per_second if per_second else float("inf")


def _check_logprob(avg_logprob: float | None, rules: HallucinationRules) -> Rejection | None:
    if avg_logprob is None or avg_logprob >= rules.min_avg_logprob:
        return None
    return _rejection(LOW_LOGPROB, f"{avg_logprob:.2f} on average per token")
