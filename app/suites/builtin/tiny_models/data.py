"""What the models learn from, and what they are tested on: the same with another seed, or another text.

All of it is made here, so that nothing has to be downloaded.
"""

from __future__ import annotations

import math
import random
import re
from typing import Any

from tiny_models.files import Matrix

Point = list[float]

# Five by seven pixels a digit.
FONT = """
 ###    #    ###   ###     #  #####  ###  #####  ###   ###
#   #  ##   #   # #   #   ##  #     #         # #   # #   #
#   #   #       #     #  # #  #     #        #  #   # #   #
#   #   #     ##    ##  #  #  ####  ####    #    ###   ####
#   #   #    #        # #####     # #   #   #   #   #     #
#   #   #   #     #   #    #  #   # #   #   #   #   #     #
 ###   ###  #####  ###     #   ###   ###    #    ###   ###
"""

TEXT = """
A team that tests its models every night wants to know in the morning what has changed. One of them opens
the list of runs and sees that the small network on the old card has become slower since the last week.
Nobody had touched the network, so the others look for the cause in the driver, in the library and in the
data. They find that a new version of the library copies each batch twice before it computes anything.
The second copy costs little on a large machine, and a lot on a small one. Now they write a test that
measures how long the copy takes, and they let it run with all the others. When the library is mended,
the numbers go down again, and the history shows on which day it happened. The same history tells them
which tests fail only now and then. A test that fails without a reason is worse than none, since people
learn to look away. So they mark it, they read what it says when it fails, and after some days they
understand that it waits for a file that another test has removed. The tests are put in order, the noise
is gone, and the next red line means something. Later somebody asks whether the model still answers well
when it is saved and loaded on another machine. There is a run for that, too, and it takes less than a
second to find it. Good records are like good light: you notice them most when they are missing.
"""
NEXT_TEXT = """
On the last day of the month the same team moves to a larger machine. They take all of the runs along,
start the server again, and ask the questions they have asked before. The answers are the same, only
faster, and the person who had to wait for them goes home in time.
"""


def moons(seed: int, count: int) -> list[tuple[Point, str]]:
    """Points on two half circles that reach into each other, not quite on the line."""
    source = random.Random(seed)
    points = []
    for number in range(count):
        angle = source.uniform(0, math.pi)
        x, y = math.cos(angle), math.sin(angle)
        label = "upper" if number % 2 == 0 else "lower"
        if label == "lower":
            x, y = 1 - x, 0.5 - y
        points.append(([x + source.gauss(0, 0.1), y + source.gauss(0, 0.1)], label))
    return points


def digits(seed: int, count: int) -> list[tuple[Matrix, str]]:
    """Digits somewhere on a paper of 8×8, with uneven ink and some dirt."""
    source = random.Random(seed)
    lines = [line.ljust(60) for line in FONT.strip("\n").splitlines()]
    images = []
    for number in range(count):
        digit = number % 10
        top, left = source.randrange(2), source.randrange(4)
        image = [[source.uniform(0, 0.3) for _ in range(8)] for _ in range(8)]
        for row, line in enumerate(lines):
            for column, mark in enumerate(line[6 * digit : 6 * digit + 5]):
                if mark == "#":
                    image[top + row][left + column] = source.uniform(0.6, 1)
        images.append((image, str(digit)))
    return images


def letters(text: str) -> str:
    """Small letters, with one space for everything between them."""
    return re.sub("[^a-z]+", " ", text.lower()).strip()


def held_out(model: str) -> list[tuple[Any, str]]:
    """Inputs that the model has not learned from, with the right answers."""
    if model == "tiny-mlp":
        return list(moons(seed=2, count=200))
    if model == "tiny-cnn":
        return list(digits(seed=2, count=100))
    text = letters(NEXT_TEXT)
    return [(text[:end], text[end]) for end in range(1, len(text))]
