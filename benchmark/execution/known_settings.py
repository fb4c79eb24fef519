"""Settings of a user's preset file or of ``--set``: every key is known and every value fits.

Each mistake is one line with the whole dotted key and the place where it stands.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmark.config.presets import is_file, lineage, merge
from benchmark.config.setting_values import fitted
from benchmark.errors import UsageError, unknown_name
from benchmark.execution.setting_kinds import (
    CODE_MAP,
    GRIDS,
    STUDY,
    Kinds,
    attack_kinds,
    defense_kinds,
    shared_kinds,
    training_kinds,
)
from benchmark.registry import ATTACKS, DATASETS, DEFENSES, LIBRARIES, is_path

TOP = ("base", "description", "defaults")


def settings_for(
    preset: str, dataset: str, changes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return a preset's settings for a dataset, as :func:`preset_for`, checked.

    ``changes`` (of ``--set``) come on top. UsageError names the first key that is not known or
    whose value does not fit, of any section of a file.
    """
    settings: dict[str, Any] = {}
    for name, raw in lineage(preset):
        sections = raw
        if is_file(name):
            sections = _checked_file(name, raw, settings)
        for section in ("defaults", dataset):
            own = sections.get(section, {})
            settings = merge(settings, own if isinstance(own, Mapping) else {})
    return merge(settings, checked(changes or {}, settings, "--set"))


def checked(
    changes: Mapping[str, Any], settings: Mapping[str, Any], where: str, prefix: str = ""
) -> dict[str, Any]:
    """Return a section with its fractions as numbers; UsageError names the first wrong key."""
    return _Checker(where, merge(settings, changes)).section(prefix, changes)


def _checked_file(name: str, raw: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    where = f"preset {name}"
    found = dict(raw)
    for key, value in raw.items():
        if key in ("base", "description") and isinstance(value, str):
            continue
        # A dataset that is not installed here may have its section all the same, if it is a path.
        if key not in (*TOP, *DATASETS.entries()) and not is_path(key):
            error = unknown_name("section", key, [*TOP, *DATASETS.entries()])
            raise UsageError(f"{where}: {error}")
        base = merge(settings, raw["defaults"]) if _is_table(raw.get("defaults")) else settings
        found[key] = checked(_Checker(where, {}).table(key, value), base, where, key)
    return found


@dataclass(frozen=True)
class _Checker:
    """What is checked stands in ``where``; ``settings`` are all there are, with it on top."""

    where: str
    settings: Mapping[str, Any]

    def section(self, prefix: str, given: Mapping[str, Any]) -> dict[str, Any]:
        kinds: Kinds = {
            "n_train": int,
            "n_test": int,
            "attacks": list[str],
            "eps": GRIDS,
            "training": training_kinds,
            "defense_options": shared_kinds,
            "defenses": self._defense,
            "attack_settings": self._attack,
            "code_map": CODE_MAP,
            "studies": self._study,
        }
        return self._closed(prefix, given, kinds, "setting")

    def table(self, key: str, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise self._wrong(key, "a table", value)
        return value

    def _closed(
        self, prefix: str, given: Mapping[str, Any], kinds: Kinds, noun: str
    ) -> dict[str, Any]:
        found = {}
        for key, value in given.items():
            dotted = f"{prefix}.{key}" if prefix else key
            if key not in kinds:
                raise UsageError(f"{self.where}: {dotted}: {unknown_name(noun, key, kinds)}")
            found[key] = self._value(dotted, value, kinds[key], key)
        return found

    def _value(self, dotted: str, value: Any, kind: Any, noun: str) -> Any:
        nouns = {"training": "training setting", "defense_options": "defense option"}
        if kind in (self._defense, self._attack, self._study):
            table = self.table(dotted, value)
            return {name: kind(f"{dotted}.{name}", name, own) for name, own in table.items()}
        if kind in (training_kinds, shared_kinds):
            kind = kind()
        if isinstance(kind, Mapping):
            table = self.table(dotted, value)
            return self._closed(dotted, table, dict(kind), nouns.get(noun, f"key of {noun}"))
        try:
            return fitted(value, kind)
        except ValueError as error:
            raise self._wrong(dotted, str(error), value) from None

    def _defense(self, dotted: str, name: str, given: Any) -> dict[str, Any]:
        given = self.table(dotted, given)
        try:
            DEFENSES.check(name)
            kinds = defense_kinds(name)
        except UsageError as error:
            raise UsageError(f"{self.where}: {dotted}: {error}") from None
        except Exception:  # a plugin that cannot be imported: its cells will say so
            return dict(given)
        return self._closed(dotted, given, kinds, f"option of defense {name}")

    def _attack(self, dotted: str, name: str, given: Any) -> dict[str, Any]:
        given = self.table(dotted, given)
        variants = self.settings.get("attack_settings", {})
        type_ = variants.get(name, {}).get("type", name)
        if type_ not in ATTACKS.entries() and not is_path(str(type_)):
            typed = [each for each, own in variants.items() if _is_table(own) and "type" in own]
            wrong = type_ if "type" in given else name
            error = unknown_name("attack", str(wrong), [*ATTACKS.entries(), *typed])
            new = "" if "type" in given else '; a variant of your own needs its type = "pgd"'
            raise UsageError(f"{self.where}: {dotted}: {error}{new}")
        try:
            kinds = attack_kinds(type_)
        except UsageError as error:
            raise UsageError(f"{self.where}: {dotted}: {error}") from None
        except Exception:
            return dict(given)
        own = {key: value for key, value in given.items() if key != "libraries"}
        noun = f"parameter of attack {name}"
        found = self._closed(dotted, own, kinds, noun)
        if "libraries" in given:
            found["libraries"] = self._libraries(
                f"{dotted}.libraries", given["libraries"], type_, kinds, noun
            )
        return found

    def _libraries(
        self, dotted: str, given: Any, type_: str, kinds: Kinds, noun: str
    ) -> dict[str, Any]:
        found = {}
        for library, own in self.table(dotted, given).items():
            if library not in LIBRARIES.entries():
                error = unknown_name("library", library, LIBRARIES.entries())
                raise UsageError(f"{self.where}: {dotted}.{library}: {error}")
            try:
                known = kinds | attack_kinds(type_, library)
            except Exception:  # not installed, or without this attack: nothing is known of it
                known = kinds
            own = self.table(f"{dotted}.{library}", own)
            found[library] = self._closed(f"{dotted}.{library}", own, known, noun)
        return found

    def _study(self, dotted: str, name: str, given: Any) -> dict[str, Any]:
        given = self.table(dotted, given)
        own = {key: value for key, value in given.items() if key in STUDY}
        rest = {key: value for key, value in given.items() if key not in STUDY}
        return self._closed(dotted, own, STUDY, "key of a study") | self.section(dotted, rest)

    def _wrong(self, dotted: str, expected: str, value: Any) -> UsageError:
        return UsageError(f"{self.where}: {dotted} must be {expected}, got {value!r}")


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping)
