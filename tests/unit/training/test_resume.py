"""Training goes on where it was killed, to the same bit, or anew where its state is no good."""

import errno
import math
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from toys import QUICK, Tiny

from baselines.undefended import Undefended
from benchmark.config.spec import DefenseSpec
from benchmark.datasets import DIGITS
from benchmark.models.loader import load_defense
from benchmark.progress import Progress
from benchmark.registry import DEFENSES
from benchmark.seeding import generator, seeded
from benchmark.training import TrainingSettings, resume, state_file, train
from benchmark.training import fit as training_fit
from benchmark.training.resume import Phase, keeping, once

SHORT = TrainingSettings(
    epochs=3, batch_size=20, adversary_steps=1, adversary_eps=0.1, halve_every=2
)
CODED = {"pretrain_epochs": 1, "code_dim": 4}
OPTIONS = {
    "e-cla": CODED,
    "ot-cla": CODED,
    "ot-cla-adv": CODED,
    "defense-gan": {
        "latent_dim": 4,
        "gan_epochs": 2,
        "gan_width": 0.02,
        "gan_batch_size": 10,
        "n_critic": 3,  # and five batches an epoch, so that turns do not begin with one
        "rec_steps": 2,
        "rec_restarts": 1,
    },
}


@pytest.fixture(autouse=True)
def every_epoch_is_kept(monkeypatch):
    monkeypatch.setattr(resume, "SHARE", math.inf)


class Watched(Progress):
    """Keeps what is said; interrupts at the first batch after ``most`` epochs, or never."""

    def __init__(self, most=math.inf):
        self.most = most
        self.epochs = 0
        self.said = []

    def say(self, text):
        self.said.append(text)

    @contextmanager
    def task(self, description, total):
        def advance(steps=1, status=None):
            if steps and self.epochs >= self.most:
                raise KeyboardInterrupt
            self.epochs += status is not None

        yield advance


def digits(n=50):
    # Augmented, which digits are not: so that its draws go on as well.
    data = DIGITS.load("train", n=n)
    return replace(data, info=replace(data.info, augment=True))


def fit(name, folder=None, progress=None, **options):
    """A defense, trained, with the log; its states are kept in the folder if there is one."""
    progress = progress or Progress()
    cls = name if isinstance(name, type) else load_defense(name)
    data = digits()
    with seeded(0):
        model = cls(data.info, **{"training": SHORT, **options})
    model.to(memory_format=torch.channels_last)
    with seeded(9):
        if folder is None:
            return model, model.fit(data, seed=1, progress=progress)
        with keeping(folder / "key", "it", progress):
            return model, model.fit(data, seed=1, progress=progress)


def small(name, folder=None, progress=None):
    return fit(name, folder, progress, width=0.06, **OPTIONS.get(name, {}))


def until_done(name, folder, progress=None):
    """Train with an interruption after every epoch; return what came out and what was said."""
    said = []
    for _ in range(20):
        watched = Watched(most=1)
        try:
            return small(name, folder, watched), said
        except KeyboardInterrupt:
            continue
        finally:
            said += watched.said
    raise AssertionError("it never ends")


def same(one, other):
    """Tell whether two trainings gave the same weights and, but for the times, the same log."""
    (model, log), (twin, twin_log) = one, other
    state = twin.state_dict()
    assert set(state) == set(model.state_dict())
    rows = [
        [{key: value for key, value in row.items() if key != "seconds"} for row in found.epochs]
        for found in (log, twin_log)
    ]
    return rows[0] == rows[1] and all(
        torch.equal(value, state[key]) for key, value in model.state_dict().items()
    )


# --- to the same bit


@pytest.mark.parametrize("name", DEFENSES.names())
def test_interrupted_after_every_epoch_of_every_phase_it_comes_to_the_same_model(name, tmp_path):
    whole = small(name)
    (model, log), said = until_done(name, tmp_path)
    assert same(whole, (model, log))
    assert not model.training
    # Every epoch but the last was interrupted once; it never began an epoch twice.
    phases = {"e-cla": 2, "ot-cla": 2, "ot-cla-adv": 2, "defense-gan": 3}.get(name, 1)
    assert len(list(tmp_path.iterdir())) == phases
    goes_on = [line for line in said if "goes on after epoch" in line]
    assert goes_on == said
    assert f"it: training goes on after epoch 2 of {SHORT.epochs}" in said[-1]
    assert log.seconds >= sum(row["seconds"] for row in log.epochs)


