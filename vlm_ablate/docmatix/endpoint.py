"""Questions from any OpenAI-compatible server: `POST {endpoint}/chat/completions`."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from vlm_ablate.docmatix.prompted import PromptedQuestioner
from vlm_ablate.docmatix.prompts import Messages
from vlm_ablate.docmatix.settings import BuildSettings
from vlm_ablate.errors import VlmAblateError

_AGAIN = (408, 409, 425, 429, 500, 502, 503, 504, 529)
_REFUSED = (400, 413, 422)
"""Answers to one prompt that it does not help to repeat: too long, not allowed."""
_LONGEST_PAUSE = 60.0
_CHECK_TIMEOUT = 10.0


class EndpointError(VlmAblateError):
    """A server that cannot be reached, refuses the key, or does not serve the model."""


def base_address(endpoint: str) -> str:
    """`http://host:8000` or `.../v1/chat/completions` -> the address below which the API lies.

    Raises:
        EndpointError: not an http(s) address, or one with a password in it.
    """
    parts = urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EndpointError(f"{endpoint!r} is no http address", hint="e.g. http://127.0.0.1:8000/v1")
    if parts.username or parts.password:
        raise EndpointError("the endpoint's address must not hold a key", hint="put it in the environment")
    path = parts.path.rstrip("/").removesuffix("/chat/completions") or "/v1"
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


class EndpointQuestioner(PromptedQuestioner):
    """Asks a server; a few requests at a time, failed ones again after growing pauses.

    Args:
        settings: of the build; its requests at a time are shared by its processes.
        answers: as for every prompted questioner.
        pause: seconds before the first repetition; doubled at each.
    """

    def __init__(self, settings: BuildSettings, answers: Path, *, pause: float = 1.0) -> None:
        super().__init__(settings, answers)
        self.address = base_address(settings.endpoint or "")
        self.pause = pause
        self._key = os.environ.get(settings.key_variable, "")
        self._threads = max(1, settings.concurrency // settings.jobs)

    def check(self) -> None:
        import requests

        try:
            reply = requests.get(f"{self.address}/models", headers=self._headers(), timeout=_CHECK_TIMEOUT)
        except requests.RequestException as error:
            raise self._unreachable(error) from error
        self._refuse_key(reply.status_code)
        try:
            served = [model["id"] for model in reply.json()["data"]] if reply.ok else []
        except (ValueError, KeyError, TypeError):
            served = []
        if served and self.settings.model not in served:
            raise EndpointError(
                f"{self.address} does not serve the model {self.settings.model!r}",
                hint=f"it serves: {', '.join(served[:10])}",
            )
        if not served:  # not every server lists its models
            self._post([{"role": "user", "content": "Say yes."}], attempts=1, tokens=1)

    def complete(self, prompts: Sequence[Messages]) -> Iterator[tuple[int, str | None]]:
        with ThreadPoolExecutor(self._threads) as pool:
            waiting: dict[Future[str | None], int] = {}
            todo = list(enumerate(prompts))[::-1]
            try:
                while todo or waiting:
                    # Not all are handed in at once: an error should not wait for hundreds of requests.
                    while todo and len(waiting) < self._threads:
                        place, prompt = todo.pop()
                        waiting[pool.submit(self._post, prompt)] = place
                    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield waiting.pop(future), future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _post(self, prompt: Messages, *, attempts: int | None = None, tokens: int | None = None) -> str | None:
        """A prompt's answer; None if the server refuses this prompt.

        Raises:
            EndpointError: the server does not answer, after all repetitions.
        """
        import requests

        s = self.settings
        body = {"model": s.model, "messages": prompt, "temperature": s.temperature, "seed": s.seed,
                "max_tokens": tokens or s.max_new_tokens}
        attempts = s.retries + 1 if attempts is None else attempts
        failure: object = None
        for attempt in range(attempts):
            if attempt:
                time.sleep(self._pause(attempt, failure))
            try:
                reply = requests.post(
                    f"{self.address}/chat/completions", json=body, headers=self._headers(),
                    timeout=(_CHECK_TIMEOUT, s.timeout),
                )
            except requests.RequestException as error:
                failure = error
                continue
            if reply.status_code in _AGAIN:
                failure = reply
                continue
            return self._content(reply)
        raise self._unreachable(failure)

    def _content(self, reply: Any) -> str | None:
        self._refuse_key(reply.status_code)
        if reply.status_code in _REFUSED:
            return None
        if not reply.ok:
            raise EndpointError(f"{self.address} answers {reply.status_code}: {reply.text.strip()[:200]}",
                                hint="--endpoint is the address below which /chat/completions lies; check --model")
        try:
            return reply.json()["choices"][0]["message"]["content"] or ""
        except (ValueError, LookupError, TypeError) as error:
            raise EndpointError(f"{self.address} does not answer as an OpenAI-compatible server: "
                                f"{reply.text.strip()[:200]!r}") from error

    def _pause(self, attempt: int, failure: object) -> float:
        """Seconds to wait; what the server asks for (Retry-After) counts if it is longer."""
        asked = getattr(failure, "headers", {}).get("Retry-After", "")
        grown = float(self.pause * 2 ** (attempt - 1) * random.uniform(0.8, 1.2))
        return min(_LONGEST_PAUSE, max(grown, float(asked) if asked.isdigit() else 0.0))

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def _refuse_key(self, status: int) -> None:
        if status in (401, 403):
            variable = self.settings.key_variable
            state = "is not set" if not self._key else "holds a key that it does not take"
            raise EndpointError(f"{self.address} refuses access ({status})", hint=f"${variable} {state}")

    def _unreachable(self, failure: object) -> EndpointError:
        status = getattr(failure, "status_code", None)
        if status is not None:
            reason = f"it keeps answering {status}: {getattr(failure, 'text', '').strip()[:200]}"
        else:
            reason = _short(failure)
        return EndpointError(f"the endpoint {self.address} cannot be used: {reason}",
                             hint="is the server running? What is done is kept; the same command continues")


def _short(error: object) -> str:
    """The innermost reason of an error of the HTTP library, which wraps several."""
    import requests

    if isinstance(error, requests.Timeout):
        return "it does not answer in time"
    while (inner := _inner(error)) is not None:
        error = inner
    text = str(error)
    return text.rsplit(": ", 1)[-1] if text else type(error).__name__


def _inner(error: object) -> object | None:
    """The error that another one wraps."""
    reason: object | None = getattr(error, "reason", None)
    if reason is None and isinstance(error, Exception) and error.args and isinstance(error.args[0], Exception):
        reason = error.args[0]
    return reason
