"""Languages under one name each: every code and name that a crawl, an engine or a setting uses for a language.

    zh-HK  zh_hk  zh-yue  yue-Hant  cantonese ─┐
    eng  en-US  English ───────────────────────┼─canonical─> yue, en, zh ─> text rules, phones, prompt, tokens
    cmn  zho  zh-CN  zh-Hans  Mandarin ────────┘

A canonical code is ISO 639-1 where there is one, else ISO 639-3, with Whisper's own `jw`; `sichuan` and `minnan` are
the names of TouchASP's dialects, which engines and manifests use. Spelling, phones, engines, filters and scores all ask
this file, so a language is one language everywhere.
"""

from __future__ import annotations

import re
from functools import lru_cache

_ALSO_CALLED = """
zh cmn zho chi mandarin chinese putonghua guoyu
yue cantonese
sichuan sichuanese szechuan
minnan nan hokkien taiwanese teochew
wuu wu shanghainese
hak hakka
en eng english
af afr afrikaans
am amh amharic
ar ara arb arabic
as asm assamese
az aze azerbaijani
ba bak bashkir
be bel belarusian
bg bul bulgarian
bn ben bengali
bo bod tib tibetan
br bre breton
bs bos bosnian
ca cat catalan valencian
cs ces cze czech
cy cym wel welsh
da dan danish
de deu ger german
el ell gre greek
es spa spanish castilian
et est estonian
eu eus baq basque
fa fas per persian farsi
fi fin finnish
fo fao faroese
fr fra fre french
gl glg galician
gu guj gujarati
ha hau hausa
haw hawaiian
he heb iw hebrew
hi hin hindi
hr hrv croatian
ht hat haitian
hu hun hungarian
hy hye arm armenian
id ind in indonesian
is isl ice icelandic
it ita italian
ja jpn japanese
jw jv jav javanese
ka kat geo georgian
kk kaz kazakh
km khm khmer
kn kan kannada
ko kor korean
la lat latin
lb ltz luxembourgish
ln lin lingala
lo lao
lt lit lithuanian
lv lav latvian
mg mlg malagasy
mi mri mao maori
mk mkd mac macedonian
ml mal malayalam
mn mon mongolian
mr mar marathi
ms msa may malay
mt mlt maltese
my mya bur burmese myanmar
ne nep nepali
nl nld dut dutch flemish
nn nno nynorsk
no nor nb nob norwegian bokmal
oc oci occitan
pa pan punjabi panjabi
pl pol polish
ps pus pashto pushto
pt por portuguese
ro ron rum romanian mo moldavian moldovan
ru rus russian
sa san sanskrit
sd snd sindhi
si sin sinhala sinhalese
sk slk slo slovak
sl slv slovenian
sn sna shona
so som somali
sq sqi alb albanian
sr srp serbian
su sun sundanese
sv swe swedish
sw swa swahili
ta tam tamil
te tel telugu
tg tgk tajik
th tha thai
tk tuk turkmen
tl tgl fil tagalog filipino
tr tur turkish
tt tat tatar
uk ukr ukrainian
ur urd urdu
uz uzb uzbek
vi vie vietnamese
yi yid yiddish
yo yor yoruba
"""
_CANONICAL = {name: line.split()[0] for line in _ALSO_CALLED.split("\n") if line for name in line.split()}
# Subtags behind `zh` that name another language than Mandarin: a region where Cantonese is spoken, or an extension.
_CHINESE_SUBTAGS = {"yue": "yue", "hk": "yue", "mo": "yue", "nan": "minnan", "wuu": "wuu", "hak": "hak"}
_UNKNOWN = frozenset(["", "und", "unknown", "auto", "none", "nospeech", "mul", "zxx", "mis"])

PROMPTED_AS = {"yue": "zh", "wuu": "zh", "hak": "zh", "sichuan": "zh", "minnan": "zh"}
"""Languages that an engine without a name for them is prompted for as another."""

MANDARIN = frozenset({"zh", "sichuan"})
"""Languages whose Han is read with Mandarin's phones."""

SINITIC = MANDARIN | PROMPTED_AS.keys()
"""Languages written in Han as Chinese is: they share its script, its numbers and its particles."""

UNSPACED = SINITIC | {"ja", "th", "lo", "my", "km"}
"""Languages written without spaces: what a word is cannot be read off their text."""


_SCRIPTS = {
    "ARABIC": "ar fa ps sd ur", "ARMENIAN": "hy", "BENGALI": "as bn", "CJK": "ja", "DEVANAGARI": "hi mr ne sa",
    "CYRILLIC": "ba be bg kk mk mn ru sr tg tt uk", "ETHIOPIC": "am", "GEORGIAN": "ka", "GREEK": "el",
    "GUJARATI": "gu", "GURMUKHI": "pa", "HANGUL": "ko", "HEBREW": "he yi", "KANNADA": "kn", "KHMER": "km", "LAO": "lo",
    "MALAYALAM": "ml", "MYANMAR": "my", "SINHALA": "si", "TAMIL": "ta", "TELUGU": "te", "THAI": "th", "TIBETAN": "bo",
}  # fmt: skip
_SCRIPT_OF = {code: script for script, codes in _SCRIPTS.items() for code in codes.split()} | dict.fromkeys(
    SINITIC, "CJK"
)


def script_of(code: str) -> str:
    """Return the script that a language is written in, as Unicode's names of its letters begin: LATIN, CJK, CYRILLIC.

    Japanese counts as CJK, as its texts hold Han. A language without a row here is taken for one of the Latin script.
    """
    return _SCRIPT_OF.get(canonical(code) or "", "LATIN")


@lru_cache(maxsize=4096)
def canonical(code: str | None) -> str | None:
    """Return the one name of the language that `code` names, None where it names none ("", und, auto).

    `code` is a BCP 47 tag in any case and with either dash (en-US, zh_hk), an ISO 639 code of two or three letters, or
    an English name. A code that is not known here comes back as its primary subtag in lower case.

    >>> canonical("zh_HK"), canonical("eng"), canonical("zh-Hans-CN"), canonical("Cantonese"), canonical("tlh-x")
    ('yue', 'en', 'zh', 'yue', 'tlh')
    """
    primary, *rest = re.split("[-_ ]", (code or "").strip().lower())
    if primary in _UNKNOWN:
        return None
    known = _CANONICAL.get(primary, primary)
    if known == "zh":
        return next((_CHINESE_SUBTAGS[subtag] for subtag in rest if subtag in _CHINESE_SUBTAGS), known)
    return known


def is_unspaced(code: str | None) -> bool:
    """Return whether the language is written without spaces. True where it is not known: words are not known then."""
    language = canonical(code)
    return language is None or language in UNSPACED
