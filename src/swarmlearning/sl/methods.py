"""Settings as the contract gets them: what follows from the merge method is filled in.

Does not: enrol (`sl.enrolling`). Spec: docs/spec/merging.md, G-7.
"""

from msgspec.structs import replace

from swarmlearning.contracts.records import Settings
from swarmlearning.errors import ConfigurationError
from swarmlearning.merge.method import MergeMethod, merge_method


def method_of(settings: Settings) -> MergeMethod:
    """The merge method that settings name.

    Raises:
        ConfigurationError: no such method, options that it does not take, or of another source than the settings say.
    """
    return merge_method(settings.merge_method, settings.merge_options, settings.method_source)


def complete(settings: Settings) -> Settings:
    """G-7: the same settings with the method's name in lower case, its options in order, its source and its needs.

    Raises:
        ConfigurationError: no such method, options that it does not take, of another source than the settings say, or
            one that needs whole results where differences are to travel (T-50).
    """
    method = method_of(settings)
    if settings.wire != "float32" and method.needs == "history":
        raise ConfigurationError(
            f"wire={settings.wire!r} with merge method {method.name!r}, which needs whole results; "
            "expected wire='float32', or another method"
        )
    return replace(
        settings,
        merge_method=method.name,
        merge_options=method.options,
        method_source=method.source,
        needs=method.needs,
    )
