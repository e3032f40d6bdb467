"""What worker processes of tests do instead of splitting: by the song's name they succeed, fail, crash or hang."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from separator.audio.place import temporary
from separator.batch.plan import Task
from separator.batch.worker import CannotLoad, Loading, Outcome, Skip, Started, Tell, Work
from separator.errors import AudioError, ModelError
from separator.jobs import Song


@dataclass(frozen=True)
class Acting:
    """Opens work that notes in `folder` what it was called for, and does what the first word of a song's name says."""

    folder: Path

    def __call__(self) -> Work:
        self.note("opened")
        return self.act

    def note(self, word: str) -> None:
        with (self.folder / "notes").open("a") as file:
            file.write(f"{os.getpid()} {word}\n")

    def notes(self) -> list[tuple[int, str]]:
        lines = (self.folder / "notes").read_text().splitlines()
        return [(int(pid), word) for pid, word in (line.split(" ", 1) for line in lines)]

    def times(self, name: str) -> int:
        return [word for _, word in self.notes()].count(name)

    def act(self, task: Task, tell: Tell) -> Outcome | Skip:
        name = task.song.path.stem
        self.note(name)
        if name.startswith("load"):
            tell(Loading())
            if name == "load-crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            if name == "load-memory" or (name == "load-memory-once" and self.times(name) == 1):
                raise CannotLoad(MemoryError())
            if name == "load-memory-once":
                tell(Started())
                return Skip()
            raise CannotLoad(ModelError("the model is broken", hint="get another"))
        tell(Started())
        for path in task.paths.values():
            temporary(path).touch()
        match name.partition("-")[0]:
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                time.sleep(600)
            case "deaf":
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                time.sleep(600)
            case "slow":
                time.sleep(1.0)
            case "bad":
                raise AudioError("bad song", hint="get another")
            case "bug":
                raise ZeroDivisionError("division by zero")
            case "memory":
                if self.times(name) == 1:
                    raise MemoryError
        return Skip()


def tasks(*names: str) -> list[Task]:
    return [Task(number, Song(Path(f"{name}.wav")), {}) for number, name in enumerate(names, start=1)]
