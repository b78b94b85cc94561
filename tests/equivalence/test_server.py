"""The server engine against transformers' own server on loopback, and against a made one that is slow, busy or
wrong."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dpo4rec_utils.config import Config, ServerConfig
from dpo4rec_utils.files import StudyError
from dpo4rec_utils.knowledge import models
from dpo4rec_utils.knowledge.engines import open_sampler, server, texts_stage
from dpo4rec_utils.knowledge.policies import Policy
from tests.made_models import made_model
from tests.unit.test_keys_of_stages import REQUESTS

# What transformers serve draws from: no cut of its own, or the likeliest token.
SAMPLED = {"generation_config": json.dumps({"do_sample": True, "top_k": 0, "eos_token_id": [1, 2], "pad_token_id": 1})}
GREEDY = {"generation_config": json.dumps({"do_sample": False, "eos_token_id": [1, 2], "pad_token_id": 1})}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def asking(at: str, model: str, greedy=False, **changes) -> Config:
    base = Config(profile="made")
    changes = {"url": at, "retries": 1, "timeout": 60.0, "extra": GREEDY if greedy else {}} | changes
    llm = {"model": model, "engine": "server", "server": ServerConfig(**changes), "max_new_tokens": 12}
    drawn = {"temperature": 0.05, "top_p": 0.05} if greedy else {"temperature": 0.9, "top_p": 1.0}
    return base.changed(llm=base.llm.changed(**llm, **drawn), device=base.device.changed(sampling="float32"))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A folder with a tiny model, and the address of `transformers serve`, which loads whatever folder a request
    names."""
    folder, port = tmp_path_factory.mktemp("served"), free_port()
    model = made_model("llama", folder / "model")
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", "--port", str(port), "--device", "cpu"]
    (folder / "hub").mkdir()
    known = os.environ | {"HF_HOME": str(folder), "HF_HUB_CACHE": str(folder / "hub")}
    with open(folder / "log", "w") as log:
        command += ["--host", "127.0.0.1", "--dtype", "float32"]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=known)
    try:
        for _ in range(960):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()[-2000:]
                time.sleep(0.25)
        else:
            raise AssertionError((folder / "log").read_text()[-2000:])
        yield model, f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


PROMPTS = [
    "<|begin_of_text|>Movies liked: Heat. This viewer enjoys",
    "<|begin_of_text|>Movies liked: Alien. This viewer enjoys",
]


def test_a_real_server_gives_what_the_engine_here_gives(served, tmp_path):
    """At next to no temperature both continue with the likeliest tokens, so the server read the prompt as we do."""
    model, url = served
    policy = Policy("zero_shot", model)
    config = asking(url, model, greedy=True, listed=False)
    theirs = open_sampler(policy, config, tmp_path).sample(PROMPTS, [1, 2], [1, 2])
    local = config.changed(llm=config.llm.changed(engine="transformers", server=None))
    ours = open_sampler(policy, local, tmp_path).sample(PROMPTS, [1, 2], [1, 2])
    assert [[c.text for c in row] for row in theirs] == [[c.text for c in row] for row in ours]
    assert [len(row) for row in theirs] == [1, 2] and not theirs[0][0].finished and theirs[0][0].tokens == 12


def test_a_real_server_is_seeded_a_sample(served, tmp_path):
    model, url = served
    config = asking(url, model, listed=False, extra=SAMPLED, concurrency=1)
    sampler = open_sampler(Policy("zero_shot", model), config, tmp_path)
    first = sampler.sample(PROMPTS[:1], [3], [5])
    assert first == sampler.sample(PROMPTS[:1], [3], [5]) and len({c.text for c in first[0]}) == 3
    assert first != sampler.sample(PROMPTS[:1], [3], [6])


def test_a_real_server_that_does_not_hold_the_policy_is_one_sentence(served, tmp_path):
    model, url = served
    for settings, expected in (
        ({"listed": True}, "does not hold .* start it with this policy"),
        ({"listed": False, "names": {"zero_shot": str(tmp_path / "nowhere")}, "retries": 0}, "gave no answer|refused"),
    ):
        with pytest.raises(StudyError, match=expected) as error:
            open_sampler(Policy("zero_shot", model), asking(url, model, **settings), tmp_path).sample(
                PROMPTS, [1, 1], [1, 2]
            )
        assert "\n" not in str(error.value)


def test_a_merged_policy_of_a_real_server(served, tmp_path):
    """Another policy by its folder: other texts than the base's, the ones that the engine here makes of it."""
    model, url = served
    other = made_model("llama", tmp_path / "other", seed=1)
    config = asking(url, model, greedy=True, listed=False, names={"dpo_round_1": other})
    theirs = server.ServerSampler(Policy("dpo_round_1", model), config, tmp_path).sample(PROMPTS, [1, 1], [1, 2])
    local = config.changed(llm=config.llm.changed(engine="transformers", server=None))
    ours = open_sampler(Policy("zero_shot", other), local, tmp_path).sample(PROMPTS, [1, 1], [1, 2])
    assert [[c.text for c in row] for row in theirs] == [[c.text for c in row] for row in ours]


