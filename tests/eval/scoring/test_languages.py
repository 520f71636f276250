"""Answers in languages beside English and Chinese, by both parsers."""

import pytest

from caprl_native.rewards.letter import parse_letter
from caprl_native.text.answer_words import language_of
from eval.scoring.letters import choice_letter

COLOURS = {"A": "Red", "B": "Blue", "C": "Green", "D": "Yellow"}
SAYING = {
    "B": [
        "Die Antwort ist B.",
        "Die richtige Antwort ist B.",
        "Die richtige Antwort ist B, nicht A",
        "Die richtige Antwort lautet: (B)",
        "Antwort: B",
        "Es ist B.",
        "B ist richtig.",
        "B ist die richtige Antwort, A ist falsch.",
        "Nicht A, sondern B.",
        "A ist falsch, also B",
        "La respuesta es B.",
        "La respuesta correcta es la B.",
        "La respuesta correcta es la opción B, porque A no es azul",
        "Respuesta: B",
        "No es A, es B.",
        "No es A sino B.",
        "B es la respuesta correcta.",
        "La réponse est B.",
        "La bonne réponse est la B.",
        "Réponse : B",
        "La bonne réponse est la lettre B, car A est fausse",
        "Ce n'est pas A mais B.",
        "C'est B.",
        "B est la bonne réponse.",
        "答えはBです。",
        "正解はBです",
        "答え：B",
        "正解は「B」です。",
        "Bが正しいです。",
        "Aではなく、Bです。",
        "答えはAではなくBです。",
        "정답은 B입니다.",
        "정답: B",
        "답은 B이다",
        "B가 정답입니다.",
        "A가 아니라 B입니다.",
        "정답은 A가 아니라 B입니다.",
        "الإجابة هي B",
        "الإجابة الصحيحة هي B.",
        "الجواب: B",
        "B هي الإجابة الصحيحة",
        "ليست A بل B",
        "A resposta é B.",
        "A resposta correta é a letra B",
        "La risposta è B.",
        "La risposta corretta è la B",
        "Ответ: B",
        "Правильный ответ — B.",
        "答案是B",
        "Die Antwort ist (B) Blue.",
        "**Antwort: B**",
        "Antwort: B) Blue",
        "Richtig ist B.",
        "Die korrekte Antwort ist b",
        "Ich wähle B.",
        "Ich denke, die Antwort ist B",
        "Option B ist richtig",
        "Weder A noch C, also B",
        "La opción correcta es B.",
        "La alternativa correcta es la letra B.",
        "Creo que es B",
        "Opción B",
        "La respuesta correcta es: **B**",
        "Le choix correct est B.",
        "Réponse: B) Blue",
        "Je choisis B.",
        "La réponse correcte est (B).",
        "答えは B",
        "正解：B. Blue",
        "選択肢Bが正しい",
        "回答: B",
        "B です",
        "정답은 (B)입니다.",
        "답: B",
        "선택지 B가 맞습니다.",
        "الإجابة الصحيحة: B",
        "الخيار الصحيح هو B",
        "الجواب هو (B)",
        "The answer is B. Es ist blau.",
        "B, denn A ist falsch",
        "B, porque A es incorrecta",
        "B, car A est fausse",
        "B. A가 틀렸습니다",
        "A ist falsch. B ist richtig.",
        "A es incorrecta, B es correcta.",
        "Die Antwort lautet B, weil das Auto blau ist und A und C nicht passen.",
    ],
    None: [
        "Die Antwort ist A oder B",
        "La respuesta es A o B",
        "La réponse est A ou B",
        "答えはAかBです",
        "정답은 A 또는 B입니다",
        "الإجابة هي A أو B",
        "Ich weiß es nicht.",
        "Die Antwort ist nicht B.",
        "No es B.",
        "No se puede determinar.",
        "La réponse n'est pas B.",
        "答えはBではない",
        "わかりません",
        "정답은 B가 아닙니다",
        "알 수 없습니다",
        "الإجابة ليست B",
    ],
    "A": [
        "La respuesta es A porque es rojo",
        "Die Antwort ist A.",
        "A",
        "Antwort: A",
        "La bonne réponse est A.",
        "答えはAです",
        "정답은 A입니다",
        "الإجابة هي A",
    ],
    "D": [
        "La respuesta es la D",
    ],
}
REPLIES = [(letter, reply) for letter, replies in SAYING.items() for reply in replies]


@pytest.mark.parametrize(("letter", "reply"), REPLIES, ids=[reply for _, reply in REPLIES])
def test_a_letter_is_read_in_any_language_of_the_table(letter: str | None, reply: str) -> None:
    assert choice_letter(reply, COLOURS) == letter
    assert choice_letter(reply, "ABCD") == letter
    assert parse_letter(reply, "ABCD") == letter


@pytest.mark.parametrize(
    "reply", ["The answer is B.", "\u7b54\u6848\u662fB", "B", "", "It is not A but B"]
)
def test_english_and_chinese_have_patterns_of_their_own(reply: str) -> None:
    assert language_of(reply) is None
