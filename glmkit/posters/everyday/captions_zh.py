"""Say in Chinese what a scene shows, as people type it; see `captions`."""

from __future__ import annotations

import random

from glmkit.posters.everyday import fonts
from glmkit.posters.everyday.colours import COLOURS
from glmkit.posters.everyday.scene import EverydayScene, TextBlock
from glmkit.posters.everyday.texts import chinese_words

NOUNS = [
    "海报", "海报", "海报", "卡片", "招牌", "标牌", "标签", "封面", "横幅", "贴纸", "请柬", "传单", "标志",
    "徽章", "门票", "菜单", "告示", "图片", "图", "贺卡", "生日卡", "路牌", "名片", "书籍封面", "明信片",
    "店铺招牌", "门牌", "牌子", "警告牌", "指示牌", "站牌", "价签", "价格牌", "纸牌", "广告", "宣传海报",
    "电影海报", "促销海报", "宣传单", "优惠券", "证书", "奖状", "日历", "手提袋", "T恤", "杯子", "包装",
    "包装盒", "瓶子标签", "酒标", "封底", "黑板", "黑板报", "公告", "公告栏", "灯箱", "灯笼", "旗子", "条幅",
    "邀请函", "喜帖", "红包", "春联", "书签", "名牌", "工牌", "胸牌", "信封", "邮票", "头像", "壁纸",
    "手机壁纸", "表情包", "封面图", "标题图", "车贴", "门帘", "餐牌", "号码牌", "提示牌", "提示语", "标语",
    "口号", "插画",
]  # fmt: skip
TOPICS = [
    "咖啡店", "健身房", "面包店", "生日派对", "婚礼", "音乐会", "读书会", "夏季促销", "花店", "书店", "图书馆",
    "节日", "电影之夜", "学校", "餐厅", "酒店", "茶馆", "宠物店", "旅行社", "公司", "超市", "展览", "春节",
    "中秋节", "毕业典礼", "地铁站", "火车站", "机场", "医院", "药店", "办公室", "会议室", "教室", "宿舍",
    "食堂", "菜市场", "水果店", "奶茶店", "面馆", "火锅店", "小吃摊", "理发店", "洗衣店", "停车场", "公园",
    "动物园", "景区", "博物馆", "剧院", "酒吧", "运动会", "比赛", "讲座", "培训班", "年会", "开业", "周年庆",
    "端午节", "元宵节", "国庆节", "情人节", "儿童节", "教师节",
]  # fmt: skip
HEADS = (
    "一张{}", "一个{}", "一块{}", "{}", "{}", "{}", "设计一张{}", "画一张{}", "请做一张{}", "制作一个{}",
    "我要一张{}", "帮我做一个{}", "生成一张{}", "给我设计一个{}", "做一张{}", "一张简单的{}", "简单的{}",
    "来一张{}",
)  # fmt: skip
INTROS = [
    "上面写着{}", "写着{}", "文字是{}", "内容为{}", "标题是{}", "上有文字{}", "写有{}", "文字{}", "标题{}",
    "带有{}字样", "{}", "{}", "上写{}", "上面写{}", "写上{}", "印着{}", "标题为{}", "内容是{}", "上面有{}",
    "字样{}", "名称{}", "只有{}", "：{}",
]  # fmt: skip
NEXT = [
    "下面写着{}", "下方是{}", "然后是{}", "下一行{}", "下面是{}", "和{}", "以及{}", "其下{}", "再下面{}",
    "下面写{}", "第二行{}", "副标题{}", "下面{}", "接着{}", "底下写着{}", "再往下是{}",
]  # fmt: skip
PAIRS = (
    "{ground}底{ink}字", "{ground}底{ink}字", "{ground}底{ink}字", "{ink}字{ground}底", "{ground}背景{ink}字",
    "{ground}背景，{ink}字", "{ink}字，{ground}背景", "{ink}文字，{ground}背景", "{ground}背景配{ink}文字",
    "{ground}背景上{ink}的字", "{ink}的字，{ground}的背景", "{ground}的底，{ink}的字",
    "背景{ground}，文字{ink}", "背景是{ground}，字是{ink}", "底色{ground}，字{ink}", "{ground}底色，{ink}字",
    "{ink}字体，{ground}背景",
)  # fmt: skip
KINDS = {
    "circle": "圆形",
    "triangle": "三角形",
    "hexagon": "六边形",
    "star": "星星",
    "burst": "爆炸形",
    "stripe": "条纹",
}
OTHER_KINDS = {"circle": "圆圈", "triangle": "三角", "star": "五角星", "burst": "爆炸贴", "stripe": "横条"}
QUOTES = ("“{}”", "“{}”", '"{}"', "「{}」")
COUNTS = {2: "两", 3: "三", 4: "四"}
BACKGROUNDS = ("{}背景", "背景是{}", "背景为{}", "底色{}", "{}底", "{}的背景", "背景用{}", "底是{}的")
FILLERS = ("简约风格", "简洁", "扁平设计", "现代风格", "高质量", "大气", "可爱", "简单", "醒目", "清晰")
TEXT_FIRST = ("{0}{1}", "{0}，{1}", "{0}的{1}", "{1}{0}", "{1}：{0}", "{0}字样的{1}", "写着{0}的{1}", "请写{0}，{1}")
HEAD = "\0"  # stands where the quoted text and the head go, when the text comes first
ROWS = {
    "top": ("顶部", "上方", "上面", "最上面"),
    "bottom": ("底部", "下方", "下面", "最下面"),
    "middle": ("中间", "中央", "正中", "正中间"),
}
CORNERS = {
    ("top", "left"): "左上角",
    ("top", "right"): "右上角",
    ("bottom", "left"): "左下角",
    ("bottom", "right"): "右下角",
    ("middle", "left"): "左侧",
    ("middle", "right"): "右侧",
}
STYLES = ("{}字体", "{}文字", "{}字", "{}字", "用{}字", "{}的字", "文字{}", "字是{}的")
# What stands before a quoted text: 写着红色的“...”
INK_FIRST = ("{}的", "{}的", "{}字", "{}的字", "{}大字", "{}的文字")
SIZES = ((0.19, ("特大", "巨大")), (0.12, ("大", "大号")), (0.09, ("", "中等")), (0.0, ("小", "小号")))


