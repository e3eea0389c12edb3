"""Vendors that speak OpenAI's wire, a row each.

The comments name what a row was read from: the vendor's pages, the types of its SDK, the code of LiteLLM; and what has
no source that could be read, or contradicting ones. ``responses`` is set where the vendor documents the route at the
same address for all its models, and what it says of the request's fields agrees with what is sent (``store: false``).
"""

from __future__ import annotations

from sage.middleware.settings.vendors.kind import Preset

_KIMI: dict[str, tuple[float, ...]] = {
    "temperature": (1, 0.6),
    "top_p": (0.95,),
    "n": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
}

PRESETS: tuple[Preset, ...] = (
    Preset(  # api-docs.deepseek.com/guides/thinking_mode, /guides/responses_api, /api/create-response
        name="deepseek",
        variables={"DEEPSEEK_API_KEY": "api_key"},
        default_url="https://api.deepseek.com",
        families=("deepseek-chat", "deepseek-reasoner", "deepseek-v4-*", "deepseek-flash"),
        responses=True,
        unsupported=("n", "response_format:json_schema"),  # second-hand: clients that were written after its reference
        no_thinking={"thinking": {"type": "disabled"}},
    ),
    # console.groq.com/docs/openai, and the types of the SDK groq 1.7. It refuses each field that it does not know
    # ("property 'store' is unsupported", as issues tell). It has /responses, whose fields could not be read: not set.
    Preset(
        name="groq",
        variables={"GROQ_API_KEY": "api_key"},
        default_url="https://api.groq.com/openai/v1",
        operations=(*("chat/completions", "embeddings", "audio/speech", "audio/transcriptions", "audio/translations"),),
        unsupported=("n", "logprobs", "top_logprobs", "logit_bias", "frequency_penalty", "presence_penalty"),
        refused_hints=("store", "metadata"),
        refused_in_messages=("reasoning_content",),  # its messages have `reasoning`
    ),
    Preset(  # its SDK openrouter 1.3: paths and requests; /responses takes `store: false` alone, as is sent
        name="openrouter",
        variables={"OPENROUTER_API_KEY": "api_key"},
        default_url="https://openrouter.ai/api/v1",
        operations=("chat/completions", "completions", "embeddings", "rerank"),  # completions: from no source
        responses=True,
        sampling=("top_k", "top_a", "min_p", "repetition_penalty"),
    ),
    # platform.kimi.ai/docs/api/models-overview: what cannot be modified (0.6 is for one that does not think, as issues
    # tell; of models after kimi-k2.6: second-hand, and their top_p is not said). In China https://api.moonshot.cn/v1,
    # with keys of its own.
    Preset(
        name="moonshot",
        variables={"MOONSHOT_API_KEY": "api_key"},
        default_url="https://api.moonshot.ai/v1",
        families=("kimi-*", "moonshot-v1-*"),
        fixed_by=(
            ("kimi-k2.[56]*", _KIMI),
            ("kimi-k2.[7-9]*", {**_KIMI, "temperature": (1,), "top_p": (0.95, 1)}),
            ("kimi-k[3-9]*", {**_KIMI, "temperature": (1,), "top_p": (0.95, 1)}),
        ),
    ),
    # docs.siliconflow.cn/llms.txt, /cn/api-reference/chat-completions; outside China https://api.siliconflow.com/v1.
    # Its images have a wire of their own (`image_size`, and `images` in the answer).
    Preset(
        name="siliconflow",
        variables={"SILICONFLOW_API_KEY": "api_key"},
        default_url="https://api.siliconflow.cn/v1",
        operations=("chat/completions", "embeddings", "rerank", "audio/speech", "audio/transcriptions"),
        sampling=("top_k", "min_p"),
        renames={"max_completion_tokens": "max_tokens"},
        no_thinking={"enable_thinking": False},
    ),
    # help.aliyun.com/zh/model-studio; outside China https://dashscope-intl.aliyuncs.com/compatible-mode/v1. Its
    # /responses is at another address (/api/v2/apps/protocols/compatible-mode/v1), and ignores `instructions`.
    Preset(
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
    # The SDK volcengine-ark-runtime 5.0: paths, `thinking`, the fields of responses (Doubao). A model may be the id of
    # an endpoint (ep-…). Whether it lists models: from no source.
    Preset(
        name="volcengine",
        variables={"ARK_API_KEY": "api_key", "VOLCENGINE_API_KEY": "api_key"},
        default_url="https://ark.cn-beijing.volces.com/api/v3",
        families=("doubao-*", "ep-20*"),
        operations=("chat/completions", "embeddings", "images/generations"),
        responses=True,
        refused_in_responses=("include", "metadata", "prompt_cache_key", "safety_identifier", "user"),  # it has none
        no_thinking={"thinking": {"type": "disabled"}},
    ),
    # platform.minimax.io/docs/api-reference: text-openai-api, responses-create, errorcode; in China
    # https://api.minimaxi.com/v1. What it lacks: second-hand.
    Preset(
        name="minimax",
        variables={"MINIMAX_API_KEY": "api_key"},
        default_url="https://api.minimax.io/v1",
        families=("MiniMax-*",),
        responses=True,
        unsupported=("n", "functions", "function_call"),
        # Too many requests, tokens, connections; too fast; the plan's five hours; time; key; balance; the request.
        error_status={
            **{1002: 429, 1039: 429, 1041: 429, 2045: 429, 2056: 429, 1001: 504, 1004: 401, 2049: 401, 1008: 402},
            **{1026: 400, 1027: 400, 1042: 400, 2013: 400},
        },
    ),
    Preset(  # cloud.tencent.com/document/product/1729/111007 (its beginning; embeddings: unchecked)
        name="hunyuan",
        variables={"HUNYUAN_API_KEY": "api_key"},
        default_url="https://api.hunyuan.cloud.tencent.com/v1",
        families=("hunyuan-*",),
        operations=("chat/completions", "embeddings"),
    ),
    # platform.stepfun.com/docs/zh/api-reference/chat, /audio, /responses; outside China https://api.stepfun.ai/v1. Its
    # /responses serves step-3.7-flash alone.
    Preset(
        name="stepfun",
        variables={"STEP_API_KEY": "api_key", "STEPFUN_API_KEY": "api_key"},
        default_url="https://api.stepfun.com/v1",
        families=("step-*",),
        operations=("chat/completions", "audio/speech", "audio/transcriptions"),
    ),
    # The SDK mistralai 3.7: paths, and all fields of requests and messages, of which no other is taken ("Extra inputs
    # are not permitted", as issues tell). Ids of tool calls: mistral_common 1.x, protocol/instruct/validator.py. That
    # usage comes unasked: LiteLLM. Its /responses is a preview (docs.mistral.ai/studio/conversations/responses).
    Preset(
        name="mistral",
        variables={"MISTRAL_API_KEY": "api_key"},
        default_url="https://api.mistral.ai/v1",
        families=(
            *("mistral-*", "ministral-*", "codestral-*", "magistral-*", "devstral-*", "pixtral-*", "voxtral-*"),
            *("open-mistral-*", "open-mixtral-*"),
        ),
        operations=("chat/completions", "embeddings", "moderations", "audio/transcriptions"),
        always_streams_usage=True,
        sampling=("top_k", "repetition_penalty"),
        unsupported=("logit_bias", "functions", "function_call", "modalities", "audio", "verbosity"),
        renames={"max_completion_tokens": "max_tokens", "seed": "random_seed"},
        refused_hints=("user", "store", "safety_identifier", "prompt_cache_retention", "service_tier"),
        refused_in_messages=("reasoning_content", "reasoning", "thinking_blocks", "refusal", "annotations", "audio"),
        call_id_length=9,
    ),
    # docs.together.ai/docs/inference/openai-compatibility, and the SDK together 3.1: paths, fields. Its /responses
    # serves some models alone (/docs/inference/responses-api).
    Preset(
        name="together",
        variables={"TOGETHER_API_KEY": "api_key"},
        default_url="https://api.together.ai/v1",
        operations=(
            *("chat/completions", "completions", "embeddings", "rerank", "images/generations"),
            *("audio/speech", "audio/transcriptions", "audio/translations"),
        ),
        sampling=("top_k", "min_p", "repetition_penalty"),
        renames={"max_completion_tokens": "max_tokens"},
    ),
    # docs.fireworks.ai/guides/response-api, and the SDK fireworks-ai 1.2: fields. Rerank: LiteLLM. Embeddings:
    # unchecked.
    Preset(
        name="fireworks",
        variables={"FIREWORKS_API_KEY": "api_key"},
        default_url="https://api.fireworks.ai/inference/v1",
        families=("accounts/fireworks/*",),
        operations=("chat/completions", "completions", "embeddings", "rerank"),
        responses=True,
        sampling=("top_k", "min_p", "typical_p", "repetition_penalty"),
    ),
    # docs.x.ai/docs/guides/reasoning, /developers/model-capabilities/text/reasoning: what models that reason refuse.
    # Which take `reasoning_effort`: these and the SDK xai-sdk 1.21, for grok-4.20 and grok-code second-hand. Images:
    # LiteLLM.
    Preset(
        name="xai",
        variables={"XAI_API_KEY": "api_key"},
        default_url="https://api.x.ai/v1",
        families=("grok-*",),
        operations=("chat/completions", "images/generations"),
        responses=True,
        refused_in_responses=("metadata",),  # LiteLLM
        unsupported_by=(
            ("*non-reasoning*", ()),
            ("grok-3-mini*", ("presence_penalty", "frequency_penalty", "stop")),
            ("grok-4.[3-9]*", ("presence_penalty", "frequency_penalty", "stop")),
            ("grok-4.20-multi-agent*", ("presence_penalty", "frequency_penalty", "stop")),
            ("grok-4*", ("presence_penalty", "frequency_penalty", "stop", "reasoning_effort")),
            ("grok-code*", ("presence_penalty", "frequency_penalty", "stop", "reasoning_effort")),
        ),
    ),
    # The types of its SDK perplexityai, which have all but `seed`, `logit_bias`, `functions`, json_object. Tools are
    # there, but LiteLLM says that it does not support them. Its /v1/responses is for other models.
    Preset(
        name="perplexity",
        variables={"PERPLEXITY_API_KEY": "api_key"},
        default_url="https://api.perplexity.ai",
        families=("sonar*",),
        lists_models=False,
        unsupported=(
            *("tool_choice", "tools", "function_call", "functions", "seed", "logit_bias"),
            "response_format:json_object",
        ),
        sampling=("top_k",),
    ),
    # docs.nvidia.com/nim/large-language-models/latest/reference/api-reference, which is about its containers: they have
    # /responses. docs.api.nvidia.com/nim (*statuspolling*): answers of hosted models that come later. Their fields, and
    # embeddings: unchecked.
    Preset(
        name="nvidia",
        adapter="nvidia:NvidiaProvider",
        variables={"NVIDIA_API_KEY": "api_key"},
        default_url="https://integrate.api.nvidia.com/v1",
        operations=("chat/completions", "completions", "embeddings"),
        sampling=("top_k", "min_p", "repetition_penalty"),
    ),
    # openai.lib.azure of OpenAI's SDK, and its docs/azure.md: paths, header. /responses: learn.microsoft.com, *Use the
    # Azure OpenAI Responses API*; a dated address has it if it says `responses: true`.
    Preset(
        name="azure",
        adapter="azure:AzureProvider",
        needs=("base_url",),
        variables={"AZURE_OPENAI_ENDPOINT": "base_url", "AZURE_OPENAI_API_KEY": "api_key"},
        lists_models=False,  # it lists models, not the resource's deployments of them
        operations=(
            *("chat/completions", "completions", "embeddings", "images/generations", "images/edits"),
            *("audio/speech", "audio/transcriptions", "audio/translations"),
        ),
        responses=True,
    ),
    Preset(  # lmstudio.ai/docs/api/openai-api, /blog/lmstudio-v0.3.29 (/responses); sampling: unchecked
        name="lmstudio",
        needs=("base_url",),
        variables={"LMSTUDIO_BASE_URL": "base_url", "LMSTUDIO_API_KEY": "api_key"},
        operations=("chat/completions", "completions", "embeddings"),
        responses=True,
        sampling=("top_k", "repeat_penalty"),
    ),
    # github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md (excerpts). Its /responses is a translation to
    # chats, as ours.
    Preset(
        name="llamacpp",
        needs=("base_url",),
        variables={"LLAMACPP_BASE_URL": "base_url", "LLAMACPP_API_KEY": "api_key"},
        operations=("chat/completions", "completions", "embeddings", "rerank"),
        sampling=("top_k", "min_p", "typical_p", "repeat_penalty", "repeat_last_n", "mirostat", "mirostat_eta"),
        no_thinking={"chat_template_kwargs": {"enable_thinking": False}},
    ),
    # docs.sglang.io/docs/basic_usage/sampling_params, .../openai_api_completions. /responses: on no page that was read.
    Preset(
        name="sglang",
        needs=("base_url",),
        variables={"SGLANG_BASE_URL": "base_url", "SGLANG_API_KEY": "api_key"},
        operations=("chat/completions", "completions", "embeddings", "rerank"),
        sampling=("top_k", "min_p", "repetition_penalty"),
        no_thinking={"chat_template_kwargs": {"enable_thinking": False}},
    ),
)
