import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ragkit.tokens import CHARACTER_TOKENS, TokenIndex, estimate_tokens

TEXTS = st.text(st.characters(), max_size=60)


def test_an_empty_text_has_no_tokens() -> None:
    assert estimate_tokens("") == 0


def test_a_single_letter_is_a_token() -> None:
    assert estimate_tokens("a") == 1


# Beside each text what a tokenizer with a vocabulary of 131,000 really makes of it.
@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        pytest.param(
            "When the lease runs out, the node gives its keys back and asks for new ones. "
            "Nothing is written in between, and readers notice no more than a short delay. ",
            35,
            id="English",
        ),
        pytest.param(
            "Die Donaudampfschifffahrtsgesellschaft vergibt neue Fahrpläne für den Sommer.",
            22,
            id="German",
        ),
        pytest.param("1234567890" * 3, 30, id="digits"),
        pytest.param("我们把文件分成小块,然后把它们存入数据库。", 18, id="Chinese"),
        pytest.param("今日は天気がいいから、散歩しましょう。", 11, id="Japanese"),
        pytest.param("for key, value in sorted(items):\n    print(key, value)\n", 14, id="code"),
        pytest.param("U29tZSByYW5kb20gYnl0ZXMsIGVuY29kZWQu" * 2, 58, id="base64"),
        pytest.param("👩‍💻🎉🚀", 17, id="emoji"),
    ],
)
def test_an_estimate_is_somewhat_above_what_a_tokenizer_counts(text: str, tokens: int) -> None:
    assert tokens <= estimate_tokens(text) <= 2 * tokens


def test_a_broken_character_is_estimated_like_any_other() -> None:
    assert 1 <= estimate_tokens("\ud800") <= CHARACTER_TOKENS


def test_an_unbroken_run_counts_as_one_across_the_blocks_it_is_read_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "see " + "Q2xhc3M" * 9 + ", then " + "x" * 40
    whole = estimate_tokens(text)
    monkeypatch.setattr("ragkit.tokens._BLOCK", 5)
    assert estimate_tokens(text) == whole
    assert TokenIndex(text).count(0, len(text)) == whole


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_a_text_and_its_index_agree(text: str) -> None:
    assert TokenIndex(text).count(0, len(text)) == estimate_tokens(text)


@settings(max_examples=200, deadline=None)
@given(TEXTS | st.text("aZ9 é漢", max_size=60), st.integers(0, 60), st.integers(0, 60))
def test_a_span_never_counts_less_than_its_own_text(text: str, one: int, other: int) -> None:
    start, end = sorted((min(one, len(text)), min(other, len(text))))
    count = TokenIndex(text).count(start, end)
    assert estimate_tokens(text[start:end]) <= count <= estimate_tokens(text)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(0, 60), st.integers(CHARACTER_TOKENS, 30))
def test_a_span_reaches_as_far_as_its_tokens_do(text: str, at: int, tokens: int) -> None:
    at = min(at, len(text))
    index = TokenIndex(text)
    end, start = index.forward(at, tokens), index.backward(at, tokens)
    assert index.count(at, end) <= tokens
    assert index.count(start, at) <= tokens
    assert end == len(text) or index.count(at, end + 1) > tokens
    assert start == 0 or index.count(start - 1, at) > tokens
    assert end > at or at == len(text)
