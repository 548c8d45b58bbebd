"""The structure of the package: imports go downward only, modules stay small, names are public on purpose."""

import ast
import dataclasses
import importlib.util
import inspect
import operator
import pathlib
import re

import pytest

import nbrnn
from nbrnn._kernel import CORE, CUDA_CORE, core_of

ROOT = pathlib.Path(nbrnn.__file__).parent

#: From the ground up; a module imports only from lines above its own, or from its own line's folder.
FLOORS = [
    ["_version", "_memory", "_check", "_kernel", "_progress"],
    ["_params"],
    ["_cells"],
    ["_nets"],
    ["_cpu", "_cuda"],
    ["_engine", "_loops"],
    ["_place"],
    ["_axes", "module", "initial"],
    ["_passes"],
    ["_small"],
    ["jit", "stateless", "_recurrent_device"],
    ["_inside", "stream", "pointwise"],
    ["embedding", "normalise", "pool"],
    ["recurrent"],
    ["layers"],
    ["cells", "networks", "losses", "optim"],
    ["_parts"],
    ["_bridge", "attention"],
    ["_search"],
    ["seq2seq"],
    ["generation", "decoding"],
    ["io"],
    ["training"],
    ["diagnostics"],
    ["estimators"],
    ["demo", "bench"],
    ["gpu_check"],
    ["cli"],
    ["__init__", "__main__"],
]
FLOOR = {name: q for q, names in enumerate(FLOORS) for name in names}

#: Inside folders, likewise.
INSIDE = {
    "_cells": ["ops", "base", "trace", "rnn", "gru", "lstm", "__init__"],
    "_cpu": [
        "__init__", "isa", "exponential", "emit", "subnormal", "cost", "team", "workers", "rows", "ends", "tiles", "moves", "panels",
        "digits", "squares", "whole", "packing", "whole_weights", "whole_step",
        "steps", "schedule", "activation", "dropout", "inputs", "dx", "slabs",
        "forward", "backward", "gradients", "single", "form", "dense",
        "loops", "chosen", "pieces", "unit", "linear",
    ],
    "_cuda": [
        "__init__", "emit", "plan", "spread", "schedule", "primitives", "meeting", "product", "forward", "backward",
        "cooperative", "stepwise", "philox", "gather", "offsets", "kernels", "machine", "dlpack", "array", "compile",
        "driver", "memory", "blas", "device", "current", "exchange", "dropout", "placed", "products", "families", "direction", "packing",
        "nets", "thread", "batch", "chain", "stack",
        "sums", "pointwise", "distance", "softmax", "normalise", "table", "pooling", "rows", "single", "parts", "losses",
    ],
    "_loops": ["__init__", "beam", "ctc", "elementwise", "largest", "layer_norm", "scatter", "softmax", "update"],
    "_engine": ["__init__", "rooms", "batch", "chain", "alone", "stack"],
    "io": ["container", "network", "torch", "__init__"],
    "estimators": ["scale", "inputs", "base", "sequences", "classifier", "regressor", "series", "forecaster", "__init__"],
    "optim": ["base", "sgd", "rmsprop", "adam", "clip", "schedule_base", "schedules", "__init__"],
    "diagnostics": ["probe", "flow", "spectrum", "gates", "differences", "pictures", "__init__"],
    "losses": ["inputs", "regression", "classification", "connectionist", "__init__"],
    "training": ["history", "parts", "data", "devices", "evaluate", "checkpoints", "run", "fitting", "__init__"],
    "bench": [
        "__init__", "grid", "timing", "problem", "torch_peer", "onnx_model", "onnx_peers", "jax_peer", "keras_peer",
        "peers", "machine", "compare", "again", "steps", "report", "command",
    ],
    "gpu_check": ["__init__", "found", "agreement", "times", "command"],
}  # fmt: skip


