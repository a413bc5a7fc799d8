from __future__ import annotations

import pytest

from ragkit.sparse import Bm25Encoder, average_length

ENCODER = Bm25Encoder(avg_len=10.0)


def terms(text: str) -> set[int]:
    return set(ENCODER.encode_query(text).indices)


def test_inflections_of_a_word_are_one_term() -> None:
    assert terms("rotate") == terms("rotating") == terms("Rotated")


def test_stop_words_and_punctuation_are_no_terms() -> None:
    assert terms("how do the of and !!!") == set()


def test_a_document_and_a_query_share_the_terms_of_their_words() -> None:
    document = ENCODER.encode_document("Keys are rotated every 90 days.")
    assert terms("key rotation") & set(document.indices)
    assert not terms("bananas") & set(document.indices)


def test_term_frequency_saturates() -> None:
    one = ENCODER.encode_document("key door").values[0]
    nine = max(ENCODER.encode_document("key " * 9 + "door").values)
    assert one < nine < 2.2 * one


def test_a_term_weighs_less_in_a_longer_passage() -> None:
    short = dict(zip(*_pairs("key door"), strict=True))
    long = dict(zip(*_pairs("key door window lamp table chair floor wall"), strict=True))
    (key,) = terms("key")
    assert long[key] < short[key]


def _pairs(text: str) -> tuple[list[int], list[float]]:
    vector = ENCODER.encode_document(text)
    return vector.indices, vector.values


@pytest.mark.parametrize(
    ("query", "document"),
    [
        ("検索", "日本語の文章を検索する方法"),
        ("密钥", "如何轮换密钥"),
        ("검색", "문서를 검색하는 방법"),
        ("ภาษาไทย", "ฉันพูดภาษาไทย"),
    ],
)
def test_words_are_found_in_scripts_without_spaces(query: str, document: str) -> None:
    assert terms(query) & set(ENCODER.encode_document(document).indices)


def test_identifiers_are_found_by_their_parts() -> None:
    document = ENCODER.encode_document("set API_KEY_ROTATION, see ERR-4012")
    assert terms("rotation") <= set(document.indices)
    assert terms("4012") <= set(document.indices)


def test_one_character_stands_alone_and_latin_words_beside_others_stay_words() -> None:
    assert terms("字") == terms("字 ")
    assert terms("API密钥") >= terms("api") | terms("密钥")


@pytest.mark.parametrize(
    ("texts", "mean"),
    [
        (["key door"], 2.0),
        (["the key of the door is a"], 2.0),  # stop words do not count
        (["key key key key", "door window"], 3.0),  # repeated terms do
        (["key " * 700], 700.0),
        (["the of and"], 1.0),
        ([], 1.0),
    ],
)
def test_average_length_counts_terms_as_bm25_does(texts: list[str], mean: float) -> None:
    assert average_length(texts) == pytest.approx(mean)


def test_the_measured_average_is_the_length_that_is_neither_rewarded_nor_punished() -> None:
    texts = ["alpha beta gamma delta", "alpha beta", "alpha beta gamma delta epsilon zeta"]
    encoder = Bm25Encoder(avg_len=average_length(texts))
    # At dl = avg_len BM25's weight of a term that occurs once is (k + 1) / (1 + k) = 1.
    assert encoder.encode_document(texts[0]).values == pytest.approx([1.0] * 4)


def test_a_language_has_its_own_stop_words() -> None:
    german = Bm25Encoder(avg_len=10.0, language="german")
    assert german.encode_query("der die das").indices == []
    assert terms("der die das") != set()


@pytest.mark.parametrize("wrong", [{"avg_len": 0.0}, {"avg_len": 1.0, "language": "klingon"}])
def test_a_wrong_setting_is_refused_at_once(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"avg|language"):
        Bm25Encoder(**wrong)  # type: ignore[arg-type]
