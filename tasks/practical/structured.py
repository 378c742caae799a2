"""Sentences whose facts are asked for as a JSON object, and the check of such answers."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

DOCUMENTS = 200
NAMES = ("Ada", "Bruno", "Carla", "Deniz", "Emil", "Farah", "Greta", "Hugo", "Ines", "Jonas")
TOWNS = ("Basel", "Cork", "Dakar", "Ghent", "Lima", "Oslo", "Pune", "Quito", "Turin", "Varna")
THINGS = ("lamps", "chairs", "notebooks", "mugs", "cables", "jackets", "batteries", "plates")
TOPICS = ("the budget", "the new roof", "holiday rotas", "the spring fair", "parking", "hiring")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "list of strings"}
FENCE = re.compile(r"\s*```(?:json)?\s*\n(.*?)\n?\s*```\s*", re.DOTALL)


def _person(draw: random.Random) -> tuple[str, dict[str, Any]]:
    name, town, age = draw.choice(NAMES), draw.choice(TOWNS), draw.randint(18, 80)
    return f"{name} is {age} years old and lives in {town}.", {
        "name": name,
        "age": age,
        "town": town,
    }


def _order(draw: random.Random) -> tuple[str, dict[str, Any]]:
    name, thing, count = draw.choice(NAMES), draw.choice(THINGS), draw.randint(2, 40)
    price, paid = draw.randint(1, 60) + draw.choice((0.25, 0.5, 0.75)), draw.random() < 0.5
    end = "has paid already" if paid else "has not paid yet"
    return f"{name} ordered {count} {thing} for {price} euros and {end}.", {
        "customer": name,
        "item": thing,
        "quantity": count,
        "price": price,
        "paid": paid,
    }


def _meeting(draw: random.Random) -> tuple[str, dict[str, Any]]:
    guests, day = draw.sample(NAMES, draw.randint(2, 3)), draw.choice(DAYS)
    hour, topic = draw.randint(8, 17), draw.choice(TOPICS)
    people = f"{', '.join(guests[:-1])} and {guests[-1]}"
    return f"On {day} at {hour} o'clock {people} meet about {topic}.", {
        "day": day,
        "hour": hour,
        "topic": topic,
        "people": guests,
    }


def _journey(draw: random.Random) -> tuple[str, dict[str, Any]]:
    start, end = draw.sample(TOWNS, 2)
    day, hours, direct = draw.choice(DAYS), draw.randint(2, 30), draw.random() < 0.5
    changes = "without a change" if direct else "with changes"
    return f"The train from {start} to {end} on {day} takes {hours} hours {changes}.", {
        "from": start,
        "to": end,
        "day": day,
        "hours": hours,
        "direct": direct,
    }


def json_format(**_: Any) -> Mapping[str, Any]:
    """A test split of 200 documents: `prompt`, and `answer`, the object as text."""
    from datasets import Dataset

    return {"test": Dataset.from_list(list(_documents()))}


def _documents() -> Iterator[dict[str, str]]:
    draw, seen = random.Random("json_format"), set()
    kinds = (_person, _order, _meeting, _journey)
    while len(seen) < DOCUMENTS:
        text, found = kinds[len(seen) % len(kinds)](draw)
        if text in seen:
            continue
        seen.add(text)
        keys = ", ".join(f'"{key}" ({TYPES[type(value)]})' for key, value in found.items())
        prompt = (
            f"Read the text and answer with a JSON object that has exactly the keys {keys}. "
            f"Write nothing but the object.\nText: {text}\nJSON:"
        )
        yield {"prompt": prompt, "answer": json.dumps(found)}


def judged(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """What of the answer is right; every value 0 or 1."""
    wanted = json.loads(doc["answer"])
    found = _object(results[0])
    fence = FENCE.fullmatch(results[0])
    inside = found if fence is None else _object(fence.group(1))
    return {
        "score": float(_same(found, wanted)),
        "valid": float(isinstance(found, dict)),
        "keys": float(_shape(found) == _shape(wanted)),
        "fenced": float(_same(inside, wanted)),
    }


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _shape(value: Any) -> Any:
    """Keys and the types of their values; a whole number may stand for a number."""
    if not isinstance(value, dict):
        return None
    return {key: float if type(one) is int else type(one) for key, one in value.items()}


def _same(found: Any, wanted: Mapping[str, Any]) -> bool:
    """Equal values of equal types: `true` is no 1."""
    return _shape(found) == _shape(wanted) and bool(found == wanted)
