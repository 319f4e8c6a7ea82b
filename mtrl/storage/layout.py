"""The paths of a run's files. No other module composes them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

RESULTS = "results.json"
RESULTS_BY_OTHER_RULES = "results-by-other-rules.json"
UNSEEN_RESULTS = "results-unseen.json"
ARCHIVED_CONFIG = re.compile(r"config-until-(\d{1,18})\.yaml")


@dataclass(frozen=True)
class RunLayout:
    """The paths of a run's files, whether they exist or not."""

    path: Path
    """The run's directory."""

    @property
    def config(self) -> Path:
        """The complete experiment, sealed."""
        return self.path / "config.yaml"

    def archived_config(self, frames: int) -> Path:
        """The experiment that was trained until `frames`, before a resumed run changed it."""
        return self.path / f"config-until-{frames}.yaml"

    def archived_configs(self) -> dict[int, Path]:
        """The experiments before changes, by the frames until which they were trained, ascending."""
        found = {int(match[1]): path for path in self.path.glob("config-until-*.yaml") if (match := ARCHIVED_CONFIG.fullmatch(path.name))}
        return dict(sorted(found.items()))

    @property
    def versions(self) -> Path:
        """Commit, packages and machine."""
        return self.path / "versions.json"

    @property
    def state(self) -> Path:
        """Whether the run trains, or how it ended, and the command that began it."""
        return self.path / "state.json"

    @property
    def messages(self) -> Path:
        """The messages and warnings of the run, with their times."""
        return self.path / "messages.log"

    @property
    def note(self) -> Path:
        """What a person wrote about the run."""
        return self.path / "note.md"

    @property
    def metrics(self) -> Path:
        """A line of JSON for each report."""
        return self.path / "metrics.jsonl"

    @property
    def decisions(self) -> Path:
        """The curriculum's decisions."""
        return self.path / "curriculum.jsonl"

    def archived_decisions(self, frames: int) -> Path:
        """Decisions that were made until `frames` by other rules or for other tasks."""
        return self.path / f"curriculum-until-{frames}.jsonl"

    @property
    def checkpoints(self) -> Path:
        """A folder for each checkpoint, named by its frames; files `latest` and `best` that hold the frames of one."""
        return self.path / "checkpoints"

    @property
    def policies(self) -> Path:
        """A folder for each saved policy, named by its frames."""
        return self.path / "policy"

    @property
    def profile(self) -> Path:
        """The measurements of `train --profile`."""
        return self.path / "profile"

    @property
    def lock(self) -> Path:
        """Held by the process that trains."""
        return self.path / "lock"

    @property
    def claim(self) -> Path:
        """Holds the run where the file system has no locks."""
        return self.path / "lock-claim"

    @property
    def evaluations(self) -> Path:
        """A folder for each evaluated policy, named by its frames."""
        return self.path / "evaluation"

    def evaluation(self, step: int | str) -> Path:
        """The evaluation of the policy with `step` frames."""
        return self.evaluations / str(step)

    def results(self, step: int | str) -> Path:
        """The results of an evaluation."""
        return self.evaluation(step) / RESULTS

    def unseen_results(self, step: int | str) -> Path:
        """The results of an evaluation with tasks that the policy was not trained on."""
        return self.evaluation(step) / UNSEEN_RESULTS

    def evaluation_log(self, step: int | str) -> Path:
        """The output of a background evaluation."""
        return self.evaluation(step) / "evaluation.log"

    def videos(self, step: int | str) -> Path:
        """The folder of an evaluation's videos."""
        return self.evaluation(step) / "video"

    def video(self, step: int | str, task: str) -> Path:
        """The video of one task."""
        return self.videos(step) / video_file(task)

    def evaluated_steps(self) -> list[int]:
        """The frames of all policies with an evaluation's folder, ascending."""
        if not self.evaluations.is_dir():
            return []
        return sorted(int(entry.name) for entry in self.evaluations.iterdir() if entry.name.isdigit())

    def all_results(self) -> list[Path]:
        """The results that exist, in the order of frames."""
        return [path for step in self.evaluated_steps() if (path := self.results(step)).exists()]

    def all_unseen_results(self) -> list[Path]:
        """The results with tasks that were not trained, in the order of frames."""
        return [path for step in self.evaluated_steps() if (path := self.unseen_results(step)).exists()]

    def all_videos(self) -> list[Path]:
        """The videos that exist."""
        return [path for step in self.evaluated_steps() for path in sorted(self.videos(step).glob("*.mp4"))]


def video_file(task: str) -> str:
    """The file name of a task's video: no character of the task's name can lead to another folder."""
    return re.sub(r"[^\w.-]", "_", task) + ".mp4"
