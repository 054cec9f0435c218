"""Loading `file.py:function`: exactly that file, and one line for every mistake."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from algos.engine.errors import UserError
from eval.functions import is_pairwise, load_function, require_function

DATA = Path(__file__).parents[1].parent / "shared" / "data"


def write(path: Path, text: str) -> str:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def refusal(spec: str, what: str = "reward") -> str:
    with pytest.raises(UserError) as caught:
        load_function(spec, what)
    message = str(caught.value)
    assert "\n" not in message
    assert what in message
    return message


def test_a_function_is_loaded_called_and_pickled_as_its_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(
        tmp_path / "my.py", "def score(completions, **_):\n    return [len(c) for c in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    function = load_function("my.py:score")
    assert function(completions=["abc", ""]) == [3, 0]
    assert (function.spec, function.__name__) == (f"{Path(path).resolve()}:score", "score")
    monkeypatch.chdir("/")
    assert pickle.loads(pickle.dumps(function))(completions=["ab"]) == [2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["my.py"]  # no __pycache__ left behind


def test_columns_may_have_any_name(tmp_path: Path) -> None:
    path = write(tmp_path / "my.py", "def score(completions, **columns):\n    return [sorted(columns)]\n")
    names = ("self", "args", "kwargs", "function", "name", "spec", "what")
    assert load_function(f"{path}:score")(completions=[], **dict.fromkeys(names, 1)) == [sorted(names)]


def test_another_process_loads_it_again_from_its_pickle(tmp_path: Path) -> None:
    path = write(tmp_path / "my.py", "def score(completions, **_):\n    return [1.5 for c in completions]\n")
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer)(completions=['a']))"
    pickled = pickle.dumps(load_function(f"{path}:score"))
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickled, capture_output=True, cwd=root, check=True
    )
    assert done.stdout.strip() == b"[1.5]"


def test_helpers_of_the_same_name_in_two_folders_are_not_mixed_up(tmp_path: Path) -> None:
    before = list(sys.path)
    main = "from helper import VALUE\nfrom parts.deep import DEEP\ndef f(): return VALUE, DEEP\n"
    specs = []
    for value in ("one", "two"):
        write(tmp_path / value / "helper.py", f"VALUE = {value!r}\n")
        write(tmp_path / value / "parts" / "deep.py", f"DEEP = {value!r}\n")
        specs.append(write(tmp_path / value / "main.py", main) + ":f")
    assert [load_function(spec)() for spec in specs] == [("one", "one"), ("two", "two")]
    assert sys.path == before
    assert not {"helper", "parts", "parts.deep"} & sys.modules.keys()


def test_what_is_importable_anyway_stays_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "shared_helper_module.py", "")
    path = write(tmp_path / "main.py", "import shared_helper_module\ndef f(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    load_function(f"{path}:f")
    assert sys.modules.pop("shared_helper_module")
    assert str(tmp_path) in sys.path


def test_a_file_named_like_a_library_stands_for_it_nowhere(tmp_path: Path) -> None:
    """Not even for libraries that are first imported while the function's file loads, or by them."""
    names = ("json", "torch", "colorsys", "wave")
    for name in names:
        write(tmp_path / f"{name}.py", f"raise ImportError('this is not {name}')\n")
    write(tmp_path / "helper.py", "import colorsys, wave\nVALUE = colorsys.rgb_to_hsv(1, 1, 1)[2]\n")
    before = {name for name in names if name in sys.modules}
    path = write(
        tmp_path / "my.py",
        "import json, torch, helper\ndef f(): return json.dumps(helper.VALUE), torch.__name__\n",
    )
    assert load_function(f"{path}:f")() == ("1", "torch")
    for name in ("colorsys", "wave"):
        assert Path(str(sys.modules[name].__file__)).parent != tmp_path
        if name not in before:
            del sys.modules[name]


