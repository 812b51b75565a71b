"""A text model behind an OpenAI-compatible endpoint as an annotator: what a label's words say of emotion and style.

    text ──prompt with the closed list──> POST ENDPOINT/chat/completions, temperature 0 ──answer──> Opinion, or none
      └─ hash of endpoint, model, prompt ──Cache──> the answer of last time

A text model answers what it likes, and what it answers is data: only a label of the closed list counts, alone or as
{"emotion": "sadness"}; anything else is an abstention. An endpoint is not repeatable, so every answer is cached in the
run: a unit done again, or resumed, is given the same one. Trouble of the endpoint (refused, dead, 5xx, 429, too slow)
is tried again and then leaves the unit undone; nothing is guessed for it.

Source of prompt and use: OSUM (arXiv:2501.13306), section 3.1, which labels style and emotion from text in this way.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from operators.annotate.annotator import Cache, Heard, Opinion, Progress
from operators.clip import KINDS, SAMPLE_RATE
from operators.errors import MachineTrouble, UserError

LABELS: dict[str, tuple[str, ...]] = {
    "emotion": ("neutral", "anger", "sadness", "happiness", "surprise", "fear", "disgust"),
    "style": (
        "news and science reporting",
        "horror story",
        "fairy tale",
        "customer service",
        "poetry and prose",
        "audiobook",
        "spontaneous conversation",
        "others",
    ),
}
"""What may be answered where the settings name no list of their own. The styles are OSUM's (table 1)."""

PROMPT = (
    "You label the {kind} of what a speaker says. Answer with exactly one of these labels and nothing else: {labels}. "
    "If the words do not tell, answer: unknown.\n\nWords: {text}"
)

_MOST_BYTES = 64 * 1024
"""of an answer; what is longer is no answer to such a question."""
_MOST_ANSWER = 200
"""signs that are searched for a label."""
_FENCE = re.compile(r"^```[a-z]*\s*|\s*```$")


@dataclass(frozen=True, slots=True)
class _Endpoint:
    scheme: str
    host: str
    port: int
    path: str

    @staticmethod
    def parse(url: str) -> _Endpoint:
        parts = urlsplit(url)
        try:
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            port = 0
        if parts.scheme not in ("http", "https") or not parts.hostname or not port:
            raise UserError(f"chat endpoint {url}: give the API's base, for example http://localhost:8000/v1")
        path = parts.path.rstrip("/").removesuffix("/chat/completions")
        return _Endpoint(parts.scheme, parts.hostname, port, path)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}{self.path}"


