from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gemini_server import BatchFaults, GeminiServer
from google import genai
from google.genai import types

from gemini_standin.asking import (
    DOCUMENT,
    ONE,
    TWO,
    asked,
    send,
    upload,
    vector,
    vectors,
)


def line(key: str, text: str, **fields: object) -> dict[str, Any]:
    usual = {"taskType": DOCUMENT, "title": "T", "outputDimensionality": 128}
    return {"key": key, "request": {"content": {"parts": [{"text": text}]}, **usual, **fields}}


def submit(server: GeminiServer, *lines: dict[str, Any] | bytes, model: str = ONE) -> str:
    raw = [item if isinstance(item, bytes) else json.dumps(item).encode() for item in lines]
    return submit_file(server, upload(server, b"\n".join(raw) + b"\n"), model)[1]["name"]  # type: ignore[no-any-return]


def submit_file(server: GeminiServer, file: str, model: str = ONE) -> tuple[int, Any]:
    batch = {"displayName": "d", "inputConfig": {"file_name": file}}
    target = f"/v1/models/{model}:asyncBatchEmbedContent"
    return send(server, "POST", target, {"batch": batch})[:2]


def operation(server: GeminiServer, name: str) -> dict[str, Any]:
    status, reply, _ = send(server, "GET", f"/v1/{name}")
    assert status == 200
    return dict(reply)


def collected(server: GeminiServer, name: str) -> list[dict[str, Any]]:
    file = operation(server, name)["metadata"]["output"]["responsesFile"]
    status, content, _ = send(server, "GET", f"/v1/{file}:download?alt=media")
    assert status == 200
    return [json.loads(raw) for raw in content.splitlines()]


def run(server: GeminiServer, *lines: dict[str, Any] | bytes) -> list[dict[str, Any]]:
    name = submit(server, *lines)
    server.advance()
    server.advance()
    return collected(server, name)


TWENTY = [line(f"k{i}", f"text number {i}") for i in range(20)]


def right(server: GeminiServer, number: int) -> list[float]:
    """What the synchronous call gives for a line of `TWENTY`."""
    fields: Any = {"taskType": DOCUMENT, "title": "T", "outputDimensionality": 128}
    return list(vector(server, f"text number {number}", **fields))


