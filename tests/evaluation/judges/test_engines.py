"""Judges that need no network: answers in a file, a folder of a vision-language model, and the poster world."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_vision_language
import torch
from PIL import Image

from glmkit.errors import UserError
from glmkit.evaluation import suites
from glmkit.evaluation.judges import engines
from glmkit.evaluation.judges.engines import golden, posters, transformers
from glmkit.evaluation.judges.messages import Inquiry, JudgeError, Message, spoken
from glmkit.evaluation.ocr.lines import RecognizedLine
from glmkit.evaluation.suites.shared.questions import QuestionSuite
from glmkit.files import read_json, write_json, write_jsonl
from glmkit.posters.grammar import COLOURS, Scene, sample_scene
from glmkit.posters.render import render


def inquiry(
    *questions: str, image: Path = Path("a.png"), lines: tuple[RecognizedLine, ...] = (), **more: Any
) -> Inquiry:
    return Inquiry(Message("1", "\n".join(questions), questions, **more), image, "p", 0, lines)


def test_names() -> None:
    assert engines.names() == ["golden", "openai", "posters", "transformers"]
    with pytest.raises(UserError, match="unknown judge 'poster'"):
        engines.resolve("poster")


def test_the_guide_names_every_judge_and_every_suite_with_questions() -> None:
    guide = (Path(__file__).parents[3] / "benchmarks" / "public_questions.md").read_text(encoding="utf-8")
    asking = [name for name in suites.names() if isinstance(suites.load(name), QuestionSuite)]
    assert len(asking) == 25
    assert not [name for name in (*asking, *engines.names()) if f"`{name}" not in guide]


def test_golden_answers_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    write_jsonl(
        path,
        [
            {"prompt_id": "p", "question_id": "1", "answer": " Yes.", "source": "two people"},
            {"prompt_id": "p", "question_id": "2", "answer": None},
            {"prompt_id": "p", "image": 1, "question_id": "1", "answer": "no"},
        ],
    )
    judge = golden.load(str(path))
    assert judge.answer(inquiry("a?")).text == " Yes."
    assert judge.answer(replace(inquiry("a?"), seed=1)).text == "no"
    for missing in (replace(inquiry("a?").message, id="2"), replace(inquiry("a?").message, id="3")):
        with pytest.raises(JudgeError, match=f"no answer to question {missing.id}"):
            judge.answer(replace(inquiry("a?"), message=missing))
    assert golden.identity(str(path)).engine == "answers of two people"
    before = golden.identity(str(path)).key
    write_jsonl(path, [{"prompt_id": "p", "question_id": "1", "answer": "no"}])
    assert golden.identity(str(path)).key != before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt_id": "p", "question_id": "1"}', "answer is missing"),
        ('{"prompt_id": "p", "question_id": "1", "answer": 1}', "answer must be text"),
        ('{"prompt_id": "p", "image": "0", "question_id": "1", "answer": "no"}', "image must be a whole number"),
        ('{"prompt_id": "p", "question_id": "1", "answer": "no"}\n' * 2, "record 2 answers a question a second time"),
        ("yes", "answers.jsonl, line 1"),
    ],
)
def test_a_golden_file_that_is_broken(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        golden.identity(str(tmp_path / "answers.jsonl"))


def test_judges_without_what_they_need(tmp_path: Path) -> None:
    for module, location, message in (
        (golden, "", "needs a file"),
        (golden, str(tmp_path / "none.jsonl"), "does not exist"),
        (transformers, "", "names no model"),
        (transformers, str(tmp_path), r"holds no \*.safetensors"),
        (posters, "here", "needs no location"),
    ):
        with pytest.raises(UserError, match=message):
            module.identity(location)


@pytest.fixture(scope="module")
def scene() -> Scene:
    """A teal poster, a pink circle in the bottom right corner, CURTAIN in white at the top."""
    rng = random.Random(4)
    sampled = sample_scene(rng, height=256, width=256, headline="CURTAIN")
    while len(sampled.lines) > 1 or sampled.position != "top" or sampled.shape.position != "bottom right":
        sampled = sample_scene(rng, height=256, width=256, headline="CURTAIN")
    shape = replace(sampled.shape, kind="circle", colour="pink")
    return replace(sampled, background="teal", text_colour="white", shape=shape)


@pytest.fixture(scope="module")
def poster(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("poster") / "a.png"
    render(scene).save(path)
    return path


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("Is the background teal?", True),
        ("Is the background green? Answer with yes or no.", False),
        ("Is there a circle?", True),
        ("Is there a pink circle in the bottom right corner?", True),
        ("Is there a pink circle at the top?", False),
        ("Is there a star?", False),
        ("Is there an orange circle?", False),
        ("Is the circle pink?", True),
        ("Is the circle red?", False),
        ("Is the circle in the bottom right corner?", True),
        ("Is there any shape?", True),
        ("Is the text white?", True),
        ("Is the text at the bottom?", False),
        ("Is the text at the top?", True),
        ("Is the text 'CURTAIN' in the image?", True),
        ('Does the poster say "Certain"?', False),
    ],
)
def test_posters_answer_questions_of_their_world(question: str, expected: bool, poster: Path) -> None:
    lines = (RecognizedLine("Curtain", 0.99, (0, 0, 9, 9)),)
    answer = posters.load("").answer(inquiry(question, image=poster, lines=lines, options=("Yes", "No")))
    assert answer.text == ("Yes" if expected else "No")


def test_several_questions_are_answered_on_lines(poster: Path) -> None:
    answer = posters.load("").answer(inquiry("Is the background teal?", "Is there a star?", image=poster))
    assert answer.text == "yes\nno"


@pytest.mark.parametrize(
    ("question", "line", "message"),
    [
        ("Is there a cat?", None, "no question about a poster"),
        ("Is the text 'CURTAIN' in the image?", RecognizedLine("CURTAIN", 0.6, (0, 0, 9, 9)), "not sure"),
        ("Is the text 'CURTAIN' in the image?", RecognizedLine("CURTAlN", 0.6, (0, 0, 9, 9)), "not sure"),
    ],
)
def test_what_posters_cannot_answer_is_an_error(
    question: str, line: RecognizedLine | None, message: str, poster: Path
) -> None:
    with pytest.raises(JudgeError, match=message):
        posters.load("").answer(inquiry(question, image=poster, lines=(line,) if line else ()))


def test_pixels_that_a_smaller_copy_shows_otherwise_are_not_sure(tmp_path: Path) -> None:
    """A red column, a blue one, and so on to the last two: mostly red, but purple from farther away."""
    image = Image.new("RGB", (256, 256), COLOURS["red"])
    for column in range(0, 254, 2):
        image.paste(COLOURS["blue"], (column, 0, column + 1, 256))
    image.save(tmp_path / "stripes.png")
    with pytest.raises(JudgeError, match="not sure: Is the background red"):
        posters.load("").answer(inquiry("Is the background red?", image=tmp_path / "stripes.png"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vision_language.build(tmp_path_factory.mktemp("qwen"))


def greedy(folder: Path, image: Image.Image, asked: str, tokens: int) -> str:
    """The message put together by hand, patches by the image processor, the most likely token one after another."""
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16).eval()
    words = AutoTokenizer.from_pretrained(folder)
    seen = AutoImageProcessor.from_pretrained(folder)(images=[image], return_tensors="pt")
    pads = "<|image_pad|>" * (int(seen["image_grid_thw"].prod() // 4) if "image_grid_thw" in seen else 16)
    ids = words(asked.replace("IMAGE", f"<|vision_start|>{pads}<|vision_end|>"), return_tensors="pt")["input_ids"]
    return tiny_vision_language.most_likely(model, words, ids, seen, tokens)


def test_a_folder_answers_with_its_most_likely_tokens(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.effect_noise((90, 60), 80).convert("RGB").save(path)
    judge = transformers.load(str(folder))
    answer = judge.answer(inquiry("Is it?", image=path, system="Be kind.", image_first=False, max_tokens=9))
    user = "<|im_start|>user\nIs it?IMAGE<|im_end|>\n<|im_start|>assistant\n"
    with Image.open(path) as image:
        assert answer.text == greedy(folder, image, f"<|im_start|>system\nBe kind.<|im_end|>\n{user}", 9)
    assert answer.text
    assert 0 < answer.output_tokens <= 9
    first = judge.answer(inquiry("Is it?", image=path, max_tokens=9)).text
    with Image.open(path) as image:
        assert first == greedy(folder, image, user.replace("Is it?IMAGE", "IMAGEIs it?"), 9)


@pytest.mark.parametrize("family", ["Qwen3VL", "Qwen3_5", "Llava"])
def test_folders_of_other_makes(family: str, tmp_path: Path) -> None:
    path, folder = tmp_path / "a.png", tiny_vision_language.build(tmp_path / family, family)
    Image.linear_gradient("L").resize((90, 60)).convert("RGB").save(path)
    answer = transformers.load(str(folder)).answer(inquiry("Is it red?", image=path, max_tokens=6))
    with Image.open(path) as image:
        user = "<|im_start|>user\nIMAGEIs it red?<|im_end|>\n<|im_start|>assistant\n"
        assert answer.text == greedy(folder, image, user, 6)
    assert answer.text
    assert transformers.identity(str(folder)).engine == f"{family}ForConditionalGeneration, bfloat16, greedy"


THINKING = (
    "{% if enable_thinking is not defined or enable_thinking %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}"
)


def test_a_folder_that_thinks(tmp_path: Path) -> None:
    """Its template begins the thinking, so an answer that is cut inside it shows no sign of it."""
    Image.linear_gradient("L").resize((56, 56)).convert("RGB").save(tmp_path / "a.png")
    template = tiny_vision_language.TEMPLATE + THINKING
    folder = str(tiny_vision_language.build(tmp_path / "folder", template=template))
    asked = inquiry("Is it?", image=tmp_path / "a.png", max_tokens=4)
    thinking = transformers.load(folder).answer(asked)
    assert (thinking.text[:8], thinking.output_tokens) == ("<think>\n", 4)
    with pytest.raises(JudgeError, match="ends inside its thinking"):
        spoken(thinking)
    longer = transformers.load(f"{folder},max_tokens=6").answer(asked)
    assert longer.text.startswith(thinking.text[:8])
    assert longer.output_tokens == 6
    direct = transformers.load(f"{folder},thinking=off").answer(asked)
    with Image.open(tmp_path / "a.png") as image:
        user = "<|im_start|>user\nIMAGEIs it?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        assert spoken(direct) == direct.text == greedy(Path(folder), image, user, 4)
    names = [transformers.identity(f"{folder}{more}").engine for more in ("", ",thinking=off", ",max_tokens=6")]
    start = "Qwen2_5_VLForConditionalGeneration, bfloat16, greedy"
    assert names == [start, f"{start}, thinking False", f"{start}, max_tokens 6"]
    for more, message in (
        (",heat=1", "unknown option of the judge transformers"),
        (",max_tokens=0", "cannot use max_tokens=0"),
    ):
        with pytest.raises(UserError, match=message):
            transformers.identity(folder + more)


def test_probabilities_of_a_folder_are_those_of_the_first_tokens(folder: Path, tmp_path: Path) -> None:
    """Before and after the penalty that the folder has for letters of the question, like the Y of its Yes."""
    from transformers import AutoImageProcessor, AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    strict = Path(shutil.copytree(folder, tmp_path / "strict"))
    settings = read_json(strict / "generation_config.json")
    write_json(strict / "generation_config.json", {**settings, "repetition_penalty": 2.0})
    image = Image.effect_noise((56, 56), 80).convert("RGB")
    image.save(tmp_path / "a.png")
    asked = inquiry("Yes?", image=tmp_path / "a.png", words=("Yes", "No"), max_tokens=1)
    answer = transformers.load(str(strict)).answer(asked)

    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).eval()
    words = AutoTokenizer.from_pretrained(folder)
    seen = AutoImageProcessor.from_pretrained(folder)(images=[image], return_tensors="pt")
    pads = "<|image_pad|>" * int(seen["image_grid_thw"].prod() // 4)
    text = f"<|im_start|>user\n<|vision_start|>{pads}<|vision_end|>Yes?<|im_end|>\n<|im_start|>assistant\n"
    ids = words(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        kinds = (ids == model.config.image_token_id).int()
        logits = model(input_ids=ids, mm_token_type_ids=kinds, **seen).logits[0, -1].float()
    first = [words.encode(letter)[0] for letter in "YN"]
    (raw,), (scored,) = answer.raw_probabilities, answer.probabilities
    assert list(raw.values()) == pytest.approx(logits.softmax(-1)[first].tolist())
    in_prompt = torch.zeros(len(logits), dtype=torch.bool).index_fill(0, ids[0], True)
    penalised = torch.where(in_prompt, torch.where(logits > 0, logits / 2, logits * 2), logits)
    assert list(scored.values()) == pytest.approx(penalised.softmax(-1)[first].tolist())
    assert raw["Yes"] != pytest.approx(scored["Yes"])
    assert answer.is_ended is (answer.text == "")


def test_the_identity_of_a_folder_is_its_content(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "another name"))
    identity = transformers.identity(str(folder))
    assert identity.engine == "Qwen2_5_VLForConditionalGeneration, bfloat16, greedy"
    assert set(identity.weights) == {"model.safetensors"}
    assert transformers.identity(str(copy)).key == identity.key
    template = next(path for path in copy.iterdir() if "chat_template" in path.name)
    template.write_text(template.read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert transformers.identity(str(copy)).key != identity.key
    for path in copy.glob("*.json"):
        path.write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="is no vision-language model"):
        transformers.load(str(copy))
