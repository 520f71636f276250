"""Words around an answer in languages beside English and Chinese: one table, a row per language.

Each entry is part of a regular expression without groups that capture, to be tried ignoring case.
Where letters are joined to words without a blank (Japanese, Korean, Arabic), no word boundary is
asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from functools import cache


@dataclass(frozen=True)
class AnswerWords:
    """One language's words: X stands for the option's letter."""

    marker: str  # a text that has one of these is in this language
    answer: str  # "the answer", which opens a statement of it
    link: str  # what may stand between that and X: "is", "the", "correct"
    so: str  # "so", "it is", "I choose": a conclusion follows
    right: str  # behind X: "is correct"
    no: str  # before X: "not", "neither"
    wrong: str  # behind X: "is wrong", "is not"
    but: str  # between a denial and the answer: "but rather"
    either: str  # between two X: "or", "and"


GERMAN = AnswerWords(
    marker=r"\b(?:antwort|lösung|richtig|ist|nicht|sondern|weder|wähle)",
    answer=r"\b(?:antwort|lösung|antwortmöglichkeit)\b",
    link=r"\b(?:ist|wäre|lautet|also|somit|daher|die|der|das|richtige?|korrekte?|buchstabe)\b",
    so=r"\b(?:somit|daher|deshalb|folglich|es ist|ich wähle|ich nehme|ich denke|vermutlich)\b",
    right=r"\s*(?:ist|wäre)\s+(?:die\s+)?(?:richtig|korrekt|zutreffend)",
    no=r"\b(?:nicht|keine?|weder|noch|außer|statt)\b",
    wrong=r"\s*(?:ist|sind|wäre|kann|passt|trifft|stimmt)\s+(?:nicht|falsch|inkorrekt|unmöglich)\b",
    but=r"\b(?:sondern|aber|doch)\b",
    either=r"\b(?:oder|und)\b",
)
SPANISH = AnswerWords(
    marker=r"\b(?:respuesta|opción|correct[ao]|es|sino|elijo)\b",
    answer=r"\b(?:respuesta|solución|opción|alternativa)\b",
    link=r"\b(?:es|sería|la|el|correct[ao]|letra|opción|final)\b",
    so=r"\b(?:por (?:lo )?tanto|entonces|así que|es la|elijo|creo que es|debe ser)\b",
    right=r"\s*es\s+(?:la\s+|el\s+)?(?:respuesta\s+|opción\s+)?(?:correct[ao]|adecuad[ao])",
    no=r"\b(?:no|ni|tampoco|excepto|ninguna|salvo)\b",
    wrong=r"\s*(?:no\s+(?:es|son|puede|coincide|corresponde)|es\s+(?:incorrect|fals|erróne)[ao])\b",
    but=r"\b(?:sino|pero)\b",
    either=r"\b(?:o|u|y)\b",
)
FRENCH = AnswerWords(
    marker=r"\b(?:réponse|est|c['’]est|pas|bonne|donc|mais|je|choix)\b",
    answer=r"\b(?:réponse|solution)\b",
    link=r"\b(?:est|serait|la|le|bonne|correcte?|lettre|option|finale)\b|\bl['’]",
    so=r"\b(?:donc|c['’]est|ainsi|je choisis|je pense que c['’]est|par conséquent)",
    right=r"\s*est\s+(?:la\s+|l['’]\s*)?(?:bonne|correcte?|juste|exacte?)",
    no=r"\b(?:pas|ni|non|sauf|aucune)\b(?!-)|\bn['’]est\b",
    wrong=r"\s*(?:n['’]est|ne\s+\w+\s+pas|est\s+(?:fausse|faux|incorrecte?|erronée?))\b",
    but=r"\b(?:mais|plutôt)\b",
    either=r"\b(?:ou|et)\b",
)
PORTUGUESE = AnswerWords(
    marker=r"\b(?:resposta|opção|não|é|corret[ao]|portanto)\b",
    answer=r"\b(?:resposta|opção)\b",
    link=r"\b(?:é|seria|a|o|corret[ao]|letra|final)\b",
    so=r"\b(?:portanto|então|logo|escolho)\b",
    right=r"\s*(?:é|está)\s+(?:a\s+|o\s+)?(?:resposta\s+|opção\s+)?corret[ao]",
    no=r"\b(?:não|nem|exceto|nenhuma)\b",
    wrong=r"\s*(?:não\s+(?:é|está)|(?:é|está)\s+(?:incorret|errad|fals)[ao])\b",
    but=r"\b(?:mas|e sim)\b",
    either=r"\b(?:ou|e)\b",
)
ITALIAN = AnswerWords(
    marker=r"\b(?:risposta|opzione|è|corrett[ao]|quindi)\b",
    answer=r"\b(?:risposta|soluzione|opzione)\b",
    link=r"\b(?:è|sarebbe|la|il|corretta|giusta|lettera|finale)\b",
    so=r"\b(?:quindi|dunque|perciò|scelgo)\b",
    right=r"\s*è\s+(?:la\s+|quella\s+)?(?:risposta\s+|opzione\s+)?(?:corrett|giust)[ao]",
    no=r"\b(?:non|né|tranne|nessuna)\b(?!-)",
    wrong=r"\s*(?:non\s+è|è\s+(?:sbagliat|errat|fals)[ao])\b",
    but=r"\b(?:ma|bensì)\b",
    either=r"\b(?:o|oppure|e)\b",
)
RUSSIAN = AnswerWords(
    marker=r"[а-яё]{2}",
    answer=r"\b(?:ответ|вариант)\b",
    link=r"\b(?:это|будет|правильный|верный|буква)\b",
    so=r"\b(?:поэтому|значит|следовательно|выбираю)\b",
    right=r"\s*(?:[—–-]\s*)?(?:это\s+)?(?:правильн|верн)\w+",
    no=r"\b(?:не|ни|кроме)\b",
    wrong=r"\s*(?:[—–-]\s*)?(?:неправильн|неверн|ошибочн|не\s)\w*",
    but=r"(?<=,)\s*а\b|\bно\b",
    either=r"\b(?:или|и)\b",
)
JAPANESE = AnswerWords(
    marker=r"[ぁ-んァ-ヶ]|答え|正解|回答",
    answer=r"(?:答え|回答|解答|正解|正答|答)",
    link=r"[はがも、「『（]|選択肢|記号",
    so=r"(?:したがって|よって|つまり|ゆえに|なので|だから)、?",
    right=r"[」』）]?\s*(?:です|である|だ(?!と)|が(?:正解|正し|答え|適切|該当)|を選)",
    no=r"(?!)",
    wrong=r"[」』）]?\s*(?:(?:で|じゃ)(?:は)?(?:ない|なく|ありません)|[はも](?:間違|誤|不正解|違|正しくな))",
    but=r"(?:ではなく|じゃなく|なく)て?、?",
    either=r"(?:または|もしくは|あるいは|と|か|や)",
)
KOREAN = AnswerWords(
    marker=r"[가-힣]",
    answer=r"(?:정답|해답|대답|답변|답)",
    link=r"[은는이가도]|번호|선택지",
    so=r"(?:따라서|그러므로|그래서|즉)",
    right=r"\s*(?:번)?\s*(?:입니다|이다|이에요|예요|(?:[이가]\s*)?(?:정답|맞|옳|적절))",
    no=r"(?!)",
    wrong=r"\s*(?:번)?\s*[이가은는도]?\s*(?:아니|아닙|아닌|틀리|틀렸|틀립|오답|잘못)",
    but=r"(?:아니라|아니고)",
    either=r"(?:또는|혹은|이나|나|와|과)",
)
ARABIC = AnswerWords(
    marker=r"[\u0621-\u064a]{2}",
    answer=r"(?:الإجابة|الاجابة|الجواب|الحل)",
    link=r"هي|هو|الصحيحة?|النهائية?|الحرف|الخيار",
    so=r"(?:لذلك|إذن|إذا|أختار|وبالتالي)",
    right=r"\s*(?:هي|هو)?\s*(?:الإجابة|الخيار|الجواب)?\s*(?:ال)?(?:صحيحة?|صائبة?)",
    no=r"(?:ليست?|لا|غير|ولا)(?=\s)",
    wrong=r"\s*(?:ليست?|غير|خطأ|خاطئة?)",
    but=r"(?:بل|ولكن|لكن)(?=\s)",
    either=r"(?:أو|و)(?=\s)",
)


def _grouped(words: AnswerWords) -> AnswerWords:
    """Each entry in brackets, so that it can stand within a pattern."""
    return replace(words, **{f.name: f"(?:{getattr(words, f.name)})" for f in fields(words)})


LANGUAGES = tuple(
    map(
        _grouped,
        (GERMAN, SPANISH, FRENCH, PORTUGUESE, ITALIAN, RUSSIAN, JAPANESE, KOREAN, ARABIC),
    )
)


@cache
def _markers() -> list[tuple[re.Pattern[str], AnswerWords]]:
    return [(re.compile(words.marker, re.IGNORECASE), words) for words in LANGUAGES]


def language_of(text: str) -> AnswerWords | None:
    """The language of `text`, as far as the table goes: of several the one whose words it has most.

    None for English, Chinese, and whatever else has none of the table's words.
    """
    counts = [(len(marker.findall(text)), words) for marker, words in _markers()]
    most = max(count for count, _ in counts)
    return next(words for count, words in counts if count == most) if most else None