def can_say(scene: EverydayScene) -> bool:
    """Tell whether all that a caption must name has a Chinese name."""
    must = (scene.background, scene.text_colour, scene.accent_colour) if scene.is_faint else ()
    return all(map(colour_name, must))


def caption(scene: EverydayScene, rng: random.Random) -> str:
    """Sample one of many descriptions. Quotes hold exactly the scene's texts, in its order."""
    noun, background, said = _noun(rng), colour_name(scene.background), scene.is_faint
    if background and rng.random() < 0.22:
        noun = rng.choice((f"{background}{noun}", f"{background}的{noun}", f"{background}背景的{noun}"))
        background = ""
    texts, with_background = _texts(scene, rng, bool(background))
    clauses = [texts]
    if background and not with_background and (said or rng.random() < 0.55):
        phrase = rng.choice(BACKGROUNDS).format(background)
        clauses.insert(rng.randint(0, 1), phrase)
    head = rng.choice(HEADS).format(noun)
    for phrase in (_shapes(scene, rng), _frame(scene, rng)):
        if phrase:
            clauses.insert(rng.choice((len(clauses), len(clauses), 0)), phrase)
    if rng.random() < 0.15:
        clauses.append(rng.choice(FILLERS))
    for number, clause in enumerate(clauses):
        if clause.startswith(HEAD):
            mark = max(clause.rfind(end) for end in '”"」') + 1
            thing = rng.choice((noun, noun, f"一张{noun}", f"一个{noun}"))
            head = rng.choice(TEXT_FIRST).format(clause[len(HEAD) : mark], thing)
            clauses[number] = clause[mark:].strip("，")
    comma = rng.choice(("，", "，", "，", ",", " "))
    joined = comma.join(filter(None, [head, *clauses]))
    return joined.replace(f"{comma}：", "：") + ("。" if rng.random() < 0.4 else "")


def colour_name(colour: str) -> str:
    """Say a colour; nothing where no Chinese name is common."""
    return COLOURS[colour][1]


def _noun(rng: random.Random) -> str:
    """Name a thing to print on, also for occasions that no list has."""
    noun, topic = rng.choice(NOUNS), rng.choice(TOPICS)
    if rng.random() < 0.2:
        topic = rng.choice(chinese_words("train"))
    return rng.choice((f"{topic}的{noun}", f"{topic}{noun}")) if rng.random() < 0.4 else noun


