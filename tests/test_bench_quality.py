"""Quality by judgements: small sets worked out by hand, and the formulas once more in numpy."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import ir_measures
import numpy as np
import pytest
import pytrec_eval
from qdrant_client.client_base import QdrantBase
from searching import DOCUMENTS, EMBEDDER, WORDS

from ragkit.benchmark.intervals import paired_interval
from ragkit.benchmark.judged import Judged, index_judged, read_judged
from ragkit.benchmark.qualities import default_settings, measured, quality
from ragkit.chunks import Chunk, Chunker
from ragkit.collection import Collection
from ragkit.documents import Document
from ragkit.edge import EdgeClient
from ragkit.embeddings import Vectors
from ragkit.errors import CollectionError
from ragkit.indexer import Indexer
from ragkit.retriever import Retriever

SQUAD = Path(__file__).parents[2] / "shared" / "data" / "squad-dev"

TEXTS = {
    "a": "walrus walrus walrus",
    "b": "A walrus lies on the ice by the sea and sleeps.",
    "c": "A key opens a door.",
    "d": "Bananas are yellow.",
}
# By words "a" comes before "b"; of the last query nothing is left but stop words.
QUERIES = {"q1": "walrus", "q2": "key", "q3": "banana", "q4": "the of"}
QRELS = {
    "q1": {"b": 1, "a": 0},
    "q2": {"c": 2, "d": 1},
    "q3": {"c": 1},
    "q4": {"d": 1},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    with EdgeClient(tmp_path_factory.mktemp("small")) as client:
        docs = Collection(client, "small")
        Indexer(docs).add(Document(source=k, title="-", text=text) for k, text in TEXTS.items())
        yield docs


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    with EdgeClient(tmp_path_factory.mktemp("mixed")) as client:
        docs = Collection(client, "mixed", embedder=EMBEDDER)
        Indexer(docs).add(DOCUMENTS)
        yield docs


def graded() -> Judged:
    """Made-up judgements of the documents of `mixed`."""
    dice = np.random.default_rng(0)
    queries = {f"q{n}": " ".join(dice.choice(WORDS, 3, replace=False)) for n in range(25)}
    qrels = {
        query: {
            f"{int(each):02}.md": int(dice.integers(0, 4))
            for each in dice.choice(len(DOCUMENTS), 6, replace=False)
        }
        for query in queries
    }
    return Judged(queries=queries, qrels=qrels, name="graded")


def test_measures_of_a_small_set_are_those_worked_out_by_hand(small: Collection) -> None:
    judged = Judged(queries=QUERIES, qrels=QRELS)
    rows = quality(small, judged, measures=["nDCG@10", "Recall@10", "RR@10", "AP@100", "P@1"])
    (row,) = rows
    second = 1 / math.log2(3)
    assert (row.setting, row.options, row.queries) == ("sparse", {"mode": "sparse"}, 4)
    assert row.measures == pytest.approx(
        {
            # q1 second of its one, q2 first of two of which the better; nothing of q3 and q4
            "nDCG@10": (second + 2 / (2 + second)) / 4,
            "R@10": (1 + 1 / 2) / 4,
            "RR@10": (1 / 2 + 1) / 4,
            "AP@100": (1 / 2 + 1 / 2) / 4,
            "P@1": 1 / 4,
        }
    )
    assert row.differences == {}
    assert rows.about.what == "quality"
    assert rows.about.queries == "4 queries of judged with 6 judgements of documents"
    # a and b, c, and d, which is not judged for its query
    assert rows.about.notes[-1].endswith("count as not relevant: sparse 25%")


def test_measures_agree_with_their_formulas_on_graded_judgements(mixed: Collection) -> None:
    judged = graded()
    rows = quality(mixed, judged, settings={"all": {"mode": "dense", "exact": True}})
    expected = {name: [] for name in rows[0].measures}
    for query, text in judged.queries.items():
        rels = judged.qrels[query]
        hits = Retriever(mixed).search(text, mode="dense", exact=True, limit=len(DOCUMENTS))
        gains = np.array([rels.get(hit.source, 0) for hit in hits])
        ideal = np.sort([*rels.values()])[::-1][:10]
        discount = 1 / np.log2(np.arange(10) + 2)
        right = gains > 0
        ranks = np.flatnonzero(right)
        total = sum(rel > 0 for rel in rels.values())
        expected["nDCG@10"].append(gains[:10] @ discount / (ideal @ discount[: len(ideal)]))
        expected["R@10"].append(right[:10].sum() / total)
        expected["RR@10"].append(1 / (ranks[0] + 1) if ranks[0] < 10 else 0.0)
        precision = [right[: rank + 1].mean() for rank in ranks]
        expected["AP@100"].append(sum(precision) / total)
    means = {name: float(np.mean(values)) for name, values in expected.items()}
    assert rows[0].measures == pytest.approx(means)
    assert 0.1 < means["nDCG@10"] < 0.9  # neither nothing nor everything is found


def test_every_setting_is_compared_with_the_first_query_by_query(mixed: Collection) -> None:
    judged = graded()
    rows = quality(
        mixed, judged, settings={"words": {"mode": "sparse"}, "meaning": {"mode": "dense"}}
    )
    by_words, by_meaning = (
        measured(judged.qrels, found_by(mixed, judged, mode), ["nDCG@10"])["nDCG@10"]
        for mode in ("sparse", "dense")
    )
    assert rows[0].differences == {}
    assert rows[1].differences["nDCG@10"] == pytest.approx(paired_interval(by_words, by_meaning))
    for name, (difference, low, high) in rows[1].differences.items():
        assert difference == pytest.approx(rows[1].measures[name] - rows[0].measures[name])
        assert low < difference < high


def found_by(docs: Collection, judged: Judged, mode: str) -> dict[str, list[str]]:
    found = Retriever(docs).search_many([*judged.queries.values()], mode=mode)  # type: ignore[arg-type]
    return {q: [hit.source for hit in hits] for q, hits in zip(judged.queries, found, strict=True)}


def test_what_a_collection_can_do_is_measured_unless_settings_are_given(
    small: Collection, mixed: Collection
) -> None:
    assert [*default_settings(small)] == ["sparse"]
    asked = default_settings(mixed)
    assert asked == {
        "sparse": {"mode": "sparse"},
        "dense": {"mode": "dense"},
        "hybrid": {"mode": "hybrid", "fusion": "rrf", "rrf_k": 10},
        "hybrid dbsf": {"mode": "hybrid", "fusion": "dbsf"},
        "hybrid 1:2": {
            "mode": "hybrid",
            "fusion": "rrf",
            "weights": {"dense": 1, "sparse": 2},
            "rrf_k": 1,
        },
        "hybrid 2:1": {
            "mode": "hybrid",
            "fusion": "rrf",
            "weights": {"dense": 2, "sparse": 1},
            "rrf_k": 1,
        },
    }
    rows = quality(mixed, graded(), measures=["nDCG@10"])
    assert {row.setting: row.options for row in rows} == asked
    assert len({row.measures["nDCG@10"] for row in rows}) > 4  # they do differ


def test_what_the_collection_was_tuned_to_is_measured_as_well_and_changes_no_other(
    edge: EdgeClient,
) -> None:
    docs = Collection(edge, "tuned", embedder=EMBEDDER)
    Indexer(docs).add(DOCUMENTS)
    before = quality(docs, graded(), measures=["nDCG@10"])
    docs.set_search_defaults(weights={"dense": 1.0, "sparse": 50.0})
    after = quality(docs, graded(), measures=["nDCG@10"])
    assert after[0].setting == "as tuned"
    assert [row.measures for row in after[1:]] == [row.measures for row in before]
    assert after[0].measures not in [row.measures for row in before if "hybrid" in row.setting]


class Counting:
    """Embeds as another does, and counts what it is asked."""

    def __init__(self) -> None:
        self.dim, self.max_tokens = EMBEDDER.dim, EMBEDDER.max_tokens
        self.fingerprint = EMBEDDER.fingerprint
        self.embedded: list[str] = []

    def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        return EMBEDDER.embed_documents(texts, titles=titles)

    def embed_query(self, text: str) -> Vectors:
        self.embedded.append(text)
        return EMBEDDER.embed_query(text)


def test_queries_are_embedded_once_for_all_settings_and_not_at_all_for_words(
    edge: EdgeClient,
) -> None:
    counting = Counting()
    docs = Collection(edge, "counted", embedder=counting)
    Indexer(docs).add(DOCUMENTS)
    judged = graded()
    quality(docs, judged, settings={"words": {"mode": "sparse"}}, measures=["R@5"])
    assert counting.embedded == []
    shown: list[tuple[str, int, int]] = []
    quality(docs, judged, measures=["R@5"], progress=lambda *each: shown.append(each))
    assert counting.embedded == [*judged.queries.values()]
    assert shown[0] == ("embedding queries", 25, 25)
    assert ("searching: hybrid 1:2, limit 5", 25, 25) in shown


def test_a_document_of_many_passages_takes_one_place(edge: EdgeClient) -> None:
    docs = Collection(edge, "long", chunker=Chunker(max_tokens=20, overlap=0))
    text = "\n\n".join(f"Walrus number{n} and a walrus." for n in range(30))
    long = Document(source="long", title="-", text=text)
    rest = "A walrus that lies on the ice by the sea sleeps among many others."
    Indexer(docs).add([long, Document(source="short", title="-", text=rest)])
    assert docs.status().chunks > 20
    judged = Judged(queries={"q": "walrus"}, qrels={"q": {"short": 1}})
    (row,) = quality(docs, judged, measures=["RR@2", "R@1"])
    assert row.measures == {"RR@2": 0.5, "R@1": 0.0}


def test_documents_may_be_judged_by_a_key_of_their_own(client: QdrantBase) -> None:
    docs = Collection(client, "numbered")
    Indexer(docs).add(
        Document(source=f"{name}.md", title="-", text=text, metadata={"nr": number})
        for number, (name, text) in enumerate(TEXTS.items())
    )
    judged = Judged(queries={"q": "walrus"}, qrels={"q": {"1": 1}})
    for key in ("nr", "metadata.nr"):
        (row,) = quality(docs, judged, id_key=key, measures=["RR@10"])
        assert row.measures == {"RR@10": 0.5}
    with pytest.raises(ValueError, match=r"under 'title' .* such as '-', .* '1'; name the payload"):
        quality(docs, judged, id_key="title")


@pytest.mark.parametrize(("key", "held"), [("source", "'a'|'b'"), ("title", "'-'")])
def test_judgements_of_other_ids_are_refused_with_ids_of_both_sides(
    small: Collection, key: str, held: str
) -> None:
    judged = Judged(queries={"q": "walrus"}, qrels={"q": {"id-17": 1}})
    with pytest.raises(ValueError, match=rf"'{key}' .*({held}).* 'id-17'.*--id-key"):
        quality(small, judged, id_key=key)


def test_relevant_documents_that_are_not_there_are_counted(small: Collection) -> None:
    judged = Judged(queries={"q": "walrus"}, qrels={"q": {"a": 1, "x": 1, "y": 2, "z": 0}})
    rows = quality(small, judged, measures=["R@10"])
    assert rows[0].measures["R@10"] == pytest.approx(1 / 3)
    assert any(note.startswith("2 of 3 relevant documents are not") for note in rows.about.notes)


def test_notes_of_the_set_are_passed_on(small: Collection) -> None:
    judged = Judged(queries={**QUERIES, "q9": "sea"}, qrels=QRELS)
    assert judged.notes[0] in quality(small, judged, measures=["R@1"]).about.notes


def test_a_measure_is_of_searches_as_deep_as_its_cutoff(mixed: Collection, tmp_path: Path) -> None:
    judged = graded()
    quality(
        mixed, judged, settings={"a b": {}}, measures=["R@3", "nDCG@3", "AP@7"], runs_to=tmp_path
    )
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["a-b@3.run", "a-b@7.run", "qrels.trec"]
    for cutoff in (3, 7):
        expected = Retriever(mixed).search_many([*judged.queries.values()], limit=cutoff)
        lines = (tmp_path / f"a-b@{cutoff}.run").read_text("utf-8").splitlines()
        written = [line.split()[2] for line in lines]
        assert written == [hit.source for hits in expected for hit in hits]


def test_trec_evals_own_code_says_the_same_of_the_runs_that_are_written(
    mixed: Collection, tmp_path: Path
) -> None:
    rows = quality(mixed, graded(), measures=["nDCG@10", "AP@10"], runs_to=tmp_path)
    with (tmp_path / "qrels.trec").open() as file:
        evaluator = pytrec_eval.RelevanceEvaluator(
            pytrec_eval.parse_qrel(file), {"ndcg_cut_10", "map_cut_10"}
        )
    for row in rows:
        name = row.setting.replace(" ", "-").replace(":", "-")
        run = ir_measures.read_trec_run(str(tmp_path / f"{name}@10.run"))
        found = evaluator.evaluate(ir_measures.util.RunConverter(run).as_dict_of_dict()).values()
        assert np.mean([each["ndcg_cut_10"] for each in found]) == pytest.approx(
            row.measures["nDCG@10"]
        )
        assert np.mean([each["map_cut_10"] for each in found]) == pytest.approx(
            row.measures["AP@10"]
        )


def test_queries_without_a_ranking_count_as_nothing_found() -> None:
    qrels = {"q1": {"a": 1}, "q2": {"a": 1}, "q3": {"a": 1}, "q4": {"b": -1}}
    rankings = {"q3": ["b", "a"], "q1": [], "q4": ["b"], "unknown": ["a"]}
    values = measured(qrels, rankings, ["RR@10", "MAP@10", "R(rel=1)@10"])
    assert {name: each.tolist() for name, each in values.items()} == {
        "RR@10": [0, 0, 0.5, 0],
        "AP@10": [0, 0, 0.5, 0],
        "R@10": [0, 0, 1, 0],
    }


def test_the_order_of_a_ranking_is_what_counts_whatever_the_ids_are() -> None:
    for ranking in (["a", "b", "c"], ["c", "b", "a"], ["b", "a", "c"]):
        values = measured({"q": {"a": 1}}, {"q": ranking}, ["RR@3", "nDCG@3"])
        rank = ranking.index("a") + 1
        assert values["RR@3"].tolist() == [pytest.approx(1 / rank)]
        assert values["nDCG@3"].tolist() == [pytest.approx(1 / math.log2(rank + 1))]


@pytest.mark.parametrize(
    "name",
    ["nDCG", "nDCG@0", "nDCG@-1", "nDCG@x", "nDCG@20000", "good@10", "IPrec@1", "nDCG(rel=2)@10",
     "Rprec@10", "alpha_nDCG@10", "R@10 "],
)  # fmt: skip
def test_a_measure_that_cannot_be_computed_is_refused(small: Collection, name: str) -> None:
    with pytest.raises(ValueError, match=r"such as nDCG@10, R@10, RR@10, AP@100 or P\(rel=2\)@5"):
        quality(small, Judged(queries=QUERIES, qrels=QRELS), measures=[name])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "at least one setting"),
        ({"a": {"limit": 5}}, "setting 'a': the measures decide limit"),
        ({"a": {"group_by": "title"}}, "setting 'a': the measures decide group_by"),
        ({"a b": {}, "a:b": {}}, "labels that differ in more than signs"),
        ({"a": {"rrf_k": -1}}, "expected rrf_k"),
    ],
)
def test_a_setting_that_cannot_be_measured_is_refused(
    small: Collection, settings: dict[str, dict[str, object]], expected: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        quality(small, Judged(queries=QUERIES, qrels=QRELS), settings=settings)  # type: ignore[arg-type]


def test_an_empty_collection_is_refused(edge: EdgeClient) -> None:
    docs = Collection(edge, "emptied")
    Indexer(docs).add([Document(source="a", title="-", text="walrus")])
    Indexer(docs).remove(["a"])
    with pytest.raises(CollectionError, match="is empty: index documents first"):
        quality(docs, Judged(queries=QUERIES, qrels=QRELS))


class GivenVectors:
    """Embeds with the vectors that came with the set."""

    dim = 384
    max_tokens = 10_000
    fingerprint = "all-MiniLM-L6-v2 as given"

    def __init__(self) -> None:
        self._vectors: dict[str, Vectors] = {}
        for name in ("corpus", "queries"):
            lines = (SQUAD / f"{name}.jsonl").read_bytes().splitlines()
            vectors = np.load(SQUAD / f"minilm_{'docs' if name == 'corpus' else name}.f16.npy")
            texts = (json.loads(line)["text"] for line in lines)
            self._vectors |= zip(texts, vectors.astype(np.float32), strict=True)

    def embed_documents(self, texts: Sequence[str], *, titles: Sequence[str]) -> Vectors:
        return np.stack([self._vectors[text] for text in texts])

    def embed_query(self, text: str) -> Vectors:
        return self._vectors[text]

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self._vectors[text] for text in texts])


def whole(document: Document) -> list[Chunk]:
    text, source = document.text, document.source
    return [Chunk(source=source, ordinal=0, text=text, start=0, end=len(text), title="-")]


@pytest.mark.skipif(
    not SQUAD.exists(),
    reason="needs SQuAD as a judged set beside the project, in ../shared/data/squad-dev: "
    "corpus.jsonl, queries.jsonl, qrels.tsv and MiniLM's vectors of both",
)
def test_squad_is_measured_as_others_have_measured_it(edge: EdgeClient) -> None:
    judged = read_judged(SQUAD)
    judged = judged.only([*judged.queries][::50])
    docs = Collection(edge, "squad", embedder=GivenVectors(), chunker=whole)
    assert index_judged(docs, judged).added == 2_067
    rows = quality(
        docs, judged, settings={"sparse": {"mode": "sparse"}, "dense": {"mode": "dense"}},
        measures=["nDCG@10"],
    )  # fmt: skip
    found = {row.setting: row.measures["nDCG@10"] for row in rows}
    # Of all 10,570 questions 0.876 and 0.773; the mean of these 212 has a standard error of 0.02.
    assert found == pytest.approx({"sparse": 0.876, "dense": 0.773}, abs=0.05)
    difference, low, high = rows[1].differences["nDCG@10"]
    assert low < -0.103 < high < 0
    assert high - low < 0.15
    assert difference == pytest.approx(found["dense"] - found["sparse"])
