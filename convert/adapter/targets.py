"""Which modules of a model an adapter's config targets, by their names.

Source: peft 0.21.2, tuners/tuners_utils.py, check_target_module_exists and _maybe_include_all_linear_layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from convert.adapter.patterns import full_match, match_group

if TYPE_CHECKING:
    from convert.adapter.config import AdapterConfig

ALL_LINEAR: Final = "all-linear"
EMBEDDINGS: Final = ("embed_tokens", "lm_head")


def is_targeted(config: AdapterConfig, module: str) -> bool:
    """Whether the config asks for low-rank factors on a module. Any linear layer will do for "all-linear"."""
    if _is_excluded(config, module) or _is_named(config.modules_to_save, module):
        return False
    targets = config.target_modules
    if targets is None:  # nothing said: peft fills in a model's own, and saves them
        return not config.target_parameters
    if isinstance(targets, str):
        if targets.lower() == ALL_LINEAR:
            return True
        return full_match(targets, module, where=f"`target_modules` in {config.where}")
    return _is_named(targets, module) and _is_in_layers(config, module)


def is_all_linear(config: AdapterConfig) -> bool:
    """Whether the modules are known by their class only, which a checkpoint does not tell."""
    return isinstance(config.target_modules, str) and config.target_modules.lower() == ALL_LINEAR


def targeted_parameter(config: AdapterConfig, name: str) -> bool:
    """Whether `target_parameters` names a parameter."""
    return _is_named(config.target_parameters, name)


def _is_excluded(config: AdapterConfig, module: str) -> bool:
    excluded = config.exclude_modules
    if isinstance(excluded, str):
        return full_match(excluded, module, where=f"`exclude_modules` in {config.where}")
    return _is_named(excluded, module)


def _is_named(names: tuple[str, ...], module: str) -> bool:
    return any(module == name or module.endswith(f".{name}") for name in names)


def _is_in_layers(config: AdapterConfig, module: str) -> bool:
    if config.layers_to_transform is None:
        return True
    where = f"`layers_pattern` in {config.where}"
    # The first number in the name counts: experts have a second one.
    patterns = config.layers_pattern or (r"[^.]*",)
    before = r"(?:^|.*?\.)" if config.layers_pattern else r".*?\."
    around = (before, r"\.(?P<index>\d+)\.")
    found = (match_group(pattern, module, "index", where=where, around=around) for pattern in patterns)
    index = next((text for text in found if text is not None), None)
    return index is not None and int(index) in config.layers_to_transform
