"""The chat template in both formats: they differ in what stands for an image.

The authors' own program puts `<image>` where a picture stands, transformers' processor takes the
token that features replace. Templates that take no media (plain Qwen's) give way to `turns`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TURNS = """{%- for m in messages -%}
<|im_start|>{{ m.role }}
{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content -%}
{%- if part.type == 'image' -%}%IMAGE%
{% elif part.type == 'video' -%}%VIDEO%
{% else -%}{{ part.text }}{%- endif -%}
{%- endfor %}{% endif %}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""

_PROBE = [
    {
        "role": "user",
        "content": [{"type": "image"}, {"type": "video"}, {"type": "text", "text": "What?"}],
    }
]


def turns(image: str, video: str) -> str:
    """A template of ChatML turns, with these marks for media, each on a line of its own."""
    return _TURNS.replace("%IMAGE%", image).replace("%VIDEO%", video)


def adapted(tokenizer: Any, template: str | None, marks: Mapping[str, str]) -> str | None:
    """The template with other marks for an image and a video (old: new, in this order); None where
    it does not put each of them in the place of a medium."""
    if not template:
        return None
    either = re.compile("|".join(map(re.escape, marks)))
    changed = either.sub(lambda found: marks[found[0]], template)
    return changed if _shows(tokenizer, changed, list(marks.values())) else None


def _shows(tokenizer: Any, template: str, marks: list[str]) -> bool:
    from jinja2 import TemplateError

    try:
        text = tokenizer.apply_chat_template(
            _PROBE, chat_template=template, tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, TypeError):  # it adds the content to a text, which a list is not
        return False
    return [text.count(mark) for mark in marks] == [1, 1]