def test_keeping_changes_no_bit_and_says_nothing(tmp_path):
    watched = Watched()
    assert same(small("e-cla"), small("e-cla", tmp_path, watched))
    assert watched.said == []
    assert watched.epochs == 4


def test_a_finished_training_is_taken_as_it_is(tmp_path):
    whole = small("undefended", tmp_path)
    again = small("undefended", tmp_path, Watched(most=0.5))  # not one batch more
    assert same(whole, again)
    assert again[1].seconds >= sum(row["seconds"] for row in whole[1].epochs)


def test_work_between_two_trainings_is_done_once(tmp_path):
    done = []

    def work():
        done.append(1)
        return torch.arange(6.0).view(2, 3).t()

    for _ in range(2):
        with keeping(tmp_path / "key", "it", Progress()):
            found, seconds = once(work, torch.device("cpu"))
        assert torch.equal(found, torch.arange(6.0).view(2, 3).t())
        assert seconds > 0
    assert done == [1]
    once(work, torch.device("cpu"))  # with nothing to keep it, again
    assert done == [1, 1]


class Moody(Undefended):
    """Draws from a generator that it does not declare."""

    def fit(self, data, *, seed, progress):
        rng = generator(seed)
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01)

        def step(x, y):
            noisy = x + 0.1 * torch.randn(x.shape, generator=rng)
            loss = torch.nn.functional.cross_entropy(self(noisy), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return {"loss": loss.detach()}

        rest = {"settings": self.settings, "seed": seed, "progress": progress}
        return train(self, data, step=step, optimizers=[optimizer], **rest)


def test_a_step_that_does_not_say_what_it_depends_on_starts_anew(tmp_path):
    whole, watched = fit(Moody, width=0.06), Watched(most=2)
    with pytest.raises(KeyboardInterrupt):
        fit(Moody, tmp_path, watched, width=0.06)
    assert list(tmp_path.iterdir()) == []
    assert same(whole, fit(Moody, tmp_path, width=0.06))


# --- states that are no good


def interrupted(folder, name="undefended"):
    with pytest.raises(KeyboardInterrupt):
        small(name, folder, Watched(most=2))
    (path,) = folder.iterdir()
    return path


def flip(place):
    def damage(path):
        data = bytearray(path.read_bytes())
        data[place(data)] ^= 1
        path.write_bytes(data)

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        flip(lambda data: len(data) - 5),  # a tensor
        flip(lambda data: data.index(b"seconds") + 12),  # a number of the JSON
        lambda path: path.write_bytes(path.read_bytes()[:-100]),
        lambda path: path.write_bytes(path.read_bytes()[:40]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\x80\x04K\x01."),  # a pickle
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["tensor", "json", "truncated", "header", "empty", "pickle", "folder"],
)
def test_a_damaged_state_is_said_in_a_line_and_training_starts_anew(tmp_path, damage):
    path = interrupted(tmp_path)
    damage(path)
    watched = Watched()
    assert same(small("undefended"), small("undefended", tmp_path, watched))
    first = watched.said[0]
    assert first.startswith(f"it: cannot go on from {path} (")
    assert first.endswith("); training starts again")
    assert "\n" not in first


def test_another_trainings_state_is_not_taken(tmp_path):
    path = interrupted(tmp_path)
    shutil.copy(path, path.with_name(path.name.replace("key", "other")))
    watched = Watched()
    data = digits()
    with seeded(0):
        model = Undefended(data.info, training=SHORT, width=0.06)
    model.to(memory_format=torch.channels_last)
    with seeded(9), keeping(tmp_path / "other", "it", watched):
        log = model.fit(data, seed=1, progress=watched)
    assert "it is another training's" in watched.said[0]
    assert same(small("undefended"), (model, log))


def test_a_state_that_does_not_fit_leaves_everything_as_it_was(tmp_path):
    # Half of another network must not stay in this one, nor its random state.
    interrupted(tmp_path)
    watched = Watched()
    assert same(fit("rse", width=0.1), fit("rse", tmp_path, watched, width=0.1))
    assert "cannot go on from" in watched.said[0]


def test_a_phase_that_starts_anew_takes_those_after_it_along(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        small("e-cla", tmp_path, Watched(most=2))
    first, second = sorted(tmp_path.iterdir())
    flip(lambda data: len(data) - 5)(first)
    with pytest.raises(KeyboardInterrupt):
        small("e-cla", tmp_path, Watched(most=0))
    assert not second.exists()


# --- what keeping costs


def test_writing_takes_at_most_a_twentieth_of_the_time(tmp_path, monkeypatch):
    monkeypatch.undo()
    now, written = [100.0], []
    monkeypatch.setattr(resume.time, "perf_counter", lambda: now[0])

    def write(path, data):
        now[0] += 1.0  # a slow disk
        written.append(now[0])

    monkeypatch.setattr(state_file, "write_atomic", write)
    with keeping(tmp_path / "key", "it", Progress()):
        phase = Phase([], (), epochs=100, device=torch.device("cpu"))
        phase.restore()
        for epoch in range(1, 101):
            now[0] += 3.0
            phase.keep([{"epoch": n} for n in range(epoch)], 0.0)
    # The first, then every seventh epoch (21 s), and the last in any case.
    assert len(written) == 1 + 99 // 7 + 1
    assert written[-1] == now[0]


def test_a_full_disk_is_said_once_and_training_goes_on(tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(state_file, "write_atomic", full)
    watched = Watched()
    assert same(small("undefended"), small("undefended", tmp_path, watched))
    (line,) = watched.said
    assert "the state of training is not kept" in line
    assert "No space left on device" in line


def test_a_state_that_no_file_can_hold_is_said_once(tmp_path):
    class Odd:
        def state_dict(self):
            return {"function": print}

        def load_state_dict(self, state):
            raise AssertionError

    watched = Watched()
    with keeping(tmp_path / "key", "it", watched):
        phase = Phase([Odd()], (), epochs=2, device=torch.device("cpu"))
        phase.keep([{"epoch": 1}], 1.0)
        phase.keep([{"epoch": 1}, {"epoch": 2}], 2.0)
    assert len(watched.said) == 1
    assert "holds a builtin_function_or_method" in watched.said[0]


# --- in a run


@pytest.fixture
def train_one(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "cache"))
    data = DIGITS.load("train", n=60), DIGITS.load("test", n=10)

    def go(progress, cls="undefended"):
        params = {"training": vars(SHORT), "width": 0.06} if cls == "undefended" else {}
        spec = DefenseSpec(cls, params)
        return training_fit.trained(spec, *data, seed=0, progress=progress)

    return go


def test_the_finished_model_takes_the_place_of_its_states(train_one, tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        train_one(Watched(most=2))
    folder = tmp_path / "cache" / "models"
    (partial,) = folder.glob("*.partial-1.safetensors")
    killed = folder / f".{partial.name}-abcd1234"  # in the middle of a write
    killed.write_bytes(b"half")
    watched = Watched()
    model, record = train_one(watched)
    assert watched.said == [
        "undefended (seed 0): training on 60 images",
        "undefended: training goes on after epoch 2 of 3",
    ]
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".lock", ".safetensors"]
    monkeypatch.setenv("BENCHMARK_CACHE_DIR", str(tmp_path / "other"))
    twin, whole = train_one(Watched())
    assert record.key == whole.key
    state = twin.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_the_states_stay_where_the_model_cannot_be_saved(train_one, tmp_path, monkeypatch):
    def full(self, key, defense, log, origin):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(training_fit.Checkpoints, "save", full)
    train_one(Watched())
    watched = Watched(most=0.5)  # not one batch more
    train_one(watched)
    assert watched.said[1] == "undefended: training goes on after epoch 3 of 3"


def test_plugins_train_as_before(train_one, tmp_path):
    assert QUICK.epochs == 2
    with pytest.raises(KeyboardInterrupt):
        train_one(Watched(most=1), "toys:Tiny")
    fits = Tiny.fits
    watched = Watched()
    train_one(watched, "toys:Tiny")
    assert Tiny.fits == fits + 1
    assert watched.epochs == QUICK.epochs
    assert watched.said == ["toys:Tiny (seed 0): training on 60 images"]
