"""Say a sentence: eSpeak NG through its C library, many voices, Mandarin from pinyin and English inside Mandarin.

    text ──pieces by script──> pinyin with tones | English words ──libespeak-ng──> int16 ──resample──> float32, 16 kHz

A voice is an eSpeak NG variant (a throat) with its own pitch, speed and vocal-tract scale, drawn per speaker. Mandarin
is given as pinyin with tone numbers from pypinyin, so polyphones are read by their word; the voice for it is
`cmn-latn-pinyin` (plain `cmn` spells what it is given as English).
"""

from __future__ import annotations

import ctypes
import ctypes.util
import random
import re
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from operators.errors import UserError

SAMPLE_RATE = 16000

_VARIANTS = """
Alex Alicia Andrea Andy Annie Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco Mario Michael Mike Nguyen adam
anika announcer antonio aunty belinda benjamin boris david ed edward f1 f2 f3 f4 f5 grandma grandpa gustave iven
iven2 iven3 iven4 john klatt klatt2 klatt3 klatt4 klatt5 linda m1 m2 m3 m4 m5 m6 m7 m8 marcelo max michel miguel
norbert pablo paul pedro quincy rob robert sandro shelby steph steph2 steph3 travis victor zac
"""
VOICES = _VARIANTS.split()
UNSEEN = ("Annie", "Hugo", "david", "f3", "grandma", "klatt3", "linda", "m4", "michel", "rob")
"""held out from every engine"""
FEMALE = frozenset(
    [
        "Alicia",
        "Andrea",
        "Annie",
        "anika",
        "aunty",
        "belinda",
        "f1",
        "f2",
        "f3",
        "f4",
        "f5",
        "grandma",
        "linda",
        "steph",
        "steph2",
        "steph3",
    ]
)
"""whose voice files say so; the others say male, or nothing, which is eSpeak NG's male voice"""

_PIECES = re.compile(r"[一-鿿]+|[a-z' ]+")
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4  # espeak_PARAMETER


def training_voices(draw: int) -> list[str]:
    """Voices of one engine's training set. Of the draws 0 (43 voices) and 1 (44) each has 22 of the other's, half of
    them; draw 2 has all 65 of both.
    """
    seen = [voice for voice in VOICES if voice not in UNSEEN]
    return [voice for index, voice in enumerate(seen) if index % 3 != 1 + draw]


@dataclass(frozen=True, slots=True, kw_only=True)
class Speaker:
    voice: str
    pitch: int = 50
    """eSpeak's 0 to 99."""
    pitch_range: int = 50
    words_per_minute: int = 165
    tract: float = 1.0
    """above 1: everything faster and higher, as with a shorter vocal tract."""
    accent: str = "en-us"

    @classmethod
    def draw(cls, r: random.Random, voices: list[str], words_per_minute: tuple[int, int] = (135, 215)) -> Speaker:
        return cls(
            voice=r.choice(voices),
            pitch=r.randint(25, 75),
            pitch_range=r.randint(30, 70),
            words_per_minute=r.randint(*words_per_minute),
            tract=r.choice([0.92, 0.96, 1.0, 1.0, 1.0, 1.04, 1.08]),
            accent=r.choice(["en-us", "en-us", "en-gb-x-rp"]),
        )


class _Espeak:
    """The C library of this process; not for threads."""

    def __init__(self) -> None:
        name = ctypes.util.find_library("espeak-ng") or "libespeak-ng.so.1"
        try:
            self._library = ctypes.CDLL(name)
        except OSError:
            raise UserError("libespeak-ng is not here: install eSpeak NG (Debian: apt-get install espeak-ng)") from None
        self._chunks: list[bytes] = []
        callback_type = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self.sample_rate = self._library.espeak_Initialize(2, 0, None, 0)  # 2: synchronous, audio to the callback
        self._callback = callback_type(self._collect)  # the library keeps only the pointer, so the object must live on
        self._library.espeak_SetSynthCallback(self._callback)

    def _collect(self, samples: object, count: int, events: object) -> int:
        if count > 0 and samples:
            self._chunks.append(ctypes.string_at(samples, 2 * count))  # type: ignore[arg-type]
        return 0

    def say(self, text: str, name: str, speaker: Speaker) -> np.ndarray:
        library = self._library
        if library.espeak_SetVoiceByName(name.encode()) != 0:
            raise UserError(f"this eSpeak NG has no voice {name}")
        library.espeak_SetParameter(_RATE, speaker.words_per_minute, 0)
        library.espeak_SetParameter(_PITCH, speaker.pitch, 0)
        library.espeak_SetParameter(_RANGE, speaker.pitch_range, 0)
        self._chunks = []
        data = text.encode() + b"\0"
        library.espeak_Synth(data, len(data), 0, 1, 0, 1, None, None)  # position in characters, text in UTF-8
        return np.frombuffer(b"".join(self._chunks), np.int16).astype(np.float32) / 32768


@cache
def espeak() -> _Espeak:
    """The library, loaded once. Raises UserError where it is not installed."""
    return _Espeak()


@lru_cache(maxsize=65536)
def pinyin(han: str) -> str:
    """Syllables with tone numbers, neutral tone as 5, for eSpeak's Mandarin voice."""
    from pypinyin import Style, lazy_pinyin

    return " ".join(lazy_pinyin(han, style=Style.TONE3, neutral_tone_with_five=True, tone_sandhi=True))


def _trim(samples: np.ndarray, threshold: float = 0.004) -> np.ndarray:
    loud = np.flatnonzero(np.abs(samples) > threshold)
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples[:0]


def say(text: str, speaker: Speaker) -> np.ndarray:
    """Speech of `text` by `speaker`: float32 [samples] at 16 kHz, silence at both ends trimmed, peak 0.5."""
    from scipy.signal import resample_poly

    engine = espeak()
    pause = np.zeros(engine.sample_rate // 25, np.float32)
    parts: list[np.ndarray] = []
    for piece in _PIECES.findall(text):
        if not piece.strip():
            continue
        han = piece[0] >= "\u4e00"
        name = ("cmn-latn-pinyin" if han else speaker.accent) + "+" + speaker.voice
        parts += [pause] if parts else []
        parts.append(_trim(engine.say(pinyin(piece) if han else piece.strip(), name, speaker)))
    speech = np.concatenate(parts)
    down = round(engine.sample_rate / 50 * speaker.tract)
    speech = resample_poly(speech, SAMPLE_RATE // 50, down).astype(np.float32)
    return 0.5 * speech / max(1e-4, float(np.abs(speech).max()))
