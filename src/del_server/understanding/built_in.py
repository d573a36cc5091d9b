"""Tasks that `del-server train-task` knows by name; their sets are for research alone and come from elsewhere."""

from __future__ import annotations

from del_codec.errors import InvalidValue
from del_codec.task import Task

TASKS = {
    task.name: task
    for task in (
        Task("sst2", "Review: {}\nSentiment:", ("negative", "positive")),
        Task("imdb", "Review: {}\nSentiment:", ("negative", "positive")),
        Task("mrpc", "First: {}\nSecond: {}\nDo they mean the same?", ("no", "yes")),
        Task("qqp", "First: {}\nSecond: {}\nDo they ask the same?", ("no", "yes")),
    )
}


def choose(name: str, template: str | None, labels: list[str] | None) -> Task:
    """The task of that name, with another template or labels where they are given. Raises InvalidValue."""
    known = TASKS.get(name)
    template = template if template is not None else known.template if known else None
    chosen = tuple(labels) if labels else known.labels if known else None
    if template is None or chosen is None:
        raise InvalidValue("task", name, f"use one of {', '.join(TASKS)}, or say what it is: --template and --labels")
    return Task(name, template, chosen)
