"""openai:MODEL as a judge, against a server that speaks the protocol: retries, refusals, garbage, cost, resume."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import chat_endpoint
import images_endpoint
import pytest
from PIL import Image

from glmkit.errors import UserError
from glmkit.evaluation import endpoints
from glmkit.evaluation.judges import engines
from glmkit.evaluation.judges.ask import Answers, ask
from glmkit.evaluation.judges.engines import openai
from glmkit.evaluation.judges.messages import JudgeError, Message, spoken
from glmkit.files import read_jsonl
from glmkit.records import Answer, Generation


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[images_endpoint.Endpoint]:
    with chat_endpoint.running() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        yield server


def images(folder: Path, count: int = 1) -> list[Generation]:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"images/p_{number}.png")
    return [Generation(f"p_{number}", "p", "a prompt", number, f"images/p_{number}.png") for number in range(count)]


def asked(folder: Path, *texts: str, judge: str = "openai:gpt-4o", count: int = 1) -> dict[str, Answers]:
    spec = engines.resolve(judge)
    module, location = engines.find(spec)
    messages = [Message(str(number), text, (text,)) for number, text in enumerate(texts)]
    return ask(folder, images(folder, count), {"p": messages}, spec, module.identity(location), {})


def errors(answers: dict[str, Answers]) -> list[str]:
    return ["" if isinstance(one, Answer) else str(one) for one in answers["p_0"].values()]


def test_a_request_is_what_the_suite_says(endpoint: images_endpoint.Endpoint, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "a.webp")
    Image.new("RGB", (8, 8)).save(folder / "b.bmp")
    judge = openai.load("m,temperature=none,seed=7,max_tokens=50,thinking=off")
    first = judge._request(Message("1", "a?", ("a?",), system="critic"), [folder / "a.webp"])
    second = judge._request(Message("1", "a?", ("a?",), image_first=False), [folder / "b.bmp"])
    data = base64.b64encode((folder / "a.webp").read_bytes()).decode()
    image = {"type": "image_url", "image_url": {"url": f"data:image/webp;base64,{data}"}}
    assert first == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "critic"},
            {"role": "user", "content": [image, {"type": "text", "text": "a?"}]},
        ],
        "seed": 7,
        "max_tokens": 50,
        "extra_body": {"chat_template_kwargs": {"enable_thinking": False}},
    }
    text, converted = second["messages"][0]["content"]
    assert text == {"type": "text", "text": "a?"}
    assert converted["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    asked(folder, "a?")
    assert {name: endpoint.asked[0][name] for name in ("temperature", "seed")} == {"temperature": 0.0, "seed": 0}


def test_an_edit_is_shown_with_the_image_before_it(endpoint: images_endpoint.Endpoint, tmp_path: Path) -> None:
    """The edited image has the size of the one before it; another image before it is another question."""
    (image,) = images(tmp_path)
    before = tmp_path / "before.png"
    module, location = engines.find(spec := engines.resolve("openai:m"))
    messages = [Message("1", "a?", ("a?",), image_first=False, shows_both=True, resized=True)]
    for colour in ("red", "blue"):
        Image.new("RGB", (20, 10), colour).save(before)
        for _ in range(2):
            ask(tmp_path, [image], {"p": messages}, spec, module.identity(location), {}, {"p": (str(before),)})
    assert len(endpoint.asked) == 2
    said, *shown = endpoint.asked[1]["messages"][0]["content"]
    assert said == {"type": "text", "text": "a?"}
    files = [base64.b64decode(one["image_url"]["url"].removeprefix("data:image/png;base64,")) for one in shown]
    assert files[0] == before.read_bytes()
    with Image.open(io.BytesIO(files[1])) as edited:
        assert (edited.size, edited.getpixel((0, 0))) == ((20, 10), (0, 0, 0))


def test_probabilities_are_those_that_the_endpoint_lists(endpoint: images_endpoint.Endpoint, tmp_path: Path) -> None:
    spec = engines.resolve("openai:m")
    module, location = engines.find(spec)
    messages = [Message(text, text, (text,), max_tokens=1, words=("Yes",)) for text in ("a?", "unlisted?")]
    answers = ask(tmp_path, images(tmp_path), {"p": messages}, spec, module.identity(location), {})["p_0"]
    assert {name: endpoint.asked[0][name] for name in ("logprobs", "top_logprobs", "max_tokens")} == {
        "logprobs": True,
        "top_logprobs": 20,
        "max_tokens": 1,
    }
    listed, missing = answers["a?"], answers["unlisted?"]
    assert isinstance(listed, Answer)
    assert [list(position) for position in listed.probabilities] == [["No", "Yes"]]
    assert listed.probabilities[0] == pytest.approx({"No": 0.75, "Yes": 0.25})
    assert "gives no probabilities" in str(missing)
    again = ask(tmp_path, images(tmp_path), {"p": messages}, spec, module.identity(location), {})["p_0"]
    assert again["a?"] == listed


def test_answers_are_kept_as_they_came_and_asked_once(endpoint: images_endpoint.Endpoint, tmp_path: Path) -> None:
    answers = asked(tmp_path / "run", "a?", "thinking?")
    answer = answers["p_0"]["1"]
    assert isinstance(answer, Answer)
    text = "<think>\nno, or yes?\n</think>\n\nyes, it is"
    assert answer == Answer("thinking?", text, "gpt-4o-2026-11-29", 300, 20, date=answer.date)
    assert abs((datetime.now(UTC).date() - date.fromisoformat(answer.date)).days) <= 1
    assert spoken(answer) == "yes, it is"
    assert sorted(line["answer"]["message"] for line in read_jsonl(tmp_path / "run" / "answers.jsonl")) == [
        "a?",
        "thinking?",
    ]
    assert len(endpoint.asked) == 2
    assert asked(tmp_path / "run", "a?", "thinking?") == asked(tmp_path / "other run", "a?", "thinking?") == answers
    assert len(endpoint.asked) == 2
    asked(tmp_path / "run", "a?", judge="openai:gpt-4o,temperature=1")
    asked(tmp_path / "run", "a!?")
    asked(tmp_path / "run", "a?", count=2)
    assert len(endpoint.asked) == 5


def test_what_goes_wrong_is_the_error_of_its_question_and_is_asked_again(
    endpoint: images_endpoint.Endpoint, tmp_path: Path
) -> None:
    texts = ("good?", "busy?", "refused?", "garbage?", "page?", "silent?", "echo?")
    found = errors(asked(tmp_path, *texts))
    assert found[:2] == ["", ""]
    for error, said in zip(
        found[2:], ("safety system", "", "no chat completion", "holds no text", "Bearer ***"), strict=True
    ):
        assert said in error
        assert error
        assert len(error) < 400
    assert endpoint.prompts().count("busy?") == 3
    endpoint.asked.clear()
    asked(tmp_path, *texts)
    assert sorted(endpoint.prompts()) == sorted(texts[2:])


@pytest.mark.usefixtures("endpoint")
def test_an_answer_that_ends_inside_its_thinking_says_neither_yes_nor_no(tmp_path: Path) -> None:
    answer = asked(tmp_path, "cut?")["p_0"]["0"]
    assert isinstance(answer, Answer)
    with pytest.raises(JudgeError, match="ends inside its thinking"):
        spoken(answer)
    assert spoken(Answer("", "no thoughts here")) == "no thoughts here"
    assert spoken(Answer("", "yes or no?</think>\nNo")) == "No"  # the template has opened the block
    assert spoken(Answer("", " Yes")) == " Yes"


@pytest.mark.usefixtures("endpoint")
def test_an_answer_that_was_cut_may_be_thinking_still(tmp_path: Path) -> None:
    """Where a server's template begins the thinking, nothing shows it before it ends, unless it was told not to."""
    for judge, texts, error in (
        ("openai:m", ("long?",), "cut after 20 tokens, maybe inside its thinking"),
        ("openai:m", ("long thinking?",), ""),
        ("openai:m,thinking=off", ("long?",), ""),
    ):
        answer = asked(tmp_path, *texts, judge=judge)["p_0"]["0"]
        assert isinstance(answer, Answer)
        if error:
            assert answer.text == "yes, it is"
            with pytest.raises(JudgeError, match=error):
                spoken(answer)
        else:
            assert spoken(answer) == "yes, it is"
    assert [line["answer"].get("is_cut") for line in read_jsonl(tmp_path / "answers.jsonl")] == [True, True, None]