def test_what_a_file_does_to_the_path_ends_with_its_loading(tmp_path: Path) -> None:
    """Many put their folder first: from then on everybody would import from it."""
    write(tmp_path / "colorsys.py", "MINE = True\n")
    text = "import sys\nsys.path.insert(0, {!r})\nimport colorsys\ndef f(): return colorsys.MINE\n"
    path = write(tmp_path / "my.py", text.format(str(tmp_path)))
    sys.modules.pop("colorsys", None)
    before = list(sys.path)
    assert load_function(f"{path}:f")()
    assert sys.path == before
    assert "colorsys" not in sys.modules


def test_the_working_directory_is_not_imported_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "here" / "lying_around.py", "")
    path = write(tmp_path / "own" / "my.py", "import lying_around\ndef f(): pass\n")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", ["", *sys.path])  # as `python -c` and the interactive Python have it
    assert "ModuleNotFoundError" in refusal(f"{path}:f")
    assert sys.path[0] == ""


def test_two_functions_share_a_module_until_the_file_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "my.py", "calls = []\ndef f(): calls.append(1)\ndef g(): return len(calls)\n")
    load_function(f"{path}:f")()
    assert load_function(f"{path}:g")() == 1
    write(tmp_path / "my.py", "calls = []\ndef f(): calls.append(1)\ndef g(): return 'new'   \n")
    assert load_function(f"{path}:g")() == "new"


def test_a_file_may_use_dataclasses_and_its_own_path(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom pathlib import Path\n"
        "@dataclass\nclass D:\n    x: int = 1\nHERE = Path(__file__).parent\ndef f(): return HERE, D().x\n"
    )
    path = write(tmp_path / "my.py", text)
    assert load_function(f"{path}:f")() == (tmp_path.resolve(), 1)


@pytest.mark.parametrize("spec", ["my.py", ":score", "my.py:", ""])
def test_a_spec_needs_a_file_and_a_function(spec: str) -> None:
    assert "file.py:function" in refusal(spec)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "no Python file" in refusal(f"{tmp_path}/my.py:score", "judge")
    assert "no Python file" in refusal(f"{write(tmp_path / 'my.txt', '')}:score")
    assert "no Python file" in refusal(f"{tmp_path}:score")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\n\nraise KeyError('gone')\n", "my.py:3 raises KeyError: 'gone'"),
        ("def f():\n    1 / 0\n\nf()\n", "my.py:2 raises ZeroDivisionError"),
        ("x = 1\ndef (:\n", "my.py:2 raises SyntaxError"),
        ("import nowhere_to_be_found\n", "my.py:1 raises ModuleNotFoundError"),
        ("import sys\nsys.exit(3)\n", "my.py:2 raises SystemExit: 3"),
        ("raise ValueError('two\\nlines')\n", "my.py:1 raises ValueError: two lines"),
        ("\x00", "raises SyntaxError"),
    ],
)
def test_a_file_that_raises_is_named_with_exception_and_line(tmp_path: Path, text: str, said: str) -> None:
    before = (list(sys.path), set(sys.modules))
    assert said in refusal(write(tmp_path / "my.py", text) + ":score")
    assert list(sys.path) == before[0]
    assert not [name for name in sys.modules if name.startswith("user_my_") and name not in before[1]]


def test_a_missing_function_is_suggested(tmp_path: Path) -> None:
    path = write(tmp_path / "my.py", "def score(): pass\ndef other(): pass\nLIMIT = 3\n")
    assert refusal(f"{path}:scores").endswith("Did you mean score?")
    assert refusal(f"{path}:zzz").endswith("It has other, score.")
    assert "of type int" in refusal(f"{path}:LIMIT")


def test_what_a_file_imports_is_not_suggested(tmp_path: Path) -> None:
    imports = "from functools import partial\nfrom math import sqrt\nfrom typing import Any\n"
    path = write(tmp_path / "my.py", imports + "def score(x: Any): ...\nhalf = partial(score)\n")
    assert refusal(f"{path}:zzz").endswith("It has half, score.")


