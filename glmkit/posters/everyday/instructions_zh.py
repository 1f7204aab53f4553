"""Say in Chinese what an edit changes, as people type it; see `instructions`."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from glmkit.posters.everyday.captions_zh import CORNERS, COUNTS, KINDS, QUOTES, ROWS, colour_name
from glmkit.posters.everyday.scene import EverydayScene, PlacedShape

if TYPE_CHECKING:
    from glmkit.posters.everyday.edits import EverydayEdit

Quote = Callable[[str], str]

ORDINALS = "一二三四"
POLITE = ("请", "请", "帮我", "请帮我", "麻烦", "现在", "我想")
REST = ("，其他不变", "，其余保持不变", "，别的不要动", "，其它都不变", "，保留其他内容")


def instruction(edit: EverydayEdit, rng: random.Random) -> str:
    """Sample one of many ways to ask for the edit."""
    phrase = _PHRASES[edit.kind](edit, rng, rng.choice(QUOTES).format)
    if phrase[0] in "把将在给加添去删换改让移写" and rng.random() < 0.25:
        phrase = rng.choice(POLITE) + phrase
    if rng.random() < 0.12:
        phrase += rng.choice(REST)
    return phrase + ("。" if rng.random() < 0.45 else "")


def _into(what: str, new: str, rng: random.Random) -> str:
    """Say that something becomes something else."""
    return (
        rng.choice(("把", "把", "把", "将")) + what + rng.choice(("改成", "改成", "换成", "改为", "变成", "换为")) + new
    )


def _background(edit: EverydayEdit, rng: random.Random, _: Quote) -> str:
    new, old = colour_name(edit.target.background), colour_name(edit.condition.background)
    return rng.choice((
        _into(rng.choice(("背景", "背景", "背景颜色", "背景色", "底色")), new, rng), _into(f"{old}背景", new, rng),
        f"背景改成{new}", f"背景换成{new}", f"底色改为{new}", f"换成{new}背景", f"背景用{new}", f"用{new}背景",
        f"我要{new}的背景", f"{new}背景", f"背景要{new}", f"背景应该是{new}", f"换一个{new}的背景",
    ))  # fmt: skip


def _place(where: tuple[str, str], rng: random.Random) -> str:
    return CORNERS[where] if where in CORNERS else rng.choice(ROWS[where[0]])


def _named(scene: EverydayScene, number: int | None, rng: random.Random, quote: Quote) -> str:
    """Name a text by its content, its order, its place or its colour; None: all texts."""
    if number is None:
        if len(scene.blocks) > 1:
            return rng.choice(("所有文字", "全部文字", "所有的字"))
        if rng.random() < 0.6:
            return rng.choice(("文字", "文字", "字", "上面的字"))
        number = 0
    block = scene.blocks[number]
    content = quote(block.text)
    names = [content, content, content, f"文字{content}"]
    names += [f"{content}这几个字"] if len(block.text) > 1 and not block.text.isascii() else []
    if len(scene.blocks) == 1:
        names += ["文字", "标题", "上面的字"]
    elif scene.arrangement == "stack":
        noun = "个文本" if any(len(one.lines) > 1 for one in scene.blocks) else rng.choice(("行", "行文字"))
        names += [f"第{ORDINALS[number]}{noun}"]
        names += ["标题"] if number == 0 else []
        names += ["最下面的文字"] if number == len(scene.blocks) - 1 else []
    else:
        names += [f"{_place(block.place, rng)}的文字"] * 2
    if block.accent and scene.accent_colour != scene.text_colour and colour_name(scene.accent_colour):
        names += [f"{colour_name(scene.accent_colour)}的字"]
    return rng.choice(names)


def _text(edit: EverydayEdit, rng: random.Random, quote: Quote) -> str:
    assert edit.number is not None
    old = _named(edit.condition, edit.number, rng, quote)
    new = quote(edit.target.blocks[edit.number].text)
    phrases = [
        _into(old, new, rng), _into(old, new, rng), _into(old, new, rng), _into(old, new, rng), f"用{new}代替{old}",
        f"{old}改成{new}", f"{old}换成{new}", f"不要{old}，改写{new}", f"写{new}，不要{old}",
        f"现在应该写{new}而不是{old}", f"{old}应该是{new}", f"将{old}替换为{new}", f"在{old}的位置写{new}",
    ]  # fmt: skip
    if len(edit.condition.blocks) == 1:
        phrases += [f"文字改成{new}", f"改成写着{new}", f"上面应该写{new}", f"内容换成{new}", f"改写成{new}"]
    return rng.choice(phrases)


def _text_addition(edit: EverydayEdit, rng: random.Random, quote: Quote) -> str:
    scene, block = edit.condition, edit.target.blocks[-1]
    words = rng.choice(("{}", "{}", "文字{}", "{}字样")).format(quote(block.text))
    if block.accent:
        words = f"{colour_name(edit.target.accent_colour)}的{words}"
    verb = rng.choice(("加上", "加上", "添加", "写上", "增加", "加"))
    if edit.number is not None:
        what = _named(scene, edit.number, rng, quote)
        where = rng.choice((f"在{what}下面", f"在{what}的下方", f"{what}下面"))
        if len(scene.blocks) == 1 or scene.arrangement == "stack":
            where = rng.choice((where, "下面", "在下面", "在下方"))
        return f"{where}{verb}{words}"
    if not edit.says_place:
        return f"{verb}{words}"
    where = _place(block.place, rng)
    return rng.choice((f"在{where}{verb}{words}", f"{where}{verb}{words}", f"{verb}{words}，放在{where}"))


def _gone(old: str, rng: random.Random) -> str:
    return rng.choice((
        f"去掉{old}", f"删掉{old}", f"删除{old}", f"把{old}去掉", f"把{old}删掉", f"不要{old}", f"将{old}删除",
        f"移除{old}", f"把{old}擦掉",
    ))  # fmt: skip


def _text_removal(edit: EverydayEdit, rng: random.Random, quote: Quote) -> str:
    return _gone(_named(edit.condition, edit.number, rng, quote), rng)


def _text_colour(edit: EverydayEdit, rng: random.Random, quote: Quote) -> str:
    old, new = _named(edit.condition, edit.number, rng, quote), edit.target.accent_colour
    if edit.number is not None and not edit.target.blocks[edit.number].accent:
        new = edit.target.text_colour
    new = colour_name(new)
    phrases = [_into(old, new, rng), _into(old, new, rng), _into(f"{old}的颜色", new, rng), f"{old}改成{new}",
               f"{old}用{new}", f"让{old}变成{new}", f"{old}应该是{new}"]  # fmt: skip
    if edit.number is None:
        phrases += [f"文字颜色换成{new}", f"字体颜色改为{new}", f"用{new}字", f"{new}的字", f"把字改成{new}"]
    return rng.choice(phrases)


def _text_size(edit: EverydayEdit, rng: random.Random, quote: Quote) -> str:
    old, number = _named(edit.condition, edit.number, rng, quote), edit.number or 0
    if edit.target.blocks[number].size > edit.condition.blocks[number].size:
        return rng.choice((f"把{old}放大", f"把{old}放大一些", f"{old}大一点", f"让{old}更大", f"将{old}变大",
                           f"{old}太小了，放大一点", f"{old}的字号调大", f"把{old}改大"))  # fmt: skip
    return rng.choice((f"把{old}缩小", f"把{old}缩小一些", f"{old}小一点", f"让{old}更小", f"将{old}变小",
                       f"{old}太大了，缩小一点", f"{old}的字号调小", f"把{old}改小"))  # fmt: skip


def _known(scene: EverydayScene, group: tuple[PlacedShape, ...], rng: random.Random) -> str:
    """Name shapes that are there, by kind, and by colour or place when kind alone would not do."""
    one, others = group[0], [shape for shape in scene.shapes if shape not in group]
    kind, colour = KINDS[one.kind], colour_name(one.colour)
    names = []
    if not others:
        names += [kind, kind, "图形", f"那{COUNTS.get(len(group), '')}个{kind}"]
    if all(shape.kind != one.kind for shape in others):
        names += [kind, kind]
    if colour and all((shape.kind, shape.colour) != (one.kind, one.colour) for shape in others):
        names += [f"{colour}{kind}", f"{colour}的{kind}"]
    return rng.choice([*names, f"{_place(one.place, rng)}的{colour}{kind}"])


def _shape_addition(edit: EverydayEdit, rng: random.Random, _: Quote) -> str:
    group = edit.new_shapes
    named = colour_name(group[0].colour) + rng.choice(("", "", "的"))
    thing = f"{COUNTS.get(len(group), '一')}个{named}{KINDS[group[0].kind]}"
    verb = rng.choice(("加", "加", "加上", "添加", "画", "放", "增加"))
    if not edit.says_place:
        return f"{verb}{thing}"
    where = _place(group[0].place, rng)
    return rng.choice(
        (f"在{where}{verb}{thing}", f"在{where}{verb}{thing}", f"{where}{verb}{thing}", f"{verb}{thing}，放在{where}")
    )


def _shape_removal(edit: EverydayEdit, rng: random.Random, _: Quote) -> str:
    return _gone(_known(edit.condition, edit.old_shapes, rng), rng)


def _shape_colour(edit: EverydayEdit, rng: random.Random, _: Quote) -> str:
    old, new = _known(edit.condition, edit.old_shapes, rng), colour_name(edit.new_shapes[0].colour)
    return rng.choice((_into(old, new, rng), _into(old, new, rng), _into(f"{old}的颜色", new, rng), f"{old}改成{new}",
                       f"{old}用{new}", f"让{old}变成{new}"))  # fmt: skip


def _shape_move(edit: EverydayEdit, rng: random.Random, _: Quote) -> str:
    old, where = _known(edit.condition, edit.old_shapes, rng), _place(edit.new_shapes[0].place, rng)
    return rng.choice((f"把{old}移到{where}", f"把{old}移到{where}", f"将{old}移动到{where}", f"把{old}放到{where}",
                       f"{old}放在{where}", f"{old}应该在{where}"))  # fmt: skip


def _frame(edit: EverydayEdit, rng: random.Random, _: Quote) -> str:
    noun, before, after = rng.choice(("边框", "边框", "外框")), edit.condition.frame, edit.target.frame
    old = rng.choice((noun, noun, f"{colour_name(before.colour) if before.thickness else ''}{noun}"))
    if not after.thickness:
        return _gone(old, rng)
    new = colour_name(after.colour)
    if before.thickness:
        return rng.choice((_into(old, new, rng), _into(f"{old}颜色", new, rng), f"{old}改成{new}", f"{old}用{new}"))
    words = f"{rng.choice(('', '', '细' if edit.target.frame_is_thin else '粗'))}{new}{noun}"
    return rng.choice((f"加一个{words}", f"加上{words}", f"添加{words}", f"加{words}", f"四周加上{words}",
                       f"给它加一个{words}", f"要有{words}", f"带{words}"))  # fmt: skip


_PHRASES: dict[str, Callable[[EverydayEdit, random.Random, Quote], str]] = {
    "background": _background,
    "text": _text,
    "add-text": _text_addition,
    "remove-text": _text_removal,
    "text-colour": _text_colour,
    "text-size": _text_size,
    "add-shape": _shape_addition,
    "remove-shape": _shape_removal,
    "shape-colour": _shape_colour,
    "move-shape": _shape_move,
    "frame": _frame,
}
