"""Make the demo crawl: three quarters of an hour of "web audio" in seven domains, and the truth that no stage reads.

    python -m examples.demo_crawl.make            from the repository's root; needs eSpeak NG

    seed ──held-out sentences──eSpeak NG──> domain's acoustics ──PyAV──> crawl/<domain>/<file>  (opus mp3 m4a webm flac
    wav)
                                                                   └──> truth.jsonl, one line per readable recording

audiobook: one clean voice, long files. interview: two voices in turns, long pauses. live: street noise or music under
speech, and stretches without any. sports: fast, over a crowd. music, silence: no speech. broken: what a crawl also
brings. No sentence here was ever trained on; of the voices some are unseen by both starter engines (`voices` in the
truth).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from examples.starter_engines import acoustics
from examples.starter_engines.grammar import sentence
from examples.starter_engines.voices import SAMPLE_RATE, UNSEEN, Speaker, say, training_voices
from operators.errors import UserError

HERE = Path(__file__).parent
SEED = 2025
CODECS = {  # extension -> PyAV container, codec, bit rate
    "opus": ("ogg", "libopus", 24_000),
    "webm": ("webm", "libopus", 24_000),
    "mp3": ("mp3", "libmp3lame", 32_000),
    "m4a": ("mp4", "aac", 32_000),
    "flac": ("flac", "flac", None),
    "wav": ("wav", "pcm_s16le", None),
}


@dataclass(kw_only=True)
class Track:
    """A recording in the making: float32 [samples] at 16 kHz so far, and what was said when."""

    audio: list[np.ndarray] = field(default_factory=list)
    segments: list[dict[str, Any]] = field(default_factory=list)
    length: int = 0

    def add(self, samples: np.ndarray) -> None:
        self.audio.append(samples.astype(np.float32))
        self.length += len(samples)

    def pause(self, seconds: float) -> None:
        self.add(np.zeros(int(seconds * SAMPLE_RATE)))

    def say(self, text: str, language: str, speaker: Speaker, level: float) -> None:
        start = self.length
        self.add(say(text, speaker) * level)
        self.segments.append(
            {
                "start_s": round(start / SAMPLE_RATE, 3),
                "end_s": round(self.length / SAMPLE_RATE, 3),
                "text": text,
                "language": language,
                "speaker": speaker.voice,
            }
        )

    def samples(self) -> np.ndarray:
        return np.concatenate(self.audio)


def room_tone(g: np.random.Generator, samples: int) -> np.ndarray:
    """The hiss of a quiet room near -65 dBFS."""
    return 0.00056 * acoustics.noise(g, "pink", samples)


def monologue(r: random.Random, language: str, voices: list[str], seconds: float, pace: tuple[int, int]) -> Track:
    speaker, track = Speaker.draw(r, voices, pace), Track()
    track.pause(1.0)
    while track.length < seconds * SAMPLE_RATE:
        for _ in range(r.randint(2, 5)):
            track.say(sentence(r, language, "test"), language, speaker, 0.9)
            track.pause(r.uniform(0.25, 0.7))
        track.pause(r.uniform(0.4, 1.5))
    return track


def audiobook(r: random.Random, language: str, voices: list[str], seconds: float) -> tuple[np.ndarray, Track]:
    track = monologue(r, language, voices, seconds, (140, 170))
    g = np.random.default_rng(r.getrandbits(32))
    return track.samples() + room_tone(g, track.length), track


def interview(r: random.Random, language: str, voices: list[str], seconds: float) -> tuple[np.ndarray, Track]:
    speakers, track = [Speaker.draw(r, [voice], (145, 195)) for voice in voices], Track()
    track.pause(2.0)
    turn = 0
    while track.length < seconds * SAMPLE_RATE:
        for _ in range(r.randint(1, 3)):
            track.say(sentence(r, language, "test"), language, speakers[turn % 2], (0.9, 0.5)[turn % 2])
            track.pause(r.uniform(0.2, 0.6))
        track.pause(r.uniform(0.5, 2.5))
        turn += 1
    g = np.random.default_rng(r.getrandbits(32))
    wet = acoustics.reverberate(g, track.samples(), 0.25)
    return acoustics.mix(wet, acoustics.noise(g, "pink", track.length), 25), track


def live(r: random.Random, language: str, voices: list[str], seconds: float) -> tuple[np.ndarray, Track]:
    track, parts = Track(), []
    g = np.random.default_rng(r.getrandbits(32))
    while track.length < seconds * SAMPLE_RATE:
        scene, speaker = Track(), Speaker.draw(r, voices, (150, 205))
        scene.pause(r.uniform(1, 5))
        for _ in range(r.randint(2, 5)):
            scene.say(sentence(r, language, "test"), language, speaker, 0.8)
            scene.pause(r.uniform(0.3, 1.2))
        snr_db = r.choice([14, 10, 7, 4, 1])
        background = acoustics.noise(g, r.choice(["street", "street", "music"]), scene.length)
        parts.append(acoustics.mix(scene.samples(), background, snr_db))
        offset = track.length / SAMPLE_RATE
        for segment in scene.segments:
            moved = {name: round(segment[name] + offset, 3) for name in ("start_s", "end_s")}
            track.segments.append({**segment, **moved, "snr_db": snr_db})
        track.length += scene.length
    return np.concatenate(parts), track


def sports(r: random.Random, language: str, voices: list[str], seconds: float) -> tuple[np.ndarray, Track]:
    track, speaker = Track(), Speaker.draw(r, voices, (205, 235))
    track.pause(1.0)
    while track.length < seconds * SAMPLE_RATE:
        for _ in range(r.randint(2, 6)):
            track.say(sentence(r, language, "test"), language, speaker, 0.9)
            track.pause(r.uniform(0.1, 0.35))
        track.pause(r.uniform(0.4, 2.0))
    g = np.random.default_rng(r.getrandbits(32))
    time = np.arange(track.length)
    swell = np.interp(time, np.linspace(0, track.length, 40), g.uniform(0.3, 1.8, 40))
    return acoustics.mix(track.samples(), acoustics.noise(g, "pink", track.length) * swell, 10), track


def music(r: random.Random, language: str, voices: list[str], seconds: float) -> tuple[np.ndarray, Track]:
    samples = int(seconds * SAMPLE_RATE)
    return 0.15 * acoustics.music(np.random.default_rng(r.getrandbits(32)), samples), Track(length=samples)


def silence(r: random.Random, language: str, voices: list[str], seconds: float) -> tuple[np.ndarray, Track]:
    samples = int(seconds * SAMPLE_RATE)
    return room_tone(np.random.default_rng(r.getrandbits(32)), samples), Track(length=samples)


def encode(path: Path, audio: np.ndarray, rate: int) -> None:
    """Write float [samples] at 16 kHz as `path` says by its extension, at `rate` Hz, mono."""
    import av
    from scipy.signal import resample_poly

    container_name, codec, bit_rate = CODECS[path.suffix[1:]]
    if rate != SAMPLE_RATE:
        step = int(np.gcd(rate, SAMPLE_RATE))
        audio = resample_poly(audio, rate // step, SAMPLE_RATE // step)
    pcm = np.clip(np.round(audio * 32767), -32768, 32767).astype(np.int16)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=container_name, options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.layout = "mono"
        if bit_rate:
            stream.bit_rate = bit_rate
        for at in range(0, len(pcm), rate):
            frame = av.AudioFrame.from_ndarray(pcm[None, at : at + rate], format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate, at
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


Scene = Callable[[random.Random, str, list[str], float], tuple[np.ndarray, Track]]


def known_voices() -> list[str]:
    """The voices that both starter engines were trained on."""
    return [voice for voice in training_voices(0) if voice in training_voices(1)]


def plan() -> list[tuple[str, Scene, str, list[str], float, int]]:
    """File, how it is made, language, the voices to draw from, seconds, sample rate."""
    known = known_voices()
    new = list(UNSEEN)
    return [
        ("audiobook/the-long-road-01.mp3", audiobook, "en", [known[3]], 205, 44_100),
        ("audiobook/the-long-road-02.opus", audiobook, "en", [new[2]], 165, 48_000),
        ("audiobook/城里的早晨-01.opus", audiobook, "zh", [known[7]], 205, 48_000),
        ("audiobook/城里的早晨-02.m4a", audiobook, "zh", [new[3]], 165, 44_100),
        ("interview/episode 12.m4a", interview, "en", [known[5], new[6]], 170, 44_100),
        ("interview/访谈 第三期.webm", interview, "zh", [known[10], new[7]], 170, 48_000),
        ("live/street-corner.mp3", live, "en", [*known[:4], new[0]], 125, 22_050),
        ("live/集市直播.opus", live, "zh", [*known[4:8], new[9]], 125, 48_000),
        ("live/phone-call.wav", live, "zh", known[8:12], 60, 8_000),
        ("sports/final-second-half.mp3", sports, "en", [known[2]], 110, 32_000),
        ("sports/足球解说.webm", sports, "zh", [known[6]], 110, 48_000),
        ("music/two-chords.opus", music, "", [], 100, 48_000),
        ("music/jingle.wav", music, "", [], 8, 44_100),
        ("silence/empty-room.flac", silence, "", [], 60, 16_000),
        # Later ones stand at the end: a recording's seed is its place.
        ("audiobook/letters-home-01.opus", audiobook, "en", [known[9]], 110, 48_000),
        ("audiobook/letters-home-02.opus", audiobook, "en", [new[5]], 110, 48_000),
        ("audiobook/山间来信-01.opus", audiobook, "zh", [known[12]], 110, 48_000),
        ("audiobook/山间来信-02.opus", audiobook, "zh", [new[1]], 110, 48_000),
        ("interview/episode 13.opus", interview, "en", [known[13], new[8]], 100, 48_000),
        ("interview/访谈 第四期.opus", interview, "zh", [known[14], new[4]], 100, 48_000),
        ("live/harbour.opus", live, "en", [*known[15:18], new[6]], 90, 48_000),
        ("sports/羽毛球决赛.opus", sports, "zh", [known[11]], 90, 48_000),
    ]


def familiarity(speakers: set[str]) -> str:
    """Whether both engines know who speaks: "seen", "unseen", "mixed", or "none" where nobody does."""
    kinds = {"seen" if speaker in known_voices() else "unseen" for speaker in speakers}
    return "mixed" if len(kinds) > 1 else next(iter(kinds), "none")


def broken(folder: Path, whole: Path) -> None:
    """What a crawl also brings: an empty file, a web page, noise by the name of audio, an m4a cut off, a WAV header."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "empty.mp3").write_bytes(b"")
    page = "<!DOCTYPE html><html><head><title>404 Not Found</title></head><body><h1>Not Found</h1></body></html>\n"
    (folder / "not-found.mp3").write_text(page)
    (folder / "random.opus").write_bytes(np.random.default_rng(SEED).bytes(4096))
    (folder / "download-stopped.m4a").write_bytes((whole / "audiobook/城里的早晨-02.m4a").read_bytes()[:20_000])
    (folder / "header-only.wav").write_bytes((whole / "live/phone-call.wav").read_bytes()[:44])


