"""One unit per Han character of any block, BPE as the `tokenizers` library learns it, and no torch anywhere."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_training.text.bpe import BOUNDARY
from model_training.text.tokenizer import Tokenizer, is_unspaced, written_tokens
from model_training.text.tokens import UNK, Scheme
from operators.errors import UserError
from operators.text.spoken import Normaliser, evaluation_form, training_form

# The first assigned character of each block: URO, A to I, compatibility ideographs and their supplement, 〇 and 々.
HAN_BLOCKS = "一㐀\U00020000\U0002a700\U0002b740\U0002b820\U0002ceb0\U0002ebf0\U00030000\U00031350豈\U0002f800〇々"
CORPUS = [
    "The other day they went to the theatre together.",
    "There is nothing there that I'd rather have than this.",
    "你好，世界！今天天氣好好，佢哋嘅嘢喺邊度？",
    "iPhone 15 很贵 <event:dog>",
    "ラーメンを食べたい",
    "สวัสดี",
    HAN_BLOCKS,
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(CORPUS, Scheme(), bpe_size=60)


def test_every_han_character_is_one_unit(tokenizer: Tokenizer) -> None:
    for character in HAN_BLOCKS + "嘅哋喺":
        ids = tokenizer.encode(character)
        assert len(ids) == 1, character
        assert ids[0] in tokenizer.text_ids, character


def test_words_of_several_scripts_come_back(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("They’d  rather 你好,iPhone 15!")) == "THEY'D RATHER 你好 IPHONE 15"
    assert tokenizer.decode(tokenizer.encode("ＴＨＥ ラーメン")) == "THE ラーメン"
    assert tokenizer.decode(tokenizer.encode("สวัสดี")) == "สวัสดี"


def test_a_grown_vocabulary_cuts_known_words_as_before_and_spells_new_ones(tokenizer: Tokenizer) -> None:
    scheme = Scheme(events=(*tokenizer.scheme.events, "kettle"))
    grown = tokenizer.grown(["the żurek 龘 there", "龘 zebra"], scheme)
    assert set(tokenizer.tokens) < set(grown.tokens)
    new = {"龘", *"ŻUREKZEBRA"} - set(tokenizer.tokens)
    assert set(grown.tokens) - set(tokenizer.tokens) == new | {"<event:kettle>"}
    for text in CORPUS:
        before, after = ([one.tokens[i] for i in one.encode(text)] for one in (tokenizer, grown))
        assert before == after, text
    assert grown.unknown("the żurek 龘 zebra <event:kettle>") == []
    assert tokenizer.grown(CORPUS).to_bytes() == tokenizer.to_bytes()
    assert tokenizer.grown(["龘 龘 靐"], min_char_count=2).unknown("龘靐") == ["靐"]
    only_han = Tokenizer.train(["你好"], Scheme()).grown(["hey"])
    assert only_han.decode(only_han.encode("hey 你")) == "HEY 你"


def test_events_stay_where_they_are(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("there <event:dog_bark> 你好<event:toaster>")
    assert tokenizer.label_of(ids[-4]) == ("event", "dog")
    assert ids[-1] == UNK
    assert tokenizer.decode(ids) == "THERE <event:dog> 你好"
    assert tokenizer.unknown("there 你龘 <event:toaster> Ж") == ["龘", "Ж", "toaster"]


def test_what_nobody_said_is_no_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("<|zh|>[Music] ... ！？") == []


def test_an_unknown_letter_costs_one_unknown_and_not_its_word(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("THЖERE")
    assert ids.count(UNK) == 1
    assert tokenizer.decode(ids) == "THERE"


def test_merges_are_those_of_the_tokenizers_library() -> None:
    from tokenizers import Tokenizer as Judge
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.trainers import BpeTrainer

    draw = random.Random(3)
    syllables = ["TA", "RO", "MI", "KEN", "ST", "ING", "O", "ER", "L"]
    words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(400)]
    lines = [" ".join(draw.choices(words, k=12)) for _ in range(150)]
    ours = Tokenizer.train(lines, Scheme(), bpe_size=120)

    judge = Judge(BPE())
    judge.pre_tokenizer = WhitespaceSplit()
    marked = [" ".join(BOUNDARY + word for word in line.split()) for line in lines]
    judge.train_from_iterator(marked, BpeTrainer(vocab_size=120, min_frequency=2, show_progress=False))
    assert len(ours.text_ids) == judge.get_vocab_size() == 120
    for word in words:
        assert [ours.tokens[token] for token in ours.encode(word)] == judge.encode(BOUNDARY + word).tokens


def test_order_of_texts_does_not_matter(tokenizer: Tokenizer) -> None:
    shuffled = Tokenizer.train(list(reversed(CORPUS)), Scheme(), bpe_size=60)
    assert shuffled.to_bytes() == tokenizer.to_bytes()


def test_rare_characters_are_left_out() -> None:
    trained = Tokenizer.train(["你好你 AB", "AC A"], Scheme(), bpe_size=10, min_char_count=2)
    assert trained.characters == ("你",)
    assert trained.alphabet == ("A", BOUNDARY)
    assert trained.encode("好B")[0] == UNK


# A Thai vowel sign stands on its letter: alone it belongs to nothing.
@given(
    st.lists(st.sampled_from([*"你好嘅豈々ラがTHEORYDA'’ 15,。<>:|_wéส", "สั", "ら\u3099"]), max_size=30).map("".join)
)
@settings(max_examples=150, deadline=None)
def test_decoding_undoes_encoding_up_to_what_is_unknown(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert all(0 < token < len(tokenizer) for token in ids)
    assert (UNK in ids) == bool(tokenizer.unknown(text))
    if UNK not in ids:
        again = tokenizer.decode(ids)
        assert evaluation_form(again) == evaluation_form(training_form(text))
        assert tokenizer.encode(again) == ids


@given(st.text(max_size=20))
@settings(max_examples=150, deadline=None)
def test_any_string_has_a_written_form(text: str) -> None:
    for token in written_tokens(text):
        assert token
        # A character unit is one character with its marks; a word has no character of an unspaced script inside.
        assert is_unspaced(token) == is_unspaced(token[0])
        assert is_unspaced(token) or not any(is_unspaced(letter) for letter in token)


def test_saved_and_loaded_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer")
    loaded = Tokenizer.load(tmp_path / "tokenizer")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.scheme == tokenizer.scheme
    assert loaded.tokens == tokenizer.tokens
    assert [path.name for path in (tmp_path / "tokenizer").iterdir()] == ["tokenizer.json"]


def test_fingerprint_tells_tokenizers_apart(tokenizer: Tokenizer) -> None:
    more = Scheme.from_dict({"more_events": ["toaster"]})
    assert Tokenizer.train(CORPUS, more, bpe_size=60).fingerprint != tokenizer.fingerprint


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b'{"schema_version": 99}', None, "other specials"])
def test_a_broken_tokenizer_is_one_clear_line(content: object, tokenizer: Tokenizer, tmp_path: Path) -> None:
    if content == "other specials":
        content = tokenizer.to_bytes().replace(b'"<event:dog>"', b'"<event:wolf>"', 1)
    if isinstance(content, bytes):
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match="tokenizer") as error:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_nothing_to_train_on_is_a_user_error() -> None:
    with pytest.raises(UserError, match="no text"):
        Tokenizer.train(["...", ""], Scheme())
    with pytest.raises(UserError, match="bpe_size"):
        Tokenizer.train(["ABCDEF"], Scheme(), bpe_size=3)


def test_tokenizer_and_grammar_need_no_torch() -> None:
    script = (
        "import sys, model_training.decoding.search, model_training.text.perception; sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", script], check=True, cwd=root)


def test_no_label_loses_a_sign_that_is_said() -> None:
    """Whatever its form, a label says the same after the tokenizer; ß, whose upper case is SS, says it too."""
    lines = (Path(__file__).parents[2] / "data" / "rover_pairs.tsv").read_text(encoding="utf-8").splitlines()[1:]
    texts = [(line.split("\t")[2], text) for line in lines for text in line.split("\t")[3:5]]
    trained = Tokenizer.train([form for code, text in texts for form in forms(text, code)], Scheme(), bpe_size=2000)
    as_written = Normaliser(han="written")
    for code, text in texts:
        for label in forms(text, code):
            again = trained.decode(trained.encode(label, code))
            assert as_written.spoken(again, code).casefold() == as_written.spoken(label, code).casefold(), (
                label,
                again,
            )


def forms(text: str, code: str) -> tuple[str, str]:
    """A label as the engine wrote it and as it is said: `label_form` is one or the other."""
    return text, Normaliser().spoken(text, code)


def test_signs_are_kept_as_they_are_where_they_can_be() -> None:
    trained = Tokenizer.train(["It was -5 for $12.50, a 100% C# job"], Scheme(), bpe_size=80)
    assert trained.decode(trained.encode("it was -5, for $12.50!")) == "IT WAS -5 FOR $ 12.50"
    assert written_tokens("King Henry VIII.", "en") == ["KING", "HENRY", "THE", "EIGHTH"]
    assert written_tokens("10²") != written_tokens("102")


def test_a_sign_is_learned_in_the_words_of_its_language() -> None:
    """3 km/h is 三公里每小时 in a Chinese label: units for the English words would be none for these."""
    labels, languages = ["3 km/h", "walk at 3 km/h"], ["zh-CN", "en"]
    tokenizer = Tokenizer.train(labels, Scheme(), languages=languages, bpe_size=60)
    for label, language in zip(labels, languages):
        assert not tokenizer.unknown(label, language)
        assert UNK not in tokenizer.encode(label, language)
    assert tokenizer.decode(tokenizer.encode("3 km/h", "zh")) == "三公里每小时"
    without = Tokenizer.train(labels, Scheme(), bpe_size=60)
    assert UNK in without.encode("3 km/h", "zh")
    assert without.unknown("3 km/h", "zh"), "a clip whose label has a gap must be found out"
