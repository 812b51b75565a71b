"""Text to ids and back: one unit per Han character, BPE for words that are written with spaces, events inline.

    "Hey 你好 <event:dog>" ──written form──> HEY 你 好 <event:dog> ──units──> ▁HE Y 你 好 <event:dog> ──> ids

The written form is upper case without punctuation, as test sets are scored, except that Han stays in the script of the
label. What is said stays: -5, $ 12.50, C#. One character is one unit also for kana, Thai and other scripts without
spaces. All other words are split by byte-pair merges of characters (Sennrich et al. 2016), their first unit carrying
the mark ▁ of a word boundary.

Neither torch nor any tokenizer library is needed here: the recognizer loads the same tokenizer.json.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from model_training.text.bpe import BOUNDARY, Merge, learn_merges, split_word
from model_training.text.tokens import KINDS, UNK, UNKNOWN, Scheme, spell
from operators.errors import UserError
from operators.storage.atomic import replace
from operators.text.spoken import tokens, training_form

FILE = "tokenizer.json"
SCHEMA_VERSION = 1

_EVENT = re.compile(r"<event:([^\s<>:|]+)>")
_FORMAT = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff\U000e0100-\U000e01ef]")
# The blocks of operators.text that are written without spaces: kana, bopomofo, Thai, Lao, Burmese, Khmer; then all Han.
_UNSPACED = re.compile(
    "[\u3005-\u3007\u3041-\u312f\u31a0-\u31ff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_MOST_CACHED_WORDS = 200_000


class Tokenizer:
    """A Tokenizer is a vocabulary: the special tokens of a scheme, then characters, then BPE pieces.

    It is built by `train`, or read by `load`.
    """

    def __init__(
        self, scheme: Scheme, characters: Iterable[str], alphabet: Iterable[str], merges: Iterable[Merge]
    ) -> None:
        """Build a vocabulary. `alphabet`: BPE symbols before any merge; a merge joins two pieces that exist by then."""
        self.scheme = scheme
        self.characters = tuple(characters)
        self.alphabet = tuple(alphabet)
        self.merges = tuple((left, right) for left, right in merges)
        self.specials = scheme.specials()
        pieces = dict.fromkeys((*self.alphabet, *(left + right for left, right in self.merges)))
        self.tokens: tuple[str, ...] = (*self.specials, *self.characters, *pieces)
        """Spelling of every id."""
        self._special_id = {token: index for index, token in enumerate(self.specials)}
        first = len(self.specials)
        self._character_id = {character: first + index for index, character in enumerate(self.characters)}
        self._first_piece = first + len(self.characters)
        self._piece_id = {piece: self._first_piece + index for index, piece in enumerate(pieces)}
        self._rank = {merge: rank for rank, merge in enumerate(self.merges)}
        self._word_ids: dict[str, tuple[int, ...]] = {}
        self._kind_ids = {
            kind.name: range(
                self._special_id[spell(kind.name, scheme.labels(kind.name)[0])],
                self._special_id[spell(kind.name, scheme.labels(kind.name)[-1])] + 1,
            )
            if scheme.labels(kind.name)
            else range(0)
            for kind in KINDS
        }
        self._label_of = {
            token_id: (kind.name, label)
            for kind in KINDS
            for token_id, label in zip(self._kind_ids[kind.name], scheme.labels(kind.name), strict=True)
        }

    def __len__(self) -> int:
        """Return the size of the vocabulary, the model's output width."""
        return len(self.tokens)

    # Special tokens

    def ids_of(self, kind: str) -> range:
        """Return the ids of a kind's labels (task, language, age, gender, emotion, event), its `unk` not among them."""
        return self._kind_ids[kind]

    def special_id(self, kind: str, label: str | None) -> int:
        """Return the id of a label; of the kind's `unk` for None. Raises KeyError for a label outside the scheme."""
        return self._special_id[spell(kind, UNKNOWN if label is None else label)]

    def label_of(self, token_id: int) -> tuple[str, str] | None:
        """Return (kind, label) of a special token; None for text, control tokens and the `unk` of an attribute."""
        return self._label_of.get(token_id)

    @property
    def text_ids(self) -> range:
        """Return the ids of all text units: characters and BPE pieces."""
        return range(len(self.specials), len(self.tokens))

    # Text

    def encode(self, text: str, language: str | None = None) -> list[int]:
        """Return the ids of a text with its `<event:…>` tokens, one `<unk>` per character that the vocabulary lacks.

        `language` says how a sign is said that the written form would lose; the units are the same for every language.
        """
        ids: list[int] = []
        place = 0
        for event in _EVENT.finditer(text):
            ids += self._encode_words(text[place : event.start()], language)
            label = self.scheme.known("event", event[1])
            ids.append(UNK if label is None else self.special_id("event", label))
            place = event.end()
        return ids + self._encode_words(text[place:], language)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of the ids in written form, events inline, all other special tokens left out."""
        out: list[str] = []
        after_word = False
        for token_id in ids:
            if token_id >= self._first_piece:
                piece = self.tokens[token_id]
                begins = piece.startswith(BOUNDARY)
                out.append((" " if begins and out else "") + piece.removeprefix(BOUNDARY))
                after_word = True
            elif token_id >= len(self.specials):
                character = self.tokens[token_id]
                combining = unicodedata.category(character)[0] == "M"
                out.append((" " if after_word and not combining else "") + character)
                after_word = False
            elif (label := self.label_of(token_id)) and label[0] == "event":
                out.append((" " if out else "") + self.tokens[token_id])
                after_word = True
        return " ".join("".join(out).split())

    def unknown(self, text: str, language: str | None = None) -> list[str]:
        """Return the characters, each once, that `encode` has no unit for, and events outside the scheme."""
        events = [event for event in _EVENT.findall(text) if self.scheme.known("event", event) is None]
        characters = [
            character
            for token in written_tokens(_EVENT.sub(" ", text), language)
            for character in token
            if character not in (self._character_id if is_unspaced(token) else self._piece_id)
        ]
        return list(dict.fromkeys((*characters, *events)))

    def _encode_words(self, text: str, language: str | None) -> list[int]:
        ids: list[int] = []
        for token in written_tokens(text, language):
            if is_unspaced(token):
                ids += [self._character_id.get(character, UNK) for character in token]
                continue
            word = self._word_ids.get(token)
            if word is None:
                if len(self._word_ids) >= _MOST_CACHED_WORDS:
                    self._word_ids.clear()
                pieces = split_word((BOUNDARY, *token), self._rank)
                # A word that begins with an unknown character keeps its boundary as a piece of its own.
                word = tuple(self._piece_id.get(piece, UNK) for piece in pieces)
                self._word_ids[token] = word
            ids += word
        return ids

    # Making, keeping

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        scheme: Scheme,
        *,
        languages: Iterable[str | None] | None = None,
        bpe_size: int = 5000,
        min_char_count: int = 1,
    ) -> Tokenizer:
        """Return the vocabulary of a corpus: letters seen `min_char_count` times, and at most `bpe_size` pieces.

        `languages` are those of the texts, one each, as `encode` will be told them: a sign may be said in other words
        in another language. A function of the multiset of texts: their order does not matter. Raises UserError when no
        text has a word.
        """
        words, letters, characters = _counted(texts, languages)
        alphabet = sorted(letter for letter, count in letters.items() if count >= min_char_count)
        kept = sorted(character for character, count in characters.items() if count >= min_char_count)
        if not alphabet and not kept:
            raise UserError("no text to build a tokenizer from: every label is empty or only punctuation")
        if alphabet:
            alphabet = sorted([*alphabet, BOUNDARY])
            if bpe_size < len(alphabet):
                raise UserError(
                    f"bpe_size is {bpe_size}, but the texts have {len(alphabet)} letters: raise it, or min_char_count"
                )
        known = set(alphabet)
        spelt: Counter[tuple[str, ...]] = Counter()
        for word, count in words.items():
            for part in _known_parts((BOUNDARY, *word), known):
                spelt[part] += count
        return cls(scheme, kept, alphabet, learn_merges(spelt, bpe_size - len(alphabet)))

    def grown(
        self,
        texts: Iterable[str],
        scheme: Scheme | None = None,
        *,
        languages: Iterable[str | None] | None = None,
        min_char_count: int = 1,
    ) -> Tokenizer:
        """Return this vocabulary with the characters and letters of other texts that it lacks.

        All its units stay, and words are cut as they were, so weights that were trained with it fit wherever they can;
        words of the new texts are cut into its pieces and letters. `scheme`: None keeps its own.
        """
        _, letters, characters = _counted(texts, languages)
        known = {*self.characters, *self.alphabet}
        more, new = (
            sorted(one for one, count in found.items() if count >= min_char_count and one not in known)
            for found in (characters, letters)
        )
        alphabet = (*self.alphabet, *new)
        if alphabet and BOUNDARY not in alphabet:
            alphabet = (*alphabet, BOUNDARY)
        return Tokenizer(scheme or self.scheme, (*self.characters, *more), alphabet, self.merges)

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "scheme": self.scheme.to_dict(),
            "specials": list(self.specials),
            "characters": list(self.characters),
            "alphabet": list(self.alphabet),
            "merges": [list(merge) for merge in self.merges],
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Tokenizer:
        """Raises UserError when the content is no tokenizer, is of a newer form, or contradicts itself."""
        try:
            if plain["schema_version"] > SCHEMA_VERSION:
                raise UserError(
                    f"the tokenizer has schema {plain['schema_version']}, newer than {SCHEMA_VERSION}: upgrade"
                )
            scheme = Scheme.from_dict(plain["scheme"])
            tokenizer = cls(scheme, plain["characters"], plain["alphabet"], [(a, b) for a, b in plain["merges"]])
            specials = plain["specials"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"this is no tokenizer ({type(error).__name__}: {error}): make it again") from error
        symbols = (*tokenizer.characters, *tokenizer.alphabet)
        if not all(isinstance(symbol, str) and len(symbol) == 1 for symbol in symbols):
            raise UserError("the tokenizer's characters and alphabet must be single characters: make it again")
        if list(tokenizer.specials) != specials:
            raise UserError("the tokenizer's special tokens are not those of its scheme: make it again")
        return tokenizer

    def to_bytes(self) -> bytes:
        """Return the content of tokenizer.json; the same tokenizer gives the same bytes."""
        return (json.dumps(self.to_dict(), ensure_ascii=False, indent=0) + "\n").encode("utf-8")

    @classmethod
    def from_bytes(cls, data: bytes) -> Tokenizer:
        """Raises UserError when the bytes are no tokenizer."""
        try:
            plain = json.loads(data)
        except ValueError as error:
            raise UserError(f"this is no tokenizer: not JSON ({error})") from error
        return cls.from_dict(plain)

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json into a folder, in one step."""
        replace(Path(folder) / FILE, self.to_bytes())

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Read a local folder or its tokenizer.json. Raises UserError naming the path when that cannot be."""
        path = Path(folder)
        path = path / FILE if path.is_dir() else path
        try:
            return cls.from_bytes(path.read_bytes())
        except OSError as error:
            raise UserError(f"cannot read the tokenizer {path}: {error.strerror or error}") from error
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    @cached_property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the content, which tells a model's own tokenizer from another."""
        return hashlib.sha256(self.to_bytes()).hexdigest()