def _texts(scene: EverydayScene, rng: random.Random, may_pair: bool) -> tuple[str, bool]:
    """Say the texts in order, each with what is said of it; and whether the background is named with them."""
    quote, pair = rng.choice(QUOTES), ""
    short = [name.removesuffix("色") for name in map(colour_name, (scene.text_colour, scene.background))]
    if may_pair and all(short) and rng.random() < 0.55:
        names = short if rng.random() < 0.7 else list(map(colour_name, (scene.text_colour, scene.background)))
        pair = rng.choice(PAIRS).format(ink=names[0], ground=names[1])
    # One style for all texts, said at the end: “...”和“...”，红字白底
    of_all = len(scene.blocks) > 1 and not scene.has_accent and rng.random() < 0.5
    text_first = len(scene.blocks) == 1 and rng.random() < 0.3
    phrases = []
    for number, block in enumerate(scene.blocks):
        intro = INTROS if number == 0 else NEXT if scene.arrangement == "stack" else ("写着{}", "{}", "是{}", "写{}")
        quoted = quote.format(block.text)
        says = block.accent or scene.is_faint or (number == 0 and rng.random() < 0.75)
        style = pair if pair and number == 0 and not block.accent else _style(scene, block, rng) if says else ""
        if of_all:
            style = ""
        ink = colour_name(scene.accent_colour if block.accent else scene.text_colour)
        if style and style != pair and ink and not text_first and rng.random() < 0.3:
            quoted, style = rng.choice(INK_FIRST).format(ink) + quoted, ""
        phrase = HEAD + quoted if text_first else rng.choice(intro).format(quoted)
        where = place(block.place, rng) if scene.sample_is_placed(number, rng) else ""
        if text_first:
            phrases.append("，".join(filter(None, (phrase, where, style))))
        else:
            phrases.append((where + phrase if where else phrase) + (f"，{style}" if style else ""))
    if of_all:
        phrases.append(pair or _style(scene, scene.blocks[0], rng))
    pair = "" if scene.blocks[0].accent else pair
    return rng.choice(("，", "，", "；")).join(filter(None, phrases)), bool(pair)


def _style(scene: EverydayScene, block: TextBlock, rng: random.Random) -> str:
    named = scene.is_faint or rng.random() < 0.85
    colour = colour_name(scene.accent_colour if block.accent else scene.text_colour) if named else ""
    tall = scene.capital_share(block)
    size = rng.choice(next(words for least, words in SIZES if tall >= least)) if rng.random() < 0.3 else ""
    face = fonts.TYPEFACES[block.font]
    family = face.family if face.language == "zh" and rng.random() < 0.3 else ""
    if family:
        return rng.choice((f"{size}{colour}{family}", f"使用{colour}{family}", f"{colour}{family}字"))
    if not size and not colour:
        return ""
    short = colour.removesuffix("色") if rng.random() < 0.4 else colour
    large = "{}大字" if tall >= SIZES[1][0] else "{}字"
    return rng.choice((*STYLES, large)).format(f"{size}{short}")


def place(where: tuple[str, str], rng: random.Random) -> str:
    """Say one of the nine places."""
    word = CORNERS[where] if where in CORNERS else rng.choice(ROWS[where[0]])
    return rng.choice(("{}", "在{}", "{}")).format(word)


def _shapes(scene: EverydayScene, rng: random.Random) -> str:
    groups = scene.shape_groups
    if not groups:
        return rng.choice(("不要任何图案", "没有图形", "不要图形")) if rng.random() < 0.12 else ""
    if rng.random() < 0.12:
        return ""
    phrases = []
    for (kind, colour, where), group in groups.items():
        name = colour_name(colour)
        named = f"{name}的" if name and rng.random() < 0.3 else name
        shape = OTHER_KINDS.get(kind, KINDS[kind]) if rng.random() < 0.3 else KINDS[kind]
        count = str(len(group)) if rng.random() < 0.3 else COUNTS.get(len(group), "一")
        thing = f"{count}个{named}{shape}"
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
    forms = (
        f"{words}边框",
        f"带{words}边框",
        f"有{words}外框",
        f"四周有{words}边框",
        f"{words}的边框",
        f"加上{words}边框",
        f"外面一圈{words}边框",
    )
    return rng.choice(forms)
