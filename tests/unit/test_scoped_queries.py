"""Nobody else's, in SQL: what HTTP can reach of the store asks for the principal in each query.

Found out from the code itself, so that what is added is asked the same: which methods of the store
`http/` reaches (directly, and through the runs that the application hands it), which queries they
execute, and what these say.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import longrun
from longrun.store.queries import sql_folder

ROOM: Final = Path(longrun.__file__).parent

OF_NOBODY: Final = frozenset({"replicas", "migrations", "keys", "token_secrets", "signing_secrets"})
"""Tables in which nothing is a tenant's. Any other one is taken for one in which something is."""

MAY_BE_UNSCOPED: Final = {
    "Responses.get_unscoped": "of the very request that created the response",
    "Responses.delete_unscoped": "the same, of what is not to be stored",
    "Responses.owner_unscoped": "for an admin, and then asked again for its owner",
    "Responses.listed_unscoped": "for an admin, who lists what is everybody's",
    "Responses.all_of_unscoped": "for an admin, after that",
    "Overview.runs_unscoped": "for an admin, who lists what is everybody's",
    "Overview.system_unscoped": "for an admin: figures of all principals",
    "Conversations.owner_unscoped": "for an admin, and then asked again for its owner",
    "EventLog.end_unscoped": "after `Responses.get` for the principal",
}
"""What HTTP calls of methods that ask for no principal, and why it may."""

AFTER: Final = {
    "delete_response": "lock_response_of",
    "unsay_response": "lock_response_of",
    "get_claims": "claim_to_cancel",
}
"""Queries that ask for no principal because another before them did, in the same method."""

_PRINCIPAL: Final = re.compile(r"\bprincipal\s*=\s*(?:\$\d|:principal\b)")
_CREATES: Final = re.compile(r"INSERT INTO longrun\.\w+\s*\([^)]*\bprincipal\b", re.DOTALL)


@dataclass
class Class:
    """What the methods of a class execute, and call of their own and of what they hold."""

    queries: dict[str, set[str]] = field(default_factory=dict)
    own: dict[str, set[str]] = field(default_factory=dict)
    held: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    bases: set[str] = field(default_factory=set)

    def reached(self, method: str) -> set[str]:
        """A method, and those of its own that it leads to."""
        found, new = set(), {method}
        while new:
            found |= new
            new = {each for name in new for each in self.own.get(name, ())} - found
        return found


def of_class(node: ast.ClassDef) -> Class:
    made = Class(bases={base.id for base in node.bases if isinstance(base, ast.Name)})
    holds: dict[str, str] = {}
    for each in ast.walk(node):
        if isinstance(each, ast.arg) and isinstance(each.annotation, ast.Name):
            holds[each.arg] = each.annotation.id
        if isinstance(each, ast.AnnAssign) and isinstance(each.annotation, ast.Name):
            holds[getattr(each.target, "id", "")] = each.annotation.id
    for each in ast.walk(node):
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Name):
            for target in each.targets:
                if isinstance(target, ast.Attribute) and each.value.id in holds:
                    holds[target.attr] = holds[each.value.id]
    for method in node.body:
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef):
            made.queries[method.name] = set(executed(method))
            attributes = [each for each in ast.walk(method) if isinstance(each, ast.Attribute)]
            made.own[method.name] = {
                each.attr
                for each in attributes
                if isinstance(each.value, ast.Name) and each.value.id == "self"
            }
            made.held[method.name] = {
                (holds[name], each.attr)
                for each in attributes
                if (name := getattr(each.value, "attr", getattr(each.value, "id", ""))) in holds
            }
    return made


def executed(method: ast.AST) -> Iterator[str]:
    """The names of the queries that a method names."""
    for each in ast.walk(method):
        if isinstance(each, ast.Attribute) and _is_queries(each.value) and each.attr != "bind":
            yield each.attr
        if (
            isinstance(each, ast.Call)
            and isinstance(each.func, ast.Attribute)
            and each.func.attr == "bind"
            and _is_queries(each.func.value)
        ):
            assert isinstance(each.args[0], ast.Constant)
            yield each.args[0].value


