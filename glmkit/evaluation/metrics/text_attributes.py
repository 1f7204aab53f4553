"""How questions about the texts of images pool: each is one row GROUP/QUESTION, 1 when the answer is the right one."""

from __future__ import annotations

from collections.abc import Mapping

from glmkit.evaluation.metrics.chains import Chain, Step, pool

LOOKS = ("text_colour", "text_place", "text_font")
GROUPS = (*LOOKS, "text_there", "no_other_text")
CHAINS: Mapping[str, Chain] = {
    "text_attributes": Chain(LOOKS, (Step(pool),), is_everywhere=False),
    **{name: Chain((name,), (Step(pool),), is_everywhere=False) for name in GROUPS},
}
_RIGHT = "share of the questions that a judge answers as the prompt asks for"
_LOST = "; of a text that is not there all is wrong"
METRICS: Mapping[str, Mapping[str, str]] = {
    name: {"direction": "higher", "definition": f"glmkit-{name.replace('_', '-')}-1: {_RIGHT}: {words}."}
    for name, words in {
        "text_attributes": f"colour, place and font of each text, where the prompt names them{_LOST}",
        "text_colour": f"the colour of each text{_LOST}",
        "text_place": f"where each text stands (top, middle, bottom, left, right, below the text before){_LOST}",
        "text_font": f"the kind of letters of each text (serif, rounded, ...){_LOST}",
        "text_there": "whether each text is there",
        "no_other_text": "whether there is no text beside those",
    }.items()
}
