"""Tasks and questions as data: what a clip teaches, how an answer is read, and what is no answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from model_training.__main__ import main
from model_training.data.handoff import Handoff
from model_training.osum import inspect
from model_training.osum.ask import join
from model_training.osum.data import OsumSource
from model_training.osum.parts.llm import Chat
from model_training.osum.settings import load
from model_training.osum.tasks import (
    TASKS,
    Asked,
    Labels,
    Prompts,
    Reading,
    parse_task,
    read_answer,
    read_timed,
    target,
    timed,
)
from operators.clip import Word
from operators.errors import UserError
from operators.index import Row
from tests.model_training.osum.questions import make_questions

LABELS = Labels(
    {
        "gender": ["female", "male"],
        "emotion": ["anger", "neutral"],
        "events": ["coughing", "laughing"],
        "age": ["adult"],
    }
)
HELLO = Word(text="hello", start=1_600, end=8_000)
ROW = Row(
    clip_id="a",
    shard="x",
    offset=0,
    size=1,
    frames=100,
    label_tokens=2,
    label="hello <event:coughing> world",
    domain="d",
    language="en",
    gender="female",
    emotion="angry",
    events=("cough",),
    words=(HELLO, Word(text="world", start=11_200, end=19_200)),
    answer="hello to you",
)


@pytest.mark.parametrize(
    ("task", "answer"),
    [
        ("asr", "hello world"),
        ("words", "<0.1>hello<0.5> <0.7>world<1.2>"),
        ("events", "coughing"),
        ("emotion", "anger"),
        ("gender", "female"),
        ("chat", "hello to you"),
        ("asr+gender", "hello world\nfemale"),
        ("ASR+SER", "hello world\nanger"),
        ("asr+words", "hello world\n<0.1>hello<0.5> <0.7>world<1.2>"),
        ("style", None),
        ("age", None),
    ],
)
def test_what_a_clip_teaches_is_read_back(task: str, answer: str | None) -> None:
    asked = parse_task(task)
    assert target(asked, ROW, LABELS) == answer
    if answer is not None:
        reading = read_answer(asked, answer, LABELS)
        assert reading.text == ("hello world" if asked.wants_text else None)
        if asked.task.name == "words":
            assert reading.value == ROW.words
        elif asked.task.closed and asked.task.name != "events":
            assert reading.value == answer.rpartition("\n")[2]


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ("gender", "a woman, I think"),
        ("gender", ""),
        ("emotion", "joyful"),
        ("events", "coughing, a door"),
        ("age", "elderly"),
        ("words", "hello world"),
        ("words", "<0.9>hello<0.1>"),
        ("asr+gender", "hello world"),
        ("asr+gender", "hello world\nneutral"),
    ],
)
def test_an_answer_that_is_no_known_label_is_no_answer(task: str, said: str) -> None:
    assert read_answer(parse_task(task), said, LABELS).value is None


def test_no_event_is_an_answer_and_not_the_same_as_none() -> None:
    assert target(parse_task("events"), replace(ROW, events=()), LABELS) == "none"
    assert target(parse_task("events"), replace(ROW, events=None), LABELS) is None
    assert read_answer(parse_task("events"), "none", LABELS).value == ()


def test_times_are_in_tenths_of_a_second() -> None:
    assert timed([HELLO]) == "<0.1>hello<0.5>"
    assert read_timed("<0.1>hello<0.5>") == (HELLO,)


def test_windows_of_a_recording_are_joined() -> None:
    places = [(0, 480_000), (480_000, 100_000)]
    both = join(parse_task("asr+gender"), [Reading("a", "male"), Reading("b", "female")], places)
    assert both == Reading("a b", "male"), "of most seconds"
    words = join(parse_task("words"), [Reading(value=(HELLO,)), Reading(value=(HELLO,))], places)
    assert [word.start for word in words.value] == [1_600, 481_600]
    assert join(parse_task("gender"), [Reading(), Reading()], places).value is None


def test_every_task_has_five_questions_in_both_languages() -> None:
    prompts = Prompts.load()
    for task in TASKS.values():
        for language in ("en", "zh"):
            assert len(set(prompts.of(Asked(task), [language]))) == 5
            if task.name != "asr":
                assert len(set(prompts.of(Asked(task, True), [language]))) == 5


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ({"singing": {"en": ["a"]}}, "no task 'singing'"),
        ({"asr": ["a"]}, "asr needs lists of questions by language"),
        ({"asr": {"en": []}}, "asr.en must be a list of questions"),
        ("text", "holds no questions"),
    ],
)
def test_a_bad_file_of_questions_is_refused_in_one_line(tmp_path: Path, content: object, error: str) -> None:
    (tmp_path / "prompts.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=error):
        Prompts.load(str(tmp_path / "prompts.yaml"))


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (["train.precision=fp16"], "use bf16, or fp32"),
        (["data.tasks={singing: 1}"], "data.tasks: no task 'singing'"),
        (["data.tasks={gender+age: 1}"], "data.tasks: no task"),
        (["data.max_clip_frames=4000"], "3000 frames"),
        (["phases=[{steps: 0, parts: [head]}]"], "adaptor, encoder, llm"),
        (["phases=[{steps: 0, parts: [llm]}, {steps: 0, parts: [llm]}]"], "every phase but the last"),
        (["stage=3"], "stage=3"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: list[str], error: str) -> None:
    with pytest.raises(UserError, match=error):
        load("osum-tiny", settings)


def test_a_hand_off_without_the_tasks_labels_is_refused(tmp_path: Path) -> None:
    handoff = Handoff.open(str(make_questions(tmp_path, clips=4)))
    settings = load("osum-tiny", ["data.tasks={asr+age: 1}"])
    with pytest.raises(UserError, match=r"data.tasks: no clip of .* has age for asr\+age"):
        OsumSource(handoff, settings, None, 80)  # type: ignore[arg-type]


def test_a_model_without_a_chat_template_is_refused() -> None:
    class Base:
        chat_template = None

    with pytest.raises(UserError, match="has no chat template"):
        Chat(Base(), "gpt2")


def test_the_papers_model_is_as_large_as_the_paper_says() -> None:
    settings = load("osum-7b", [])
    counts = inspect.count(settings)
    assert 300e6 < counts["encoder"].total < 310e6
    assert 7.5e9 < counts["llm"].total - counts["llm"].trained < 7.7e9
    # Convolutions 1024 -> 1280 -> 1280 -> 1280 of 3, and 4 layers of 1280 with 2560 inside.
    convolutions = 3 * (1024 + 2 * 1280) * 1280 + 3 * 1280
    layer = 4 * (1280 * 1280 + 1280) + 2 * 1280 * 2560 + 2560 + 1280 + 4 * 1280
    assert counts["adaptor"].total == convolutions + 4 * layer + 2 * 1280 + 1280 * 3584 + 3584
    # LoRA of rank 8 on all seven matrices of 28 layers.
    sides = {"q": 2 * 3584, "k": 3584 + 512, "v": 3584 + 512, "o": 2 * 3584, "mlp": 3 * (3584 + 18_944)}
    assert counts["llm"].trained == 28 * 8 * sum(sides.values())
    whisper = inspect._whisper_config("openai/whisper-medium")
    assert (whisper.encoder_layers, whisper.d_model, whisper.encoder_attention_heads) == (24, 1024, 16)
    assert 18 < sum(inspect.memory_gb(settings, counts).values()) < 80


def test_the_commands_say_what_they_lack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["osum", "inspect", "--config", "osum-7b"]) == 0
    assert "a card needs about" in capsys.readouterr().out
    assert main(["osum", "inspect"]) == 2
    assert main(["osum", "ask", str(tmp_path), "a.wav", "--task", "asr", "--prompt", "what"]) == 2
    assert "--task or --prompt" in capsys.readouterr().err
    assert main(["osum", "eval", str(tmp_path), "--data", "x"]) == 2
    assert "no checkpoint in" in capsys.readouterr().err