class _Trouble(Exception):
    """Why an endpoint gave no answer, in words; `wait` seconds are what it asked for before the next try."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class ChatAnnotator:
    """A ChatAnnotator asks a text model one question for each kind and clip.

    Args:
        model: the model's name at the endpoint.
        endpoint: base of the API, for example http://localhost:8000/v1 (vLLM, llama.cpp, Ollama and others serve it).
        kinds: which of the kinds to ask for, each with labels of its own: {"emotion": ["anger", ...]}, or the names
            alone for the usual labels (LABELS).
        prompt: the question; {kind}, {labels} and {text} are filled in.
        api_key_variable: environment variable that holds the key; it is never written anywhere.
        timeout_seconds: for one answer, from connecting to its last byte.
        attempts: tries of a question before the unit is left undone.
        at_once: questions under way at a time; a slow endpoint is asked no faster than it answers.
        probe: ask whether the endpoint is there when the engine is built, so that a dead one stops a run before it
            begins.

    Raises:
        UserError: the endpoint is not there or refuses, the key is not set, or a kind or its list is none.
    """

    def __init__(
        self,
        model: str,
        *,
        endpoint: str,
        kinds: Sequence[str] | Mapping[str, Sequence[str]] = ("emotion", "style"),
        prompt: str = PROMPT,
        api_key_variable: str | None = None,
        timeout_seconds: float = 60.0,
        attempts: int = 4,
        at_once: int = 4,
        probe: bool = True,
        name: str | None = None,
        threads: int = 1,
    ) -> None:
        self.name = name or f"chat/{model.rsplit('/', 1)[-1]}"
        self._model, self._endpoint = model, _Endpoint.parse(endpoint)
        self._labels = _closed_lists(kinds)
        if "{text}" not in prompt or "{labels}" not in prompt:
            raise UserError("chat prompt: it needs {text} and {labels} where the words and the closed list go")
        if timeout_seconds <= 0 or attempts < 1 or at_once < 1:
            raise UserError("chat: timeout_seconds must be over 0, attempts and at_once 1 or more")
        self._prompt, self._timeout, self._attempts, self._at_once = prompt, timeout_seconds, attempts, at_once
        self._key = None
        if api_key_variable:
            self._key = os.environ.get(api_key_variable)
            if not self._key:
                raise UserError(f"chat: the environment variable {api_key_variable} is not set: it holds the key")
        if probe:
            self._check()

    def annotate(
        self, clips: Sequence[Heard], cache: Cache | None = None, progress: Progress | None = None
    ) -> list[Mapping[str, Opinion]]:
        """Return the opinion of each kind that was asked for; a kind is missing where the answer is none of its labels.

        Raises MachineTrouble when the endpoint gives no answer: the unit is left undone, its answers so far are kept.
        """
        questions = [(clip, kind) for clip in clips for kind in self._labels]

        def ask(question: tuple[Heard, str]) -> Opinion | None:
            clip, kind = question
            return self._opinion(kind, clip.text, cache) if clip.text.strip() else None

        answers: list[dict[str, Opinion]] = [{} for _ in clips]
        places = [place for place in range(len(clips)) for _ in self._labels]
        seconds = 0.0
        for number, (place, (clip, kind), opinion) in enumerate(
            zip(places, questions, _in_order(ask, questions, self._at_once), strict=True), 1
        ):
            if opinion is not None:
                answers[place][kind] = opinion
            if progress is not None and number % len(self._labels) == 0:
                seconds += len(clip.pcm) / SAMPLE_RATE
                progress(number // len(self._labels), seconds)
        return list(answers)

    def close(self) -> None:
        """Free what is held: nothing stays open between questions."""

    def _opinion(self, kind: str, text: str, cache: Cache | None) -> Opinion | None:
        labels = self._labels[kind]
        words = " ".join(text.split())
        prompt = self._prompt.replace("{kind}", kind).replace("{labels}", ", ".join(labels)).replace("{text}", words)
        key = hashlib.sha256("\0".join((str(self._endpoint), self._model, prompt)).encode()).hexdigest()
        answer = cache.get(key) if cache is not None else None
        if answer is None:
            answer = self._ask(prompt)
            if cache is not None:
                cache.put(key, answer)
        label = label_in(answer.decode("utf-8", "replace"), kind, labels)
        return None if label is None else Opinion((label,))

    def _ask(self, prompt: str) -> bytes:
        """Return what the model answered, at most a few signs more than a label has; b"" for what is no answer."""
        return _content(self._tried("POST", "/chat/completions", self._question(prompt)))

    def _question(self, prompt: str) -> bytes:
        messages = [{"role": "user", "content": prompt}]
        request = {"model": self._model, "messages": messages, "temperature": 0, "seed": 0, "max_tokens": 32}
        return json.dumps(request).encode()

    def _check(self) -> None:
        """Ask something short. Raises UserError when there is no answer."""
        told = f"chat endpoint {self._endpoint}"
        try:
            status, _ = self._request("POST", "/chat/completions", self._question("Answer with one word: yes"))
        except _Trouble as trouble:
            raise UserError(f"{told}: {trouble}: start it, or correct the setting") from None
        if status in (401, 403):
            raise UserError(f"{told} refuses the key ({status}): set api_key_variable to the variable that holds it")
        if status != 200:
            raise UserError(f"{told} answers {status} when asked for the model {self._model}: correct the two settings")

    def _tried(self, method: str, path: str, body: bytes) -> bytes:
        wait = 0.5
        for attempt in range(1, self._attempts + 1):
            try:
                status, answer = self._request(method, path, body)
                if status == 200:
                    return answer
                if status in (400, 413, 422):  # this text is too long or odd for it: no answer to this question
                    return b""
                if status in (401, 403, 404):
                    raise MachineTrouble(
                        f"chat endpoint {self._endpoint} answers {status}: check its key and the model {self._model}"
                    )
                raise _Trouble(f"it answers {status}")
            except _Trouble as trouble:
                if attempt == self._attempts:
                    raise MachineTrouble(
                        f"chat endpoint {self._endpoint}: {trouble}, {attempt} times: start it again and run again"
                    ) from None
                time.sleep(min(trouble.wait if trouble.wait is not None else wait, 30.0))
                wait *= 2
        raise AssertionError("every attempt returns or raises")

    def _request(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """Return status and body, cut off at what an answer may hold. Raises _Trouble."""
        kind = http.client.HTTPSConnection if self._endpoint.scheme == "https" else http.client.HTTPConnection
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        deadline = time.monotonic() + self._timeout
        connection = kind(self._endpoint.host, self._endpoint.port, timeout=self._timeout)
        try:
            connection.request(method, self._endpoint.path + path, body, headers)
            response = connection.getresponse()
            parts, size = list[bytes](), 0
            while size <= _MOST_BYTES and (part := response.read1(8192)):
                parts.append(part)
                size += len(part)
                if time.monotonic() > deadline:  # one that drips a byte now and then would never time out
                    raise _Trouble(f"no answer within {self._timeout:g} s")
            if response.status in (408, 429) or response.status >= 500:
                raise _Trouble(f"it answers {response.status}", _seconds(response.headers.get("Retry-After")))
            return response.status, b"".join(parts)
        except TimeoutError:
            raise _Trouble(f"no answer within {self._timeout:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise _Trouble(" ".join(str(reason).split())[:100]) from None
        finally:
            connection.close()


def label_in(answer: str, kind: str, labels: Sequence[str]) -> str | None:
    """Return the one label of a closed list that an answer is, None where it is anything else.

    It may stand alone, in any case, with quotes or a full stop, or as JSON of one key: {"emotion": "sadness"}.
    """
    if len(answer) > _MOST_ANSWER:
        return None
    plain = _FENCE.sub("", answer.strip()).strip()
    if plain.startswith("{"):
        found = _parsed(plain.encode())
        value = found.get(kind, found.get("label")) if isinstance(found, dict) else None
        plain = value if isinstance(value, str) and len(found) == 1 else ""
    plain = " ".join(plain.strip(" \t\r\n\"'“”‘’.。*").lower().split())
    return next((label for label in labels if label.lower() == plain), None)


def _closed_lists(kinds: Sequence[str] | Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    asked = dict(kinds) if isinstance(kinds, Mapping) else {kind: LABELS.get(kind, ()) for kind in kinds}
    lists: dict[str, tuple[str, ...]] = {}
    for kind, labels in asked.items():
        if kind not in KINDS or kind == "events":
            raise UserError(f"chat kinds: {kind} is none that words tell: give some of emotion, style, language, age")
        lists[kind] = tuple(" ".join(str(label).lower().split()) for label in labels)
        if len(set(lists[kind])) < 2 or "" in lists[kind]:
            raise UserError(f"chat kinds: {kind} needs a closed list of two labels or more: {{{kind}: [..., ...]}}")
    if not lists:
        raise UserError("chat kinds: give at least one, for example [emotion]")
    return lists


def _content(body: bytes) -> bytes:
    """Return the text of a completion, b"" for anything that is none."""
    found = _parsed(body)
    try:
        content = found["choices"][0]["message"]["content"]  # type: ignore[index, call-overload]
    except (KeyError, IndexError, TypeError):
        return b""
    return content[: _MOST_ANSWER + 1].encode("utf-8", "replace") if isinstance(content, str) else b""


def _parsed(body: bytes) -> Any:
    """Return what JSON says, None where the bytes are none, or would take Python's stack or time to read."""
    if len(body) > _MOST_BYTES:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header else None
    except ValueError:
        return None


def _in_order(ask: Callable[[Any], Opinion | None], questions: Sequence[Any], at_once: int) -> Iterator[Opinion | None]:
    """Yield answers in the order of questions, no more than `at_once` under way. The first trouble ends it."""
    with ThreadPoolExecutor(at_once) as pool:
        waiting = [pool.submit(ask, question) for question in questions]
        try:
            for future in waiting:
                yield future.result()
        finally:
            for future in waiting:
                future.cancel()
