"""What each engine runs, by the names that models give their architecture."""

from __future__ import annotations

from collections.abc import Mapping

_TEXT_MODELS = (
    "arcee baichuan bloom chatglm codeshell command-r cohere2 deci deepseek deepseek2 dots1 ernie4_5 exaone "
    "exaone4 falcon falcon-h1 gemma gemma2 gemma3 glm4 gpt-oss gpt2 gptj gptneox granite granitehybrid granitemoe "
    "grok hunyuan-dense internlm2 jais lfm2 llama llama4 mamba mamba2 minicpm minicpm3 mpt nemotron olmo olmo2 "
    "olmoe openelm orion phi2 phi3 phimoe plamo plm qwen qwen2 qwen2moe qwen3 qwen3moe refact rwkv6 rwkv7 "
    "seed_oss smollm3 stablelm starcoder starcoder2 xverse"
)
# `general.architecture` of a GGUF file, of the text models that llama.cpp generates with.
GGUF: frozenset[str] = frozenset(_TEXT_MODELS.split())
# `architectures` of a `config.json`, of encoders whose last hidden state is an embedding once it is pooled.
ENCODERS: frozenset[str] = frozenset(
    f"{family}{head}" for family in ("Bert", "Roberta", "XLMRoberta", "DistilBert") for head in ("Model", "ForMaskedLM")
)
# Engine to the architectures it runs, as messages show them.
RUN_BY: Mapping[str, frozenset[str]] = {"llamacpp": GGUF, "safetensors": ENCODERS}
