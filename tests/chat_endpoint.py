"""A local HTTP server that speaks the protocol of OpenAI's chat endpoint, and of the images endpoint, for tests.

It answers yes to every question, one per line. What it does otherwise stands in the text: "busy" is 429 the first two
times, "refused" 400, "garbage" an answer that is no JSON, "page" JSON of another kind, "thinking" an answer behind its
thinking, "cut" one that ends inside it, "long" one that stops at the most tokens, "silent" one without text, "lost"
none at all, "echo" the request's header, "unlisted" no probabilities, "fingerprint" that of the server. A key that is
none of KEYS is 401, the model "none" 404.

A message without an image is a prompt to rewrite: it comes back with more words, and with its quotes, which "forgetful"
prompts lose at the first try and "stubborn" ones always. "possessive" ones get apostrophes.
"""

from __future__ import annotations

import math
import re
from contextlib import AbstractContextManager
from typing import Any

import images_endpoint
from images_endpoint import KEYS, Endpoint

LISTED = {"No": 0.75, "Yes": 0.25}  # the most likely words of the first token, where probabilities are asked for
USAGE = {"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": 320}


def running(seconds: float = 0.0) -> AbstractContextManager[Endpoint]:
    return images_endpoint.running(seconds, ChatHandler)


class ChatHandler(images_endpoint.Handler):
    @staticmethod
    def text(body: dict[str, Any]) -> str:
        if "messages" not in body:
            return images_endpoint.Handler.text(body)
        content = body["messages"][-1]["content"]
        if isinstance(content, str):
            return content
        return str(next(part["text"] for part in content if part["type"] == "text"))

    def answer(self, body: dict[str, Any], tries: int) -> tuple[int, dict[str, Any] | bytes]:
        text = self.text(body)
        if "messages" not in body:
            return super().answer(body, tries)
        if "echo" in text:
            return 400, {"error": {"message": f"{dict(self.headers)} {'x' * 10**6}"}}
        if self.path != "/v1/chat/completions" or body["model"] == "none":
            return 404, {"error": {"message": "no such model"}}
        if self.headers["Authorization"] not in KEYS:
            return 401, {"error": {"message": "wrong key"}}
        if "busy" in text and tries < 2:
            return 429, {"error": {"message": "slow down"}}
        if "refused" in text:
            return 400, {"error": {"message": "not allowed by the safety system"}}
        if "garbage" in text:
            return 200, b"<html>it works</html>"
        if "page" in text:
            return 200, {"object": "page"}
        said: str | None = "\n".join("yes, it is" for line in text.split("\n") if line.endswith("?"))
        if isinstance(body["messages"][-1]["content"], str):
            said = rewritten(body["messages"])
        if "thinking" in text:
            said = f"<think>\nno, or yes?\n</think>\n\n{said}"
        if "cut" in text:
            said = "<think>\nno, the image"
        if "silent" in text:
            said = None
        reason = "length" if "long" in text else "stop"
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": reason}
        if body.get("logprobs") and "unlisted" not in text:
            listed = [{"token": word, "logprob": math.log(p), "bytes": None} for word, p in LISTED.items()]
            choice["logprobs"] = {"content": [{**listed[0], "top_logprobs": listed}], "refusal": None}
        model = f"{body['model']}-2026-11-29"
        return 200, {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            **({"system_fingerprint": "fp_1"} if "fingerprint" in text else {}),
            "choices": [choice],
            "usage": USAGE,
        }


def rewritten(messages: list[dict[str, str]]) -> str:
    asked = messages[1]["content"]
    prompt = asked.partition("\n")[0].partition(":" if ":" in asked else "：")[2].strip()
    if "stubborn" in prompt or ("forgetful" in prompt and len(messages) == 2):
        prompt = re.sub("['\"]", "", prompt)
    more = ", the shop's door and the owner's hat" if "possessive" in prompt else ""
    return f"In soft light, {prompt}{more}."
