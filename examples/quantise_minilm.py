"""Make the model that ragkit brings along out of the official weights of all-MiniLM-L6-v2.

    pip install onnx
    python examples/quantise_minilm.py FOLDER

FOLDER is the model as sentence-transformers publishes it: `model.safetensors` and
`tokenizer.json` are read, after their checksums. The same weights always give the same bytes.

What is written reads the pieces of one text and gives its unit vector:

- Weights are 8-bit integers with a scale for each row. Those of the linear layers keep to ±64,
  since processors without VNNI add pairs of products in 16 bits, and 2 x 255 x 64 just fits:
  so every processor computes the same integers (see "U8U8" in
  https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html).
- What goes into a linear layer is rounded to 8 bits as well, each piece on its own scale. The
  usual dynamic quantization has one scale for all, so that a vector depends on what else is in
  the batch (down to a cosine of 0.99 with itself), and is further from the original.
- All pieces are of the text, none is padding: there is no mask. Their mean is scaled to unit
  length at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

SHA256 = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
DESTINATION = Path(__file__).parents[1] / "ragkit/local/models/all-MiniLM-L6-v2-int8"

DIM, HEADS, LAYERS = 384, 12, 6
PIECES = 256  # the model's `max_seq_length`; it has positions for 512 and is meant for these
EPSILON = 1e-12
WORD_TOP = 127  # of the rows of the word table, which are looked up and not multiplied
WEIGHT_TOP = 64
OPSETS = {"": 18, "com.microsoft": 1}
OF_MICROSOFT = {"BiasGelu", "MatMulIntegerToFloat", "MultiHeadAttention", "SkipLayerNormalization"}

Weights = dict[str, NDArray[np.float32]]


class Graph:
    """Nodes and constants in the order in which they are added; every node is named as its output.

    A name stands for a value; methods take names and give the name of what they add.
    """

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, name: str, value: Any) -> str:
        """Add a constant; it must be of the type that its readers want."""
        array = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node with one output."""
        self.nodes_of(op, inputs, [output], **attributes)
        return output

    def nodes_of(self, op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        """Add a node with several outputs."""
        domain = "com.microsoft" if op in OF_MICROSOFT else ""
        node = helper.make_node(op, inputs, outputs, outputs[0], domain=domain, **attributes)
        self.nodes.append(node)


def main() -> None:
    """Write `model.onnx` and `tokenizer.json`, and print the checksum of the former."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to", type=Path, default=DESTINATION)
    arguments = parser.parse_args()
    for name, expected in SHA256.items():
        found = hashlib.sha256((arguments.folder / name).read_bytes()).hexdigest()
        if found != expected:
            sys.exit(f"{name}: expected the official file, sha256 {expected}, got {found}")
    weights = read_safetensors(arguments.folder / "model.safetensors")
    written = build(weights).SerializeToString(deterministic=True)
    arguments.to.mkdir(parents=True, exist_ok=True)
    (arguments.to / "model.onnx").write_bytes(written)
    shutil.copyfile(arguments.folder / "tokenizer.json", arguments.to / "tokenizer.json")
    print(f"model.onnx: {len(written):,} bytes, sha256 {hashlib.sha256(written).hexdigest()}")


def read_safetensors(path: Path) -> Weights:
    """The float32 tensors of a file: https://huggingface.co/docs/safetensors (format)."""
    raw = path.read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    entries = json.loads(raw[8:start])
    tensors: Weights = {}
    for name, entry in entries.items():
        if entry.get("dtype") == "F32":
            first, last = (start + offset for offset in entry["data_offsets"])
            tensors[name] = np.frombuffer(raw[first:last], "<f4").reshape(entry["shape"])
    return tensors


def build(weights: Weights) -> ModelProto:
    """The whole network: `input_ids` (pieces,) int64 to `embedding` (1, 384) float32."""
    graph = Graph()
    shared_constants(graph)
    hidden = embeddings(graph, weights)
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}."
        own = {
            name.removeprefix(prefix): value
            for name, value in weights.items()
            if name.startswith(prefix)
        }
        attended = attention(graph, hidden, own, f"l{layer}")
        hidden = feed_forward(graph, attended, own, f"l{layer}")
    mean = graph.node("ReduceMean", [hidden, "first_axis"], "mean", keepdims=1)
    graph.node("LpNormalization", [mean], "embedding", axis=-1, p=2)
    pieces = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["pieces"])
    vector = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, DIM])
    return helper.make_model(
        helper.make_graph(graph.nodes, "all-MiniLM-L6-v2", [pieces], [vector], graph.constants),
        opset_imports=[helper.make_opsetid(*each) for each in OPSETS.items()],
        ir_version=8,
        doc_string="sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0), quantised to int8",
    )


def shared_constants(graph: Graph) -> None:
    """What several nodes read."""
    graph.constant("first_axis", np.array([0]))
    graph.constant("last_axis", np.array([-1]))
    graph.constant("one", np.float32(1))
    graph.constant("step", np.float32(1 / 127))
    graph.constant("middle", np.uint8(128))
    graph.nodes_of("Shape", ["input_ids"], ["pieces"])
    graph.nodes_of("Expand", ["middle", "pieces"], ["middles"])


