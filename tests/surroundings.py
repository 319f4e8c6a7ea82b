"""Surroundings of other people's machines: drawn by a seed, and made in namespaces in which `doctor` and `train` then run."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
UNKNOWN_USER = "12345"  # a user id without an entry in /etc/passwd
LONG = "/tmp/place/" + "long-name-of-somebodys-job-12345678/" * 3 + "tmp"  # more than a socket's path may have
USUAL_SHARE = 0.4  # of all draws take a part's first choice: most machines are strange in two or three ways, not in ten

CHOICES: dict[str, tuple[str, ...]] = {
    "home": ("good", "unset", "empty", "missing", "file", "read-only", "/"),
    "temporary": ("unset", "good", "long", "missing", "read-only", "file"),
    "locale": ("unset", "C", "C.UTF-8", "de_DE.ISO-8859-1", "xx_YY.garbage"),
    "umask": ("022", "077", "000", "027", "0777"),
    "user": ("root", "unknown"),
    "shared_memory": ("normal", "64m", "1m", "read-only", "absent"),
    "folder": ("good", "read-only", "deleted"),
    "proxy": ("unset", "unreachable"),
    "run_dir": ("good", "unset", "read-only", "file"),
}


class Surroundings(NamedTuple):
    """One choice of each part, by default the usual one, and the number of runners; one or more need Ray."""

    home: str = "good"
    temporary: str = "unset"
    locale: str = "unset"
    umask: str = "022"
    user: str = "root"
    shared_memory: str = "normal"
    folder: str = "good"
    proxy: str = "unset"
    run_dir: str = "good"
    runners: int = 0


class Outcome(NamedTuple):
    """The end of one command."""

    code: int
    output: str
    errors: str


def draw(seed: int) -> Surroundings:
    """The surroundings of a seed; those of odd seeds have a runner."""
    dice = random.Random(seed)
    parts = {name: options[0] if dice.random() < USUAL_SHARE else dice.choice(options) for name, options in CHOICES.items()}
    return Surroundings(**parts, runners=seed % 2)


def can_be_made() -> bool:
    """Whether this process may make namespaces and mount in them; what it runs must not be in the folder that they replace."""
    tools = all(map(shutil.which, ("unshare", "setpriv", "mount")))
    if os.geteuid() != 0 or not tools or Path(sys.executable).is_relative_to("/tmp"):
        return False
    return subprocess.run(["unshare", "-m", "-p", "-f", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0


def doctor_and_train(here: Surroundings, scratch: Path, seconds: int = 300) -> tuple[Outcome, Outcome]:
    """Runs `doctor` and then `train` in the surroundings, without anything of this process's environment.

    Args:
        here: where the commands run.
        scratch: an empty folder, for a locale and for what the commands print.
        seconds: the longest time of each command.

    Returns:
        both outcomes.
    """
    subprocess.run(["localedef", "-i", "de_DE", "-f", "ISO-8859-1", str(scratch / "de_DE.iso88591")], capture_output=True)
    scratch.chmod(0o755)
    # In a namespace of processes, too: whatever a command leaves ends with it.
    command = ["unshare", "-m", "-p", "-f", "--mount-proc", "--kill-child", "sh", "-c", script(here, scratch, seconds)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=2 * seconds + 60, cwd="/")
    assert done.returncode == 0, f"{here} cannot be made: {done.stderr}"
    return _outcome(scratch, "doctor"), _outcome(scratch, "train")


def _outcome(scratch: Path, command: str) -> Outcome:
    code, output, errors = ((scratch / f"{command}.{suffix}").read_text("utf-8", "replace") for suffix in ("code", "out", "err"))
    return Outcome(int(code), output, errors)


def script(here: Surroundings, scratch: Path, seconds: int) -> str:
    """What the shell does in the namespaces: makes folders and mounts, then runs both commands."""
    folder = f"/tmp/place/{here.folder}"
    # /mnt shows the checkout and the scratch folder; /tmp becomes empty, so that neither Ray's folder nor our own is seen.
    lines = [
        "set -e",
        "mount -t tmpfs none /mnt && mkdir /mnt/root /mnt/scratch",
        f"mount --bind {shlex.quote(str(ROOT))} /mnt/root && mount --bind {shlex.quote(str(scratch))} /mnt/scratch",
        "mount -t tmpfs -o mode=1777 none /tmp",
        f"mkdir -p /tmp/place/good /tmp/place/home /tmp/place/read-only /tmp/place/deleted {LONG} && touch /tmp/place/file",
        *([f"chown -R {UNKNOWN_USER}:{UNKNOWN_USER} /tmp/place"] if here.user == "unknown" else []),
        "mount -t tmpfs -o ro none /tmp/place/read-only",
        *_shared_memory(here.shared_memory),
        f"cd {folder}",
        *([f"rmdir {folder}"] if here.folder == "deleted" else []),
        "set +e",
    ]
    user = [] if here.user == "root" else ["setpriv", f"--reuid={UNKNOWN_USER}", f"--regid={UNKNOWN_USER}", "--clear-groups"]
    limit = ["timeout", "-k", "10", str(seconds)]
    for name, experiment in (("doctor", ["doctor", "toy"]), ("train", ["train", "toy"])):
        arguments = [
            *experiment,
            "--total-frames=2000",
            "--report-seconds=60",
            f"--num-env-runners={here.runners}",
            *_run_dir(here.run_dir),
        ]
        command = shlex.join([*limit, *user, "env", "-i", *_environment(here), sys.executable, "/mnt/root/launch.py", *arguments])
        # The shell opens the files before it takes the umask, so that this keeps nothing of the outcome from us.
        lines += [
            f"(umask {here.umask}; {command}) < /dev/null > /mnt/scratch/{name}.out 2> /mnt/scratch/{name}.err",
            f"echo $? > /mnt/scratch/{name}.code",
        ]
    return "\n".join([*lines, "exit 0"])


def _shared_memory(choice: str) -> list[str]:
    if choice == "normal":
        return []
    if choice == "absent":  # the mount point itself cannot be removed, but /dev can be another one
        devices = "null zero full random urandom tty"
        return [
            f"mkdir /mnt/dev && for name in {devices}; do touch /mnt/dev/$name; mount --bind /dev/$name /mnt/dev/$name; done",
            "ln -s /proc/self/fd /mnt/dev/fd && mount --rbind /mnt/dev /dev",
        ]
    return [f"mount -t tmpfs -o {'ro' if choice == 'read-only' else f'mode=1777,size={choice}'} none /dev/shm"]


def _environment(here: Surroundings) -> list[str]:
    """The variables of the commands."""
    homes = {"good": "/tmp/place/home", "empty": "", "missing": "/tmp/place/nowhere", "file": "/tmp/place/file", "/": "/"}
    folders = {"good": "/tmp/place/good", "long": LONG, "missing": "/tmp/place/nowhere", "file": "/tmp/place/file"}
    read_only = {"read-only": "/tmp/place/read-only"}
    variables = {
        "PATH": os.environ["PATH"],
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": (homes | read_only).get(here.home),
        "TMPDIR": (folders | read_only).get(here.temporary),
        "LC_ALL": None if here.locale == "unset" else here.locale,
        "LOCPATH": "/mnt/scratch" if here.locale.startswith("de_DE") else None,
        "http_proxy": "http://127.0.0.1:9" if here.proxy == "unreachable" else None,
        "https_proxy": "http://127.0.0.1:9" if here.proxy == "unreachable" else None,
    }
    return [f"{name}={value}" for name, value in variables.items() if value is not None]


def _run_dir(choice: str) -> list[str]:
    places = {"good": "/tmp/place/good/run", "read-only": "/tmp/place/read-only/run", "file": "/tmp/place/file/run"}
    return [f"--run-dir={places[choice]}"] if choice in places else []
