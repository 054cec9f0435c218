"""A frozen copy's weights leave memory between uses, and come back as they were."""

from __future__ import annotations

import os
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES
from tiny import same_weights, tiny_policy
from torch import Tensor, nn

from algos import PPO, Policy, RunError, Sampling, train
from algos.engine.models import frozen
from algos.engine.models.frozen import Frozen, resting_place

IDS = torch.tensor([[0, 1, 2, 1]])


@pytest.fixture
def resting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model is large enough to rest, and every disk to take it."""
    monkeypatch.setattr(frozen, "LARGE", 1)
    monkeypatch.setattr(frozen, "_in_memory", lambda _: False)


def held(copy: Frozen) -> int:
    """Bytes of weights that it holds now."""
    return sum(p.nbytes for p in copy._model.parameters())


@pytest.mark.usefixtures("resting")
@pytest.mark.parametrize("name", ["GPT-2", "Llama, tied", "Mixtral", "OPT"])
def test_a_copy_that_rested_computes_the_same_to_the_last_bit(name: str) -> None:
    model = FAMILIES[name].model().eval()
    copy = Frozen(model)
    assert held(copy) == 0
    with torch.no_grad():
        expected = model(IDS).logits
        for _ in range(2):
            with copy.loaded() as reference:
                assert torch.equal(reference(IDS).logits, expected)
                assert held(copy) == sum(p.nbytes for p in model.parameters())
            assert held(copy) == 0


@pytest.mark.usefixtures("resting")
def test_it_stays_as_it_was_and_is_nobodys() -> None:
    model = FAMILIES["GPT-2"].model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    copy = Frozen(model)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        with copy.loaded() as reference:
            for p in reference.parameters():
                p.add_(1.0)  # what is written to it does not last
    with copy.loaded() as reference:
        found = dict(reference.named_parameters())
        assert found.keys() == before.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in before.items())
        assert (
            reference.get_output_embeddings().weight is reference.get_input_embeddings().weight
        )  # tied, as they were
        assert all(p.requires_grad for p in found.values())


@pytest.mark.usefixtures("resting")
def test_it_rests_when_its_last_reader_is_done_whatever_ended_it() -> None:
    copy = Frozen(FAMILIES["GPT-2"].model())
    with copy.loaded(), pytest.raises(KeyError), copy.loaded():
        raise KeyError
    assert held(copy) == 0
    with copy.loaded():
        with copy.loaded():
            pass
        assert held(copy) > 0


class Odd(nn.Module):
    """Weights that a file would not give back as they were, beside one that it would."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Parameter(torch.randn(3, 2), requires_grad=False)
        self.turned = nn.Parameter(torch.randn(2, 3).t())
        self.empty = nn.Parameter(torch.empty(0, 4))
        self.scalar = nn.Parameter(torch.tensor(2.0, dtype=torch.bfloat16))
        self.register_buffer("told", torch.arange(3))


@pytest.mark.usefixtures("resting")
def test_what_a_file_would_not_give_back_as_it_was_stays() -> None:
    model = Odd()
    copy = Frozen(model)
    assert held(copy) == model.turned.nbytes
    with copy.loaded() as reference:
        for name, p in model.named_parameters():
            found = reference.get_parameter(name)
            assert torch.equal(found, p)
            about: Any = ("dtype", "shape", "requires_grad")
            assert [getattr(found, a) for a in about] == [getattr(p, a) for a in about]
            assert found.stride() == p.stride()
        assert torch.equal(reference.get_buffer("told"), model.get_buffer("told"))


def trained(monkeypatch: pytest.MonkeyPatch, large: int) -> tuple[Policy, list[float]]:
    """A policy after a short run with a reference that rests from so many bytes on, and the run's KLs."""
    monkeypatch.setattr(frozen, "LARGE", large)
    policy = tiny_policy(words="a b c d")
    history = train(
        PPO(learning_rate=1e-2), policy, prompts=["a", "b c"], budget="3iterations",
        sampling=Sampling(max_new_tokens=4, group_size=2, prompts_per_iteration=2),
        reward=lambda completions, **_: [float(len(text)) for text in completions],
    )  # fmt: skip
    return policy, [row["kl/train"] for row in history.rows]


def test_a_run_is_the_same_whether_its_reference_rests_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "_in_memory", lambda _: False)
    rested, kl = trained(monkeypatch, 1)
    stayed, expected = trained(monkeypatch, 2**40)
    assert [held(policy._reference) > 0 for policy in (rested, stayed) if policy._reference] == [False, True]
    assert same_weights(rested, stayed)
    assert kl == expected
    assert kl[-1] != 0
    assert rested.reference_digest() == stayed.reference_digest()


# Where it cannot ---------------------------------------------------------------------------------------