def embeddings(graph: Graph, weights: Weights) -> str:
    """Words, positions and the first segment's vector (there is no second one), normalised."""
    table, scale = quantised(weights["embeddings.word_embeddings.weight"], top=WORD_TOP)
    positions = weights["embeddings.position_embeddings.weight"][:PIECES]
    segment = weights["embeddings.token_type_embeddings.weight"][0]
    rows = graph.node("Gather", [graph.constant("words", table), "input_ids"], "rows")
    scales = graph.constant("word_scales", scale[:, None])
    scales = graph.node("Gather", [scales, "input_ids"], "row_scales")
    rows = graph.node("Cast", [rows], "float_rows", to=TensorProto.FLOAT)
    rows = graph.node("Mul", [rows, scales], "word_vectors")
    places = graph.constant("positions", positions + segment)
    places = graph.node("Slice", [places, "first_axis", "pieces"], "place_vectors")
    summed = graph.node("Add", [rows, places], "summed")
    norm = [
        graph.constant(f"embeddings_{part}", weights[f"embeddings.LayerNorm.{part}"])
        for part in ("weight", "bias")
    ]
    return graph.node("LayerNormalization", [summed, *norm], "embedded", epsilon=EPSILON)


def attention(graph: Graph, hidden: str, own: Weights, name: str) -> str:
    """Self-attention with its residual; query, key and value come of one multiplication."""
    kinds = ("query", "key", "value")
    weight = np.concatenate([own[f"attention.self.{kind}.weight"] for kind in kinds])
    bias = np.concatenate([own[f"attention.self.{kind}.bias"] for kind in kinds])
    joint = linear(graph, hidden, weight, f"{name}_joint")
    joint = graph.node("Unsqueeze", [joint, "first_axis"], f"{name}_joint_batch")
    parts = [f"{name}_{kind}" for kind in kinds]
    graph.nodes_of("Split", [joint], parts, axis=-1, num_outputs=3)
    inputs = [*parts, graph.constant(f"{name}_joint_bias", bias)]
    heads = graph.node("MultiHeadAttention", inputs, f"{name}_heads", num_heads=HEADS)
    heads = graph.node("Squeeze", [heads, "first_axis"], f"{name}_flat")
    out = linear(graph, heads, own["attention.output.dense.weight"], f"{name}_out")
    return residual(graph, out, hidden, own, "attention.output", f"{name}_attended")


def feed_forward(graph: Graph, attended: str, own: Weights, name: str) -> str:
    """The two linear layers with their residual."""
    wide = linear(graph, attended, own["intermediate.dense.weight"], f"{name}_wide")
    bias = graph.constant(f"{name}_wide_bias", own["intermediate.dense.bias"])
    wide = graph.node("BiasGelu", [wide, bias], f"{name}_gelu")
    narrow = linear(graph, wide, own["output.dense.weight"], f"{name}_narrow")
    return residual(graph, narrow, attended, own, "output", f"{name}_fed")


def residual(graph: Graph, new: str, old: str, own: Weights, where: str, name: str) -> str:
    """The bias that is still missing, the sum of new and old, and its normalisation."""
    parts = {
        "weight": own[f"{where}.LayerNorm.weight"],
        "bias": own[f"{where}.LayerNorm.bias"],
        "added": own[f"{where}.dense.bias"],
    }
    constants = [graph.constant(f"{name}_{part}", value) for part, value in parts.items()]
    return graph.node("SkipLayerNormalization", [new, old, *constants], name, epsilon=EPSILON)


def linear(graph: Graph, hidden: str, weight: NDArray[np.float32], name: str) -> str:
    """A linear layer without its bias, multiplied in integers.

    Each row of `hidden` is divided by its largest value and rounded to 1 … 255 around 128; no row
    of this model's is all zeros.
    """
    matrix, scale = quantised(weight, top=WEIGHT_TOP)
    size = graph.node("Abs", [hidden], f"{name}_abs")
    size = graph.node("ReduceMax", [size, "last_axis"], f"{name}_max", keepdims=1)
    steps = graph.node("Mul", [size, "step"], f"{name}_steps")
    per_row = graph.node("Squeeze", [steps, "last_axis"], f"{name}_row_steps")
    rounded = graph.node("QuantizeLinear", [hidden, per_row, "middles"], f"{name}_int8", axis=0)
    factors = [
        graph.constant(f"{name}_weight", matrix.T),
        "one",
        graph.constant(f"{name}_scale", scale),
        "middle",
    ]
    product = graph.node("MatMulIntegerToFloat", [rounded, *factors], f"{name}_product")
    return graph.node("Mul", [product, steps], name)


def quantised(
    matrix: NDArray[np.float32], *, top: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Integers from -top to top, and for each row the factor that makes floats of them again."""
    largest = np.abs(matrix).max(axis=1)
    scale = np.where(largest > 0, largest / np.float32(top), np.float32(1))
    return np.rint(matrix / scale[:, None]).astype(np.int8), scale


if __name__ == "__main__":
    main()
