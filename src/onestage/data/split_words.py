"""The words for the splits of a data set, in the languages of those who make them."""

import re
import unicodedata
from functools import lru_cache

SPLITS = ("train", "val", "trainval", "test")
SPLIT_OF_WORD = {"training": "train", "valid": "val", "validation": "val", "testing": "test"} | {s: s for s in SPLITS}
"""The split that an English word of a name of a file, folder or key stands for."""

_WORDS = {
    "train": """
        entrenamiento entrenar entraînement apprentissage trainingsdaten trainingsbilder trainieren
        addestramento allenamento treinamento treino treinar treningowy treningowe trening uczący uczenie
        trainen trainingsset trainingsbeelden обучение обучающая обучающий обучающие тренировка тренировочная тренировочный
        навчання eğitim trénování trénink träning træning koulutus opetus pelatihan latihan
    """,
    "val": """
        validación validação validazione validierung validierungsdaten validierungsbilder validatie walidacja walidacyjny
        walidacyjne валидация валидационная валидационный валідація doğrulama geçerleme validace validering validointi validasi
    """,
    "test": """
        prueba pruebas teste testes tests testdaten testbilder testen testset testowy testowe testy
        тест тесты тестирование тестовая тестовый тестовые тестування testování testovací testaus pengujian
    """,
}
"""Words of Spanish, French, German, Italian, Portuguese, Polish, Dutch, Russian, Ukrainian, Turkish, Czech, Indonesian and the
Nordic languages.
"""

_SCRIPTS = {
    "train": "训练 訓練 学習 トレーニング 훈련 학습",
    "val": "验证 驗證 検証 バリデーション 검증",
    "test": "测试 測試 テスト 테스트",
}
"""Words of Chinese, Japanese and Korean, which stand without blanks beside others: 训练集."""


def bare(text: str) -> str:
    """A text without capitals and accents, so that ``Validación`` and ``validacion`` are equal."""
    parts = unicodedata.normalize("NFKD", text).casefold()
    return "".join(letter for letter in parts if not unicodedata.combining(letter))


_SPLIT_OF_BARE = {bare(word): split for split, words in _WORDS.items() for word in words.split()} | SPLIT_OF_WORD
_SPLIT_OF_PART = {bare(word): split for split, words in _SCRIPTS.items() for word in words.split()}


@lru_cache(maxsize=65_536)
def split_name(text: str) -> str | None:
    """The split in the name of a file or folder: train2017 -> train, bananas_val -> val, prueba -> test. None if there is none,
    or two.
    """
    plain = bare(text)
    words = {*re.findall("[a-z]+", text.lower()), *re.findall(r"[^\W\d_]+", plain)}
    found = {_SPLIT_OF_BARE[word] for word in words if word in _SPLIT_OF_BARE}
    if not plain.isascii():
        found |= {split for part, split in _SPLIT_OF_PART.items() if part in plain}
    return found.pop() if len(found) == 1 else None
