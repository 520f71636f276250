"""Models that generate: sampling, an engine in process, an endpoint; readers and judges."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from caprl_native.bounds import Temperature, UserPath
from caprl_native.config.fields import Table

Dtype = Literal["bfloat16", "float32"]
TEMPLATE = "template"  # of `system`: what the chat template does by itself


class SamplingConfig(Table):
    """How tokens are drawn."""

    temperature: Temperature = Field(1.0, description="Sampling temperature; 0: greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling.")
    top_k: int = Field(
        0, ge=0, description="In process: sample among the k most likely tokens; 0: all."
    )
    max_tokens: int = Field(1024, ge=1, description="Longest reply, in tokens.")


class EngineConfig(Table):
    """A vLLM engine in process: of the policy, a reader, a captioner or a judge."""

    max_model_len: int = Field(
        18000, ge=1, description="In process: prompt and reply together, in tokens."
    )
    max_num_seqs: int = Field(256, ge=1, description="In process: replies generated at a time.")
    gpu_memory_utilization: float = Field(
        0.85, gt=0, le=1, description="In process: share of the GPU's memory."
    )
    kv_cache_gib: float = Field(
        4.0, gt=0, description="In process: size of the KV cache on a CPU, GiB."
    )
    enforce_eager: bool = Field(False, description="In process: no CUDA graphs.")


class EndpointConfig(Table):
    """An OpenAI-compatible server."""

    endpoint: str | list[str] = Field(
        "", description="Or a server's base URL, e.g. http://127.0.0.1:8000/v1; or a list."
    )
    model: str = Field("", description="Model name at the endpoint.")
    api_key_env: str = Field(
        "", description="Environment variable that holds the endpoint's key; empty: none is sent."
    )
    prefill: bool = Field(
        True,
        description='The endpoint can go on with an opened turn ("The answer is") and be told not '
        "to think aloud, as vLLM and SGLang can.",
    )
    concurrency: int = Field(64, ge=1, description="Requests in flight to the endpoint.")
    timeout_s: float = Field(
        600.0, gt=0, description="Seconds after which a request to the endpoint has failed."
    )
    retries: int = Field(
        3, ge=0, description="Further attempts of a request that failed, with growing pauses."
    )


class LanguageModelConfig(EngineConfig, SamplingConfig, EndpointConfig):
    """A model: a directory that vLLM runs in process, or an OpenAI-compatible endpoint."""

    path: UserPath = Field("", description="Hugging Face directory of the model, run in process.")
    dtype: Dtype = Field("bfloat16", description="Precision in process.")


class ModelConfig(LanguageModelConfig):
    """A model of an evaluation."""

    revision: str = Field(
        "",
        description="Which weights the endpoint serves: change it with them, or old replies are "
        "taken.",
    )
    temperature: Temperature = Field(0.0, description="Sampling temperature; 0: greedy.")


class VisionModelConfig(ModelConfig):
    """A model that is shown images and videos."""

    repetition_penalty: float = Field(
        1.0,
        gt=0,
        le=2,
        description="Tokens of the prompt and of the reply so far are made this much less likely; "
        "1: no penalty.",
    )
    video_as: Literal["frames", "file"] = Field(
        "frames",
        description="What an endpoint gets of a video: our frames as images, or the file itself "
        "(of clips and of folders of frames it gets our frames all the same).",
    )
    workers: int = Field(2, ge=1, description="Threads that decode media ahead.")


class CaptionerConfig(VisionModelConfig):
    n: int = Field(4, ge=1, description="Captions per image or video.")
    temperature: Temperature = Field(1.0, description="Sampling temperature; 0: greedy.")
    max_tokens: int = Field(2048, ge=1, description="Longest caption, in tokens.")
    image_prompt: str = Field(
        "", description='Empty: the record\'s own, or "Please describe this image in detail."'
    )
    video_prompt: str = Field("", description="The same for videos.")
    system: str = Field(
        TEMPLATE,
        description='The system turn before the prompt: "template": what the chat template writes '
        "by itself; empty: none (an endpoint is sent none, and its template decides); or a text.",
    )


class ReaderConfig(LanguageModelConfig):
    path: UserPath = Field(
        "",
        description="Directory of the causal language model that reads the captions, in process.",
    )
    endpoint: str | list[str] = Field(
        "",
        description="Or the base URL of an OpenAI-compatible server, e.g. "
        "http://127.0.0.1:8000/v1; or a list of them: a request goes to the one with the fewest in "
        "flight.",
    )
    temperature: Temperature = Field(0.6, description="Sampling temperature of the answers.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling of the answers.")
    max_tokens: int = Field(10, ge=1, description="Longest answer, in tokens.")
    dtype: Dtype = Field("bfloat16", description="Precision of the reader in process.")
    max_model_len: int = Field(8192, ge=1, description="Prompt and answer together, in tokens.")
    max_num_seqs: int = Field(
        256, ge=1, description="Questions that the reader in process answers at a time."
    )
    gpu_memory_utilization: float = Field(
        0.2, gt=0, le=1, description="Share of a GPU's memory for the reader in process."
    )
    kv_cache_gib: float = Field(
        2.0, gt=0, description="Size of the reader's KV cache on a CPU, GiB."
    )
    sleep: bool = Field(
        False,
        description="On CUDA: the reader in process gives its memory back while the policy trains, "
        "in step with the policy's engine (untried on a GPU); its weights wait in host memory.",
    )
    concurrency: int = Field(64, ge=1, description="Requests in flight to the endpoint, per rank.")
    timeout_s: float = Field(
        60.0, gt=0, description="Seconds after which a request to the endpoint has failed."
    )
    retries: int = Field(
        3, ge=0, description="Further attempts for a question that failed, with growing pauses."
    )


class HeldOutReaderConfig(ReaderConfig):
    """A reader that the reward never hears of; see docs/rewards.md."""

    every: int = Field(
        10,
        ge=1,
        description="Steps from one comparison with the training readers, on the captions of that "
        "step, to the next.",
    )

    @property
    def is_given(self) -> bool:
        """Whether there is one."""
        return bool(self.path or self.endpoint)
