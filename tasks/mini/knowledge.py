"""Multiple-choice questions of general knowledge, written for this project."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cl_bench.data.generated import test_split

if TYPE_CHECKING:
    from datasets import Dataset

# Question, right answer; wrong ones are the answers to the other questions of the group.
_GROUPS: tuple[tuple[tuple[str, str], ...], ...] = (
    (
        ("What is the capital of France?", "Paris"),
        ("What is the capital of Japan?", "Tokyo"),
        ("What is the capital of Italy?", "Rome"),
        ("What is the capital of Egypt?", "Cairo"),
        ("What is the capital of Spain?", "Madrid"),
        ("What is the capital of Russia?", "Moscow"),
        ("What is the capital of Germany?", "Berlin"),
        ("What is the capital of Cuba?", "Havana"),
    ),
    (
        ("Which planet is known for its rings?", "Saturn"),
        ("Which planet is the largest?", "Jupiter"),
        ("Which planet is called the red planet?", "Mars"),
        ("Which planet is closest to the Sun?", "Mercury"),
        ("On which planet do people live?", "Earth"),
        ("Which planet is the hottest?", "Venus"),
    ),
    (
        ("Which organ pumps blood?", "the heart"),
        ("Which organ do people think with?", "the brain"),
        ("Which organs do people breathe with?", "the lungs"),
        ("Which organ digests food?", "the stomach"),
        ("Which organs do people see with?", "the eyes"),
        ("Which organs filter the blood to make urine?", "the kidneys"),
    ),
    (
        ("Who wrote the play Hamlet?", "William Shakespeare"),
        ("Who proposed the theory of relativity?", "Albert Einstein"),
        ("Who painted the Mona Lisa?", "Leonardo da Vinci"),
        ("Who was the first president of the United States?", "George Washington"),
        ("Who proposed evolution by natural selection?", "Charles Darwin"),
        ("Who composed the Ninth Symphony?", "Ludwig van Beethoven"),
    ),
    (
        ("Which animal gives people wool?", "a sheep"),
        ("Which animal makes honey?", "a bee"),
        ("Which animal barks?", "a dog"),
        ("Which animal spins webs?", "a spider"),
        ("Which animal has a long trunk?", "an elephant"),
        ("Which animal has black and white stripes?", "a zebra"),
        ("Which animal lays the eggs people eat for breakfast?", "a hen"),
        ("Which animal carries its young in a pouch?", "a kangaroo"),
    ),
    (
        ("What do plants take in from the air?", "carbon dioxide"),
        ("What gas do people need to breathe?", "oxygen"),
        ("What is frozen water called?", "ice"),
        ("What is the hard white mineral put on food?", "salt"),
        ("What metal are wedding rings often made of?", "gold"),
        ("What metal rusts when it gets wet?", "iron"),
    ),
    (
        ("What season is the coldest?", "winter"),
        ("What season is the hottest?", "summer"),
        ("In what season do leaves fall from the trees?", "autumn"),
        ("In what season do flowers begin to bloom?", "spring"),
    ),
    (
        ("What do people use to cut paper?", "scissors"),
        ("What do people use to tell the time?", "a clock"),
        ("What do people use to sweep the floor?", "a broom"),
        ("What do people use to measure temperature?", "a thermometer"),
        ("What do people use to look at the stars?", "a telescope"),
        ("What do people use to open a locked door?", "a key"),
        ("What do people use to drive nails?", "a hammer"),
        ("What do people use to stay dry in the rain?", "an umbrella"),
    ),
    (
        ("Where do fish live?", "in water"),
        ("Where do people borrow books?", "in a library"),
        ("Where do doctors treat patients?", "in a hospital"),
        ("Where do pupils learn?", "in a school"),
        ("Where do airplanes land?", "at an airport"),
        ("Where do people keep their money?", "in a bank"),
        ("Where do farmers grow wheat?", "in a field"),
        ("Where do people watch films?", "in a cinema"),
    ),
    (
        ("What is the opposite of hot?", "cold"),
        ("What is the opposite of big?", "small"),
        ("What is the opposite of fast?", "slow"),
        ("What is the opposite of up?", "down"),
        ("What is the opposite of dark?", "light"),
        ("What is the opposite of happy?", "sad"),
    ),
)


def _mmlu() -> Iterator[dict[str, Any]]:
    for group in _GROUPS:
        answers = [answer for _, answer in group]
        for place, (question, answer) in enumerate(group):
            wrong = [answers[(place + step) % len(answers)] for step in (1, 2, 3)]
            gold = (place + len(question)) % 4
            choices = [*wrong[:gold], answer, *wrong[gold:]]
            yield {"question": question, "choices": choices, "answer": gold}


def mmlu(**_: Any) -> dict[str, Dataset]:
    """Questions with four choices; answer is the index of the right one."""
    return test_split("mini_mmlu", _mmlu())


# Passage, then questions that it answers with yes and with no.
_PASSAGES = (
    (
        "The lake freezes every winter, and people skate on it.",
        "does the lake freeze",
        "is the lake warm in winter",
    ),
)

# Goal, what works, what does not.
_GOALS = (
    ("To cut bread,", "use a sharp knife.", "use a soft pillow."),
    ("To dry wet hair,", "use a towel.", "use a bucket of water."),
    ("To light a dark room,", "turn on a lamp.", "close the curtains."),
    ("To boil water,", "heat it in a kettle.", "put it in the freezer."),
    ("To make ice cubes,", "put water in the freezer.", "put water in the oven."),
    ("To keep milk fresh,", "store it in the fridge.", "leave it in the sun."),
    ("To write a letter,", "use a pen and paper.", "use a fork and a plate."),
    ("To hang a picture,", "hammer a nail into the wall.", "hammer an egg into the wall."),
    ("To clean a dirty floor,", "use a wet mop.", "use a muddy boot."),
    ("To stay warm in the snow,", "wear a thick coat.", "wear a swimsuit."),
    ("To eat soup,", "use a spoon.", "use a comb."),
    ("To brush your teeth,", "use a toothbrush.", "use a paintbrush."),
    ("To water the plants,", "use a watering can.", "use a vacuum cleaner."),
    ("To open a tin of beans,", "use a can opener.", "use a rubber band."),
    ("To fix a flat bicycle tire,", "patch the inner tube.", "paint the saddle."),
    ("To put out a small fire,", "pour water on it.", "pour gasoline on it."),
    ("To see far away things,", "look through binoculars.", "look through a blanket."),
    ("To make toast,", "put bread in the toaster.", "put bread in the washing machine."),
    ("To sleep well at night,", "lie down in a quiet bed.", "drink a lot of strong coffee."),
    ("To protect your head on a bike,", "wear a helmet.", "wear a paper bag."),
    ("To send a parcel,", "take it to the post office.", "take it to the swimming pool."),
    ("To sweeten tea,", "stir in some sugar.", "stir in some sand."),
    ("To remove snow from the path,", "use a shovel.", "use a feather."),
    ("To catch a fish,", "use a hook and a line.", "use a book and a lamp."),
    ("To wash the dishes,", "use soap and warm water.", "use glue and cold sand."),
    ("To sew on a button,", "use a needle and thread.", "use a hammer and nails."),
    ("To dig a hole in the garden,", "use a spade.", "use a candle."),
    ("To sharpen a pencil,", "use a pencil sharpener.", "use a wet sponge."),
    ("To cross the street safely,", "look left and right first.", "close your eyes and run."),
    ("To bake a cake,", "put the batter in a hot oven.", "put the batter in a cold bath."),
    ("To find a word's meaning,", "look in a dictionary.", "look in a mirror."),
    ("To keep the rain off,", "open an umbrella.", "open a window."),
    ("To grow tomatoes,", "plant the seeds in soil.", "plant the seeds in concrete."),
    ("To make a phone louder,", "turn up the volume.", "turn off the phone."),
    ("To cool down on a hot day,", "drink cold water.", "wear a wool sweater."),
    ("To tie a shoe,", "make a knot with the laces.", "make a knot with the soles."),
    (
        "To peel an orange,",
        "pull the skin off with your fingers.",
        "hit the skin with a wet towel.",
    ),
    ("To carry water,", "use a bucket.", "use a net."),
    ("To stick paper together,", "use glue.", "use milk."),
    ("To weigh flour,", "put it on a kitchen scale.", "put it under a kitchen table."),
    ("To iron a shirt,", "use a hot iron.", "use a cold spoon."),
    ("To feed a cat,", "give it some fish.", "give it some stones."),
    ("To melt butter,", "warm it in a pan.", "cool it in the fridge."),
    ("To get rid of thirst,", "drink a glass of water.", "eat a spoon of salt."),
    ("To climb onto the roof,", "use a ladder.", "use a carpet."),
    ("To charge a phone,", "plug it into a charger.", "plug it into a potato field."),
    ("To listen to music on a bus,", "put on headphones.", "put on sunglasses."),
    ("To stop a cut from bleeding,", "press a clean cloth on it.", "rub dirt into it."),
)


def _piqa() -> Iterator[dict[str, Any]]:
    for place, (goal, works, fails) in enumerate(_GOALS):
        gold = place % 2
        first, second = (fails, works) if gold else (works, fails)
        yield {"goal": goal, "sol1": first, "sol2": second, "label": gold}


def piqa(**_: Any) -> dict[str, Dataset]:
    """Everyday goals with two ways, one of which works; label is its index."""
    return test_split("mini_piqa", _piqa())
