"""Say in Chinese what a scene shows, as people type it; see `captions`."""

from __future__ import annotations

import random

from glmkit.posters.everyday import fonts
from glmkit.posters.everyday.colours import COLOURS
from glmkit.posters.everyday.scene import EverydayScene, TextBlock

NOUNS = [
    "海报", "海报", "海报", "卡片", "招牌", "标牌", "标签", "封面", "横幅",
    "贴纸", "请柬", "传单", "标志", "徽章", "门票", "菜单", "告示", "图片",
    "图", "贺卡", "生日卡", "路牌", "名片", "书籍封面", "明信片", "店铺招牌",
    "门牌",
]  # fmt: skip
TOPICS = [
    "咖啡店", "健身房", "面包店", "生日派对", "婚礼", "音乐会", "读书会",
    "夏季促销", "花店", "书店", "图书馆", "节日", "电影之夜", "学校", "餐厅",
    "酒店", "茶馆", "宠物店", "旅行社", "公司", "超市", "展览", "春节",
    "中秋节", "毕业典礼",
]  # fmt: skip
INTROS = [
    "上面写着{}", "写着{}", "文字是{}", "内容为{}", "标题是{}", "上有文字{}",
    "写有{}", "文字{}", "标题{}", "带有{}字样", "{}",
]  # fmt: skip
NEXT = [
    "下面写着{}", "下方是{}", "然后是{}", "下一行{}", "下面是{}", "和{}", "以及{}", "其下{}", "再下面{}",
]  # fmt: skip
KINDS = {
    "circle": "圆形",
    "triangle": "三角形",
    "hexagon": "六边形",
    "star": "星星",
    "burst": "爆炸形",
    "stripe": "条纹",
}
QUOTES = ("“{}”", "“{}”", '"{}"', "「{}」")
COUNTS = {2: "两", 3: "三", 4: "四"}
FILLERS = ("简约风格", "简洁", "扁平设计", "现代风格", "高质量", "大气", "可爱")
ROWS = {"top": ("顶部", "上方", "上面"), "bottom": ("底部", "下方", "下面"), "middle": ("中间", "中央", "正中")}
CORNERS = {
    ("top", "left"): "左上角",
    ("top", "right"): "右上角",
    ("bottom", "left"): "左下角",
    ("bottom", "right"): "右下角",
    ("middle", "left"): "左侧",
    ("middle", "right"): "右侧",
}
SIZES = ((0.19, ("特大", "巨大")), (0.12, ("大", "大号")), (0.09, ("", "中等")), (0.0, ("小", "小号")))


def caption(scene: EverydayScene, rng: random.Random) -> str:
    """Sample one of many descriptions. Quotes hold exactly the scene's texts, in its order."""
    noun, background = rng.choice(NOUNS), colour_name(scene.background)
    noun = rng.choice((f"{rng.choice(TOPICS)}的{noun}", f"{rng.choice(TOPICS)}{noun}")) if rng.random() < 0.3 else noun
    clauses = [_texts(scene, rng)]
    kind = rng.random()
    if background and kind < 0.3:
        noun = rng.choice((f"{background}{noun}", f"{background}的{noun}", f"{background}背景的{noun}"))
    elif background and kind < 0.75:
        phrase = rng.choice(
            (f"{background}背景", f"背景是{background}", f"背景为{background}", f"底色{background}", f"{background}底")
        )
        clauses.insert(rng.randint(0, 1), phrase)
    head = rng.choice(
        ("一张{}", "一个{}", "{}", "{}", "设计一张{}", "画一张{}", "请做一张{}", "制作一个{}", "我要一张{}")
    ).format(noun)
    for phrase in (_shapes(scene, rng), _frame(scene, rng)):
        if phrase:
            clauses.insert(rng.choice((len(clauses), len(clauses), 0)), phrase)
    if rng.random() < 0.15:
        clauses.append(rng.choice(FILLERS))
    comma = rng.choice(("，", "，", "，", ",", " "))
    return comma.join([head, *clauses]) + ("。" if rng.random() < 0.5 else "")


def colour_name(colour: str) -> str:
    """Say a colour; nothing where no Chinese name is common."""
    return COLOURS[colour][1]


def _texts(scene: EverydayScene, rng: random.Random) -> str:
    quote = rng.choice(QUOTES)
    phrases = []
    for number, block in enumerate(scene.blocks):
        intro = INTROS if number == 0 else NEXT if scene.arrangement == "stack" else ("写着{}", "{}", "是{}")
        phrase = rng.choice(intro).format(quote.format(block.text))
        where = place(block.place, rng) if scene.sample_is_placed(number, rng) else ""
        style = _style(scene, block, rng) if block.accent or (number == 0 and rng.random() < 0.75) else ""
        phrases.append((where + phrase if where else phrase) + (f"，{style}" if style else ""))
    return rng.choice(("，", "，", "；")).join(phrases)


def _style(scene: EverydayScene, block: TextBlock, rng: random.Random) -> str:
    colour = colour_name(scene.accent_colour if block.accent else scene.text_colour) if rng.random() < 0.85 else ""
    tall = scene.capital_share(block)
    size = rng.choice(next(words for least, words in SIZES if tall >= least)) if rng.random() < 0.3 else ""
    face = fonts.TYPEFACES[block.font]
    family = face.family if face.language == "zh" and rng.random() < 0.3 else ""
    if family:
        return rng.choice((f"{size}{colour}{family}", f"使用{colour}{family}"))
    if not size and not colour:
        return ""
    return rng.choice(("{}字体", "{}文字", "{}字", "用{}字")).format(f"{size}{colour}")


def place(where: tuple[str, str], rng: random.Random) -> str:
    """Say one of the nine places."""
    word = CORNERS[where] if where in CORNERS else rng.choice(ROWS[where[0]])
    return rng.choice(("{}", "在{}", "{}")).format(word)


def _shapes(scene: EverydayScene, rng: random.Random) -> str:
    groups = scene.shape_groups
    if not groups or rng.random() < 0.12:
        return ""
    phrases = []
    for (kind, colour, where), group in groups.items():
        name = colour_name(colour)
        named = f"{name}的" if name and rng.random() < 0.3 else name
        thing = f"{COUNTS.get(len(group), '一')}个{named}{KINDS[kind]}"
        phrases.append(
            rng.choice((f"{place(where, rng)}有{thing}", f"{thing}{place(where, rng)}"))
            if rng.random() < 0.85
            else thing
        )
    return "，".join(phrases)


def _frame(scene: EverydayScene, rng: random.Random) -> str:
    frame = scene.frame
    if not frame.thickness or rng.random() < 0.1:
        return ""
    thin = "细" if scene.frame_is_thin else "粗"
    words = f"{thin if rng.random() < 0.5 else ''}{colour_name(frame.colour)}"
    return rng.choice((f"{words}边框", f"带{words}边框", f"有{words}外框"))