def test_small_models_stay() -> None:
    assert resting_place(frozen.LARGE - 1) is None
    copy = Frozen(FAMILIES["GPT-2"].model())
    assert held(copy) > 0


def mounted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    """The system says that everything here lies on a file system of this kind."""
    device = os.stat(tmp_path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    lines = [
        "21 28 0:99 / /hidden rw shared:2 - tmpfs tmpfs rw",
        f"29 1 {number} / / rw,noatime - {kind} /dev/x rw",
    ]
    (tmp_path / "mountinfo").write_text("\n".join(lines))
    monkeypatch.setattr(frozen, "_MOUNTS", tmp_path / "mountinfo")
    monkeypatch.setattr(frozen.tempfile, "gettempdir", lambda: str(tmp_path))


def test_the_folder_is_on_a_disk_with_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mounted(monkeypatch, tmp_path, "ext4")
    assert resting_place(frozen.LARGE) == str(tmp_path)
    size = shutil.disk_usage(tmp_path).free // 4
    assert resting_place(size, copies=2) == str(tmp_path)
    assert resting_place(size, copies=4) is None
    (tmp_path / "mountinfo").unlink()  # not Linux
    assert resting_place(frozen.LARGE) == str(tmp_path)
    mounted(monkeypatch, tmp_path, "tmpfs")
    assert resting_place(frozen.LARGE) != str(tmp_path)
    monkeypatch.setattr(frozen.os, "access", lambda *_: False)
    assert resting_place(frozen.LARGE) is None


def test_without_any_folder_weights_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(frozen.tempfile, "gettempdir", none)
    assert resting_place(frozen.LARGE) is None


@pytest.mark.usefixtures("resting")
def test_weights_stay_where_others_took_the_room_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage("/")
    size = 4 * sum(p.numel() for p in FAMILIES["GPT-2"].model().parameters())
    for left, stays in ((size, False), (size - 1, True)):
        rooms = iter([3 * size, left])  # before the file is written, and with it
        monkeypatch.setattr(
            frozen.shutil, "disk_usage", lambda _, rooms=rooms: free._replace(free=next(rooms))
        )
        assert (held(Frozen(FAMILIES["GPT-2"].model())) > 0) == stays


@pytest.mark.usefixtures("resting")
def test_weights_stay_where_their_file_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frozen._Shelf, "_put", full)
    copy = Frozen(FAMILIES["GPT-2"].model())
    assert held(copy) > 0
    with copy.loaded() as reference:
        assert reference(IDS).logits.isfinite().all()


@pytest.mark.usefixtures("resting")
def test_a_file_that_was_cut_ends_the_run_in_words() -> None:
    copy = Frozen(FAMILIES["GPT-2"].model())
    assert copy._shelf
    os.truncate(copy._shelf._file.fileno(), 100)
    with (
        pytest.raises(RunError, match=r"cannot read the reference's weights .*ends too early.*TMPDIR"),
        copy.loaded(),
    ):
        pass
    assert held(copy) == 0


@pytest.mark.usefixtures("resting")
def test_no_room_to_come_back_ends_the_run_with_what_would_help(monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Frozen(FAMILIES["GPT-2"].model())

    def full(*_: Any, **__: Any) -> Tensor:
        raise torch.OutOfMemoryError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(frozen._Shelf, "_read_into", full)
    with pytest.raises(RunError, match=r"out of memory in reading the reference.*--lora"), copy.loaded():
        pass
    assert held(copy) == 0


@pytest.mark.usefixtures("resting")
def test_a_copy_of_a_copy_is_its_own() -> None:
    model = FAMILIES["GPT-2"].model()
    first = Frozen(model)
    second = deepcopy(first)
    del first
    assert held(second) == 0
    with second.loaded() as reference:
        assert all(torch.equal(p, q) for p, q in zip(reference.parameters(), model.parameters(), strict=True))


@pytest.mark.usefixtures("resting")
def test_nothing_is_left_in_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(frozen.tempfile, "tempdir", str(tmp_path))
    copy = Frozen(FAMILIES["GPT-2"].model())
    assert held(copy) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("resting")
def test_weights_of_more_than_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system takes and gives as much at a time as it likes."""

    class Halting:
        def __init__(self, file: Any) -> None:
            self.file = file
            self.seek, self.fileno = file.seek, file.fileno

        def write(self, data: memoryview) -> int:
            return int(self.file.write(data[:7]))

        def readinto(self, room: memoryview) -> int:
            return int(self.file.readinto(room[:5]))

    make = frozen.tempfile.TemporaryFile
    monkeypatch.setattr(frozen.tempfile, "TemporaryFile", lambda **how: Halting(make(**how)))
    model: Any = nn.Linear(5, 3)
    expected: Tensor = model.weight.detach().clone()
    with Frozen(model).loaded() as reference:
        assert torch.equal(reference.weight, expected)
