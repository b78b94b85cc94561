"""Any server with an OpenAI-compatible `/v1/completions`: vLLM, SGLang, llama.cpp, transformers serve.

Every sample is a request of its own with a seed of its own, since not every server knows `n`; those with a prefix cache
compute a prompt once all the same. A key, where the server wants one, is read from `DPO4REC_SERVER_KEY`.
"""

import contextlib
import functools
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from dpo4rec_utils.config import Config
from dpo4rec_utils.files import StudyError, public_address
from dpo4rec_utils.knowledge.engines import Completion
from dpo4rec_utils.knowledge.exports import save_adapter
from dpo4rec_utils.knowledge.models import load_tokenizer, token_ids
from dpo4rec_utils.knowledge.policies import Policy
from dpo4rec_utils.seeds import derive_seed

KEY_VARIABLE = "DPO4REC_SERVER_KEY"
FIRST_WAIT = 0.5  # seconds before the first retry
MOST_BYTES = 2**24  # of an answer


class ServerSampler:
    """A client of one policy on a server. Raises `StudyError` where the server is not there or does not hold the
    policy."""

    def __init__(self, policy: Policy, config: Config, workspace: Path):
        self.config, self.server, self.address = config.llm, config.llm.server, public_address(config.llm.server.url)
        self.key = os.environ.get(KEY_VARIABLE, "").strip()
        if not self.key.isprintable():
            raise StudyError(f"{KEY_VARIABLE} holds characters that no key has; set it to the key alone.")
        self.tokenizer = load_tokenizer(policy.model)
        self.name = server_name(policy, config)
        if self.server.listed:
            self._find(policy, workspace)

    def sample(self, prompts: Sequence[str], samples: Sequence[int], seeds: Sequence[int]) -> list[list[Completion]]:
        """See `Sampler`."""
        requests = [
            (prompt, derive_seed(seed, "sample", number))
            for prompt, count, seed in zip(prompts, samples, seeds, strict=True)
            for number in range(count)
        ]
        with ThreadPoolExecutor(self.server.concurrency) as pool:
            answers = list(pool.map(lambda pair: self._completion(*pair), requests))
        rows = iter(answers)
        return [[next(rows) for _ in range(count)] for count in samples]

    def _completion(self, prompt: str, seed: int) -> Completion:
        answer = self._complete(self._prompt(prompt), seed, self.config.max_new_tokens)
        (choice,), usage = answer.choices, answer.usage or _Usage()
        text, finished = choice.text.encode("utf-8", "replace").decode(), choice.finish_reason == "stop"
        counted = len(token_ids(self.tokenizer, text))
        # The end token, which some servers count, is no part of a text.
        return Completion(text, counted if finished else usage.completion_tokens or counted, finished)

    def _complete(self, prompt, seed: int, tokens: int) -> "_Answer":
        body = {"model": self.name, "prompt": prompt, "seed": seed, "max_tokens": tokens}
        body |= {"temperature": self.config.temperature, "top_p": self.config.top_p} | self.server.extra
        answer = self._read(_Answer, self._ask("completions", body))
        if (answer.model or self.name) not in (self.name, f"{self.name}@main"):
            raise StudyError(
                f"{self.address} answered for {answer.model[:80]!r} instead of {self.name!r}; see llm.server.names."
            )
        return answer

    def _read(self, model: type[BaseModel], answer):
        """An answer as its model; `StudyError` for one of another shape."""
        try:
            return model.model_validate(answer)
        except (ValidationError, RecursionError):
            shape = f"{type(answer).__name__} {str(answer)[:120]}"
            raise StudyError(
                f"{self.address} answers in another shape than an OpenAI-compatible server does: {shape}."
            ) from None

    def _prompt(self, prompt: str) -> list[int] | str:
        """Token ids where the server takes them, else the string of which it makes the same ones."""
        return token_ids(self.tokenizer, prompt) if self._takes_ids else same_tokens(self.tokenizer, prompt)

    @functools.cached_property
    def _takes_ids(self) -> bool:
        try:
            self._complete([self.tokenizer.eos_token_id], 0, 1)
        except _RefusedError:
            return False
        return True

    def _find(self, policy: Policy, workspace: Path) -> None:
        """Make sure that the server lists the policy; an adapter is handed over where the server takes it at run
        time."""
        if self.name in self._listed():
            return
        if policy.adapters:
            folder = save_adapter(policy, workspace / "adapter")
            with contextlib.suppress(StudyError):  # the sentence below says what to do
                self._ask("load_lora_adapter", {"lora_name": self.name, "lora_path": str(folder.resolve())}, plain=True)
        listed = self._listed()
        if self.name not in listed:
            raise StudyError(
                f"{self.address} does not hold {self.name!r} but {', '.join(listed) or 'nothing'}; start it with this "
                f"policy, or give its name there as llm.server.names.{policy.name} (docs/adapting.md)."
            )

    def _listed(self) -> list[str]:
        return [entry.id for entry in self._read(_Models, self._ask("models")).data]

    def _ask(self, path: str, body: dict | None = None, plain: bool = False):
        """The answer to a request, tried again while the server is busy or away; its text as it is where `plain`."""
        for attempt in range(self.server.retries + 1):
            try:
                text = self._text(self._request(path, body))
                return text if plain else json.loads(text)
            except urllib.error.HTTPError as error:
                reason = f"{error.code} {error.read(200).decode(errors='replace')}"
                if error.code not in (408, 429) and error.code < 500:
                    raise _RefusedError(f"{self.address} refused the request: {self._public(reason)}.") from None
            except http.client.InvalidURL:  # its text holds the address, and the address may hold a password
                raise StudyError(f"{self.address} is no address; correct llm.server.url.") from None
            except (OSError, http.client.HTTPException) as error:
                reason = str(getattr(error, "reason", None) or error or type(error).__name__)
            except (ValueError, RecursionError):  # what is no JSON, or nested a million times, or no request at all
                raise StudyError(
                    f"{self.address} does not answer in JSON; is it an OpenAI-compatible server, and is llm.server.url "
                    "its address?"
                ) from None
            if attempt < self.server.retries:
                time.sleep(FIRST_WAIT * 2**attempt)
        raise StudyError(
            f"{self.address} gave no answer ({self._public(reason)[:160]}); start the server, or correct llm.server.url."
        )

    def _request(self, path: str, body: dict | None) -> urllib.request.Request:
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        data = None if body is None else json.dumps(body).encode()
        return urllib.request.Request(f"{self.server.url.rstrip('/')}/{path}", data, headers)

    def _text(self, request: urllib.request.Request) -> str:
        """The whole answer within `timeout` seconds and `MOST_BYTES`: a byte a second would never end."""
        deadline, parts, size = time.monotonic() + self.server.timeout, [], 0
        with _OPENER.open(request, timeout=self.server.timeout) as answer:
            while part := answer.read1(2**16):
                parts.append(part)
                size += len(part)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the answer took longer than {self.server.timeout:g} seconds")
                if size > MOST_BYTES:
                    raise OSError(f"the answer is longer than {MOST_BYTES / 2**20:.0f} MiB")
            if answer.length:  # the connection broke off
                raise http.client.IncompleteRead(b"".join(parts), answer.length)
        return b"".join(parts).decode()

    def _public(self, text: str) -> str:
        """A text of the server without the key, which some send back."""
        return text.replace(self.key, "...") if self.key else text


