"""What a server counts, and the text in which monitoring systems read it (Prometheus')."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Counters:
    """Of one server since its start; `workers` and `requests_open` are of now."""

    requests: Counter[int] = field(default_factory=Counter)  # by status
    requests_open: int = 0
    scored: int = 0
    missing: int = 0
    seconds: float = 0.0  # that answered requests took, in all
    workers: int = 0
    deaths: int = 0
    redone: int = 0

    def text(self, in_flight: int) -> str:
        """`in_flight`: captions that wait or are being scored."""
        lines = [
            "# TYPE caprl_requests_total counter",
            *(
                f'caprl_requests_total{{status="{status}"}} {count}'
                for status, count in sorted(self.requests.items())
            ),
        ]
        for name, kind, value in (
            ("requests_open", "gauge", self.requests_open),
            ("captions_in_flight", "gauge", in_flight),
            ("captions_scored_total", "counter", self.scored),
            ("captions_missing_total", "counter", self.missing),
            ("request_seconds_total", "counter", round(self.seconds, 6)),
            ("workers", "gauge", self.workers),
            ("worker_deaths_total", "counter", self.deaths),
            ("captions_redone_total", "counter", self.redone),
        ):
            lines += [f"# TYPE caprl_{name} {kind}", f"caprl_{name} {value}"]
        return "\n".join(lines) + "\n"
