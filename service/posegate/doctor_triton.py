"""settings -> findings about the Tritons that are set."""

from collections.abc import Iterator
from typing import Any

from posegate.errors import BadOption
from posegate.platforms import Finding, Target, matrix, numbers
from posegate.settings import Settings

TRITON_TIMEOUT_S = 5.0


async def ask_tritons(settings: Settings, target: Target) -> list[Finding]:
    """What each Triton of the settings is, serves and takes."""
    try:
        import tritonclient.grpc.aio as triton
        from tritonclient.utils import InferenceServerException
    except ImportError:
        return [Finding("tritonclient", "not installed: pip install 'posegate[triton]'", "wrong")]
    from posegate.backends.triton_memory import check_shared_memory, refusal

    shared = None if settings.triton_shared_memory == "off" else settings.triton_shared_memory
    findings = []
    if shared is not None:
        try:
            check_shared_memory(shared)
        except BadOption as error:
            findings.append(Finding("shared memory", error.detail, "wrong"))
            shared = None
    for url in settings.triton_urls:
        async with triton.InferenceServerClient(url) as client:
            try:
                server = await client.get_server_metadata(client_timeout=TRITON_TIMEOUT_S)
                index = await client.get_model_repository_index(client_timeout=TRITON_TIMEOUT_S)
                states = {model.name: f"{model.state} {model.reason}" for model in index.models}
                on_cpu = await _on_cpu(client, states) if target != "cpu" else ()
                refused = await refusal(client, shared, url) if shared else None
            except InferenceServerException as error:
                findings.append(Finding(f"Triton {url}", error.message(), "wrong"))
                continue
        findings.append(_old_or_not(url, server.version, target))
        findings += _served(url, states, settings)
        if shared is not None:
            what = f"{shared} shared memory at {url}"
            findings.append(Finding(what, refused or "taken", "wrong" if refused else "ok"))
        findings += [Finding(f"{name} at {url}", "runs on the CPU", "wrong") for name in on_cpu]
    return findings


def _old_or_not(url: str, server: str, target: Target) -> Finding:
    """Older ones have known holes in their Python backend; a test on a CPU may use one."""
    known = matrix()
    if numbers(server) >= numbers(known["server"]):
        return Finding(f"Triton {url}", server)
    found = f"{server}, older than {known['server']} of release {known['release']}"
    return Finding(f"Triton {url}", found, "absent" if target == "cpu" else "wrong")


async def _on_cpu(client: Any, states: dict[str, str]) -> list[str]:
    """Ready networks all of whose instances run on the CPU; an ensemble has none of its own."""
    names = []
    for name in (name for name, state in states.items() if state.startswith("READY")):
        answer = await client.get_model_config(name, client_timeout=TRITON_TIMEOUT_S)
        groups = answer.config.instance_group
        if groups and all(group.kind == group.KIND_CPU for group in groups):
            names.append(name)
    return names


def _served(url: str, states: dict[str, str], settings: Settings) -> Iterator[Finding]:
    for card in sorted(settings.model_repository.glob("*/posegate.json")):
        name = card.parent.name
        state = states.get(name, "missing").strip()
        yield Finding(f"{name} at {url}", state, "ok" if state == "READY" else "wrong")