class _SameServer(urllib.request.HTTPRedirectHandler):
    """No redirects: a key is for the server that is named, and a request is not sent again as another kind."""

    def redirect_request(self, *_):
        return None


_OPENER = urllib.request.build_opener(_SameServer)


class _Choice(BaseModel):
    text: str
    finish_reason: str | None = None


class _Usage(BaseModel):
    completion_tokens: Annotated[int, Field(ge=0, le=10**6)] | None = None


class _Answer(BaseModel):
    """What is read of a completion."""

    choices: Annotated[list[_Choice], Field(min_length=1, max_length=1)]
    model: str | None = None
    usage: _Usage | None = None


class _Model(BaseModel):
    id: str


class _Models(BaseModel):
    """What is read of the list of models."""

    data: list[_Model]


class _RefusedError(StudyError):
    """The server answered that it does not take the request."""


def server_name(policy: Policy, config: Config) -> str:
    """The name of a policy on a server: as configured; the model's own for the LLM as it comes; else one with its
    key."""
    named = config.llm.server.names.get(policy.name)
    return named or (f"{policy.name}-{policy.key}" if policy.adapters else policy.model)


def same_tokens(tokenizer, prompt: str) -> str:
    """The string that a server's tokenizer turns into the tokens of `prompt`: without what it puts before every text.

    Raises `StudyError` where there is none.
    """
    begin = tokenizer.bos_token or ""
    for text in (prompt, prompt.removeprefix(begin)):
        if tokenizer(text).input_ids == token_ids(tokenizer, prompt):
            return text
    raise StudyError(
        "The server takes strings alone and would read other tokens than training does; use one that takes ids."
    )