@pytest.mark.parametrize(
    "text",
    [
        "def score(): pass\n",
        "class score: pass\n",
        "async def score(): pass\n",
        "from math import sqrt as score\n",
        "import math as score\n",
        "score = half = len\n",
        "score: object = len\n",
        "(one, score), two = (len, len), len\n",
        "try:\n    import nowhere\nexcept ImportError:\n    if True:\n        def score(): pass\n",
        "for score in (len, max): pass\n",
        "with open('x') as score: pass\n",
        "if (score := len): pass\n",
        "match 1:\n    case score: pass\n",
        "from math import *\n",
        "def __getattr__(name): return len\n",
        "for name in ('score',): globals()[name] = len\n",
        "def make():\n    global score\n    score = len\nmake()\n",
        "import sys\nsetattr(sys.modules[__name__], 'score', len)\n",
        "exec('def score(): pass')\n",
        "import sys\nsys.modules[__name__].score = len\n",
        "import importlib\nimportlib.import_module(__name__).score = len\n",
    ],
)
def test_what_may_be_a_function_is_found_without_running_the_file(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "my.py", f"{text}open({str(tmp_path / 'ran')!r}, 'w')\n")
    require_function(f"{path}:score")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("def score(): pass\ndef _own(): pass\ndef other():\n    inner = 1\n    return inner\n", "scores"),
        ("from math import sqrt as root\nimport sys\nsys.path.insert(0, '.')\n", "sqrt"),
        ("def other(model, text): return model.eval().score(text)\n", "score"),
        ("", "score"),
        ("x = 1\ndef (:\n", "score"),
    ],
)
def test_what_is_no_function_is_refused_without_running_the_file_as_with_it(
    tmp_path: Path, text: str, name: str
) -> None:
    spec = f"{write(tmp_path / 'my.py', text)}:{name}"
    for what in ("reward", "judge"):
        with pytest.raises(UserError) as caught:
            require_function(spec, what)
        assert str(caught.value) == refusal(spec, what)


def test_what_names_no_function_is_refused_without_a_file(tmp_path: Path) -> None:
    for spec in (f"{tmp_path}/my.py:score", f"{tmp_path}/my.py", "my.py:", f"{tmp_path}:score"):
        with pytest.raises(UserError) as caught:
            require_function(spec)
        assert str(caught.value) == refusal(spec)


def test_pairwise_judges_are_told_by_their_parameters(tmp_path: Path) -> None:
    path = write(
        tmp_path / "my.py",
        "def pairwise(prompts, a, b, **_): return [0.5 for _ in a]\ndef scalar(prompts, completions): return []\n",
    )
    assert is_pairwise(load_function(f"{path}:pairwise", "judge"))
    assert not is_pairwise(load_function(f"{path}:scalar", "judge"))
    assert is_pairwise(lambda prompts, a, b: [])
    assert not is_pairwise(dict)


@pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is absent")
@pytest.mark.parametrize("name", ["vader", "afinn"])
def test_the_sentiment_rewards_load(name: str) -> None:
    function = load_function(f"{DATA / 'sentiment_reward.py'}:{name}")
    good, bad = function(prompts=["", ""], completions=["a happy, lovely day", "a sad, horrible day"])
    assert good > 0 > bad


@pytest.mark.parametrize(
    "source",
    [
        "text = " + " + ".join(["'a'"] * 700) + "\ndef score(prompts, completions, **_):\n    return [0.0]\n",
        "eval(compile('def score(prompts, completions, **_): return [0.0]', 'f', 'exec'))\n",
        "def keep(f):\n    return lambda g: g\n\n@keep(score := print)\ndef other():\n    pass\n",
        "def other(f=(score := print)):\n    pass\n",
    ],
    ids=["a long expression", "compiled", "in a decorator", "in a default"],
)
def test_what_only_loading_would_tell_is_not_refused(tmp_path: Path, source: str) -> None:
    file = tmp_path / "own.py"
    file.write_text(source, encoding="utf-8")
    load_function(f"{file}:score")
    require_function(f"{file}:score")
