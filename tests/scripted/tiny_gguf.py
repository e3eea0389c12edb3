"""Tiny random GGUF models that real llama.cpp loads in milliseconds, written with the ``gguf`` package.

Each is the same bytes for the same arguments, and a few hundred KB. What :func:`write_llama`'s says is nonsense, but at
temperature 0 always the same: words of :data:`WORDS`, with no end of its own accord, so ``max_tokens`` of them.
:func:`write_parrot`'s says what it is told to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

_TEXT = """
the a of to and in is it you that he was for on are with as his they be at one have this from by hot word but what some
we can out other were all there when up use your how said an each she which do their time if will way about many then
them write would like so these her long make thing see him two has look more day could go come did my sound no most
number who over know water than call first people may down side been now find cat dog red blue king france paris rome
italy moon sun rain sea fish bread
"""
WORDS = tuple(_TEXT.split())
"""The whole words of each model's vocabulary."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
EMBEDDING_LENGTH = 64
_HEADS, _LAYERS, _FEED_FORWARD = 4, 2, 128
_LOUD = 1.5
"""How far the words' logits stand out from the bytes': nobody wants half a character."""

_SURE = 8
"""A logit that leaves the others no chance, even at temperature 1: it is multiplied by the root of the width."""
_BYTES = ("<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)))
_END = 2

Matrix = NDArray[np.float16] | NDArray[np.float32]


def write_llama(path: Path, *, seed: int = 0, context: int = 2048, template: str = CHAT_TEMPLATE) -> Path:
    """A random Llama that chats: a vocabulary of bytes and :data:`WORDS`, and a chat template."""
    random = np.random.default_rng(seed)
    pieces = [*_BYTES, *_beginnings(), *_whole_words()]
    tensors = {"token_embd.weight": _matrix(random, len(pieces), EMBEDDING_LENGTH, scale=1.0)}
    for layer in range(_LAYERS):
        tensors |= _llama_layer(random, f"blk.{layer}.")
    output = _matrix(random, len(pieces), EMBEDDING_LENGTH, scale=_LOUD)
    output[: -len(WORDS)] *= np.float16(0.001)
    tensors |= {"output_norm.weight": _ones(EMBEDDING_LENGTH), "output.weight": output}
    return _write_llama(path, pieces, tensors, context, template, space=True)


def write_parrot(
    path: Path, answer: str, *, context: int = 2048, template: str = CHAT_TEMPLATE, split: int = 0
) -> Path:
    """A Llama that answers ``says``, whatever it is asked, and ends: each of its tokens leads to just one other.

    Its layers do nothing. The embedding of a token is a direction of its own, and the output looks for that direction.
    ``split`` makes several files, of so many tensors each.
    """
    tokens = _cut(answer)
    width = -(-(len(tokens) + 1) // 32) * 32
    pieces = [*_BYTES, *tokens]
    embedding, output = np.zeros((2, len(pieces), width), np.float16)
    embedding[: len(_BYTES), 0] = 1  # whatever the prompt ends with leads to the first
    for position in range(len(tokens)):
        embedding[len(_BYTES) + position, position + 1] = 1
        output[len(_BYTES) + position, position] = _SURE
    output[_END, len(tokens)] = _SURE
    tensors: dict[str, Matrix] = {"token_embd.weight": embedding, "output.weight": output}
    tensors["output_norm.weight"] = _ones(width)
    for layer in range(_LAYERS):
        idle = _llama_layer(np.random.default_rng(0), f"blk.{layer}.", width)
        tensors |= {name: tensor if "norm" in name else np.zeros_like(tensor) for name, tensor in idle.items()}
    return _write_llama(path, pieces, tensors, context, template, space=False, split=split)


def _cut(answer: str) -> list[str]:
    """Pieces of at least three letters, each another: a prompt is never read as one of them, and none is two."""
    pieces: list[str] = []
    rest = answer.replace(" ", "▁")
    while rest:
        length = next((n for n in range(3, len(rest)) if rest[:n] not in pieces and len(rest) - n >= 3), len(rest))
        pieces.append(rest[:length])
        rest = rest[length:]
    while pieces[-1] in pieces[:-1]:
        pieces[-2:] = ["".join(pieces[-2:])]
    return pieces


def _write_llama(
    path: Path,
    pieces: list[str],
    tensors: Mapping[str, Matrix],
    context: int,
    template: str,
    *,
    space: bool,
    split: int = 0,
) -> Path:
    width = tensors["token_embd.weight"].shape[1]
    kinds = [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.BYTE] * 256]
    kinds += [gguf.TokenType.NORMAL] * (len(pieces) - len(kinds))
    writer = _writer(path, "llama", context, width, split)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // _HEADS)
    writer.add_vocab_size(len(pieces))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0 if kind is not gguf.TokenType.NORMAL else -float(n) for n, kind in enumerate(kinds)])
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(_END)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(space)
    writer.add_chat_template(template)
    return _close(writer, path, tensors)


