"""The SDK's configuration of a run: the application's, with what is ours put into it."""

import dataclasses

from agents import ModelSettings, RunConfig


def run_config(
    given: RunConfig | None,
    *,
    group_id: str,
    workflow_name: str,
    model_settings: ModelSettings | None,
    traced: bool,
) -> RunConfig:
    """The configuration of one run.

    Args:
        given: the application's.
        group_id: by which the run's own turns are known.
        workflow_name: for traces, if the application gave none.
        model_settings: what the request asks for, which wins over what the application gave.
        traced: whether traces are wanted at all.
    """
    ours = RunConfig(
        group_id=group_id,
        model_settings=model_settings,
        tracing_disabled=not traced,
        workflow_name=workflow_name,
    )
    if given is None:
        return ours
    settings = given.model_settings
    named = given.workflow_name != RunConfig.workflow_name
    return dataclasses.replace(
        given,
        group_id=group_id,
        model_settings=model_settings if settings is None else settings.resolve(model_settings),
        tracing_disabled=given.tracing_disabled or not traced,
        workflow_name=given.workflow_name if named else workflow_name,
    )