def _is_queries(node: ast.AST) -> bool:
    return getattr(node, "attr", getattr(node, "id", "")).endswith("queries")


def classes(folder: str) -> dict[str, Class]:
    """By name; two of the same name are taken for one."""
    found: dict[str, Class] = {}
    for file in sorted((ROOM / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                made, before = of_class(node), found.get(node.name, Class())
                found[node.name] = Class(
                    before.queries | made.queries,
                    before.own | made.own,
                    before.held | made.held,
                    before.bases | made.bases,
                )
    return found


STORE: Final = classes("store")
HTTP: Final = classes("http") | classes("access")
EXECUTION: Final = classes("execution")

BLOCKS: Final = {
    name: re.sub(r"--.*", "", text)
    for file in (sql_folder() / "queries").glob("*.sql")
    for name, text in re.findall(
        r"^-- name: (\w+)\n(.*?)(?=^-- name: |\Z)", file.read_text(), re.MULTILINE | re.DOTALL
    )
}


def behind(protocol: str) -> list[str]:
    """The classes of `execution/` that have all methods of a protocol that `http/` declares."""
    wanted = HTTP[protocol].queries.keys()
    return [name for name, each in EXECUTION.items() if wanted <= each.queries.keys()]


def doors() -> set[tuple[str, str]]:
    """The methods of the store that HTTP reaches, as (class, method)."""
    found = {pair for each in HTTP.values() for pairs in each.held.values() for pair in pairs}
    for protocol, each in HTTP.items():
        if "Protocol" not in each.bases:
            continue
        for name in behind(protocol):
            for door in each.queries:
                for method in EXECUTION[name].reached(door):
                    found |= EXECUTION[name].held.get(method, set())
    return {(name, method) for name, method in found if method in STORE.get(name, Class()).queries}


def unscoped(name: str, method: str) -> set[str]:
    """The queries of a method of the store that read or write what is a tenant's, and do not say
    whose."""
    whole = STORE[name]
    names = {query for each in whole.reached(method) for query in whole.queries.get(each, ())}
    names &= BLOCKS.keys()
    return {each for each in names if not is_scoped(each) and AFTER.get(each) not in names}


def is_scoped(query: str) -> bool:
    text = BLOCKS[query]
    tables = set(re.findall(r"\blongrun\.(\w+)\b(?!\s*\()", text))
    return bool(not tables - OF_NOBODY or _PRINCIPAL.search(text) or _CREATES.search(text))


def test_http_reaches_the_store() -> None:
    """That the ways are found at all."""
    found = {f"{name}.{method}" for name, method in doors()}
    assert found >= {
        "Responses.get",
        "Responses.delete",
        "Responses.create",
        "Conversations.items",
        "Claims.to_cancel",
        "EventLog.end_unscoped",
        "Keys.create",
    }
    assert "Admission" in behind("Runs")


def test_what_it_reaches_asks_for_the_principal() -> None:
    for name, method in sorted(doors()):
        found = unscoped(name, method)
        assert not found or f"{name}.{method}" in MAY_BE_UNSCOPED, (
            f"HTTP reaches {name}.{method}, whose queries {sorted(found)} do not say whose rows: "
            "add the principal to their conditions"
        )


def test_methods_that_do_not_say_so_in_their_names() -> None:
    for name, method in sorted(doors()):
        if unscoped(name, method):
            assert method.endswith("_unscoped"), f"{name}.{method}"


def test_what_comes_before_others_asks() -> None:
    assert all(is_scoped(first) for first in AFTER.values())


def test_the_exceptions_are_used() -> None:
    assert {f"{name}.{method}" for name, method in doors()} >= MAY_BE_UNSCOPED.keys()


def test_each_table_of_a_tenant_counts() -> None:
    """A table that is added holds tenants' rows unless this says that it does not."""
    migrations = "".join(file.read_text() for file in (sql_folder() / "migrations").glob("*.sql"))
    tables = set(re.findall(r"CREATE TABLE (?:IF NOT EXISTS )?longrun\.(\w+)", migrations))
    assert tables >= OF_NOBODY - {"migrations"}
    assert tables - OF_NOBODY >= {"responses", "event_chunks", "items", "steps", "conversations"}
