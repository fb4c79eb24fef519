"""The audit's attacks as a user asks for them: their settings, and a command that runs them again.

A verdict that says only "a stronger attack took more" leaves its reader with nothing to do.
"""

import shlex

from benchmark.audit.attack_harder import StrongerResult
from benchmark.config.attack_syntax import parse_named
from benchmark.config.spec import INHOUSE, AttackSpec, RunSpec
from benchmark.config.threat import NORMS
from benchmark.errors import UsageError

COMMAND = "python -m benchmark run"


def setting_of(attack: AttackSpec) -> str:
    """Return ``torchattacks:APGD(loss='dlr', steps=100)``: what ``--attacks`` takes, where it can.

    With EOT, BPDA and a norm other than the first one they are among the parameters.
    """
    own = dict(attack.params)
    if attack.eot > 1:
        own["eot"] = attack.eot
    if attack.bpda:
        own["bpda"] = True
    if attack.threat.norm != NORMS[0]:
        own["norm"] = attack.threat.norm
    inside = ", ".join(f"{key}={value!r}" for key, value in sorted(own.items()))
    return f"{attack.library}:{attack.type}" + (f"({inside})" if inside else "")


def words_of(result: StrongerResult) -> str:
    """Say how an attack of the audit was set, and what it looked at if not at the defense."""
    beside = f", on a surrogate ({result.why})" if result.on_surrogate else ""
    return f"{setting_of(result.spec)}{beside}"


def command_for(run: RunSpec, defense: str, seed: int, result: StrongerResult, eps: float) -> str:
    """Return the command that runs an attack of the audit at ``eps`` on the same model and images.

    "" where no run can: a surrogate that the audit made, a model that was handed over, or an attack
    that ``--attacks`` cannot name with its parameters. Random starts are others than the audit's.
    """
    setting = setting_of(result.spec)
    if result.on_surrogate or not run.trains or not _can_be_named(result.spec, setting):
        return ""
    kind = next(own.type for own in run.defenses if own.name == defense)
    words = [
        *("--dataset", run.dataset, "--preset", run.preset, "--defenses", kind),
        *(("--study", run.study) if run.study else ()),
        *("--n-train", str(run.n_train), "--n-test", str(run.n_test), "--seeds", str(seed)),
        *("--eps", f"{eps:.12g}", "--attacks", setting),
    ]
    return f"{COMMAND} {' '.join(map(_quoted, words))}"


def _quoted(word: str) -> str:
    """Quote for the shell; in double quotes, where nothing in them means more, for the reader."""
    plain = shlex.quote(word) == word
    return f'"{word}"' if not plain and not set(word) & set('"$`\\!') else shlex.quote(word)


def _can_be_named(attack: AttackSpec, setting: str) -> bool:
    try:
        named = parse_named(setting)
    except UsageError:
        return False
    if named is None:
        return False
    # A class that is named by its module takes no parameters on the command line.
    return attack.library != INHOUSE or ":" not in attack.type