def written_tokens(text: str, language: str | None = None) -> list[str]:
    """Return the words and characters of a text: upper case, tags and punctuation gone, no sign that is said lost."""
    return tokens(_FORMAT.sub("", training_form(text, language)))


def is_unspaced(token: str) -> bool:
    """Say whether the token is a character of a script without spaces (with its marks), so made of character units."""
    return _UNSPACED.match(token) is not None


def _counted(
    texts: Iterable[str], languages: Iterable[str | None] | None
) -> tuple[Counter[str], Counter[str], Counter[str]]:
    """Return how often texts have each word written with spaces, each letter of these, and each character without."""
    words: Counter[str] = Counter()
    characters: Counter[str] = Counter()
    told = ((text, None) for text in texts) if languages is None else zip(texts, languages, strict=True)
    for text, language in told:
        for token in written_tokens(_EVENT.sub(" ", text), language):
            if is_unspaced(token):
                characters.update(token)
            else:
                words[token] += 1
    letters: Counter[str] = Counter()
    for word, count in words.items():
        for letter in word:
            letters[letter] += count
    return words, letters, characters


def _known_parts(symbols: tuple[str, ...], known: set[str]) -> Iterator[tuple[str, ...]]:
    """Yield the word cut at symbols that are in no vocabulary: no merge may reach across an <unk>."""
    part: list[str] = []
    for symbol in (*symbols, ""):
        if symbol in known:
            part.append(symbol)
        elif part:
            yield tuple(part)
            part = []
