"""What LiteLLM calls a provider: the word before a model's slash, and what such a provider is in a table of ours.

Base URLs and variables are those that LiteLLM falls back on, https://docs.litellm.ai/docs/providers. Who is not here
speaks a wire format that no dialect covers, signs its requests, or is told by other parts of the address.
"""

from __future__ import annotations

from proxy.record import frozen

CHAT = ("chat",)
TEXTS = ("chat", "completions", "embeddings")
ALL = ("chat", "completions", "embeddings", "images", "audio", "moderations")


@frozen
class Vendor:
    """`variable` is where LiteLLM looks for a key that is not written down; none is needed where it is empty."""

    dialects: tuple[str, ...]
    base_url: str = ""  # empty: the file has to say it
    variable: str = ""
    endpoints: tuple[str, ...] = CHAT


def _compatible(base_url: str, variable: str, endpoints: tuple[str, ...] = CHAT) -> Vendor:
    return Vendor(("openai-chat",), base_url, variable, endpoints)


OPENAI = Vendor(("openai-chat", "openai-responses"), "https://api.openai.com/v1", "OPENAI_API_KEY", ALL)
OLLAMA = Vendor(("openai-chat",), "http://localhost:11434", "", TEXTS)
OWN = _compatible("", "", TEXTS)  # a server of one's own, which needs no key unless the file names one

VENDORS: dict[str, Vendor] = {
    "openai": OPENAI,
    "text-completion-openai": OPENAI,
    "anthropic": Vendor(("anthropic",), "https://api.anthropic.com", "ANTHROPIC_API_KEY"),
    "gemini": Vendor(("gemini",), "https://generativelanguage.googleapis.com", "GEMINI_API_KEY"),
    "cloudflare": Vendor(
        ("workers-ai",),
        "https://api.cloudflare.com/client/v4/accounts/${CLOUDFLARE_ACCOUNT_ID}/ai/v1",
        "CLOUDFLARE_API_KEY",
        ("chat", "embeddings"),
    ),
    "ollama": OLLAMA,
    "ollama_chat": OLLAMA,
    "hosted_vllm": OWN,
    "vllm": OWN,
    "lm_studio": OWN,
    "llamafile": OWN,
    "xinference": OWN,
    "infinity": OWN,
    "docker_model_runner": OWN,
    "openai_like": OWN,
    "custom_openai": OWN,
    "litellm_proxy": _compatible("", "LITELLM_PROXY_API_KEY", ALL),
    "databricks": _compatible("", "DATABRICKS_API_KEY", ("chat", "embeddings")),
    "cerebras": _compatible("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "cohere": _compatible("https://api.cohere.ai/compatibility/v1", "COHERE_API_KEY", ("chat", "embeddings")),
    "cohere_chat": _compatible("https://api.cohere.ai/compatibility/v1", "COHERE_API_KEY", ("chat", "embeddings")),
    "dashscope": _compatible("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "DASHSCOPE_API_KEY"),
    "deepinfra": _compatible("https://api.deepinfra.com/v1/openai", "DEEPINFRA_API_KEY", ("chat", "embeddings")),
    "deepseek": _compatible("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "fireworks_ai": _compatible("https://api.fireworks.ai/inference/v1", "FIREWORKS_AI_API_KEY", TEXTS),
    "github": _compatible("https://models.github.ai/inference", "GITHUB_API_KEY", ("chat", "embeddings")),
    "groq": _compatible("https://api.groq.com/openai/v1", "GROQ_API_KEY", ("chat", "audio")),
    "hyperbolic": _compatible("https://api.hyperbolic.xyz/v1", "HYPERBOLIC_API_KEY"),
    "minimax": _compatible("https://api.minimax.io/v1", "MINIMAX_API_KEY"),
    "mistral": _compatible("https://api.mistral.ai/v1", "MISTRAL_API_KEY", ("chat", "embeddings")),
    "moonshot": _compatible("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
    "nebius": _compatible("https://api.studio.nebius.ai/v1", "NEBIUS_API_KEY", ("chat", "embeddings")),
    "novita": _compatible("https://api.novita.ai/v3/openai", "NOVITA_API_KEY"),
    "nvidia_nim": _compatible("https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY", ("chat", "embeddings")),
    "openrouter": _compatible("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "perplexity": _compatible("https://api.perplexity.ai", "PERPLEXITYAI_API_KEY"),
    "sambanova": _compatible("https://api.sambanova.ai/v1", "SAMBANOVA_API_KEY", ("chat", "embeddings")),
    "together_ai": _compatible("https://api.together.xyz/v1", "TOGETHERAI_API_KEY", TEXTS),
    "volcengine": _compatible("https://ark.cn-beijing.volces.com/api/v3", "VOLCENGINE_API_KEY"),
    "xai": _compatible("https://api.x.ai/v1", "XAI_API_KEY"),
    "zai": _compatible("https://api.z.ai/api/paas/v4", "ZAI_API_KEY"),
}

# The path of Azure's that takes a key as a bearer and the deployment as the model, as OpenAI's own does.
AZURE_V1 = "/openai/v1"

FOREIGN: dict[str, str] = {
    "azure": "Azure's older paths name deployment and api-version. Its address with "
    f"{AZURE_V1} is OpenAI's dialect: a provider with base_url = https://RESOURCE.openai.azure.com{AZURE_V1}, and the "
    "deployment as `native` of a model",
    "azure_ai": f"only Azure's {AZURE_V1} is OpenAI's dialect: give its api_base",
    "bedrock": "Amazon signs its requests (SigV4), which no dialect here does",
    "sagemaker": "Amazon signs its requests (SigV4), which no dialect here does",
    "vertex_ai": "Google Cloud's tokens expire within the hour; with a key of the Gemini API, use gemini/",
    "watsonx": "IBM's tokens expire within the hour",
}

# Bare names, as LiteLLM's own list of models has them.
BARE: tuple[tuple[str, str], ...] = (
    ("gpt-", "openai"),
    ("chatgpt-", "openai"),
    ("ft:gpt-", "openai"),
    ("o1", "openai"),
    ("o3", "openai"),
    ("o4", "openai"),
    ("text-embedding-3", "openai"),
    ("text-embedding-ada", "openai"),
    ("dall-e-", "openai"),
    ("whisper-", "openai"),
    ("tts-", "openai"),
    ("omni-moderation-", "openai"),
    ("text-moderation-", "openai"),
    ("claude-", "anthropic"),
    ("command-", "cohere"),
    ("deepseek-", "deepseek"),
    ("gemini-", "vertex_ai"),
)

MODES = {
    "chat": "chat",
    "responses": "chat",
    "completion": "completions",
    "embedding": "embeddings",
    "embeddings": "embeddings",
    "image_generation": "images",
    "image_edit": "images",
    "audio_transcription": "audio",
    "audio_speech": "audio",
    "moderation": "moderations",
    "rerank": "rerank",
}


# Other words for the same place.
SAME = {"text-completion-openai": "openai", "ollama_chat": "ollama", "cohere_chat": "cohere"}


def split(model: str, custom: str | None) -> tuple[str, str]:
    """(vendor, native) of `litellm_params.model`; an empty vendor where LiteLLM itself would not know one."""
    if custom:
        return custom, model.removeprefix(f"{custom}/")
    head, slash, native = model.partition("/")
    if slash and (head in VENDORS or head in FOREIGN):
        return head, native
    for start, vendor in BARE:
        if model.startswith(start):
            return vendor, model
    return (head, native) if slash else ("", model)