class Made(BaseHTTPRequestHandler):
    """Answers of a made server: lists `models`, takes ids, is busy for the first `busy` requests, loads adapters."""

    models, busy, loads, asked, ids = [], 0, True, [], True

    def log_message(self, *_):
        pass

    def _send(self, status, body):
        data = json.dumps(body).encode() if not isinstance(body, bytes) else body
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        self._send(200, {"data": [{"id": name} for name in type(self).models]})

    def do_POST(self):
        made, body = type(self), json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("load_lora_adapter"):
            if made.loads:
                made.models = [*made.models, body["lora_name"]]
            return self._send(200 if made.loads else 404, b"done")
        if made.busy > 0:
            made.busy -= 1
            return self._send(503, {"error": "busy"})
        if isinstance(body["prompt"], list) and not made.ids:
            return self._send(400, {"detail": "prompt must be a string."})
        made.asked.append((body, self.headers.get("Authorization")))
        choice = {"text": f" text {body['seed']}", "finish_reason": "stop" if body["seed"] % 2 else "length"}
        usage = {"completion_tokens": body["max_tokens"]}
        return self._send(200, {"model": body["model"], "choices": [choice], "usage": usage})


@pytest.fixture
def made(tmp_path):
    """A made server of its own for a test, with a tiny model beside it."""
    handler = type("Handler", (Made,), {"asked": [], "models": []})
    one = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=one.serve_forever, daemon=True).start()
    model = made_model("llama", tmp_path / "model")
    handler.models = [model]
    yield handler, model, f"http://127.0.0.1:{one.server_port}/v1"
    one.shutdown()
    one.server_close()


def test_every_sample_is_a_request_with_a_seed(made, tmp_path, monkeypatch):
    handler, model, url = made
    monkeypatch.setenv(server.KEY_VARIABLE, "secret")
    sampler = open_sampler(Policy("zero_shot", model), asking(url, model, extra={"top_k": -1}), tmp_path)
    answers = sampler.sample(PROMPTS, [3, 2], [7, 8])
    assert [len(row) for row in answers] == [3, 2]
    bodies = [body for body, _ in handler.asked[1:]]  # the first asks whether ids are taken
    assert len({body["seed"] for body in bodies}) == 5 and {key for _, key in handler.asked} == {"Bearer secret"}
    tokenizer = models.load_tokenizer(model)
    assert sorted(body["prompt"] for body in bodies) == sorted(
        models.token_ids(tokenizer, prompt) for prompt, count in zip(PROMPTS, (3, 2), strict=True) for _ in range(count)
    )
    assert all(body["top_k"] == -1 and body["max_tokens"] == 12 and body["top_p"] == 1.0 for body in bodies)
    for row in answers:
        for one in row:
            ended = int(one.text.split()[-1]) % 2 == 1
            assert one.finished == ended and (ended or one.tokens == 12)


def test_a_server_that_takes_strings_alone_reads_the_same_tokens(made, tmp_path):
    handler, model, url = made
    handler.ids = False
    open_sampler(Policy("zero_shot", model), asking(url, model), tmp_path).sample(PROMPTS[:1], [1], [7])
    tokenizer, (body, _) = models.load_tokenizer(model), handler.asked[-1]
    assert tokenizer(body["prompt"]).input_ids == models.token_ids(tokenizer, PROMPTS[0])
    assert body["prompt"] == PROMPTS[0].removeprefix("<|begin_of_text|>")
    with pytest.raises(StudyError, match="would read other tokens"):
        server.same_tokens(tokenizer, "without a begin")


def test_a_busy_server_is_asked_again(made, tmp_path, monkeypatch):
    handler, model, url = made
    monkeypatch.setattr(server, "FIRST_WAIT", 0.01)
    sampler = open_sampler(Policy("zero_shot", model), asking(url, model, retries=3), tmp_path)
    wanted = sampler.sample(PROMPTS, [2, 2], [7, 8])
    handler.busy = 3
    assert sampler.sample(PROMPTS, [2, 2], [7, 8]) == wanted
    handler.busy = 10**6
    with pytest.raises(StudyError, match="gave no answer .503"):
        sampler.sample(PROMPTS, [1, 1], [7, 8])


def test_an_adapter_is_handed_over_or_asked_for(made, tmp_path, monkeypatch):
    handler, model, url = made
    policy = Policy("dpo_round_1", model, (tmp_path / "adapter",))
    (tmp_path / "adapter").mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (tmp_path / "adapter" / name).write_bytes(b"{}")
    monkeypatch.setattr(server, "save_adapter", lambda policy, folder: folder / "all")
    sampler = open_sampler(policy, asking(url, model), tmp_path)
    assert sampler.name == f"dpo_round_1-{policy.key}" and handler.models == [model, sampler.name]
    handler.models, handler.loads = [model], False
    with pytest.raises(StudyError, match="does not hold 'dpo_round_1-.*llm.server.names.dpo_round_1"):
        open_sampler(policy, asking(url, model), tmp_path)


def test_no_server_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "FIRST_WAIT", 0.01)
    model = made_model("llama", tmp_path)
    with pytest.raises(StudyError, match="gave no answer .*refused.* start the server"):
        open_sampler(Policy("zero_shot", model), asking(f"http://127.0.0.1:{free_port()}/v1", model), tmp_path)


def test_names_and_fields_of_a_request_are_part_of_a_key_and_the_address_is_not():
    def key(**settings):
        return texts_stage(
            "t", Policy("zero_shot", "embedded"), REQUESTS, asking("http://a/v1", "embedded", **settings)
        ).key

    assert key() == key(url="http://b/v1") == key(concurrency=2)
    assert len({key(), key(extra={"top_k": -1}), key(names={"zero_shot": "x"})}) == 3
