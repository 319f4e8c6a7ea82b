"""Videos of a policy: one mp4 per task, with the step, the rewards and the experts' weights beside each frame."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from envs import SuiteError, Task, TaskSuite
from mtrl.evaluation.jobs import EVALUATION_RUNNER
from mtrl.evaluation.policy import load_actor
from mtrl.models.policy import Actor
from mtrl.rollouts.inference import Inference
from mtrl.storage.layout import video_file
from mtrl.storage.sealed import publish, replace_text

HEIGHT = 384  # of a frame, in pixels
PANEL = 288  # width of the panel beside a frame, in pixels
VIDEO_NUMBER = 1_000_000  # number of the recorded episode: no episode of an evaluation has it
LAST_FRAME_SECONDS = 1.0
LONGEST_VIDEO = 10_000  # steps; an episode without an end is cut off there
MOST_FRAMES_PER_SECOND = 20
INK, FAINT, PAPER, BAR, NEGATIVE = "#1c2733", "#66727f", "#ffffff", "#2f7ed8", "#c2571a"


class Moment(NamedTuple):
    """The state of an episode when a frame is drawn."""

    step: int
    reward: float  # of the last step
    episode_return: float  # so far
    success: bool  # so far
    last: bool


class Outcome(NamedTuple):
    """The result of a recorded episode, kept beside its video."""

    steps: int
    episode_return: float
    success: bool
    steps_per_second: float  # of the video


def choose_renderer() -> None:
    """Lets MuJoCo draw without a display, unless the user has chosen a renderer. Has to be called before MuJoCo is imported."""
    if "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "egl")


def record_policy(
    policy: Path,
    folder: Path,
    *,
    tasks: Sequence[str] = (),
    suite_name: str = "",
    seed: int = 0,
    sampled: bool,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, str]:
    """Records one episode of each task.

    Args:
        policy: folder of a saved policy.
        folder: where the videos go, as `TASK.mp4`.
        tasks: names of the tasks to record; all if empty.
        suite_name: of the suite that has them, where the policy was not trained on them.
        seed: of environments and actions.
        sampled: whether actions are drawn from the policy.
        report: called with a sentence about each task that cannot be recorded; no error is raised.

    Returns:
        file names by task.
    """
    suite, actor = load_actor(policy, suite_name)
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for name in tasks or suite.names:
        file = video_file(name)
        try:
            record(actor, suite, suite.index(name), folder / file, seed=seed, sampled=sampled)
        except Exception as error:  # renderers raise anything, and a missing video must not end an evaluation
            report(f"no video of {name}: {_cause(error)}")
        else:
            files[name] = file
    return files


def record(actor: Actor, suite: TaskSuite, task: int, path: Path, *, seed: int, sampled: bool) -> Outcome:
    """Records one episode of one task, and writes its outcome beside it, as JSON.

    Raises:
        SuiteError: the task's environment cannot be drawn.
    """
    import imageio.v2 as imageio  # slow, and only videos need it

    inference = Inference(actor, torch.Generator().manual_seed(seed), torch.device("cpu"), sampled=sampled)
    env = _drawable(suite.for_evaluation().tasks[task])
    try:
        weights = actor.trunk.gate.task_weights()[task].tolist()
        rate = float(env.metadata.get("render_fps", 30))
        stride = max(1, round(rate / MOST_FRAMES_PER_SECOND))  # drawing a robot arm takes most of the time
        # Under a temporary name until it is whole.
        temporary = path.with_name(f".{path.name}")
        writer: Any = None
        for moment in _episode(env, inference, suite, task, seed):
            if moment.step % stride and not moment.last:
                continue
            frame = beside(_picture(env, suite.names[task]), suite.names[task], moment, weights)
            writer = writer or imageio.get_writer(temporary, format="FFMPEG", fps=rate / stride, codec="libx264")  # type: ignore[arg-type]
            for _ in range(round(rate / stride * LAST_FRAME_SECONDS) if moment.last else 1):
                writer.append_data(frame)
        writer.close()
        publish(temporary, path)
        outcome = Outcome(moment.step, moment.episode_return, moment.success, rate)
        replace_text(path.with_suffix(".json"), json.dumps(outcome._asdict()))
        return outcome
    finally:
        env.close()


def _episode(env: gymnasium.Env[Any, Any], inference: Inference, suite: TaskSuite, task: int, seed: int) -> Iterator[Moment]:
    """Plays one episode, and stops at its beginning and after each step for a picture to be taken."""
    observation, _ = env.reset(seed=seed + EVALUATION_RUNNER // 2, options={"number": VIDEO_NUMBER})
    inference.start(np.array([task]))
    total, succeeded, last = 0.0, False, False
    yield Moment(0, 0.0, total, succeeded, last)
    for step in range(1, LONGEST_VIDEO):
        actions, _ = inference.act({name: array[None] for name, array in suite.observe(task, observation).items()})
        observation, reward, terminated, truncated, info = env.step(suite.act(task, inference.to_environment(actions)[0]))
        total, last = total + float(reward), bool(terminated or truncated)
        succeeded |= bool(info.get("success", False)) or (last and suite.tasks[task].succeeded(total))
        yield Moment(step, float(reward), total, succeeded, last)
        if last:
            return
        inference.follow(np.array([reward], np.float32), valid=np.ones(1, bool))


def beside(picture: np.ndarray, task: str, moment: Moment, weights: Sequence[float]) -> np.ndarray:
    """A picture [H, W, 3] scaled to `HEIGHT`, with the episode's state and the experts' weights beside it: [HEIGHT, W', 3] uint8."""
    image = Image.fromarray(picture)
    width = round(image.width * HEIGHT / image.height / 16) * 16
    canvas = Image.new("RGB", (width + PANEL, HEIGHT), PAPER)
    canvas.paste(image.resize((width, HEIGHT), Image.Resampling.LANCZOS))
    draw, left = ImageDraw.Draw(canvas), width + 16
    draw.text((left, 14), task if len(task) <= 26 else task[:25] + "…", INK, _font(18))
    rows = [
        ("step", f"{moment.step}"),
        ("reward", f"{moment.reward:+.3f}"),
        ("return", f"{moment.episode_return:+.3f}"),
        ("success", "yes" if moment.success else "not yet"),
    ]
    for row, (label, value) in enumerate(rows):
        draw.text((left, 52 + 24 * row), label, FAINT, _font(14))
        draw.text((left + 84, 52 + 24 * row), value, INK, _font(14))
    draw.text((left, 164), "weights of the experts", FAINT, _font(14))
    largest = max([1e-6, *map(abs, weights)])
    height = min(24, (HEIGHT - 196) // max(1, len(weights)))
    for k, weight in enumerate(weights):
        top = 190 + height * k
        length = round(abs(weight) / largest * 150)
        draw.text((left, top), str(k), FAINT, _font(12))
        draw.rectangle((left + 20, top + 2, left + 20 + length, top + height - 6), BAR if weight >= 0 else NEGATIVE)
        draw.text((left + 26 + length, top), f"{weight:+.2f}", INK, _font(12))
    return np.asarray(canvas)


def _drawable(task: Task) -> gymnasium.Env[Any, Any]:
    try:
        return (task.make_evaluation_env or task.make_env)(render_mode="rgb_array")
    except TypeError:
        raise SuiteError(f"{task.name} does not know how to draw itself (its environment takes no render_mode)") from None


def _picture(env: gymnasium.Env[Any, Any], task: str) -> np.ndarray:
    try:
        picture: Any = env.render()
    except NotImplementedError:
        raise SuiteError("its environment has no method render() that returns a picture") from None
    if not isinstance(picture, np.ndarray) or picture.ndim != 3:
        raise SuiteError(f"{task} drew no picture")
    return picture


def _cause(error: Exception) -> str:
    """The error in one line; for a missing graphics library it names the packages to install."""
    text = " ".join(str(error).split()) or type(error).__name__
    if any(
        word in text
        for word in ("EGL", "OSMesa", "osmesa", "OpenGL", "GLEW", "gladLoadGL", "'NoneType' object has no attribute 'glGetError'")
    ):
        return f"MuJoCo found no way to draw without a display ({text}); install libegl1 or libosmesa6 and set MUJOCO_GL to egl or osmesa"
    return text


@functools.cache
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