@pytest.mark.usefixtures("endpoint")
def test_the_fingerprint_of_a_server_stands_behind_its_model(tmp_path: Path) -> None:
    answer = asked(tmp_path, "fingerprint?", judge="openai:m")["p_0"]["0"]
    assert isinstance(answer, Answer)
    assert answer.model == "m-2026-11-29 fp_1"


def test_several_at_a_time_in_the_order_of_the_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with chat_endpoint.running(seconds=0.1) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        answers = asked(tmp_path, "a?", "b?", count=8)
    assert list(answers) == [f"p_{number}" for number in range(8)]
    assert all(list(of_image) == ["0", "1"] for of_image in answers.values())
    assert 1 < server.most_at_once <= openai.EndpointJudge.workers


@pytest.mark.parametrize(
    ("judge", "environment", "message"),
    [
        ("openai:gpt-4o", {"OPENAI_API_KEY": "wrong"}, "judge endpoint refuses the key"),
        ("openai:none", {}, "judge endpoint has no model none"),
        ("openai:gpt-4o", {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}, "judge endpoint cannot be reached"),
        ("openai:gpt-4o", {"OPENAI_API_KEY": ""}, "no key for the judge endpoint"),
        ("openai:", {}, "judge endpoint names no model"),
        ("openai:m,heat=1", {}, "unknown option"),
        ("openai:m,seed=one", {}, "judge endpoint cannot use seed=one"),
        ("openai:m,max_tokens=-1", {}, "judge endpoint cannot use max_tokens=-1"),
    ],
)
def test_what_concerns_all_questions_ends_the_run(
    endpoint: images_endpoint.Endpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    judge: str,
    environment: dict[str, str],
    message: str,
) -> None:
    monkeypatch.setattr(endpoints, "RETRIES", 0)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        asked(tmp_path, *(f"{number}?" for number in range(30)), judge=judge)
    assert len(endpoint.asked) <= openai.EndpointJudge.workers


