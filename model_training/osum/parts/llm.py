"""The language model: any causal one with a chat template, with LoRA, or a small random one for trials.

source ──load_llm──> Llm (model, Chat, digest)     Chat: template and tokens of a turn around the speech
"random" ──make_random──> a folder of transformers: a Qwen2 and a byte-level BPE of the hand-off's texts
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model_training.osum.parts.sources import digest, find, quietly
from model_training.osum.settings import LlmSettings
from operators.errors import UserError

RANDOM = "random"
_SPEECH, _ANSWER = "{{speech}}", "{{answer}}"
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + "
    "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class Chat:
    """A Chat makes token ids of a turn: what stands before the speech, the question behind it, and the answer."""

    def __init__(self, tokenizer: Any, source: str) -> None:
        """Take a tokenizer of transformers. Raises UserError where it has no chat template, or one without an end."""
        self.tokenizer = tokenizer
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                f"model.llm.source={source} has no chat template: take a model that answers (-Instruct, -Chat)"
            )
        turn = tokenizer.apply_chat_template(
            [{"role": "user", "content": _SPEECH}, {"role": "assistant", "content": _ANSWER}], tokenize=False
        )
        _, found, rest = turn.partition(_ANSWER)
        ends = self._ids(rest.lstrip()) if found else []
        self.end: int | None = ends[0] if ends else tokenizer.eos_token_id
        if self.end is None or not found:
            raise UserError(f"model.llm.source={source}: its chat template does not say where an answer ends")

    def question(self, prompt: str) -> tuple[list[int], list[int]]:
        """Return the ids before the speech and those behind it, up to where the answer begins."""
        turn = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": f"{_SPEECH}\n{prompt}"}], tokenize=False, add_generation_prompt=True
        )
        before, _, after = turn.partition(_SPEECH)
        return self._ids(before), self._ids(after)

    def words(self, text: str) -> list[int]:
        """Return the ids of a text's words, each with the space before it."""
        return self._ids(f" {text}") if text else []

    @property
    def space(self) -> int:
        """Return the id of a space alone."""
        return self._ids(" ")[0]

    def answer(self, text: str) -> list[int]:
        """Return the ids of an answer and its end."""
        return [*self._ids(text), int(self.end or 0)]

    def read(self, ids: Iterable[int]) -> str:
        """Return the text of generated ids."""
        text: str = self.tokenizer.decode([token for token in ids if token != self.end], skip_special_tokens=True)
        return text.strip()

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


@dataclass(frozen=True)
class Llm:
    """An Llm is a language model without its adaptation, and what it is known by."""

    model: Any  # of AutoModelForCausalLM
    chat: Chat
    digest: str
    folder: Path

    @property
    def width(self) -> int:
        return int(self.model.get_input_embeddings().weight.shape[1])


def load_llm(source: str, dtype: torch.dtype) -> Llm:
    """Return a language model and its chat, in eval mode.

    Raises:
        UserError: there is none, it has no chat template, or its logits are no plain product.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = find(source, "model.llm.source")
    try:
        with quietly():
            tokenizer = AutoTokenizer.from_pretrained(folder)
            chat = Chat(tokenizer, source)
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"model.llm.source={source} is no causal model of transformers ({reason})") from None
    _check_head(model, source)
    return Llm(model.eval(), chat, digest(folder), folder)


@torch.no_grad()
def _check_head(model: Any, source: str) -> None:
    """Refuse models that scale or cap their logits: the loss takes the head at the answer's places alone."""
    ids = torch.tensor([[1, 2, 3]])
    whole = model(input_ids=ids).logits.float()
    head = model.get_output_embeddings()
    if not torch.allclose(whole, head(hidden_states(model, input_ids=ids)).float(), atol=1e-2, rtol=1e-2):
        raise UserError(f"model.llm.source={source} caps or scales its logits, which is not supported: take another")


def hidden_states(model: Any, **inputs: Any) -> Tensor:
    """Return the last hidden states of a causal model [B, T, D]."""
    states: Tensor = model.model(**inputs).last_hidden_state
    return states


def add_lora(model: Any, settings: LlmSettings) -> nn.Module:
    """Put LoRA into the linear layers of a model whose own weights are then frozen, and return the model.

    Hu et al. 2021; what LoRA adds is float32.

    Raises:
        UserError: no layer has such a name, or peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise UserError("LoRA needs peft: pip install 'touchasp[osum]', or set model.llm.lora_rank=0") from None

    head = model.get_output_embeddings()
    linear = sorted(
        {n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}
    )
    names = linear if settings.lora_modules == ["all-linear"] else list(settings.lora_modules)
    if unknown := sorted(set(names) - set(linear)):
        raise UserError(
            f"model.llm.lora_modules: no linear layer is called {unknown[0]}: there are {', '.join(linear)}"
        )
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=settings.lora_dropout,
        target_modules=names,
    )
    adapted: nn.Module = inject_adapter_in_model(config, model)
    for name, parameter in adapted.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if "lora_" in name:
            parameter.data = parameter.data.float()
    return adapted


def merge_lora(model: nn.Module) -> nn.Module:
    """Add LoRA to the weights that it adapts, take it out, and return the model, plain again."""
    from peft.tuners.lora import LoraLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge()  # type: ignore[operator]
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], module.get_base_layer())
    for attribute in ("peft_config", "_hf_peft_config_loaded"):
        vars(model).pop(attribute, None)
    return model


def random_config(settings: LlmSettings, units: int, **tokens: int) -> Any:
    """Return the configuration of a random model with a vocabulary of `units`."""
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=units,
        hidden_size=settings.width,
        intermediate_size=3 * settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.width // 32,
        num_key_value_heads=settings.width // 32,
        max_position_embeddings=2_048,
        tie_word_embeddings=True,
        bos_token_id=None,
        **tokens,
    )


def make_random(folder: Path, settings: LlmSettings, texts: Iterable[str], seed: int) -> None:
    """Write a small Qwen2 with weights drawn from the seed, and its tokenizer, as a folder of transformers.

    It knows nothing, so it is trained whole (lora_rank 0); for trials, and for tests of everything around it.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=settings.units,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=special,
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(texts), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = CHATML
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(
            random_config(settings, len(fast), eos_token_id=fast.eos_token_id, pad_token_id=fast.pad_token_id)
        )
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
