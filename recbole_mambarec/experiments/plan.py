"""What a run is, before it starts: everything that decides its result, and its key."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recbole.config import Config

from recbole_mambarec import registry
from recbole_mambarec.checkpoint import plain
from recbole_mambarec.config import default_properties, no_command_line
from recbole_mambarec.data.dataset import wanted_modalities
from recbole_mambarec.data.fingerprint import config_data_hash
from recbole_mambarec.errors import UserError
from recbole_mambarec.run_keys import NO_EFFECT, run_key

DEFAULT_SEED: int = default_properties("overall")["seed"]
_REFUSED = {
    "resume_from": "an interrupted run continues from its own checkpoint by itself",
    "nproc": "a recorded run takes one process",
}


@dataclass(frozen=True)
class Run:
    """A training that is fully described before it starts.

    Attributes:
        group, label, overrides, config, data_hash, key: see :mod:`~recbole_mambarec.experiments.store`.
        given: what ``Config`` is built from, including the user's paths and device.
        checkpoint_dir: the folder of the checkpoint and, during training, of the curve.
    """

    group: str
    label: str
    model: str
    dataset: str
    seed: int
    given: dict
    overrides: dict
    config: dict
    data_hash: str
    key: str
    checkpoint_dir: str

    @property
    def checkpoint(self) -> Path:
        """The checkpoint file, which has the parameters of the best epoch so far."""
        return Path(self.checkpoint_dir) / f"{self.model}-{self.key[:16]}.pth"

    def with_seed(self, seed: int) -> Run:
        """The same run with another seed."""
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise UserError(f"a seed must be a whole number from 0, got {seed!r}")
        key = run_key(self.model, self.config, seed, self.data_hash)
        return replace(self, seed=seed, given=self.given | {"seed": seed}, key=key)

    def __str__(self) -> str:
        return f"{self.label}, {self.dataset}, seed {self.seed}"


def resolve(
    model: str,
    dataset: str,
    seed: int | None = None,
    overrides: dict | None = None,
    config_files: list[str] | None = None,
    label: str | None = None,
    group: str = "comparison",
) -> Run:
    """Describe a run without starting it.

    Args:
        model, dataset: names, as for RecBole.
        seed: None: the configured one, or else the default of this package.
        overrides: configuration that takes precedence over ``config_files``; text is read as on RecBole's command line.
        config_files: YAML files.
        label: None: the model's name.
        group: see :mod:`~recbole_mambarec.experiments.store`.

    Raises:
        UserError: the configuration or the dataset's folder is faulty, as far as that shows without reading the data.
    """
    _check_allowed(overrides or {})
    with no_command_line():
        try:
            config = Config(model, dataset, config_files, dict(overrides or {}))
        except UserError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, NotImplementedError) as error:
            reason = str(error).strip() or type(error).__name__
            raise UserError(f"the configuration of {model} on {dataset} is not valid: {reason}") from error
    given = dict(config.external_config_dict)
    _check_allowed(given)
    if config["eval_step"] < 1:
        raise UserError(
            "eval_step must be at least 1 here, because the epoch of a recorded run is chosen on the validation split"
        )
    preset = config.preset_in_use
    # a preset that was named is recorded as its values; a recognised dataset will be recognised again
    settings = preset.values | given if preset is not None and preset.asked_for else given
    data_hash = config_data_hash(config)
    if model in registry.names():
        wanted_modalities(config, Path(config["data_path"]), dataset)
    run = Run(
        group=group,
        label=label or model,
        model=model,
        dataset=dataset,
        seed=0,
        given=given | {"mask_valid_in_test": True},
        overrides=_without_paths({key: plain(value) for key, value in settings.items() if key not in NO_EFFECT}),
        config=effective_config(config),
        data_hash=data_hash,
        key="",
        checkpoint_dir=str(config["checkpoint_dir"]),
    )
    return run.with_seed(given.get("seed", DEFAULT_SEED) if seed is None else seed)


def _check_allowed(given: dict) -> None:
    """Refuse settings that a recorded run makes itself."""
    for key, reason in _REFUSED.items():
        if str(given.get(key)) not in ("None", "1"):
            raise UserError(f"{key} cannot be given here: {reason}")


def effective_config(config: Config) -> dict:
    """The part of a configuration that can change a result, as plain values, without paths of the machine."""
    values = plain(config.final_config_dict)
    return _without_paths({key: value for key, value in values.items() if key not in NO_EFFECT})


def _without_paths(value: Any) -> Any:
    """``value`` with absolute paths reduced to their file names."""
    if isinstance(value, dict):
        return {key: _without_paths(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_paths(entry) for entry in value]
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value
