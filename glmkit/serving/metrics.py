"""What a server did, in the text form of Prometheus."""

from __future__ import annotations

from glmkit.serving.scheduler import Scheduler

ROUTES = ("/v1/images/generations", "/v1/images/edits", "/v1/models", "/health", "/ready", "/metrics", "/")
KINDS = {"finished": "images finished", "failed": "images failed", "cancelled": "images whose client went away"}


def count(scheduler: Scheduler, path: str, status: int) -> None:
    """Count a request. Paths that do not exist are one, or clients could fill the memory with names."""
    scheduler.answered[path if path in ROUTES else "other", status] += 1


def text(scheduler: Scheduler) -> str:
    """Return all metrics."""
    lines = ["# HELP glmkit_requests_total requests by path and status", "# TYPE glmkit_requests_total counter"]
    for (path, status), number in sorted(scheduler.answered.items()):
        lines.append(f'glmkit_requests_total{{path="{path}",status="{status}"}} {number}')
    for name, help_text in KINDS.items():
        lines += _metric(f"glmkit_images_{name}_total", help_text, "counter", scheduler.counts[name])
    lines += _metric("glmkit_batches_total", "batches of prior tokens", "counter", scheduler.counts["batches"])
    lines += _metric(
        "glmkit_refused_total", "requests that found the queue full", "counter", scheduler.counts["refused"]
    )
    for stage, seconds in scheduler.seconds.items():
        lines += _metric(f"glmkit_{stage}_seconds_total", f"seconds spent on {stage}", "counter", round(seconds, 3))
    lines += _metric("glmkit_queue_images", "images that wait", "gauge", scheduler.waiting)
    lines += _metric("glmkit_held_images", "places of the queue that are taken", "gauge", scheduler.held)
    return "\n".join(lines) + "\n"


def _metric(name: str, help_text: str, kind: str, value: float) -> list[str]:
    return [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}", f"{name} {value}"]