def test_the_sdk_takes_a_file_through_a_job(
    server: GeminiServer, client: genai.Client, tmp_path: Path
) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_text("\n".join(json.dumps(item) for item in TWENTY))
    file = client.files.upload(file=path, config={"mime_type": "jsonl"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental, it says
        job = client.batches.create_embeddings(
            model=ONE,
            src=types.EmbeddingsBatchJobSource(file_name=file.name),
            config={"display_name": "d"},
        )
    assert job.name is not None
    states = []
    for _ in range(3):
        job = client.batches.get(name=str(job.name))
        assert job.state is not None
        states.append(job.state.name)
        server.advance()
    assert states == ["JOB_STATE_PENDING", "JOB_STATE_RUNNING", "JOB_STATE_SUCCEEDED"]
    assert job.dest is not None
    assert job.dest.file_name is not None
    content = client.files.download(file=job.dest.file_name)
    results = [json.loads(raw) for raw in content.splitlines()]
    assert {result["key"] for result in results} == {f"k{i}" for i in range(20)}
    for result in results:
        number = int(result["key"][1:])
        assert result["response"]["embedding"]["values"] == right(server, number)
        assert result["response"]["tokenCount"] == ("5" if number > 9 else "4")


def test_a_job_shows_its_state_and_its_counts(server: GeminiServer) -> None:
    name = submit(server, *TWENTY)
    shown = operation(server, name)
    assert "done" not in shown
    assert shown["metadata"]["state"] == "BATCH_STATE_PENDING"
    assert shown["metadata"]["batchStats"] == {"requestCount": "20", "pendingRequestCount": "20"}
    server.batches.faults = BatchFaults(line_errors=3)
    server.advance("SUCCEEDED")
    shown = operation(server, name)
    assert (shown["done"], shown["metadata"]["state"]) == (True, "BATCH_STATE_SUCCEEDED")
    assert shown["metadata"]["batchStats"] == {
        "requestCount": "20",
        "successfulRequestCount": "17",
        "failedRequestCount": "3",
    }


def test_results_come_in_another_order_than_the_requests(server: GeminiServer) -> None:
    keys = [result["key"] for result in run(server, *TWENTY)]
    assert keys != [item["key"] for item in TWENTY]
    server.batches.faults = BatchFaults(shuffled=False)
    keys = [result["key"] for result in run(server, *TWENTY)]
    assert keys == [item["key"] for item in TWENTY]


def test_results_can_be_under_wrong_keys_with_every_key_there_once(server: GeminiServer) -> None:
    server.batches.faults = BatchFaults(wrong_keys=3)
    results = run(server, *TWENTY)
    assert sorted(result["key"] for result in results) == sorted(item["key"] for item in TWENTY)
    wrong = {
        result["key"]
        for result in results
        if result["response"]["embedding"]["values"] != right(server, int(result["key"][1:]))
    }
    assert wrong == {"k0", "k1", "k2"}


def test_a_single_wrong_key_would_be_right() -> None:
    with pytest.raises(ValueError, match="expected wrong_keys of 2 or more"):
        BatchFaults(wrong_keys=1)


@pytest.mark.parametrize(
    ("wrong", "count", "keys"),
    [
        (BatchFaults(missing_keys=2), 18, 18),
        (BatchFaults(missing_keys=21), 0, 0),
        (BatchFaults(duplicate_keys=2), 22, 20),
    ],
)
def test_results_can_be_missing_or_there_twice(
    server: GeminiServer, wrong: BatchFaults, count: int, keys: int
) -> None:
    server.batches.faults = wrong
    results = run(server, *TWENTY)
    assert (len(results), len({result["key"] for result in results})) == (count, keys)


def test_a_bad_line_fails_alone(server: GeminiServer) -> None:
    server.poison = {"arsenic"}
    results = run(
        server,
        line("good", "water"),
        line("empty", ""),
        line("poison", "arsenic"),
        line("title", "water", taskType="RETRIEVAL_QUERY"),
        line("field", "water", words=1),
        line("model", "water", model=f"models/{TWO}"),
    )
    errors_by_key = {item["key"]: item["error"]["message"] for item in results if "error" in item}
    assert {item["key"] for item in results if "response" in item} == {"good"}
    for key, part in {
        "empty": "empty Part",
        "poison": "invalid argument",
        "title": "RETRIEVAL_DOCUMENT",
        "field": 'Unknown name "words"',
        "model": f"got models/{TWO}",
    }.items():
        assert part in errors_by_key[key]


def test_a_file_with_a_line_that_is_no_json_fails_the_job(server: GeminiServer) -> None:
    name = submit(server, TWENTY[0], b'{"key": "half')
    server.advance("SUCCEEDED")
    shown = operation(server, name)
    assert shown["metadata"]["state"] == "BATCH_STATE_FAILED"
    assert shown["error"]["message"].startswith("line 2: Invalid JSON")


@pytest.mark.parametrize("end", ["FAILED", "EXPIRED"])
def test_a_job_can_end_badly(server: GeminiServer, client: genai.Client, end: Any) -> None:
    name = submit(server, *TWENTY)
    server.batches.faults = BatchFaults(end=end)
    server.advance()
    server.advance()
    shown = operation(server, name)
    assert (shown["done"], shown["metadata"]["state"]) == (True, f"BATCH_STATE_{end}")
    assert shown["error"]["message"]
    assert "output" not in shown["metadata"]
    job = client.batches.get(name=name)
    assert job.state is not None
    assert (job.state.name, job.error) == (f"JOB_STATE_{end}", None)  # the SDK drops the reason


def test_a_job_is_cancelled_unless_it_has_ended(server: GeminiServer, client: genai.Client) -> None:
    name = submit(server, *TWENTY)
    client.batches.cancel(name=name)
    assert operation(server, name)["metadata"]["state"] == "BATCH_STATE_CANCELLED"
    name = submit(server, *TWENTY)
    server.advance("SUCCEEDED")
    client.batches.cancel(name=name)
    assert operation(server, name)["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"
    client.batches.delete(name=name)
    assert send(server, "GET", f"/v1/{name}")[0] == 404


def test_jobs_are_listed_in_pages(server: GeminiServer, client: genai.Client) -> None:
    names = [submit(server, *TWENTY) for _ in range(3)]
    jobs = list(client.batches.list(config={"page_size": 2}))
    assert [job.name for job in jobs] == names[::-1]
    listings = [call for call in server.calls if call.path == "/v1/batches"]
    assert [call.query["pageSize"] for call in listings] == ["2", "2"]


def test_time_alone_takes_a_job_to_its_end_if_told_so(server: GeminiServer) -> None:
    server.batches.seconds = 0.05
    name = submit(server, *TWENTY)
    states = set()
    while not operation(server, name).get("done"):
        states.add(operation(server, name)["metadata"]["state"])
        time.sleep(0.002)
    assert states <= {"BATCH_STATE_PENDING", "BATCH_STATE_RUNNING", "BATCH_STATE_SUCCEEDED"}
    assert len(collected(server, name)) == 20


def test_the_sdk_gets_the_results_of_an_inline_job(
    server: GeminiServer, client: genai.Client
) -> None:
    server.batches.faults = BatchFaults(shuffled=False)
    contents: Any = [types.Content(parts=[types.Part(text=text)]) for text in ("a", "b")]
    config = types.EmbedContentConfig(task_type=DOCUMENT, title="T", output_dimensionality=128)
    source = types.EmbeddingsBatchJobSource(
        inlined_requests=types.EmbedContentBatch(contents=contents, config=config)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # experimental, it says
        job = client.batches.create_embeddings(model=ONE, src=source, config={"display_name": "d"})
    server.advance("SUCCEEDED")
    job = client.batches.get(name=str(job.name))
    assert job.dest is not None
    found = job.dest.inlined_embed_content_responses
    assert found is not None
    got = [
        item.response.embedding.values
        for item in found
        if item.response and item.response.embedding
    ]
    fields: Any = {"taskType": DOCUMENT, "title": "T", "outputDimensionality": 128}
    np.testing.assert_array_equal(got, vectors(server, asked("a", **fields), asked("b", **fields)))


def test_an_inline_requests_metadata_comes_back_with_its_result(server: GeminiServer) -> None:
    requests = [{"request": item["request"], "metadata": {"key": item["key"]}} for item in TWENTY]
    batch = {"displayName": "d", "inputConfig": {"requests": {"requests": requests}}}
    target = f"/v1/models/{ONE}:asyncBatchEmbedContent"
    _, made, _ = send(server, "POST", target, {"batch": batch})
    server.advance("SUCCEEDED")
    output = operation(server, made["name"])["metadata"]["output"]
    results = output["inlinedResponses"]["inlinedResponses"]
    for result in results:
        number = int(result["metadata"]["key"][1:])
        assert result["response"]["embedding"]["values"] == right(server, number)


def test_a_job_that_cannot_be_is_refused(server: GeminiServer) -> None:
    target = f"/v1/models/{ONE}:asyncBatchEmbedContent"
    inline = {"requests": {"requests": [{"request": TWENTY[0]["request"]}]}}
    both = {**inline, "fileName": "files/a"}
    for batch, message in (
        ({"inputConfig": inline}, "display_name"),
        ({"displayName": "d"}, "expected one source"),
        ({"displayName": "d", "inputConfig": both}, "expected one source"),
        ({"displayName": "d", "inputConfig": {"requests": {}}}, "no requests"),
        ({"displayName": "d", "inputConfig": {"file": "files/a"}}, 'Unknown name "file"'),
    ):
        status, reply, _ = send(server, "POST", target, {"batch": batch})
        assert (status, message in reply["error"]["message"]) == (400, True)
    assert submit_file(server, "files/none")[0] == 403
    assert submit_file(server, upload(server, b"{}", "text/plain"))[0] == 400
    assert submit_file(server, upload(server, b"\n"))[0] == 400
    assert submit_file(server, upload(server, b"{}"), "text-embedding-004")[0] == 404
    server.batches.max_inline_bytes = 50
    status, reply, _ = send(server, "POST", target, {"batch": {"inputConfig": inline}})
    assert (status, "exceeds the limit" in reply["error"]["message"]) == (400, True)
    assert not server.batches.jobs
