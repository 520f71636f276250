"""The model card: README.md with the front matter that hubs read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

_USE = """\
```python
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

folder = "{name}"
processor = AutoProcessor.from_pretrained(folder)
model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto")
picture = {{"type": "image", "image": Image.open("picture.png")}}
asked = {{"type": "text", "text": "Please describe this image in detail."}}
inputs = processor.apply_chat_template(
    [{{"role": "user", "content": [picture, asked]}}],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
)
written = model.generate(**inputs, max_new_tokens=1024)[0, inputs["input_ids"].shape[1]:]
print(processor.decode(written, skip_special_tokens=True))
```

vLLM serves the folder as it is: `vllm serve {name}`."""
_USE_TEXT = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "{name}"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
```

vLLM serves the folder as it is: `vllm serve {name}`."""


@dataclass(frozen=True)
class Card:
    """What a model card says. `config`: the run's settings, those that its config.toml holds."""

    name: str
    license: str
    config: Mapping[str, Any]
    recipe: str  # the text of config.toml, without secrets
    sees: bool = True  # images and videos; else a language model alone
    base_model: str = ""
    tags: Sequence[str] = ()
    step: int | None = None
    curves: str = ""  # a picture beside the card
    evaluations: Sequence[str] = field(default=())  # tables in Markdown

    def text(self) -> str:
        """The whole README.md."""
        parts = [self.front_matter(), f"# {self.name}", self._introduction()]
        parts += ["## How to use it", (_USE if self.sees else _USE_TEXT).format(name=self.name)]
        parts += ["## Data", *self._data(), *self._rewards()]
        if self.curves:
            parts += ["## Curves", f"![Metrics by step]({self.curves})"]
        if self.evaluations:
            parts += ["## Evaluation", *self.evaluations]
        fence = "`" * 4
        parts += ["## Recipe", f"{fence}toml\n{self.recipe.strip()}\n{fence}"]
        return "\n\n".join(part.strip("\n") for part in parts) + "\n"

    def front_matter(self) -> str:
        """YAML between two lines of hyphens."""
        found: dict[str, Any] = {"license": self.license}
        if self.base_model:
            found["base_model"] = self.base_model
        found["library_name"] = "transformers"
        found["pipeline_tag"] = "image-text-to-text" if self.sees else "text-generation"
        how = ["reinforcement-learning", "grpo"] if self._is_rl() else ["supervised"]
        kind = ["captioning"] if self.sees else []
        found["tags"] = list(dict.fromkeys(["caprl_native", *kind, *how, *self.tags]))
        return f"---\n{yaml.safe_dump(found, sort_keys=False, allow_unicode=True)}---"

    def _is_rl(self) -> bool:
        return "reward" in self.config

    def _introduction(self) -> str:
        path = str(self.config.get("policy", {}).get("path", ""))
        start = self.base_model or path.rstrip("/").rpartition("/")[2] or "another model"
        what = "A captioner of images and videos" if self.sees else "A language model"
        how = "by reinforcement learning" if self._is_rl() else "on given answers"
        steps = f", after {self.step:,} steps" if self.step is not None else ""
        return f"{what}, trained {how} from {start} with caprl_native{steps}."

    def _data(self) -> Iterator[str]:
        data = self.config.get("data", {})
        yield "\n".join(f"- `{file}`" for file in data.get("files", [])) or "Not recorded."
        if share := data.get("hold_out"):
            yield f"A share of {share} of the records, with media of its own, was held out."

    def _rewards(self) -> Iterator[str]:
        if not self._is_rl():
            return
        reward = self.config["reward"]
        yield "## Reward"
        yield "The weighted sum of these terms."
        rows = ["| term | type | weight | options |", "| --- | --- | --- | --- |"]
        rows += [_row(name, term) for name, term in reward.get("terms", {}).items()]
        yield "\n".join(rows)
        reader = reward.get("reader", {})
        if model := reader.get("model") or reader.get("path"):
            yield f"The reader that answers from captions: `{model}`."


def _row(name: str, term: Mapping[str, Any]) -> str:
    own = {key: value for key, value in term.items() if key not in ("type", "weight")}
    options = ", ".join(f"{key} = {json.dumps(value)}" for key, value in own.items())
    cells = [name, term.get("type", name), term.get("weight", 1.0), options.replace("|", "\\|")]
    return f"| {' | '.join(map(str, cells))} |"