def walk(node):
    """All nodes but those for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from walk(child)


def imports_of(path):
    """(names inside nbrnn that a file imports, as paths from the package; names outside)."""
    here = path.relative_to(ROOT).with_suffix("").parts
    inside, outside = set(), set()
    for node in walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            outside |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                outside.add(node.module.split(".")[0])
                continue
            base = here[: len(here) - node.level]
            target = (*base, *(node.module.split(".") if node.module else ()))
            for alias in node.names:
                deeper = ROOT.joinpath(*target, alias.name)
                inside.add((*target, alias.name) if deeper.with_suffix(".py").exists() or deeper.is_dir() else target)
    return inside, outside


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downward(path):
    here = path.relative_to(ROOT).with_suffix("").parts
    inside, outside = imports_of(path)
    assert "nbrnn" not in outside, "import relatively"
    for target in inside:
        if not target:
            target = ("__init__",)
        if len(here) > 1 and target[0] == here[0]:
            order = INSIDE[here[0]]
            to = target[1] if len(target) > 1 else "__init__"
            assert order.index(to) < order.index(here[1]), f"{'/'.join(here)} imports {'/'.join(target)}"
        else:
            assert FLOOR[target[0]] < FLOOR[here[0]], f"{'/'.join(here)} imports {'/'.join(target)}"


def has_kernels(path):
    """Whether a file has something that is compiled and kept."""
    names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
    return not names.isdisjoint({"kernel", "primitive", "intrinsic", "overload"})


@pytest.mark.parametrize(
    "path", [p for p in FILES if has_kernels(p) and "_cuda" not in p.parts], ids=lambda p: str(p.relative_to(ROOT))
)
def test_what_is_compiled_is_made_of_the_core_and_its_own_file(path):
    """The key of the cache of compiled code sees no more than that."""
    for target in imports_of(path)[0]:
        assert ROOT.joinpath(*target).with_suffix(".py") in core_of(ROOT) or target[0] in CORE, target


@pytest.mark.parametrize("core", [CORE, CUDA_CORE], ids=["cpu", "cuda"])
def test_a_core_imports_nothing_else(core):
    # What isn't compiled but used may be imported: by GPU code, the checks of arguments.
    allowed = {*core, "_kernel.py", "_check.py", "_memory.py", "_nets.py"}
    for path in core_of(ROOT, core):
        for target in imports_of(path)[0]:
            assert target[0] in allowed or f"{target[0]}.py" in allowed, f"{path} imports {target}"


#: Of the module typing, since Python 3.11: for type checkers only.
NEW_IN_TYPING = {"Self", "LiteralString", "Never", "NotRequired", "Required", "TypeVarTuple", "Unpack", "assert_never",
                 "assert_type", "dataclass_transform", "override", "reveal_type"}  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_3_10_can_import_it(path):
    """As far as names of typing go, which linters don't look at."""
    for node in walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "typing":
            assert NEW_IN_TYPING.isdisjoint(alias.name for alias in node.names), ast.unparse(node)


def test_every_module_has_its_floor():
    for path in FILES:
        name, *rest = path.relative_to(ROOT).with_suffix("").parts
        assert name in FLOOR, name
        if rest:
            assert rest[0] in INSIDE[name], rest


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_are_small_and_say_what_they_are_for(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 430
    assert not text or ast.get_docstring(ast.parse(text))


def test_optional_packages_are_imported_where_they_are_used():
    """import nbrnn needs numba and numpy alone; scipy, matplotlib, tqdm come when they are asked for.

    Estimators are of scikit-learn's classes: their modules import it, and nothing imports them (tests/test_estimators.py).
    """
    for path in FILES:
        named = {"sklearn"} if path.parent.name != "estimators" else set()
        top = {
            alias.name.split(".")[0]
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and node.level == 0)
            for alias in (node.names if isinstance(node, ast.Import) else [ast.alias(node.module or "")])
        }
        assert top.isdisjoint(
            named
            | {"scipy", "matplotlib", "tqdm", "safetensors", "torch", "onnx", "onnxruntime", "openvino", "jax", "keras"}
        ), path


def test_public_names_are_documented():
    for name in nbrnn.__all__:
        thing = getattr(nbrnn, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), name
    parts = (nbrnn.Embedding, nbrnn.LayerNorm, nbrnn.Linear, nbrnn.Dropout, nbrnn.Pool)
    for cls in (nbrnn.RNN, nbrnn.GRU, nbrnn.LSTM, nbrnn.Sequential, *parts):
        for name, method in inspect.getmembers(cls, callable):
            if not name.startswith("_") or name == "__call__":
                assert inspect.getdoc(method), f"{cls.__name__}.{name}"


