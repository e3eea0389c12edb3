"""Vendors that speak OpenAI's wire, a row each. The comment in a row names the vendor's page that it was read from."""

from __future__ import annotations

from sage.middleware.settings.vendors.kind import Preset

PRESETS: tuple[Preset, ...] = (
    Preset(  # api-docs.deepseek.com
        name="deepseek",
        variables={"DEEPSEEK_API_KEY": "api_key"},
        default_url="https://api.deepseek.com",
        families=("deepseek-chat", "deepseek-reasoner", "deepseek-v4-*"),
        unsupported=("n", "response_format:json_schema"),
        no_thinking={"thinking": {"type": "disabled"}},  # .../guides/thinking_mode
    ),
    Preset(  # console.groq.com/docs/openai, /docs/speech-to-text, /docs/text-to-speech
        name="groq",
        variables={"GROQ_API_KEY": "api_key"},
        default_url="https://api.groq.com/openai/v1",
        operations=("chat/completions", "audio/speech", "audio/transcriptions", "audio/translations"),
        unsupported=("n", "logprobs", "top_logprobs", "logit_bias"),
    ),
    Preset(  # openrouter.ai/docs
        name="openrouter",
        variables={"OPENROUTER_API_KEY": "api_key"},
        default_url="https://openrouter.ai/api/v1",
        operations=("chat/completions", "completions", "embeddings", "rerank"),
        sampling=("top_k", "top_a", "min_p", "repetition_penalty"),
    ),
    Preset(  # platform.kimi.ai/docs; in China https://api.moonshot.cn/v1, with keys of its own
        name="moonshot",
        variables={"MOONSHOT_API_KEY": "api_key"},
        default_url="https://api.moonshot.ai/v1",
        families=("kimi-*", "moonshot-v1-*"),
    ),
    Preset(  # docs.siliconflow.cn; outside China https://api.siliconflow.com/v1
        name="siliconflow",
        variables={"SILICONFLOW_API_KEY": "api_key"},
        default_url="https://api.siliconflow.cn/v1",
        operations=(
            *("chat/completions", "embeddings", "rerank", "audio/speech", "audio/transcriptions"),
            "images/generations",
        ),
        sampling=("top_k", "min_p"),
        no_thinking={"enable_thinking": False},
    ),
    Preset(  # help.aliyun.com/zh/model-studio; outside China https://dashscope-intl.aliyuncs.com/compatible-mode/v1
        name="dashscope",
        variables={"DASHSCOPE_API_KEY": "api_key"},
        default_url="https://dashscope.aliyuncs.com/compatible-mode/v1",
        families=("qwen-*",),
        operations=("chat/completions", "completions", "embeddings"),
        sampling=("top_k", "repetition_penalty"),
        # .../error-code: "This model only support stream mode", and "enable_thinking only support stream call".
        streams_only=("qwq-*", "qvq-*", "*omni*", "qwen3-*[0-9]b*"),
        no_thinking={"enable_thinking": False},
    ),
    Preset(  # www.volcengine.com/docs/82379 (Doubao); a model may be the id of an endpoint (ep-…)
        name="volcengine",
        variables={"ARK_API_KEY": "api_key", "VOLCENGINE_API_KEY": "api_key"},
        default_url="https://ark.cn-beijing.volces.com/api/v3",
        families=("doubao-*", "ep-20*"),
        operations=("chat/completions", "embeddings", "images/generations"),
        no_thinking={"thinking": {"type": "disabled"}},
    ),
    Preset(  # platform.minimaxi.com/docs/api-reference/text-openai-api; in China https://api.minimaxi.com/v1
        name="minimax",
        variables={"MINIMAX_API_KEY": "api_key"},
        default_url="https://api.minimax.io/v1",
        families=("MiniMax-*",),
        unsupported=("n", "functions", "function_call"),
        # .../docs/api-reference/errorcode: too many requests or tokens; key; balance; parameters; contents.
        error_status={
            **{1002: 429, 1039: 429, 2045: 429, 2056: 429, 1004: 401, 2049: 401, 1008: 402},
            **{1026: 400, 1027: 400, 1042: 400, 2013: 400, 20132: 400},
        },
    ),
    Preset(  # cloud.tencent.com/document/product/1729/111007
        name="hunyuan",
        variables={"HUNYUAN_API_KEY": "api_key"},
        default_url="https://api.hunyuan.cloud.tencent.com/v1",
        families=("hunyuan-*",),
        operations=("chat/completions", "embeddings"),
    ),
    Preset(  # platform.stepfun.com/docs/zh/guides/developer/openai; outside China https://api.stepfun.ai/v1
        name="stepfun",
        variables={"STEP_API_KEY": "api_key", "STEPFUN_API_KEY": "api_key"},
        default_url="https://api.stepfun.com/v1",
        families=("step-*",),
        operations=("chat/completions", "audio/speech", "audio/transcriptions"),
    ),
    Preset(  # docs.mistral.ai/api; ids of tool calls: mistralai.github.io/mistral-common/usage/tools
        name="mistral",
        variables={"MISTRAL_API_KEY": "api_key"},
        default_url="https://api.mistral.ai/v1",
        families=(
            *("mistral-*", "ministral-*", "codestral-*", "magistral-*", "devstral-*", "pixtral-*", "voxtral-*"),
            *("open-mistral-*", "open-mixtral-*"),
        ),
        operations=("chat/completions", "embeddings", "moderations", "audio/transcriptions"),
        always_streams_usage=True,
        unsupported=("logprobs", "top_logprobs", "logit_bias"),
        renames={"max_completion_tokens": "max_tokens", "seed": "random_seed"},
        refused_hints=("user", "store", "safety_identifier", "prompt_cache_key", "service_tier"),
        call_id_length=9,
    ),
    Preset(  # docs.together.ai/docs/inference/openai-compatibility
        name="together",
        variables={"TOGETHER_API_KEY": "api_key"},
        default_url="https://api.together.ai/v1",
        operations=(
            *("chat/completions", "completions", "embeddings", "rerank", "images/generations"),
            *("audio/speech", "audio/transcriptions", "audio/translations"),
        ),
        sampling=("top_k", "min_p", "repetition_penalty"),
    ),
    Preset(  # docs.fireworks.ai/tools-sdks/openai-compatibility
        name="fireworks",
        variables={"FIREWORKS_API_KEY": "api_key"},
        default_url="https://api.fireworks.ai/inference/v1",
        families=("accounts/fireworks/*",),
        operations=("chat/completions", "completions", "embeddings", "rerank"),
        sampling=("top_k", "min_p", "typical_p", "repetition_penalty", "mirostat_eta"),
    ),
    Preset(  # docs.x.ai/docs/guides/reasoning: what models that reason refuse
        name="xai",
        variables={"XAI_API_KEY": "api_key"},
        default_url="https://api.x.ai/v1",
        families=("grok-*",),
        operations=("chat/completions", "images/generations"),
        unsupported_by=(
            ("*non-reasoning*", ()),
            ("grok-3-mini*", ("presence_penalty", "frequency_penalty", "stop")),
            ("grok-4*", ("presence_penalty", "frequency_penalty", "stop", "reasoning_effort")),
            ("grok-code*", ("presence_penalty", "frequency_penalty", "stop", "reasoning_effort")),
        ),
    ),
    Preset(  # docs.perplexity.ai/guides/chat-completions-guide
        name="perplexity",
        variables={"PERPLEXITY_API_KEY": "api_key"},
        default_url="https://api.perplexity.ai",
        families=("sonar*",),
        lists_models=False,
        unsupported=(
            *("tools", "tool_choice", "functions", "n", "stop", "seed", "logprobs", "top_logprobs", "logit_bias"),
            "response_format:json_object",
        ),
    ),
    Preset(  # docs.nvidia.com/nim/large-language-models/latest/reference/api-reference
        name="nvidia",
        variables={"NVIDIA_API_KEY": "api_key"},
        default_url="https://integrate.api.nvidia.com/v1",
        operations=("chat/completions", "completions", "embeddings"),
        sampling=("top_k", "min_p", "repetition_penalty"),
    ),
    Preset(  # learn.microsoft.com/azure/foundry/openai/api-version-lifecycle, .../openai/reference
        name="azure",
        adapter="azure:AzureProvider",
        needs=("base_url",),
        variables={"AZURE_OPENAI_ENDPOINT": "base_url", "AZURE_OPENAI_API_KEY": "api_key"},
        lists_models=False,  # it lists models, not the resource's deployments of them
        operations=(
            *("chat/completions", "completions", "embeddings", "images/generations", "images/edits"),
            *("audio/speech", "audio/transcriptions", "audio/translations"),
        ),
    ),
    Preset(  # lmstudio.ai/docs/developer/openai-compat
        name="lmstudio",
        needs=("base_url",),
        variables={"LMSTUDIO_BASE_URL": "base_url", "LMSTUDIO_API_KEY": "api_key"},
        operations=("chat/completions", "completions", "embeddings"),
        sampling=("top_k", "repeat_penalty"),
    ),
    Preset(  # github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
        name="llamacpp",
        needs=("base_url",),
        variables={"LLAMACPP_BASE_URL": "base_url", "LLAMACPP_API_KEY": "api_key"},
        operations=("chat/completions", "completions", "embeddings", "rerank"),
        sampling=("top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n", "mirostat", "mirostat_eta"),
        no_thinking={"chat_template_kwargs": {"enable_thinking": False}},
    ),
    Preset(  # docs.sglang.io/docs/basic_usage/sampling_params, .../openai_api_completions
        name="sglang",
        needs=("base_url",),
        variables={"SGLANG_BASE_URL": "base_url", "SGLANG_API_KEY": "api_key"},
        operations=("chat/completions", "completions", "embeddings", "rerank"),
        sampling=("top_k", "min_p", "repetition_penalty"),
        no_thinking={"chat_template_kwargs": {"enable_thinking": False}},
    ),
)
