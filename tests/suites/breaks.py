"""Faults of the tiny models, each with the tests that find it: those, and no others."""

from __future__ import annotations

from dataclasses import dataclass

Edit = tuple[str, str, str]
"""A file of the models, what stands there, and what stands there instead."""

BATCH = "        return self._answers(batch)\n"
UNKNOWN = """raise UnknownModel(f"there is no model {name!r}, only {', '.join(KINDS)}")"""
CLOSE = "        self._weights = None\n\n    def __enter__"


@dataclass(frozen=True)
class Break:
    """A fault, put into a copy."""

    what: str
    model: str
    edits: tuple[Edit, ...]
    found_by: frozenset[str]


def _break(what: str, model: str, found_by: str, *edits: Edit) -> Break:
    return Break(what, model, edits, frozenset(f"test_{name}" for name in found_by.split()))


BREAKS = [
    _break(
        "it reads the first letter instead of the last",
        "tiny-bigram",
        "inference known_answers probabilities",
        ("bigram.py", "ALPHABET.index(x[-1])", "ALPHABET.index(x[0])"),
    ),
    _break(
        "it pools the least value instead of the greatest",
        "tiny-cnn",
        "inference known_answers",
        ("cnn.py", "return [max(values", "return [min(values"),
    ),
    _break(
        "it answers a little different each time",
        "tiny-mlp",
        "latency batch_equals_single order throughput round_trip it_goes_on_after_errors",
        (
            "base.py",
            "softmax(scores)\n",
            "softmax([s + 1e-6 * __import__('random').random() for s in scores])\n",
        ),
    ),
    _break(
        "it rounds its input where it stands",
        "tiny-mlp",
        "the_input_stays_as_it_was",
        (
            "base.py",
            "    return found",
            "    values[:] = [round(value, 3) for value in found]\n    return found",
        ),
    ),
    _break(
        "it forgets the last of a batch",
        "tiny-mlp",
        "batch_equals_single order throughput memory",
        ("base.py", BATCH, BATCH.replace("(batch)", "(batch)[:-1]")),
    ),
    _break(
        "it cannot do with an empty batch",
        "tiny-mlp",
        "empty_batch",
        ("base.py", BATCH, f"        batch[0]\n{BATCH}"),
    ),
    _break(
        "it leaves out bad inputs of a batch",
        "tiny-mlp",
        "bad_input_in_a_batch it_goes_on_after_errors",
        ("base.py", 'raise error.__class__(f"input {position}: {error}") from error', "continue"),
    ),
    _break(
        "it keeps what it answered",
        "tiny-mlp",
        "answers_leave_nothing_behind",
        (
            "base.py",
            "        return answers\n",
            "        vars(self).setdefault('log', []).append(answers)\n        return answers\n",
        ),
    ),
    _break(
        "loading gives out what was loaded before",
        "tiny-mlp",
        "load memory_is_given_back",
        (
            "__init__.py",
            'return read(WEIGHTS / f"{name}.json")',
            'shared = globals().setdefault(f"old {name}", read(WEIGHTS / f"{name}.json"))\n'
            "    return KINDS[name](name, shared.weights)",
        ),
    ),
    _break(
        "it takes any name and any platform, and miscounts its parameters",
        "tiny-mlp",
        "unknown_model another_platform attributes",
        ("__init__.py", UNKNOWN, 'name = "tiny-mlp"'),
        ("__init__.py", 'HARDWARE = ("cpu",)', 'HARDWARE = ("cpu", "abacus")'),
        ("base.py", "sum(len(row) for", "sum(1 for"),
    ),
    _break(
        "it believes a file whatever stands in it",
        "tiny-mlp",
        "a_changed_weight unsound_weights",
        ("files.py", 'content["sha256"] != digest(weights)', "not digest(weights)"),
        ("files.py", " and math.isfinite(number)", ""),
    ),
    _break(
        "it does not know what to do with half a file",
        "tiny-mlp",
        "a_truncated_file another_file no_file_stays_open",
        ("files.py", "except (ValueError, RecursionError)", "except RecursionError"),
    ),
    _break(
        "it takes numbers for text",
        "tiny-bigram",
        "wrong_type wrong_type_inside bad_input_in_a_batch it_goes_on_after_errors",
        ("bigram.py", "if not isinstance(x, str):", "if x is Ellipsis:"),
    ),
    _break(
        "it computes with too many numbers, and with NaN",
        "tiny-mlp",
        "wrong_shape wrong_value",
        ("base.py", "len(values) != count", "len(values) < count"),
        ("base.py", "not math.isfinite(number)", "number == math.inf"),
    ),
    _break(
        "it writes in place",
        "tiny-mlp",
        "saving_replaces_and_leaves_nothing_else",
        ("files.py", "temporary.replace(path)", "path.write_bytes(temporary.read_bytes())"),
    ),
    _break(
        "it hides that it could not save",
        "tiny-mlp",
        "a_folder_that_is_missing a_save_that_fails",
        ("files.py", "            temporary.unlink()\n        raise\n", "            temporary.unlink()\n"),
    ),
    _break(
        "closing does nothing",
        "tiny-mlp",
        "use_after_close closing_twice it_closes_after_an_error memory_is_given_back",
        ("base.py", CLOSE, CLOSE.removeprefix("        self._weights = None\n")),
    ),
    _break(
        "closing hides the weights and keeps them",
        "tiny-mlp",
        "memory_is_given_back",
        ("base.py", CLOSE, f"        self._hidden = self._weights or self._hidden\n{CLOSE}"),
    ),
    _break(
        "a file that is refused stays open",
        "tiny-mlp",
        "no_file_stays_open",
        (
            "files.py",
            '        raise DamagedModel(f"{path.name} is no JSON',
            "        globals().setdefault('kept', []).append(path.open())\n"
            '        raise DamagedModel(f"{path.name} is no JSON',
        ),
    ),
]