OPTIM = [
    *(f"optim.{name}" for name in ("SGD", "RMSprop", "Adam", "AdamW", "clip_grad_value")),
    *(f"optim.schedules.{name}" for name in ("Step", "Cosine", "WarmUp", "OneCycle", "Plateau")),
]
LOSSES = [f"losses.{name}" for name in nbrnn.losses.__all__]
ESTIMATORS = [
    f"estimators.{name}"
    for name in ("SequenceClassifier", "SequenceRegressor", "Forecaster")
    if importlib.util.find_spec("sklearn")
]
DIAGNOSTICS = [f"diagnostics.{name}" for name in nbrnn.diagnostics.__all__]
DECODERS = [f"decoding.{name}" for name in nbrnn.decoding.__all__]


def public():
    """(name, function, its documentation) of all that users call."""
    modules = [*LOSSES, *DECODERS, *DIAGNOSTICS, *OPTIM, *ESTIMATORS, "stream.Stream", "training.evaluate"]
    for name in [*nbrnn.__all__, *modules]:
        thing = operator.attrgetter(name)(nbrnn)
        if inspect.isfunction(thing):
            yield name, thing, inspect.getdoc(thing)
        elif inspect.isclass(thing) and not dataclasses.is_dataclass(thing):
            yield name, thing.__init__, inspect.getdoc(thing)
            for method, function in inspect.getmembers(thing, inspect.isfunction):
                own = function.__module__.startswith("nbrnn")
                if own and (not method.startswith("_") or method == "__call__"):
                    yield f"{name}.{method}", function, inspect.getdoc(function)


@pytest.mark.parametrize("name, function, text", [pytest.param(*p, id=p[0]) for p in public()])
def test_docstrings_have_the_parameters_of_their_signatures(name, function, text):
    section = re.search(r"Parameters\n-+\n(.*?)(?:\n\n|$)", text, re.DOTALL)
    heads = [line for line in (section[1] if section else "").splitlines() if not line.startswith(" ")]
    documented = [n.strip(" *") for head in heads for n in head.split(" : ")[0].split(",")]
    wanted = [n for n in inspect.signature(function).parameters if n != "self"]
    assert documented == wanted, name