def make() -> None:
    crawl, lines = HERE / "crawl", []
    for index, (name, scene, language, voices, seconds, rate) in enumerate(plan()):
        audio, track = scene(random.Random(f"{SEED}/{index}"), language, voices, seconds)
        encode(crawl / name, audio, rate)
        lines.append(
            {
                "recording_id": name,
                "path": name,
                "domain": name.partition("/")[0],
                "language": language or None,
                "duration_s": round(len(audio) / SAMPLE_RATE, 3),
                "voices": familiarity({segment["speaker"] for segment in track.segments}),
                "segments": track.segments,
            }
        )
        print(f"{name}  {lines[-1]['duration_s']:.0f} s  {(crawl / name).stat().st_size / 1e3:.0f} kB")
    broken(crawl / "broken", crawl)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (HERE / "truth.jsonl").write_text(text, "utf-8")
    minutes = sum(line["duration_s"] for line in lines) / 60
    megabytes = sum(file.stat().st_size for file in crawl.rglob("*") if file.is_file()) / 1e6
    print(f"{minutes:.1f} minutes, {megabytes:.1f} MB")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.demo_crawl.make", description=__doc__.splitlines()[0])
    parser.parse_args(arguments)
    try:
        make()
    except UserError as error:
        print(f"touchasp: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
