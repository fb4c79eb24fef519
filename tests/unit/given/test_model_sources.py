"""Models as words: factories, libraries, and files of weights."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from benchmark.errors import UsageError
from benchmark.given.model_sources import load_model, load_weights, parse_args

NET = '''
"""A model."""
from torch import nn
from layers import width

MEAN, STD, SIZE = (0.5,), (0.25,), (28, 28)

def make(n_classes=10, scale=1):
    return nn.Sequential(nn.Flatten(), nn.Linear(width, n_classes * scale))

READY = make()
NUMBER = 3

def broken():
    raise ValueError("no luck")
'''


@pytest.fixture
def net(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "layers.py").write_text("width = 784\n")
    return tmp_path / "net.py"


def test_arguments_are_read_as_python_has_them():
    text = "n=2, x=1e-3, flag=True, off=false, none=None, name=tiny, sizes=[1, 2], word='a,b'"
    assert parse_args(text) == {
        **{"n": 2, "x": 1e-3, "flag": True, "off": False, "none": None},
        **{"name": "tiny", "sizes": [1, 2], "word": "a,b"},
    }
    for wrong, line in (("n", "not key=value"), ("1=2", "not key=value"), ("a=1,a=2", "twice")):
        with pytest.raises(UsageError, match=line):
            parse_args(wrong)


def test_a_file_makes_the_model(net):
    found = load_model(f"{net}:make", args={"n_classes": 3})
    assert found.model[1].out_features == 3
    assert (found.name, found.mean, found.std, found.size) == ("make", (0.5,), (0.25,), (28, 28))
    assert isinstance(load_model(f"{net}:READY").model, nn.Module)
    assert str(net.parent) not in sys.path


def test_a_package_makes_the_model(net, monkeypatch):
    monkeypatch.syspath_prepend(net.parent)
    assert load_model("net:make", args={"scale": 2}).model[1].out_features == 20
    sys.modules.pop("net")
    sys.modules.pop("layers")


@pytest.mark.parametrize(
    ("text", "args", "line"),
    [
        ("{}:mkae", {}, "did you mean 'make'"),
        ("{}:make", {"n_clases": 3}, "did you mean 'n_classes'"),
        ("{}:broken", {}, r"no luck.*net\.py, line 15"),
        ("{}:READY", {"scale": 2}, "a model already"),
        ("nowhere.py:make", {}, "there is no file nowhere.py"),
        ("no_such_package:make", {}, "No module named"),
        ("resnet18", {}, "write package.module:factory"),
        ("torchvision:resnet19", {}, "did you mean 'resnet18'"),
        ("torchvision:resnet18", {"weights": "DEFAUL"}, "did you mean 'DEFAULT'"),
        ("hf:nowhere", {}, "no config.json there"),
        ("onnx:nowhere.onnx", {}, "there is no such file"),
    ],
)
def test_a_mistake_gets_one_line(net, text, args, line):
    with pytest.raises(UsageError, match=line) as caught:
        load_model(text.format(net), args=args)
    assert "\n" not in str(caught.value)


def test_a_file_with_a_mistake_is_named(tmp_path):
    (tmp_path / "bad.py").write_text("x = (\n")
    with pytest.raises(UsageError, match=r"bad\.py, line 1"):
        load_model(f"{tmp_path / 'bad.py'}:x")
    (tmp_path / "raises.py").write_text("raise OSError('gone')\n")
    with pytest.raises(UsageError, match=r"raises\.py failed.*gone"):
        load_model(f"{tmp_path / 'raises.py'}:x")


# --- weights


def model():
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def test_weights_are_loaded_whatever_wraps_them(tmp_path):
    torch.manual_seed(0)
    source = model()
    state = source.state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pt")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "c.pt")
    torch.save({"net": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "d.pth")
    torch.save({f"_orig_mod.module.{k}": v for k, v in state.items()}, tmp_path / "e.pt")
    torch.save({k: v for k, v in state.items() if "tracked" not in k}, tmp_path / "f.pt")
    for path in sorted(tmp_path.iterdir()):
        target = model()
        load_weights(target, path)
        assert torch.equal(target[0].weight, source[0].weight), path


def test_weights_that_do_not_fit_are_named(tmp_path):
    state = model().state_dict()
    wrong = {
        "lacks.pt": ({k: v for k, v in state.items() if k != "0.bias"}, "it lacks 0.bias"),
        "more.pt": ({**state, "head.weight": torch.ones(1)}, "the model has no head.weight"),
        "named.pt": (
            {**{k: v for k, v in state.items() if k != "0.weight"}, "0.weights": torch.ones(1)},
            r"0\.weight is perhaps its 0\.weights",
        ),
        "shape.pt": ({**state, "0.bias": torch.ones(9)}, r"0\.bias is \(9,\) there and \(3,\)"),
        "none.pt": ({"epoch": 3}, "holds no state_dict"),
        "code.pt": (model(), "could run any code"),
    }
    for name, (content, line) in wrong.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(UsageError, match=line):
            load_weights(model(), tmp_path / name)
    (tmp_path / "text.pt").write_text("no weights")
    for name, line in {
        "text.pt": "could run|cannot be read",
        "gone.pt": "there is no file",
    }.items():
        with pytest.raises(UsageError, match=line):
            load_weights(model(), tmp_path / name)


def test_torchvision_says_when_weights_are_random():
    found = load_model("torchvision:squeezenet1_1", args={"num_classes": 3})
    assert isinstance(found.model, nn.Module)
    assert "random weights" in found.notes[0]


# --- libraries that not everybody has: stand-ins with the calls that are used


def test_what_is_not_installed_is_said(tmp_path, monkeypatch):
    from benchmark.given.model_sources import loaded

    monkeypatch.setattr(loaded, "find_spec", lambda name: None)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "net.onnx").write_bytes(b"")
    for text, line in {
        "timm:resnet18": "timm is not installed: pip install timm",
        f"hf:{tmp_path}": "transformers is not installed: pip install transformers",
        f"onnx:{tmp_path / 'net.onnx'}": "onnxruntime is not installed: pip install onnxruntime",
    }.items():
        with pytest.raises(UsageError, match=line):
            load_model(text)


@pytest.fixture
def stand_in(monkeypatch):
    from benchmark.given.model_sources import loaded

    def put(name, **members):
        monkeypatch.setattr(loaded, "find_spec", lambda package: package == name or None)
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**members))

    return put


def test_timm_tells_how_images_are_normalised(stand_in):
    def create_model(model_name, pretrained=False):
        net = nn.Linear(1, 1)
        net.pretrained_cfg = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "input_size": (3, 224, 224)}
        return net

    stand_in(
        "timm",
        create_model=create_model,
        is_model=lambda n: n == "vit",
        list_models=lambda: ["vit"],
    )
    found = load_model("timm:vit", args={"pretrained": True})
    assert (found.mean, found.std, found.size) == ((0.5,) * 3, (0.2,) * 3, (224, 224))
    assert not found.notes
    with pytest.raises(UsageError, match="did you mean 'vit'"):
        load_model("timm:vti")


def test_hugging_face_loads_from_a_folder_and_runs_nothing_in_it(stand_in, tmp_path):
    asked = {}

    class Auto:
        @staticmethod
        def from_pretrained(path, **options):
            asked.update(options)
            return nn.Linear(1, 1)

    stand_in("transformers", AutoModelForImageClassification=Auto)
    (tmp_path / "config.json").write_text("{}")
    about = '{"image_mean": [0.5], "image_std": [0.25], "size": {"shortest_edge": 224}}'
    (tmp_path / "preprocessor_config.json").write_text(about)
    found = load_model(f"hf:{tmp_path}")
    assert (found.mean, found.std, found.size) == ((0.5,), (0.25,), (224, 224))
    assert asked == {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}


def test_onnx_answers_in_batches_of_its_own(stand_in, tmp_path):
    sizes = []

    class Session:
        def __init__(self, path, providers):
            pass

        def get_inputs(self):
            return [SimpleNamespace(name="x", shape=[2, 1, 4, 4])]

        def run(self, names, feed):
            sizes.append(len(feed["x"]))
            return [feed["x"].sum((1, 2, 3))[:, None]]

    stand_in("onnxruntime", InferenceSession=Session)
    (tmp_path / "net.onnx").write_bytes(b"")
    found = load_model(f"onnx:{tmp_path / 'net.onnx'}")
    x = np.ones((5, 1, 4, 4), np.float32) * np.arange(5, dtype=np.float32)[:, None, None, None]
    assert found.model(x)[:, 0].tolist() == [16 * i for i in range(5)]
    assert sizes == [2, 2, 2]
    assert found.size == (4, 4)
