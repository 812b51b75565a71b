"""Numbers and reasons as a person reads them, for the terminal and the page.

samples, percents, reason codes ──> "12.3 min", "51.6 %", "The two transcripts differ in too many words."
"""

from __future__ import annotations

from operators.clip import SAMPLE_RATE

EXPLANATIONS = {
    # decode and plan: files, or stretches of them
    "missing": "The file is not there.",
    "not_a_file": "A folder, pipe or device where a recording was expected.",
    "permission": "The file may not be read.",
    "read_error": "The disk or the store failed while the file was read.",
    "empty_file": "The file has no bytes.",
    "too_large": "Beyond a limit on size, length, channels or sample rate.",
    "not_audio": "No known audio or video format: a web page, a text, an archive, a playlist.",
    "bad_header": "A known format whose header is damaged.",
    "no_audio_stream": "A video without sound.",
    "unsupported_codec": "A codec that FFmpeg does not decode.",
    "decode_error": "The audio data are damaged.",
    "decoder_crash": "The decoder crashed on this file, each time it was tried.",
    "decoder_timeout": "The decoder did not finish in time.",
    "truncated": "The file ends before the length that it declares.",
    "trailing_data": "The header claims less audio than the file holds; what lies beyond the claim is not used.",
    "other_track": "Another audio track holds sound as well; one track is used.",
    "gap": "The recording's own clock jumps: audio is missing there.",
    "non_finite": "Sample values that are no numbers.",
    "duplicate": "The same recording was named before.",
    "bad_uri": "No file can have this name.",
    "unsupported_scheme": "Neither a path nor an s3:// address.",
    "unreadable_tar": "A tar that is compressed or damaged.",
    "earlier_run": "The shards of an earlier run, which are not curated again.",
    "bad_manifest_line": "A line of the manifest that cannot be read.",
    # segment
    "too_short": "Speech of less than 2 s with no neighbour near enough to join.",
    # transcribe
    "empty_asr": "The recogniser wrote nothing.",
    "loop": "The recogniser repeats itself: it lost the thread.",
    "stock_phrase": "A phrase that recognisers invent over silence or music, such as “Thank you for watching”.",
    "too_fast": "More words per second than anyone speaks.",
    "too_slow": "Too few words for the length of the clip.",
    "low_logprob": "The recogniser was unsure of its own words.",
    "other_language": "A language that the run does not collect.",
    "uncertain_language": "No language was certain enough, or it is not that of its recording.",
    # copilot
    "no_copilot": "No second recogniser is set up for this language, so nobody can confirm the transcript.",
    "empty_copilot": "The second recogniser wrote nothing.",
    # rover
    "wer": "The two transcripts differ in too many words, though they sound alike.",
    "per": "The two transcripts differ in too many sounds.",
    "wer_and_per": "The two transcripts differ in too many words and too many sounds.",
    "numbers": "The two transcripts hold different numbers; in a long clip that is a small share of the words.",
    "low_confidence": "The two agree, but by a hand-checked sample such a label is too likely wrong.",
    # annotate
    "low_snr": "The noise is too loud beside the speech.",
    "narrow_band": "The sound lacks its high frequencies, as over a telephone, whatever the file's sample rate.",
    "clipped": "Too many samples are cut off at full scale.",
    "low_dnsmos": "A model of what listeners would say of the sound (DNSMOS) gives it too few points.",
}
"""In plain words what each reason means."""


def explain(reason: str) -> str:
    """Return what a reason means in plain words, "" for an unknown one."""
    return EXPLANATIONS.get(reason, "")


def human_time(samples: int) -> str:
    """Return a number of samples as `human_seconds` does."""
    return human_seconds(samples / SAMPLE_RATE)


def human_seconds(seconds: float) -> str:
    """Return a length in the unit that suits it: 42.0 s, 12.3 min, 4.56 h, 1,234 h, 1.26 M h."""
    if seconds == 0:
        return "0 s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3597:
        return f"{seconds / 60:.1f} min"
    hours = seconds / 3600
    if hours >= 999_500:
        return f"{hours / 1e6:,.2f} M h"
    return f"{hours:.2f} h" if hours < 99.995 else f"{hours:,.0f} h"


def human_percent(percent: float | None) -> str:
    """Return a percentage with one decimal, "–" for None; what is not all never reads as all, nor some as nothing."""
    if percent is None:
        return "–"
    if 99.95 <= percent < 100:
        return "99.9 %"
    return "<0.1 %" if 0 < percent < 0.05 else f"{percent:.1f} %"


def human_share(part: float, whole: float) -> str:
    """Return a part of a whole in percent, "–" where there is no whole."""
    return human_percent(100 * part / whole if whole else None)


def human_factor(factor: float | None) -> str:
    """Return how many times as much: 3.2×, 41×; "–" for None."""
    return "–" if factor is None else f"{factor:.1f}×" if factor < 9.95 else f"{factor:,.0f}×"


def clock(samples: int) -> str:
    """Return a place in a recording: 0:12:34.5."""
    tenths = samples * 10 // SAMPLE_RATE
    hours, rest = divmod(tenths, 36_000)
    return f"{hours}:{rest // 600:02d}:{rest % 600 / 10:04.1f}"


def clock_time(seconds: float) -> str:
    """Return time that passed or is left: 0:12:34, 2 d 3:04:05."""
    whole = int(seconds)
    days, rest = divmod(whole, 86_400)
    text = f"{rest // 3600}:{rest % 3600 // 60:02d}:{rest % 60:02d}"
    return f"{days} d {text}" if days else text


def shares_in_one_unit(samples: list[int]) -> list[str]:
    """Return the lengths in the unit that suits the first, which is the sum of the others, rounded to add up as
    printed.

    Every term is rounded down, then the largest remainders up, until the printed terms sum to the printed total.
    """
    total = samples[0] / SAMPLE_RATE
    unit, scale = ("h", 3600) if total >= 3597 else ("min", 60) if total >= 59.95 else ("s", 1)
    decimals = 0 if total / scale >= 99_999.5 else 1 if total / scale >= 9_999.5 else 2
    quantum = SAMPLE_RATE * scale // 10**decimals
    floors = [count // quantum for count in samples]
    whole = (samples[0] + quantum // 2) // quantum
    missing = whole - sum(floors[1:])
    by_remainder = sorted(range(1, len(samples)), key=lambda at: (-(samples[at] % quantum), at))
    for at in by_remainder[: max(0, missing)]:
        floors[at] += 1
    return [f"{count / 10**decimals:,.{decimals}f} {unit}" for count in [whole, *floors[1:]]]


def printable(text: str) -> str:
    """Return text from a crawl as a terminal may print it: control and direction characters become escapes."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)
