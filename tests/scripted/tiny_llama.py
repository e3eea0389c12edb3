"""Writes a tiny random Llama with its tokenizer, and a random LoRA adapter for it; run by vLLM's own Python.

``python tiny_llama.py DIRECTORY`` makes ``DIRECTORY/tiny-llama`` and ``DIRECTORY/adapters/random-lora``. Nothing is
downloaded: the tokenizer (byte-level BPE) is trained on the text below, and the weights are random numbers.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXT = """A gateway stands between those who ask and those who answer. It opens the door, counts the guests and
closes it again. Some models are large and sleep for most of the day; some are small and wake at once. Whoever asks
twice is answered twice. The quick brown fox jumps over the lazy dog, and 0 1 2 3 4 5 6 7 8 9 follow it home."""
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
RANK = 4


def make_tokenizer(directory: Path) -> int:
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    fast.chat_template = TEMPLATE
    fast.save_pretrained(directory)
    return len(fast)


def make_model(directory: Path, vocabulary: int) -> LlamaConfig:
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return config


def make_adapter(directory: Path, config: LlamaConfig) -> None:
    """In peft's layout; large enough numbers that answers change."""
    directory.mkdir(parents=True)
    width = config.num_key_value_heads * config.head_dim
    weights = {}
    for layer in range(config.num_hidden_layers):
        for name, out in (("q_proj", config.hidden_size), ("v_proj", width)):
            name_of_layer = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{name_of_layer}.lora_A.weight"] = torch.randn(RANK, config.hidden_size)
            weights[f"{name_of_layer}.lora_B.weight"] = torch.randn(out, RANK)
    save_file(weights, directory / "adapter_model.safetensors")
    described = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny-llama",
        "r": RANK,
        "lora_alpha": 64,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj", "v_proj"],
    }
    (directory / "adapter_config.json").write_text(json.dumps(described, indent=1))


def main(directory: Path) -> None:
    model = directory / "tiny-llama"
    config = make_model(model, make_tokenizer(model))
    make_adapter(directory / "adapters" / "random-lora", config)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
