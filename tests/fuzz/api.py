"""Requests made of `/openapi.json` by schemathesis, right and wrong, alone and in chains."""

import contextlib
from collections.abc import Callable
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyStrategyDefinition
from hypothesis.stateful import run_state_machine_as_test
from schemathesis import GenerationMode

from tests.fuzz.ground import Answer, Found, Ground, Tenant

PUBLIC = ("/console/", "/metrics", "/openapi.json")
"""What says the same to everybody, whatever is sent along."""


def usual(examples: int, **more: Any) -> settings:
    """How hypothesis is to go about it: everything it finds is made small."""
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
        **more,
    )


def alone(ground: Ground, number: int, examples: int) -> None:
    """Single requests: each endpoint, with what fits and what does not, as anybody, with ids of
    anybody."""
    ground.furnish()
    for place, cases in enumerate(ground.once("cases", lambda: _cases(ground))):
        seed(number * 1000 + place)(usual(examples)(_test(ground, cases)))()


def _cases(ground: Ground) -> list[Any]:
    """Of each endpoint, what fits and what does not."""
    schema = schemathesis.openapi.from_dict(ground.document)
    operations = [each.ok() for each in schema.get_all_operations()]
    chosen = [each for each in operations if not each.path.startswith(PUBLIC)]
    modes = list(GenerationMode)
    return [
        st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in modes))
        for operation in chosen
    ]


def _test(ground: Ground, cases: Any) -> Callable[[], None]:
    """Of one endpoint: a case, as whom, and whose ids in its path."""

    @given(cases, st.integers(0, 5), st.lists(st.integers(0, 99), max_size=4))
    def test(case: Any, who: int, picks: list[int]) -> None:
        ground.said.clear()
        aim(case, ground.ids(), picks)
        callers = [*(ground.tenants * 5)[:5], None]
        send(ground, callers[who], case, replica=who)

    return test


def aim(case: Any, ids: list[str], picks: list[int]) -> None:
    """Lead a case to what is there: it is refused early otherwise, for a name that nobody has."""
    for name, pick in zip(case.path_parameters or (), picks, strict=False):
        case.path_parameters[name] = ids[pick % len(ids)]
    if picks and case.headers:
        case.headers.pop("longrun-principal", None)
    if isinstance(case.body, dict) and len(picks) > 1:
        case.body["model"] = "scripted"
        for name, pick in zip(("previous_response_id", "conversation"), picks, strict=False):
            if name in case.body:
                case.body[name] = ids[pick % len(ids)]


def send(ground: Ground, tenant: Tenant | None, case: Any, replica: int = 0) -> Any:
    """Send a case of schemathesis's, and judge the answer."""
    headers = {**ground.headers(tenant), "accept-encoding": "identity"}
    url = ground.replicas[replica % len(ground.replicas)].url
    arguments = case.as_transport_kwargs(base_url=url, headers=headers)
    ground.said.append(case.as_curl_command(headers=headers))
    try:
        answer = case.call(base_url=url, headers=headers, timeout=20)
    except Exception as error:
        if _is_unsendable(error):
            return None
        raise Found(f"{type(error).__name__}: {error}: {shown(arguments)}") from error
    path = "/" + arguments["url"].partition("//")[2].partition("/")[2]
    joined = {name: ", ".join(value) for name, value in answer.headers.items()}
    made = Answer(answer.status_code, joined, answer.content or b"", answer.elapsed)
    ground.judge(tenant, arguments["method"], path, made)
    return answer


def _is_unsendable(error: Exception) -> bool:
    """What no client can put into a request: a header with a line end, say."""
    return type(error).__name__ in (
        "InvalidHeader",
        "InvalidURL",
        "UnicodeEncodeError",
        "LocationParseError",
    )


def shown(arguments: dict[str, Any]) -> str:
    return repr({name: arguments.get(name) for name in ("method", "url", "json", "data")})[:2000]


def chained(ground: Ground, number: int, examples: int) -> None:
    """Requests that take up what answers gave: made, read, streamed, cancelled, deleted."""
    ground.furnish()
    workflow = ground.once("workflow", lambda: _workflow(ground))
    workflow.number = number
    how = usual(examples, stateful_step_count=12)
    workflow.TestCase.settings = how
    walk(seed(number)(workflow), how)


def _workflow(ground: Ground) -> Any:
    """What walks along the links of the document, as the tenant whose turn it is."""
    schema = schemathesis.openapi.from_dict(ground.document)
    base = schema.as_state_machine()

    class Workflow(base):  # type: ignore[misc,valid-type]
        number = 0

        def __init__(self) -> None:
            ground.said.clear()
            super().__init__()

        @property
        def tenant(self) -> Tenant:
            return ground.tenants[self.number % len(ground.tenants)]

        def call(self, case: Any, **kwargs: Any) -> Any:
            answer = send(ground, self.tenant, case, replica=self.number)
            return answer if answer is not None else super().call(case, **kwargs)

        def before_call(self, case: Any) -> None:
            case.headers.pop("longrun-principal", None)
            if isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = "scripted"

        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return {"headers": self.tenant.headers, "timeout": 20}

        def validate_response(self, response: Any, case: Any, **kwargs: Any) -> None:
            """`send` did."""

    return Workflow


def walk(machine: Any, how: settings) -> None:
    """Run a state machine. What a server lists, and whether a run has ended, differs from one time
    to the next, so that steps cannot always be drawn as before; that is no find."""
    with contextlib.suppress(FlakyStrategyDefinition):
        run_state_machine_as_test(machine, settings=how)
