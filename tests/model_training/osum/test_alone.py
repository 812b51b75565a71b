"""A clip in a batch is answered as alone, and costs the same: with LoRA, merged, and with Whisper's own window."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from model_training.osum.build import build
from model_training.osum.data import padded_features
from model_training.osum.model import Osum
from model_training.osum.parts import whisper
from model_training.osum.parts.llm import merge_lora
from model_training.osum.parts.mel import frames_of, log_mel
from model_training.osum.settings import load
from tests.model_training.osum.questions import drawn, make_parts
from tests.support.corpus import voice

SECONDS = (1.0, 29.0, 3.37, 12.0)
CLIPS = [voice(int(16_000 * seconds), 110 + 40 * place, place) for place, seconds in enumerate(SECONDS)]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return make_parts(tmp_path_factory.mktemp("parts"))


def batch(model: Osum, pcms: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    arrays = padded_features([log_mel(pcm, model.bins, full_window=model.full_window) for pcm in pcms], model.bins)
    return torch.from_numpy(arrays["features_BFM"]), torch.from_numpy(arrays["mel_lengths_B"])


def check(model: Osum) -> None:
    # Questions and answers of several lengths, for their padding counts too.
    questions = [model.chat.question(text) for text in ("what is said", "who", "is this male or female, and why", "?")]
    answers = [model.chat.answer(text) for text in ("it is said", "no", "female, or male, or neither", "here")]
    together = model.losses(*batch(model, CLIPS), questions, answers).loss_B
    said = model.answer(*batch(model, CLIPS), questions, 12)
    assert len(set(said)) > 1, "a model that says one thing of everything proves nothing"
    for place, pcm in enumerate(CLIPS):
        alone = model.losses(*batch(model, [pcm]), [questions[place]], [answers[place]]).loss_B
        torch.testing.assert_close(together[place], alone[0], atol=1e-4, rtol=0)
        assert model.answer(*batch(model, [pcm]), [questions[place]], 12) == [said[place]]


@pytest.mark.parametrize("window", ["own", "full"])
def test_a_clip_in_a_batch_is_answered_as_alone_and_so_when_merged(parts: list[str], window: str) -> None:
    model = drawn(load(None, [*parts, f"model.encoder.window={window}"]))
    check(model)
    questions = [model.chat.question("what is said")] * len(CLIPS)
    answers = [model.chat.answer("it is said")] * len(CLIPS)
    before = model.losses(*batch(model, CLIPS), questions, answers).loss_B
    said = model.answer(*batch(model, CLIPS), questions, 12)
    merge_lora(model.llm)
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
    torch.testing.assert_close(model.losses(*batch(model, CLIPS), questions, answers).loss_B, before, atol=1e-3, rtol=0)
    assert model.answer(*batch(model, CLIPS), questions, 12) == said
    check(model)


def test_a_clip_is_aligned_in_a_batch_as_alone_and_remembered_as_heard(parts: list[str]) -> None:
    frozen = ["phases=[{steps: 0, parts: [adaptor], align: 1}]", "model.encoder.window=own"]
    model = drawn(load(None, [*parts, *frozen]))
    words = [model.chat.words(text) for text in ("what is said", "male", "", "here is what")]
    units = torch.tensor([model.chat.space, *sorted({token for said in words for token in said})])
    cost = model.align(model.speech(*batch(model, CLIPS)), words, units)
    assert cost.isfinite().all()
    assert (cost > 0).tolist() == [True, True, False, True], "nothing to align costs nothing"
    for place, pcm in enumerate(CLIPS):
        alone = model.align(model.speech(*batch(model, [pcm])), [words[place]], units)[0]
        torch.testing.assert_close(cost[place], alone, atol=1e-3, rtol=1e-5)
    remembering = drawn(load(None, [*parts, *frozen, "model.encoder.remember=true"]))
    met = [remembering.speech(*batch(remembering, CLIPS[place : place + 1]))[0] for place in range(4)]
    for one, again in zip(met, remembering.speech(*batch(remembering, CLIPS)), strict=True):
        torch.testing.assert_close(again, one, atol=1e-5, rtol=0)
    assert remembering.memory is not None
    assert len(remembering.memory) == len(CLIPS)


def test_what_is_behind_a_clips_end_would_be_heard_without_the_mask(parts: list[str]) -> None:
    """The test above can fail: the encoder without its own lengths hears the padding."""
    encoder = drawn(load(None, parts)).encoder
    short = torch.from_numpy(log_mel(CLIPS[0], 80, full_window=False).features_FM)[None]
    long = torch.nn.functional.pad(short, (0, 0, 0, 900))
    lengths = torch.tensor([short.shape[1]])
    alone, _ = whisper.encode(encoder, short, lengths, full_window=False)
    masked, _ = whisper.encode(encoder, long, lengths, full_window=False)
    careless, _ = whisper.encode(encoder, long, torch.tensor([long.shape[1]]), full_window=False)
    torch.testing.assert_close(masked, alone, atol=1e-5, rtol=0)
    assert (careless[:, : alone.shape[1]] - alone).abs().max() > 0.01


def test_the_loss_is_of_the_answer_alone(parts: list[str]) -> None:
    """Against the plain way: all logits of the whole sequence, cross-entropy where the answer stands."""
    model = drawn(load(None, parts))
    features, lengths = batch(model, CLIPS[2:3])
    before, after = model.chat.question("what is said")
    answer = model.chat.answer("female")
    speech = model.speech(features, lengths)[0]
    embed = model.llm.get_input_embeddings()  # type: ignore[operator]
    whole = torch.cat([embed(torch.tensor(before)), speech, embed(torch.tensor(after + answer))])
    logits = model.llm(inputs_embeds=whole[None]).logits[0]
    wanted = torch.nn.functional.cross_entropy(logits[-len(answer) - 1 : -1], torch.tensor(answer), reduction="sum")
    found = model.losses(features, lengths, [(before, after)], [answer])
    torch.testing.assert_close(found.loss_B[0], wanted, atol=1e-4, rtol=0)
    assert int(found.tokens) == len(answer)


def test_keeping_fewer_activations_changes_no_gradient(parts: list[str]) -> None:
    found = []
    for kept in ("true", "false"):
        model = drawn(load(None, [*parts, f"model.checkpointing={kept}", "model.llm.lora_dropout=0.1"])).train()
        torch.manual_seed(3)
        questions, answers = [model.chat.question("who")] * 2, [model.chat.answer("male")] * 2
        model.losses(*batch(model, [CLIPS[0], CLIPS[2]]), questions, answers).loss_B.sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert any(name.startswith("encoder.conv1") for name in found[0])
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], atol=1e-5, rtol=1e-4, msg=name)


def test_mel_features_are_those_of_transformers() -> None:
    from transformers import WhisperFeatureExtractor

    wanted = (
        WhisperFeatureExtractor()(CLIPS[2] / 32768.0, sampling_rate=16_000, return_tensors="np").input_features[0].T
    )
    mel = log_mel(CLIPS[2], 80, full_window=True)
    np.testing.assert_allclose(mel.features_FM, wanted, atol=1e-5)
    assert mel.frames == frames_of(len(CLIPS[2])) == len(log_mel(CLIPS[2], 80, full_window=False).features_FM)


def test_the_starter_whisper_is_read_from_ctranslate2() -> None:
    """Its encoder gives what CTranslate2 itself gives."""
    import ctranslate2

    folder = Path(__file__).parents[3] / "examples/starter_engines/models/whisper-starter"
    mel = log_mel(CLIPS[2], 80, full_window=True)
    theirs = ctranslate2.models.Whisper(str(folder), compute_type="float32").encode(
        ctranslate2.StorageView.from_array(np.ascontiguousarray(mel.features_FM.T[None]))
    )
    ours, _ = whisper.encode(
        whisper.load(str(folder)).encoder,
        torch.from_numpy(mel.features_FM)[None],
        torch.tensor([3_000]),
        full_window=True,
    )
    np.testing.assert_allclose(ours.detach().numpy(), np.array(theirs), atol=1e-4)


def test_frozen_parts_are_bfloat16_and_trained_ones_float32(parts: list[str]) -> None:
    settings = load(None, [*parts, "phases=[{steps: 0, parts: [adaptor, llm]}]"])
    model = build(settings, torch.bfloat16).model
    kinds = {
        "encoder": {p.dtype for p in model.encoder.parameters()},
        "adaptor": {p.dtype for p in model.adaptor.parameters()},
        "lora": {p.dtype for name, p in model.llm.named_parameters() if "lora_" in name},
        "llm": {p.dtype for name, p in model.llm.named_parameters() if "lora_" not in name},
    }
    fine, coarse = {torch.float32}, {torch.bfloat16}
    assert kinds == {"encoder": coarse, "adaptor": fine, "lora": fine, "llm": coarse}
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.losses(*batch(model, CLIPS[:1]), [model.chat.question("who")], [model.chat.answer("a")]).loss_B
    assert torch.isfinite(loss).all()
