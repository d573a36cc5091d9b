"""The tasks of a codec's folder: tasks/NAME/ holds a PEFT prompt-tuning adapter and task.json.

Knows nothing of engines or gRPC, nor of how a task was trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from del_codec.errors import ArtifactError, InvalidValue
from del_codec.task import Task
from del_server.soft_prompt import read_soft_prompt, write_soft_prompt

TASKS_FOLDER = "tasks"
TASK_FILE = "task.json"
MAX_TASKS = 64
_MAX_TASK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class ServedTask:
    """A task with its soft prompt [P, D]."""

    task: Task
    soft_prompt: Tensor


def task_folder(codec: Path, name: str) -> Path:
    """Where a codec keeps a task."""
    return codec / TASKS_FOLDER / name


def load_tasks(codec: Path, like: Tensor) -> dict[str, ServedTask]:
    """The tasks of a codec's folder by name; soft prompts in the type, width and place of `like` [..., D].

    Raises ArtifactError for a damaged one.
    """
    folders = sorted(path.parent for path in (codec / TASKS_FOLDER).glob(f"*/{TASK_FILE}"))
    if len(folders) > MAX_TASKS:
        raise ArtifactError(f"{codec / TASKS_FOLDER} holds {len(folders)} tasks: at most {MAX_TASKS}")
    return {
        folder.name: ServedTask(read_task(folder), read_soft_prompt(folder, like.shape[-1]).to(like))
        for folder in folders
    }


def read_task(folder: Path) -> Task:
    """The task of a folder, by its task.json. Raises ArtifactError."""
    path = folder / TASK_FILE
    try:
        if path.stat().st_size > _MAX_TASK_BYTES:
            raise ArtifactError(f"{path} has over {_MAX_TASK_BYTES} bytes: not a task")
        return Task.from_json(folder.name, path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{path} can't be read: {error.strerror}") from None
    except InvalidValue as error:
        raise ArtifactError(f"{path} is not a task: {error}") from None
    except UnicodeDecodeError:
        raise ArtifactError(f"{path} is not UTF-8") from None


def save_task(codec: Path, task: Task, soft_prompt: Tensor, model: str) -> Path:
    """Write a task into a codec's folder; returns the task's own."""
    folder = task_folder(codec, task.name)
    folder.mkdir(parents=True, exist_ok=True)
    write_soft_prompt(folder, soft_prompt, model)
    (folder / TASK_FILE).write_text(task.to_json(), encoding="utf-8")
    return folder
