"""The engines of curation and recognition on a card, beside the CPU.

clips of the demo crawl ──WhisperX, shared windows──> texts on the CPU and on the card, seconds of audio a second
recordings ──Recognizer (ONNX)──> the same
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import torch  # before CTranslate2, which finds cuBLAS and cuDNN where torch has loaded them

from benchmarks.accelerator.checks import Context, Finding, Skipped
from benchmarks.accelerator.data import STARTERS, clips, recordings
from operators.clip import SAMPLE_RATE


def card(context: Context) -> Finding:
    """What the card is, and what torch finds it good for."""
    from model_training.model.dispatch import grouped_product_works

    if not context.on_card:
        return Finding(f"the CPU, torch {torch.__version__}", {"torch": torch.__version__})
    about = torch.cuda.get_device_properties(context.device)
    x = torch.empty(0, 16, dtype=torch.bfloat16, device=context.device)
    numbers = {
        "name": about.name,
        "gib": about.total_memory / 2**30,
        "capability": f"{about.major}.{about.minor}",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "bf16": torch.cuda.is_bf16_supported(),
        "grouped_bf16": grouped_product_works(x, 16),
    }
    return Finding(
        f"{about.name}, {numbers['gib']:.0f} GiB, capability {numbers['capability']}, torch {torch.__version__}, CUDA "
        f"{torch.version.cuda}; bf16 {'yes' if numbers['bf16'] else 'no'}, grouped product "
        f"{'yes' if numbers['grouped_bf16'] else 'no'}",
        numbers,
    )


def whisper(context: Context) -> Finding:
    """Whisper by CTranslate2 with shared windows: how many seconds of audio a second takes."""
    for module in ("ctranslate2", "whisperx"):
        if importlib.util.find_spec(module) is None:
            raise Skipped(f"{module} is not installed: pip install 'touchasp[curate]'")
    from operators.asr.whisperx import WhisperX

    folder = context.whisper or str(STARTERS / "whisper-starter")
    heard = list(clips(1 if context.quick else None))
    if context.quick:
        heard = heard[:3]
    few = heard[:12]
    texts = {}
    for device in dict.fromkeys(("cpu", context.device)):
        engine = WhisperX(folder, device=device, threads=4, batch_size=16, local_files_only=True)
        given = [clip.pcm for clip in few], [clip.language for clip in few], [clip.recording for clip in few]
        texts[device] = [found.text for found in engine.transcribe(*given)]
        if device == context.device:
            began = time.perf_counter()
            engine.transcribe(
                [clip.pcm for clip in heard], [clip.language for clip in heard], [clip.recording for clip in heard]
            )
            seconds = time.perf_counter() - began
        engine.close()
    audio = sum(len(clip.pcm) for clip in heard) / SAMPLE_RATE
    same = sum(one == other for one, other in zip(texts["cpu"], texts[context.device], strict=True))
    # float16 on a card: a word may differ where two were about as likely.
    wrong = "" if same >= 0.75 * len(few) else f"{len(few) - same} of {len(few)} texts are not the CPU's"
    return Finding(
        f"{Path(folder).name}: {audio / seconds:,.0f}x real time ({audio:.0f} s of audio in {seconds:.1f} s, "
        f"{len(heard)} clips in shared windows); {same} of {len(few)} texts as on the CPU",
        {
            "model": Path(folder).name,
            "real_time": audio / seconds,
            "audio_seconds": audio,
            "same": same,
            "of": len(few),
        },
        wrong,
    )


def onnx(context: Context) -> Finding:
    """An exported model in onnxruntime: the same text on the card, and how fast."""
    import onnxruntime

    from model_training.decoding.recognize import Recognizer
    from operators.audio.decode import decode

    if context.on_card and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise Skipped(f"onnxruntime {onnxruntime.__version__} has no CUDA: it takes onnxruntime-gpu in its place")
    audio = [decode(str(path)).pcm for path in recordings()[: 1 if context.quick else 6]]
    if context.quick:
        audio = [audio[0][: 20 * SAMPLE_RATE]]
    seconds = sum(len(pcm) for pcm in audio) / SAMPLE_RATE
    texts, rates = {}, {}
    for device in dict.fromkeys(("cpu", context.device)):
        recognizer = Recognizer(STARTERS / "perception-starter" / "n3", device=device, threads=0)
        recognizer.recognize([audio[0][: 5 * SAMPLE_RATE]], method="ctc_greedy")
        began = time.perf_counter()
        texts[device] = [found.text for found in recognizer.recognize(audio, method="ctc_greedy")]
        rates[device] = seconds / (time.perf_counter() - began)
    wrong = "" if all(texts["cpu"]) else "it hears nothing"
    if texts["cpu"] != texts[context.device]:
        wrong = "the card writes other text than the CPU"
    said = ", ".join(f"{device} {rate:,.0f}x real time" for device, rate in rates.items())
    return Finding(f"ctc_greedy of {seconds:.0f} s: {said}", {"real_time": rates}, wrong)