@pytest.mark.usefixtures("endpoint")
def test_answers_that_were_paid_for_are_kept_when_the_run_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "RETRIES", 0)
    with pytest.raises(UserError, match="it continues"):
        asked(tmp_path, "a?", "b?", "busy?")
    assert sorted(line["answer"]["message"] for line in read_jsonl(tmp_path / "answers.jsonl")) == ["a?", "b?"]


@pytest.mark.usefixtures("endpoint")
def test_tokens_and_cost_are_added_up(tmp_path: Path) -> None:
    for model, note in (
        ("gpt-4o", "600 + 40 tokens, 0.00 $ (prices of 2025)"),
        ("m", "600 + 40 tokens, price not known"),
    ):
        judge = openai.load(model)
        assert judge.note() == ""
        (image,) = images(tmp_path)
        for _ in range(2):
            judge._answer(Message("1", "a?", ("a?",)), [tmp_path / str(image.file)])
        assert judge.note() == note


@pytest.mark.usefixtures("endpoint")
def test_the_identity_names_model_address_and_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://me:word-of-mine@127.0.0.1:9/v1")
    assert openai.identity("m").engine == "m at http://127.0.0.1:9/v1/, temperature 0.0, seed 0"
    assert openai.identity("m").key != openai.identity("m,seed=1").key


def test_the_package_is_an_extra(uninstall: Callable[..., None]) -> None:
    uninstall("openai")
    with pytest.raises(UserError, match=r'pip install "glmkit\[openai\]"'):
        openai.check()
