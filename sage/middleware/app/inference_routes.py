"""The hot routes that ask models. Every process of a gateway has them."""

from __future__ import annotations

from sage.middleware.routers import generate
from sage.middleware.routers.anthropic import inference as anthropic_inference
from sage.middleware.routers.anthropic import token_count as anthropic_token_count
from sage.middleware.routers.cohere import inference as cohere_inference
from sage.middleware.routers.http.hot_route import HotRoute
from sage.middleware.routers.ollama import inference as ollama_inference
from sage.middleware.routers.openai import audio, images, moderations, rerank, tokenize
from sage.middleware.routers.openai import inference as openai_inference
from sage.middleware.routers.openai.responses import inference as responses_inference

INFERENCE_ROUTES: tuple[HotRoute, ...] = (
    *generate.ROUTES,
    *openai_inference.ROUTES,
    *responses_inference.ROUTES,
    *rerank.ROUTES,
    *anthropic_inference.ROUTES,
    *anthropic_token_count.ROUTES,
    *cohere_inference.ROUTES,
    *ollama_inference.ROUTES,
    *tokenize.ROUTES,
    *audio.ROUTES,
    *images.ROUTES,
    *moderations.ROUTES,
)