def _whole_words() -> list[str]:
    return [f"▁{word}" for word in WORDS]


def _beginnings() -> list[str]:
    """What SentencePiece joins step by step to whole words: letters, and the first letters of each word."""
    vocabulary = _whole_words()
    joined = {word[:length] for word in vocabulary for length in range(2, len(word))} - set(vocabulary)
    return [*(chr(code) for code in range(33, 127)), "▁", *sorted(joined)]


def write_embedder(path: Path, *, seed: int = 0, context: int = 512) -> Path:
    """A random BERT whose file asks for mean pooling: vectors of :data:`EMBEDDING_LENGTH`."""
    return _write_bert(path, seed, context, gguf.PoolingType.MEAN)


def write_reranker(path: Path, *, seed: int = 0, context: int = 512) -> Path:
    """A random BERT with a classifier on top: its order is arbitrary, but always the same."""
    return _write_bert(path, seed, context, gguf.PoolingType.RANK)


def _write_bert(path: Path, seed: int, context: int, pooling: gguf.PoolingType) -> Path:
    random = np.random.default_rng(seed)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,?!'-"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    kinds = [gguf.TokenType.CONTROL] * len(pieces)
    pieces += [f"▁{piece}" for piece in (*letters, *(word for word in WORDS if len(word) > 1))] + list(letters)
    kinds += [gguf.TokenType.NORMAL] * (len(pieces) - len(kinds))
    width = EMBEDDING_LENGTH
    tensors = {
        "token_embd.weight": _matrix(random, len(pieces), width, scale=1.0),
        "position_embd.weight": _matrix(random, context, width, scale=0.1),
        "token_types.weight": _matrix(random, 2, width, scale=0.1).astype(np.float32),
        **_norm("token_embd_norm", width),
    }
    for layer in range(_LAYERS):
        tensors |= _bert_layer(random, f"blk.{layer}.")
    if pooling is gguf.PoolingType.RANK:
        tensors |= _linear(random, "cls", width, width) | _linear(random, "cls.output", 1, width)

    writer = _writer(path, "bert", context)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(pooling)
    writer.add_vocab_size(len(pieces))
    writer.add_token_type_count(2)
    writer.add_tokenizer_model("bert")
    writer.add_token_list(pieces)
    writer.add_token_types(kinds)
    for name, number in {"pad": 0, "unk": 1, "bos": 2, "sep": 3, "mask": 4, "eos": 3}.items():
        getattr(writer, f"add_{name}_token_id")(number)
    return _close(writer, path, tensors)


def _writer(
    path: Path, architecture: str, context: int, width: int = EMBEDDING_LENGTH, split: int = 0
) -> gguf.GGUFWriter:
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=split)
    writer.add_name(f"tiny random {architecture}")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(_LAYERS)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    return writer


def _close(writer: gguf.GGUFWriter, path: Path, tensors: Mapping[str, Matrix]) -> Path:
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _llama_layer(random: np.random.Generator, prefix: str, width: int = EMBEDDING_LENGTH) -> dict[str, Matrix]:
    wide = _FEED_FORWARD
    shapes: dict[str, Sequence[int]] = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (width, width))
    shapes |= {"ffn_gate": (wide, width), "ffn_up": (wide, width), "ffn_down": (width, wide)}
    layer = {f"{prefix}{name}.weight": _matrix(random, *shape) for name, shape in shapes.items()}
    return layer | {f"{prefix}{name}.weight": _ones(width) for name in ("attn_norm", "ffn_norm")}


def _bert_layer(random: np.random.Generator, prefix: str) -> dict[str, Matrix]:
    width, wide = EMBEDDING_LENGTH, _FEED_FORWARD
    layer: dict[str, Matrix] = {}
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        layer |= _linear(random, prefix + name, width, width)
    layer |= _linear(random, f"{prefix}ffn_up", wide, width) | _linear(random, f"{prefix}ffn_down", width, wide)
    return layer | _norm(f"{prefix}attn_output_norm", width) | _norm(f"{prefix}layer_output_norm", width)


def _linear(random: np.random.Generator, name: str, rows: int, columns: int) -> dict[str, Matrix]:
    bias = (0.1 * random.standard_normal(rows)).astype(np.float32)
    return {f"{name}.weight": _matrix(random, rows, columns), f"{name}.bias": bias}


def _norm(name: str, width: int) -> dict[str, Matrix]:
    return {f"{name}.weight": _ones(width), f"{name}.bias": np.zeros(width, np.float32)}


def _ones(width: int) -> Matrix:
    return np.ones(width, np.float32)


def _matrix(random: np.random.Generator, rows: int, columns: int, scale: float | None = None) -> Matrix:
    """``scale`` none: such that what comes out of it is about as large as what goes in."""
    scale = columns**-0.5 if scale is None else scale
    return (scale * random.standard_normal((rows, columns))).astype(np.float16)
