"""The tasks by name, in the order of the page."""

from __future__ import annotations

from tools.bench_quality.tasks.base import Task
from tools.bench_quality.tasks.crepe import CrepeTiny
from tools.bench_quality.tasks.fashion import MobilenetFashion, ResnetFashion
from tools.bench_quality.tasks.lite0 import Lite0
from tools.bench_quality.tasks.minilm import MiniLM

__all__ = ["TASKS"]

TASKS: dict[str, type[Task]] = {task.name: task for task in (ResnetFashion, MobilenetFashion, Lite0, MiniLM, CrepeTiny)}