def test_signatures_are_the_public_face():
    """Names, order and defaults of the arguments, as users know them from torch.nn."""
    recurrent = "num_layers=1, bias=True, batch_first=False, dropout=0.0, bidirectional=False"
    more = "*, dtype=float32, rng=None)"
    of_layers = "*, dtype=float32, rng=None, recurrent_dropout=0.0, kernel_init=None, recurrent_init=None"
    wanted = {
        nbrnn.RNN: f"(input_size, hidden_size, num_layers=1, nonlinearity='tanh', {recurrent[14:]}, {of_layers})",
        nbrnn.GRU: f"(input_size, hidden_size, {recurrent}, {of_layers})",
        nbrnn.LSTM: f"(input_size, hidden_size, {recurrent}, proj_size=0, {of_layers}, forget_bias=None)",
        nbrnn.GRU.__call__: "(self, x, state=None, lengths=None, resets=None, out=None, *, stream=None)",
        nbrnn.GRU.forward: "(self, x, state=None, lengths=None, resets=None, rng=None, checkpoint=None, *, stream=None)",
        nbrnn.GRU.backward: "(self, tape, dy=None, dstate=None, retain=False, *, stream=None)",
        nbrnn.GRU.stream: "(self, batch_size=None)",
        nbrnn.RNNCell: f"(input_size, hidden_size, bias=True, nonlinearity='tanh', {more}",
        nbrnn.GRUCell: f"(input_size, hidden_size, bias=True, {more}",
        nbrnn.LSTMCell: f"(input_size, hidden_size, bias=True, {more}",
        nbrnn.LSTMCell.__call__: "(self, x, state=None)",
        nbrnn.stream.Stream.__call__: "(self, x, out=None)",
        nbrnn.stream.Stream.reset: "(self, mask=None)",
        nbrnn.Dropout: "(p=0.5, *, rng=None)",
        nbrnn.Embedding: "(num_embeddings, embedding_dim, *, padding_idx=None, dtype=float32, rng=None)",
        nbrnn.LayerNorm: "(dim, eps=1e-05, elementwise_affine=True, *, dtype=float32)",
        nbrnn.Pool: "(mode)",
        nbrnn.Linear.__call__: "(self, x, state=None, lengths=None, *, stream=None)",
        nbrnn.Sequential: "(*parts)",
        nbrnn.diagnostics.gradient_flow: "(net, x, target=None, loss=None, *, dy=None, lengths=None, state=None)",
        nbrnn.diagnostics.jacobian_spectrum: "(layer, x, state=None, *, of='h', steps=None)",
        nbrnn.diagnostics.plot: "(result, ax=None, **options)",
        nbrnn.Sequential.backward: "(self, tape, dy=None, dstate=None, retain=False, *, stream=None)",
        nbrnn.clip_grad_norm: "(grads, max_norm)",
        nbrnn.generate: "(net, prompt, n, temperature=1.0, top_k=None, rng=None)",
        nbrnn.Seq2Seq: "(encoder, decoder, attention=None, *, start, end, rng=None)",
        nbrnn.Seq2Seq.forward: "(self, x, state=None, lengths=None, *, rng=None)",
        nbrnn.Seq2Seq.attention_weights: "(self, x, lengths=None)",
        nbrnn.Seq2Seq.greedy: "(self, source, lengths=None, max_length=100)",
        nbrnn.Seq2Seq.beam: "(self, source, lengths=None, max_length=100, beam=5, length_penalty=0.0)",
        nbrnn.Linear: f"(in_features, out_features, bias=True, activation=None, {more}",
        nbrnn.save: "(net, path)",
        nbrnn.load: "(path, *, classes=None)",
        nbrnn.from_torch: ("(module_or_state_dict, *, prefix=None, nonlinearity=None, batch_first=None, dropout=None)"),
        nbrnn.losses.mse: "(y, target, lengths=None, *, batch_first=False)",
        nbrnn.optim.SGD: "(net, lr=0.001, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False)",
        nbrnn.optim.RMSprop: ("(net, lr=0.01, alpha=0.99, eps=1e-08, weight_decay=0.0, momentum=0.0, centered=False)"),
        nbrnn.fit: "(net, data, loss, optimizer, epochs, *, batch_size=32, bptt=None, clip_norm=inf, clip_value=inf, "
        "schedule=None, validation=None, metric=None, patience=None, min_delta=0.0, restore_best=None, shuffle=True, "
        "progress=True, rng=None, callback=None, checkpoint_dir=None, checkpoint_every=None)",
        nbrnn.training.evaluate: "(net, data, loss, *, metric=None, batch_size=32)",
        nbrnn.optim.Adam: "(net, lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0, amsgrad=False)",
        nbrnn.optim.AdamW: "(net, lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01, amsgrad=False)",
        nbrnn.optim.clip_grad_value: "(grads, max_value)",
        nbrnn.optim.schedules.Step: "(opt, every, gamma=0.1)",
        nbrnn.optim.schedules.Cosine: "(opt, total, lr_min=0.0)",
        nbrnn.optim.schedules.WarmUp: "(opt, steps, then=None)",
        nbrnn.optim.schedules.OneCycle: (
            "(opt, lr_max, total, pct_start=0.3, div_factor=25.0, final_div_factor=10000.0)"
        ),
        nbrnn.optim.schedules.Plateau: ("(opt, factor=0.1, patience=10, threshold=0.0001, cooldown=0, lr_min=0.0)"),
        nbrnn.losses.mae: "(y, target, lengths=None, *, batch_first=False)",
        nbrnn.losses.huber: "(y, target, lengths=None, *, delta=1.0, batch_first=False)",
        nbrnn.losses.cross_entropy: "(y, target, lengths=None, *, ignore_index=-100, weight=None, label_smoothing=0.0, "
        "batch_first=False)",
        nbrnn.losses.bce_with_logits: "(y, target, lengths=None, *, weight=None, pos_weight=None, batch_first=False)",
        nbrnn.losses.ctc: "(y, targets, lengths=None, target_lengths=None, *, blank=0, zero_infinity=False, "
        "batch_first=False)",
        nbrnn.decoding.ctc_greedy: "(y, lengths=None, *, blank=0, batch_first=False)",
        nbrnn.decoding.ctc_beam: "(y, lengths=None, *, beam=16, blank=0, batch_first=False)",
    }
    for thing, text in wanted.items():
        signature = inspect.signature(thing)
        bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
        shown = str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
        assert shown.replace("<class 'numpy.float32'>", "float32") == text
