"""The channel types of one-api and new-api: which provider each is, by LiteLLM's prefix, and where it is.

Source: songquanpeng/one-api ``relay/channeltype/define.go`` and ``url.go`` (bff2932, up to 44), for 45 to 51 those of
Laisky/one-api, which goes on with it (00723d4, 061fc29); QuantumNous/new-api ``constant/channel.go`` (016c88c). Both
number types up to 25 alike but for 2, 4 and 5, and differently beyond. A test holds this table to theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChannelType:
    """``root`` is the address that a channel without one has; ``path`` is what follows the root at the provider."""

    prefix: str
    root: str = ""
    path: str = "/v1"
    keeps_root: bool = False
    """Its keys are of that address alone, and ours is another by itself (in China and outside)."""

    def api_base(self, own: str) -> str | None:
        """The provider's address for a channel whose ``base_url`` is ``own``; ``None`` means where it is by itself."""
        root = own.strip().rstrip("/")
        if not root or root == self.root:
            is_told = self.keeps_root or (self.prefix == _OWN and self.root)
            return f"{self.root}{self.path}" if is_told else None
        root = root.removesuffix("/chat/completions")
        return root if self.path and root.endswith(self.path) else f"{root}{self.path}"


_OWN = "openai_like"
_VOLCENGINE = ChannelType("volcengine", "https://ark.cn-beijing.volces.com", "/api/v3")
_MISTRAL = ChannelType("mistral", "https://api.mistral.ai")
_OLLAMA = ChannelType("ollama", "http://localhost:11434", "")
_COHERE = ChannelType("cohere", "https://api.cohere.ai", "")
_DEEPSEEK = ChannelType("deepseek", "https://api.deepseek.com")
_MINIMAX = ChannelType("minimax", "https://api.minimax.chat", keeps_root=True)
_SILICONFLOW = ChannelType("siliconflow", "https://api.siliconflow.cn")
_XAI = ChannelType("xai", "https://api.x.ai")
_BAIDU_V2 = ChannelType(_OWN, "https://qianfan.baidubce.com", "/v2")
_DASHSCOPE = ChannelType("dashscope", "https://dashscope.aliyuncs.com", "/compatible-mode/v1")
_ZHIPU = ChannelType("zai", "https://open.bigmodel.cn", "/api/paas/v4")

_COMMON: Mapping[int, ChannelType] = {
    1: ChannelType("openai", "https://api.openai.com"),
    3: ChannelType("azure", "", ""),
    6: ChannelType(_OWN, "https://api.openaimax.com"),
    7: ChannelType(_OWN, "https://api.ohmygpt.com"),
    8: ChannelType(_OWN),
    12: ChannelType(_OWN, "https://api.api2gpt.com"),
    13: ChannelType(_OWN, "https://api.aigc2d.com"),
    14: ChannelType("anthropic", "https://api.anthropic.com"),
    16: _ZHIPU,
    17: _DASHSCOPE,
    20: ChannelType("openrouter", "https://openrouter.ai/api"),
    24: ChannelType("gemini", "https://generativelanguage.googleapis.com", "/v1beta"),
    25: ChannelType("moonshot", "https://api.moonshot.cn", keeps_root=True),
    31: ChannelType(_OWN, "https://api.lingyiwanwu.com"),
}
ONE_API: Mapping[int, ChannelType] = {
    **_COMMON,
    2: ChannelType(_OWN, "https://oa.api2d.net"),
    4: ChannelType(_OWN, "https://api.closeai-proxy.xyz"),
    5: ChannelType(_OWN, "https://api.openai-sb.com"),
    26: ChannelType(_OWN, "https://api.baichuan-ai.com"),
    27: _MINIMAX,
    28: _MISTRAL,
    29: ChannelType("groq", "https://api.groq.com/openai"),
    30: _OLLAMA,
    32: ChannelType("stepfun", "https://api.stepfun.com"),
    35: _COHERE,
    36: _DEEPSEEK,
    39: ChannelType("together_ai", "https://api.together.xyz"),
    40: _VOLCENGINE,
    41: ChannelType(_OWN, "https://api.novita.ai/v3/openai", ""),
    44: _SILICONFLOW,
    45: _XAI,
    47: _BAIDU_V2,
    48: ChannelType(_OWN, "https://spark-api-open.xf-yun.com"),
    49: _DASHSCOPE,
    50: ChannelType(_OWN),
    51: ChannelType(_OWN, "https://generativelanguage.googleapis.com/v1beta/openai", ""),
}
NEW_API: Mapping[int, ChannelType] = {
    **_COMMON,
    4: _OLLAMA,
    26: _ZHIPU,
    27: ChannelType("perplexity", "https://api.perplexity.ai", ""),
    34: _COHERE,
    35: _MINIMAX,
    40: _SILICONFLOW,
    42: _MISTRAL,
    43: _DEEPSEEK,
    45: _VOLCENGINE,
    46: _BAIDU_V2,
    47: ChannelType("xinference"),
    48: _XAI,
    53: ChannelType(_OWN, "https://llm.submodel.ai"),
}
