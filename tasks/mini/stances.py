"""Chinese stance and monetary stance, made from phrases of this project: A, B or C."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

from cl_bench.data.generated import prompt_splits

if TYPE_CHECKING:
    from datasets import Dataset

_TOPICS = "地铁 网课 加班 咖啡 公园 手机 外卖 雨天 足球 电影 火锅 早起 游泳 汽车 音乐 茶"
_OPENINGS = ("", "说实话，", "今天，", "朋友，")
_OPINIONS = {
    "A": ("我喜欢{}。", "{}真好！", "我爱{}。"),
    "B": ("我讨厌{}。", "{}太差了！", "我反对{}。"),
    "C": ("有人问{}。", "{}是什么？", "新闻里有{}。"),
}


def _cstance() -> Iterator[tuple[str, str]]:
    for label, opinions in _OPINIONS.items():
        for topic, opening, opinion in product(_TOPICS.split(), _OPENINGS, opinions):
            text = opening + opinion.format(topic)
            yield f"态度：A.支持，B.反对，C.中立。\n文本：\n{text}\n对象：\n{topic}\n态度：", label


def cstance(**_: Any) -> dict[str, Dataset]:
    """Stance of a short Chinese text towards a topic; A for, B against, C neutral."""
    return prompt_splits("mini_cstance", _cstance())


_SPEAKERS = ("Most members", "Some officials", "The Committee", "Two governors")
_VERBS = ("noted", "judged", "agreed")
_VIEWS = {
    "A": (
        "weak hiring calls for lower rates",
        "rates should be cut to support growth",
        "the economy needs easier credit",
        "falling prices leave room for stimulus",
    ),
    "B": (
        "strong demand calls for higher rates",
        "rates should be raised to curb inflation",
        "the economy needs tighter credit",
        "rising prices leave no room for stimulus",
    ),
    "C": (
        "the next meeting is in May",
        "the payments report is complete",
        "trading volumes were little changed",
        "the survey covers ninety banks",
    ),
}
_TIMES = ("", "In March, ", "Today, ", "Again, ", "In the fall, ", "Last week, ")


def _fomc() -> Iterator[tuple[str, str]]:
    for label, views in _VIEWS.items():
        for time, speaker, verb, view in product(_TIMES, _SPEAKERS, _VERBS, views):
            who = speaker if not time else speaker[0].lower() + speaker[1:]
            yield (
                "Monetary policy stance: A. dovish, B. hawkish, C. neutral.\n"
                f"Text:\n{time}{who} {verb} that {view}.\nStance:",
                label,
            )


def fomc(**_: Any) -> dict[str, Dataset]:
    """Stance of a sentence from an invented central bank; A dovish, B hawkish, C neutral."""
    return prompt_splits("mini_fomc", _fomc())
